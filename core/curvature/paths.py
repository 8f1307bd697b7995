"""Three ways to multiply one batch of data's curvature matrix with vectors; all give the same products.

A path is asked twice: ``prepare`` does once what does not depend on the vectors, ``products`` multiplies.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import embedding, embedding_bag, hardsigmoid, relu6
from torch.overrides import TorchFunctionMode

from seigh.core.names import Kind, PathName, Reduced

# (c, D) → (c, D): the curvature of one data batch times c vectors, as rows.
Products = Callable[[Tensor], Tensor]


class Path(Protocol):
    """How products with one batch of data are computed."""

    def prepare(self, x: Tensor, y: Tensor) -> Products:
        """Compute the part that does not depend on the vectors, for inputs x (n, …) and targets y (n, …)."""


class Function:
    """The network's outputs as a function of the parameters that make up θ, and the loss on top.

    Attributes:
        model: The network f.
        loss: ``loss(f(x), y) -> scalar``, the mean over the batch.
        parameters: The model's parameters in θ.
        leaves: The parameters in θ, detached from the model; they share its memory.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        parameters: dict[str, nn.Parameter],
        reduced: Reduced | None = None,
        x: Tensor | None = None,
    ) -> None:
        """Args:
        model: In eval mode.
        loss: On top of it.
        parameters: The parameters in θ, by name.
        reduced: Reduced precision of the passes.
        x: Inputs, which bfloat16 must not change where they are numbers of rows of an embedding.
        """
        self.model = model
        if reduced == "bfloat16":
            self.model = _InBfloat16(model, rounds_inputs=x is None or not _are_ids(model, x))
        self.loss = loss
        self.parameters = list(parameters.values())
        self.leaves = [p.detach() for p in parameters.values()]
        # Held constant: nothing is differentiated or kept for them.
        chosen = {id(p) for p in parameters.values()}
        named = dict(self.model.named_parameters())
        self._names = [name for name, p in named.items() if id(p) in chosen]
        self._others = {name: p.detach() for name, p in named.items() if id(p) not in chosen}

    def outputs(self, leaves: Sequence[Tensor], x: Tensor) -> Tensor:
        """f(x) with ``leaves`` in θ's place; (n, …)."""
        named = self._others | dict(zip(self._names, leaves, strict=True))
        with _SpelledOut():
            result: Tensor = functional_call(self.model, named, (x,))
        return result

    def split(self, rows: Tensor) -> list[Tensor]:
        """(…, D) → one tensor (…, *shape) per parameter; views."""
        parts = torch.split(rows, [p.numel() for p in self.leaves], dim=-1)
        shapes = [(*rows.shape[:-1], *p.shape) for p in self.leaves]  # () of a single number
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def join(self, parts: Sequence[Tensor | None], rows: Tensor) -> Tensor:
        """One tensor (…, *shape) or None (zero) per parameter → (…, D), like ``rows``."""
        out = torch.zeros_like(rows) if any(part is None for part in parts) else torch.empty_like(rows)
        for target, part in zip(self.split(out), parts, strict=True):
            if part is not None:
                target.copy_(part)
        return out


