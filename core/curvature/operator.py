"""The Hessian or GGN of a network's loss on a fixed data subset, as an operator on (D, b) blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from seigh.core.curvature.paths import Function, Products, arithmetic, path_for
from seigh.core.linalg.memory import Layout, is_out_of_memory
from seigh.core.names import KINDS, PATHS, Kind, PathName, Reduced

# More columns at once are hardly faster per product and cost activations' worth of memory each.
DEFAULT_COLUMNS = 32

# Vectors are brought from the columns of a block into rows by the tile: one at a time would read every cache
# line of the block again for each vector.
_TILE = 16


class CurvatureOperator:
    r"""H = ∇²_θ L, or the GGN G = (1/N) Σ_n J_nᵀ (∇²_f ℓ_n) J_n, of L = (1/N) Σ_n ℓ(f_θ(x_n), y_n).

    Symmetric, D×D. θ ∈ R^D is the concatenation of the chosen parameters in ``model.named_parameters()``
    order, each flattened; a tied parameter counts once. The model must be in eval mode, so that the operator
    is deterministic, and must not change during the operator's life.

    Three paths compute the same products:

    - ``double-backward`` keeps the gradient's graph; every product is one more backward pass through it.
    - ``linearize`` keeps the linear map v ↦ H v itself as a traced program with its constants computed: the
      fewest operations per product, after seconds of tracing.
    - ``curvlinops`` differentiates anew for every block: slowest, and keeps nothing.

    The subset can be divided into batches of data, whose products are summed. What a path prepares for a
    batch is kept when there is one batch, or for all of them if ``keep``; otherwise every ``@`` prepares each
    batch again, once for all columns, and the memory is bounded by one batch's. Several small kept batches
    can be much faster than one large one, because intermediate values then stay in the cache and in memory
    that is already mapped.

    When the memory is too small for a block of products after all (somebody else uses the device too), it is
    computed again with half the columns, or half the samples per batch; so are the blocks after it, and
    ``out_of_memory`` tells.

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
        kind: "hessian" or "ggn".
        parameters: Names of the parameters that make up θ.
        hvps: Products with one vector done so far.
        seconds: Time spent in them, what is prepared for them included.
        path: How products are computed.
        columns: How many vectors are multiplied at once.
        batch_size: Samples per batch of data.
        keep: Whether what a path prepares is kept for every batch of data.
        reduced: Reduced precision inside the products, if any.
        out_of_memory: The layouts that the memory was too small for, the first one first.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        kind: Kind = "hessian",
        parameters: Sequence[str] | None = None,
        path: PathName = "double-backward",
        columns: int = DEFAULT_COLUMNS,
        batch_size: int | None = None,
        keep: bool = False,
        reduced: Reduced | None = None,
        shares: Tensor | None = None,
        after_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Check the arguments; what products need is prepared when the first one is asked for.

        Args:
            model: The network f, in eval mode, on the device and in the precision to compute in.
            loss: Mean loss over the samples it is given, ``loss(f(x), y) -> scalar``.
            x: Inputs (N, …), on the model's device.
            y: Targets (N, …).
            kind: Which matrix.
            parameters: Full names of the parameters in θ; all trainable ones by default.
            path: How products are computed.
            columns: How many vectors are multiplied at once.
            batch_size: Samples per batch of data; N by default.
            keep: Whether to keep every batch's graph where there are several.
            reduced: ``tf32`` rounds the factors of matrix products and convolutions to 10 bits, on CUDA
                devices alone; ``bfloat16`` computes all passes through the network in that format.
                Parameters, loss and vectors stay float32.
            shares: (N,) weight of each sample's loss in the mean over all of them, with sum 1: how a loss
                that is a weighted mean is put together from its batches; None if all samples weigh the same.
            after_batch: Called with ``hvps`` after each batch of products; what it raises ends the product.

        Raises:
            ValueError: The model is in training mode or has no such or no trainable parameter, or a setting
                cannot work.
        """
        if any(module.training for module in model.modules()):
            raise ValueError("The model must be in eval mode for its curvature to be deterministic.")
        if kind not in KINDS:
            raise ValueError(f"There is no curvature matrix '{kind}'; choose one of {', '.join(KINDS)}.")
        if path not in PATHS:
            raise ValueError(f"There is no path '{path}'; choose one of {', '.join(PATHS)}.")
        self.batch_size = len(x) if batch_size is None else min(batch_size, len(x))
        if self.batch_size < 1 or columns < 1 or len(y) != len(x):
            raise ValueError(
                "Needs at least one sample per batch, one column, and as many targets as inputs; got "
                f"batch_size = {batch_size}, columns = {columns}, {len(x)} inputs and {len(y)} targets."
            )
        _check_loss(loss, several=self.batch_size < len(x) and shares is None)
        chosen = chosen_parameters(model, parameters)
        leaf = next(iter(chosen.values()))
        if reduced is not None and leaf.dtype != torch.float32:
            raise ValueError(
                f"Reduced precision ({reduced}) needs a float32 model; this one is {leaf.dtype}."
            )

        size = sum(p.numel() for p in chosen.values())
        self.shape = (size, size)
        self.dtype = leaf.dtype
        self.device = leaf.device
        self.kind = kind
        self.parameters = tuple(chosen)
        self.hvps = 0
        self.seconds = 0.0
        self.path = path
        self.columns = columns
        self.keep = keep or self.batch_size == len(x)
        self.reduced = reduced
        self.out_of_memory: list[Layout] = []
        self._after_batch = after_batch
        self._data = (x, y)
        self._batches = self._split()
        self._samples = len(x)
        self._shares = None if shares is None else shares.double().cpu()
        self._divisible = shares is not None or getattr(loss, "weight", None) is None
        self._function = Function(model, loss, chosen, reduced, x)
        self._path = path_for(path, self._function, kind)
        self._kept: dict[int, Products] = {}

    def __matmul__(self, block: Tensor) -> Tensor:
        """H @ block: (D, b) → (D, b), or (D,) → (D,)."""
        if block.shape[0] != self.shape[1] or block.ndim > 2:
            raise ValueError(
                f"The operator is {self.shape[0]}×{self.shape[1]}; it cannot multiply {tuple(block.shape)}."
            )
        start_time = time.perf_counter()
        rows = block.reshape(self.shape[0], -1).T  # (b, D): autograd's batches are rows
        before = self.hvps
        while (out := self._try(rows)) is None:
            self.hvps = before
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - start_time
        return out.T.reshape(block.shape)

    def _try(self, rows: Tensor) -> Tensor | None:
        """H @ each of ``rows``; None if the memory is too small, and then the layout is a smaller one."""
        try:
            return self._multiply(rows)
        except Exception as error:
            smaller = Layout(self.columns, self.batch_size, self.keep).smaller()
            if not is_out_of_memory(error) or smaller is None:
                raise
            if smaller.batch_size < self.batch_size and not self._divisible:
                raise
        # Not in the handler: until its end the exception holds on to the frames, and they to the memory.
        self._divide(smaller)
        return None

    def _multiply(self, rows: Tensor) -> Tensor:
        out = torch.zeros(rows.shape, dtype=self.dtype, device=self.device)
        before, done = self.hvps, 0
        everything = range(len(self._batches))
        # The inner loop is the one whose turns need no preparation of their own.
        for batches in [everything] if self.keep else [[i] for i in everything]:
            for start, tile in self._tiles(rows):
                for i in batches:
                    if share := self.share(i):
                        out[start : start + len(tile)].add_(self.multiply_batch(i, tile), alpha=share)
                    done += len(self._batches[i][0]) * len(tile)
                self.hvps = before + done // self._samples
                if self._after_batch is not None:
                    self._after_batch(self.hvps)
            if not self.keep:
                self.release()
        return out

    def _divide(self, layout: Layout) -> None:
        """Divide the work like this from now on."""
        self.out_of_memory.append(Layout(self.columns, self.batch_size, self.keep))
        self.release()
        self.columns, self.batch_size, self.keep = layout
        self._batches = self._split()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _split(self) -> list[tuple[Tensor, Tensor]]:
        x, y = self._data
        return list(zip(torch.split(x, self.batch_size), torch.split(y, self.batch_size), strict=True))

    def multiply_batch(self, index: int, rows: Tensor) -> Tensor:
        """The curvature of data batch ``index`` alone, of its own mean loss: (c, D) → (c, D)."""
        with arithmetic(self.device, self.reduced):
            self.prepare(index)
            return self._kept[index](rows)

    def share(self, index: int) -> float:
        """Weight of data batch ``index`` in the mean over all samples; where it is 0, its loss may be NaN."""
        samples = len(self._batches[index][0])
        if self._shares is None:
            return samples / self._samples
        first = index * self.batch_size
        return float(self._shares[first : first + samples].sum())

    def loss_at(self, index: int) -> Tensor:
        """The loss of data batch ``index`` alone, with its graph."""
        function, (x, y) = self._function, self._batches[index]
        leaves = [p.detach().requires_grad_() for p in function.leaves]
        with torch.enable_grad(), arithmetic(self.device, self.reduced):
            value: Tensor = function.loss(function.outputs(leaves, x), y)
        return value

    def prepare(self, index: int) -> None:
        """Do now what products with data batch ``index`` need and keep."""
        if index not in self._kept:
            if not self.keep:
                self.release()
            with arithmetic(self.device, self.reduced):
                self._kept[index] = self._path.prepare(*self._batches[index])

    def release(self) -> None:
        """Drop what is kept for batches of data; the next product prepares it again."""
        self._kept.clear()

    @property
    def batches(self) -> int:
        """Number of batches of data."""
        return len(self._batches)

    def _tiles(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(start, up to ``columns`` contiguous rows)."""
        size = max(self.columns, _TILE // self.columns * self.columns)
        for first in range(0, len(rows), size):
            tile = rows[first : first + size].contiguous()
            for start in range(0, len(tile), self.columns):
                yield first + start, tile[start : start + self.columns]


def select_parameters(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the trainable parameters that match any of the shell-style patterns, in the model's order.

    >>> select_parameters(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), ["1.*", "*.bias"])
    ['0.bias', '1.weight', '1.bias']

    Raises:
        ValueError: A pattern matches no trainable parameter.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
            raise ValueError(f"No trainable parameter matches '{pattern}'; the model's are {some}.")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def chosen_parameters(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Parameter]:
    """The parameters in θ by name, in the model's order.

    Raises:
        ValueError: There is no such or no trainable parameter, or none was chosen.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("The model has no trainable parameter.")
    if names is None:
        return trainable
    if not names:
        raise ValueError("No parameter was chosen; name at least one, or give None for all of them.")
    for name in names:
        if name not in trainable:
            some = ", ".join([*trainable][:6]) + (", …" if len(trainable) > 6 else "")
            raise ValueError(f"The model has no trainable parameter '{name}'; it has {some}.")
    return {name: p for name, p in trainable.items() if name in set(names)}


def _check_loss(loss: nn.Module, several: bool) -> None:
    if getattr(loss, "reduction", "mean") != "mean":
        raise ValueError(f"The loss must be the mean over its samples, not their {loss.reduction}.")
    if several and getattr(loss, "weight", None) is not None:
        raise ValueError(
            "A loss with class weights is no mean over samples, so the data cannot be divided; use one batch."
        )
