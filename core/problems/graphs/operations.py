"""The operations that a network from a file may consist of: pure functions of tensors, by ATen's names.

None of them reads or writes a file, draws random numbers, changes its arguments, or gives a result whose
size depends on the numbers in a tensor. An operation that is not listed is refused by name, so that what
torch adds some day is refused until somebody has looked at it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from seigh.core.curvature.causes import instead
from seigh.core.settings import SettingsError

ATEN = "torch.ops.aten."

ALLOWED = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear matmul mm
    bmm mv dot addmm baddbmm addmv einsum bilinear outer tensordot layer_norm native_layer_norm
    group_norm native_group_norm batch_norm instance_norm rms_norm _native_batch_norm_legit_no_training
    norm linalg_vector_norm linalg_norm cosine_similarity cdist relu relu6 gelu silu mish elu selu celu
    leaky_relu hardtanh hardsigmoid hardswish sigmoid tanh softplus log_sigmoid threshold prelu glu
    hardshrink softshrink softmax _softmax _safe_softmax log_softmax _log_softmax special_log_softmax
    special_softmax max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d embedding scaled_dot_product_attention dropout
    feature_dropout alpha_dropout feature_alpha_dropout native_dropout rnn_tanh rnn_relu gru lstm
    rnn_tanh_cell rnn_relu_cell gru_cell lstm_cell add sub rsub mul div divide multiply subtract
    true_divide floor_divide remainder fmod neg negative abs sqrt rsqrt exp exp2 expm1 log log1p log2
    log10 pow square reciprocal sin cos tan asin acos atan atan2 arctan2 sinh cosh asinh acosh atanh erf
    erfc floor ceil round trunc frac sign sgn clamp clamp_min clamp_max clip minimum maximum fmin fmax
    where lerp addcmul addcdiv masked_fill hypot logaddexp xlogy logit nan_to_num sinc special_expit
    logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
    __and__ __or__ __xor__ eq ne lt le gt ge isnan isinf isfinite sum mean std var var_mean std_mean
    amax amin aminmax max min argmax argmin any all prod logsumexp cumsum cumprod topk sort argsort view
    reshape _unsafe_view _reshape_alias flatten unflatten squeeze unsqueeze transpose t permute movedim
    moveaxis swapaxes swapdims expand expand_as broadcast_to repeat tile repeat_interleave select slice
    narrow split split_with_sizes chunk unbind tensor_split cat concat concatenate stack hstack vstack
    dstack diagonal diag_embed unfold roll flip rot90 tril triu contiguous clone alias detach view_as
    reshape_as type_as to _to_copy numpy_T mT adjoint pixel_shuffle pixel_unshuffle channel_shuffle
    im2col col2im broadcast_tensors meshgrid atleast_1d atleast_2d ravel constant_pad_nd pad
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d _pad_circular upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa upsample_trilinear3d index
    index_select gather scatter scatter_add index_put index_add index_copy select_scatter slice_scatter
    diagonal_scatter copy fill zeros ones full zeros_like ones_like full_like new_zeros new_ones
    new_full arange linspace eye scalar_tensor lift_fresh_copy lift_fresh zero tril_indices triu_indices
    """.split()  # noqa: SIM905
)

# Sizes as numbers.
_SIZES: Mapping[str, Callable[..., Any]] = {
    "sym_size.int": lambda tensor, dim: tensor.size(dim),
    "sym_numel.default": lambda tensor: tensor.numel(),
}

_LARGEST = 2**62


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic with sizes: plain numbers in, a plain number of at most 62 bits out."""

    def compute(*numbers: Any) -> Any:
        if any(isinstance(each, Tensor) for each in numbers):
            raise TypeError("an operation on sizes is given a tensor")
        if function is operator.pow and not 0 <= numbers[1] <= 64:
            raise OverflowError("a size is too large")
        found = function(*numbers)
        if abs(found) >= _LARGEST:
            raise OverflowError("a size is too large")
        return found

    return compute


_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": _bounded(getattr(operator, name))
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos"),
            *("eq", "ne", "lt", "le", "gt", "ge"),
        )
    },
    "torch.sym_max": _bounded(max),
    "torch.sym_min": _bounded(min),
    "torch.sym_int": _bounded(int),
    "torch.sym_float": _bounded(float),
    "math.trunc": _bounded(int),
}

# Checks of sizes and types that have no result.
CHECKS = tuple(
    ATEN + name
    for name in (
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_assert_async",
        "sym_constrain_range",
        "_assert_",
    )
)

# Operations made of others of which some give a view of their argument and some do not: these never do.
_NO_VIEWS = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul bilinear outer
    layer_norm group_norm batch_norm instance_norm rms_norm softmax log_softmax max_pool1d max_pool2d
    max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d scaled_dot_product_attention
    relu6 selu prelu square norm linalg_norm cosine_similarity multiply divide subtract true_divide
    where embedding
    """.split()  # noqa: SIM905
)

