"""A network of one's own code on the command line: imported there, and nowhere else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import seigh
from seigh.app.cli.command import cli
from seigh.core.problems import architectures
from seigh.core.settings import Settings, SettingsError

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    '''A small network of our own.'''
    def __init__(self, width: int = 2, classes: int = 3):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(9, width), nn.Tanh(), nn.Linear(width, classes))

    def forward(self, x):
        return {"logits": self.body(x)}

def number():
    return 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "ours_of_this_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(SOURCE)
    (folder / "broken.py").write_text("import torch\nraise RuntimeError('no license')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seigh.core.problems.imported._sources", {})
    for name in [name for name in sys.modules if name.startswith("ours_of_this_test")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def analyse(*words: str) -> None:
    data = ["--data", "random(1x3x3,classes=3)", "--samples", "12", "--k", "3"]
    cli([*words, *data], standalone_mode=False)


def checkpoint(package: Path, width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(SOURCE, scope)
    model = scope["Net"](width)
    torch.save(model.state_dict(), package / "step_5.pt")
    return model


def test_a_network_of_ones_own_code_is_analysed_as_any_other(
    package: Path, home: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(package, width=4)
    path = list(sys.path)
    analyse(
        "analyze", "step_5.pt", "--architecture", "ours_of_this_test.models:Net(width=4)", "--json", "o.json"
    )
    assert sys.path == path
    (found,) = json.loads((package / "o.json").read_text())
    assert found["settings"]["architecture"] == "ours_of_this_test.models:Net(width=4)"
    assert all(check["passed"] for check in found["record"]["certificate"])
    from seigh.core.problems import data

    whole = data.load("random(1x3x3,classes=3)", "test")
    index = found["record"]["data"]["indices"]
    same = seigh.analyse(model, "cross-entropy", (whole.x[index], whole.y[index]), k=3)
    np.testing.assert_allclose(found["eigenvalues"], same.eigenvalues, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("ours_of_this_test.models:Net(depth=3)", "has no option 'depth'; it has width, classes"),
        ("ours_of_this_test.models:Other", "has no 'Other'; it has Net"),
        ("ours_of_this_test.models:number", "gives int, not a torch.nn.Module"),
        ("ours_of_this_test.models:torch", "is no network but module"),
        ("ours_of_this_test.gone:Net", "There is no module 'ours_of_this_test.gone'"),
        ("ours_of_this_test.broken:Net", "fails when it is imported .*no license"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(
    architecture: str, said: str, package: Path, home: Settings
) -> None:
    checkpoint(package, width=4)
    with pytest.raises(ValueError, match=said) as refused:
        analyse("analyze", "step_5.pt", "--architecture", architecture)
    assert "\n" not in str(refused.value)


def test_neither_submit_nor_a_server_imports_it(package: Path, home: Settings) -> None:
    checkpoint(package, width=2)
    with pytest.raises(SettingsError, match=r"own command line alone; .* a plug-in"):
        analyse("submit", "step_5.pt", "--model", "m", "--architecture", "ours_of_this_test.models:Net")
    for ask in (architectures.canonical, architectures.build, architectures.describe):
        with pytest.raises(SettingsError, match="is code"):
            ask("ours_of_this_test.models:Net")
    assert not any(name.startswith("ours_of_this_test") for name in sys.modules)
