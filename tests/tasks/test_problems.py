"""The paper's four problems from their data's original files to the page of a result, on a real worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import redis

from seigh.core.lab import queries
from seigh.core.lab.models import State
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures, training
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.submit import train
from tests.conftest import Worker, wait_until
from tests.core.problems.originals import (
    trust_cifar,
    trust_cifar_in_children,
    write_cifar,
    write_imagenet,
    write_mnist,
)
from tests.opening import forget_caches, open_page

pytestmark = pytest.mark.stack

STEPS = 2

# D of the paper's Table 1; batch, N, k and steps to record that these few images and a test's time allow.
PROBLEMS = {
    "mnist-mlp": (7_030, 50, 20, 3, (0, STEPS)),
    "cifar10-3c3d": (895_210, 20, 4, 3, (STEPS,)),
    "cifar100-all-cnn-c": (1_387_108, 10, 2, 2, (STEPS,)),
    "imagenet-resnet18": (11_689_512, 2, 1, 1, (STEPS,)),
}


@pytest.fixture
def originals(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files of MNIST, CIFAR-10, CIFAR-100 and ImageNet, where the app and workers look for them."""
    folder = home.data_folder
    write_mnist(folder, train=100, test=60)
    write_cifar(folder, 10, train=100, test=40)
    write_cifar(folder, 100, train=200, test=100)
    write_imagenet(folder, train=3, test=1, size=(260, 240))
    for classes in (10, 100):
        trust_cifar(monkeypatch, folder, classes)
    trust_cifar_in_children(monkeypatch, tmp_path / "site", folder, (10, 100))


@pytest.mark.timeout(600)  # of a busy machine; otherwise it takes one
@pytest.mark.usefixtures("originals")
def test_every_problem_trains_is_analysed_and_shown(
    home: Settings, redis_server: redis.Redis, request: pytest.FixtureRequest
) -> None:
    worker: Worker = request.getfixturevalue("worker")  # not before the files are there
    for problem, (_, batch, samples, k, record) in PROBLEMS.items():
        recipe = training.problems()[problem]
        settings = AnalysisSettings(
            architecture=architectures.canonical(recipe.architecture),
            data=recipe.data,
            samples=samples,
            k=k,
            method="seigh",
            test_matrix="gaussian",
            error_tests=2,
            hvp_path="double-backward",
        )
        train(problem, problem, STEPS, record, 0, [settings], batch, user="ada", env=home)

    wanted = {(problem, step) for problem, (*_, record) in PROBLEMS.items() for step in record}

    def ended() -> bool:
        runs = all_runs(home)
        done = runs["state"].isin([State.finished, State.failed])
        return bool(done.all()) and (runs["kind"] == "analysis").sum() == len(wanted)

    wait_until(ended, 500, "all trainings and analyses have ended")
    runs = all_runs(home)
    assert runs["state"].eq(State.finished).all(), (runs["message"].tolist(), worker.output[-2000:])

    analyses = runs[runs["kind"] == "analysis"]
    assert set(zip(analyses["model"], analyses["step"], strict=True)) == wanted
    for run in analyses.itertuples():
        parameters, _, samples, k, _ = PROBLEMS[run.model]
        assert run.parameters == parameters
        check(home, run.id, run.model, samples, k)
        if run.step == STEPS:
            show(run.id)


def check(home: Settings, number: int, problem: str, samples: int, k: int) -> None:
    """The numbers in the database are those of an eigenspace of this problem's Hessian."""
    with sessions(home.database)() as s:
        detail = queries.analysis(s, number)
        spectrum = queries.spectrum(s, number)
        overlap = queries.overlap_curves(s, [number], masks=("magnitude",))["overlap"]
    assert detail is not None
    assert detail.record["theta"]["trainable"] == detail.parameters
    assert detail.record["data"]["synthetic"] is False
    assert len(detail.record["data"]["indices"]) == samples
    assert detail.metrics.keys() == {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert len(spectrum) == len(overlap) == k
    assert np.isfinite(spectrum["value"]).all()
    assert overlap.between(0, 1).all()
    assert detail.data == training.problems()[problem].data


def show(number: int) -> None:
    """The page of the result is drawn."""
    forget_caches()
    app = open_page("result", analysis=str(number))
    assert not app.exception
    assert [each.value for each in app.error] == []
    assert app.selectbox(key="result_analysis").value == number
    assert len(app.get("vega_lite_chart")) >= 3


def all_runs(home: Settings) -> pd.DataFrame:
    with sessions(home.database)() as s:
        return queries.runs(s)
