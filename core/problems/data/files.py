"""A user's own data: ``.npz`` or ``.safetensors`` files with samples ``x`` and targets ``y``, and tokens.

What lies in several files is packed into one archive first (``corpora``).

A child with limits reads them (``seigh.core.reading.arrays``, ``seigh.core.reading.tokens``); nothing in a
file is ever executed.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from seigh.core.checksum import sha256_of
from seigh.core.problems.data import corpora, tokens
from seigh.core.problems.data.dataset import LARGEST_ARRAY, DataError, Dataset
from seigh.core.reading import parent
from seigh.core.reading.parent import Refused

SUFFIXES = (".npz", ".safetensors", *tokens.SUFFIXES)

# Bytes of data files that are remembered, on the disk; the last one is, whatever its size.
_LARGEST_RECENT = 2 * 2**30


def stored(digest: str, artifact_folder: Path) -> Path:
    """The file with a SHA-256 in the artefact store.

    Raises:
        DataError: If it is not there, or damaged.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DataError(f"'sha256:{digest}' is no data file: 'sha256:' is followed by 64 hexadecimal digits.")
    for suffix in SUFFIXES:
        if (path := artifact_folder / "data" / f"{digest}{suffix}").is_file():
            if sha256_of(path) != digest:
                raise DataError(
                    f"The data file sha256:{digest[:12]}… is damaged in the artefact store; upload it again."
                )
            return path
    raise DataError(f"The data file sha256:{digest[:12]}… is not in the artefact store; upload it again.")


def read(path: Path, options: Mapping[str, Any] = MappingProxyType({})) -> Dataset:
    """The samples and targets of a file.

    Args:
        path: The file.
        options: How a stream of tokens is to be read, ``block`` and ``dtype``, and the ``tokenizer`` of text.

    Raises:
        DataError: If there is no such file, or it is not usable.
    """
    if not path.is_file() and not path.is_dir():
        raise DataError(f"There is no data file '{path}'.")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"The data file '{path.name}' is empty.")
    try:
        return _recent.read(path, options)
    except OSError as error:
        raise DataError(f"The data file '{path.name}' cannot be read: {error.strerror}.") from error
    except Refused as error:
        raise DataError(str(error)) from error


class _Recent:
    """The data files that were read last: a page asks for the same one at every edit of a field.

    Their numbers are maps of unnamed files, which take memory as far as they are looked at.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[object, ...], Dataset] = OrderedDict()

    def read(self, path: Path, options: Mapping[str, Any]) -> Dataset:
        """What the file holds, read again if it is another one or was written since.

        Raises:
            Refused, OSError: If it cannot be read.
        """
        parts = corpora.parts(path, options)
        key = (path.name, *options.items(), *(_identity(each) for each in parts or [path]))
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        if parts:
            with tempfile.TemporaryDirectory(prefix="seigh-data-") as folder:
                whole = corpora.pack(parts, Path(folder) / f"{path.stem}{corpora.SUFFIX}")
                tensors = _tensors(whole, path.name + corpora.SUFFIX, options)
        else:
            tensors = _tensors(path, path.name, options)
        dataset = Dataset(path.name, tensors["x"], tensors["y"])
        with self._lock:
            self._found[key] = dataset
            while len(self._found) > 1 and sum(map(_nbytes, self._found.values())) > _LARGEST_RECENT:
                self._found.popitem(last=False)
        return dataset

    def clear(self) -> None:
        with self._lock:
            self._found.clear()


def _identity(path: Path) -> tuple[object, ...]:
    """What changes when a file is another one, or has been written again."""
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _tensors(path: Path, name: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    kind: parent.Kind = "tokens" if tokens.is_meant(name) else "data"
    return parent.read(kind, path, name, largest=LARGEST_ARRAY, options=options).tensors


def _nbytes(dataset: Dataset) -> int:
    return dataset.x.nbytes + dataset.y.nbytes


_recent = _Recent()


def forget() -> None:
    """Read every file anew from here on."""
    _recent.clear()
