"""Further curves of an eigenspace, each declared once: what it is, how to read it, and how it is computed.

An observable is a number for each size k of the eigenspace. A mask ranks the coordinates by a score; its
overlap with V_k is such a curve too. What is declared here or registered by a plug-in
(``seigh.core.problems.plugins``) can be asked for by its name, and is stored, exported and drawn like all
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seigh.core.linalg.tiles import chunks
from seigh.core.spectra.eigenpairs import Eigenpairs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A number for each k = 1 … K.

    Attributes:
        value: (K,).
        error: (K,), how far each may be from that of the true eigenspace; None where nothing is known.
        chance: (K,), what an eigenspace unrelated to the parameters has on average; None where there is no
            such level.
    """

    value: Floats
    error: Floats | None = None
    chance: Floats | None = None

    def to_json(self) -> dict[str, list[float] | None]:
        """As JSON types."""
        return {name: None if part is None else part.tolist() for name, part in vars(self).items()}


@dataclass(frozen=True)
class Scene:
    """What observables and masks may look at.

    Attributes:
        vectors: (K, D), an eigenvector in each row, in the precision of the products, by descending |λ|. It
            is large: go through its coordinates in blocks (``seigh.core.linalg.tiles.chunks``).
        values: (K,) fp64, their eigenvalues.
        tilts: (K,) fp64, bound of the sine of the angle between each vector and the true eigenvector
            (``tilts``); 1 where it is unknown which of several vectors it is.
        tensors: θ by the names of its parameters, in the order of the coordinates.
        overlap: Of scores (D,), the curve of their mask: the overlap of the k coordinates of largest score
            with V_k, its stated error, ties included, and chance k/D.
    """

    vectors: Tensor
    values: Tensor
    tilts: Tensor
    tensors: Mapping[str, Tensor]
    overlap: Callable[[Tensor], Curve]


@dataclass(frozen=True)
class Observable:
    """A curve that can be asked for.

    Attributes:
        name: What people ask for: lower-case letters, digits and hyphens.
        title: Of its axis; with the unit, if it has one.
        note: How to read it, in one sentence that begins in lower case.
        compute: Of a scene, the curve.
    """

    name: str
    title: str
    note: str
    compute: Callable[[Scene], Curve]


@dataclass(frozen=True)
class ScoredMask:
    """A mask that takes the coordinates of largest score.

    Attributes:
        name: Of the mask: lower-case letters, digits and hyphens.
        title: What its coordinates are, as after "the mask of".
        note: What its scores are, in one sentence that begins in lower case.
        scores: Of a scene, (D,) finite numbers ≥ 0. Equal scores tie: the overlap is then the mean over all
            masks that they admit, and its error covers them all.
    """

    name: str
    title: str
    note: str
    scores: Callable[[Scene], Tensor]

    def observable(self) -> Observable:
        """The overlap of the mask with V_k."""
        return Observable(
            f"overlap-{self.name}",
            f"overlap of {self.title}",
            f"{self.note} At chance, the mask has no more of the eigenspace than any other one.",
            lambda scene: scene.overlap(self.scores(scene)),
        )


def tilts(pairs: Eigenpairs, residuals: Tensor, k: int) -> Tensor:
    """Bounds of the sines of the angles between leading eigenvectors and true ones: (k,) fp64.

    sin φ ≤ r / gap (Davis & Kahan 1970), with the gap to all other eigenvalues: those found, less their own
    residuals, and what may be outside the pairs, which has an |eigenvalue| of at most the least found one. An
    estimate where an eigenvalue was missed.

    Args:
        pairs: At least k pairs, best further ones.
        residuals: ‖Hv − λv‖₂ of all of them.
        k: How many.
    """
    values, reach = pairs.values.double().cpu(), residuals.double().cpu()
    distance = (values[:, None] - values[None, :]).abs() - reach[None, :]
    distance.fill_diagonal_(torch.inf)
    outside = values.abs() - values.abs()[-1] - reach[-1]
    if len(values) == pairs.basis.shape[1]:  # nothing is outside
        outside = torch.full_like(values, torch.inf)
    gap = torch.minimum(distance.amin(1) if len(values) > 1 else outside, outside) - reach
    return torch.where(gap > 0, (reach / gap.clamp_min(1e-300)).clamp_max(1), 1.0)[:k]


# --- What is here ------------------------------------------------------------------------------------------


def _participation(scene: Scene) -> Curve:
    """Σ_i Σ_j v_ij⁴ of the first k eigenvectors i over all coordinates j.

    A change δ of v_i with ‖δ‖ ≤ t moves its sum by at most 4 ‖v³‖ t + 6 t² + 4 t³ + t⁴, and the sum lies in
    [1/D, 1]. A tilt of sine s moves the vector by t = 2 sin(φ/2) ≤ √2 s.
    """
    count, dimension = scene.vectors.shape
    second, fourth, sixth = torch.zeros(3, count, dtype=torch.float64)
    for part in chunks(dimension, count):
        squares = scene.vectors[:, part].double().square()
        second += squares.sum(1).cpu()
        fourth += squares.square().sum(1).cpu()
        sixth += (squares * squares * squares).sum(1).cpu()
    fourth, sixth = fourth / second**2, sixth / second**3  # single precision leaves the norm a little off 1
    move = 2**0.5 * scene.tilts + torch.finfo(scene.vectors.dtype).eps
    error = 4 * sixth.sqrt() * move + 6 * move**2 + 4 * move**3 + move**4
    error = torch.minimum(error, torch.maximum(1 - fourth, fourth - 1 / dimension))
    uniform = torch.full_like(fourth, 3 / (dimension + 2))
    return Curve(*(each.cumsum(0).numpy() for each in (fourth, error, uniform)))


def _layerwise(scene: Scene) -> Tensor:
    """For each coordinate, which share of its own tensor has no larger magnitude; equal ones share a rank.

    Half a rank less lets a tensor's first weight into the mask when the mask has half a weight for it.
    """
    ranks = []
    for tensor in scene.tensors.values():
        magnitudes, order = tensor.detach().flatten().abs().sort()
        _, group, counts = torch.unique_consecutive(magnitudes, return_inverse=True, return_counts=True)
        rank = torch.empty(len(order), dtype=torch.float64, device=order.device)
        rank[order] = counts.cumsum(0).double()[group]
        ranks.append((rank - 0.5) / len(order))
    return torch.cat(ranks)


MASKS = (
    ScoredMask(
        "layerwise",
        "the largest |θ| of each tensor",
        "the mask takes the same share of the largest weights of every parameter tensor.",
        _layerwise,
    ),
)

OBSERVABLES: Mapping[str, Observable] = MappingProxyType(
    {
        each.name: each
        for each in (
            Observable(
                "participation",
                "participation ratio, summed",
                "the sum of the fourth powers of all coordinates of the first k eigenvectors: an eigenvector "
                "that lies on one coordinate adds 1, one that is spread evenly over D of them adds 1/D. At "
                "chance they are no more localised than random vectors.",
                _participation,
            ),
            *(mask.observable() for mask in MASKS),
        )
    }
)
