"""What one file registers – a source, a loss, a method, a curve, a mask, a figure – shows in all places.

On the command line, in the lab after a queued run, in exports, in forms and on the pages; and no other file
is changed for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch
from safetensors.torch import save_file

from seigh.app import identity
from seigh.app.charts import curve as curve_chart
from seigh.core import curves
from seigh.core.analysis import analyse
from seigh.core.lab import queries
from seigh.core.lab.models import State
from seigh.core.lab.session import sessions
from seigh.core.lab.tables import export
from seigh.core.methods import BUILT_IN, Method, UnknownMethod, markers
from seigh.core.problems import architectures
from seigh.core.problems.plugins import Registry, _merge
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from seigh.core.spectra import SpectrumError, rayleigh_ritz
from seigh.tasks.submit import Upload, submit
from tests.conftest import Worker, wait_until
from tests.forking import seigh
from tests.opening import forget_caches, open_page
from tests.plugging import installed

K = 6
OURS = '''
import numpy as np
import torch
from torch import nn
from seigh import Curve, Figure, Method, Observable, ScoredMask, Source


def network(name, options):
    width = int(name.rpartition("-")[2])
    return nn.Sequential(nn.Flatten(), nn.Linear(256, width), nn.Tanh(), nn.Linear(width, 10))


class Brier(nn.Module):
    def forward(self, outputs, y):
        return (outputs.softmax(1) - nn.functional.one_hot(y, outputs.shape[1])).square().sum(1).mean()


def subspace_iteration(operator, request):
    generator = torch.Generator().manual_seed(request.seed)
    vectors = torch.randn(request.dimension, request.k + 4, generator=generator).to(operator.dtype)
    for _ in range(12):
        vectors = operator @ torch.linalg.qr(vectors).Q
    return vectors


def mass(scene):
    """The mass of the first k eigenvectors on the output layer."""
    sizes = [each.numel() for each in scene.tensors.values()]
    last = scene.vectors[:, sum(sizes[:-1]):].double().square().sum(1).cpu().numpy()
    return Curve(np.cumsum(last), None, np.arange(1, len(last) + 1) * sizes[-1] / sum(sizes))


def broken(scene):
    raise RuntimeError("the dog ate it")


def decay(result):
    def draw(table):
        import altair as alt

        return alt.Chart(table).mark_point().encode(x="k:Q", y="value:Q")

    values = result["eigenvalues"]
    return Figure(
        title="What our lab draws",
        how="a point is an eigenvalue.",
        alt="Eigenvalues.",
        table={"k": range(1, len(values) + 1), "value": values},
        columns={"k": "k", "value": "λ"},
        symbols="λ: an eigenvalue.",
        draw=draw,
    )


def register(registry):
    registry.figure("lab-decay", decay)
    registry.source(Source("lab-zoo", lambda: ["lab-zoo/net-5"], network, takes=lambda *_: (1, 16, 16)))
    registry.loss("lab-brier", Brier)
    registry.method(
        Method("lab-power", "Subspace iteration, as our lab does it.", subspace_iteration,
               products=lambda request: 12 * (request.k + 4))
    )
    registry.method(Method("lab-nonsense", "Nothing.", lambda *_: "nothing", products=lambda request: 1))
    registry.curve(Observable("lab-mass", "mass on the last tensor", "what our lab counts.", mass))
    registry.curve(Observable("lab-broken", "never there", "what fails.", broken))
    registry.mask(ScoredMask("smallest", "the smallest |θ|", "scores are 1 / |θ|.", smallest))


def smallest(scene):
    return 1 / torch.cat([each.flatten().abs() for each in scene.tensors.values()]).clamp_min(1e-12)
'''
NETWORK = "lab-zoo/net-5"
NAMES = ("lab-broken", "lab-mass", "overlap-layerwise", "overlap-smallest", "participation")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed, here and for the processes that are started."""
    with installed("our_curves", OURS, tmp_path / "site-packages", monkeypatch):
        yield


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(3)
    path = folder / "step_7.safetensors"
    save_file(dict(architectures.build(NETWORK).state_dict()), path)
    return path


def settings(**other: Any) -> AnalysisSettings:
    given = {"architecture": NETWORK, "loss": "lab-brier", "method": "lab-power", "curves": NAMES}
    return AnalysisSettings(data="digits", samples=50, k=K, **given | other)


