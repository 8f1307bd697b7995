"""Architectures of Hugging Face ``transformers``, built from what a ``config.json`` says.

An architecture is called by the class that a configuration names and by those of its values that are not
the class's defaults: ``hf/GPT2LMHeadModel(n_embd=32,n_head=4,n_layer=2,vocab_size=97)``. So the name says
all, and the file is needed no longer. Values that are no number, flag or plain word (such as a list of sizes)
are written as ``json-`` and their JSON in base64, as they have to fit into a name.

A configuration is from anyone. It can only choose among the classes of ``transformers`` itself: code that it
points to is refused, nothing is downloaded, and its sizes are bounded before any memory is taken.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import importlib.util
import inspect
import json
import math
import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seigh.core.device import available_memory
from seigh.core.errors import first_line
from seigh.core.problems import token_losses
from seigh.core.problems.sources import Shape, Source
from seigh.core.problems.spec import LONGEST, Spec, Value, parse
from seigh.core.settings import SettingsError

PREFIX = "hf/"
FILE = "config.json"  # as ``save_pretrained`` writes it beside the weights
_NUM_LABELS = "num_labels"

# Of a configuration that a person or ``transformers`` wrote, the largest is a few thousand bytes.
_LARGEST_FILE = 2**20
_LARGEST_NUMBER = 2**24
_LONGEST_TEXT = 1000
_MOST_ENTRIES = 10_000

# Parameters and other numbers of a model that is built, and calls of torch on the way there.
_MOST_NUMBERS = 2 * 10**10
_MOST_CALLS = 20_000

# By task: the loss that goes with the classes, and the table of them.
_TASKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": (token_losses.NEXT_TOKEN, "a causal language model"),
        "MODEL_FOR_MASKED_LM_MAPPING_NAMES": (token_losses.EACH_TOKEN, "a masked language model"),
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": (
            token_losses.EACH_TOKEN,
            "a classifier of every token",
        ),
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": ("cross-entropy", "a classifier of sequences"),
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": ("cross-entropy", "a classifier of images"),
    }
)

# Entries that change nothing of what is computed in eval mode, or that are decided here.
_WITHOUT_EFFECT = re.compile(
    r"_.*|.*drop(out|_rate|_path|layer)?(_.*)?|.*(pdrop|layerdrop)|transformers_version|architectures|model_type"
    r"|output_.*|return_dict|dtype|torch_dtype|id2label|label2id|problem_type|use_cache|task_specific_params"
    r"|(bos|eos|sep|cls|mask|decoder_start)_token_id|attn_implementation|experts_implementation"
    r"|gradient_checkpointing"
)

# Entries that ask for code or weights from elsewhere.
_ELSEWHERE = {
    "auto_map": "points to code of its own (auto_map), which is never run; choose a model type that "
    "transformers has itself, or register the network in a plug-in",
    "quantization_config": "is of a quantised model, whose weights have no derivatives; bring the checkpoint "
    "in float32, float16 or bfloat16",
    "use_pretrained_backbone": "asks for weights from elsewhere, which are never downloaded; give the "
    "configuration of a model that stands alone",
    "use_timm_backbone": "asks for a backbone of another library; choose the architecture timm/… itself",
}
_CLASSES_LEFT_OUT = frozenset({"TimmWrapperForImageClassification"})

_PLAIN_WORD = re.compile(r"[A-Za-z_][\w.+-]*", re.ASCII)
_JSON = "json-"
_NONE = "none"
_NO_WORDS = frozenset({_NONE, "true", "false", "nan", "inf", "infinity"})


def is_installed() -> bool:
    """Whether ``transformers`` is there, which the extra ``hf`` brings."""
    return importlib.util.find_spec("transformers") is not None


def names() -> tuple[str, ...]:
    """``hf/<class>`` of every class with a head that there is a loss for; none without ``transformers``."""
    return tuple(f"{PREFIX}{name}" for name in _classes()) if is_installed() else ()


def usual_loss(architecture: str) -> str | None:
    """The loss that goes with an architecture of this source; None for any other."""
    name = architecture.partition("(")[0].strip()
    if not name.startswith(PREFIX) or not is_installed():
        return None
    found = _classes().get(name.removeprefix(PREFIX))
    return found[0] if found else None


def unknown(name: str) -> str:
    """Why there is no architecture ``hf/…`` of this name."""
    if not is_installed():
        return _missing(f"The architecture '{name}'")
    return (
        f"The installed transformers has no '{name.removeprefix(PREFIX)}' that there is a loss for; give the "
        f"{FILE} of the model as the architecture."
    )


def is_meant(text: str) -> bool:
    """Whether an architecture is given as the path of a configuration."""
    return text.lower().endswith(".json")


def beside(checkpoint: Path) -> Path | None:
    """The configuration that lies beside a checkpoint as ``save_pretrained`` writes both, if it does."""
    path = checkpoint.parent / FILE
    return path if path.is_file() else None


def read(path: Path, name: str | None = None) -> str:
    """The architecture that a ``config.json`` describes.

    Args:
        path: The file.
        name: What it is called in errors.

    Raises:
        SettingsError: It is no configuration that can be built.
    """
    name = name or path.name
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SettingsError(
                f"'{name}' is too large for the configuration of a model; give {FILE} itself."
            )
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"The configuration '{name}' cannot be read: {error.strerror}.") from error
    return from_json(content, name)


def from_json(content: bytes, name: str = FILE) -> str:
    """The architecture that the content of a ``config.json`` describes.

    Raises:
        SettingsError: As ``read``.
    """
    try:
        given = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"'{name}' is no JSON; give the {FILE} of save_pretrained.") from error
    if not isinstance(given, dict):
        raise SettingsError(f"'{name}' is no configuration of a model; give the {FILE} of save_pretrained.")
    if not is_installed():
        raise SettingsError(_missing(f"'{name}'"))
    for entry, problem in _ELSEWHERE.items():
        if given.get(entry):
            raise SettingsError(f"'{name}' {problem}.")
    _check_sizes(given, f"'{name}'")
    chosen = _class_of(given, name)
    known = _config_class(chosen)
    values = {key: value for key, value in given.items() if key in _renamed(known)}
    values = {key: value for key, value in values.items() if not _WITHOUT_EFFECT.fullmatch(key)}
    labels = given.get("id2label")
    if isinstance(labels, dict):
        values[_NUM_LABELS] = len(labels)
    elif isinstance(given.get(_NUM_LABELS), int):
        values[_NUM_LABELS] = given[_NUM_LABELS]
    return str(_spec(chosen, _configured(chosen, values, f"'{name}'")))


def canonical(spec: Spec) -> Spec:
    """The one way to write a spec: with the values that decide its configuration, and no others.

    Raises:
        SettingsError: It has no such entry, or cannot be configured with these values.
    """
    chosen = spec.name.removeprefix(PREFIX)
    if spec.argument is not None:
        raise SettingsError(f"'{spec}' gives {spec.argument} without a name; write options as name=value.")
    values = {key: _decoded(value, spec) for key, value in spec.options}
    known = _renamed(_config_class(chosen))
    for key in values:
        if (key not in known and key != _NUM_LABELS) or _WITHOUT_EFFECT.fullmatch(key):
            raise SettingsError(
                f"{spec.name} has no option '{key}'; its options are the entries of its {FILE} that change "
                "what is computed."
            )
    _check_sizes(values, spec.name)
    return _spec(chosen, _configured(chosen, values, spec.name))


def build(name: str, options: Mapping[str, Value]) -> nn.Module:
    """A freshly initialised model, whose call takes (N, T) tokens or (N, C, H, W) images.

    Tokens below 0 are padding, which no other position attends to. Attention is computed by elementary
    operations (``eager``), whose second derivatives are right.

    Raises:
        SettingsError: It would be too large for this program or this machine.
    """
    spec = Spec(name, tuple(options.items()))
    on_meta = torch.empty(0).is_meta  # as inside ``architectures._OnMeta``
    size = _size(str(spec))
    if on_meta:
        with torch.device("meta"):
            return _model(spec)
    there = available_memory(torch.device("cpu"))
    if 4 * size > there:
        raise SettingsError(
            f"{name} with these options has {size:,} numbers, {4 * size / 2**30:,.1f} GiB, and this machine "
            f"has {there / 2**30:,.1f} GiB of memory; choose a smaller model."
        )
    return _model(spec)


def described(name: str) -> str:
    """Describe an architecture in a line."""
    found = _classes()[name.removeprefix(PREFIX)]
    return f"transformers' {name.removeprefix(PREFIX)}, {found[1]}; usual loss {found[0]}."


def takes(name: str, options: Mapping[str, Value]) -> Shape | None:
    """Shape of the images that a classifier of images takes; None for tokens, of which there may be any."""
    if "a classifier of images" not in described(name):
        return None
    chosen = name.removeprefix(PREFIX)
    config = _configured(chosen, {k: _decoded(v, Spec(name)) for k, v in options.items()}, name)
    size, channels = getattr(config, "image_size", 224), getattr(config, "num_channels", 3)
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    return (channels, height, width) if isinstance(height, int) and isinstance(width, int) else None


SOURCE = Source(
    "hf",
    names=names,
    build=build,
    takes=takes,
    line=described,
    candidates=lambda _: (),  # shapes do not tell the number of heads, among others
    on_meta=True,
    canonical=canonical,
)


# --- The library ------------------------------------------------------------------------------------------


@cache
def _library() -> ModuleType:
    found = importlib.import_module("transformers")
    found.utils.logging.set_verbosity_error()  # what it says to programmers
    return found


@cache
def _classes() -> Mapping[str, tuple[str, str]]:
    """Usual loss and kind by class; of a class in several tables the first one counts."""
    found: dict[str, tuple[str, str]] = {}
    for name, _, loss, kind in _listed():
        found.setdefault(name, (loss, kind))
    return MappingProxyType(found)


@cache
def _listed() -> tuple[tuple[str, str, str, str], ...]:
    """Class, model type, usual loss and kind, as ``transformers`` lists them."""
    tables = importlib.import_module("transformers.models.auto.modeling_auto")
    return tuple(
        (name, model_type, loss, kind)
        for table, (loss, kind) in _TASKS.items()
        for model_type, classes in getattr(tables, table).items()
        for name in (classes if isinstance(classes, list | tuple) else [classes])
        if name not in _CLASSES_LEFT_OUT
    )


@cache
def _model_class(name: str) -> Any:
    try:
        return getattr(_library(), name)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise SettingsError(
            f"{PREFIX}{name} needs a package that is not installed ({first_line(error)})."
        ) from error


def _config_class(name: str) -> Any:
    return _model_class(name).config_class


@cache
def _renamed(config_class: Any) -> frozenset[str]:
    """The entries that a configuration may have, and their other names."""
    declared = getattr(config_class, "__dataclass_fields__", None)
    fields = set(declared or inspect.signature(config_class).parameters)
    return frozenset(
        fields | set(config_class.attribute_map) | {"rope_theta", "rope_scaling"} & _legacy(fields)
    )


def _type(config: Any) -> Any:
    return type(config)


def _legacy(fields: set[str]) -> set[str]:
    """Older names of entries: rotary embeddings had two where they have one now."""
    return {"rope_theta", "rope_scaling"} if "rope_parameters" in fields else set()


def _class_of(given: Mapping[str, Any], name: str) -> str:
    """The class that a configuration names."""
    model_type = given.get("model_type")
    if not isinstance(model_type, str):
        raise SettingsError(f"'{name}' has no model_type; give the {FILE} of save_pretrained.")
    of_type = list(dict.fromkeys(each for each, its_type, *_ in _listed() if its_type == model_type))
    if not of_type:
        known = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
        problem = (
            "has no language model or classifier in the installed transformers; bring a checkpoint of one "
            "that has, or export the network"
            if model_type in known
            else f"is unknown to the installed transformers {_library().__version__}; use one that knows it"
        )
        raise SettingsError(f"The model type '{model_type[:60]}' of '{name}' {problem}.")
    listed = given.get("architectures")
    asked = [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
    if len(asked) != 1:
        some = ", ".join(f'"{each}"' for each in of_type)
        raise SettingsError(
            f"'{name}' does not say which model it is of; add \"architectures\": [CLASS] with one of {some}."
        )
    if asked[0] not in of_type:
        raise SettingsError(
            f"'{name}' is of {asked[0][:60]}, for which there is no loss; choose one of {', '.join(of_type)}."
        )
    return asked[0]


def _configured(name: str, values: Mapping[str, Any], where: str) -> Any:
    """The configuration of a class with these values.

    Raises:
        SettingsError: The library refuses them.
    """
    _library()
    try:
        return _config_class(name)(**values)
    except Exception as error:  # it refuses values in every way there is
        raise SettingsError(
            f"{where} is no configuration of {name} ({first_line(error)}); correct it."
        ) from error


def _spec(name: str, config: Any) -> Spec:
    """The architecture of a configuration, with only those values that the others do not tell."""
    whole = {
        key: value
        for key, value in config.to_dict().items()
        if key in _renamed(_type(config)) and not _WITHOUT_EFFECT.fullmatch(key)
    }
    if config.num_labels != 2:
        whole[_NUM_LABELS] = config.num_labels
    usual = type(config)().to_dict()
    needed = {key: value for key, value in whole.items() if key == _NUM_LABELS or usual.get(key) != value}
    wanted = _facts(config)
    for key in sorted(needed):
        fewer = {each: value for each, value in needed.items() if each != key}
        try:
            same = _facts(type(config)(**fewer)) == wanted
        except Exception:  # of others that do not go together without it
            same = False
        if same:
            needed = fewer
    spec = Spec(f"{PREFIX}{name}", tuple((key, _encoded(value)) for key, value in needed.items()))
    if len(str(spec)) > LONGEST:
        raise SettingsError(
            f"The configuration of this {name} differs from the usual one in more than a name can hold "
            f"({LONGEST:,} characters); register the network in a plug-in."
        )
    return spec


def _facts(config: Any) -> dict[str, Any]:
    """What decides the function of a configuration's model."""
    facts = {k: v for k, v in config.to_dict().items() if not _WITHOUT_EFFECT.fullmatch(k)}
    return facts | {_NUM_LABELS: config.num_labels}


