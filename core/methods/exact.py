"""The method ``exact``: the dense matrix from D products, and its eigendecomposition in fp64."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seigh.core.methods.method import Method, Request

if TYPE_CHECKING:
    from seigh.core.spectra import Eigenpairs, Operator

# Above this a dense D×D matrix (8·D² bytes in fp64, and several copies of it in the eigensolver) stops being
# a reasonable thing to ask of a workstation.
EXACT_MAX_PARAMETERS = 20_000

# The dense matrix, its symmetric part, the eigenvectors and the solver's workspace.
_COPIES = 5


def _run(operator: Operator, request: Request) -> Eigenpairs:
    from seigh.core.spectra import exact

    return exact(operator, request.k, further=request.further)


def _check(request: Request) -> None:
    if request.dimension > EXACT_MAX_PARAMETERS:
        raise ValueError(
            f"The exact method forms the dense Hessian and is limited to D ≤ {EXACT_MAX_PARAMETERS:,}; "
            f"this model has D = {request.dimension:,}; choose krylov or seigh."
        )


EXACT = Method(
    name="exact",
    note="Eigendecomposition in float64 of the dense matrix, which takes D HVPs; for D ≤ 20,000.",
    run=_run,
    products=lambda request: request.dimension,
    memory=lambda request: _COPIES * 8 * request.dimension**2,
    check=_check,
    marker="diamond",
    ritz=True,
    dense=True,
)
