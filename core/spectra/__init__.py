"""Eigenpairs of large symmetric operators, matrix-free."""

from seigh.core.spectra.aposteriori import APosteriori, a_posteriori
from seigh.core.spectra.basis import Storage
from seigh.core.spectra.completeness import Completeness
from seigh.core.spectra.eigenpairs import Eigenpairs, SingularTriplets
from seigh.core.spectra.exact import exact
from seigh.core.spectra.krylov import block_krylov
from seigh.core.spectra.operators import Deferred, Operator, Shifted, SpectrumError
from seigh.core.spectra.residuals import numerical_rank, rayleigh, residuals
from seigh.core.spectra.ritz import rayleigh_ritz
from seigh.core.spectra.sketched import eigenpairs_of, seigh, ssvd

__all__ = [
    "APosteriori",
    "Completeness",
    "Deferred",
    "Eigenpairs",
    "Operator",
    "Shifted",
    "SingularTriplets",
    "SpectrumError",
    "Storage",
    "a_posteriori",
    "block_krylov",
    "eigenpairs_of",
    "exact",
    "numerical_rank",
    "rayleigh",
    "rayleigh_ritz",
    "residuals",
    "seigh",
    "ssvd",
]
