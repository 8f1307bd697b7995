import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from seigh.core.problems import data, plugins
from seigh.core.problems.data import DataError
from seigh.core.settings import Settings
from tests.core.problems import originals
from tests.plugging import forget

PLUG_IN = '''
import torch
from seigh.core.problems.data import DataError, Dataset


class Counting:
    """Ten samples that are decoded on demand."""

    shape = (10, 2, 2)

    def __getitem__(self, index):
        return index.float()[:, None, None].expand(-1, 2, 2)


def ours(split):
    if split == "train":
        raise DataError("There is no training split of ours; choose test.")
    return Dataset("under another name", Counting(), torch.arange(10) % 3)


def no_dataset(split):
    return torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)


def labels(y):
    return lambda split: Dataset("odd", torch.zeros(3, 2), y)


def register(registry):
    registry.data("ours", ours)
    registry.data("mnist", no_dataset)
    registry.data("no-dataset", no_dataset)
    registry.data("fails", lambda split: 1 / 0)
    registry.data("double-labels", labels(torch.zeros(3).double()))
    registry.data("two-labels", labels(torch.zeros(2, dtype=torch.int64)))
    registry.data("infinite", labels(torch.tensor([0, torch.nan, 1])))
    registry.data("double", lambda split: Dataset("odd", torch.zeros(3, 2).double(), torch.arange(3)))
'''


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with data sets."""
    site = tmp_path / "site"
    info = site / "lab_data-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "lab_data.py").write_text(PLUG_IN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-data\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nlab = lab_data:register\n")
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield
    forget()


def test_every_name_is_described_and_loaded_or_says_what_is_missing(tmp_path: Path) -> None:
    env = Settings(data_dir=tmp_path)
    assert data.names()[:7] == (
        "digits", "mnist", "mnist-16x16", "fashion-mnist", "cifar-10", "cifar-100", "imagenet",
    )  # fmt: skip
    for name in data.names():
        described = data.describe(name, env=env)
        assert described.name == name
        assert not described.synthetic
        if described.missing:
            with pytest.raises(DataError, match="is not there"):
                data.load(name, "test", env=env)
        else:
            loaded = data.load(name, "test", env=env)
            classes = None if loaded.y.ndim > 1 else int(loaded.y.max()) + 1
            assert (loaded.shape, classes) == (described.shape, described.classes)


def test_nothing_is_missing_where_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    originals.write_mnist(tmp_path)
    originals.write_mnist(tmp_path, kind="FashionMNIST")
    originals.write_imagenet(tmp_path)
    for classes in (10, 100):
        originals.write_cifar(tmp_path, classes)
        originals.trust_cifar(monkeypatch, tmp_path, classes)
    env = Settings(data_dir=tmp_path)
    for name in data.names():
        described = data.describe(name, env=env)
        assert (described.missing, described.how) == ((), "")
        assert all(path.is_relative_to(tmp_path) and path.exists() for path in described.files)
        for split in ("train", "test"):
            assert data.load(name, split, env=env).shape == described.shape


def test_random_data_describe_themselves() -> None:
    described = data.describe(data.RANDOM_EXAMPLE)
    assert described.synthetic
    assert (described.shape, described.classes) == ((3, 32, 32), 10)


def test_data_that_are_not_known_are_not_described() -> None:
    with pytest.raises(DataError, match="no data set 'nothing'"):
        data.describe("nothing")


def test_files_are_told_from_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.npz", "mnist"):
        Path(name).write_bytes(b"")
    assert data.is_file("mine.npz")
    assert data.is_file(str(tmp_path / "mine.npz"))
    assert not data.is_file("mnist")
    assert not data.is_file("gone.npz")
    assert not data.is_file("sha256:" + "0" * 64)
    assert not data.is_file("random(3)")


@pytest.mark.usefixtures("plug_in")
def test_a_plug_ins_data_set_goes_by_its_registered_name() -> None:
    assert data.names()[-7:] == (
        "ours", "no-dataset", "fails", "double-labels", "two-labels", "infinite", "double",
    )  # fmt: skip
    loaded = data.load("ours", "test")
    assert loaded.name == "ours"
    assert loaded.shape == (2, 2)
    assert loaded.take(torch.tensor([7, 3]))[:, 0, 0].tolist() == [7, 3]
    assert not data.describe("ours").missing
    assert not data.is_file("ours")
    with pytest.raises(DataError, match="no training split of ours"):
        data.load("ours", "train")


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_does_not_replace_what_comes_along(tmp_path: Path) -> None:
    assert data.names().count("mnist") == 1
    with pytest.raises(DataError, match="data set mnist is not there"):
        data.load("mnist", "test", env=Settings(data_dir=tmp_path))


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fails", r"data set fails of a plug-in fails \(ZeroDivisionError"),
        ("no-dataset", "gives no core.problems.data.Dataset"),
        ("double-labels", "targets of double-labels are not int64 or float32"),
        ("two-labels", "targets of two-labels are not N finite"),
        ("infinite", "targets of infinite are not N finite"),
        ("double", "samples of double are not float32"),
    ],
)
def test_a_plug_in_that_is_wrong_gets_a_sentence(
    name: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL), pytest.raises(DataError, match=reason):
        data.load(name, "test")
