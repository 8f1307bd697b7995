"""Rows for tests, written the way the app and the workers write them."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from sqlalchemy.orm import Session

from seigh.core.lab import store
from seigh.core.lab.models import Analysis, Checkpoint, Comparison, State, Training, Work
from seigh.core.results.result import Outcome, Stage
from seigh.core.settings import AnalysisSettings, TrainingSettings

W = TypeVar("W", bound=Work)

PARAMETERS = 7030

# What is asked for besides the overlap, and stored with its words.
KINDS = ("curves", "profiles", "quantities")


def settings(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(**({"architecture": "tanh-mlp", "data": "digits", "k": 3} | changes))


def add_checkpoint(s: Session, model: str = "mlp", step: int = 100, sha256: str = "a" * 64) -> Checkpoint:
    return store.add_checkpoint(
        s,
        store.add_model(s, model, "tanh-mlp"),
        step=step,
        sha256=sha256,
        filename=f"step_{step}.pt",
        size=28_120,
        parameters=PARAMETERS,
        metrics={"test_accuracy": step / 1000, "train_loss": float("nan")},
        user="ada",
    )


def queue(s: Session, *, model: str = "mlp", step: int = 100, **changes: Any) -> Analysis:
    checkpoint = add_checkpoint(s, model, step)
    return store.queue_analysis(s, checkpoint, settings(**changes), "ada", parameters=PARAMETERS)[0]


def queue_training(
    s: Session,
    *,
    model: str = "net",
    record: tuple[int, ...] = (0, 100),
    analyses: tuple[AnalysisSettings, ...] = (),
    seed: int = 0,
) -> tuple[Training, bool, list[int]]:
    wanted = TrainingSettings(problem="digits-mlp", steps=100, record=record, seed=seed)
    row = store.add_model(s, model, "tanh-mlp")
    return store.queue_training(s, row, wanted, dict.fromkeys(analyses, PARAMETERS), "ada")


def queue_any(s: Session, kind: type[Work], number: int = 100) -> int:
    """Id of queued work of this kind; other work for every number."""
    if kind is Training:
        return queue_training(s, model=f"net {number}")[0].id
    if kind is Comparison:
        ids = [finished(s, model="compared", step=step) for step in (0, 1)]
        return store.queue_comparison(s, ids, [number], "ada")[0].id
    return queue(s, step=number).id


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``store.finish``: what an ``Outcome`` has, stages as tuples, words beside the curves."""
    rest = ("eigenvectors", "eigenvectors_sha256")
    outcome = {name: value for name, value in given.items() if name not in rest}
    outcome["stages"] = [Stage(*each) for each in given["stages"]]
    asked = {name: each for kind in KINDS for name, each in given.get(kind, {}).items()}
    words = {name: {word: each[word] for word in ("title", "note")} for name, each in asked.items()}
    found = Outcome(**({"parameters": PARAMETERS} | outcome))
    return {"found": found, "words": words} | {name: given[name] for name in rest if name in given}


def results(**changes: Any) -> dict[str, Any]:
    """Arguments of ``store.finish`` for k = 3."""
    given = {
        "eigenvalues": np.array([-4.0, 2.0, 1.0]),
        "residuals": np.array([0.1, np.nan, 0.3]),
        "scree_lower": np.array([0.3, 0.1, 0.05]),
        "scree_upper": np.array([0.5, 0.3, np.inf]),
        "overlap": np.array([0.5, 0.4, 0.3]),
        "overlap_error": np.array([0.001, 0.01, np.nan]),
        "least": np.array([0.5, 0.35, 0.3]),
        "greatest": np.array([0.5, 0.45, 0.3]),
        "tied": np.array([0, 48, 0]),
        "resolved_k": 1,
        "random_mean": np.array([0.01, 0.02, 0.03]),
        "random_std": np.array([0.001, 0.002, 0.003]),
        "random_std_error": np.array([1e-5, 2e-5, 3e-5]),
        "best": np.array([0.9, 0.8, 0.7]),
        "best_error": np.array([0.01, 0.02, 0.03]),
        "stages": [("load", 0.5, 0), ("eigenpairs", 2.0, 10)],
        "hvps": 10,
        "data_sha256": "d" * 64,
        "environment": {"torch": "2.9", "threads": 2},
        "record": {"subset_loss": 0.25},
        "eigenvectors": "eigenvectors/1-x.safetensors",
    }
    return arguments(given | changes)


def claim(
    s: Session, number: int, token: str = "mine", worker: str = "host:1", kind: type[W] = Analysis
) -> W | None:
    return store.claim(s, kind, number, token, worker)


def requeue_silent(s: Session, kind: type[Work]) -> list[int]:
    """Give up all work of a kind that runs, as a watch does that has seen no new sign of life of it."""
    return store.requeue_silent(s, kind, store.signs_of_life(s, kind))


def finish(s: Session, kind: type[Work], number: int, token: str = "mine", **changes: Any) -> bool:
    """End an attempt as finished; an analysis with ``results(**changes)``."""
    if kind is Analysis:
        return store.finish(s, number, token, **results(**changes))
    return store.finished(s, kind, number, token)


def finished(s: Session, *, model: str = "mlp", step: int = 100, changes: Any = None, **more: Any) -> int:
    """Id of an analysis with ``results(**changes)``; there may be one already."""
    analysis = queue(s, model=model, step=step, **more)
    number = analysis.id
    if analysis.state is State.finished:
        return number
    assert claim(s, number)
    assert store.finish(s, number, "mine", **results(**(changes or {})))
    return number
