"""The architectures by name and options, and which of them a checkpoint's tensors fit.

An architecture is written as ``resnet18`` or, with options, ``resnet18(num_classes=10)``. θ ∈ R^D is
everywhere the concatenation of a model's trainable parameters, flattened, in the order of
``model.named_parameters()``, which is that of its state dict.

>>> parameter_count("tanh-mlp")
7030
>>> infer("tanh-mlp", {name: t.shape for name, t in expected_tensors("tanh-mlp(width=8)").items()})
'tanh-mlp(width=8)'
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from seigh.core.curvature import select_parameters
from seigh.core.errors import first_line
from seigh.core.problems import gpt, graphs, huggingface, imported, paper, plugins, token_losses, zoo
from seigh.core.problems.outputs import with_tensor_outputs
from seigh.core.problems.sources import Shape, Source
from seigh.core.problems.spec import Spec, Value, parse
from seigh.core.settings import SettingsError

_log = logging.getLogger(__name__)

_HELP: Mapping[str, str] = MappingProxyType(
    {
        "num_classes": "Number of classes, which is that of the outputs.",
        "vocabulary": "Number of different tokens.",
        "block": "Tokens of a sample, at most.",
        "inputs": "Number of inputs: the numbers in one sample.",
        "width": "Units in each hidden layer.",
        "depth": "Number of hidden layers.",
        "in_channels": "Channels of the images.",
        "in_chans": "Channels of the images.",
        "image_size": "Height and width of the images.",
        "img_size": "Height and width of the images.",
        "width_mult": "Factor of the width of all layers.",
        "aux_logits": "Whether it has the auxiliary heads of training; they take no part in the analysis.",
        "transform_input": "Whether images are normalised again, as torchvision's published weights want.",
    }
)

# Values that people give options that are no tensor's size.
_COMMON: tuple[Value, ...] = (
    *(16, 24, 28, 32, 40, 48, 56, 64, 80, 84, 96, 112, 128, 144, 160, 192, 224, 240, 256, 288, 299, 320),
    *(336, 384, 392, 448, 480, 512, 518, 560, 600, 640, 768, 1024),
    *(0.1, 0.125, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 0.8, 1.25, 1.3, 1.4, 1.5, 2.0, 3.0, 4.0),
)


@dataclass(frozen=True)
class Option:
    """An option of an architecture: its default, and what it means in a line."""

    default: Value
    help: str


@dataclass(frozen=True)
class Architecture:
    """What there is to know about an architecture before it is built.

    Attributes:
        name: What people choose, without options.
        source: Where it comes from: ``paper``, ``torchvision``, ``timm``, ``hf``, or a plug-in's package.
        line: What it is, in a line.
        options: By name.
        takes: Shape of one sample, with the options as given; None if a plug-in does not say.
    """

    name: str
    source: str
    line: str
    options: Mapping[str, Option]
    takes: Shape | None


@dataclass(frozen=True)
class ThetaFacts:
    """How many numbers a model's parameters hold.

    Attributes:
        total: All parameters; a tied one counts once.
        trainable: D of all of θ: those that require a gradient.
        frozen: The parameters that do not train, which are no part of θ.
        tied: How many of the total have further names, which are not counted again.
    """

    total: int
    trainable: int
    frozen: int
    tied: int


_PAPER = (*paper.NETWORKS, "resnet18")
_RESNET = "torchvision's ResNet-18 for ImageNet (3×224×224), D = 11,689,512."


def names(*, timm: bool = True) -> tuple[str, ...]:
    """All architectures: the paper's, plug-ins', torchvision's, timm's where it is installed, and exported
    networks that people have brought.

    Those of ``transformers`` are none without a configuration.
    """
    return (*_lasting(timm=timm), *graphs.names())


def of_one_s_own() -> tuple[str, ...]:
    """The architectures that are proposed without names of tensors: the paper's, plug-ins' and exported ones.

    torchvision's and timm's are too many to build all of them for a proposal.
    """
    sources = [
        each for each in (*_plain(), *_prefixed()) if each not in (TORCHVISION, TIMM, HUGGING_FACE, EXPORTED)
    ]
    found = chain.from_iterable(_names(source) for source in sources)
    return tuple(dict.fromkeys((*found, *_PAPER, *graphs.names())))


@cache
def _lasting(*, timm: bool) -> tuple[str, ...]:
    """The names of those that are the same as long as this process runs."""
    found = [*_PAPER]
    for source in (*_plain(), *_prefixed()):
        if source in (HUGGING_FACE, EXPORTED):
            continue
        if timm or source is not TIMM:
            found += _names(source)
    return tuple(dict.fromkeys(found))


def canonical(text: str) -> str:
    """The one way to write an architecture: options in alphabetical order, those at their default left out.

    The path of an exported network's ``.pt2`` file stands for the network, which this process knows from then
    on by the name that is returned.

    >>> canonical("resnet18( num_classes = 10 )"), canonical("tanh-mlp(width=20)")
    ('resnet18(num_classes=10)', 'tanh-mlp')

    Of ``transformers``, the path of a ``config.json`` is a way to write it, too.

    Raises:
        SettingsError: There is no such architecture or option, it cannot be built with this value, or the
            file holds no network that can be one.
    """
    if graphs.is_file(text):
        return graphs.take(Path(text)).name
    if huggingface.is_meant(text):
        text = huggingface.read(Path(text))
    spec = _checked(parse(text))
    _skeleton(str(spec))
    return str(spec)


def describe(text: str) -> Architecture:
    """What there is to know about an architecture, its options as given.

    Raises:
        SettingsError: As ``canonical``.
    """
    spec = _checked(parse(text))
    options = _options(spec.name)
    values = dict(options) | dict(spec.options)
    source = _source(spec.name)
    # A plug-in's words may mean something else.
    words = _HELP if any(source is each for each in (PAPER, TORCHVISION, TIMM)) else {}
    explained = {
        name: Option(default, words.get(name, f"The argument {name} of its constructor."))
        for name, default in options.items()
    }
    name = "paper" if spec.name in _PAPER else source.name
    line = _RESNET if spec.name == "resnet18" else source.described(spec.name)
    return Architecture(spec.name, name, line, MappingProxyType(explained), source.shape(spec.name, values))


def build(text: str) -> nn.Module:
    """A model of an architecture in eval mode, freshly initialised from torch's global generator.

    Raises:
        SettingsError: As ``canonical``.
    """
    return _built(_checked(parse(text)))


def parameter_count(text: str, patterns: Sequence[str] = ()) -> int:
    """D: how many trainable parameters an architecture has, or those that match any of the patterns.

    >>> parameter_count("tanh-mlp", ["linear6.*"])
    210

    Raises:
        SettingsError: As ``canonical``; or a pattern matches none of its parameters.
    """
    return sum(math.prod(shape) for shape in theta_shapes(text, patterns).values())


def theta_shapes(text: str, patterns: Sequence[str] = ()) -> dict[str, Shape]:
    """Names and shapes of the trainable parameters, or of those that match any of the patterns, in θ's order.

    >>> theta_shapes("tanh-mlp", ["linear6.*"])
    {'linear6.weight': (10, 20), 'linear6.bias': (10,)}

    Raises:
        SettingsError: As ``parameter_count``.
    """
    skeleton = _skeleton(str(_checked(parse(text))))
    parameters = dict(skeleton.named_parameters())
    try:
        chosen = select_parameters(skeleton, patterns or ["*"])
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return {name: tuple(parameters[name].shape) for name in chosen}


def trainable(text: str) -> list[str]:
    """The names of an architecture's trainable parameters, in its order.

    Raises:
        SettingsError: As ``canonical``.
    """
    return [name for name, p in _skeleton(str(_checked(parse(text)))).named_parameters() if p.requires_grad]


def expected_tensors(text: str) -> dict[str, torch.Tensor]:
    """The state dict of an architecture on the meta device: names, shapes and types, no numbers.

    Tied weights are one object under several names.
    """
    return dict(_skeleton(str(_checked(parse(text)))).state_dict(keep_vars=True))


def expected_theta(text: str) -> ThetaFacts:
    """``theta_facts`` of an architecture, which is not built for it.

    >>> expected_theta("tanh-mlp")
    ThetaFacts(total=7030, trainable=7030, frozen=0, tied=0)

    Raises:
        SettingsError: As ``canonical``.
    """
    return theta_facts(_skeleton(str(_checked(parse(text)))))


def theta_facts(model: nn.Module) -> ThetaFacts:
    """How many numbers a model's parameters hold, and how many of them make up θ."""
    distinct = dict(model.named_parameters())
    again = sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False))
    total = sum(p.numel() for p in distinct.values())
    trainable = sum(p.numel() for p in distinct.values() if p.requires_grad)
    return ThetaFacts(total, trainable, total - trainable, again - total)


