"""The log files in which the paper's authors published their curves, read as outcomes.

A file is UTF-8 text with one JSON value in each line, ``[timestamp, [header, body]]``. The headers that
count here are ``GLOBALS`` (``num_params``) and the results: ``H_TRAIN RESULT`` and ``H_TEST RESULT``, whose
body has the ``step``, or ``RESULT``, one in a file whose name says ``__step=2000__test=True``. A result has
``core_S``, the eigenvalues by descending magnitude, and ``frob_Qtop^2``, k·overlap of the magnitude mask for
k = 1 … n; most have ``…_best``, ``…_rand`` (a list for each draw), the squared norms ``Frob(H)^2`` and
``Frob(H-H_n)^2`` and the scree bounds. Source: the public code of Fernandez et al., TMLR 2025
(arXiv 2504.14701), folder ``assets/output_analysis``.

What the authors did not publish, such as residuals and stated errors, is not known of such an outcome.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seigh.core.errors import UserError, first_line
from seigh.core.results.result import Floats, Outcome
from seigh.core.settings import SPLITS, Split


@dataclass(frozen=True)
class Experiment:
    """A row of the paper's Table 1.

    Attributes:
        problem: Its name here.
        samples: N of each Hessian.
        outer: n_O.
        inner: n_I.
    """

    problem: str
    samples: int
    outer: int
    inner: int


TABLE_1: Mapping[int, Experiment] = MappingProxyType(
    {
        7_030: Experiment("mnist-mlp", 500, 355, 700),
        895_210: Experiment("cifar10-3c3d", 500, 1000, 2000),
        1_387_108: Experiment("cifar100-all-cnn-c", 1000, 1000, 2000),
        11_689_512: Experiment("imagenet-resnet18", 5000, 1500, 3000),
    }
)
"""The paper's four problems, by the number of parameters D of their networks."""

# The largest of the authors' files has some ten MiB.
LARGEST_FILE = 256 * 2**20

_SPLITS: Mapping[str, Split] = {"H_TRAIN RESULT": "train", "H_TEST RESULT": "test"}
_IN_NAME = re.compile(r"__step=(\d+)__test=(True|False)(?=__|\.|$)")
_LARGEST_STEP = 2**31 - 1
_ROUNDING = 1e-6  # the curves were computed in single precision


class PublishedError(UserError):
    """Log files that cannot be imported; the message is one sentence."""


@dataclass(frozen=True)
class Published:
    """A result of the authors' log files.

    Attributes:
        step: Training step of the checkpoint.
        split: Whose Hessian it was.
        outcome: What they found.
        file: Name of the file that it is from.
        sha256: Hash of the line that it is from, which tells results apart.
    """

    step: int
    split: Split
    outcome: Outcome
    file: str
    sha256: str


@dataclass(frozen=True)
class _Line:
    """A line of a log file: where it is, and what it says."""

    file: str
    number: int
    header: str
    body: Any
    sha256: str

    @property
    def place(self) -> str:
        return f"'{self.file}', line {self.number:,}"


