"""Random test matrices Ω (n × D) for sketches, applied and formed in blocks and never stored whole.

All random choices are drawn on the CPU whatever the device, so that a seed means the same matrix everywhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from seigh.core.linalg.tiles import chunks
from seigh.core.names import TEST_MATRICES, TestMatrixName

# A matrix is known by a seed and, where one seed serves several matrices, the number of each.
Seed = int | tuple[int, ...]

# Coordinates that are summed in the block's precision before fp64 takes over: bounds the rounding error of
# long sums, and keeps both factors in cache.
_SUMMED = 2**12

# Rows that are transformed or drawn at once: the allocator keeps blocks of up to 32 MiB, and larger ones cost
# as much in page faults as a transform; fewer than eight leave threads idle, and each FFT is planned anew.
_BATCH_BYTES = 32 * 2**20
_LEAST_BATCH = 8

# Rows of more bytes do not stay in a core's cache while they are permuted.
_LONG_BYTES = 2**20

# Below this length a slow FFT costs nothing, and the rows of Ω stay exactly orthonormal.
_SHORTEST_PADDED = 2**16


class TestMatrix(Protocol):
    """Ω (n × D): mean-zero rows of unit (mean squared) norm, so that Ωx is of one size for all kinds.

    Attributes:
        shape: (n, D).
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    def apply(self, block: Tensor, /) -> Tensor:
        """Ω @ block: (D, b) → (n, b) fp64; the product is computed in the block's precision."""

    def columns(self, start: int, stop: int, /) -> Tensor:
        """Columns start … stop−1 of Ωᵀ, i.e. rows of Ω: (D, stop − start)."""


