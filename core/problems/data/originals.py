"""The paper's data sets, and their like, from files in their original formats below the data directory.

torchvision's loaders read them, never downloading; they are imported where they are needed, as that takes
seconds. The transforms are those of the paper's code for the Hessian (github.com/andres-fr/hessian_overlap,
``obs_extensions/datasets.py``, which takes DeepOBS's without augmentation): pixels in [0, 1]; MNIST resized
to 16×16 as a PIL image; CIFAR and ImageNet normalised by channel; ImageNet resized to 256 and cropped at
its centre to 224.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from seigh.core.problems.data.dataset import DataError, Dataset

VARIABLE = "SEIGH_DATA_DIR"


def _both(files: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Files that torchvision wants to see whichever split it reads."""
    return {"train": files, "test": files}


_IDX_FILES = _both(
    (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
)

_IMAGENET_CLASSES = 1000
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Original:
    """A data set that others publish.

    Attributes:
        about: One line.
        shape: Shape of one sample.
        classes: Number of classes.
        folder: Where its files lie below the data directory.
        files: The files and folders in it, by split.
        get: How to get them, with ``{folder}`` for the data directory.
        open: torchvision's data set of a data directory and ``train`` or ``test``.
        threads: Whether samples are decoded from files of their own, which threads do faster.
    """

    about: str
    shape: tuple[int, ...]
    classes: int
    folder: str
    files: Mapping[str, tuple[str, ...]]
    get: str
    open: Callable[[Path, str], Any]
    threads: bool = False

    def paths(self, folder: Path, split: str | None = None) -> list[Path]:
        """Return the files below ``folder`` that a split needs; without a split, the files of all."""
        splits = self.files if split is None else (split,)
        names = dict.fromkeys(name for each in splits for name in self.files[each])
        return [folder / self.folder / name for name in names]

    def missing(self, folder: Path, split: str | None = None) -> list[Path]:
        """Return the needed files that are absent or that this user cannot read."""
        return [path for path in self.paths(folder, split) if not os.path.exists(path)]

    def how(self, folder: Path) -> str:
        """How to get the files, as the end of a sentence."""
        return self.get.format(folder=folder)


class _Decoded:
    """Samples of a torchvision data set, decoded and transformed when they are asked for."""

    def __init__(self, source: Any, shape: tuple[int, ...], threads: bool) -> None:
        self.shape = (len(source), *shape)
        self._source = source
        self._threads = threads

    def __getitem__(self, index: Tensor, /) -> Tensor:
        x = torch.empty((len(index), *self.shape[1:]))

        def decode(row: int, number: int) -> None:
            x[row] = self._sample(number)

        rows, numbers = range(len(index)), index.tolist()
        if self._threads:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(decode, rows, numbers))
        else:
            list(map(decode, rows, numbers))
        return x

    def _sample(self, number: int) -> Tensor:
        try:
            sample: Tensor = self._source[number][0]
        except (OSError, ValueError, SyntaxError, _bomb()) as error:  # what PIL raises
            raise DataError(
                f"The image '{self._source.samples[number][0]}' is damaged or gone; get it again."
            ) from error
        return sample


def _bomb() -> type[Exception]:
    from PIL import Image

    return Image.DecompressionBombError


def load(name: str, split: str, folder: Path) -> Dataset:
    """One of ``ORIGINALS``.

    Args:
        name: Its key.
        split: ``train`` or ``test``; the latter is ImageNet's ``val``.
        folder: The data directory.

    Raises:
        DataError: If its files are missing or damaged.
    """
    original = ORIGINALS[name]
    if missing := original.missing(folder, split):
        names = ", ".join(path.name for path in missing)
        raise DataError(
            f"The data set {name} is not there: '{folder / original.folder}' has no {names}; "
            f"set {VARIABLE} to the folder that {original.folder} is in, or {original.how(folder)}."
        )
    source = _opened(name, split, folder, _stamp(original.paths(folder, split)))
    y = torch.as_tensor(source.targets, dtype=torch.int64)
    return Dataset(
        name, _Decoded(source, original.shape, original.threads), y, class_names=tuple(source.classes)
    )


def _stamp(paths: list[Path]) -> tuple[int, ...]:
    """When files, or folders and those in them, have last changed; a folder changes with its files."""
    try:
        entries = [entry for path in paths if path.is_dir() for entry in sorted(path.iterdir())]
        return tuple(path.stat().st_mtime_ns for path in paths + entries)
    except OSError as error:
        raise DataError(
            f"'{error.filename}' cannot be read ({error.strerror}); allow it to the server."
        ) from error


# The pages ask again and again, and a listing of ImageNet's files takes a while; two are the splits of one.
# The stamp is only a part of the cache's key: files that have changed are opened anew.
@lru_cache(maxsize=2)
def _opened(name: str, split: str, folder: Path, _stamped: tuple[int, ...]) -> Any:
    original = ORIGINALS[name]
    try:
        return original.open(folder, split)
    except DataError:
        raise
    except Exception as error:  # the loaders meet damaged files here, and fail in every way there is
        raise DataError(
            f"The files of {name} in '{folder / original.folder}' are damaged or incomplete; remove them, "
            f"and {original.how(folder)}."
        ) from error


def _mnist(kind: str, size: int | None = None) -> Callable[[Path, str], Any]:
    """The loader of a data set in MNIST's format."""

    def open_split(folder: Path, split: str) -> Any:
        from torchvision import datasets, transforms

        # On PIL images, whose bilinear resizing is antialiased: resized tensors would differ.
        steps = [transforms.ToTensor()] if size is None else [transforms.Resize(size), transforms.ToTensor()]
        source = getattr(datasets, kind)(folder, train=split == "train", transform=transforms.Compose(steps))
        if len(source.data) != len(source.targets) or source.data.shape[1:] != (28, 28):
            raise ValueError("images and labels do not belong together")
        return source

    return open_split


