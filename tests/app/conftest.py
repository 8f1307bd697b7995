"""Pages run in this process by Streamlit's own test runner, on a home with a few results in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from seigh.app import identity
from seigh.core.lab import store
from seigh.core.lab.models import Analysis
from seigh.core.lab.session import sessions
from seigh.core.names import METRICS
from seigh.core.settings import AnalysisSettings, Settings
from tests import opening
from tests.core.lab import lab


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests() -> Iterator[None]:
    opening.forget_caches()
    yield
    opening.forget_caches()


@pytest.fixture(autouse=True)
def _at_this_machine() -> Iterator[None]:
    """No gate stands before these pages: say who looks at them."""
    with identity.assumed("local"):
        yield


@pytest.fixture
def open_page(home: Settings) -> Callable[..., AppTest]:
    """Opens a page of the dashboard, with query parameters, in a new session."""
    return opening.open_page


@pytest.fixture
def add(home: Settings) -> Callable[..., int]:
    """Adds an analysis in a state of one's choice, made up but for its shape; answers its number."""

    def added(
        state: str = "finished",
        *,
        model: str = "mlp",
        step: int = 0,
        split: str = "test",
        k: int = 5,
        parameters: int = 7030,
        settings: dict[str, Any] | None = None,
        results: dict[str, Any] | None = None,
    ) -> int:
        chosen = AnalysisSettings(
            **{"architecture": "tanh-mlp", "data": "digits", "split": split, "k": k, "samples": 50}
            | (settings or {})
        )
        with sessions(home.database).begin() as s:
            checkpoint = store.add_checkpoint(
                s,
                store.add_model(s, model, "tanh-mlp"),
                step=step,
                sha256=f"{step:064x}",
                filename=f"step_{step}.pt",
                size=1000,
                parameters=7030,
                metrics={"test_accuracy": 0.5},
                user="ada",
            )
            s.flush()
            analysis, _ = store.queue_analysis(s, checkpoint, chosen, "ada", parameters=parameters)
            s.flush()
            number = analysis.id
            if state != "queued":
                store.claim(s, Analysis, number, "token", "worker")
            if state == "running":
                store.report(s, Analysis, number, "token", stage="eigenpairs", progress=0.25, hvps=10)
            if state == "failed":
                store.fail(s, Analysis, number, "token", "There was too little of something.")
            if state == "finished":
                assert store.finish(s, number, "token", **lab.arguments(made_up_results(k) | (results or {})))
        return number

    return added


TENSORS = (("linear1.weight", 7000, 0.75), ("linear1.bias", 30, 0.25))  # name, parameters, share of all else


def made_up_results(k: int) -> dict[str, Any]:
    """What ``lab.arguments`` takes: overlap at three times chance, eigenvalues of alternating signs."""
    size = np.arange(1, k + 1)
    return {
        "eigenvalues": np.where(size % 2, 1.0, -1.0) / size,
        "residuals": 1e-4 / size,
        "scree_lower": 0.9 / (size + 1),
        "scree_upper": 1.1 / (size + 1),
        "overlap": 3.0 * size / 7030,
        "overlap_error": 0.01 * size / 7030,
        "resolved_k": max(1, k - 2),
        "random_mean": 1.0 * size / 7030,
        "random_std": 0.1 * size / 7030,
        "best": np.minimum(1.0, 0.1 * size),
        "layers": [
            {"k": at, "position": i, "name": name, "parameters": number}
            | {"eigenspace": share, "mask": share, "overlap": share}
            for at in {1, k}
            for i, (name, number, share) in enumerate(TENSORS)
        ],
        "magnitudes": [
            {"k": k, "position": i, "count": 10**i, "largest": 2.0 / (i + 1), "smallest": 2.0 / (i + 2)}
            | {"mean": 1.0 / 7030, "low": 0.5 / 7030, "median": 0.9 / 7030, "high": 2.0 / 7030}
            for i in range(3)
        ],
        "metrics": [
            {"k": at, "metric": metric, "value": 0.5, "error": None, "random_mean": 0.6, "random_std": 0.1}
            for at in {1, k}
            for metric in METRICS
        ],
        "stages": [("load", 0.1, 0), ("eigenpairs", 2.0, 40)],
        "hvps": 40,
        "data_sha256": "d" * 64,
        "environment": {"torch": "2.0"},
        "record": {
            "subset_loss": 0.5,
            "step": 100,
            "hvp": {
                "path": "linearize",
                "columns": 16,
                "batch_size": 50,
                "measured": [
                    {
                        "path": "linearize",
                        "columns": 16,
                        "batch_size": 50,
                        "keep": True,
                        "seconds_per_product": 0.0012,
                        "reason": None,
                    },
                    {
                        "path": "curvlinops",
                        "columns": 16,
                        "batch_size": 50,
                        "keep": False,
                        "seconds_per_product": None,
                        "reason": "Too little time to try it.",
                    },
                ],
            },
            "norm": {"estimate": 2.0, "lower": 1.5, "upper": None},
            "missed_norm": {"estimate": 0.25, "lower": 0.125, "upper": 0.5},
            "probability": 0.95,
            "basis": {
                "block": 4,
                "columns": 100,
                "restarts": 1,
                "products": 60,
                "kept_in": "file",
                "resumed": 20,
                "tolerance_met": None,
            },
        },
        "eigenvectors": None,
    }
