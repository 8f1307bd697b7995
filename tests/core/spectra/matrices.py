"""Symmetric matrices with known spectra, for holding methods to."""

from functools import lru_cache

import torch
from torch import Tensor


def symmetric(eigenvalues: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """H = V diag(λ) Vᵀ with random V: (D, D) and V (D, D), in fp64, V's columns in the order of λ."""
    vectors = _orthogonal(len(eigenvalues), seed).clone()
    matrix = (vectors * eigenvalues.double()) @ vectors.T
    return (matrix + matrix.T) / 2, vectors


@lru_cache(maxsize=16)  # most tests ask for the same few
def _orthogonal(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def hessian_like(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(H, λ, V): indefinite, decaying like a network's Hessian, distinct |λ|; λ by descending |λ|."""
    index = torch.arange(size, dtype=torch.float64)
    eigenvalues = 10 * torch.exp(-index / (size / 12)) + 1e-4 * torch.exp(-index / size)
    eigenvalues[3::4] *= -1
    matrix, vectors = symmetric(eigenvalues, seed)
    return matrix, eigenvalues, vectors


def subspace_overlap(u: Tensor, v: Tensor) -> float:
    """‖UᵀV‖²_F / k of two orthonormal D × k matrices: 1 where they span the same space."""
    return float((u.double().T @ v.double()).square().sum()) / u.shape[1]