def forward_operations(text: str, sample: Shape) -> int:
    """Floating-point operations of one sample's forward pass, those of matrix products and convolutions.

    >>> forward_operations("tanh-mlp", (1, 16, 16))
    13840

    Raises:
        SettingsError: As ``canonical``; or the architecture does not take samples of this shape.
    """
    from torch.utils.flop_counter import FlopCounterMode  # and what it brings along takes long to import

    skeleton = _skeleton(str(_checked(parse(text))))
    try:
        dtype = torch.float32 if vocabulary(skeleton) is None else torch.int64
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            skeleton(torch.empty(1, *sample, device="meta", dtype=dtype))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise SettingsError(
            f"{text} does not take samples of the shape {'×'.join(map(str, sample))}."
        ) from error
    return int(counter.get_total_flops())


def usual_loss(text: str) -> str:
    """Name of the loss that an architecture is usually trained with.

    >>> usual_loss("tanh-mlp"), usual_loss("char-gpt(depth=1)")
    ('cross-entropy', 'next-token')
    """
    if text.partition("(")[0].strip() == CHARACTERS.name:
        return token_losses.NEXT_TOKEN
    return huggingface.usual_loss(text) or "cross-entropy"


def vocabulary(model: nn.Module) -> int | None:
    """How many tokens a model tells apart, 0 … V − 1; None if it takes no tokens, or does not say."""
    size = getattr(model, "vocabulary", None)
    return size if isinstance(size, int) else None


