"""Three ways to multiply one batch of data's curvature matrix with vectors; all give the same products.

A path is asked twice: ``prepare`` does once what does not depend on the vectors, ``products`` multiplies.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, get_args

import curvlinops
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

Kind = Literal["hessian", "ggn"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PathName = Literal["double-backward", "linearize", "curvlinops"]
PATHS: tuple[PathName, ...] = get_args(PathName)

Reduced = Literal["tf32", "bfloat16"]

# (c, D) → (c, D): the curvature of one data batch times c vectors, as rows.
Products = Callable[[Tensor], Tensor]


class Path(Protocol):
    """How products with one batch of data are computed."""

    def prepare(self, x: Tensor, y: Tensor) -> Products:
        """What does not depend on the vectors, for inputs x (n, …) and targets y (n, …)."""


class Function:
    """The network's outputs as a function of the parameters that make up θ, and the loss on top.

    Attributes:
        model: The network f.
        loss: ``loss(f(x), y) -> scalar``, the mean over the batch.
        parameters: The model's parameters in θ, by name.
        leaves: The parameters in θ, detached from the model; they share its memory.
    """

    def __init__(self, model: nn.Module, loss: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.model = model
        self.loss = loss
        self.parameters = parameters
        self.leaves = [p.detach() for p in parameters.values()]
        # Held constant: nothing is differentiated or kept for them.
        self._others = {n: p.detach() for n, p in model.named_parameters() if n not in parameters}

    def outputs(self, leaves: Sequence[Tensor], x: Tensor) -> Tensor:
        """f(x) with ``leaves`` in θ's place; (n, …)."""
        named = self._others | dict(zip(self.parameters, leaves, strict=True))
        result: Tensor = functional_call(self.model, named, (x,))
        return result

    def split(self, rows: Tensor) -> list[Tensor]:
        """(…, D) → one tensor (…, *shape) per parameter; views."""
        parts = torch.split(rows, [p.numel() for p in self.leaves], dim=-1)
        return [part.view(*rows.shape[:-1], *p.shape) for part, p in zip(parts, self.leaves, strict=True)]

    def join(self, parts: Sequence[Tensor | None], rows: Tensor) -> Tensor:
        """One tensor (…, *shape) or None (zero) per parameter → (…, D), like ``rows``."""
        out = torch.zeros_like(rows) if any(part is None for part in parts) else torch.empty_like(rows)
        for target, part in zip(self.split(out), parts, strict=True):
            if part is not None:
                target.copy_(part)
        return out


class DoubleBackward:
    """One more backward pass through the gradient's graph, which is kept.

    Hessian: H v = ∇_θ (∇_θ L · v) (Pearlmutter, Neural Computation 6(1), 1994). GGN: Jᵀ (∇²ℓ) J v, where
    J v is the derivative of u ↦ vᵀ Jᵀ u, so that a product is three backward passes through kept graphs.
    """

    def __init__(self, function: Function, kind: Kind) -> None:
        self._function = function
        self._kind = kind

    def prepare(self, x: Tensor, y: Tensor) -> Products:
        function = self._function
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in function.leaves]
            outputs = function.outputs(leaves, x)
            if self._kind == "hessian":
                gradient = _gradients([function.loss(outputs, y)], leaves, None, create_graph=True)
                return self._by_rows(
                    lambda vectors, many: _gradients(gradient, leaves, vectors, batched=many)
                )
            cotangent = torch.zeros_like(outputs, requires_grad=True)
            pulled_back = _gradients([outputs], leaves, [cotangent], create_graph=True)
            at = outputs.detach().requires_grad_()
            slope = _gradients([function.loss(at, y)], [at], None, create_graph=True)

        def ggn(vectors: list[Tensor], many: bool) -> list[Tensor | None]:
            for values, variable in ((pulled_back, cotangent), (slope, at)):
                (image,) = _gradients(values, [variable], vectors, batched=many)
                if image is None:  # the outputs do not depend on θ, or the loss is linear in them
                    return [None] * len(leaves)
                vectors = [image]
            return _gradients([outputs], leaves, vectors, batched=many)

        return self._by_rows(ggn)

    def _by_rows(self, multiply: Callable[[list[Tensor], bool], list[Tensor | None]]) -> Products:
        function = self._function

        def products(rows: Tensor) -> Tensor:
            # One vector costs less without the dimension of a batch of vectors.
            if len(rows) == 1:
                return function.join(multiply(function.split(rows[0]), False), rows[0])[None]
            return function.join(multiply(function.split(rows), True), rows)

        return products


