"""Long rows in pieces: what fits into memory and caches, and products of them."""

from __future__ import annotations

import torch
from torch import Tensor

# Part of a basis that is held in fp64 at once, in bytes: bounds the memory of streamed products, and blocks
# of this size the allocator hands out again, where it maps larger ones anew.
CHUNK_BYTES = 16 * 2**20

# The same where a CPU multiplies what it has just copied: it is in the caches still.
_CACHED_BYTES = 4 * 2**20

# Columns of long rows that one thread multiplies at once, at most; strips of fewer than the least are not
# worth it. Eight of them keep as many threads busy. A width that vector registers divide is faster by a
# quarter.
_STRIP, _LEAST_STRIP, _STRIPS, _LANES = 2**12, 2**9, 8, 2**6


# Bytes of vectors that are multiplied or measured at once, where any number of them would do.
_VECTORS = 2**30


def at_once(most: int, length: int, itemsize: int) -> int:
    """How many vectors to multiply at once: ``most``, or fewer very long ones, one at least."""
    return max(1, min(most, _VECTORS // (length * itemsize)))


def chunks(length: int, width: int, itemsize: int = 8, *, cached: torch.device | None = None) -> list[slice]:
    """Slices of ``range(length)`` such that ``width`` rows of a slice stay below ``CHUNK_BYTES``.

    ``cached`` is the device that works on them one after the other: in a CPU's caches they then stay, and all
    but the last have a length that suits ``strips``.
    """
    on_cpu = cached is not None and cached.type == "cpu"
    step = min(CHUNK_BYTES, _CACHED_BYTES if on_cpu else CHUNK_BYTES) // max(1, width * itemsize)
    even = _STRIPS * _LANES
    if on_cpu and step > even:
        step -= step % even
    step = max(1, min(length, step))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def strips(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (m, L) as a batch of strips of equal width w, (s, m, w), and the columns left over, both views.

    On a CPU one thread computes the product of few long rows, and packs them most of the time; the products
    of a batch are computed by all threads, each from its own cache. There are no strips where rows are short,
    or on another device.
    """
    width = min(_STRIP, rows.shape[1] // _STRIPS // _LANES * _LANES)
    count = rows.shape[1] // width if rows.device.type == "cpu" and width >= _LEAST_STRIP else 0
    batch = rows[:, : count * width].view(len(rows), count, width if count else 0).transpose(0, 1)
    return batch, rows[:, count * width :]


def form(basis: Tensor, coefficients: Tensor, out: Tensor, *, in_double: bool = False) -> Tensor:
    """``out[:n] = coefficientsᵀ @ basis`` for coefficients (m, n), in one pass; returns that part of ``out``.

    ``out`` may be the basis itself if n ≤ m. The products are in the basis's precision, or ``in_double``.
    """
    wanted = coefficients.shape[1]
    dtype = torch.float64 if in_double else basis.dtype
    factor = coefficients.T.to(dtype)
    for part in chunks(basis.shape[1], len(basis), dtype.itemsize, cached=coefficients.device):
        batch, rest = strips(basis[:, part].to(coefficients.device))
        target = out[:wanted, part]
        if len(batch):
            targets, target = strips(target)
            # Rows of a long matrix are far apart in memory: side by side they are multiplied faster.
            beside = batch.to(dtype, memory_format=torch.contiguous_format)
            targets.copy_(torch.bmm(factor.expand(len(batch), *factor.shape), beside))
        target.copy_(factor @ rest.to(dtype))
    return out[:wanted]