class _SpelledOut(TorchFunctionMode):
    """Replaces operations whose derivatives in PyTorch are wrong or missing by their definition.

    - The double backward pass of ``torch._weight_norm`` gives a matrix that is not symmetric (PyTorch
      2.14.1), and there is no forward mode of it. The weight is g·v/‖v‖, with the norm over all axes but
      ``dim``.
    - ``hardsigmoid`` and ``embedding_bag`` have no second derivative. The former is min(max(x + 3, 0), 6)/6;
      the latter sums, averages or maximises embeddings, which is written out where bags are rows.
    - Sparse gradients of an embedding have no derivative; dense ones are the same numbers.

    They are found by PyTorch's function, and by ATen's, which exported networks consist of.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    found = relu6(x + 3) / 6
    return x.copy_(found) if inplace else found


def _dense_embedding(*args: Any, **options: Any) -> Tensor:
    """``torch.nn.functional.embedding`` with dense gradients."""
    found: Tensor = embedding(*args[:6], **options | {"sparse": False})
    return found


def _dense_aten_embedding(*args: Any, **options: Any) -> Tensor:
    """``torch.embedding`` with dense gradients."""
    found: Tensor = torch.embedding(*args[:4], **options | {"sparse": False})
    return found


def _embedding_bag(*args: Any, **options: Any) -> Tensor:
    given = inspect.signature(embedding_bag).bind(*args, **options).arguments
    plain = all(given.get(each) is None for each in ("offsets", "max_norm", "padding_idx"))
    if not plain or given["input"].ndim != 2:
        found: Tensor = embedding_bag(*args, **options)
        return found
    rows = embedding(given["input"], given["weight"])
    weights = given.get("per_sample_weights")
    if weights is not None:
        rows = rows * weights[..., None]
    mode = given.get("mode", "mean")
    return rows.amax(1) if mode == "max" else rows.sum(1) if mode == "sum" else rows.mean(1)


_INSTEAD: Mapping[Any, Callable[..., Tensor]] = {
    torch._weight_norm: _weight_norm,
    hardsigmoid: _hardsigmoid,
    torch.ops.aten.hardsigmoid.default: _hardsigmoid,
    embedding: _dense_embedding,
    torch.embedding: _dense_aten_embedding,
    torch.ops.aten.embedding.default: _dense_aten_embedding,
    embedding_bag: _embedding_bag,
}


class _InBfloat16(nn.Module):
    """The model computed in bfloat16 from its own float32 parameters, with float32 outputs, and so loss.

    Autocast would mix formats inside the model, which forward-mode differentiation does not support.
    """

    def __init__(self, model: nn.Module, rounds_inputs: bool = True) -> None:
        super().__init__()
        self.model = model
        self._rounds_inputs = rounds_inputs

    def forward(self, x: Tensor) -> Tensor:
        state = (*self.model.named_parameters(), *self.model.named_buffers())
        x = _bfloat16(x) if self._rounds_inputs else x
        outputs: Tensor = functional_call(self.model, {n: _bfloat16(t) for n, t in state}, (x,))
        return outputs.float()


def _are_ids(model: nn.Module, x: Tensor) -> bool:
    """Whether inputs are whole numbers in a floating-point format that a model looks up: in bfloat16 it takes
    them as they are, and bfloat16 would change them."""
    if not x.is_floating_point() or not bool((x == x.round()).all()) or bool((x.bfloat16() == x).all()):
        return False
    try:
        with torch.no_grad():
            _InBfloat16(model, rounds_inputs=False)(x[:1])
    except Exception:  # of a layer that asks for bfloat16, as multiplications do
        return False
    return True


def _bfloat16(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


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
                _check_differentiable(gradient, outputs)
                return self._by_rows(
                    lambda vectors, many: _gradients(gradient, leaves, vectors, batched=many)
                )
            cotangent = torch.zeros_like(outputs, requires_grad=True)
            pulled_back = _gradients([outputs], leaves, [cotangent], create_graph=True)
            _check_differentiable(pulled_back, outputs)
            at = outputs.detach().requires_grad_()
            slope = _gradients([function.loss(at, y)], [at], None, create_graph=True)

        maps: list[tuple[list[Tensor | None], Tensor]] = [(pulled_back, cotangent), (slope, at)]

        def ggn(vectors: list[Tensor], many: bool) -> list[Tensor | None]:
            for values, variable in maps:
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
    at = [i for i, value in enumerate(values) if value is not None and value.requires_grad]
    if not at:
        return [None] * len(variables)

    def gradients(given: Sequence[Tensor] | None) -> list[Tensor | None]:
        outputs = [value for i in at if (value := values[i]) is not None]
        return list(
            torch.autograd.grad(
                outputs, variables, given, retain_graph=True, create_graph=create_graph, allow_unused=True
            )
        )

    if cotangents is None:
        return gradients(None)
    given = [cotangents[i] for i in at]
    if not batched:
        return gradients(given)
    present: list[bool] = []

    def those_present(given: list[Tensor]) -> list[Tensor]:
        found = gradients(given)
        present[:] = [each is not None for each in found]
        return [each for each in found if each is not None]

    # Not ``is_grads_batched``, whose vmap does some operations for one vector after the other.
    several = iter(torch.vmap(those_present)(given))
    return [next(several) if here else None for here in present]


def _check_differentiable(gradient: Sequence[Tensor | None], outputs: Tensor) -> None:
    """Refuse what autograd silently takes for a constant: the backward of a once-differentiable function.

    Raises:
        RuntimeError: There is one in the gradient's graph.
    """
    if any(node.name().endswith("Error") for node in nodes(gradient)):
        # Only functions written in Python are marked like this, and their nodes bear their names.
        python: type[Any] = torch.autograd.function.BackwardCFunction
        own = {node.name() for node in nodes([outputs]) if isinstance(node, python)}
        named = ", ".join(sorted(name.removesuffix("Backward") for name in own))
        raise RuntimeError(f"The model has an operation ({named}) that cannot be differentiated twice.")


def nodes(values: Sequence[Tensor | None]) -> set[Any]:
    """The nodes of the graph that autograd has of these values."""
    pending = [value.grad_fn for value in values if value is not None and value.grad_fn is not None]
    seen = set(pending)
    while pending:
        new = {following for following, _ in pending.pop().next_functions if following is not None} - seen
        seen |= new
        pending.extend(new)
    return seen


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
        vectors = [torch.zeros_like(p) for p in leaves]
        arguments = (x, y, *leaves, *vectors)
        try:
            traced = _graph_of(self._hessian if self._kind == "hessian" else self._ggn, arguments)
        except NotImplementedError:  # by an operation whose backward pass has no forward mode
            if self._kind == "hessian":
                raise
            traced = _graph_of(self._ggn_in_two_passes, arguments)
        # Without operations in place, so that running a part again cannot change what it starts from.
        graph = _graph_of(functionalize(traced), arguments)
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
            outputs, pullback = torch.func.vjp(lambda leaves: function.outputs(leaves, x), list(duals))  # type: ignore[misc]
            slope = _tangent(torch.func.grad(lambda at: function.loss(at, y))(outputs))
            (result,) = pullback(slope)
            return [forward_ad.unpack_dual(r).primal for r in result]  # type: ignore[no-untyped-call]

    def _ggn_in_two_passes(self, x: Tensor, y: Tensor, *leaves_and_vectors: Tensor) -> list[Tensor]:
        """J v by one forward pass and Jᵀ by another, whose backward pass no tangent reaches."""
        function, size = self._function, len(self._function.leaves)
        leaves = list(leaves_and_vectors[:size])
        with forward_ad.dual_level():
            duals = map(forward_ad.make_dual, leaves, leaves_and_vectors[size:])
            outputs = function.outputs(list(duals), x)
            slope = _tangent(torch.func.grad(lambda at: function.loss(at, y))(outputs))
        _, pullback = torch.func.vjp(lambda given: function.outputs(given, x), leaves)  # type: ignore[misc]
        (result,) = pullback(slope)
        return list(result)


def _tangent(dual: Tensor) -> Tensor:
    tangent: Tensor | None = forward_ad.unpack_dual(dual).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(dual) if tangent is None else tangent


def _graph_of(function: Callable[..., Any], arguments: Sequence[Tensor]) -> GraphModule:
    """The elementary operations that ``function`` does for arguments of these shapes."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own use of torch.jit
        try:  # on tensors without data, which takes no arithmetic
            traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)
        except Exception:  # whatever an operation raises that cannot do without the data
            traced = make_fx(function)(*arguments)
    traced.graph.eliminate_dead_code()
    return traced


