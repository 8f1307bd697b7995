"""The interface of a method, and the request that an analysis makes to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seigh.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from seigh.core.spectra import Eigenpairs, Operator, Storage

# Markers of methods that plug-ins bring, in charts.
MARKERS = ("cross", "triangle-down", "triangle-left", "triangle-right", "wedge", "arrow")

# Vectors that a method multiplies at once when it does not say.
_BLOCK = 32


class UnknownMethod(UserError):
    """A name that no method has."""


@dataclass(frozen=True)
class Request:
    """The request of an analysis to a method.

    Attributes:
        k: Number of wanted eigenpairs.
        dimension: D, the number of parameters.
        samples: N, over which every product is a mean: what it costs; None before the data have been read.
        seed: Seed of all random numbers.
        options: Values of the settings that belong to the method, by name.
        further: Pairs beyond k that help to state errors, if they are to be had for nothing.
        enough: Of pairs, how many times as large their error is as it may be: a method that converges step by
            step may end once that is at most 1.
        reference: The same operator in float64, by which some pairs may be checked; None where there is none.
        storage: Where a basis is to live; None for memory without a limit.
        itemsize: Bytes of a number of a vector.
        resumed: To be told how many products an earlier attempt has made, by a method that goes on from them.
    """

    k: int
    dimension: int
    samples: int | None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    further: int = 0
    enough: Callable[[Eigenpairs], float] | None = None
    reference: Operator | None = None
    storage: Storage | None = None
    itemsize: int = 4
    resumed: Callable[[int], None] | None = None


def _its_pairs(request: Request) -> int:
    return request.itemsize * request.dimension * request.k


@dataclass(frozen=True)
class Method:
    """A way to find the k eigenpairs of largest |λ| of a symmetric operator.

    Attributes:
        name: What people ask for: at most 16 letters, digits and hyphens.
        note: What speaks for it, in one sentence; it stands below the name on forms.
        run: ``run(operator, request)``. The operator has ``.shape == (D, D)`` and ``@`` on a (D, b) tensor.
            A plug-in's method returns a (D, n) tensor, n ≥ k, whose columns span its subspace: eigenvalues,
            vectors and residuals are then found in it by Rayleigh–Ritz, so that nothing rests on its word.
        products: Gives the number of products for a request.
        memory: Gives the bytes of basis or dense matrices for a request.
        block: Gives the number of vectors multiplied at once for a request; a usual number when not given.
        check: Called with a request; raises ``ValueError`` with one sentence where it cannot work.
        options: Settings of an analysis that belong to it (``seigh.core.methods.OPTIONS``).
        marker: The shape of its points on charts, a mark of Vega; plug-ins' methods get one of their own.
        ritz: Whether its pairs come with their residuals, at no product.
        penalised: Whether it takes the operator with the penalty λ·I of weight decay. A sketch takes it
            without: no approximation of low rank is near a matrix whose D eigenvalues all count.
        dense: Whether its time is that of a dense eigendecomposition, which must fit into memory.
        plugged: Whether a plug-in has brought it.
    """

    name: str
    note: str
    run: Callable[[Operator, Request], Eigenpairs | Tensor]
    products: Callable[[Request], int]
    memory: Callable[[Request], int] = _its_pairs
    block: Callable[[Request], int] | None = None
    check: Callable[[Request], None] | None = None
    options: frozenset[str] = frozenset()
    marker: str = MARKERS[0]
    ritz: bool = False
    penalised: bool = True
    dense: bool = False
    plugged: bool = False

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= 16 or not self.name.replace("-", "").isalnum():
            raise ValueError(
                f"'{self.name}' is no name of a method; use at most 16 letters, digits and hyphens."
            )
        object.__setattr__(self, "options", frozenset(self.options))

    def width(self, request: Request) -> int:
        """Vectors that it multiplies at once."""
        return _BLOCK if self.block is None else self.block(request)
