"""Subsets of data sets, on which Hessians are taken."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seigh.core.curvature.causes import known, place, reason
from seigh.core.device import available_memory
from seigh.core.names import SubsetName
from seigh.core.problems import losses
from seigh.core.problems.data.catalogue import load
from seigh.core.problems.data.dataset import DataError, Dataset
from seigh.core.problems.data.originals import partial_imagenet
from seigh.core.problems.outputs import OutputsError
from seigh.core.settings import AnalysisSettings, Settings

# With what the name of data begins that were in memory; the start of the hash of their content follows.
IN_MEMORY = "memory:"


@dataclass(frozen=True)
class Subset:
    """Some of a data set's samples, in memory.

    Attributes:
        name: Name of the data set.
        x: Samples, (n, …), float32, float64 or integers.
        y: Targets, (n, …), int64, float32 or float64.
        index: Which of the data set's samples they are, (n,) int64, ascending.
        synthetic: Whether the samples are made up.
        more: What else decides the inputs, where ``x`` does not do so alone.
    """

    name: str
    x: Tensor
    y: Tensor
    index: Tensor
    synthetic: bool
    more: tuple[Tensor, ...] = ()


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
    classes, counts = _classes(dataset)
    each = _share(dataset, counts, samples)
    generator = torch.Generator().manual_seed(seed)
    larger = torch.nonzero(counts > each).flatten()
    larger = larger[torch.randperm(len(larger), generator=generator)]
    wanted = torch.full_like(counts, each)
    wanted[larger[: samples - each * len(classes)]] += 1
    chosen = []
    for label, number in zip(classes, wanted.tolist(), strict=True):
        members = torch.nonzero(dataset.y == label).flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:number]])
    return torch.cat(chosen).sort().values


def first_index(dataset: Dataset, samples: int) -> Tensor:
    """The first samples of each class, as many of one as of another: (samples,) int64, ascending.

    These are the subsets of the paper's code. Where N is no multiple of the number of classes, the first
    classes that have another sample give one more.

    Raises:
        DataError: As ``balanced_index``.
    """
    classes, counts = _classes(dataset)
    each = _share(dataset, counts, samples)
    wanted = torch.full_like(counts, each)
    wanted[torch.nonzero(counts > each).flatten()[: samples - each * len(classes)]] += 1
    chosen = [
        torch.nonzero(dataset.y == label).flatten()[:number]
        for label, number in zip(classes, wanted.tolist(), strict=True)
    ]
    return torch.cat(chosen).sort().values


def random_index(dataset: Dataset, samples: int, seed: int) -> Tensor:
    """Any samples, drawn without regard to their classes: (samples,) int64, ascending.

    Raises:
        DataError: If there are fewer.
    """
    size = dataset.samples.shape[0]
    if samples > size:
        raise DataError(
            f"{dataset.name} has {size:,} samples, fewer than N = {samples:,}; choose at most {size:,}, or "
            "the subset all (--subset all)."
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:samples].sort().values


def subset_index(
    dataset: Dataset, subset: SubsetName, samples: int | None, seed: int, indices: Sequence[int] = ()
) -> Tensor:
    """The samples that settings choose: (n,) int64, ascending. None of them is decoded.

    Args:
        dataset: The data set.
        subset: As in ``AnalysisSettings``, like the rest.
        samples: N; None for all samples that have not been counted yet, and for indices.
        seed: Seed of ``balanced`` and ``random``.
        indices: Indices of the subset ``indices``.

    Raises:
        DataError: If the data set has no such subset.
    """
    size = dataset.samples.shape[0]
    if subset == "all":
        if samples is not None and samples != size:
            raise DataError(
                f"{dataset.name} has {size:,} samples, and the subset all cannot have N = {samples:,}; leave "
                "N out, or submit again if the data have changed."
            )
        return torch.arange(size)
    if subset == "indices":
        index = torch.tensor(list(indices), dtype=torch.int64)
        if not len(index) or int(index.max()) >= size:
            raise DataError(
                f"{dataset.name} has {size:,} samples, numbered 0 to {size - 1:,}, so there is no sample "
                f"{int(index.max()) if len(index) else 0:,}; choose other indices."
            )
        return index.sort().values
    assert samples is not None
    match subset:
        case "balanced":
            return balanced_index(dataset, samples, seed)
        case "first-per-class":
            return first_index(dataset, samples)
    return random_index(dataset, samples, seed)


def _classes(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The classes of a data set and how many samples each has.

    Raises:
        DataError: If its targets are no classes.
    """
    if dataset.y.ndim != 1 or dataset.y.is_floating_point():
        raise DataError(
            f"The targets of {dataset.name} are no classes, so no subset of it is class-balanced; choose the "
            "subset random or all (--subset random, or all)."
        )
    classes, counts = torch.unique(dataset.y, return_counts=True)
    return classes, counts