def _skip_copies(graph: Graph) -> None:
    """Remove copies of values that nothing changes: differentiation leaves one for every sum of gradients."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.copy.default and len(node.args) == 2:
            source = node.args[1]
        elif node.target is torch.ops.aten._to_copy.default and node.kwargs.keys() <= {"dtype", "device"}:
            source = node.args[0]
        else:
            continue
        result, values = node.meta.get("val"), source.meta.get("val")
        if not isinstance(values, Tensor) or not isinstance(result, Tensor):
            continue
        same = (
            all(getattr(result, what) == getattr(values, what) for what in ("shape", "dtype", "device"))
            and result.stride() == values.stride()
        )
        if same:
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()


def _split(traced: GraphModule, vectors: int) -> tuple[GraphModule, GraphModule]:
    """Divide a traced function whose last ``vectors`` arguments vary into what is constant and what is not.

    Returns:
        ``constant(*first arguments) -> residuals`` and ``varying(*residuals, *last arguments) -> result``.
    """
    graph = traced.graph
    _skip_copies(graph)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    given, varied = placeholders[:-vectors], placeholders[-vectors:]
    varying = set(varied)
    for node in graph.nodes:
        if node.op == "call_function" and any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    output = next(node for node in graph.nodes if node.op == "output")
    users = [*varying, output]
    needed = {node for user in users for node in user.all_input_nodes}
    residuals = [node for node in graph.nodes if node in needed and node not in varying]

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
            if node.target is torch.ops.aten.view.default:  # which vmap may find in another order in memory
                copies[node].target = torch.ops.aten.reshape.default
    linear.output([copies[node] for node in output.args[0]])
    return GraphModule(traced, constant), GraphModule(traced, linear)


class Curvlinops:
    """``curvlinops`` (Dangel et al., arXiv 2501.19183), which differentiates anew for every block of vectors.

    Slower than the others, and keeps nothing between products.
    """

    def __init__(self, function: Function, kind: Kind) -> None:
        import curvlinops  # it takes seconds, and no other path needs it

        operators = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}
        self._function = function
        self._operator = operators[kind]

    def prepare(self, x: Tensor, y: Tensor) -> Products:
        function = self._function
        # The data are held as tensors and the model is in eval mode: nothing can vary between products.
        operator = self._operator(
            function.model,
            function.loss if hasattr(function.loss, "reduction") else _Mean(function.loss),
            function.parameters,
            [(x, y)],
            check_deterministic=False,
            num_data=len(x),
        )
        return lambda rows: (operator @ rows.T).T


class _Mean(nn.Module):
    """A loss that says, as ``curvlinops`` asks, that it is a mean."""

    reduction = "mean"

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        value: Tensor = self.loss(outputs, y)
        return value


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
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
