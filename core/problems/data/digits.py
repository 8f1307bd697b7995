"""The handwritten digits that scikit-learn ships, as small as the paper's MNIST."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seigh.core.problems.data.dataset import Dataset

NAME = "digits"
SHAPE = (1, 16, 16)
CLASSES = 10

# Which of the 1,797 are for testing, a bit each: the 540 that scikit-learn's train_test_split
# draws with stratify and random_state=0. The others leave at least 50 of each class for the paper's N = 500.
_TEST = bytes.fromhex(
    "002004c8b5263040081641219342050c5a00081122240028062c1e081108960a009019320430fca0128194e042284adab044"
    "1724c942c8a24a2030806004d821408b802000588dc50010400ea09000054ae801301000228ecc09005226840083b8053c23"
    "a69c0a0224000fc9542804a498cd02124061e500802c604e9c376b8192160154c8404842a0a4180a5000b60b8561e6891380"
    "4b126c80c02205068e420109f202c141b98813c809190001948e21028410a8f52033283920c944c8c8688a01029322920309"
    "22a6402d26062108a8608198c8a0141286124a12853ca41520"
)


def load(split: str) -> Dataset:
    """The 8×8 digits enlarged to 16×16: x (N, 1, 16, 16) in [0, 1]."""
    images, labels = _everything()
    for_testing = np.unpackbits(np.frombuffer(_TEST, np.uint8), count=len(labels)).astype(bool)
    chosen = ~for_testing if split == "train" else for_testing
    small = torch.tensor(images[chosen], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    x = nn.functional.interpolate(small, size=SHAPE[1:], mode="bilinear", align_corners=False)
    return Dataset(NAME, x, torch.tensor(labels[chosen], dtype=torch.int64))


@cache
def _everything() -> tuple[NDArray[Any], NDArray[Any]]:
    """All images, (1797, 64), and their labels."""
    # From scikit-learn's own file: importing it takes longer than an analysis of a small network.
    where = importlib.util.find_spec("sklearn")
    for folder in (where and where.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels
