"""Random test matrices Ω (n × D) for sketches, applied and formed in blocks, never one row at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class SSRFT:
    """Scrambled subsampled randomised trigonometric transform Ω = R·F·Π·F·Π′ (TYUC, arXiv 1902.08651, §3.2).

    F is the orthonormal DCT-II, Π and Π′ are signed permutations and R picks n of the D coordinates, so
    the rows of Ω are orthonormal. Applying it costs O(D log D) per vector and O(D) memory for the
    permutations and signs.

    The random choices are drawn on the CPU whatever the device, so that a seed means the same matrix
    everywhere.
    """

    def __init__(
        self, n: int, dimension: int, seed: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        """Args:
        n: Number of rows, at most ``dimension``.
        dimension: D.
        seed: Two matrices with different seeds are independent.
        dtype: Floating-point format of blocks.
        device: Where blocks live.

        Raises:
            ValueError: n is not in 1 … D.
        """
        if not 1 <= n <= dimension:
            raise ValueError(f"A test matrix needs 1 ≤ n ≤ D; got n = {n} and D = {dimension}.")
        self.shape = (n, dimension)
        self._dtype, self._device = dtype, device
        generator = torch.Generator().manual_seed(seed)

        def permutation() -> Tensor:
            return torch.randperm(dimension, generator=generator).to(device)

        def signs() -> Tensor:
            bits = torch.randint(0, 2, (dimension,), generator=generator, dtype=torch.int8)
            return (2 * bits - 1).to(device=device, dtype=dtype)

        self._first, self._first_signs = permutation(), signs()
        self._second, self._second_signs = permutation(), signs()
        self._picked = permutation()[:n]

    def apply(self, block: Tensor) -> Tensor:
        """Ω @ block: (D, b) → (n, b)."""
        rows = block.T[:, self._first] * self._first_signs
        rows = dct(rows)[:, self._second] * self._second_signs
        sketched: Tensor = dct(rows)[:, self._picked].T
        return sketched

    def columns(self, start: int, stop: int) -> Tensor:
        """Columns start … stop−1 of Ωᵀ, i.e. rows of Ω: (D, stop − start)."""
        picked = self._picked[start:stop]
        rows = torch.zeros(len(picked), self.shape[1], dtype=self._dtype, device=self._device)
        rows[torch.arange(len(picked), device=self._device), picked] = 1
        for order, signs in ((self._second, self._second_signs), (self._first, self._first_signs)):
            transformed = inverse_dct(rows) * signs
            rows = torch.empty_like(transformed)
            rows[:, order] = transformed
        columns: Tensor = rows.T
        return columns


def dct(rows: Tensor) -> Tensor:
    """Orthonormal DCT-II of each row of a (b, D) tensor, by one FFT of length D (Makhoul 1980)."""
    length = rows.shape[-1]
    reordered = torch.cat([rows[:, ::2], rows[:, 1::2].flip(-1)], dim=-1)
    spectrum = torch.fft.fft(reordered, dim=-1)
    angle = _quarter_turns(rows)
    out: Tensor = spectrum.real * angle.cos() + spectrum.imag * angle.sin()
    out *= math.sqrt(2 / length)
    out[:, 0] /= math.sqrt(2)
    return out


def inverse_dct(rows: Tensor) -> Tensor:
    """Inverse, and transpose, of ``dct``."""
    length = rows.shape[-1]
    scaled = rows * math.sqrt(length / 2)
    scaled[:, 0] *= math.sqrt(2)
    mirrored = torch.cat([torch.zeros_like(scaled[:, :1]), -scaled[:, 1:].flip(-1)], dim=-1)
    angle = _quarter_turns(rows)
    spectrum = torch.complex(scaled, mirrored) * torch.polar(torch.ones_like(angle), angle)
    reordered = torch.fft.ifft(spectrum, dim=-1).real
    out = torch.empty_like(rows)
    half = (length + 1) // 2
    out[:, ::2] = reordered[:, :half]
    out[:, 1::2] = reordered[:, half:].flip(-1)
    return out


def _quarter_turns(rows: Tensor) -> Tensor:
    """π j / 2D for j = 0 … D−1; in fp64 first, as fp32 cannot count beyond 2²⁴."""
    length = rows.shape[-1]
    angle = torch.arange(length, dtype=torch.float64, device=rows.device) * (math.pi / (2 * length))
    return angle.to(rows.dtype)