def draw_test_matrix(
    name: TestMatrixName,
    n: int,
    dimension: int,
    seed: Seed,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> TestMatrix:
    """The n × D test matrix of that name.

    Args:
        name: One of ``TEST_MATRICES``.
        n: Number of rows, at most ``dimension``.
        dimension: D.
        seed: Matrices of different seeds are independent.
        dtype: Floating-point format of blocks.
        device: Where blocks live.

    Raises:
        ValueError: There is no matrix of that name, or n is not in 1 … D.
    """
    kinds: dict[str, Callable[..., TestMatrix]] = {
        "ssrft": SSRFT,
        "gaussian": Gaussian,
        "rademacher": Rademacher,
    }
    if name not in kinds:
        raise ValueError(f"There is no test matrix “{name}”; choose one of {', '.join(TEST_MATRICES)}.")
    return kinds[name](n, dimension, seed, dtype, device)


class SSRFT:
    """Scrambled subsampled randomised trigonometric transform Ω = R·F·Π·F·Π′ (TYUC, arXiv 1902.08651, §3.2).

    F is the orthonormal DCT-II, Π and Π′ are signed permutations and R picks n of the D coordinates, so
    the rows of Ω are orthonormal. Applying it costs O(D log D) per vector.

    An FFT whose length has a large prime factor takes up to ten times as long. Where D is large and at
    least 2n, F therefore has the next length N ≥ D without prime factors above 5 (N < 1.03 D) and vectors
    are padded with zeros up to it; the rows are then orthonormal up to (N − D)/N.
    """

    def __init__(
        self, n: int, dimension: int, seed: Seed, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        """See ``draw_test_matrix``."""
        _check(n, dimension)
        self.shape = (n, dimension)
        self._dtype, self._device = dtype, torch.device(device)
        self._length = padded_length(n, dimension)
        first, first_signs, second, second_signs, picked = ssrft_choices(n, self._length, seed)

        # F is an FFT between two reorderings (Makhoul 1980). These and the neighbouring permutations and
        # signs become one gather and one factor each way, as passes over memory are what takes the time.
        fold = torch.cat([torch.arange(0, self._length, 2), torch.arange(1, self._length, 2).flip(0)])
        place, place_signs, source, source_signs = _half_spectrum(self._length)
        self._in = self._gather(first[fold], first_signs[fold], dimension)
        self._between = self._gather(place[second[fold]], (place_signs[second] * second_signs)[fold])
        back, forth = _inverse(second)[source], _inverse(first)[:dimension]
        self._back = self._gather(back, source_signs * second_signs[back])
        self._out = self._gather(_inverse(fold)[forth], first_signs[forth])
        self._picked = picked.to(self._device)
        self._places = place[picked].to(self._device)
        self._place_signs = place_signs[picked].to(self._device, dtype)

        angle = torch.arange(self._length // 2 + 1, dtype=torch.float64) * (math.pi / (2 * self._length))
        turns = torch.polar(torch.full_like(angle, math.sqrt(2)), -angle)
        turns[0] = 1
        self._turns = turns.to(self._device, dtype.to_complex())
        self._turns_back = (1 / turns).to(self._device, dtype.to_complex())

    def apply(self, block: Tensor) -> Tensor:
        """Ω @ block: (D, b) → (n, b) fp64."""
        out = torch.empty(block.shape[1], self.shape[0], dtype=torch.float64, device=self._device)
        for part in _batches(block.shape[1], self._length, self._dtype):
            rows = _gathered(block[:, part].T, *self._in)
            rows = torch.fft.rfft(rows, norm="ortho").mul_(self._turns)
            rows = _gathered(torch.view_as_real(rows).flatten(1), *self._between)
            spectrum = torch.fft.rfft(rows, norm="ortho")
            picked = self._places // 2
            turned = torch.view_as_real(spectrum[:, picked] * self._turns[picked])
            out[part] = turned[:, torch.arange(len(picked)), self._places % 2] * self._place_signs
        return out.T

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns start … stop−1 of Ωᵀ, i.e. rows of Ω: (D, stop − start)."""
        out = torch.empty(stop - start, self.shape[1], dtype=self._dtype, device=self._device)
        for part in _batches(stop - start, self._length, self._dtype):
            cosines = self._cosines(self._picked[start:stop][part])
            spectrum = torch.view_as_complex(cosines.view(len(cosines), -1, 2)).mul_(self._turns_back)
            rows = torch.fft.irfft(spectrum, n=self._length, norm="ortho")
            _gathered(rows, *self._out, out[part])
        return out.T

    def _cosines(self, picked: Tensor) -> Tensor:
        """ΠᵀFᵀ of coordinates of R, as interleaved half spectra: (b,) → (b, 2⌊N/2⌋ + 2).

        F's rows are cosines, √(2/N) cos(π p (2j + 1)/2N) for p > 0, and are computed where they are wanted:
        a transform and a permutation less. p (2j + 1) is below 2⁵³, and so exact, up to N = 6.7·10⁷.
        """
        index, signs = self._back
        period = 4 * self._length
        scale = ((1 + (picked > 0)).double() / self._length).sqrt_()
        rows = torch.empty(len(picked), len(index), dtype=self._dtype, device=self._device)
        for part in chunks(len(index), len(picked), cached=self._device):
            angle = picked.double()[:, None] * (2 * index[part].double() + 1)
            angle.sub_((angle / period).floor_(), alpha=period).mul_(2 * math.pi / period)
            torch.mul(angle.cos_().mul_(scale[:, None]), signs[part], out=rows[:, part])
        return rows

    def _gather(self, index: Tensor, signs: Tensor, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Index and factors on the device; entries from ``limit`` on are padding, i.e. zero."""
        if limit is not None:
            padding = index >= limit
            index, signs = index.masked_fill(padding, 0), signs.masked_fill(padding, 0)
        return index.to(self._device, torch.int32), signs.to(self._device, self._dtype)


def ssrft_choices(n: int, length: int, seed: Seed) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Π′ and Π, each as a permutation and signs (x ↦ x[permutation] · signs), and R's n coordinates."""
    generator = _generator(seed)

    def permutation() -> Tensor:
        return torch.randperm(length, generator=generator)

    def signs() -> Tensor:
        return 2 * torch.randint(0, 2, (length,), generator=generator, dtype=torch.int8) - 1

    return permutation(), signs(), permutation(), signs(), permutation()[:n]


def padded_length(n: int, dimension: int) -> int:
    """Length N ≥ D of the transforms of an n × D SSRFT."""
    if dimension < _SHORTEST_PADDED or 2 * n > dimension:
        return dimension
    import scipy.fft  # SciPy takes long to import

    return int(scipy.fft.next_fast_len(dimension, real=True))


def _gathered(rows: Tensor, index: Tensor, signs: Tensor, out: Tensor | None = None) -> Tensor:
    """``rows[:, index] * signs``: (b, N) → (b, n)."""
    if out is None:
        out = torch.empty(len(rows), len(index), dtype=rows.dtype, device=rows.device)
    if rows.device.type != "cpu" or rows.shape[1] * rows.itemsize < _LONG_BYTES:
        return torch.mul(rows.index_select(1, index), signs, out=out)
    # Each entry of a long row is read from memory with its neighbours, for nothing unless those of the other
    # rows are its neighbours.
    beside = torch.empty(rows.shape[1], len(rows), dtype=rows.dtype)
    for part in chunks(rows.shape[1], len(rows), rows.itemsize, cached=rows.device):
        beside[part] = rows[:, part].T
    for part in chunks(len(index), len(rows), rows.itemsize, cached=rows.device):
        torch.mul(beside.index_select(0, index[part]).T, signs[part], out=out[:, part])
    return out


def _inverse(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(len(permutation))
    return inverse


def _half_spectrum(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How a DCT lies in the interleaved half spectrum z of the folded row, turned by e^{−iπk/2N}.

    DCT(x)_k = Re z_k for k ≤ N/2, and −Im z_{N−k} beyond.

    Returns:
        For each coefficient k its place in the interleaved z and its sign, (N,) each; and for each place in
        the interleaved z the coefficient it comes from and its sign (0 where it is 0), (2⌊N/2⌋ + 2,) each.
    """
    k = torch.arange(length)
    real = k <= length // 2
    place = torch.where(real, 2 * k, 2 * (length - k) + 1)
    place_signs = torch.where(real, 1, -1).to(torch.int8)
    half = torch.arange(length // 2 + 1)
    source = torch.stack([half, (length - half) % length], dim=1).flatten()
    source_signs = torch.tensor([1, -1], dtype=torch.int8).repeat(len(half))
    source_signs[1] = 0
    return place, place_signs, source, source_signs


class _IndependentRows(ABC):
    """Rows with independent entries of variance 1/D, each from a seed of its own and drawn when needed."""

    def __init__(
        self, n: int, dimension: int, seed: Seed, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        """See ``draw_test_matrix``."""
        _check(n, dimension)
        self.shape = (n, dimension)
        self._dtype, self._device = dtype, torch.device(device)
        self._seed = _seed(seed)

    def apply(self, block: Tensor) -> Tensor:
        """Ω @ block: (D, b) → (n, b) fp64."""
        n, dimension = self.shape
        out = torch.zeros(n, block.shape[1], dtype=torch.float64, device=self._device)
        for part in _batches(n, dimension, self._dtype):
            rows = self._rows(part.start, part.stop)
            for inner in _slices(dimension, _SUMMED):
                out[part] += rows[:, inner] @ block[inner]
        return out

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns start … stop−1 of Ωᵀ, i.e. rows of Ω: (D, stop − start)."""
        return self._rows(start, stop).T

    def _rows(self, start: int, stop: int) -> Tensor:
        rows = torch.empty(stop - start, self.shape[1], dtype=self._dtype, device=self._device)
        for row in range(start, stop):
            # The generator knows 2³² seeds; those of one matrix's rows are distinct.
            rows[row - start] = self._draw(torch.Generator().manual_seed((self._seed + row) % 2**32))
        return rows.mul_(self.shape[1] ** -0.5)

    @abstractmethod
    def _draw(self, generator: torch.Generator) -> Tensor:
        """One row of entries with variance 1: (D,)."""


class Gaussian(_IndependentRows):
    """Independent entries N(0, 1/D), drawn in fp32 whatever the precision."""

    def _draw(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.shape[1], generator=generator, dtype=torch.float32).to(self._device)


class Rademacher(_IndependentRows):
    """Independent entries ±1/√D, one random bit each."""

    def _draw(self, generator: torch.Generator) -> Tensor:
        words = torch.empty(-(-self.shape[1] // 64), dtype=torch.int64)
        words.random_(-(2**63), None, generator=generator)
        signs = _signs_of_bytes().to(self._device, self._dtype)
        chosen = signs.index_select(0, words.view(torch.uint8).to(self._device).int())
        return chosen.flatten()[: self.shape[1]]


def _signs_of_bytes() -> Tensor:
    """The eight bits of each byte as ±1: (256, 8)."""
    return 2 * ((torch.arange(256)[:, None] >> torch.arange(8)) & 1) - 1


def _check(n: int, dimension: int) -> None:
    if not 1 <= n <= dimension:
        raise ValueError(f"A test matrix needs 1 ≤ n ≤ D; got n = {n} and D = {dimension}.")


def _seed(seed: Seed) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def _generator(seed: Seed) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed))


def _batches(count: int, length: int, dtype: torch.dtype) -> Iterator[slice]:
    return _slices(count, max(_LEAST_BATCH, _BATCH_BYTES // (length * dtype.itemsize)))


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