_RANDOM = frozenset(
    """
    rand randn randint randperm rand_like randn_like randint_like bernoulli normal normal_ uniform_
    bernoulli_ multinomial poisson rrelu rrelu_with_noise rrelu_with_noise_functional exponential_
    random_ uniform
    """.split()  # noqa: SIM905
)
_DATA_DEPENDENT = frozenset(
    """
    nonzero item _local_scalar_dense masked_select unique _unique2 unique_consecutive bincount one_hot
    """.split()  # noqa: SIM905
)


class Unfit(SettingsError):
    """A network from a file that cannot be an architecture here."""


def is_check(target: str) -> bool:
    """Whether an operation only checks something."""
    return target.startswith(CHECKS)


@cache
def sizes(target: str) -> Callable[..., Any] | None:
    """The function of an operation on sizes; None for any other."""
    found: Callable[..., Any] | None = _ARITHMETIC.get(target)
    if found is None and target.startswith(ATEN):
        found = _SIZES.get(target.removeprefix(ATEN))
    return found


def overload(target: str, where: str) -> tuple[OpOverload, OpOverload]:
    """The pure operation of a name, and the one of exactly this name, which may change its first argument.

    Args:
        target: ``torch.ops.aten.relu_.default``.
        where: Name of the operation, for the refusal.

    Raises:
        Unfit: If it is not allowed.
    """
    name, dot, named = target.removeprefix(ATEN).partition(".")
    if not target.startswith(ATEN) or not dot:
        raise Unfit(
            f"{_called(target, where)}, which is no operation of ATen and is not read; write this part with "
            "PyTorch's own operations."
        )
    pure = name.removesuffix("_") if not name.startswith("__") else name
    if pure not in ALLOWED:
        raise Unfit(f"{_called(target, where)}, {_unlisted(name)}")
    packet = getattr(torch.ops.aten, pure, None)
    kind = {"Scalar_inplace": "Scalar"}.get(named, named)
    if packet is None or kind not in packet.overloads():
        if pure == name or packet is None:
            raise Unfit(f"{_called(target, where)}, which this version of torch does not have.")
        raise Unfit(
            f"{_called(target, where)}, which changes a tensor in place and has no form that does not; write "
            "it without the underscore."
        )
    found: OpOverload = getattr(packet, kind)
    if found._schema.is_mutable or any(each.is_out for each in found._schema.arguments):
        raise Unfit(
            f"{_called(target, where)}, which writes into one of its arguments; write it as a function of "
            "them."
        )
    if pure == name:
        return found, found
    other = getattr(torch.ops.aten, name, None)
    if other is None or named not in other.overloads():
        raise Unfit(f"{_called(target, where)}, which this version of torch does not have.")
    return found, getattr(other, named)


def base(found: OpOverload) -> str:
    """The name of an operation without its overload."""
    return found._schema.name.removeprefix("aten::")


@cache
def gives_no_view(found: OpOverload) -> bool:
    """Whether the results of an operation never share memory with its arguments."""
    if any(each.alias_info is not None for each in found._schema.returns):
        return False
    if found.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        return base(found) in _NO_VIEWS
    return base(found) not in ("_reshape_alias", "_unsafe_view", "lift_fresh", "alias", "native_dropout")


def check_eval(found: OpOverload, given: Mapping[str, Any], where: str) -> None:
    """Refuse layers that behave as in training.

    Args:
        found: The operation.
        given: Its arguments by name.
        where: As in ``overload``.

    Raises:
        Unfit: It is dropout, normalisation by the batch, or changes statistics.
    """
    name = base(found)
    again = "let it follow self.training there, and export it in eval mode, as seigh.export does."
    if "dropout" in name and given.get("train", True) is not False and given.get("p") != 0:
        raise Unfit(f"The network has dropout in training mode{where}, so its loss is random; {again}")
    if name == "scaled_dot_product_attention" and given.get("dropout_p", 0) != 0:
        raise Unfit(f"The network has attention with dropout in training mode{where}; {again}")
    recurrent = name in ("rnn_tanh", "rnn_relu", "gru", "lstm")
    if recurrent and given.get("dropout", 0) != 0 and given.get("train") is not False:
        raise Unfit(f"The network has a recurrent layer with dropout in training mode{where}; {again}")
    if name == "batch_norm" and given.get("training") is not False:
        raise Unfit(
            f"The network has BatchNorm in training mode{where}, which makes one sample's outputs depend on "
            f"the others; {again}"
        )
    changes = given.get("running_mean") is not None and given.get("use_input_stats") is not False
    if name == "instance_norm" and changes:
        raise Unfit(f"The network has InstanceNorm{where} whose statistics change as it computes; {again}")


def _called(target: str, where: str) -> str:
    return f"The network calls {target.removeprefix('torch.ops.')}{where}"


def _unlisted(name: str) -> str:
    if name in _RANDOM:
        return "which draws random numbers, so its loss is random; export it in eval mode, or leave this out."
    if name in _DATA_DEPENDENT:
        return (
            "whose result's size or value depends on the numbers in a tensor, so no derivative can be taken "
            "through it; write this part without it."
        )
    if name == "embedding_renorm_":
        return "which changes its weights, as max_norm of an embedding does; leave max_norm out."
    return f"which is not among the operations that are read; {instead(name)}."
