"""Small data sets in the formats of MNIST, CIFAR and ImageNet, which torchvision's real loaders read."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets


def write_mnist(
    folder: Path, *, train: int = 200, test: int = 100, kind: str = "MNIST", seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """IDX files of MNIST (or ``FashionMNIST``) below a data directory; its images and labels by split."""
    generator = np.random.default_rng(seed)
    written = {}
    for split, prefix, number in (("train", "train", train), ("test", "t10k", test)):
        labels = np.arange(number) % 10
        images = _pictures(generator, labels, (28, 28))
        raw = folder / kind / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, number, 28, 28) + images.tobytes()
        )
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, number) + labels.astype(np.uint8).tobytes()
        )
        written[split] = (images, labels)
    return written


def write_cifar(
    folder: Path, classes: int = 10, *, train: int = 200, test: int = 100, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CIFAR-10's or CIFAR-100's pickled batches below a data directory; images (N, 3, 32, 32), labels.

    Their checksums are not the published ones: see ``trust_cifar``.
    """
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    base = folder / kind.base_folder
    base.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    written = {}
    for split, batches, number in (("train", kind.train_list, train), ("test", kind.test_list, test)):
        labels = np.arange(number) % classes
        images = _pictures(generator, labels, (3, 32, 32))
        parts = zip(np.array_split(images, len(batches)), np.array_split(labels, len(batches)), strict=True)
        for (name, _), (some, theirs) in zip(batches, parts, strict=True):
            entry = {"data": some.reshape(len(some), -1), "filenames": [f"{i}.png" for i in range(len(some))]}
            entry["labels" if classes == 10 else "fine_labels"] = theirs.tolist()
            (base / name).write_bytes(pickle.dumps(entry, protocol=2))
        written[split] = (images, labels)
    names = {kind.meta["key"]: [f"class {label}" for label in range(classes)]}
    (base / kind.meta["filename"]).write_bytes(pickle.dumps(names, protocol=2))
    return written


def cifar_checksums(folder: Path, classes: int = 10) -> dict[str, object]:
    """torchvision's tables of file names and MD5 sums, with the sums of the files that were written."""
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100

    def md5(name: str) -> str:
        return hashlib.md5((folder / kind.base_folder / name).read_bytes()).hexdigest()

    return {
        "train_list": [[name, md5(name)] for name, _ in kind.train_list],
        "test_list": [[name, md5(name)] for name, _ in kind.test_list],
        "meta": kind.meta | {"md5": md5(kind.meta["filename"])},
    }


def trust_cifar(monkeypatch: pytest.MonkeyPatch, folder: Path, classes: int = 10) -> None:
    """Let torchvision take the files that were written for the original ones, in this process.

    Only the table of checksums changes; that they are compared, and all the rest, is the real loader.
    """
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    for name, value in cifar_checksums(folder, classes).items():
        monkeypatch.setattr(kind, name, value)


def trust_cifar_in_children(
    monkeypatch: pytest.MonkeyPatch, scratch: Path, folder: Path, classes: Sequence[int] = (10,)
) -> None:
    """The same for the Python processes that are started from now on.

    Args:
        monkeypatch: Sets PYTHONPATH.
        scratch: A folder for the module that Python imports at its start.
        folder: The data directory that was written.
        classes: Which of CIFAR-10 and CIFAR-100 lie there.
    """
    lines = ["from torchvision import datasets"]
    for number in classes:
        kind = "CIFAR10" if number == 10 else "CIFAR100"
        lines += [
            f"datasets.{kind}.{name} = {value!r}" for name, value in cifar_checksums(folder, number).items()
        ]
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", str(scratch), prepend=":")


def write_imagenet(
    folder: Path,
    classes: Sequence[str] = ("apple", "orange", "pear", "quince"),
    *,
    train: int = 3,
    test: int = 2,
    size: tuple[int, int] = (300, 280),
    seed: int = 0,
) -> None:
    """JPEGs in a folder for each class below a data directory's ``imagenet/train`` and ``imagenet/val``.

    ``meta.bin`` lies beside them, as torchvision's ImageNet makes and wants it.
    """
    generator = np.random.default_rng(seed)
    for split, number in (("train", train), ("val", test)):
        for label, name in enumerate(classes):
            place = folder / "imagenet" / split / name
            place.mkdir(parents=True, exist_ok=True)
            small = _pictures(generator, np.full(number, label), (8, 8, 3))
            for count, pixels in enumerate(small):
                Image.fromarray(pixels).resize(size).save(place / f"{name}_{count}.JPEG", quality=90)
    meta: tuple[Mapping[str, tuple[str, ...]], list[str]] = ({name: (name,) for name in classes}, [])
    torch.save(meta, folder / "imagenet" / "meta.bin")


def _pictures(generator: np.random.Generator, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Noisy pictures of which each class has a pattern of its own, so that a network can learn them."""
    patterns = np.random.default_rng(1).integers(0, 256, (labels.max() + 1, *shape))
    noise = generator.integers(0, 256, (len(labels), *shape))
    return (0.7 * patterns[labels] + 0.3 * noise).astype(np.uint8)
