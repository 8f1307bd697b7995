from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from seigh.app.checks import checks, checks_among
from seigh.app.report import report
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings

Open = Callable[..., AppTest]
Add = Callable[..., int]

SIZE = np.arange(1, 6)

# 48 weights tie at k = 1 … 5.
TIES: dict[str, Any] = {
    "least": 1.0 * SIZE / 7030,
    "greatest": 6.0 * SIZE / 7030,
    "tied": np.full(5, 48),
    "overlap_error": 3.1 * SIZE / 7030,
    "resolved_k": 0,
}
RECORD: dict[str, Any] = {
    "certificate": [
        {"name": "symmetry", "value": 1e-9, "tolerance": 1e-6, "passed": True, "sentence": "uᵀHv is vᵀHu."},
        {"name": "additive", "value": 0.5, "tolerance": 1e-6, "passed": False, "sentence": "It *is* not."},
        {"name": "not finite", "value": None},
    ],
    "completeness": {"products": 40, "largest_outside": 0.012, "bound": 0.015, "probability": 0.95},
    "rank": 88,
    "subset": {"kind": "balanced", "samples": 50, "indices": [1, 2]},
}


def captions(app: AppTest) -> str:
    return " ".join(each.value for each in app.caption).replace("\\", "")


def test_result_says_how_many_weights_tie_and_what_it_means(open_page: Open, add: Add) -> None:
    number = add(results=TIES)
    app = open_page("result", analysis=str(number), k="4")
    (said,) = (each.value for each in app.info)
    assert said.startswith(
        "48 weights of exactly the same magnitude compete for the last places of the mask of k = 4. The "
        "overlap is the mean over all choices among them; a single choice gives between 0.00057 and 0.0034,"
    )
    assert "the stated error is 103 % of the overlap" in said
    assert "pale band with dashed edges" in captions(app)
    assert "The band around that line is its stated error" not in captions(app)


def test_result_says_nothing_of_ties_where_there_are_none(open_page: Open, add: Add) -> None:
    number = add(results={"least": 3.0 * SIZE / 7030, "greatest": 3.0 * SIZE / 7030, "tied": 0 * SIZE})
    app = open_page("result", analysis=str(number), k="2")
    assert not app.info
    assert "equal magnitude" not in captions(app)
    assert "The band around that line is its stated error" in captions(app)


def test_an_error_is_not_told_as_a_share_of_an_overlap_of_zero(open_page: Open, add: Add) -> None:
    number = add(results={"overlap": 0.0 * SIZE, "resolved_k": 0})
    app = open_page("result", analysis=str(number), k="2")
    (said,) = (each.value for each in app.info)
    assert said.endswith("at k = 2 the stated error is unknown.")
    assert not app.exception


def test_compare_and_the_report_say_what_ties_mean(open_page: Open, add: Add, home: Settings) -> None:
    add(results=TIES)
    add(step=100)
    app = open_page("compare")
    assert "One of these analyses has weights of exactly the same magnitude" in captions(app)
    assert "(up to 48 weights)" in captions(app)
    assert "thin bars: the numerical error" in captions(app)
    with sessions(home.database)() as s:
        page = report(s, "study", queries.comparable(s)["analysis_id"].tolist())
    assert "pale bar goes from the least to the greatest" in page
    assert "pale band with dashed edges" in page
    assert "How they were checked" not in page


def test_compare_says_nothing_of_ties_where_there_are_none(open_page: Open, add: Add) -> None:
    add()
    assert "same magnitude" not in captions(open_page("compare"))
    assert "thin bars: the stated error" in captions(open_page("compare"))


def test_result_shows_how_it_was_checked(open_page: Open, add: Add) -> None:
    number = add(results={"record": RECORD})
    app = open_page("result", analysis=str(number))
    assert not app.exception
    _, found, facts = (table.value for table in app.table[:3])
    said = found["check"].str.replace("\\", "").tolist()
    assert said[:3] == ["**symmetry**  \nuᵀHv is vᵀHu.", "**additive**  \nIt *is* not.", "**not finite**  \n"]
    assert said[3].startswith("**missed eigenpairs (40 products)**  \nNo eigenvalue beyond those found")
    assert said[3].endswith("0.015 in magnitude, with 95% probability.")
    assert said[4].startswith("**numerical rank**")
    assert found["passed"].tolist()[:3] == ["yes", "no", ""]
    assert found["found"].str.replace("\\", "")[0] == "1e‑9, limit 1e‑6"
    assert found["found"][2] == "–"
    told = dict(zip(facts["name"], facts["value"].str.replace("\\", ""), strict=True))
    assert told == {"subset": "kind balanced, samples 50"}


def test_result_says_that_an_old_version_did_not_check(open_page: Open, add: Add) -> None:
    number = add()
    assert "did not check" in captions(open_page("result", analysis=str(number)))


@pytest.mark.parametrize(
    "record",
    [
        {"certificate": None, "completeness": None, "rank": None},
        {"certificate": [], "completeness": {}},
        {"certificate": [{}], "completeness": {"ratio": 2.0}},
        {"certificate": ["a word"], "completeness": "a word", "rank": 3.5},
        {
            "certificate": [{"name": "x", "value": {"a": 1}, "tolerance": "none"}],
            "completeness": {"bound": 1},
        },
    ],
)
def test_checks_cope_with_what_is_missing(record: dict[str, Any]) -> None:
    found = checks(record)
    assert found.columns.tolist() == ["check", "found", "limit", "passed", "what it means"]
    assert not found.isna().any(axis=None)
    checks_among({1: record, 2: {}})


def test_the_report_counts_checks(add: Add, home: Settings) -> None:
    add(results={"record": RECORD})
    other = RECORD | {"certificate": RECORD["certificate"][:1], "completeness": {"products": 7}}
    add(step=100, results={"record": other})
    add(step=200)
    with sessions(home.database)() as s:
        ids = queries.comparable(s)["analysis_id"].tolist()
        found = checks_among(queries.records(s, ids)).set_index("check")
        page = report(s, "study", ids)
    assert found.loc["symmetry", ["passed", "analyses"]].tolist() == ["2 of 2", 2]
    assert found.loc["additive", "passed"] == "0 of 1"
    assert found.loc["missed eigenpairs", ["passed", "analyses"]].tolist() == ["–", 2]
    assert "<h2>How they were checked</h2>" in page
    assert "<td>uᵀHv is vᵀHu.</td>" in page


def test_result_says_where_rank_ends_and_what_was_extrapolated(open_page: Open, add: Add) -> None:
    number = add(results={"record": RECORD | {"rank": 1, "extrapolated": [0.001, -0.0025]}})
    found = open_page("result", analysis=str(number)).table[1].value
    said = found["check"].str.replace("\\", "").tolist()
    assert any("numerical rank" in each and "From number 2 on" in each for each in said)
    (limit,) = (n for n, each in enumerate(said) if "followed towards its limit" in each)
    assert found["found"].str.replace("\\", "")[limit] == "by 0.0025 at most"
