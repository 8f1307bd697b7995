"""Random data of a given shape, for trials: ``random(3x32x32,classes=10)``."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

from seigh.core.problems import spec
from seigh.core.problems.data.dataset import DataError, Dataset
from seigh.core.problems.spec import Spec
from seigh.core.settings import SettingsError

NAME = "random"
EXAMPLE = "random(3x32x32,classes=10)"
SAMPLES = 10_000  # of each split

_DEFAULTS = {"classes": 10, "seed": 0}
_SPLITS = {"train": 0, "test": 1}
_SHAPE = re.compile(r"\d{1,6}(x\d{1,6}){0,4}")
_LARGEST_SAMPLE = 2**24  # numbers


class _Normal:
    """Standard normal samples; each depends on seed, split and its number alone."""

    def __init__(self, shape: tuple[int, ...], *seed: int) -> None:
        self.shape = (SAMPLES, *shape)
        self._seed = seed

    def __getitem__(self, index: Tensor, /) -> Tensor:
        x = np.empty((len(index), *self.shape[1:]), dtype=np.float32)
        for row, number in enumerate(index.tolist()):
            np.random.default_rng((*self._seed, number)).standard_normal(dtype=np.float32, out=x[row])
        return torch.from_numpy(x)


def is_meant(name: str) -> bool:
    """Whether a data set's name is this kind of spec."""
    return name.split("(")[0].strip() == NAME


def canonical(name: str) -> str:
    """The one way to write a spec.

    Raises:
        DataError: If it is not understood.
    """
    return str(_parsed(name)[0])


def load(name: str, split: str) -> Dataset:
    """Standard normal samples with labels that take turns.

    Args:
        name: ``random(CxHxW,classes=n,seed=s)``; there are 10 classes, and the seed is 0, when not given.
        split: ``train`` or ``test``, which differ.

    Raises:
        DataError: If the spec is not understood.
    """
    parsed, shape, classes, seed = _parsed(name)
    samples = _Normal(shape, seed, _SPLITS[split])
    return Dataset(str(parsed), samples, torch.arange(SAMPLES) % classes, synthetic=True)


def facts(name: str) -> tuple[tuple[int, ...], int]:
    """Shape of a sample, and number of classes.

    Raises:
        DataError: If the spec is not understood.
    """
    _, shape, classes, _ = _parsed(name)
    return shape, classes


def _parsed(name: str) -> tuple[Spec, tuple[int, ...], int, int]:
    """The canonical spec; shape, number of classes and seed that it gives."""
    try:
        parsed = spec.parse(name)
    except SettingsError as error:
        raise DataError(str(error)) from error
    options = dict(parsed.options)
    if unknown := [option for option in options if option not in _DEFAULTS]:
        raise _malformed(name, f"there is no option '{unknown[0]}'")
    if not parsed.argument or not _SHAPE.fullmatch(parsed.argument):
        raise _malformed(name, "the shape of a sample is missing")
    shape = tuple(map(int, parsed.argument.split("x")))
    if not 0 < math.prod(shape) <= _LARGEST_SAMPLE:
        raise _malformed(name, f"a sample may have 1 to {_LARGEST_SAMPLE:,} numbers")
    classes, seed = (options.get(option, default) for option, default in _DEFAULTS.items())
    if type(classes) is not int or not 1 <= classes <= SAMPLES:
        raise _malformed(name, f"classes must be from 1 to {SAMPLES:,}")
    if type(seed) is not int or seed < 0:
        raise _malformed(name, "the seed must be a whole number, 0 or more")
    canonical = Spec(NAME, parsed.options, "x".join(map(str, shape))).without(_DEFAULTS)
    return canonical, shape, classes, seed


def _malformed(name: str, problem: str) -> DataError:
    return DataError(f"'{name}' is no random data: {problem}; write it like {EXAMPLE}.")