@pytest.mark.usefixtures("lab")
def test_the_command_line_computes_them(tmp_path: Path, home: Settings) -> None:
    file = checkpoint(tmp_path)
    options = ["--data", "digits", "--samples", "50", "--k", str(K), "--loss", "lab-brier"]
    options += ["--method", "lab-power"]  # the architecture is told by the tensors
    for name in NAMES:
        options += ["--curves", name]
    seigh("analyze", file, *options, "--json", tmp_path / "out.json").check_returncode()
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["settings"]["architecture"] == NETWORK
    assert found["settings"]["method"] == "lab-power"
    truth = analyse(file, settings(method="exact", curves=()))
    np.testing.assert_allclose(found["eigenvalues"][:3], truth.eigenvalues[:3], rtol=1e-3)
    assert np.all(np.abs(found["eigenvalues"] - truth.eigenvalues) <= np.array(found["residuals"]) + 1e-6)
    # What the method says that it costs, Ritz values and residuals, checks, and the tests of ‖H‖.
    assert found["hvps"] >= 13 * (K + 4) + 10
    assert found["curves"].keys() == {*NAMES} - {"lab-broken"}
    assert "the dog ate it" in found["record"]["curves_failed"]["lab-broken"]
    smallest = found["curves"]["overlap-smallest"]
    assert smallest["chance"] == pytest.approx([k / found["parameters"] for k in range(1, K + 1)])
    assert all(0 <= each <= 1 for each in smallest["value"])
    assert found["curves"]["lab-mass"]["error"] is None
    unknown = seigh("analyze", file, *options[:-2], "--curves", "lab-mess")
    assert unknown.returncode == 2
    nonsense = seigh("analyze", file, *options[:-2], "--method", "lab-nonsense")
    assert nonsense.returncode == 2
    assert "The method lab-nonsense gave str where vectors" in " ".join(nonsense.stderr.split())
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
        exported = queries.export_result(s, number)
        analyses = export(s, "analyses")
        as_json = exported["curves"]
        titles = queries.curve_names(s, [number])
    assert (exported["settings"]["method"], exported["settings"]["loss"]) == ("lab-power", "lab-brier")
    assert analyses["method"].item() == "lab-power"
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
    assert "Mass on the last tensor" not in [each.value for each in result.subheader]  # until it is opened
    result.session_state[f"result_curves_{number}"] = True
    with identity.assumed("local"):
        result.run()
    assert any("the dog ate it" in each.value for each in result.warning)
    headings = " ".join(each.value for each in result.subheader)
    assert "Mass on the last tensor" in headings
    assert "Overlap of the smallest" in headings
    assert "What our lab draws" in [each.value for each in result.header]
    compare = open_page("compare", view="curves", curve="lab-mass", k="3")
    assert [each.value for each in compare.error] == []
    assert compare.selectbox(key="compare_curve").value == "lab-mass"
    assert any("Mass on the last tensor, k = 3" in each.value for each in compare.header)
    form = open_page("train")
    with identity.assumed("local"):
        form.toggle(key="train_analyse").set_value(True).run()
    offered = form.multiselect(key="train_curves").options
    assert "mass on the last tensor" in offered
    assert {"lab-power", "lab-nonsense"} <= {*form.radio(key="train_method").options}
    trends = open_page("compare", view="curves", curve="lab-mass", k="3", method="lab-power")
    assert [each.value for each in trends.error] == []


@pytest.mark.usefixtures("lab")
def test_names_and_settings() -> None:
    curves.check(settings())
    with pytest.raises(SettingsError, match="There is no curve 'x'"):
        curves.check(settings(curves=("x",)))
    with pytest.raises(SettingsError, match="There is a mask 'smallest' already"):
        curves.check(settings(curves=(), masks=("smallest=file.pt",)))
    plain = AnalysisSettings(architecture="tanh-mlp", data="digits")
    assert "curves" not in plain.model_dump()
    asked = AnalysisSettings(architecture="tanh-mlp", data="digits", curves=("b", "a", "b"))
    assert asked.curves == ("a", "b")
    assert asked.key != plain.key


@pytest.mark.usefixtures("lab")
def test_a_plug_ins_method_is_only_asked_for_a_subspace() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    operator = rows + rows.T
    values, vectors = torch.linalg.eigh(operator)
    order = values.abs().argsort(descending=True)
    for mix in (torch.eye(3, dtype=torch.float64), 1e8 * torch.randn(3, 5, generator=generator).double()):
        # Columns of any scale, linearly dependent ones among them, of one invariant subspace.
        pairs = rayleigh_ritz(operator, vectors[:, order[:3]] @ mix)
        torch.testing.assert_close(pairs.values, values[order[:3]])
        assert pairs.residuals is not None
        assert pairs.residuals.max() < 1e-10
    random = rayleigh_ritz(operator, torch.randn(40, 7, generator=generator, dtype=torch.float64))
    found = random.vectors()
    torch.testing.assert_close(found.T @ found, torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(
        (operator @ found - found * random.values).norm(dim=0), random.residuals, rtol=1e-8, atol=1e-10
    )
    for wrong in (torch.zeros(40, 2), torch.full((40, 2), torch.nan)):
        with pytest.raises(SpectrumError, match="they are"):
            rayleigh_ritz(operator, wrong)


@pytest.mark.usefixtures("lab")
def test_names_that_no_method_has_or_may_have() -> None:
    with pytest.raises(UnknownMethod, match="There is no method 'x'; there are krylov"):
        settings(method="x").check(100)
    assert settings(method="gone").key  # a method whose package is not here: its results are still shown
    with pytest.raises(ValueError, match="is no name of a method"):
        Method("a name that is too long", "", lambda *_: torch.eye(2), products=lambda _: 1)
    with pytest.raises(ValueError, match="n_O and n_I belong to seigh and ssvd; leave them out"):
        settings(outer=9)
    registry = Registry()
    registry.method(Method("krylov", "", lambda *_: torch.eye(2), products=lambda _: 1))
    with pytest.raises(ValueError, match="'krylov' is here already"):
        _merge(Registry(), registry)
    assert markers(["lab-power", "krylov"])["lab-power"] not in {each.marker for each in BUILT_IN.values()}
