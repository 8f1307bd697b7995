"""The catalogue of data sets, with the source of each."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seigh.core.problems import plugins
from seigh.core.problems.data import digits, files, originals, synthetic, text, tokens
from seigh.core.problems.data.dataset import DataError, Dataset
from seigh.core.settings import Settings

_HASH = "sha256:"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Description:
    """The description of a data set for a page.

    Attributes:
        name: As in ``load``.
        about: One line.
        shape: Shape of one sample; None where it is not known without reading them.
        classes: Number of classes; None likewise.
        files: Where its files and folders are looked for; empty where it needs none.
        missing: The files that are absent.
        how: How to get them, a sentence; empty where nothing is missing.
        synthetic: Whether the samples are made up.
    """

    name: str
    about: str
    shape: tuple[int, ...] | None
    classes: int | None
    files: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()
    how: str = ""
    synthetic: bool = False


def names() -> tuple[str, ...]:
    """The data sets by name, whether or not their files are there; random data go by their spec."""
    return tuple(dict.fromkeys((digits.NAME, *originals.ORIGINALS, text.NAME, *plugins.registry().datasets)))


def canonical(name: str) -> str:
    """The one way to write what ``load`` takes.

    Raises:
        DataError: If it is random data, or has options of tokens, but is not understood.
    """
    return synthetic.canonical(name) if synthetic.is_meant(name) else tokens.joined(*tokens.split(name))


def load(name: str, split: str, *, env: Settings | None = None) -> Dataset:
    """A whole data set, whose samples may be decoded later.

    Args:
        name: One of ``names()``, ``random(CxHxW,classes=n)``, the path of a ``.npz`` or ``.safetensors``
            file with ``x`` (N, …) float and ``y`` (N, …) integer or float or of a file of tokens
            (``seigh.core.reading.tokens``), or ``sha256:<digest>`` of such a file in the artefact store;
            of a stream of tokens with ``(block=…,dtype=…)`` after it. An index of Megatron's, a text with a
            tokenizer and a folder of ``save_to_disk`` are several files (``corpora``).
        split: ``train`` or ``test``; a file has no splits and is used whole for both.
        env: Where data directory and artefact store are; from ``SEIGH_*`` when not given.

    Raises:
        DataError: If there is no such data, or it is not usable.
    """
    env = env or Settings()
    if name == digits.NAME:
        return digits.load(split)
    if name == text.NAME:
        return text.load(split)
    if name in originals.ORIGINALS:
        return originals.load(name, split, env.data_folder)
    if name in plugins.registry().datasets:
        return _plugged(name, split)
    if synthetic.is_meant(name):
        return synthetic.load(name, split)
    base, options = tokens.split(name)
    if base.startswith(_HASH):
        return files.read(files.stored(base.removeprefix(_HASH), env.artifact_folder), options)
    path = Path(base)
    if path.suffix.lower() not in (*files.SUFFIXES, *tokens.HALVES) and not (base and path.is_dir()):
        raise _unknown(name)
    return files.read(path, options)


def _plugged(name: str, split: str) -> Dataset:
    """A plug-in's data set: its ``load(split)`` gives a ``Dataset``, which is checked as far as is cheap."""
    try:
        dataset = plugins.registry().datasets[name](split)
    except DataError:
        raise
    except Exception as error:  # another package's code may fail in every way there is
        _log.exception("the data set %s of a plug-in fails", name)
        raise DataError(f"The data set {name} of a plug-in fails ({error!r}); ask who wrote it.") from error
    if not isinstance(dataset, Dataset):
        raise DataError(f"The plug-in of {name} gives no core.problems.data.Dataset; ask who wrote it.")
    y = dataset.y
    if y.dtype not in (torch.int64, torch.float32) or not y.ndim or not y.numel():
        raise DataError(f"The targets of {name} are not int64 or float32; ask who wrote it.")
    if len(y) != dataset.samples.shape[0] or not bool(y.isfinite().all()):
        raise DataError(
            f"The targets of {name} are not N finite numbers, one for each sample; ask who wrote it."
        )
    first = dataset.take(torch.zeros(1, dtype=torch.int64))
    if (first.is_floating_point() and first.dtype != torch.float32) or first.is_complex():
        raise DataError(f"The samples of {name} are not float32 (or integers); ask who wrote it.")
    if first.shape != (1, *dataset.shape):
        raise DataError(f"The samples of {name} are not of the shape they say; ask who wrote it.")
    return replace(dataset, name=name)


def describe(name: str, *, env: Settings | None = None) -> Description:
    """Describe one of ``names()``, or random data, without loading it.

    Raises:
        DataError: If there is no data set of this name.
    """
    env = env or Settings()
    if name == digits.NAME:
        return Description(
            name, "Handwritten digits that come along, 16×16; 1,257 for training, 540 for test.",
            digits.SHAPE, digits.CLASSES,
        )  # fmt: skip
    if name == text.NAME:
        about = "The texts of Python's help() as characters, in blocks of 64; a tenth is for test."
        return Description(name, about, (text.BLOCK,), None)
    if synthetic.is_meant(name):
        about = f"Random numbers, for trials; {synthetic.SAMPLES:,} for training, as many for test."
        return Description(synthetic.canonical(name), about, *synthetic.facts(name), synthetic=True)
    if name in plugins.registry().datasets:
        return Description(name, "From an installed plug-in.", None, None)
    if name not in originals.ORIGINALS:
        raise _unknown(name)
    original, folder = originals.ORIGINALS[name], env.data_folder
    missing = tuple(original.missing(folder))
    return Description(
        name,
        original.about,
        original.shape,
        original.classes,
        tuple(original.paths(folder)),
        missing,
        f"Set {originals.VARIABLE} to the folder that has them, or {original.how(folder)}."
        if missing
        else "",
    )


def is_file(name: str) -> bool:
    """Whether this is the path of a data file, not a data set or what is in the artefact store already."""
    base, _ = tokens.split(name)
    return base not in names() and not base.startswith(_HASH) and Path(base).is_file()


def has_splits(name: str) -> bool:
    """Whether there is a training and a test split of it: a file, by path or hash, is whole.

    >>> has_splits("digits"), has_splits("mine.npz"), has_splits("val.bin(block=8,dtype=uint16)")
    (True, False, False)
    """
    base, _ = tokens.split(name)
    own = Path(base).suffix.lower() in (*files.SUFFIXES, *tokens.HALVES) or Path(base).is_dir()
    return base in names() or not (base.startswith(_HASH) or own)


def _unknown(name: str) -> DataError:
    return DataError(
        f"There is no data set '{name}'; choose {', '.join(names())}, {synthetic.EXAMPLE}, a .npz or "
        f".safetensors file with x and y, or tokens ({', '.join((*tokens.SUFFIXES, *tokens.HALVES))})."
    )
