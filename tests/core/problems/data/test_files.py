import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits

from core.problems import architectures, data
from core.problems.data import DataError, Dataset


def dataset(counts: list[int]) -> Dataset:
    """So many samples of each class, shuffled; every sample is a number of its own."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    return Dataset("some", torch.arange(len(y), dtype=torch.float32)[:, None], y)


# --- Digits -----------------------------------------------------------------------------------------------


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


# --- Subsets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3, 4, 9, 10, 14, 17])
def test_subsets_are_balanced_to_one_sample(samples: int) -> None:
    whole = dataset([6, 4, 9, 5])
    subset = data.balanced_subset(whole, samples, seed=1)
    counts = torch.bincount(subset.y, minlength=4)
    assert len(subset.y) == samples
    assert counts.max() - counts.min() <= 1
    index = subset.x[:, 0].long()
    assert torch.equal(subset.y, whole.y[index])
    assert torch.equal(index, index.unique())  # no sample twice, in the data set's order


def test_subsets_depend_on_the_seed_alone_and_leave_the_random_state() -> None:
    whole = dataset([50, 50, 50])
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = data.balanced_subset(whole, 30, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(data.balanced_subset(whole, 30, seed=3).x, first.x)
    assert not torch.equal(data.balanced_subset(whole, 30, seed=4).x, first.x)


@pytest.mark.parametrize(("counts", "largest"), [([6, 4, 9, 5], 19), ([4, 4], 8), ([1, 100], 3)])
def test_the_largest_possible_subset_is_said(counts: list[int], largest: int) -> None:
    whole = dataset(counts)
    assert len(data.balanced_subset(whole, largest, seed=0).y) == largest
    with pytest.raises(DataError, match=f"choose at most {largest}"):
        data.balanced_subset(whole, largest + 1, seed=0)


def test_the_content_hash_tells_data_apart() -> None:
    one = dataset([3, 3])
    same = Dataset("other name", one.x.clone(), one.y.clone())
    assert data.content_hash(one) == data.content_hash(same)
    others = [
        Dataset("some", one.x.reshape(3, 2), one.y),
        Dataset("some", one.x + 1, one.y),
        Dataset("some", one.x, one.y.flip(0)),
    ]
    assert len({data.content_hash(each) for each in (one, *others)}) == 4


# --- Files ------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).random((6, 1, 16, 16))
Y = np.arange(6)


@pytest.mark.parametrize("form", ["npz", "compressed npz", "safetensors"])
def test_a_users_file_is_read_the_same_by_path_and_by_hash(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("mine.safetensors" if form == "safetensors" else "mine.npz")
    if form == "safetensors":
        safetensors.torch.save_file({"x": torch.tensor(X), "y": torch.tensor(Y, dtype=torch.int32)}, path)
    elif form == "npz":
        np.savez(path, x=X, y=Y.astype(np.uint8))
    else:
        np.savez_compressed(path, x=X.astype(np.float16), y=Y, extra=np.zeros(3))
    for split in ("train", "test"):
        loaded = data.load(str(path), split)
        np.testing.assert_allclose(loaded.x.numpy(), X, atol=1e-3)
        assert loaded.x.dtype == torch.float32
        assert loaded.y.tolist() == Y.tolist()
        assert loaded.name == path.name

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stored = tmp_path / "artifacts" / "data" / f"{digest}{path.suffix}"
    stored.parent.mkdir(parents=True)
    path.rename(stored)
    by_hash = data.load(f"sha256:{digest}", "test", artifact_folder=tmp_path / "artifacts")
    assert data.content_hash(by_hash) == data.content_hash(loaded)
    with pytest.raises(DataError, match="not in the artefact store"):
        data.load(f"sha256:{digest}", "test", artifact_folder=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": X}, "has no y"),
        ({"a": X, "b": Y}, r"has no x and no y \(it holds a, b\)"),
        ({"x": X, "y": Y[:5]}, "6 samples in x and 5 labels in y"),
        ({"x": X.astype(int), "y": Y}, "x in 'a.npz' is int64"),
        ({"x": X, "y": Y.astype(float)}, "y in 'a.npz' is float64"),
        ({"x": X, "y": Y > 2}, "y in 'a.npz' is bool"),
        ({"x": X[:0], "y": Y[:0]}, "holds no samples"),
        ({"x": X[:, 0, 0, 0], "y": Y}, r"x in 'a.npz' has shape \(6,\)"),
        ({"x": X, "y": Y[:, None]}, r"y \(6, 1\)"),
        ({"x": np.where(X > 0.9, np.nan, X), "y": Y}, "holds NaN"),
        ({"x": X * 1e300, "y": Y}, "holds NaN or infinite"),
        ({"x": X, "y": Y - 1}, "the label -1"),
        ({"x": X, "y": np.full(6, 2**64 - 1, dtype=np.uint64)}, "the label -1"),
        ({"x": X.astype(object), "y": Y}, "holds Python objects"),
        ({"x": X, "y": np.array(["a"] * 6)}, "holds text"),
        ({"x": X, "y": np.zeros(6, dtype=[("a", int)])}, "holds text, records"),
    ],
)
def test_unusable_arrays_are_refused(arrays: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=reason) as refused:
        data.load(str(tmp_path / "a.npz"), "test")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, x=X, y=Y)
    else:
        safetensors.torch.save_file({"x": torch.tensor(X), "y": torch.tensor(Y)}, path)
    whole = path.read_bytes()
    for contents in (whole[:10], whole[: len(whole) // 2], whole[:-1], b"hello", b"PK\x05\x06" + b"\0" * 18):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=r"damaged or incomplete|has no x"):
            data.load(str(path), "test")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        data.load(str(path), "test")


def npy(shape: tuple[int, ...]) -> bytes:
    """A .npy file that claims a shape and holds next to nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + b"\0" * 64


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy((10**6, 10**9)))
        archive.writestr("y.npy", npy((10**6,)))
    with pytest.raises(DataError, match="damaged"):
        data.load(str(tmp_path / "a.npz"), "test")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_LARGEST_ARRAY", 2**30)  # writing more takes too long here
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("y.npy", npy((6,)))
        with archive.open("x.npy", "w") as entry:
            zeros = bytes(2**26)
            for _ in range(17):
                entry.write(zeros)
    with pytest.raises(DataError, match="unpack to more than 1 GiB"):
        data.load(str(tmp_path / "a.npz"), "test")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnist", "no data set 'mnist'; choose digits"),
        ("", "no data set ''"),
        ("gone.npz", "no data file 'gone.npz'"),
        ("sha256:../../etc/passwd", "64 hexadecimal digits"),
        ("sha256:" + "0" * 64, "not in the artefact store"),
    ],
)
def test_unknown_data_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason):
        data.load(name, "test", artifact_folder=tmp_path)


# --- Data and models --------------------------------------------------------------------------------------


def test_data_that_fit_a_model_pass() -> None:
    data.check_matches(data.load("digits", "test"), architectures.build("tanh-mlp"))


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1,), (8, 8), (7, 3, 3), (2, 2, 2, 2), (1, 1, 1, 1, 1)])
def test_samples_of_the_wrong_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    odd = Dataset("odd", torch.zeros(3, *shape), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="have shape " + "×".join(map(str, shape))):
        data.check_matches(odd, architectures.build(name))


def test_labels_without_an_output_are_refused() -> None:
    odd = Dataset("odd", torch.zeros(3, 256), torch.tensor([0, 10, 3]))
    with pytest.raises(
        DataError, match=r"the label 10, but this architecture has 10 outputs \(labels 0 to 9\)"
    ):
        data.check_matches(odd, architectures.build("tanh-mlp"))
