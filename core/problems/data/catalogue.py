"""Which data sets there are, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.problems.data import digits, files, originals
from core.problems.data.dataset import DataError, Dataset
from core.settings import Settings

_HASH = "sha256:"


@dataclass(frozen=True)
class Description:
    """What a page says about a data set.

    Attributes:
        name: As in ``load``.
        about: One line.
        shape: Of one sample; None where it is not known without reading them.
        classes: Number of classes; None likewise.
        files: Where its files and folders are looked for; empty where it needs none.
        missing: Those that are not there.
        how: How to get them, a sentence; empty where nothing is missing.
    """

    name: str
    about: str
    shape: tuple[int, ...] | None
    classes: int | None
    files: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()
    how: str = ""


def names() -> tuple[str, ...]:
    """The data sets by name, whether or not their files are there."""
    return (digits.NAME, *originals.ORIGINALS)


def load(name: str, split: str, *, env: Settings | None = None) -> Dataset:
    """A whole data set, whose samples may be decoded later.

    Args:
        name: One of ``names()``, the path of a ``.npz`` or ``.safetensors`` file with ``x`` (N, …) float and
            ``y`` (N,) integer, or ``sha256:<digest>`` of such a file in the artefact store.
        split: ``train`` or ``test``; a file has no splits and is used whole for both.
        env: Where data directory and artefact store are; from ``SEIGH_*`` when not given.

    Raises:
        DataError: If there is no such data, or it is not usable.
    """
    env = env or Settings()
    if name == digits.NAME:
        return digits.load(split)
    if name in originals.ORIGINALS:
        return originals.load(name, split, env.data_folder)
    if name.startswith(_HASH):
        return files.read(files.stored(name.removeprefix(_HASH), env.artifact_folder))
    path = Path(name)
    if path.suffix.lower() not in files.SUFFIXES:
        raise _unknown(name)
    return files.read(path)


def describe(name: str, *, env: Settings | None = None) -> Description:
    """What there is to say about one of ``names()`` before it is loaded.

    Raises:
        DataError: If there is no data set of this name.
    """
    env = env or Settings()
    if name == digits.NAME:
        return Description(
            name, "Handwritten digits that come along, 16×16; 1,257 for training, 540 for test.",
            digits.SHAPE, digits.CLASSES,
        )  # fmt: skip
    if name not in originals.ORIGINALS:
        raise _unknown(name)
    original, folder = originals.ORIGINALS[name], env.data_folder
    paths = tuple(original.paths(folder))
    missing = tuple(path for path in paths if not path.exists())
    return Description(
        name,
        original.about,
        original.shape,
        original.classes,
        paths,
        missing,
        f"Set {originals.VARIABLE} to the folder that has them, or {original.how(folder)}."
        if missing
        else "",
    )


def is_file(name: str) -> bool:
    """Whether this is the path of a data file, not a data set or what is in the artefact store already."""
    return name not in names() and not name.startswith(_HASH) and Path(name).is_file()


def _unknown(name: str) -> DataError:
    return DataError(
        f"There is no data set '{name}'; choose {', '.join(names())}, or a .npz or .safetensors file "
        "with x and y."
    )