# --- From a name to a model -------------------------------------------------------------------------------


def _checked(spec: Spec) -> Spec:
    """The spec without defaults, once its name and options exist and its values are of their kinds."""
    if spec.name.startswith(f"{graphs.SOURCE}/"):
        spec = replace(spec, name=graphs.find(spec.name).name)
    if _found(spec.name) is None and imported.is_meant(spec.name):
        raise SettingsError(
            f"'{spec.name}' is code, which is imported by 'seigh analyze' on one's own command line alone; "
            "to have it here, register it in a plug-in, or bring the graph that seigh.export writes of it."
        )
    if _found(spec.name) is None:
        near = ", ".join(_PAPER)
        if spec.name.startswith(huggingface.PREFIX):
            raise SettingsError(huggingface.unknown(spec.name))
        raise SettingsError(
            f"There is no architecture '{spec.name}'; choose one of {near}, or a classifier of torchvision "
            "by its name there."
        )
    if spec.argument is not None:
        raise SettingsError(f"'{spec}' gives {spec.argument} without a name; write options as name=value.")
    own = _source(spec.name).canonical
    if own is not None:
        return own(spec)
    if not spec.options:
        return spec
    defaults = _candidates(spec.name)
    values: dict[str, Value] = {}
    for name, value in spec.options:
        if name not in defaults or not _matters(spec.name, name):
            known = ", ".join(_options(spec.name)) or "none"
            raise SettingsError(f"{spec.name} has no option '{name}'; it has {known}.")
        values[name] = _of_kind(defaults[name], name, value)
    return Spec(spec.name, tuple(values.items())).without(defaults)


def _of_kind(default: Value, name: str, value: Value) -> Value:
    """The value as the type of the option's default; sizes are positive."""
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]
        raise SettingsError(f"The option {name} is {wanted}, not '{value}'.")
    if not isinstance(value, (bool, str)) and value <= 0 < default:  # type: ignore[operator]
        raise SettingsError(f"The option {name} is {value}; choose a positive number.")
    return value


