r"""Whether a loss is a mean over samples, and with which weights: measured on the network's outputs.

A loss L of outputs f₁ … f_N is a weighted mean if L(S) = Σ_{i∈S} w_i ℓ_i(f_i) / Σ_{i∈S} w_i for every set S
of samples. Then, with a_P = Σ_{i∈P} w_i / Σ_i w_i for a part P of all samples, the derivatives of the whole
with respect to the outputs of P are a_P times those of the loss of P alone, of every order, and the parts'
Hessians are to be added with the weights a_P. Nothing of the network is needed to find this out.

It is asked at two places: at the network's outputs, and at random ones, because before training all outputs
are nearly alike and any weights seem right there, and after it the loss may be almost 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seigh.core.curvature.certificate import Check, Float64, copied, in_float64, unequal_parts

# Rounding units that the sums of a loss may differ by: it has tens of operations on sums of N terms.
_UNITS = 2.0**12
_EPS = 2.0**-53


class LossError(ValueError):
    """A loss that cannot be used; the message says why, and goes on from "The loss '…' "."""


@dataclass(frozen=True)
class Mean:
    """The weighted mean over samples that a loss was found to be.

    Attributes:
        shares: (N,) float64, each sample's weight in the mean, with sum 1; None if all weigh the same.
        additivity: How far the loss is from this mean.
        curvature: How much the loss curves at the network's outputs, relative to random outputs.
        amplification: By how much the loss amplifies rounding: how much smaller its derivatives are there
            than at random outputs, or how much larger the outputs; at least 1.
    """

    shares: Tensor | None
    additivity: Check
    curvature: Check
    amplification: float


@dataclass(frozen=True)
class _Derivatives:
    """Value, gradient, and Hessian times a random vector of a loss, taken in the outputs."""

    value: float
    slope: Tensor
    bend: Tensor


def mean_of(loss: nn.Module, outputs: Tensor, targets: Tensor) -> Mean:
    """The weights of the samples in a loss.

    Args:
        loss: ``loss(outputs, targets) -> scalar``.
        outputs: The network's, (N, …), in the format that products are computed in.
        targets: (N, …).

    Raises:
        LossError: The loss gives no single number, or is no mean over its samples.
    """
    exact = copied(loss)
    at, y = in_float64(outputs.detach()), in_float64(targets)
    generator = torch.Generator().manual_seed(0)
    noise, z = (torch.randn(at.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    noise, z = noise.to(at.device), z.to(at.device)

    def of(place: Tensor, part: slice) -> _Derivatives:
        return _derivatives(exact, place[part], y[part], z[part])

    def everywhere(part: slice) -> list[_Derivatives]:
        return [of(place, part) for place in places]

    whole_part = slice(0, len(at))
    places = [at, noise]
    noisy = True
    try:
        whole = everywhere(whole_part)
        noisy = bool(whole[1].slope.isfinite().all())
    except LossError:
        raise
    except Exception:  # such as of a loss of probabilities, which refuses what is none
        noisy = False
    if not noisy:
        places[1] = 0.5 * (at + at[torch.randperm(len(at), generator=generator).to(at.device)])
        whole = everywhere(whole_part)

    parts = unequal_parts(len(at))
    shares: Tensor | None = None
    error = _error(whole, parts, [len(range(*p.indices(len(at)))) / len(at) for p in parts], everywhere)
    if not error <= _UNITS * _EPS and len(at) > 1:
        shares = _shares(whole, len(at), everywhere)
        error = _error(whole, parts, [float(shares[p].sum()) for p in parts], everywhere)
        if abs(float(shares.sum()) - 1) > math.sqrt(_EPS):
            error = max(error, abs(float(shares.sum()) - 1))
        if _error(whole, parts, [1.0] * len(parts), everywhere) <= math.sqrt(_EPS):
            mean = whole[0].value / len(at)
            raise LossError(
                f"is no mean over its samples: it is {whole[0].value:.6g} on all of them and {mean:.6g} as "
                "the mean of each alone; divide by their number, or by the sum of their weights."
            )
    tolerance = math.sqrt(_EPS) if shares is not None else _UNITS * _EPS
    if not error <= tolerance:
        raise LossError(
            "is no mean over its samples: whatever the weights, its derivatives on all of them and on parts "
            f"of them differ by {error:.2g} of their size, so it looks at several samples together; use a "
            "loss that is a mean, or a weighted mean, of one term for each sample."
        )
    weights = "all weigh the same" if shares is None else "they weigh differently"
    additivity = Check("loss", error, tolerance, True, f"The loss is a mean over its samples; {weights}.")
    curvature = _curvature(whole, outputs.dtype, noisy)
    # Random outputs are of size 1; the rounding errors of larger ones are larger.
    amplification = max(1.0, float(at.abs().max()))
    if noisy and whole[1].slope.any() and whole[0].slope.any():
        ratios = [
            float(there / here)
            for here, there in (
                (whole[0].slope.norm(), whole[1].slope.norm()),
                (whole[0].bend.norm(), whole[1].bend.norm()),
            )
            if here
        ]
        amplification = max([amplification, *ratios])
    return Mean(shares, additivity, curvature, amplification)


def _derivatives(loss: nn.Module, outputs: Tensor, targets: Tensor, z: Tensor) -> _Derivatives:
    at = outputs.detach().requires_grad_()
    with torch.enable_grad(), Float64():
        value = loss(at, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise LossError("gives no single number; it must be the mean over its samples.")
        if not value.requires_grad:
            return _Derivatives(float(value.detach()), torch.zeros_like(at), torch.zeros_like(at))
        (slope,) = torch.autograd.grad(value, at, create_graph=True)
        bend: Tensor | None = None
        if slope.requires_grad:
            (bend,) = torch.autograd.grad((slope * z).sum(), at, allow_unused=True)
    return _Derivatives(
        float(value.detach()), slope.detach(), torch.zeros_like(at) if bend is None else bend.detach()
    )


def _error(
    whole: list[_Derivatives],
    parts: list[slice],
    shares: list[float],
    of: Callable[[slice], list[_Derivatives]],
) -> float:
    """The largest relative difference between the whole's derivatives and the parts' with these weights."""
    sums = [0.0] * len(whole)
    squares = [[0.0, 0.0] for _ in whole]
    for part, share in zip(parts, shares, strict=True):
        for place, (all_of_them, found) in enumerate(zip(whole, of(part), strict=True)):
            if share == 0:  # its own mean is 0/0
                found = _Derivatives(0.0, torch.zeros_like(found.slope), torch.zeros_like(found.bend))
            sums[place] += share * found.value
            for which, (mine, its) in enumerate(
                ((all_of_them.slope[part], found.slope), (all_of_them.bend[part], found.bend))
            ):
                squares[place][which] += float((mine - share * its).square().sum())
    largest = 0.0
    # Of both places: where a loss is almost 0, its derivatives are what rounding has left of larger numbers.
    sizes = [max(float(each.slope.norm()) for each in whole), max(float(each.bend.norm()) for each in whole)]
    for place, all_of_them in enumerate(whole):
        errors = [math.sqrt(s) / size for s, size in zip(squares[place], sizes, strict=True) if size]
        if all_of_them.value:
            errors.append(abs(sums[place] - all_of_them.value) / max(1.0, abs(all_of_them.value)))
        largest = max([largest, *(math.inf if error != error else error for error in errors)])
    return largest


def _shares(whole: list[_Derivatives], samples: int, of: Callable[[slice], list[_Derivatives]]) -> Tensor:
    """Every sample's weight: its derivatives in the whole, as a multiple of those of its own loss."""
    shares = torch.full((samples,), math.nan, dtype=torch.float64)
    for i in range(samples):
        part = slice(i, i + 1)
        product = size = inside = 0.0
        for all_of_them, alone in zip(whole, of(part), strict=True):
            inside += float(all_of_them.slope[part].square().sum())
            if bool(alone.slope.isfinite().all()):
                product += float((all_of_them.slope[part] * alone.slope).sum())
                size += float(alone.slope.square().sum())
        if size:
            shares[i] = product / size
        elif not inside:
            shares[i] = 0.0  # of a sample that is ignored, the loss alone is 0/0
    return shares.nan_to_num(0.0)


def _curvature(whole: list[_Derivatives], dtype: torch.dtype, noisy: bool) -> Check:
    """Whether the loss curves at all at these outputs: below the unit roundoff, what is left is rounding."""
    roundoff = torch.finfo(dtype).eps / 2
    here, there = (float(each.bend.norm()) for each in whole)
    value = here / there if noisy and there else 1.0
    passed = value > roundoff
    sentence = "The loss curves at the network's outputs."
    if not passed:
        way = "choose an earlier checkpoint"
        if dtype != torch.float64 and value > _EPS:
            way = "use float64, or an earlier checkpoint"
        sentence = (
            f"The loss on these samples is {whole[0].value:.2g} and flat to rounding: its second derivatives "
            f"are {value:.1g} of what they are at other outputs, so that eigenvalues would be noise; {way}."
        )
    return Check("curvature", value, roundoff, passed, sentence)
