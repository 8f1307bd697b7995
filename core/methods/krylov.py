"""The method ``krylov``: block Lanczos with full reorthogonalisation (``seigh.core.spectra.krylov``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seigh.core.methods.method import Method, Request

if TYPE_CHECKING:
    from seigh.core.spectra import Eigenpairs, Operator


def _run(operator: Operator, request: Request) -> Eigenpairs:
    from seigh.core.spectra import block_krylov

    return block_krylov(
        operator,
        request.k,
        block=_block(request),
        tolerance=request.options["tolerance"],
        further=request.further,
        enough=request.enough,
        reference=request.reference,
        seed=request.seed,
        storage=request.storage,
        resumed=request.resumed,
    )


def _block(request: Request) -> int:
    from seigh.core.spectra import sizes

    # The work of a product grows with N, that of making its result orthogonal with the size of the basis.
    cheap = request.samples is not None and request.samples < request.k
    memory = None if request.storage is None else request.storage.memory
    held = None if memory is None else memory // (request.dimension * request.itemsize)
    return sizes.default_block(request.k, request.dimension, cheap=cheap, held=held)


def _products(request: Request) -> int:
    """If no tolerance changes it; it may take fewer, or up to twice as many until the overlap is resolved."""
    import torch

    from seigh.core.spectra import sizes

    asks = request.options["tolerance"] is None
    block = _block(request)
    width, rounds = sizes.fresh_size(request.k)
    columns = None
    if request.storage is not None:
        dtype = torch.float64 if request.itemsize == 8 else torch.float32
        columns = request.storage.columns(request.dimension, dtype)
    usual = sizes.most_products(request.k, request.dimension, block, columns, None, asks=asks)
    return usual + width * rounds


def _memory(request: Request) -> int:
    """Return the bytes of the basis, whose place the eigenvectors take."""
    from seigh.core.spectra import sizes

    block = _block(request)
    columns = sizes.default_products(request.k, request.dimension, block, cautious=False)
    return request.itemsize * request.dimension * columns


KRYLOV = Method(
    name="krylov",
    note="Block Krylov with Rayleigh–Ritz: smaller errors than sketches at equal cost. Use it by default.",
    run=_run,
    products=_products,
    memory=_memory,
    block=_block,
    options=frozenset({"tolerance"}),
    marker="circle",
    ritz=True,
)