def _built(spec: Spec) -> nn.Module:
    options = dict(spec.options)
    try:
        model = _source(spec.name).build(spec.name, options)
        return with_tensor_outputs(model.eval())
    except SettingsError:
        raise
    except Exception as error:  # a constructor refuses sizes in every way there is
        raise SettingsError(f"{spec} cannot be built ({first_line(error)}); choose other options.") from error


def _options(name: str) -> Mapping[str, Value]:
    """Default by option: those that can be given, and make a difference."""
    return {option: default for option, default in _candidates(name).items() if _matters(name, option)}


@cache
def _matters(name: str, option: str) -> bool:
    """Whether a candidate is an option: known to be one, or else accepted, with other shapes as a result."""
    if _source(name).is_certain(name, option):
        return True
    other = Spec(name, ((option, _other(_candidates(name)[option])),))
    return _attempt(other) not in (None, _without_counters(_skeleton(name).state_dict()))


@cache
def _candidates(name: str) -> Mapping[str, Value]:
    """Default by option, some of which may turn out not to be one."""
    return _source(name).options(name)


def _other(value: Value) -> Value:
    """Another value of an option that a constructor is likely to accept."""
    if isinstance(value, bool):
        return not value
    return value if isinstance(value, str) else 2 * value


# --- Skeletons: shapes without memory ---------------------------------------------------------------------


class _OnMeta(TorchFunctionMode):
    """Tensors that models allocate are on the meta device, those that they compute with are not.

    Under ``torch.device("meta")`` all of them would be, and constructors that compute their sizes with
    tensors (RegNet's with ``arange``) would fail. It is bound to the thread.

    Args:
        only: Shapes of matrices and kernels without which it soon stops; any are allowed when not given.
    """

    _MOST_STRAYS = 4  # of layers that a constructor makes only to see what they accept
    _ALLOCATE = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
    # Without memory there is nothing to fill. PyTorch would load its compiler to do so, which takes seconds,
    # and spend most of a transformer on its truncated normal numbers (``erfinv_`` … ``clamp_``).
    _FILL = (
        *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_),
        *(torch.Tensor.erfinv_, torch.Tensor.mul_, torch.Tensor.add_, torch.Tensor.clamp_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    )

    def __init__(self, only: frozenset[Shape] | None = None) -> None:
        super().__init__()
        self._only = only
        self._strays = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._FILL:
            filled = args[0] if args else kwargs["tensor"]
            if filled.is_meta:
                return filled
        if func in self._ALLOCATE and kwargs.get("device") is None:
            kwargs = kwargs | {"device": "meta"}
        result = func(*args, **kwargs)
        if func is torch.empty and self._only is not None and result.ndim in (2, 4):
            self._strays += tuple(result.shape) not in self._only
            if self._strays > self._MOST_STRAYS:
                raise SettingsError("The tensors are of another architecture.")
        return result


@lru_cache(maxsize=256)
def _skeleton(text: str) -> nn.Module:
    """The architecture on the meta device: shapes and types without memory or random numbers."""
    return _built_on_meta(parse(text))


def _built_on_meta(spec: Spec) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            with _OnMeta():
                model = _built(spec)
        except SettingsError:
            if _source(spec.name).on_meta:
                raise
            model = _built(spec)  # a constructor may compute with the tensors that it has allocated
    return _moved_to_meta(model)


