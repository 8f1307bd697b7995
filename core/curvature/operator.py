"""The Hessian of a network's loss on a fixed data subset, as an operator on (D, b) blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import curvlinops
import torch
from torch import Tensor, nn

Path = Literal["double-backward", "curvlinops"]
PATHS: tuple[Path, ...] = get_args(Path)

# More columns at once are hardly faster per HVP and cost activations' worth of memory each.
DEFAULT_COLUMNS = 32


class CurvatureOperator:
    r"""H = ∇²_θ (1/N) Σ_n ℓ(f_θ(x_n), y_n), symmetric, D×D.

    θ ∈ R^D is the concatenation of the model's trainable parameters in ``model.named_parameters()`` order,
    each flattened. The model must be in eval mode, so that the operator is deterministic.

    Two paths compute the same products:

    - ``double-backward`` builds the gradient's graph once and keeps it; every product is one more backward
      pass through it, for a batch of vectors at a time (``torch.autograd.grad(is_grads_batched=True)``).
    - ``curvlinops`` is ``curvlinops.HessianLinearOperator``, which differentiates anew for every block
      (Dangel et al., arXiv 2501.19183). It is slower and keeps no graph.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> x, y = torch.rand(5, 3), torch.tensor([0, 1, 1, 0, 1])
        >>> H = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y)
        >>> H.shape
        (8, 8)
        >>> dense = H @ torch.eye(8)
        >>> torch.allclose(dense, dense.T, atol=1e-6)
        True

    Attributes:
        shape: (D, D).
        dtype: Floating-point format of the parameters.
        device: Device of the parameters.
        hvps: Hessian-vector products done so far (one per column).
        path: How products are computed.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        path: Path = "double-backward",
        columns: int = DEFAULT_COLUMNS,
        after_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Args:
        model: The network f, in eval mode, on the device and in the precision to compute in.
        loss: Mean loss over the subset, ``loss(f(x), y) -> scalar``.
        x: Inputs (N, …), on the model's device.
        y: Targets (N, …).
        path: How products are computed.
        columns: How many vectors are multiplied at once.
        after_batch: Called with ``hvps`` after each batch of products; what it raises ends the product.

        Raises:
            ValueError: The model is in training mode or has no trainable parameter.
        """
        if any(module.training for module in model.modules()):
            raise ValueError("The model must be in eval mode for its Hessian to be deterministic.")
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError("The model has no trainable parameter.")
        size = sum(p.numel() for p in self._parameters)
        self.shape = (size, size)
        self.dtype = self._parameters[0].dtype
        self.device = self._parameters[0].device
        self.hvps = 0
        self._columns = columns
        self._after_batch = after_batch
        self.path = path
        if path == "curvlinops":
            self._products = self._curvlinops(model, loss, x, y)
        else:
            self._products = self._double_backward(model, loss, x, y)

    def __matmul__(self, block: Tensor) -> Tensor:
        """H @ block: (D, b) → (D, b), or (D,) → (D,)."""
        if block.shape[0] != self.shape[1] or block.ndim > 2:
            raise ValueError(
                f"The operator is {self.shape[0]}×{self.shape[1]}; it cannot multiply {tuple(block.shape)}."
            )
        rows = block.reshape(self.shape[0], -1).T  # (b, D): autograd's batches are rows
        out = torch.empty(rows.shape, dtype=self.dtype, device=self.device)
        for start in range(0, len(rows), self._columns):
            batch = rows[start : start + self._columns]
            out[start : start + len(batch)] = self._products(batch)
            self.hvps += len(batch)
            if self._after_batch is not None:
                self._after_batch(self.hvps)
        return out.T.reshape(block.shape)

    def _double_backward(
        self, model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        parameters = self._parameters
        with torch.enable_grad():
            gradient = torch.autograd.grad(
                loss(model(x), y), parameters, create_graph=True, materialize_grads=True
            )
            flat = torch.cat([g.flatten() for g in gradient])

        def products(rows: Tensor) -> Tensor:
            batched = torch.autograd.grad(
                flat, parameters, rows, retain_graph=True, is_grads_batched=True, allow_unused=True
            )
            # None: the gradient does not depend on this parameter (an unused one, or a linear one alone).
            columns = [
                rows.new_zeros(len(rows), p.numel()) if h is None else h.flatten(start_dim=1)
                for h, p in zip(batched, parameters, strict=True)
            ]
            return torch.cat(columns, dim=1)

        return products

    def _curvlinops(
        self, model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        # The subset is held as tensors and the model is in eval mode: nothing can vary between products.
        hessian = curvlinops.HessianLinearOperator(
            model, loss, self._parameters, [(x, y)], check_deterministic=False, num_data=len(x)
        )
        return lambda rows: (hessian @ rows.T).T
