"""A curve and a mask that one file registers: on the command line, in the lab, in exports, on the pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from safetensors.torch import save_file

from seigh.app import identity
from seigh.app.charts import curve as curve_chart
from seigh.core import curves
from seigh.core.problems import architectures
from seigh.core.results import queries
from seigh.core.results.models import State
from seigh.core.results.session import sessions
from seigh.core.results.tables import export
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from seigh.tasks.submit import Upload, submit
from tests.conftest import Worker, wait_until
from tests.opening import forget_caches, open_page
from tests.plugging import forget, put_package

K = 6
OURS = '''
import numpy as np
import torch
from seigh.core.overlap.observables import Curve, Observable, ScoredMask


def mass(scene):
    """The mass of the first k eigenvectors on the output layer."""
    sizes = [each.numel() for each in scene.tensors.values()]
    last = scene.vectors[:, sum(sizes[:-1]):].double().square().sum(1).cpu().numpy()
    return Curve(np.cumsum(last), None, np.arange(1, len(last) + 1) * sizes[-1] / sum(sizes))


def broken(scene):
    raise RuntimeError("the dog ate it")


def register(registry):
    registry.curve(Observable("lab-mass", "mass on the last tensor", "what our lab counts.", mass))
    registry.curve(Observable("lab-broken", "never there", "what fails.", broken))
    registry.mask(ScoredMask("smallest", "the smallest |θ|", "scores are 1 / |θ|.", smallest))


def smallest(scene):
    return 1 / torch.cat([each.flatten().abs() for each in scene.tensors.values()]).clamp_min(1e-12)
'''
NAMES = ("lab-broken", "lab-mass", "overlap-layerwise", "overlap-smallest", "participation")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed, here and for the processes that are started."""
    site = tmp_path / "site-packages"
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{path}" if path else str(site))
    monkeypatch.syspath_prepend(str(site))
    put_package(site, "our_curves", OURS)
    yield
    sys.modules.pop("our_curves", None)
    monkeypatch.undo()
    forget()


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(3)
    path = folder / "step_7.safetensors"
    save_file(dict(architectures.build("tanh-mlp").state_dict()), path)
    return path


def settings() -> AnalysisSettings:
    return AnalysisSettings(architecture="tanh-mlp", data="digits", samples=50, k=K, curves=NAMES)


@pytest.mark.usefixtures("lab")
def test_the_command_line_computes_them(tmp_path: Path, home: Settings) -> None:
    file = checkpoint(tmp_path)
    options = ["--architecture", "tanh-mlp", "--data", "digits", "--samples", "50", "--k", str(K)]
    for name in NAMES:
        options += ["--curves", name]
    command = [sys.executable, "-m", "seigh.app.cli", "analyze", str(file), *options]
    subprocess.run([*command, "--json", tmp_path / "out.json"], check=True, capture_output=True)
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["curves"].keys() == {*NAMES} - {"lab-broken"}
    assert "the dog ate it" in found["record"]["curves_failed"]["lab-broken"]
    smallest = found["curves"]["overlap-smallest"]
    assert smallest["chance"] == pytest.approx([k / found["parameters"] for k in range(1, K + 1)])
    assert all(0 <= each <= 1 for each in smallest["value"])
    assert found["curves"]["lab-mass"]["error"] is None
    unknown = subprocess.run(
        [*command[:-2], "--curves", "lab-mess"], check=False, capture_output=True, text=True
    )
    assert unknown.returncode == 2
    assert "There is no curve 'lab-mess'; there are participation" in unknown.stderr


@pytest.mark.stack
@pytest.mark.usefixtures("lab")
def test_a_queued_run_stores_them_and_every_page_has_them(
    tmp_path: Path,
    home: Settings,
    redis_server: redis.Redis,
    request: pytest.FixtureRequest,
) -> None:
    worker: Worker = request.getfixturevalue("worker")  # once the package is there
    submission = submit(
        [Upload(checkpoint(tmp_path), "step_7.safetensors", 7)],
        model_name="theirs",
        settings=[settings()],
        user="ada",
        env=home,
    )
    (number,) = submission.analysis_ids

    def ended() -> bool:
        with sessions(home.database)() as s:
            return queries.analysis(s, number).state in (State.finished, State.failed)

    wait_until(ended, 120, "the analysis has ended")
    with sessions(home.database)() as s:
        detail = queries.analysis(s, number)
        assert detail.state == State.finished, (detail.message, worker.output[-2000:])
        assert "the dog ate it" in detail.record["curves_failed"]["lab-broken"]
        rows, table = queries.curves(s, [number]), export(s, "curves")
        there = queries.curves_at(s, [number], "lab-mass", 4)
        beyond = queries.curves_at(s, [number], "lab-mass", K + 1)
        as_json = queries.export_result(s, number)["curves"]
        titles = queries.curve_names(s, [number])
    assert titles["lab-mass"] == "mass on the last tensor"
    assert set(rows["curve"]) == {*NAMES} - {"lab-broken"}
    assert len(table) == len(rows) == 4 * K
    mass = rows[rows["curve"] == "lab-mass"]
    assert mass["value"].is_monotonic_increasing
    assert mass["error"].isna().all()
    assert there["value"].item() == mass["value"].iloc[3] == as_json["lab-mass"]["value"][3]
    assert there["chance"].item() == mass["chance"].iloc[3]
    assert np.isnan(there["error"].item())
    assert beyond.empty
    assert curve_chart(mass, "#000000").to_dict(validate=True)

    forget_caches()
    result = open_page("result", analysis=str(number))
    assert [each.value for each in result.error] == []
    assert any("the dog ate it" in each.value for each in result.warning)
    headings = " ".join(each.value for each in result.subheader)
    assert "Mass on the last tensor" in headings
    assert "Overlap of the smallest" in headings
    compare = open_page("compare", view="curves", curve="lab-mass", k="3")
    assert [each.value for each in compare.error] == []
    assert compare.selectbox(key="compare_curve").value == "lab-mass"
    assert any("Mass on the last tensor, k = 3" in each.value for each in compare.header)
    form = open_page("train")
    with identity.assumed("local"):
        form.toggle(key="train_analyse").set_value(True).run()
    offered = form.multiselect(key="train_curves").options
    assert "mass on the last tensor" in offered


@pytest.mark.usefixtures("lab")
def test_names_and_settings() -> None:
    curves.check(NAMES)
    with pytest.raises(SettingsError, match="There is no curve 'x'"):
        curves.check(["x"])
    plain = AnalysisSettings(architecture="tanh-mlp", data="digits")
    assert "curves" not in plain.model_dump()
    asked = AnalysisSettings(architecture="tanh-mlp", data="digits", curves=("b", "a", "b"))
    assert asked.curves == ("a", "b")
    assert asked.key != plain.key