def _gradients(
    values: Sequence[Tensor | None],
    variables: Sequence[Tensor],
    cotangents: Sequence[Tensor] | None,
    *,
    create_graph: bool = False,
    batched: bool = False,
) -> list[Tensor | None]:
    """Σ cotangentᵀ ∂value/∂variable per variable; None where nothing depends on it. The graph is kept."""
    pairs = [
        (value, cotangent)
        for value, cotangent in zip(values, cotangents or [None] * len(values), strict=True)
        if value is not None and value.requires_grad
    ]
    if not pairs:
        return [None] * len(variables)
    return list(
        torch.autograd.grad(
            [value for value, _ in pairs],
            variables,
            None if cotangents is None else [cotangent for _, cotangent in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=batched,
        )
    )


class Linearise:
    """The linear map v ↦ (curvature) v as a program of its own, whose constants are computed beforehand.

    The product is written as forward-over-reverse differentiation and traced once per shape of the data into
    a graph of elementary operations, as ``torch.func.linearize`` does. Operations that no vector reaches are
    run by ``prepare``; the others by ``products``, under ``vmap`` for several vectors. Unlike with
    ``torch.func.linearize``, one trace serves every batch of data of its shape.
    """

    def __init__(self, function: Function, kind: Kind) -> None:
        self._function = function
        self._kind = kind
        self._traces: dict[Any, tuple[GraphModule, GraphModule]] = {}

    def prepare(self, x: Tensor, y: Tensor) -> Products:
        function = self._function
        leaves = function.leaves
        key = (x.shape, x.stride(), y.shape)
        if key not in self._traces:
            self._traces[key] = self._trace(x, y, leaves)
        constant, linear = self._traces[key]
        with torch.no_grad():
            residuals = constant(x, y, *leaves)
        several = torch.vmap(linear, in_dims=(None,) * len(residuals) + (0,) * len(leaves))

        def products(rows: Tensor) -> Tensor:
            with torch.no_grad():
                if len(rows) == 1:
                    return function.join(linear(*residuals, *function.split(rows[0])), rows[0])[None]
                return function.join(several(*residuals, *function.split(rows)), rows)

        return products

    def _trace(self, x: Tensor, y: Tensor, leaves: list[Tensor]) -> tuple[GraphModule, GraphModule]:
        product = self._hessian if self._kind == "hessian" else self._ggn
        vectors = [torch.zeros_like(p) for p in leaves]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own use of torch.jit
            graph = make_fx(product)(x, y, *leaves, *vectors)
            # Without operations in place, so that running a part again cannot change what it starts from.
            graph = make_fx(functionalize(graph))(x, y, *leaves, *vectors)
        return _split(graph, len(vectors))

    def _hessian(self, x: Tensor, y: Tensor, *leaves_and_vectors: Tensor) -> list[Tensor]:
        function, size = self._function, len(self._function.leaves)
        with forward_ad.dual_level():
            duals = map(forward_ad.make_dual, leaves_and_vectors[:size], leaves_and_vectors[size:])
            gradient = torch.func.grad(lambda leaves: function.loss(function.outputs(leaves, x), y))(
                list(duals)
            )
            return [_tangent(g) for g in gradient]

    def _ggn(self, x: Tensor, y: Tensor, *leaves_and_vectors: Tensor) -> list[Tensor]:
        function, size = self._function, len(self._function.leaves)
        with forward_ad.dual_level():
            duals = map(forward_ad.make_dual, leaves_and_vectors[:size], leaves_and_vectors[size:])
            # One forward pass for J v, the tangent of its value, and for Jᵀ, its pullback.
            outputs, pullback = torch.func.vjp(lambda leaves: function.outputs(leaves, x), list(duals))
            slope = _tangent(torch.func.grad(lambda at: function.loss(at, y))(outputs))
            (result,) = pullback(slope)
            return [forward_ad.unpack_dual(r).primal for r in result]  # type: ignore[no-untyped-call]


def _tangent(dual: Tensor) -> Tensor:
    tangent: Tensor | None = forward_ad.unpack_dual(dual).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(dual) if tangent is None else tangent


def _split(traced: GraphModule, vectors: int) -> tuple[GraphModule, GraphModule]:
    """Divide a traced function whose last ``vectors`` arguments vary into what is constant and what is not.

    Returns:
        ``constant(*first arguments) -> residuals`` and ``varying(*residuals, *last arguments) -> result``.
    """
    graph = traced.graph
    graph.eliminate_dead_code()
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    given, varied = placeholders[:-vectors], placeholders[-vectors:]
    varying = set(varied)
    for node in graph.nodes:
        if node.op == "call_function" and any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    (output,) = (node for node in graph.nodes if node.op == "output")
    users = [*varying, output]
    residuals = list(dict.fromkeys(n for user in users for n in user.all_input_nodes if n not in varying))
    residuals = [node for node in graph.nodes if node in set(residuals)]

    constant, linear = Graph(), Graph()
    copies: dict[Node, Node] = {}
    for node in graph.nodes:
        if node in given or (node not in varying and node is not output):
            copies[node] = constant.node_copy(node, copies.__getitem__)
    constant.output([copies[node] for node in residuals])
    constant.eliminate_dead_code()

    copies = {node: linear.placeholder(f"residual_{i}") for i, node in enumerate(residuals)}
    copies |= {node: linear.placeholder(f"vector_{i}") for i, node in enumerate(varied)}
    for node in graph.nodes:
        if node in varying and node not in copies:
            copies[node] = linear.node_copy(node, copies.__getitem__)
    linear.output([copies[node] for node in output.args[0]])
    return GraphModule(traced, constant), GraphModule(traced, linear)


class Curvlinops:
    """``curvlinops`` (Dangel et al., arXiv 2501.19183), which differentiates anew for every block of vectors.

    Slower than the others, and keeps nothing between products.
    """

    def __init__(self, function: Function, kind: Kind) -> None:
        operators = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}
        self._function = function
        self._operator = operators[kind]

    def prepare(self, x: Tensor, y: Tensor) -> Products:
        function = self._function
        # The data are held as tensors and the model is in eval mode: nothing can vary between products.
        operator = self._operator(
            function.model,
            function.loss,
            list(function.parameters.values()),
            [(x, y)],
            check_deterministic=False,
            num_data=len(x),
        )
        return lambda rows: (operator @ rows.T).T


def path_for(name: PathName, function: Function, kind: Kind) -> Path:
    """The path ``name``."""
    match name:
        case "double-backward":
            return DoubleBackward(function, kind)
        case "linearize":
            return Linearise(function, kind)
        case "curvlinops":
            return Curvlinops(function, kind)


@contextmanager
def arithmetic(device: torch.device, reduced: Reduced | None) -> Iterator[None]:
    """The precision of matrix products and convolutions inside; restored afterwards.

    Attention is computed by its definition: its fused kernels have no second derivative.
    """
    backends: list[Any] = []
    if device.type == "cuda":
        backends = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            # By default torch lets convolutions, but not matrix products, round to TF32.
            backend.fp32_precision = "tf32" if reduced == "tf32" else "ieee"
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast(device.type, torch.bfloat16, enabled=reduced == "bfloat16"),
        ):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
