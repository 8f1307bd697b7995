"""Eigenpairs of large symmetric operators, matrix-free."""

from core.spectra.aposteriori import APosteriori, a_posteriori
from core.spectra.basis import Storage
from core.spectra.eigenpairs import Eigenpairs, SingularTriplets
from core.spectra.exact import exact
from core.spectra.krylov import block_krylov
from core.spectra.operators import Operator, Shifted, SpectrumError
from core.spectra.residuals import residuals
from core.spectra.sketched import eigenpairs_of, seigh, ssvd

__all__ = [
    "APosteriori",
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
    "residuals",
    "seigh",
    "ssvd",
]
