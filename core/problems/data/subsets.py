"""Class-balanced subsets, on which Hessians are taken."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.problems.data.catalogue import load
from core.problems.data.dataset import DataError, Dataset
from core.problems.data.originals import partial_imagenet
from core.settings import Settings


@dataclass(frozen=True)
class Subset:
    """Some of a data set's samples, in memory.

    Attributes:
        name: Of the data set.
        x: Samples, (n, …) float32.
        y: Class labels, (n,) int64.
        index: Which of the data set's samples they are, (n,) int64, ascending.
        synthetic: Whether the samples are made up.
    """

    name: str
    x: Tensor
    y: Tensor
    index: Tensor
    synthetic: bool


def balanced_index(dataset: Dataset, samples: int, seed: int) -> Tensor:
    """The class-balanced subset that a seed stands for: (samples,) int64, ascending.

    The numbers of samples of any two classes differ by at most one. (The paper's code takes the first ones
    of each class instead.) Torch's global generator is left alone.

    Args:
        dataset: N samples or more; none of them is decoded.
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
    return torch.cat(chosen).sort().values


def content_hash(subset: Subset) -> str:
    """Hex SHA-256 of the shapes and numbers of samples and labels: equal means the same data."""
    digest = hashlib.sha256()
    for tensor in (subset.x, subset.y):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def check_matches(dataset: Dataset, model: nn.Module) -> None:
    """Check that a classifier in eval mode takes these samples and has an output for every label.

    Raises:
        DataError: If it does not.
    """
    sample = dataset.take(torch.zeros(1, dtype=torch.int64))
    outputs = _outputs(model, sample)
    if outputs is None:
        raise DataError(
            f"The samples of {dataset.name} have shape {_shape(dataset.shape)}, which this architecture does "
            f"not take; {_reshaped(model, sample) or 'choose data of the size it was trained on'}."
        )
    largest = int(dataset.y.max())
    if largest >= outputs:
        from_one = largest == outputs and int(dataset.y.min()) > 0
        remedy = (
            "its labels seem to count from 1: save y - 1" if from_one else "choose data with fewer classes"
        )
        raise DataError(
            f"{dataset.name} has the label {largest}, but this architecture has {outputs} outputs "
            f"(labels 0 to {outputs - 1}); {remedy}."
        )
    if outputs > largest + 1 and partial_imagenet(dataset):
        raise DataError(
            f"The folder has {len(dataset.class_names):,} of ImageNet's classes, numbered from 0, which are "
            f"not the labels of a model with {outputs:,} outputs; give a folder for each of the 1,000 "
            "classes, or a model of these."
        )


def _outputs(model: nn.Module, x: Tensor) -> int | None:
    """The number of outputs for each sample; None if the model does not take them."""
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            return int(model(x.to(device)).shape[-1])
    except Exception:  # layers refuse shapes by every kind of exception
        return None


def _reshaped(model: nn.Module, x: Tensor) -> str | None:
    """What to do with samples that a model takes in another shape."""
    if x.ndim == 4 and _outputs(model, x.movedim(-1, 1)) is not None:
        return (
            f"they seem to have their channels last: save them as {_shape(x.movedim(-1, 1).shape[1:])}, "
            "x.transpose(0, 3, 1, 2)"
        )
    if x.ndim == 3 and _outputs(model, x[:, None]) is not None:
        return f"they seem to lack the axis of channels: save them as 1×{_shape(x.shape[1:])}, x[:, None]"
    return None


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def fitting_index(
    name: str, split: str, samples: int, seed: int, model: nn.Module, *, env: Settings | None = None
) -> tuple[Dataset, Tensor]:
    """A data set that a model in eval mode takes, and which of its samples are the subset of a seed.

    This costs next to nothing where decoding a subset takes a minute, and finds the same mistakes.

    Raises:
        DataError: If there is no such data, the model does not take it, or a class has too few samples.
    """
    dataset = load(name, split, env=env)
    check_matches(dataset, model)
    return dataset, balanced_index(dataset, samples, seed)


def fitting_subset(
    name: str, split: str, samples: int, seed: int, model: nn.Module, *, env: Settings | None = None
) -> Subset:
    """The class-balanced subset of a data set that a seed stands for, checked against a model in eval mode.

    Args:
        name: As in ``load``.
        split: ``train`` or ``test``.
        samples: Size of the subset.
        seed: As in ``balanced_index``.
        model: A classifier.
        env: As in ``load``.

    Raises:
        DataError: If there is no such data, the model does not take it, a class has too few samples, or a
            sample's file is damaged.
    """
    dataset, index = fitting_index(name, split, samples, seed, model, env=env)
    return Subset(dataset.name, dataset.take(index), dataset.y[index], index, dataset.synthetic)
