"""Random changes of training images, as the paper's recipes make them. They draw from torch's generator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from seigh.core.problems.data.originals import CIFAR_100


@cache
def _changes() -> Callable[[Tensor], Tensor]:
    """DeepOBS's, in deepobs/pytorch/datasets/cifar100.py."""
    from torchvision import transforms

    changes: Callable[[Tensor], Tensor] = transforms.Compose(
        [
            transforms.Pad(2),
            transforms.RandomCrop(32),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=63 / 255, saturation=(0.5, 1.5), contrast=(0.2, 1.8)),
        ]
    )
    return changes


def cifar_100(x: Tensor) -> Tensor:
    """DeepOBS's augmentation of CIFAR-100, each image by itself.

    As there, it works on the images' whole numbers from 0 to 255, and normalises afterwards.

    Args:
        x: Normalised images, (b, 3, 32, 32), on the CPU.

    Returns:
        The same of changed ones.
    """
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in CIFAR_100)
    pixels = (255 * (x * deviation + mean)).round().clamp(0, 255).to(torch.uint8)
    changed = torch.stack([_changes()(image) for image in pixels])
    return (changed.to(torch.float32) / 255 - mean) / deviation
