"""The architectures by name, each a function that returns a freshly initialised model.

θ ∈ R^D is everywhere the concatenation of a model's trainable parameters, flattened, in the order of
``model.named_parameters()``, which is that of its state dict.

>>> parameter_count("tanh-mlp")
7030
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from types import MappingProxyType

import torch
import torchvision
from torch import nn

from core.curvature import select_parameters
from core.settings import SettingsError


def tanh_mlp() -> nn.Module:
    """The paper's MLP for 16×16 digits: 256-20-20-20-20-20-10 with tanh between, D = 7,030."""
    widths = (256, 20, 20, 20, 20, 20, 10)
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    for number, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        if number > 1:
            model.add_module(f"tanh{number - 1}", nn.Tanh())
        model.add_module(f"linear{number}", nn.Linear(fan_in, fan_out))
    return model


def three_c_three_d() -> nn.Module:
    """DeepOBS's 3c3d for CIFAR-10 (3×32×32): three convolutions, three dense layers, D = 895,210.

    Its max pooling has TensorFlow's "same" padding; behind a ReLU that equals ``ceil_mode``.
    """
    model = nn.Sequential()
    convolutions = (nn.Conv2d(3, 64, 5), nn.Conv2d(64, 96, 3), nn.Conv2d(96, 128, 3, padding=1))
    for number, convolution in enumerate(convolutions, start=1):
        model.add_module(f"conv{number}", convolution)
        model.add_module(f"relu{number}", nn.ReLU())
        model.add_module(f"maxpool{number}", nn.MaxPool2d(3, stride=2, ceil_mode=True))
    model.add_module("flatten", nn.Flatten())
    model.add_module("dense1", nn.Linear(3 * 3 * 128, 512))
    model.add_module("relu4", nn.ReLU())
    model.add_module("dense2", nn.Linear(512, 256))
    model.add_module("relu5", nn.ReLU())
    model.add_module("dense3", nn.Linear(256, 10))
    return model


def all_cnn_c() -> nn.Module:
    """DeepOBS's All-CNN-C for CIFAR-100 (3×32×32): nine convolutions, D = 1,387,108.

    The two strided convolutions have TensorFlow's "same" padding: one row below and one column right.
    """
    model = nn.Sequential()
    layers = (
        (nn.Dropout(0.2), nn.Conv2d(3, 96, 3, padding=1)),
        (None, nn.Conv2d(96, 96, 3, padding=1)),
        (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(96, 96, 3, stride=2)),
        (nn.Dropout(0.5), nn.Conv2d(96, 192, 3, padding=1)),
        (None, nn.Conv2d(192, 192, 3, padding=1)),
        (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(192, 192, 3, stride=2)),
        (nn.Dropout(0.5), nn.Conv2d(192, 192, 3)),
        (None, nn.Conv2d(192, 192, 1)),
        (None, nn.Conv2d(192, 100, 1)),
    )
    for number, (before, convolution) in enumerate(layers, start=1):
        if before is not None:
            model.add_module(f"before{number}", before)
        model.add_module(f"conv{number}", convolution)
        model.add_module(f"relu{number}", nn.ReLU())
    model.add_module("mean", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    return model


def resnet18() -> nn.Module:
    """torchvision's ResNet-18 for ImageNet (3×224×224), D = 11,689,512."""
    return torchvision.models.resnet18()  # type: ignore[no-any-return]


ARCHITECTURES: MappingProxyType[str, Callable[[], nn.Module]] = MappingProxyType(
    {"tanh-mlp": tanh_mlp, "3c3d": three_c_three_d, "all-cnn-c": all_cnn_c, "resnet18": resnet18}
)


def build(name: str) -> nn.Module:
    """A model of architecture ``name`` in eval mode, freshly initialised from torch's global generator.

    Raises:
        SettingsError: If there is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise SettingsError(f"There is no architecture '{name}'; choose one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]().eval()


@cache
def _skeleton(name: str) -> nn.Module:
    """The architecture on the meta device: shapes and types without memory or random numbers."""
    with torch.device("meta"):
        return build(name)


def parameter_count(name: str, patterns: Sequence[str] = ()) -> int:
    """D: how many trainable parameters architecture ``name`` has, or those that match any of the patterns.

    >>> parameter_count("tanh-mlp", ["linear6.*"])
    210

    Raises:
        SettingsError: There is no such architecture, or a pattern matches none of its parameters.
    """
    parameters = dict(_skeleton(name).named_parameters())
    try:
        chosen = select_parameters(_skeleton(name), patterns or ["*"])
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return sum(parameters[each].numel() for each in chosen)


def expected_tensors(name: str) -> dict[str, torch.Tensor]:
    """The state dict of architecture ``name`` on the meta device: names, shapes and types, no numbers."""
    return dict(_skeleton(name).state_dict())
