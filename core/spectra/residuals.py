"""How far computed eigenpairs are from eigenpairs of the operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.spectra.basis import Storage
from core.spectra.eigenpairs import Eigenpairs
from core.spectra.operators import Operator, multiply

# Pairs whose residuals are measured at once.
_BLOCK = 32


def residuals(
    operator: Operator,
    pairs: Eigenpairs,
    index: Tensor | None = None,
    *,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Tensor:
    """‖Hv − λv‖₂ / ‖v‖₂ of the pairs ``index``, or of all, from one product for each: (n,) fp64.

    There is an eigenvalue of H within that distance of λ. In fp32 the products' rounding errors are in it.

    Args:
        operator: H.
        pairs: Of which.
        index: Of which of them.
        storage: Has a folder, for which a killed process has not measured in vain.
        resumed: Told how many products an earlier process has made.
    """
    index = torch.arange(len(pairs.values), device=pairs.values.device) if index is None else index
    storage = storage or Storage()
    out = []
    for number, part in enumerate(torch.split(index, _BLOCK)):
        name = f"residuals-{len(index)}-{number}"
        found = storage.noted(name, pairs.values)
        if found is None:
            vectors = pairs.columns(part)
            error = multiply(operator, vectors)
            error.addcmul_(vectors, pairs.values[part].to(vectors.dtype), value=-1)
            found = _lengths(error) / _lengths(vectors)
            storage.note(name, pairs.values, found)
        elif resumed is not None:
            resumed(len(part))
        out.append(found.to(pairs.values.device))
    return torch.cat(out)


def _lengths(columns: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(columns, dim=0).double()
    return lengths
