import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits

from seigh.core.problems import architectures, data


def test_digits_are_scikit_learns_enlarged_and_split_once_and_for_all() -> None:
    train, test = data.load("digits", "train"), data.load("digits", "test")
    for split in (train, test):
        assert split.x.shape[1:] == (1, 16, 16)
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.x.min() == 0
        assert split.x.max() == 1
        assert torch.bincount(split.y).min() >= 50
    assert len(train.y) + len(test.y) == 1797
    # Shrinking again gives back scikit-learn's images up to their blur, each exactly once over both splits.
    small = torch.cat([train.x, test.x]).reshape(-1, 8, 2, 8, 2).mean(dim=(2, 4))
    images, labels = load_digits(return_X_y=True)
    blurred = torch.nn.functional.interpolate(
        torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, size=16, mode="bilinear"
    )
    wanted = blurred.reshape(-1, 8, 2, 8, 2).mean(dim=(2, 4))
    order = np.lexsort(small.flatten(1).numpy().T)
    wanted_order = np.lexsort(wanted.flatten(1).numpy().T)
    torch.testing.assert_close(small[order], wanted[wanted_order])
    assert np.array_equal(torch.cat([train.y, test.y]).numpy()[order], labels[wanted_order])
    # The split itself, which all results depend on.
    assert hashlib.sha256(test.y.numpy().tobytes()).hexdigest() == DIGITS_TEST_LABELS


DIGITS_TEST_LABELS = "c109985223b344bca43f90afa1250532b8f2c5a97f700a2882cd7527022aaf5b"


def test_subsets_are_those_of_all_stored_results() -> None:
    """Taken before there were other data sets; a change would make old and new results incomparable."""
    model = architectures.build("tanh-mlp")
    for (split, samples, seed), (index, content) in DIGITS_SUBSETS.items():
        subset = data.fitting_subset("digits", split, samples, seed, model)
        assert hashlib.sha256(subset.index.numpy().tobytes()).hexdigest() == index
        assert data.content_hash(subset) == content


DIGITS_SUBSETS = {
    ("train", 500, 0): (
        "a4006bd0275c0fbc7b95b4c62626ee23e754c1c8f185eba389ac6e4456835d17",
        "39d6ce03393b3566995bdb7b37c7a341ef727a86d94d628e32ab740160d478d6",
    ),
    ("train", 300, 7): (
        "fb754aec2c68501ae41d702f00ff650813b510e829c01e06092a88e52aadac13",
        "3e09410171266abfffec1891f563ce835edecbf118a832af9c3eaa5168847911",
    ),
    ("test", 500, 0): (
        "0b81f51fa97846a4aebdc75f6bfe5027932a9ef82acd85935a0cea096e92a952",
        "cd97c21aca4e28ce6da88d0d2f684e5dbb294509571f0cfd11a567e3e0c731b2",
    ),
    ("test", 300, 7): (
        "cec953009be0f99bb3008770f98cb5cacc2b3a1bed95eec67d49e59778ca12c3",
        "59ce82e1c1373bfbd6881076927d97fb0d2ea6715aa5faf556cbbaf0cb6d097b",
    ),
}
