import os
import pickle
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from seigh.core.problems import architectures, data
from seigh.core.problems.data import DataError
from seigh.core.settings import Settings
from tests.core.problems import originals

# DeepOBS's, which the paper's code takes (deepobs/pytorch/datasets).
CIFAR = {
    10: ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
    100: ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def env(folder: Path) -> Settings:
    return Settings(data_dir=folder)


def normalised(pixels: np.ndarray, mean: tuple[float, ...], deviation: tuple[float, ...]) -> np.ndarray:
    """Bytes (N, 3, H, W) as the paper's networks see them."""
    return (pixels / 255 - np.array(mean)[:, None, None]) / np.array(deviation)[:, None, None]


# --- The numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnists_pixels_are_between_0_and_1(name: str, kind: str, split: str, tmp_path: Path) -> None:
    images, labels = originals.write_mnist(tmp_path, kind=kind, train=30, test=20)[split]
    loaded = data.load(name, split, env=env(tmp_path))
    assert loaded.name == name
    assert loaded.shape == (1, 28, 28)
    assert not loaded.synthetic
    np.testing.assert_allclose(loaded.x.numpy()[:, 0], images / 255, rtol=1e-6)
    assert loaded.x.dtype == torch.float32
    assert loaded.y.tolist() == labels.tolist()
    assert loaded.y.dtype == torch.int64


def test_small_mnist_is_resized_as_an_image(tmp_path: Path) -> None:
    images, labels = originals.write_mnist(tmp_path, test=20)["test"]
    loaded = data.load("mnist-16x16", "test", env=env(tmp_path))
    wanted = [
        np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in images
    ]
    assert loaded.shape == (1, 16, 16)
    np.testing.assert_allclose(loaded.x.numpy()[:, 0], np.stack(wanted) / 255, rtol=1e-6)
    assert loaded.y.tolist() == labels.tolist()
    data.check_matches(loaded, architectures.build("tanh-mlp"))


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_is_normalised_by_channel(
    classes: int, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = originals.write_cifar(tmp_path, classes, train=110, test=100)[split]
    originals.trust_cifar(monkeypatch, tmp_path, classes)
    loaded = data.load(f"cifar-{classes}", split, env=env(tmp_path))
    assert loaded.shape == (3, 32, 32)
    np.testing.assert_allclose(loaded.x.numpy(), normalised(images, *CIFAR[classes]), atol=2e-6)
    assert loaded.y.tolist() == labels.tolist()
    assert loaded.class_names[3] == "class 3"
    data.check_matches(loaded, architectures.build("3c3d" if classes == 10 else "all-cnn-c"))


def test_imagenet_is_resized_cropped_and_normalised(tmp_path: Path) -> None:
    originals.write_imagenet(tmp_path, ("pear", "apple"), test=2, size=(300, 280))
    loaded = data.load("imagenet", "test", env=env(tmp_path))
    assert loaded.shape == (3, 224, 224)
    assert loaded.class_names == ("apple", "pear")  # in the order of names, as torchvision's labels
    assert loaded.y.tolist() == [0, 0, 1, 1]
    for row, file in enumerate(sorted((tmp_path / "imagenet" / "val").glob("*/*"))):
        with Image.open(file) as image:
            # The shorter side becomes 256; then (274 - 224) / 2 columns and (256 - 224) / 2 rows are cut off.
            small = (
                image.convert("RGB").resize((274, 256), Image.Resampling.BILINEAR).crop((25, 16, 249, 240))
            )
        wanted = normalised(np.asarray(small).transpose(2, 0, 1)[None], *IMAGENET)[0]
        np.testing.assert_allclose(loaded.x[row].numpy(), wanted, atol=2e-6)
    # torchvision's own ImageNet gives the same labels.
    theirs = datasets.ImageNet(tmp_path / "imagenet", "val")
    assert theirs.targets == loaded.y.tolist()
    data.check_matches(loaded, architectures.build("resnet18"))


# --- Decoding on demand -----------------------------------------------------------------------------------


def test_only_what_is_asked_for_is_decoded(tmp_path: Path) -> None:
    originals.write_imagenet(tmp_path, train=5)
    loaded = data.load("imagenet", "train", env=env(tmp_path))
    index = torch.tensor([17, 3, 3, 11])
    wanted = loaded.x[index]
    files = sorted((tmp_path / "imagenet" / "train").glob("*/*"))
    for number in set(range(20)) - {3, 11, 17}:
        files[number].write_bytes(b"no image")
    assert torch.equal(loaded.take(index), wanted)
    for number in (0, 4):
        with pytest.raises(DataError, match=f"'{files[number]}' is damaged or gone"):
            loaded.take(torch.tensor([3, number]))
    files[0].unlink()
    with pytest.raises(DataError, match="is damaged or gone"):
        loaded.take(torch.tensor([0]))


def test_half_an_image_is_refused(tmp_path: Path) -> None:
    originals.write_imagenet(tmp_path, test=1)
    file = min((tmp_path / "imagenet" / "val").glob("*/*"))
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DataError, match=f"{file.name}' is damaged"):
        data.load("imagenet", "test", env=env(tmp_path)).take(torch.tensor([0]))


def test_a_subset_is_the_whole_at_its_indices(tmp_path: Path) -> None:
    originals.write_mnist(tmp_path, test=100)
    model = architectures.build("tanh-mlp")
    subset = data.fitting_subset("mnist-16x16", "test", 50, 1, model, env=env(tmp_path))
    whole = data.load("mnist-16x16", "test", env=env(tmp_path))
    assert torch.equal(subset.x, whole.x[subset.index])
    assert torch.equal(subset.y, whole.y[subset.index])
    assert torch.bincount(subset.y).tolist() == [5] * 10
    assert not subset.synthetic


def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    originals.write_mnist(tmp_path, test=20)
    originals.write_imagenet(tmp_path, test=1)
    assert len(data.load("mnist", "test", env=env(tmp_path)).y) == 20
    assert len(data.load("imagenet", "test", env=env(tmp_path)).y) == 4
    time.sleep(0.02)  # file systems count time coarsely
    originals.write_mnist(tmp_path, test=30)
    first = min((tmp_path / "imagenet" / "val").glob("*/*"))
    shutil.copy(first, first.with_name("another.JPEG"))
    assert len(data.load("mnist", "test", env=env(tmp_path)).y) == 30
    assert len(data.load("imagenet", "test", env=env(tmp_path)).y) == 5


def test_the_data_directory_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals.write_mnist(tmp_path / "there", test=20)
    monkeypatch.setenv("SEIGH_DATA_DIR", str(tmp_path / "there"))
    assert len(data.load("mnist", "test").y) == 20
    monkeypatch.delenv("SEIGH_DATA_DIR")
    monkeypatch.setenv("SEIGH_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match=f"'{tmp_path}/home/data/MNIST/raw' has no"):
        data.load("mnist", "test")


# --- What is missing or damaged ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place", "file", "how"),
    [
        ("mnist", "MNIST/raw", "t10k-images-idx3-ubyte", r"import MNIST; MNIST\('{}', download=True\)"),
        (
            "mnist-16x16",
            "MNIST/raw",
            "train-labels-idx1-ubyte",
            r"import MNIST; MNIST\('{}', download=True\)",
        ),
        (
            "fashion-mnist",
            "FashionMNIST/raw",
            "train-images-idx3-ubyte",
            r"import FashionMNIST; FashionMNIST\('{}', download=True\)",
        ),
        (
            "cifar-10",
            "cifar-10-batches-py",
            "data_batch_3",
            r"import CIFAR10; CIFAR10\('{}', download=True\)",
        ),
        ("cifar-100", "cifar-100-python", "meta", r"import CIFAR100; CIFAR100\('{}', download=True\)"),
        ("imagenet", "imagenet", "val", "https://image-net.org/"),
    ],
)
def test_missing_files_are_named_with_their_place_and_source(
    name: str, place: str, file: str, how: str, tmp_path: Path
) -> None:
    pattern = (
        f"The data set {name} is not there: '{tmp_path}/{place}' has no .*{file}.*; set SEIGH_DATA_DIR to .*"
        f"{place} is in, or get .*{how.format(tmp_path)}"
    )
    with pytest.raises(DataError, match=pattern) as refused:
        data.load(name, "test", env=env(tmp_path))
    assert "\n" not in str(refused.value)
    described = data.describe(name, env=env(tmp_path))
    assert described.missing == described.files
    assert tmp_path / place / file in described.files
    assert "SEIGH_DATA_DIR" in described.how


def test_a_file_that_is_missing_alone_is_named_alone(tmp_path: Path) -> None:
    originals.write_cifar(tmp_path)
    gone = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    gone.unlink()
    with pytest.raises(DataError, match="has no data_batch_4; set"):
        data.load("cifar-10", "train", env=env(tmp_path))
    assert data.describe("cifar-10", env=env(tmp_path)).missing == (gone,)


def test_imagenet_needs_the_split_that_is_read(tmp_path: Path) -> None:
    originals.write_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "imagenet" / "train")
    assert len(data.load("imagenet", "test", env=env(tmp_path)).y) == 8
    with pytest.raises(DataError, match="has no train; set"):
        data.load("imagenet", "train", env=env(tmp_path))