def _share(dataset: Dataset, counts: Tensor, samples: int) -> int:
    """How many samples every class gives at least; some of those that have more give another one.

    Raises:
        DataError: If a class has too few samples, with the largest size that works.
    """
    least = int(counts.min())
    largest = least * len(counts) + int((counts > least).sum())
    if samples > largest:
        raise DataError(
            f"{dataset.name} is too small for a class-balanced subset of {samples:,} samples, as its "
            f"smallest class has {least:,}; choose at most {largest:,}, or the subset all or random, which "
            "are not balanced (--subset all)."
        )
    return samples // len(counts)


def content_hash(subset: Subset) -> str:
    """Hex SHA-256 of the shapes and numbers of samples and labels: equal means the same data."""
    digest = hashlib.sha256()
    for tensor in (subset.x, subset.y, *subset.more):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def check_matches(dataset: Dataset, model: nn.Module, settings: AnalysisSettings | None = None) -> None:
    """Check that a model in eval mode takes these samples, and the loss its outputs with these targets.

    Args:
        dataset: The data.
        model: In eval mode.
        settings: With the loss; cross-entropy when not given.

    Raises:
        DataError: If it does not.
    """
    sample = dataset.take(torch.zeros(1, dtype=torch.int64))
    _check_tokens(dataset, model)
    try:
        found = _forward(model, sample)
    except OutputsError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # layers refuse shapes, and networks fail, by every kind of exception
        raise DataError(_refusal(dataset, model, sample, error)) from error
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != 1:
        shape = (
            f"outputs of shape ({_shape(tuple(found.shape))})" if isinstance(found, Tensor) else "no tensor"
        )
        raise DataError(
            f"{type(model).__name__} gives {shape} for one sample of {dataset.name}; let it return one row "
            "of outputs for each sample, (N, classes)."
        )
    settings = settings or AnalysisSettings(architecture="", data=dataset.name)
    if wrong := losses.mismatch(settings, dataset.y, tuple(found.shape[1:]), dataset.name):
        raise DataError(wrong)
    if found.ndim != 2 or dataset.y.is_floating_point():
        return
    outputs, largest = found.shape[1], int(dataset.y.max())
    if outputs > largest + 1 and partial_imagenet(dataset):
        raise DataError(
            f"The folder has {len(dataset.class_names):,} of ImageNet's classes, numbered from 0, which are "
            f"not the labels of a model with {outputs:,} outputs; give a folder for each of the 1,000 "
            "classes, or a model of these."
        )


def _check_tokens(dataset: Dataset, model: nn.Module) -> None:
    """Refuse tokens that a model's vocabulary has not, which would read other memory or stop a GPU."""
    vocabulary = getattr(model, "vocabulary", None)
    x = dataset.samples
    if not isinstance(vocabulary, int):
        return
    if not isinstance(x, Tensor) or x.is_floating_point():
        raise DataError(
            f"{type(model).__name__} takes tokens, and the samples of {dataset.name} are none; choose a file "
            "of tokens, or another architecture."
        )
    if (largest := int(x.max())) >= vocabulary:
        raise DataError(
            f"{dataset.name} has the token {largest:,}, and the vocabulary of this architecture ends at "
            f"{vocabulary - 1:,}; choose data of the tokenizer that it was trained with."
        )


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    parameter = next(model.parameters())
    x = x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype)
    with torch.no_grad():
        outputs: Tensor = model(x)
    return outputs


def _takes(model: nn.Module, x: Tensor) -> bool:
    try:
        _forward(model, x)
    except Exception:  # as above
        return False
    return True


# What layers say of a shape that they do not take, and of a format.
_OF_SHAPE = re.compile(
    r"shape|size|dimension|\bdims?\b|expected .*(?:input|channels)|channels|height|width|unpack|\d+-?D\b",
    re.I,
)
_OF_FORMAT = re.compile(r"scalar type|dtype|\w+Tensor\b|indices", re.I)