# --- Values in a name -------------------------------------------------------------------------------------


def _encoded(value: Any) -> Value:
    """A value as an option's."""
    if value is None:
        return _NONE
    if isinstance(value, bool | int | float):
        return value
    plain = isinstance(value, str) and _PLAIN_WORD.fullmatch(value) and value.lower() not in _NO_WORDS
    if plain and not value.startswith(_JSON):
        return cast(str, value)
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    return _JSON + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(value: Value, spec: Spec) -> Any:
    """The value that an option stands for.

    Raises:
        SettingsError: It stands for none.
    """
    if value == _NONE:
        return None
    if not isinstance(value, str) or not value.startswith(_JSON):
        return value
    text = value.removeprefix(_JSON)
    try:
        return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise SettingsError(
            f"'{value[:40]}…' in {spec.name} is no value; take it from {FILE} again."
        ) from error


def _check_sizes(given: Any, where: str) -> None:
    """Refuse numbers, texts and lists that no configuration has.

    Raises:
        SettingsError: There is one.
    """
    pending, entries = [given], 0
    while pending:
        value = pending.pop()
        entries += 1
        if isinstance(value, dict):
            pending += [*value.values()]
        elif isinstance(value, list):
            pending += value
        large = isinstance(value, int) and abs(value) > _LARGEST_NUMBER
        large |= isinstance(value, float) and not math.isfinite(value)
        large |= isinstance(value, str) and len(value) > _LONGEST_TEXT
        if large or entries > _MOST_ENTRIES:
            raise SettingsError(
                f"{where} has values of a size that no model has ('{str(value)[:20]}'); give the {FILE} of a "
                "model."
            )


