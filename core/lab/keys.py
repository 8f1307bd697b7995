"""Keys of the files in the artefact store: their paths there, with forward slashes."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

Kind = Literal["checkpoints", "data", "graphs", "masks"]


def content_key(kind: Kind, sha256: str, suffix: str) -> str:
    """The key of a file whose content has this hash; ``suffix`` (``.pt``) is its name's."""
    return f"{kind}/{sha256}{suffix.lower()}"


def checkpoint_key(sha256: str, filename: str) -> str:
    """The key of a checkpoint whose content has this hash and whose file has this name."""
    return content_key("checkpoints", sha256, PurePath(filename).suffix)


def data_key(sha256: str, filename: str) -> str:
    """The key of a data file whose content has this hash and which has this name."""
    return content_key("data", sha256, PurePath(filename).suffix)


def eigenvectors_key(analysis_id: int, token: str) -> str:
    """The key of the eigenvectors that the attempt ``token`` at an analysis finds.

    Every attempt has a file of its own: a late one must not replace the file of the one that finished.
    """
    return f"eigenvectors/{analysis_id}-{token}.safetensors"
