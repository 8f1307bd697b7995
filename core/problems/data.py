"""Data sets as tensors: those by name, a user's own files, and class-balanced subsets of both."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

DATASETS = ("digits",)
FILE_SUFFIXES = (".npz", ".safetensors")

# A compressed file may unpack to a thousand times its size; N = 5,000 ImageNet samples in float32 are 3 GiB.
_LARGEST_ARRAY = 4 * 2**30  # bytes

_DIGITS_TEST_SAMPLES = 540  # of 1,797; leaves at least 50 of each class for the paper's N = 500


class DataError(ValueError):
    """Data that cannot be used; the message is one sentence for the person who chose it."""


@dataclass(frozen=True)
class Dataset:
    """Labelled samples in memory.

    Attributes:
        name: The data set's name, or the name of the file.
        x: Samples, (N, …) float32.
        y: Class labels, (N,) int64, each ≥ 0.
    """

    name: str
    x: Tensor
    y: Tensor


def load(data: str, split: str, *, artifact_folder: Path | None = None) -> Dataset:
    """A whole data set.

    Args:
        data: A name out of ``DATASETS``, the path of a ``.npz`` or ``.safetensors`` file with ``x`` (N, …)
            float and ``y`` (N,) integer, or ``sha256:<digest>`` of such a file in the artefact store.
        split: ``train`` or ``test``; a file has no splits and is used whole for both.
        artifact_folder: The artefact store's folder, needed for ``sha256:``.

    Raises:
        DataError: If there is no such data, or it is not usable.
    """
    if data == "digits":
        return _digits(split)
    if data.startswith("sha256:"):
        return _read_file(_stored_file(data, artifact_folder))
    path = Path(data)
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise DataError(
            f"There is no data set '{data}'; choose {' or '.join(DATASETS)}, or a .npz or .safetensors file "
            "with x and y."
        )
    return _read_file(path)


def _digits(split: str) -> Dataset:
    """The handwritten digits that scikit-learn ships, 8×8 enlarged to 16×16: x (N, 1, 16, 16) in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_DIGITS_TEST_SAMPLES, stratify=labels, random_state=0
    )
    chosen = np.sort(train if split == "train" else test)
    small = torch.tensor(images[chosen], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    x = nn.functional.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    return Dataset("digits", x, torch.tensor(labels[chosen], dtype=torch.int64))


def _stored_file(data: str, artifact_folder: Path | None) -> Path:
    digest = data.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DataError(f"'{data}' is no data file: 'sha256:' is followed by 64 hexadecimal digits.")
    for suffix in FILE_SUFFIXES:
        if artifact_folder and (path := artifact_folder / "data" / f"{digest}{suffix}").is_file():
            return path
    raise DataError(f"The data file {data[:19]}… is not in the artefact store; upload it again.")


def _read_file(path: Path) -> Dataset:
    if not path.is_file():
        raise DataError(f"There is no data file '{path}'.")
    if path.stat().st_size == 0:
        raise DataError(f"The data file '{path.name}' is empty.")
    arrays = _read_npz(path) if path.suffix.lower() == ".npz" else _read_safetensors(path)
    return _checked(path.name, **arrays)


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        missing = [key for key in ("x", "y") if f"{key}.npy" not in sizes]
        if missing:
            raise _missing(path, missing, [name.removesuffix(".npy") for name in sizes])
        if any(sizes[f"{key}.npy"] > _LARGEST_ARRAY for key in ("x", "y")):
            raise DataError(
                f"The arrays in '{path.name}' unpack to more than {_LARGEST_ARRAY // 2**30} GiB; "
                "keep only the samples that the analysis needs."
            )
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in ("x", "y")}
    except DataError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"'{path.name}' holds Python objects, which are not loaded because they could run code; "
                "save x and y as plain arrays of numbers."
            ) from error
        raise _damaged(path) from error
    except Exception as error:  # the parsers meet arbitrary bytes here, and fail in every way there is
        raise _damaged(path) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            missing = [key for key in ("x", "y") if key not in keys]
            if missing:
                raise _missing(path, missing, keys)
            return {key: file.get_tensor(key) for key in ("x", "y")}
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path) from error


def _missing(path: Path, missing: list[str], found: list[str]) -> DataError:
    shown = ", ".join(name[:40] for name in found[:5]) or "nothing"
    return DataError(
        f"'{path.name}' has no {' and no '.join(missing)} (it holds {shown}); "
        "save the samples as x and their labels as y."
    )