# --- The model --------------------------------------------------------------------------------------------


class _Counted(TorchFunctionMode):
    """Counts the numbers that tensors are allocated for, and stops where they are too many."""

    _ALLOCATE: tuple[Any, ...] = (
        *(torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange),
        *(torch.linspace, torch.eye, torch.tril, torch.triu, torch.empty_like, torch.zeros_like),
    )

    def __init__(self, name: str) -> None:
        super().__init__()
        self.numbers: int = 0
        self._name = name
        self._calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._calls += 1
        if func in self._ALLOCATE and isinstance(result, Tensor):
            self.numbers += result.numel()
        if self.numbers > _MOST_NUMBERS or self._calls > _MOST_CALLS:
            raise SettingsError(
                f"{self._name} with these options would have more than {_MOST_NUMBERS:,} numbers, or more "
                "layers than any model; choose a smaller one."
            )
        return result


@lru_cache(maxsize=256)
def _size(text: str) -> int:
    """Numbers of a model and of what its constructor allocates, which takes no memory to find out."""
    spec = parse(text)
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Counted(spec.name) as counted:
        _model(spec)
    numbers: int = counted.numbers
    return numbers


def _model(spec: Spec) -> nn.Module:
    name = spec.name.removeprefix(PREFIX)
    config = _configured(name, {key: _decoded(value, spec) for key, value in spec.options}, spec.name)
    for each in (config, *(v for v in vars(config).values() if hasattr(v, "_attn_implementation"))):
        each._attn_implementation = "eager"
        if hasattr(each, "_experts_implementation"):
            each._experts_implementation = "eager"
    with _alone():
        model = cast(nn.Module, _model_class(name)(config))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # for which the gradient would be 0 wherever this token is no padding
    model.vocabulary = getattr(config, "vocab_size", None)  # type: ignore[assignment]
    padding = getattr(config, "pad_token_id", None)
    model.padding = padding if isinstance(padding, int) and padding >= 0 else 0  # type: ignore[assignment]
    model.register_forward_pre_hook(_arguments, with_kwargs=True)
    return model.eval()


def _arguments(model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What the model is called with, of one tensor of tokens or images."""
    if len(given) != 1 or named or not isinstance(given[0], Tensor):
        return None
    x = given[0]
    if x.is_floating_point():
        return (), {"pixel_values": x}
    accepted = _accepted(cast(Hashable, type(model)))
    there = x >= 0
    arguments: dict[str, Any] = {"input_ids": torch.where(there, x, cast(int, model.padding))}
    if "attention_mask" in accepted:
        arguments["attention_mask"] = there.long()
    if "use_cache" in accepted:
        arguments["use_cache"] = False
    return (), arguments


@cache
def _accepted(model_class: Hashable) -> frozenset[str]:
    model: Any = model_class
    return frozenset(inspect.signature(model.forward).parameters)


@contextmanager
def _alone() -> Iterator[None]:
    """Nothing is downloaded inside."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _missing(what: str) -> str:
    return f"{what} needs the extra 'hf' of seigh-lab; in a checkout: pip install '.[hf]'."