def _cifar(kind: str, mean: Sequence[float], deviation: Sequence[float]) -> Callable[[Path, str], Any]:
    """The loader of CIFAR-10 or CIFAR-100.

    Their batches are Python pickles, which can run code. They are read from the server's data directory
    only, never from an upload, and torchvision compares their checksums with the originals' before.
    """

    def open_split(folder: Path, split: str) -> Any:
        from torchvision import datasets, transforms
        from torchvision.datasets.utils import check_integrity

        transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, deviation)])
        loader = getattr(datasets, kind)
        sums = dict((*loader.train_list, *loader.test_list))
        sums[loader.meta["filename"]] = loader.meta["md5"]
        try:
            return loader(folder, train=split == "train", transform=transform)
        except RuntimeError as error:
            base = folder / loader.base_folder
            altered = [name for name, md5 in sums.items() if not check_integrity(base / name, md5)]
            raise DataError(
                f"{', '.join(altered)} in '{base}' {'is' if len(altered) == 1 else 'are'} not the original "
                f"(another checksum); remove {'it' if len(altered) == 1 else 'them'}, and "
                f"{_downloaded(kind).format(folder=folder)}."
            ) from error

    return open_split


def _imagenet(folder: Path, split: str) -> Any:
    """ImageNet's images from a folder for each class.

    Labels count the classes in the order of their folders' names, as torchvision's ImageNet counts them.
    """
    from torchvision import datasets, transforms

    root = folder / "imagenet"
    halves = [root / half for half in ("train", "val") if (root / half).is_dir()]
    first, *others = ({entry.name for entry in half.iterdir() if entry.is_dir()} for half in halves)
    different = sorted(first.symmetric_difference(*others)) if others else []
    if different:
        raise DataError(
            f"The folders train and val in '{root}' have different classes ({', '.join(different[:3])}"
            f"{', …' if len(different) > 3 else ''}), so that their labels would differ; give both a folder "
            "for each class."
        )
    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    try:
        return datasets.ImageFolder(
            root / ("train" if split == "train" else "val"), transform=transforms.Compose(steps)
        )
    except FileNotFoundError as error:
        raise DataError(
            f"'{root}' has no folder, or an empty one, for a class of images; "
            f"{ORIGINALS['imagenet'].how(folder)}."
        ) from error


def partial_imagenet(dataset: Dataset) -> bool:
    """Whether these are some of ImageNet's classes only, so that a label is not that of the whole set."""
    named = dataset.class_names  # none where a file of a user's own does not say
    return 0 < len(named) < _IMAGENET_CLASSES and all(map(_WORDNET_ID.fullmatch, named))


def _downloaded(kind: str) -> str:
    return (
        f'get them by python -c "from torchvision.datasets import {kind}; '
        f"{kind}('{{folder}}', download=True)\""
    )


# Mean and deviation of CIFAR-100's channels, as DeepOBS has them.
CIFAR_100 = (0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)

_TABLE = {
    "mnist": Original(
        about="Handwritten digits, 28×28; 60,000 for training, 10,000 for test.",
        shape=(1, 28, 28),
        classes=10,
        folder="MNIST/raw",
        files=_IDX_FILES,
        get=_downloaded("MNIST"),
        open=_mnist("MNIST"),
    ),
    "mnist-16x16": Original(
        about="MNIST resized to 16×16, as the paper's MLP takes it.",
        shape=(1, 16, 16),
        classes=10,
        folder="MNIST/raw",
        files=_IDX_FILES,
        get=_downloaded("MNIST"),
        open=_mnist("MNIST", size=16),
    ),
    "fashion-mnist": Original(
        about="Pictures of clothes, 28×28; 60,000 for training, 10,000 for test.",
        shape=(1, 28, 28),
        classes=10,
        folder="FashionMNIST/raw",
        files=_IDX_FILES,
        get=_downloaded("FashionMNIST"),
        open=_mnist("FashionMNIST"),
    ),
    "cifar-10": Original(
        about="Colour pictures, 32×32, of 10 classes; 50,000 for training, 10,000 for test.",
        shape=(3, 32, 32),
        classes=10,
        folder="cifar-10-batches-py",
        files=_both((*(f"data_batch_{each}" for each in range(1, 6)), "test_batch", "batches.meta")),
        get=_downloaded("CIFAR10"),
        open=_cifar("CIFAR10", (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
    ),
    "cifar-100": Original(
        about="Colour pictures, 32×32, of 100 classes; 50,000 for training, 10,000 for test.",
        shape=(3, 32, 32),
        classes=100,
        folder="cifar-100-python",
        files=_both(("train", "test", "meta")),
        get=_downloaded("CIFAR100"),
        open=_cifar("CIFAR100", *CIFAR_100),
    ),
    "imagenet": Original(
        about="ImageNet's pictures at 224×224, of 1,000 classes; 1,281,167 for training, 50,000 for test.",
        shape=(3, 224, 224),
        classes=_IMAGENET_CLASSES,
        folder="imagenet",
        files={"train": ("train",), "test": ("val",)},
        get=(
            "get ILSVRC2012 from https://image-net.org/challenges/LSVRC/2012/2012-downloads.php and unpack "
            "it to a folder for each class in its train and val, as torchvision.datasets.ImageNet does"
        ),
        open=_imagenet,
        threads=True,
    ),
}
ORIGINALS = MappingProxyType(_TABLE)