def _moved_to_meta(model: nn.Module) -> nn.Module:
    """The model without numbers; unlike with ``model.to``, tied tensors stay tied."""
    moved: dict[int, torch.Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        there = tensor.detach().to("meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        moved[id(tensor)] = nn.Parameter(there, tensor.requires_grad) if is_parameter else there
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held |= {name: moved[id(tensor)] for name, tensor in held.items() if tensor is not None}
    return model


def _shapes(spec: Spec) -> dict[str, Shape]:
    """Shape by name of the tensors that an architecture's checkpoint holds."""
    return _without_counters(_built_on_meta(spec).state_dict())


@lru_cache(maxsize=256)
def _usual_shapes(name: str) -> Mapping[str, Shape]:
    """Shapes of an architecture without options."""
    return _without_counters(_skeleton(name).state_dict())


def _without_counters(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    # Old files lack these counters, which play no part in eval mode.
    counter = ".num_batches_tracked"
    return {
        name: tuple(getattr(each, "shape", each))
        for name, each in tensors.items()
        if not name.endswith(counter)
    }


@lru_cache(maxsize=256)
def _attempt(spec: Spec) -> Mapping[str, Shape] | None:
    """Its shapes; None if its constructor refuses."""
    try:
        return _shapes(spec)
    except SettingsError:
        return None


def _may_have(spec: Spec, only: frozenset[Shape]) -> bool:
    """Whether it can be built with layers of these shapes, but for a few; stops when it cannot."""
    with suppress(SettingsError), _OnMeta(only):
        _built(spec)
        return True
    return False


# --- From a checkpoint's tensors to a name ----------------------------------------------------------------


def fitting(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """The architectures that tensors of these names and shapes fit exactly, with the options that they tell.

    Where some fit without an option that others need, only the former are given: a ``wide_resnet50_2`` is a
    ``resnet50(width_per_group=128)`` too. torchvision's, whose names differ from those of the paper's own
    networks, are looked at only if none of these fits, and timm's only if nothing else does.
    """
    late = (TORCHVISION, TIMM)
    first = [source for source in (*_plain(), *_prefixed()) if source not in late]
    found = _fitting(chain.from_iterable(source.possible(shapes) for source in first), shapes)
    if not any(parse(each).name in paper.NETWORKS for each in found):
        found += _fitting(TORCHVISION.possible(shapes), shapes)
    return _simplest(found or _fitting(TIMM.possible(shapes), shapes))


def infer(name: str, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Architecture ``name`` with the options that tensors of these names and shapes tell; None if none fits.

    Counters of batches need not be there. An option is found from a tensor's size that follows it in
    proportion, from the number of tensors, or else by trying common values.
    """
    wanted = _without_counters({key: tuple(shape) for key, shape in shapes.items()})
    usual = _usual_shapes(name)
    if usual == wanted:
        return name
    if 2 * len(usual.keys() & wanted.keys()) < min(len(usual), len(wanted)):
        return None
    spec, now = Spec(name), usual
    for find in (_by_names, _by_shapes):
        for option, default in _candidates(name).items():
            if option in dict(spec.options):
                continue
            spec, now = find(spec, now, option, default, wanted)
            if now == wanted:
                return str(spec)
        if now.keys() != wanted.keys():
            return None
    return None


def _fitting(candidates: Iterable[str], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    found = []
    for name in dict.fromkeys(candidates):
        with suppress(SettingsError):  # a plug-in that cannot be built fits nothing
            found += [spec for spec in [infer(name, shapes)] if spec is not None]
    return found


def _simplest(found: Sequence[str]) -> list[str]:
    """Those with the fewest options."""
    options = {spec: len(parse(spec).options) for spec in found}
    return [spec for spec in found if options[spec] == min(options.values())]


_Shapes = Mapping[str, Shape]


def _by_names(spec: Spec, now: _Shapes, option: str, default: Value, wanted: _Shapes) -> tuple[Spec, _Shapes]:
    """Give an option that decides which tensors there are the value that the wanted names tell."""
    if now.keys() == wanted.keys() or isinstance(default, str):
        return spec, now
    other = _attempt(_with(spec, option, _other(default)))
    if other is None or other.keys() == now.keys():
        return spec, now
    value = _proportional(default, _other(default), len(now), len(other), len(wanted))
    return _first_that(lambda found: found.keys() == wanted.keys(), spec, now, option, [value])


def _by_shapes(
    spec: Spec, now: _Shapes, option: str, default: Value, wanted: _Shapes
) -> tuple[Spec, _Shapes]:
    """Give an option that decides tensors' sizes the value that the wanted sizes tell."""
    if isinstance(default, str):
        return spec, now
    other = _attempt(_with(spec, option, _other(default)))
    if other is None or other.keys() != now.keys():
        return spec, now
    sizes = [
        (name, dim)
        for name in now
        if len(now[name]) == len(other[name]) == len(wanted[name])
        for dim in range(len(now[name]))
        if now[name][dim] != other[name][dim]
    ]
    if all(now[name][dim] == wanted[name][dim] for name, dim in sizes):
        return spec, now
    told = [
        _proportional(default, _other(default), now[name][dim], other[name][dim], wanted[name][dim])
        for name, dim in sizes
    ]
    only = frozenset(wanted.values())
    common = (
        value
        for value in _COMMON
        if type(value) is type(default) and _may_have(_with(spec, option, value), only)
    )
    return _first_that(
        lambda found: all(found[name][dim] == wanted[name][dim] for name, dim in sizes),
        *(spec, now, option, chain(dict.fromkeys(told), common)),
    )


def _proportional(default: Value, other: Value, size: int, other_size: int, wanted: int) -> Value | None:
    """The option's value at which a size that goes evenly from ``size`` to ``other_size`` is ``wanted``."""
    if isinstance(default, bool):
        return other
    assert isinstance(default, (int, float))
    assert isinstance(other, (int, float))
    value = default + (wanted - size) * (other - default) / (other_size - size)
    if isinstance(default, float):
        return round(value, 6) if value > 0 else None
    return int(value) if value > 0 and value.is_integer() else None


def _first_that(
    fits: Callable[[_Shapes], bool], spec: Spec, now: _Shapes, option: str, values: Iterable[Value | None]
) -> tuple[Spec, _Shapes]:
    for value in values:
        if value is None:
            continue
        attempt = _with(spec, option, value)
        found = _attempt(attempt)
        if found is not None and fits(found):
            return attempt, found
    return spec, now


def _with(spec: Spec, option: str, value: Value) -> Spec:
    return Spec(spec.name, (*spec.options, (option, value)))


def _torchvision_candidates(shapes: Mapping[str, Any]) -> Iterator[str]:
    """Members of the families whose first tensor's name is among these; building them all takes seconds."""
    for members in _torchvision_families().values():
        if next(iter(_skeleton(members[0]).state_dict())) in shapes:
            yield from members


@cache
def _torchvision_families() -> Mapping[str, Sequence[str]]:
    families: dict[str, list[str]] = {}
    for name in zoo.torchvision_names():
        families.setdefault(zoo.torchvision_family(name), []).append(name)
    return families


def _timm_candidates(shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Those whose layers all have a shape that is among these; the others' construction ends at the first.

    timm has more than a thousand models, which take minutes to build even without memory.
    """
    only = frozenset(tuple(shape) for shape in shapes.values())
    for name in zoo.timm_names():
        first, last = zoo.timm_ends(name) or ("", "")
        kernel, matrix = shapes.get(f"{first}.weight", ()), shapes.get(f"{last}.weight", ())
        if len(kernel) != 4 or len(matrix) not in (2, 4):
            continue
        told = Spec(name, (("in_chans", kernel[1]), ("num_classes", matrix[0])))
        if _may_have(told, only):
            yield name


# --- Sources ----------------------------------------------------------------------------------------------


def _square(inputs: int) -> Shape:
    """The shape of a grey image with this many pixels; a plain vector if they make no square."""
    side = math.isqrt(inputs)
    return (1, side, side) if side * side == inputs else (inputs,)


def _paper_options(name: str) -> Mapping[str, Value]:
    arguments = inspect.signature(paper.NETWORKS[name]).parameters
    return {each: argument.default for each, argument in arguments.items()}


def _paper_takes(name: str, options: Mapping[str, Value]) -> Shape:
    return _square(int(options["inputs"])) if name == "tanh-mlp" else (int(options["in_channels"]), 32, 32)


PAPER = Source(
    "paper",
    names=lambda: tuple(paper.NETWORKS),
    build=lambda name, options: paper.NETWORKS[name](**options),
    options=_paper_options,
    takes=_paper_takes,
    line=lambda name: (inspect.getdoc(paper.NETWORKS[name]) or "").partition("\n")[0],
    on_meta=True,
)


def _char_gpt_options(_: str) -> Mapping[str, Value]:
    return {each.name: each.default for each in inspect.signature(gpt.CharGPT).parameters.values()}


CHARACTERS = Source(
    "char-gpt",
    names=lambda: ("char-gpt",),
    build=lambda _, options: gpt.CharGPT(**options),  # type: ignore[arg-type]
    options=_char_gpt_options,
    takes=lambda _, options: (int(options["block"]),),
    line=lambda _: (inspect.getdoc(gpt.CharGPT) or "").partition("\n")[0],
    on_meta=True,
)


def _torchvision_takes(name: str, options: Mapping[str, Value]) -> Shape:
    size = int(options.get("image_size", 0)) or zoo.torchvision_size(name)
    return 3, size, size


TORCHVISION = Source(
    "torchvision",
    names=zoo.torchvision_names,
    build=zoo.torchvision_model,
    options=lambda name: zoo.torchvision_options(name, _skeleton(name)),
    takes=_torchvision_takes,
    certain=zoo.is_certain,
    candidates=_torchvision_candidates,
    on_meta=True,
)


def _timm_takes(name: str, options: Mapping[str, Value]) -> Shape:
    channels, height, width = zoo.timm_size(name)
    if "img_size" in options:
        height = width = int(options["img_size"])
    return int(options.get("in_chans", channels)), height, width


TIMM = Source(
    "timm",
    names=zoo.timm_names,
    build=zoo.timm_model,
    options=zoo.timm_options,
    takes=_timm_takes,
    certain=lambda *_: False,
    candidates=_timm_candidates,
)


HUGGING_FACE = huggingface.SOURCE


def _exported_candidates(shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Those whose parameters are all among these."""
    for name in graphs.names():
        with suppress(SettingsError):  # damaged since it came
            if graphs.find(name).program.parameters.keys() <= shapes.keys():
                yield name


EXPORTED = Source(
    graphs.SOURCE,
    names=graphs.names,
    build=lambda name, _: graphs.ExportedNetwork(graphs.find(name).program),
    takes=lambda name, _: graphs.find(name).program.sample,
    line=lambda name: (
        f"{name.removeprefix(f'{graphs.SOURCE}/')}, a network of {len(graphs.find(name).program.steps):,} "
        "operations "
        f"that somebody exported (torch {graphs.find(name).program.torch})."
    ),
    candidates=_exported_candidates,
    on_meta=True,
)


def _of_package(package: str) -> Source:
    """The architectures that a package has registered one by one."""
    own = {name: each for name, each in plugins.registry().architectures.items() if each.package == package}

    def takes(name: str, options: Mapping[str, Value]) -> Shape | None:
        given = own[name].takes
        return given(options) if callable(given) else given

    return Source(
        package,
        names=lambda: tuple(own),
        build=lambda name, options: own[name].build(**(dict(own[name].options) | dict(options))),
        options=lambda name: own[name].options,
        takes=takes,
        line=lambda name: f"{name} of the package {package}.",
    )


@cache
def _plain() -> tuple[Source, ...]:
    """Those whose architectures have plain names. Importing torchvision takes long, so it is asked last."""
    packages = dict.fromkeys(each.package for each in plugins.registry().architectures.values())
    return PAPER, CHARACTERS, *map(_of_package, packages), TORCHVISION


@cache
def _prefixed() -> tuple[Source, ...]:
    """Those whose architectures are called by the source's name, a slash, and their own."""
    return *plugins.registry().sources.values(), EXPORTED, HUGGING_FACE, TIMM


@cache
def _names(source: Source) -> tuple[str, ...]:
    """The architectures of a source; of a plug-in's that fails, none, which is logged."""
    if plugins.registry().sources.get(source.name) is not source:
        return tuple(source.names())
    try:
        return tuple(name for name in source.names() if name.startswith(f"{source.name}/"))
    except Exception:  # another package's code may fail in every way there is
        _log.exception("The source '%s' is left out, because it fails.", source.name)
        return ()


def _found(name: str) -> Source | None:
    if name.startswith(f"{graphs.SOURCE}/"):  # which come while this process runs
        return EXPORTED if graphs.exists(name) else None
    return imported.source(name) if imported.is_meant(name) else _found_lasting(name)


@cache
def _found_lasting(name: str) -> Source | None:
    prefix, slash, _ = name.partition("/")
    sources = [each for each in _prefixed() if each.name == prefix] if slash else _plain()
    return next((source for source in sources if name in _names(source)), None)


def _source(name: str) -> Source:
    """The source of an architecture that there is."""
    source = _found(name)
    assert source is not None
    return source