def test_pickles_other_than_the_originals_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    originals.write_cifar(tmp_path)
    originals.trust_cifar(monkeypatch, tmp_path)
    for name in ("test_batch", "batches.meta", "data_batch_5"):
        file = tmp_path / "cifar-10-batches-py" / name
        good = file.read_bytes()
        file.write_bytes(pickle.dumps(Malicious()))
        for split in ("train", "test"):
            with pytest.raises(DataError, match=f"^{name} in '.*' is not the original") as refused:
                data.load("cifar-10", split, env=env(tmp_path))
            assert "download=True" in str(refused.value)
        file.write_bytes(good)
    assert not (tmp_path / "executed").exists()
    assert len(data.load("cifar-10", "test", env=env(tmp_path)).y) == 100


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("file", "contents"),
    [
        (IMAGES, b""),
        (IMAGES, b"no IDX"),
        (IMAGES, struct.pack(">IIII", 0x803, 100, 28, 28) + b"\0" * 1000),
        (IMAGES, struct.pack(">IIII", 0x803, 100, 14, 14) + b"\0" * 100 * 14 * 14),
        (IMAGES, struct.pack(">IIII", 0x803, 99, 28, 28) + b"\0" * 99 * 28 * 28),
        (LABELS, struct.pack(">II", 0x801, 100) + b"\0" * 50),
        (LABELS, struct.pack(">IIII", 0x803, 100, 1, 1) + b"\0" * 100),
    ],
)
def test_damaged_idx_files_are_refused(file: str, contents: bytes, tmp_path: Path) -> None:
    originals.write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / file).write_bytes(contents)
    with pytest.raises(
        DataError, match=r"are damaged or incomplete; remove them, and get them by"
    ) as refused:
        data.load("mnist", "test", env=env(tmp_path))
    assert "\n" not in str(refused.value)


def test_splits_of_different_classes_are_refused(tmp_path: Path) -> None:
    originals.write_imagenet(tmp_path)
    (tmp_path / "imagenet" / "val" / "apple").rename(tmp_path / "imagenet" / "val" / "zucchini")
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"different classes \(apple, zucchini\)"):
            data.load("imagenet", split, env=env(tmp_path))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "imagenet" / "val").mkdir(parents=True)
    with pytest.raises(DataError, match="has no folder, or an empty one"):
        data.load("imagenet", "test", env=env(tmp_path))
    (tmp_path / "imagenet" / "val" / "apple").mkdir()
    with pytest.raises(DataError, match="has no folder, or an empty one"):
        data.load("imagenet", "test", env=env(tmp_path))


def test_some_of_imagenets_classes_are_not_the_labels_of_all(tmp_path: Path) -> None:
    originals.write_imagenet(tmp_path, ("n01440764", "n02102040"))
    loaded = data.load("imagenet", "test", env=env(tmp_path))
    with pytest.raises(DataError, match=r"has 2 of ImageNet's classes.* 1,000 outputs"):
        data.check_matches(loaded, architectures.build("resnet18"))
    data.check_matches(loaded, architectures.build("resnet18(num_classes=2)"))