def read(folder: Path, *, parameters: int | None = None) -> tuple[list[Published], list[str]]:
    """The results of a folder of log files, or of one file, by step and split.

    A damaged line takes nothing from the others: a log ends in the middle of a line where its program was
    killed.

    Args:
        folder: The folder, whose files are read but not those of folders in it; or a file.
        parameters: D; needed where no file says it.

    Returns:
        The results, and a sentence about each line or file that is left out.

    Raises:
        PublishedError: There is no result, two of them are of the same step and split, or D is not known or
            known twice.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else [folder]
    left_out: list[str] = []
    lines = [line for path in files for line in _lines(path, left_out)]
    results = [line for line in lines if line.header == "RESULT" or line.header in _SPLITS]
    if not results:
        why = f" {left_out[0]}" if left_out else ""
        raise PublishedError(
            f"'{folder.name}' has no results of the authors' log files; name the folder that holds them.{why}"
        )
    dimension = _dimension(lines, parameters)
    found: dict[tuple[int, Split], Published] = {}
    for line in results:
        try:
            one = _published(line, dimension)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = f"has no entry {error}" if isinstance(error, KeyError) else first_line(error)
            left_out.append(f"{line.place} is no result ({what}) and is left out.")
            continue
        before = found.setdefault((one.step, one.split), one)
        if before.sha256 != one.sha256:
            raise PublishedError(
                f"'{before.file}' and '{one.file}' both have the {one.split} Hessian at step {one.step:,}, "
                "with other numbers; import them one after the other, as two models."
            )
    if not found:
        raise PublishedError(left_out[-1])
    return [found[key] for key in sorted(found)], left_out


def _lines(path: Path, left_out: list[str]) -> Iterator[_Line]:
    """The lines of a file that are JSON of the right form."""
    if path.stat().st_size > LARGEST_FILE:
        left_out.append(f"'{path.name}' is larger than {LARGEST_FILE // 2**20} MiB and is left out.")
        return
    damaged: list[int] = []
    good = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                _, (header, body) = json.loads(line)
                if not isinstance(header, str):
                    raise TypeError
            except (ValueError, TypeError, RecursionError):
                damaged.append(number)
                continue
            good += 1
            yield _Line(path.name, number, header, body, hashlib.sha256(line.strip()).hexdigest())
    if damaged and not good:
        left_out.append(f"'{path.name}' is no log file and is left out.")
    elif damaged:
        which = (
            f"line {damaged[0]:,}" if len(damaged) == 1 else f"{len(damaged):,} lines, from {damaged[0]:,}"
        )
        left_out.append(f"'{path.name}', {which}: damaged, and left out.")


def _dimension(lines: Sequence[_Line], parameters: int | None) -> int:
    """D, of the caller or the files.

    Raises:
        PublishedError: It is not known, or known twice.
    """
    said = {}
    for line in lines:
        if line.header == "GLOBALS" and isinstance(line.body, dict) and "num_params" in line.body:
            number = line.body["num_params"]
            if type(number) is int and number > 0:
                said[number] = line.file
    if parameters is not None:
        said.setdefault(parameters, "the one given")
    if not said:
        raise PublishedError(
            "No file says how many parameters the network has, which the level of chance depends on; give it "
            "with --dimension."
        )
    if len(said) > 1:
        one, other = sorted(said)[:2]
        raise PublishedError(
            f"The number of parameters is {one:,} in '{said[one]}' and {other:,} in '{said[other]}'; import "
            "the networks one after the other."
        )
    return next(iter(said))


def _published(line: _Line, dimension: int) -> Published:
    """The result of a line.

    Raises:
        KeyError, TypeError, ValueError: It has not what a result has.
    """
    body = line.body
    if not isinstance(body, dict):
        raise TypeError("its body is no object")
    if line.header == "RESULT":
        named = _IN_NAME.search(line.file)
        if named is None:
            raise ValueError("its file's name has no __step=…__test=…")
        step, split = int(named[1]), SPLITS[named[2] == "True"]
    else:
        step, split = body["step"], _SPLITS[line.header]
    if type(step) is not int or not 0 <= step <= _LARGEST_STEP:
        raise ValueError(f"its step is {step!r}")
    return Published(step, split, _outcome(body, dimension, line), line.file, line.sha256)


def _outcome(body: Mapping[str, Any], dimension: int, line: _Line) -> Outcome:
    eigenvalues = _numbers(body["core_S"], "core_S")
    magnitudes = np.abs(eigenvalues)
    if (np.diff(magnitudes) > _ROUNDING * magnitudes[0]).any():
        raise ValueError("its eigenvalues do not descend in magnitude")
    own = body.get("frob_Qtop^2", body.get("frob_Qtop^2_mag"))
    if own is None:
        raise KeyError("frob_Qtop^2")
    masses = _numbers(own, "frob_Qtop^2")
    if len(masses) > min(dimension, len(eigenvalues)):
        raise ValueError(f"it has {len(masses):,} overlaps and {len(eigenvalues):,} eigenvalues")
    k = np.arange(1, len(masses) + 1)
    overlap = _overlap(masses, k)
    unknown = np.full(len(k), math.nan)
    best = body.get("frob_Qtop^2_best")
    draws = [_numbers(draw, "frob_Qtop^2_rand") for draw in body.get("frob_Qtop^2_rand") or []]
    if any(len(draw) != len(k) for draw in draws):
        raise ValueError("its random masks have another number of overlaps")
    random = np.stack([_overlap(draw, k) for draw in draws]) if draws else None
    return Outcome(
        parameters=dimension,
        hvps=0,
        eigenvalues=eigenvalues,
        residuals=None,
        overlap=overlap,
        overlap_error=None,
        resolved_k=None,
        random_mean=k / dimension if random is None else random.mean(0),
        random_std=unknown if random is None or len(draws) < 2 else random.std(0, ddof=1),
        best=unknown if best is None else _overlap(_numbers(best, "frob_Qtop^2_best", len(k)), k),
        scree_lower=_optional(body, "scree_lower", len(eigenvalues)),
        scree_upper=_optional(body, "scree_upper", len(eigenvalues)),
        stages=(),
        data_sha256="",
        environment={},
        record={
            "published": {
                "file": line.file,
                "line": line.number,
                "sha256": line.sha256,
                "random_masks": len(draws),
                **_squares(body),
            }
        },
    )


def _numbers(given: Any, name: str, length: int | None = None) -> Floats:
    """Finite numbers, of a list.

    Raises:
        TypeError, ValueError: They are none, or not so many.
    """
    if not isinstance(given, list) or not given:
        raise TypeError(f"{name} is no list of numbers")
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in given):
        raise TypeError(f"{name} is no list of numbers")
    numbers: NDArray[np.float64] = np.array(given, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} has numbers that are not finite")
    if length is not None and len(numbers) != length:
        raise ValueError(f"{name} has {len(numbers):,} numbers where {length:,} are due")
    return numbers


def _overlap(masses: Floats, k: NDArray[np.int64]) -> Floats:
    """Overlaps of ‖MᵀV_k‖²_F = k·overlap.

    Raises:
        ValueError: They do not lie in [0, 1].
    """
    overlap = masses / k
    if (overlap < -_ROUNDING).any() or (overlap > 1 + 1e-3).any():
        raise ValueError("its overlaps do not lie in [0, 1]")
    return overlap


def _optional(body: Mapping[str, Any], name: str, length: int) -> Floats | None:
    """Numbers that not every file has; those of the first ranks, and NaN beyond."""
    given = body.get(name)
    if not given:
        return None
    numbers = _numbers(given, name)[:length]
    return np.concatenate([numbers, np.full(length - len(numbers), math.nan)])


def _squares(body: Mapping[str, Any]) -> dict[str, float]:
    """The norms that a result has, ‖H‖_F and ‖H − Ĥ‖_F, from their squares."""
    norms = {}
    for name, entry in (("norm", "Frob(H)^2"), ("missed_norm", "Frob(H-H_n)^2")):
        value = body.get(entry)
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
            norms[name] = math.sqrt(value)
    return norms
