"""The authors' log files: what is read is what was written, and what is damaged is a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seigh.core.results.published import PublishedError, read

D = 7030


def body(seed: int, n: int = 12, draws: int = 3, **more: Any) -> dict[str, Any]:
    """A result as the authors' code writes it."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.standard_normal(n) ** 2)[::-1] * rng.choice([-1, 1], n)
    k = np.arange(1, n + 1)
    return {
        "core_S": values.tolist(),
        "frob_Qtop^2": (rng.uniform(0, 1, n) * k).tolist(),
        "frob_Qtop^2_best": (rng.uniform(0, 1, n) * k).tolist(),
        "frob_Qtop^2_rand": [(rng.uniform(0, 1, n) * k).tolist() for _ in range(draws)],
        "Frob(H)^2": 9.0,
        "Frob(H-H_n)^2": 0.25,
        "scree_lower": rng.uniform(0, 0.5, n).tolist(),
        "scree_upper": rng.uniform(0.5, 1, n).tolist(),
        "largest_absparams": [1, 2, 3],
        **more,
    }


def write(path: Path, *lines: Any) -> Path:
    """A log file with these headers and bodies; text stands as it is."""
    rows = [
        each if isinstance(each, str) else json.dumps([f"2024-05-01 10:00:{i:02d}", each])
        for i, each in enumerate(lines)
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


GLOBALS = ["GLOBALS", {"num_params": D, "record_steps": [0, 100]}]
CONFIG = ["CONFIG", "{'seed': 1}"]


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_that_were_written(tmp_path: Path, seed: int) -> None:
    written = body(seed)
    write(
        tmp_path / "log",
        CONFIG,
        GLOBALS,
        ["TRAINING BATCH", [1, 2]],
        ["H_TEST RESULT", {"step": 100} | written],
    )
    [one], left_out = read(tmp_path)
    k = np.arange(1, 13)
    assert left_out == []
    assert (one.step, one.split, one.file) == (100, "test", "log")
    assert one.outcome.parameters == D
    assert one.outcome.eigenvalues.tolist() == written["core_S"]
    assert np.allclose(one.outcome.overlap * k, written["frob_Qtop^2"], rtol=1e-15)
    assert np.allclose(one.outcome.best * k, written["frob_Qtop^2_best"], rtol=1e-15)
    draws = np.array(written["frob_Qtop^2_rand"]) / k
    assert np.allclose(one.outcome.random_mean, [sum(column) / 3 for column in draws.T])
    spread = [math.sqrt(sum((x - sum(c) / 3) ** 2 for x in c) / 2) for c in draws.T]
    assert np.allclose(one.outcome.random_std, spread)
    assert one.outcome.scree_lower is not None
    assert one.outcome.scree_lower.tolist() == written["scree_lower"]
    assert one.outcome.record["published"]["norm"] == 3
    assert one.outcome.record["published"]["missed_norm"] == 0.5
    # What was not published is not known, and not zero.
    assert one.outcome.overlap_error is None
    assert one.outcome.residuals is None
    assert one.outcome.resolved_k is None


def test_a_folder_has_the_steps_and_splits_of_all_its_files(tmp_path: Path) -> None:
    write(
        tmp_path / "a.log",
        GLOBALS,
        ["H_TRAIN RESULT", {"step": 0} | body(0)],
        ["H_TEST RESULT", {"step": 0} | body(1)],
    )
    write(tmp_path / "mlp__step=2000__test=True.log", ["RESULT", body(2)])
    write(tmp_path / "mlp__step=2000__test=False", ["RESULT", body(3)])
    (tmp_path / "deeper").mkdir()
    (tmp_path / "figure.pdf").write_bytes(b"%PDF\xff\xfe")
    found, left_out = read(tmp_path)
    assert [(each.step, each.split) for each in found] == [
        *((0, "test"), (0, "train"), (2000, "test"), (2000, "train"))
    ]
    assert found[3].outcome.eigenvalues.tolist() == body(3)["core_S"]
    assert left_out == ["'figure.pdf' is no log file and is left out."]


def test_an_early_file_without_the_a_posteriori_part_is_read(tmp_path: Path) -> None:
    early = {name: value for name, value in body(0).items() if name in ("core_S", "frob_Qtop^2")}
    [one], _ = read(write(tmp_path / "x__step=0__test=False.log", ["RESULT", early]), parameters=D)
    assert one.outcome.scree_upper is None
    assert np.isnan(one.outcome.best).all()
    assert np.allclose(one.outcome.random_mean, np.arange(1, 13) / D)


def test_the_masks_variant_with_a_name_is_the_same_curve(tmp_path: Path) -> None:
    named = body(0)
    named["frob_Qtop^2_mag"] = named.pop("frob_Qtop^2")
    [one], _ = read(write(tmp_path / "x__step=0__test=True", ["RESULT", named]), parameters=D)
    assert np.allclose(one.outcome.overlap * np.arange(1, 13), named["frob_Qtop^2_mag"])


_DAMAGED = {
    "cut": '["2024", ["H_TEST RESULT", {"step": 7, "core_S": [1',
    "no pair": "[1, 2, 3]",
    "deep": "[" * 100_000,
    "no text": "\x00\x01",
}


@pytest.mark.parametrize("line", _DAMAGED.values(), ids=_DAMAGED)
def test_a_damaged_line_takes_nothing_from_the_others(tmp_path: Path, line: str) -> None:
    write(tmp_path / "log", GLOBALS, ["H_TEST RESULT", {"step": 1} | body(0)], line)
    found, left_out = read(tmp_path)
    assert [each.step for each in found] == [1]
    assert left_out == ["'log', line 3: damaged, and left out."]


_WRONG: dict[str, tuple[Any, str]] = {
    "no body": ([], "its body is no object"),
    "no eigenvalues": ({"step": 1, "frob_Qtop^2": [1.0]}, "has no entry 'core_S'"),
    "no overlaps": ({"step": 1, "core_S": [1.0]}, "has no entry 'frob_Qtop^2'"),
    "no step": (body(0), "has no entry 'step'"),
    "negative step": ({"step": -1} | body(0), "its step is -1"),
    "a step that is no number": ({"step": "1"} | body(0), "its step is '1'"),
    "ascending": ({"step": 1} | body(0) | {"core_S": [1.0, 2.0] * 6}, "do not descend"),
    "not finite": ({"step": 1} | body(0) | {"core_S": [math.nan] * 12}, "not finite"),
    "overlap above 1": ({"step": 1} | body(0) | {"frob_Qtop^2": [5.0] * 12}, "do not lie in [0, 1]"),
    "too many": ({"step": 1} | body(0) | {"core_S": [1.0]}, "12 overlaps and 1 eigenvalues"),
    "text": ({"step": 1} | body(0) | {"core_S": ["a"]}, "core_S is no list of numbers"),
    "huge": ({"step": 1} | body(0) | {"core_S": [10**400]}, "too large"),
    "uneven draws": ({"step": 1} | body(0) | {"frob_Qtop^2_rand": [[1.0]]}, "another number of overlaps"),
}


@pytest.mark.parametrize(("wrong", "says"), _WRONG.values(), ids=_WRONG)
def test_what_is_no_result_is_a_sentence(tmp_path: Path, wrong: Any, says: str) -> None:
    write(tmp_path / "log", GLOBALS, ["H_TRAIN RESULT", {"step": 5} | body(1)], ["H_TEST RESULT", wrong])
    found, [sentence] = read(tmp_path)
    assert [each.step for each in found] == [5]
    assert sentence.startswith("'log', line 3 is no result (")
    assert says in sentence
    write(tmp_path / "log", GLOBALS, ["H_TEST RESULT", wrong])
    with pytest.raises(PublishedError, match=r"'log', line 2 is no result"):
        read(tmp_path)


def test_the_same_result_twice_counts_once_and_another_one_is_refused(tmp_path: Path) -> None:
    line = json.dumps(["2024", ["H_TEST RESULT", {"step": 1} | body(0)]])
    write(tmp_path / "a", GLOBALS, line)
    write(tmp_path / "b", line)
    assert len(read(tmp_path)[0]) == 1
    write(tmp_path / "b", ["H_TEST RESULT", {"step": 1} | body(1)])
    with pytest.raises(PublishedError, match=r"'a' and 'b' both have the test Hessian at step 1, with"):
        read(tmp_path)


def test_the_number_of_parameters_is_known_once(tmp_path: Path) -> None:
    write(tmp_path / "a", ["H_TEST RESULT", {"step": 1} | body(0)])
    with pytest.raises(PublishedError, match="No file says how many parameters"):
        read(tmp_path)
    assert read(tmp_path, parameters=99)[0][0].outcome.parameters == 99
    write(tmp_path / "b", GLOBALS)
    with pytest.raises(
        PublishedError, match="The number of parameters is 99 in 'the one given' and 7,030 in 'b'"
    ):
        read(tmp_path, parameters=99)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match="no results of the authors' log files"):
        read(tmp_path)
    write(tmp_path / "a", GLOBALS)
    with pytest.raises(PublishedError, match="no results of the authors' log files"):
        read(tmp_path)