def _damaged(path: Path) -> DataError:
    return DataError(f"The data file '{path.name}' is damaged or incomplete; save or upload it again.")


def _checked(name: str, x: Any, y: Any) -> Dataset:
    """Samples and labels as tensors, refused unless they are what they should be."""
    try:
        x, y = torch.as_tensor(x), torch.as_tensor(y)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"'{name}' holds text, records or unusual numbers; save x as float32 and y as int64."
        ) from error
    if not x.is_floating_point():
        raise DataError(
            f"x in '{name}' is {_kind(x)}; save it as floating-point numbers, scaled as in training."
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(f"y in '{name}' is {_kind(y)}; save the labels as integers.")
    if x.ndim < 2 or y.ndim != 1:
        raise DataError(
            f"x in '{name}' has shape {tuple(x.shape)} and y {tuple(y.shape)}; expected are (N, …) and (N,)."
        )
    if len(x) != len(y):
        raise DataError(
            f"'{name}' has {len(x):,} samples in x and {len(y):,} labels in y; save as many of each."
        )
    if x.numel() == 0:
        raise DataError(f"'{name}' holds no samples.")
    x, y = x.to(torch.float32).contiguous(), y.to(torch.int64)
    if not bool(torch.isfinite(x).all()):
        raise DataError(f"x in '{name}' holds NaN or infinite values; remove those samples.")
    if int(y.min()) < 0:
        raise DataError(f"y in '{name}' holds the label {int(y.min())}; labels count from 0.")
    return Dataset(name, x, y)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def balanced_subset(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """The class-balanced subset that a seed stands for, in the data set's order.

    The numbers of samples of any two classes differ by at most one. Torch's global generator is left alone.

    Args:
        dataset: N samples or more.
        samples: Size of the subset.
        seed: The same seed draws the same samples.

    Raises:
        DataError: If a class has too few samples, with the largest size that works.
    """
    classes, counts = torch.unique(dataset.y, return_counts=True)
    each, extra = divmod(samples, len(classes))
    # Every class gives `each` samples, and `extra` of those that have more give another one.
    largest = int(counts.min()) * len(classes) + int((counts > counts.min()).sum())
    if samples > largest:
        raise DataError(
            f"{dataset.name} is too small for a class-balanced subset of {samples:,} samples; "
            f"choose at most {largest:,}."
        )
    generator = torch.Generator().manual_seed(seed)
    larger = torch.nonzero(counts > each).flatten()
    larger = larger[torch.randperm(len(larger), generator=generator)]
    wanted = torch.full_like(counts, each)
    wanted[larger[:extra]] += 1
    chosen = []
    for label, number in zip(classes, wanted.tolist(), strict=True):
        members = torch.nonzero(dataset.y == label).flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:number]])
    index = torch.cat(chosen).sort().values
    return Dataset(dataset.name, dataset.x[index], dataset.y[index])


def content_hash(dataset: Dataset) -> str:
    """Hex SHA-256 of the shapes and numbers of samples and labels: equal means the same data."""
    digest = hashlib.sha256()
    for tensor in (dataset.x, dataset.y):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def check_matches(dataset: Dataset, model: nn.Module) -> None:
    """Check that a classifier in eval mode takes these samples and has an output for every label.

    Raises:
        DataError: If it does not.
    """
    shape = "×".join(map(str, dataset.x.shape[1:]))
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            outputs = model(dataset.x[:1].to(device))
    except RuntimeError as error:
        raise DataError(
            f"The samples of {dataset.name} have shape {shape}, which this architecture does not take; "
            "choose data of the size it was trained on."
        ) from error
    largest = int(dataset.y.max())
    if largest >= outputs.shape[-1]:
        raise DataError(
            f"{dataset.name} has the label {largest}, but this architecture has {outputs.shape[-1]} outputs "
            f"(labels 0 to {outputs.shape[-1] - 1}); choose data with fewer classes."
        )


def fitting_subset(
    data: str, split: str, samples: int, seed: int, model: nn.Module, *, artifact_folder: Path | None = None
) -> Dataset:
    """The class-balanced subset of ``data`` that a seed stands for, checked against a model in eval mode.

    Raises:
        DataError: If there is no such data, the model does not take it, or a class has too few samples.
    """
    dataset = load(data, split, artifact_folder=artifact_folder)
    check_matches(dataset, model)
    return balanced_subset(dataset, samples, seed)
