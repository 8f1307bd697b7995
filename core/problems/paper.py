"""The paper's networks that no library has; its ResNet-18 is torchvision's.

Each function's arguments are the options of the architecture; their defaults are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType

from torch import nn

from seigh.core.settings import SettingsError

# More layers than anyone means; each takes time to construct.
_DEEPEST = 200


def tanh_mlp(inputs: int = 256, width: int = 20, depth: int = 5, num_classes: int = 10) -> nn.Module:
    """The paper's MLP for 16×16 digits: 256-20-20-20-20-20-10 with tanh between, D = 7,030."""
    if depth > _DEEPEST:
        raise SettingsError(f"A tanh-mlp of {depth:,} hidden layers is too deep; choose at most {_DEEPEST}.")
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    for number, (fan_in, fan_out) in enumerate(pairwise((inputs, *[width] * depth, num_classes)), start=1):
        if number > 1:
            model.add_module(f"tanh{number - 1}", nn.Tanh())
        model.add_module(f"linear{number}", nn.Linear(fan_in, fan_out))
    return model


def three_c_three_d(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DeepOBS's 3c3d for CIFAR-10 (3×32×32): three convolutions, three dense layers, D = 895,210.

    Its max pooling has TensorFlow's "same" padding; behind a ReLU that equals ``ceil_mode``.
    """
    model = nn.Sequential()
    convolutions = (nn.Conv2d(in_channels, 64, 5), nn.Conv2d(64, 96, 3), nn.Conv2d(96, 128, 3, padding=1))
    for number, convolution in enumerate(convolutions, start=1):
        model.add_module(f"conv{number}", convolution)
        model.add_module(f"relu{number}", nn.ReLU())
        model.add_module(f"maxpool{number}", nn.MaxPool2d(3, stride=2, ceil_mode=True))
    model.add_module("flatten", nn.Flatten())
    model.add_module("dense1", nn.Linear(3 * 3 * 128, 512))
    model.add_module("relu4", nn.ReLU())
    model.add_module("dense2", nn.Linear(512, 256))
    model.add_module("relu5", nn.ReLU())
    model.add_module("dense3", nn.Linear(256, num_classes))
    return model


def all_cnn_c(num_classes: int = 100, in_channels: int = 3) -> nn.Module:
    """DeepOBS's All-CNN-C for CIFAR-100 (3×32×32): nine convolutions, D = 1,387,108.

    The two strided convolutions have TensorFlow's "same" padding: one row below and one column right.
    """
    model = nn.Sequential()
    layers = (
        (nn.Dropout(0.2), nn.Conv2d(in_channels, 96, 3, padding=1)),
        (None, nn.Conv2d(96, 96, 3, padding=1)),
        (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(96, 96, 3, stride=2)),
        (nn.Dropout(0.5), nn.Conv2d(96, 192, 3, padding=1)),
        (None, nn.Conv2d(192, 192, 3, padding=1)),
        (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(192, 192, 3, stride=2)),
        (nn.Dropout(0.5), nn.Conv2d(192, 192, 3)),
        (None, nn.Conv2d(192, 192, 1)),
        (None, nn.Conv2d(192, num_classes, 1)),
    )
    for number, (before, convolution) in enumerate(layers, start=1):
        if before is not None:
            model.add_module(f"before{number}", before)
        model.add_module(f"conv{number}", convolution)
        model.add_module(f"relu{number}", nn.ReLU())
    model.add_module("mean", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    return model


NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"tanh-mlp": tanh_mlp, "3c3d": three_c_three_d, "all-cnn-c": all_cnn_c}
)
