"""The methods ``seigh`` and ``ssvd``, the paper's: one pass of random measurements.

Fernandez et al., TMLR 2025, Algorithms 2 and 1 (``seigh.core.spectra.sketched``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seigh.core.methods.method import Method, Request

if TYPE_CHECKING:
    from seigh.core.spectra import Eigenpairs, Operator

_OPTIONS = frozenset({"outer", "inner", "test_matrix"})


def sizes(request: Request) -> tuple[int, int]:
    """n_O and n_I: k and 2·n_O, the paper's choice, where they are not given."""
    outer = request.options["outer"] or request.k
    return outer, request.options["inner"] or 2 * outer


def _drawn(request: Request) -> dict[str, Any]:
    return {
        "seed": request.seed,
        "test_matrix": request.options["test_matrix"],
        "storage": request.storage,
        "resumed": request.resumed,
    }


def _seigh(operator: Operator, request: Request) -> Eigenpairs:
    from seigh.core.spectra import seigh

    return seigh(operator, *sizes(request), **_drawn(request))


def _ssvd(operator: Operator, request: Request) -> Eigenpairs:
    from seigh.core.spectra import eigenpairs_of, ssvd

    return eigenpairs_of(ssvd(operator, *sizes(request), **_drawn(request)))


def _check(request: Request) -> None:
    outer, inner = sizes(request)
    if outer < request.k:
        raise ValueError(
            f"n_O = {outer:,} columns cannot hold k = {request.k:,} eigenvectors; choose n_O ≥ k."
        )
    if inner < outer:
        raise ValueError(
            f"n_I = {inner:,} is smaller than n_O = {outer:,}; the core cannot be recovered from fewer inner "
            "measurements than outer ones; choose n_I ≥ n_O."
        )
    if inner > request.dimension:
        raise ValueError(
            f"n_I = {inner:,} is more than the model's {request.dimension:,} parameters; "
            "choose n_O and n_I ≤ D."
        )


SEIGH = Method(
    name="seigh",
    note="The paper's sketched eigendecomposition: independent HVPs, 2·n_O by default.",
    run=_seigh,
    products=lambda request: sizes(request)[1],
    memory=lambda request: request.itemsize * request.dimension * sizes(request)[0],
    check=_check,
    options=_OPTIONS,
    marker="square",
    penalised=False,
)

SSVD = Method(
    name="ssvd",
    note="The sketched SVD on which SEIGH is based: twice the HVPs; for comparison.",
    run=_ssvd,
    products=lambda request: 2 * sizes(request)[0] + sizes(request)[1],
    memory=lambda request: 2 * request.itemsize * request.dimension * sizes(request)[0],
    check=_check,
    options=_OPTIONS,
    marker="triangle-up",
    penalised=False,
)
