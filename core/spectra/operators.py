"""The interface of an operator for the methods: ``.shape == (D, D)`` and ``@`` on a (D, b) tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from seigh.core.errors import UserError


class Operator(Protocol):
    """A real symmetric matrix known by its products; a dense tensor is one too.

    The methods also take an operator without ``dtype`` and ``device``, which are then torch's defaults.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def __matmul__(self, block: Tensor, /) -> Tensor: ...


class Shifted:
    """H + λI, or H + diag(λ) with a λ for each coordinate, from products with H.

    >>> Shifted(torch.eye(2), 0.5) @ torch.ones(2, 1)
    tensor([[1.5000],
            [1.5000]])
    >>> Shifted(torch.eye(2), torch.tensor([0.0, 0.5])) @ torch.ones(2, 1)
    tensor([[1.0000],
            [1.5000]])
    """

    def __init__(self, operator: Operator, shift: float | Tensor) -> None:
        self.shape = operator.shape
        self.dtype = operator.dtype
        self.device = operator.device
        self._operator = operator
        self._shift = shift

    def __matmul__(self, block: Tensor) -> Tensor:
        """(D, b) → (D, b)."""
        product = self._operator @ block
        if isinstance(self._shift, Tensor):
            shift = self._shift.to(block.device, block.dtype)
            return product.addcmul_(block, shift[:, None] if block.ndim == 2 else shift)
        return torch.add(product, block, alpha=self._shift)


class Deferred:
    """An operator that is made when it is first multiplied with, and costs nothing before.

    >>> Deferred((2, 2), torch.float64, torch.device("cpu"), lambda: 2 * torch.eye(2).double()) @ torch.ones(
    ...     2, 1
    ... ).double()
    tensor([[2.],
            [2.]], dtype=torch.float64)
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, make: Callable[[], Operator]
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self._make = make

    def __matmul__(self, block: Tensor) -> Tensor:
        """(D, b) → (D, b)."""
        return self._make() @ block


class _Typed:
    """An operator that does not say its type and device: those of torch's usual tensors."""

    def __init__(self, operator: Any) -> None:
        self.shape = operator.shape
        self.dtype = getattr(operator, "dtype", torch.get_default_dtype())
        self.device = getattr(operator, "device", torch.empty(0).device)
        self._operator = operator

    def __matmul__(self, block: Tensor) -> Tensor:
        product: Tensor = self._operator @ block
        return product


def typed(operator: Operator) -> Operator:
    """The operator with ``dtype`` and ``device``; where it has none, they are torch's defaults."""
    return operator if hasattr(operator, "dtype") and hasattr(operator, "device") else _Typed(operator)


class SpectrumError(UserError):
    """The operator has no usable spectrum; the message is one sentence for the user."""


def multiply(operator: Operator, block: Tensor) -> Tensor:
    """operator @ block, refusing NaN and infinities: (D, b) → (D, b).

    Raises:
        SpectrumError: The product is not finite; no eigenvalue computed from it would mean anything.
    """
    product = operator @ block
    # One pass; only a sum that is not finite, be it by its own overflow, needs the second look.
    if not bool(product.sum().isfinite()) and not bool(product.isfinite().all()):
        raise SpectrumError(
            "A Hessian-vector product is not finite (NaN or infinity): the loss or its derivatives overflow "
            "at this checkpoint; check the weights, or use float64."
        )
    return product


def check_square(operator: Operator, k: int, columns: int) -> int:
    """D, after checking 1 ≤ k ≤ columns ≤ D."""
    if len(operator.shape) != 2 or operator.shape[0] != operator.shape[1]:
        raise ValueError(f"The operator must be square; its shape is {tuple(operator.shape)}.")
    dimension = operator.shape[0]
    if not 1 <= k <= columns <= dimension:
        raise ValueError(f"Needs 1 ≤ k ≤ columns ≤ D; got k = {k}, columns = {columns}, D = {dimension}.")
    return dimension
