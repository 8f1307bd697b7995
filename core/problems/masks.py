"""A user's own masks: scores, or zeros and ones, by the names of parameters; and masks as such files.

A child with limits reads them (``seigh.core.reading.scores``); nothing in a file is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from seigh.core.checksum import sha256_of
from seigh.core.errors import UserError
from seigh.core.problems import architectures, checkpoints
from seigh.core.problems.data.dataset import LARGEST_ARRAY
from seigh.core.reading import parent
from seigh.core.reading.parent import Refused
from seigh.core.reading.words import shown
from seigh.core.results.masks import of_record
from seigh.core.settings import AnalysisSettings, Settings

SUFFIXES = (*checkpoints.SUFFIXES, ".npz")

# Folders of the artefact store that the files are in.
_FOLDERS = ("masks", "checkpoints")

# Names of parameters that a sentence lists.
_FEW = 3


class MaskError(UserError):
    """A file that is no usable mask; the message is one sentence for the person who brought it."""


@dataclass(frozen=True)
class OwnMask:
    """A mask that somebody has brought.

    Attributes:
        scores: (D,) fp64 ≥ 0 in the order of θ; of a 0/1 mask zeros and ones.
        sha256: SHA-256 of its file.
        note: What was done to make it fit, a sentence; empty if nothing was.
    """

    scores: Tensor
    sha256: str
    note: str = ""

    @property
    def ones(self) -> int | None:
        """How many weights a 0/1 mask has; None of scores."""
        binary = bool(((self.scores == 0) | (self.scores == 1)).all())
        return int(self.scores.sum()) if binary else None


def located(file: str, environment: Settings) -> Path:
    """Where a file of the settings lies: a path, or ``sha256:<digest>`` in the artefact store.

    Raises:
        MaskError: There is no such file, or it is damaged.
    """
    if not file.startswith("sha256:"):
        path = Path(file)
        if not path.is_file():
            raise MaskError(f"There is no file '{file}'.")
        return path
    digest = file.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise MaskError(f"'{file}' is no file: 'sha256:' is followed by 64 hexadecimal digits.")
    for folder in _FOLDERS:
        for suffix in SUFFIXES:
            path = environment.artifact_folder / folder / f"{digest}{suffix}"
            if path.is_file():
                if sha256_of(path) != digest:
                    raise MaskError(
                        f"The file sha256:{digest[:12]}… is damaged in the artefact store; upload it again."
                    )
                return path
    raise MaskError(f"The file sha256:{digest[:12]}… is not in the artefact store; upload it again.")


def read(
    path: Path,
    settings: AnalysisSettings,
    *,
    pruned: bool = False,
    name: str | None = None,
    env: Settings | None = None,
) -> OwnMask:
    """The scores of a file, in the order of the θ of the settings.

    Parameters of θ that the file does not have get the score 0: they come last. A mask of
    ``torch.nn.utils.prune`` (``weight_mask`` beside ``weight_orig``) is found in a checkpoint.

    Args:
        path: ``.safetensors``, a file of PyTorch, or ``.npz``.
        settings: With the architecture, and the parameters that make up θ.
        pruned: Whether it is a pruned checkpoint, whose mask is where its parameters are not zero.
        name: The file's original name, for errors.
        env: With the limits for reading; from ``SEIGH_*`` when not given.

    Raises:
        MaskError: The file is damaged, no such file, or does not fit.
    """
    name = name or path.name
    if Path(name).suffix.lower() not in SUFFIXES:
        raise MaskError(f"'{name}' does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    zipped = name.lower().endswith(".npz")
    try:
        if path.stat().st_size == 0:
            raise MaskError(f"'{name}' is an empty file; save or upload it again.")
        answer = parent.read("scores", path, name, env, largest=LARGEST_ARRAY if zipped else None)
    except OSError as error:
        raise MaskError(f"'{name}' cannot be read: {error.strerror}.") from error
    except Refused as error:
        raise MaskError(str(error)) from error
    shapes = architectures.theta_shapes(settings.architecture, settings.parameters)
    known = architectures.expected_tensors(settings.architecture)
    named = _named(answer.tensors, answer.facts["prefix"], known)
    _check_names(named, shapes, {each: tuple(tensor.shape) for each, tensor in known.items()}, name, settings)
    parts = []
    for each, shape in shapes.items():
        if each not in named:
            parts.append(torch.zeros(shape, dtype=torch.float64).flatten())
            continue
        scores = named[each].flatten().double()
        parts.append((scores != 0).double() if pruned else scores)
    scores = torch.cat(parts)
    if bool((scores < 0).any()):
        raise MaskError(
            f"'{name}' holds negative scores; a mask takes the largest, so save what is to be ranked, such "
            "as magnitudes. The non-zeros of a pruned checkpoint are asked for as 'pruned'."
        )
    if bool((scores == scores[0]).all()):
        what = "has no zero among its parameters" if pruned else "gives every weight the same score"
        raise MaskError(f"'{name}' {what}, so it is no mask; give another file.")
    missing = [each for each in shapes if each not in named]
    note = ""
    if missing:
        some = ", ".join(missing[:_FEW]) + (", …" if len(missing) > _FEW else "")
        note = (
            f"'{name}' has no scores for {len(missing)} of {len(shapes)} tensors ({some}), which come last."
        )
    return OwnMask(scores, answer.facts["sha256"], note)


def _named(tensors: Mapping[str, Tensor], prefix: str, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with what was removed from their names put back where the network's own names have it."""
    parts = [f"{part}." for part in prefix.split(".") if part]
    ways = ["".join(parts[start:]) for start in range(len(parts), -1, -1)]
    best = max(ways, key=lambda way: sum(way + name in known for name in tensors))
    return {best + name: tensor for name, tensor in tensors.items()}


