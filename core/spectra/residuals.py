"""How far computed eigenpairs are from eigenpairs of the operator."""

from __future__ import annotations

import torch
from torch import Tensor

from core.spectra.eigenpairs import Eigenpairs
from core.spectra.operators import Operator, multiply

# Pairs whose residuals are measured at once.
_BLOCK = 32


def residuals(operator: Operator, pairs: Eigenpairs, index: Tensor | None = None) -> Tensor:
    """‖Hv − λv‖₂ / ‖v‖₂ of the pairs ``index``, or of all, from one product for each: (n,) fp64.

    There is an eigenvalue of H within that distance of λ. In fp32 the products' rounding errors are in it.
    """
    index = torch.arange(len(pairs.values), device=pairs.values.device) if index is None else index
    out = []
    for part in torch.split(index, _BLOCK):
        vectors = pairs.columns(part)
        error = multiply(operator, vectors).addcmul_(vectors, pairs.values[part].to(vectors.dtype), value=-1)
        out.append(_lengths(error) / _lengths(vectors))
    return torch.cat(out)


def _lengths(columns: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(columns, dim=0).double()
    return lengths
