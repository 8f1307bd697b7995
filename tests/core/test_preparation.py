"""What cannot work is refused everywhere, with the same sentence, and nothing is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seigh.app import cli
from seigh.core import preparation
from seigh.core.analysis import analyse
from seigh.core.errors import UserError
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.submit import Upload, submit

WRONG: dict[str, dict[str, Any]] = {
    "k": {"k": 8000},
    "pattern": {"parameters": ("layer9.*",)},
    "method": {"method": "newton"},
    "loss": {"loss": "hinge"},
    "curve": {"curves": ("beauty",)},
    "outer": {"method": "seigh", "k": 9, "outer": 8},
    "inner": {"method": "ssvd", "k": 9, "outer": 9, "inner": 8},
    "all of D": {"method": "seigh", "k": 10, "outer": 10, "inner": 9000},
}


@pytest.mark.parametrize("case", WRONG)
def test_every_edge_refuses_the_same(
    case: str, tmp_path: Path, home: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    file = tmp_path / "step_1.safetensors"
    save_file(dict(architectures.build("tanh-mlp").state_dict()), file)
    settings = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=20, **{"k": 3} | WRONG[case])
    with pytest.raises(UserError) as refused:
        preparation.check(settings)
    sentence = str(refused.value)
    assert sentence.endswith(".")
    with pytest.raises(UserError) as by_analysis:
        analyse(file, settings, environment=home)
    with pytest.raises(UserError) as by_queue:
        submit([Upload(file, file.name, 1)], model_name="m", settings=[settings], user="ada", env=home)
    assert str(by_analysis.value) == str(by_queue.value) == sentence
    options = []
    for name, value in settings.model_dump(exclude_defaults=True).items():
        values = value if isinstance(value, tuple) else (value,)
        options += [word for each in values for word in (f"--{name.replace('_', '-')}", str(each))]
    with pytest.raises(SystemExit) as end:
        cli.main(["analyze", str(file), *options])
    assert end.value.code == 2
    assert " ".join(sentence.split()) in " ".join(capsys.readouterr().err.split())
    if (home.root / "seigh.db").exists():
        with sessions(home.database)() as s:
            assert queries.models(s).empty


def test_an_installation_may_allow_less(home: Settings) -> None:
    settings = AnalysisSettings(architecture="tanh-mlp", data="digits", k=30)
    assert preparation.check(settings, home) == 7030
    with pytest.raises(UserError, match="more than this installation allows, 20"):
        preparation.check(settings, home.model_copy(update={"max_k": 20}))


def test_sizes_of_subsets(home: Settings) -> None:
    wanted = [
        AnalysisSettings(architecture="tanh-mlp", data="digits", samples=20),
        AnalysisSettings(architecture="tanh-mlp", data="digits", split="train", subset="all"),
        AnalysisSettings(architecture="tanh-mlp", data="digits", indices="3,5,8"),
    ]
    assert preparation.sizes(wanted, home) == [20, 1257, 3]
    assert preparation.sizes([], home) == []