def _check_names(
    named: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    known: Mapping[str, tuple[int, ...]],
    name: str,
    settings: AnalysisSettings,
) -> None:
    if odd := [each for each in named if each not in known]:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise MaskError(
            f"'{name}' has scores for '{shown(odd[0])}'{more}, which {settings.architecture} does not have; "
            "name its tensors as the model's state dict does."
        )
    for each, tensor in named.items():
        if tuple(tensor.shape) != known[each]:
            found, wanted = ("×".join(map(str, of)) or "a number" for of in (tensor.shape, known[each]))
            raise MaskError(
                f"'{shown(each)}' in '{name}' is {found}, and in {settings.architecture} {wanted}; give "
                "scores of the parameter's shape."
            )
    if not any(each in named for each in shapes):
        raise MaskError(
            f"'{name}' has scores for none of the parameters that make up θ; choose others, or another file."
        )


def written(result: Mapping[str, Any], name: str, k: int) -> bytes:
    """A mask of an analysis as a ``.safetensors`` file of 0/1 tensors (``as_tensors``).

    Args:
        result: The object that ``seigh analyze --json`` writes.
        name: Name of the mask, "magnitude" for that of the largest |θ|.
        k: Its size.

    Raises:
        MaskError: The analysis has no such mask, or not of that size.
    """
    there = of_record(result["record"])
    if name not in there:
        known = (
            f"it has {', '.join(there)}"
            if there
            else "it was asked for none, as by --curves overlap-gradient"
        )
        raise MaskError(f"This analysis has no mask '{name}'; {known}.")
    coordinates = there[name].coordinates
    if not 1 <= k <= len(coordinates):
        raise MaskError(f"The masks of this analysis have 1 to {len(coordinates):,} weights, and not {k:,}.")
    settings = AnalysisSettings.model_validate(result["settings"])
    about = {"mask": name, "k": str(k), "checkpoint_sha256": str(result["checkpoint_sha256"])}
    return save(as_tensors(coordinates[:k].tolist(), settings), {"format": "pt", **about})


def as_tensors(coordinates: Sequence[int], settings: AnalysisSettings) -> dict[str, Tensor]:
    """A mask of coordinates of θ as 0/1 tensors (uint8) by the names of its parameters.

    Pruning tools take them: ``torch.nn.utils.prune.custom_from_mask(module, "weight", mask)``.

    Args:
        coordinates: (k,), each in 0 … D − 1.
        settings: With the architecture, and the parameters that make up θ.
    """
    shapes = architectures.theta_shapes(settings.architecture, settings.parameters)
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    flat = torch.zeros(sum(sizes), dtype=torch.uint8)
    flat[torch.tensor(list(coordinates), dtype=torch.int64)] = 1
    parts = torch.split(flat, sizes)
    return {
        name: part.reshape(shape).clone() for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
