"""The image classifiers of torchvision, and of timm where it is installed, with the options they can take.

Weights are never downloaded: a checkpoint brings them. Both libraries are imported when they are asked for
the first time, as that takes seconds that a network of another source need not wait for.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from torch import nn

from seigh.core.problems.spec import Value

TIMM = "timm/"

# Of a constructor's arguments these change nothing of what is computed in eval mode.
_WITHOUT_EFFECT = ("dropout", "drop_rate", "stochastic", "init", "memory_efficient", "progress")

# Options that no constructor's signature tells: arguments of functions on the way to it, or of another type.
_FURTHER: Mapping[str, Mapping[str, Value]] = {
    "maxvit_t": {"image_size": 224},
    "mobilenet_v3_large": {"width_mult": 1.0},
    "mobilenet_v3_small": {"width_mult": 1.0},
}

# That change what is computed, but no tensor's shape.
_SHAPELESS = ("transform_input",)

# Constructors that warn unless they are told whether to draw their usual initialisation.
_TOLD_TO_INITIALISE = ("googlenet", "inception_v3")

# Heads that help training along; in eval mode nothing depends on them.
_AUXILIARY = ("aux1", "aux2", "AuxLogits")

_TIMM_OPTIONS: Mapping[str, tuple[str, int]] = {
    "num_classes": ("num_classes", 1000),
    "in_chans": ("in_chans", 3),
    "img_size": ("input_size", 224),
}


@cache
def _models() -> ModuleType:
    return importlib.import_module("torchvision.models")


@cache
def torchvision_names() -> tuple[str, ...]:
    """All of torchvision's classifiers."""
    return tuple(_models().list_models(module=_models()))


def torchvision_family(name: str) -> str:
    """Return torchvision's module that defines it: members of a family name their tensors alike."""
    return str(_models().get_model_builder(name).__module__)


def torchvision_model(name: str, options: Mapping[str, Value]) -> nn.Module:
    """A freshly initialised model. What helps only in training is frozen, as it has no part in the loss."""
    arguments: dict[str, Any] = dict(options)
    if name in _TOLD_TO_INITIALISE:
        arguments["init_weights"] = True
    if name == "maxvit_t" and "image_size" in arguments:
        arguments["input_size"] = (arguments.pop("image_size"),) * 2
    model: nn.Module = _models().get_model(name, weights=None, **arguments)
    for auxiliary in _AUXILIARY:
        head = getattr(model, auxiliary, None)
        if isinstance(head, nn.Module):
            head.requires_grad_(False)
    return model


def torchvision_options(name: str, model: nn.Module) -> dict[str, Value]:
    """Default by option that the model's constructor may take; some are fixed by its name and are refused.

    Args:
        name: Name of the model.
        model: As it is without options.
    """
    options: dict[str, Value] = {}
    for each in inspect.signature(type(model), eval_str=True).parameters.values():
        if each.annotation not in (bool, int, float) or any(part in each.name for part in _WITHOUT_EFFECT):
            continue
        default = getattr(model, each.name, None) if each.default is each.empty else each.default
        if isinstance(default, (bool, int, float)):
            options[each.name] = each.annotation(default)
    return options | dict(_FURTHER.get(name, {}))


def is_certain(name: str, option: str) -> bool:
    """Whether this is known to be an option of the model, so that it need not be tried."""
    return option in _SHAPELESS or option in _FURTHER.get(name, {})


def torchvision_size(name: str) -> int:
    """Height and width of the images that its published weights are meant for."""
    crop = _models().get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
    return int(crop[0] if isinstance(crop, (list, tuple)) else crop)


@cache
def _timm() -> ModuleType | None:
    return importlib.import_module("timm") if importlib.util.find_spec("timm") else None


@cache
def timm_names() -> tuple[str, ...]:
    """All of timm's models as ``timm/<name>``; none where it is not installed."""
    timm = _timm()
    return () if timm is None else tuple(f"{TIMM}{name}" for name in timm.list_models())


@cache
def timm_ends(name: str) -> tuple[str, str] | None:
    """Names of its first convolution and of its classifier; None where timm does not say."""
    ends = []
    configuration = _timm_configuration(name)
    for key in ("first_conv", "classifier"):
        layer = configuration.get(key)
        layer = layer[0] if isinstance(layer, (list, tuple)) and layer else layer
        ends.append(layer)
    first, last = ends
    return (first, last) if isinstance(first, str) and isinstance(last, str) else None


def timm_model(name: str, options: Mapping[str, Value]) -> nn.Module:
    """A freshly initialised model."""
    timm = _timm()
    assert timm is not None
    model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=False, **options)
    return model


def timm_options(name: str) -> dict[str, Value]:
    """Default by option that the model may take; some models refuse some."""
    configuration = _timm_configuration(name)
    options: dict[str, Value] = {}
    for option, (key, usual) in _TIMM_OPTIONS.items():
        default = configuration.get(key, usual)
        options[option] = int(default[-1]) if isinstance(default, (list, tuple)) else int(default)
    return options


def timm_size(name: str) -> tuple[int, int, int]:
    """Shape of the images that its published weights are meant for."""
    channels, height, width = _timm_configuration(name).get("input_size", (3, 224, 224))
    return channels, height, width


def _timm_configuration(name: str) -> dict[str, Any]:
    timm = _timm()
    assert timm is not None
    configuration = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    return {} if configuration is None else dict(configuration.to_dict())