def _refusal(dataset: Dataset, model: nn.Module, sample: Tensor, error: Exception) -> str:
    """Why a model fails on a sample: its shape, its format, or something of the model's own."""
    if (way := known(error)) is not None:
        return way
    reshaped, said, network = _reshaped(model, sample), reason(error), type(model).__name__
    whose = f"The samples of {dataset.name} have shape {_shape(dataset.shape)}"
    plain = isinstance(error, RuntimeError | ValueError | AssertionError | IndexError | TypeError)
    own = isinstance(error, NotImplementedError) or not plain
    if not sample.is_floating_point() and sample.ndim == 2 and isinstance(error, IndexError | RuntimeError):
        return (
            f"{network} does not take the {sample.shape[1]:,} tokens of a sample of {dataset.name} ({said}); "
            "choose shorter sequences, or data of its own vocabulary."
        )
    if reshaped is None and not own and sample.is_floating_point() and _OF_FORMAT.search(str(error)):
        return (
            f"The samples of {dataset.name} are floating-point numbers, which this architecture does not "
            f"take ({said}); let it round them, as x.long() does, or choose data of integers."
        )
    if reshaped is None and (own or not (_OF_SHAPE.search(str(error)) or not str(error))):
        where = place(error)
        return (
            f"{network} fails on the samples of {dataset.name}, of shape {_shape(dataset.shape)}: "
            f"{said if type(error).__name__ in said else f'{type(error).__name__}: {said}'}"
            f"{f' ({where})' if where else ''}; correct its forward pass."
        )
    remedy = reshaped or f"choose data of the size it was trained on ({said})"
    return f"{whose}, which this architecture does not take; {remedy}."


def _reshaped(model: nn.Module, x: Tensor) -> str | None:
    """Return the advice for samples that a model takes in another shape."""
    if x.ndim == 4 and _takes(model, x.movedim(-1, 1)):
        return (
            f"they seem to have their channels last: save them as {_shape(x.movedim(-1, 1).shape[1:])}, "
            "x.transpose(0, 3, 1, 2)"
        )
    if x.ndim == 3 and _takes(model, x[:, None]):
        return f"they seem to lack the axis of channels: save them as 1×{_shape(x.shape[1:])}, x[:, None]"
    return None


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def fitting_index(
    name: str,
    split: str,
    samples: int | None,
    seed: int,
    model: nn.Module,
    *,
    subset: SubsetName = "balanced",
    indices: Sequence[int] = (),
    env: Settings | None = None,
    settings: AnalysisSettings | None = None,
) -> tuple[Dataset, Tensor]:
    """A data set that a model in eval mode takes, and which of its samples are a subset.

    This costs next to nothing where decoding a subset takes a minute, and finds the same mistakes.

    Raises:
        DataError: If there is no such data, the model does not take it, or it has no such subset.
    """
    dataset = load(name, split, env=env)
    check_matches(dataset, model, settings)
    return dataset, subset_index(dataset, subset, samples, seed, indices)


def fitting_subset(
    name: str,
    split: str,
    samples: int | None,
    seed: int,
    model: nn.Module,
    *,
    subset: SubsetName = "balanced",
    indices: Sequence[int] = (),
    env: Settings | None = None,
    settings: AnalysisSettings | None = None,
) -> Subset:
    """The subset of a data set, checked against a model in eval mode.

    Args:
        name: As in ``load``.
        split: ``train`` or ``test``.
        samples: Size of the subset, as in ``subset_index``.
        seed: As in ``balanced_index``.
        model: A classifier.
        subset: Which samples.
        indices: Indices of the subset ``indices``.
        env: As in ``load``.
        settings: As in ``check_matches``.

    Raises:
        DataError: If there is no such data, the model does not take it, it has no such subset, the samples
            do not fit into memory, or a sample's file is damaged.
    """
    dataset, index = fitting_index(
        name, split, samples, seed, model, subset=subset, indices=indices, env=env, settings=settings
    )
    needed = 4 * len(index) * math.prod(dataset.shape)
    if not isinstance(dataset.samples, Tensor) and needed > (there := available_memory(torch.device("cpu"))):
        raise DataError(
            f"The {len(index):,} samples of {dataset.name} take {needed / 2**30:,.1f} GiB, and this machine "
            f"has {there / 2**30:,.1f} GiB of memory; choose a smaller subset."
        )
    return Subset(dataset.name, dataset.take(index), dataset.y[index], index, dataset.synthetic)
