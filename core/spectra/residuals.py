"""How far computed eigenpairs are from eigenpairs of the operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from seigh.core.linalg.tiles import at_once
from seigh.core.spectra.basis import Storage
from seigh.core.spectra.eigenpairs import Eigenpairs
from seigh.core.spectra.operators import Operator, multiply, typed

# Pairs whose residuals are measured at once, at most.
_BLOCK = 32

# Pairs whose rounding errors are measured, by two products each.
CHECKS = 3

# Rounding errors of other pairs than the checked ones are taken to be so many times the interpolated ones. On
# 120 small networks (tanh, ReLU, GELU, sigmoid; D = 240 to 3,800) the largest of a network's were 1.5 times
# as large in the median and 8.6 times at most; five or eight checked pairs were hardly better than three.
_SAFETY = 10.0

# Without a more precise operator: a factor of what a second product shows, and units of rounding error
# of λ that products may be wrong by whenever they are formed. On a network in float32 they were up to 300.
_AGAIN = 2.5
_SYSTEMATIC = 320.0

# Units of rounding error of |λ₁| up to which an eigenvalue may be nothing else.
_NOISE = 8.0


def residuals(
    operator: Operator,
    pairs: Eigenpairs,
    index: Tensor | None = None,
    *,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Tensor:
    """‖Hv − λv‖₂ / ‖v‖₂ of the pairs ``index``, or of all, from one product for each: (n,) fp64.

    There is an eigenvalue of H within that distance of λ, up to the rounding errors of the products: those
    that are the same whenever a product is formed do not show in it, unless ``operator`` is a more precise
    one than the pairs came from.

    Args:
        operator: The symmetric operator H.
        pairs: The pairs.
        index: Which of the pairs.
        storage: Has a folder, for which a killed process has not measured in vain.
        resumed: Told how many products an earlier process has made.
    """
    operator = typed(operator)
    index = torch.arange(len(pairs.values), device=pairs.values.device) if index is None else index

    def measured(part: Tensor) -> Tensor:
        vectors = pairs.columns(part).to(operator.dtype)
        error = multiply(operator, vectors)
        error.addcmul_(vectors, pairs.values[part].to(vectors.dtype), value=-1)
        return _lengths(error) / _lengths(vectors)

    return _in_blocks("residuals", index, pairs, measured, storage, resumed)


def rayleigh(
    operator: Operator,
    pairs: Eigenpairs,
    *,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Eigenpairs:
    """The same vectors v with λ = vᵀHv / vᵀv and the residuals ‖Hv − λv‖₂ / ‖v‖₂, by descending |λ|.

    A sketch's own λ may be farther from an eigenvalue than the residual: of all numbers the Rayleigh quotient
    has the smallest residual, and its error is of second order in that of v. Costs a product for each pair.

    Args:
        operator: The symmetric operator H.
        pairs: Pairs with the vectors V.
        storage: As for ``residuals``.
        resumed: As for ``residuals``.
    """
    index = torch.arange(len(pairs.values), device=pairs.values.device)

    def measured(part: Tensor) -> Tensor:
        vectors = pairs.columns(part).to(operator.dtype)
        images = multiply(operator, vectors)
        squared = _lengths(vectors).square()
        values = (vectors * images).sum(0, dtype=torch.float64) / squared
        images.addcmul_(vectors, values.to(vectors.dtype), value=-1)
        return torch.stack([values, _lengths(images) / squared.sqrt()])

    values, lengths = _in_blocks("rayleigh", index, pairs, measured, storage, resumed)
    order = values.abs().argsort(descending=True, stable=True)
    return replace(
        pairs,
        values=values[order],
        coefficients=pairs.coefficients[:, order],
        residuals=lengths[order],
        hvps=pairs.hvps + len(index),
        coarser=None,
    )


def _in_blocks(
    name: str,
    index: Tensor,
    pairs: Eigenpairs,
    measure: Callable[[Tensor], Tensor],
    storage: Storage | None,
    resumed: Callable[[int], None] | None,
) -> Tensor:
    """Apply ``measure`` to the pairs ``index``, block by block along the last axis.

    A block that an earlier process has noted is not measured again.
    """
    storage = storage or Storage()
    out = []
    width = at_once(_BLOCK, pairs.basis.shape[1], pairs.basis.itemsize)
    for number, part in enumerate(torch.split(index, width)):
        label = f"{name}-{len(index)}-{number}"
        found = storage.noted(label, pairs.values)
        if found is None:
            found = measure(part)
            storage.note(label, pairs.values, found)
        elif resumed is not None:
            resumed(len(part))
        out.append(found.to(pairs.values.device))
    return torch.cat(out, dim=-1)


def numerical_rank(pairs: Eigenpairs, residuals: Tensor) -> int:
    """How many of the pairs have an |λ| that rounding errors cannot have made.

    An eigenvalue 0 comes out of products in floating point as some units of rounding error of |λ₁|, and its
    eigenvectors are then no more than noise.

    Args:
        pairs: By descending |λ|.
        residuals: Residuals of all pairs.
    """
    if not len(pairs.values):
        return 0
    magnitudes = pairs.values.double().abs()
    precision = pairs.precision or torch.finfo(pairs.basis.dtype).eps
    noise = _NOISE * precision * magnitudes[0]
    beyond = residuals.to(magnitudes.device)[: len(magnitudes)].min().clamp_max(_NOISE * noise)
    return int((magnitudes > torch.maximum(noise, beyond)).sum())


def with_rounding(
    operator: Operator,
    reference: Operator | None,
    pairs: Eigenpairs,
    lengths: Tensor,
    k: int,
    *,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Eigenpairs:
    """The pairs with what rounding makes wrong, and the residuals ``lengths`` enlarged by it.

    Products in float32 have errors that are the same every time, so no residual that is measured with them
    shows them. They are measured on ``CHECKS`` pairs as ‖(H − H₆₄)v‖, or
    what ‖H₆₄v − λv‖ has beyond the residual if that is more; between these they are interpolated as
    a power of |λ|, times ``_SAFETY``. Where there is no more precise operator, a product says how far the
    residual of a checked pair is from what it should be, which is taken ``_AGAIN`` times, and ``_SYSTEMATIC``
    units of rounding error of λ are added.

    Args:
        operator: H as the pairs came from it.
        reference: The same operator in higher precision.
        pairs: By descending |λ|.
        lengths: (n,), their residuals up to rounding.
        k: Pairs beyond this one are not checked.
        storage: As for ``residuals``.
        resumed: As for ``residuals``.
    """
    storage = storage or Storage()
    count = min(k, len(pairs.values))
    place = np.unique(np.geomspace(1, count, min(CHECKS, count)).round().astype(int)) - 1
    checked = torch.from_numpy(place).to(pairs.values.device)
    precision = torch.finfo(operator.dtype).eps
    if reference is None or reference.dtype == operator.dtype:
        measured = residuals(operator, pairs, checked, storage=storage, resumed=resumed)
        found = _AGAIN * (measured - lengths[checked]).clamp_min(0)
        found = found + _SYSTEMATIC * precision * pairs.values[checked].abs()
        spent = len(checked)
    else:
        name, spent = f"rounding-{len(checked)}", 2 * len(checked)
        noted = storage.noted(name, pairs.values)
        if noted is None:
            noted = torch.stack([_rounding_of(each, operator, reference, pairs, lengths) for each in checked])
            storage.note(name, pairs.values, noted)
        elif resumed is not None:
            resumed(spent)
        found = _SAFETY * noted.to(pairs.values.device)
    rounding = _interpolated(pairs.values.abs(), checked, found, precision)
    return replace(
        pairs, residuals=torch.hypot(lengths, rounding), rounding=rounding, hvps=pairs.hvps + spent
    )


def _rounding_of(
    checked: Tensor, operator: Operator, reference: Operator, pairs: Eigenpairs, lengths: Tensor
) -> Tensor:
    """By how much products with one vector are wrong, as ``with_rounding`` measures it: a number.

    One by one: vectors in float64 take twice the memory, and the longest a good part of the machine's.
    """
    vector = pairs.columns(checked[None])
    rounded = multiply(operator, vector.to(operator.dtype)).to(reference.dtype)
    vector = vector.to(reference.dtype)
    exactly = multiply(reference, vector)
    off = _lengths(rounded.sub_(exactly))[0]
    del rounded
    left = _lengths(exactly.addcmul_(vector, pairs.values[checked].to(reference.dtype), value=-1))[0]
    # Of the residual, what the recurrence does not know of: rounding of the basis is in it as well.
    unknown = (left.square() - lengths[checked].square()).clamp_min(0).sqrt()
    return torch.maximum(off, unknown)


def _interpolated(magnitudes: Tensor, checked: Tensor, found: Tensor, precision: float) -> Tensor:
    """Rounding errors of all pairs, from those of some: (n,)."""
    least = torch.finfo(torch.float64).tiny
    sizes = magnitudes.double().clamp_min(least).log().cpu().numpy()
    known = found.double().clamp_min(least).log().cpu().numpy()
    at = sizes[checked.cpu().numpy()]
    # Ascending for numpy; pairs beyond the checked ones are like the last.
    values = np.exp(np.interp(sizes, at[::-1], known[::-1]))
    unit = precision * magnitudes.double()
    return torch.maximum(torch.from_numpy(values).to(magnitudes.device), unit)


def _lengths(columns: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(columns, dim=0).double()
    return lengths
