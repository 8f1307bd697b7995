"""The handwritten digits that scikit-learn ships, as small as the paper's MNIST."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from core.problems.data.dataset import Dataset

NAME = "digits"
SHAPE = (1, 16, 16)
CLASSES = 10

_TEST_SAMPLES = 540  # of 1,797; leaves at least 50 of each class for the paper's N = 500


def load(split: str) -> Dataset:
    """The 8×8 digits enlarged to 16×16: x (N, 1, 16, 16) in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SAMPLES, stratify=labels, random_state=0
    )
    chosen = np.sort(train if split == "train" else test)
    small = torch.tensor(images[chosen], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    x = nn.functional.interpolate(small, size=SHAPE[1:], mode="bilinear", align_corners=False)
    return Dataset(NAME, x, torch.tensor(labels[chosen], dtype=torch.int64))
