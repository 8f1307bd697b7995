"""The table of analyses: filtered, searched, sorted and grouped by the database, on both databases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.access import AccessError, Actor, Role
from seigh.core.lab import actions, listing, store
from seigh.core.lab.listing import Query
from seigh.core.lab.models import Analysis, Mask, Model
from seigh.core.lab.store import StoreError
from tests.core.lab import lab

Maker = sessionmaker[Session]
K = 3


def one(s: Session, model: str, step: int, lead: float, **more: Any) -> int:
    """A finished analysis whose leading eigenvalue and overlaps follow from ``lead``."""
    changes = {
        "eigenvalues": np.array([lead, 2.0, 1.0]),
        "overlap": np.array([0.5, 0.4, 0.1 * lead]),
        "overlap_error": np.array([0.001, 0.002, 0.003]),
        "residuals": np.array([0.25, 0.1, 0.1]),
        "record": {"norm": {"estimate": 10 * lead}, "path": "linearize"},
    }
    return lab.finished(s, model=model, step=step, changes=changes, **more)


@pytest.fixture
def filled(maker: Maker) -> dict[str, int]:
    """Seven analyses of two models, one of them not finished."""
    with maker.begin() as s:
        found = {f"a{seed}": one(s, "alpha", 100, 1.0 + seed, seed=seed, samples=500) for seed in range(3)}
        found |= {"b0": one(s, "beta", 100, 5.0, samples=100, precision="float64")}
        found |= {"b1": one(s, "beta", 2000, 7.0, samples=500, split="train")}
        found["x2"] = lab.finished(s, model="x 100%_y", step=2)
        found["waits"] = lab.queue(s, model="alpha", step=300).id
        store.tag_analyses(s, [found["b1"], found["a0"]], ["baseline"])
        store.tag_model(s, s.get_one(Analysis, found["x2"]).checkpoint.model_id, ["two words"])
    return found


def names(maker: Maker, filled: dict[str, int], search: str = "", **more: Any) -> list[str]:
    of = {number: name for name, number in filled.items()}
    with maker() as s:
        query = Query(search, **({"sort": "id", "descending": False} | more))
        found = listing.rows(s, query, ["model"])
        assert found.total == len(found.rows)
        assert sorted(found.rows["id"]) == listing.ids(s, query)
    return [of[int(number)] for number in found.rows["id"]]


# All of them are asked of one database: filling one takes longer than all of them.
SEARCHES: dict[str, list[str]] = {
    "": ["a0", "a1", "a2", "b0", "b1", "x2", "waits"],
    "ALPHA": ["a0", "a1", "a2", "waits"],
    "N=500 step>=1000": ["b1"],
    "n<500": ["b0"],
    "step!=100 state=finished": ["b1", "x2"],
    "tag:baseline step=100": ["a0"],
    "tag!=baseline model:alpha": ["a1", "a2", "waits"],
    'tag:"two words"': ["x2"],
    "baseline": ["a0", "b1"],
    "100%_": ["x2"],  # no wildcards
    "λ>4 λ1<6": ["b0"],
    "overlap>=0.3": ["a2", "b0", "b1", "x2"],
    "setting.precision=float64": ["b0"],
    "fact.norm.estimate>60": ["b1"],
    "fact.path=linearize split=train": ["b1"],
    "'; DROP TABLE analysis": [],
}


def test_a_search_has_words_and_conditions(maker: Maker, filled: dict[str, int]) -> None:
    assert {search: names(maker, filled, search) for search in SEARCHES} == SEARCHES


def test_a_number_finds_its_analysis(maker: Maker, filled: dict[str, int]) -> None:
    assert names(maker, filled, f"#{filled['b0']}") == ["b0"]
    assert names(maker, filled, f"#{10**40}") == []


def test_filters_let_any_of_their_values_pass_and_all_have_to(maker: Maker, filled: dict[str, int]) -> None:
    assert names(maker, filled, where={"step": ["100", "2000"], "N": ["500"], "model": []}) == [
        "a0", "a1", "a2", "b1",
    ]  # fmt: skip
    assert names(maker, filled, where={"tag": ["baseline", "two words"]}) == ["a0", "b1", "x2"]


def test_every_column_sorts_and_what_is_unknown_comes_last(maker: Maker, filled: dict[str, int]) -> None:
    assert names(maker, filled, "model:a", sort="lambda", descending=True)[:3] == ["b1", "b0", "a2"]
    assert names(maker, filled, "model:a", sort="lambda")[-1] == "waits"
    assert names(maker, filled, "model:a", sort="lambda", descending=True)[-1] == "waits"
    with maker() as s:
        for name in listing.known(s, Query()):
            assert listing.rows(s, Query(sort=name), [name]).total == len(filled), name


def test_rows_have_their_errors_chance_and_tags(maker: Maker, filled: dict[str, int]) -> None:
    with maker() as s:
        (row,) = listing.rows(
            s, Query(f"#{filled['a0']}"), ["overlap", "ratio", "lambda", "seconds"]
        ).rows.to_dict("records")
        assert (row["overlap"], row["overlap_error"]) == (0.1, 0.003)
        assert row["ratio"] == pytest.approx(0.1 * lab.PARAMETERS / K)
        assert row["ratio_error"] == pytest.approx(0.003 * lab.PARAMETERS / K)
        assert (row["lambda"], row["lambda_error"], row["seconds"]) == (1.0, 0.25, 2.5)
        assert row["tags"] == "baseline"
        (at,) = listing.rows(s, Query(f"#{filled['a0']}", k=1), ["overlap", "ratio"]).rows.to_dict("records")
        assert (at["overlap"], at["ratio"]) == (0.5, pytest.approx(0.5 * lab.PARAMETERS))
        (best,) = listing.rows(s, Query(f"#{filled['a0']}", mask=Mask.best), ["overlap"]).rows.to_dict(
            "records"
        )
        assert (best["overlap"], best["overlap_error"]) == (0.7, 0.03)


WORDS = {"title": "how large", "note": "how large it is.", "unit": ""}


def test_observables_are_columns_to_sort_and_to_compare_by(maker: Maker) -> None:
    """Of every kind of number, which each database puts together from its bytes in a way of its own."""
    values = [0.1, -0.1, 3.0, -0.0, 5e-324, -1.1e-310, 2.0**-1022, 1.7976931348623157e308, np.pi * 1e-200]
    maker_ids = {}
    with maker.begin() as s:
        for seed, value in enumerate(values):
            size = WORDS | {"value": value, "lower": None, "upper": 2.0, "reference": None}
            maker_ids[lab.finished(s, seed=seed, changes={"quantities": {"size": size}})] = value
        errors = np.array([np.nan, 0.25, 0.25])
        curve = WORDS | {"value": np.array([0.5, 0.25, 1.0]), "error": errors, "chance": None}
        share = {"share": curve, "clipped": curve | {"lower": np.array([0.5, 0, 1]), "upper": np.ones(3)}}
        one = lab.finished(s, step=7, changes={"curves": share})
    column = "observable.size"
    with maker() as s:
        found = listing.rows(s, Query(where={"step": ["100"]}, sort=column, descending=False), [column]).rows
        assert found[column].tolist() == sorted(values)
        assert dict(zip(found["id"], found[column], strict=True)) == maker_ids
        assert found[f"{column}.lower"].isna().all()
        assert found[f"{column}.upper"].tolist() == [2.0] * len(values)
        assert len(listing.ids(s, Query(f"{column}>2"))) == 2
        assert listing.rows(s, Query(sort=column), [column]).rows["id"].iloc[-1] == one  # it has none
        for k, name, expected in (
            (None, "share", (1.0, 0.75, 1.25)),  # its own k is 3
            (2, "share", (0.25, 0.0, 0.5)),
            (2, "clipped", (0.25, 0.0, 1.0)),
            (1, "share", (0.5, None, None)),
            (9, "share", (None, None, None)),
        ):
            query = Query(f"#{one}", k=k)
            column = f"observable.{name}"
            (row,) = listing.rows(s, query, [column]).rows.to_dict("records")
            told = [row[each] for each in (column, f"{column}.lower", f"{column}.upper")]
            assert [None if np.isnan(each) else each for each in told] == list(expected), (k, name)
        with pytest.raises(StoreError, match="No analysis has the observable"):
            listing.rows(s, Query("observable.other>1"), [])


def test_a_page_has_its_part_of_all(maker: Maker, filled: dict[str, int]) -> None:
    with maker() as s:
        pages = [
            listing.rows(s, Query(sort="id", descending=False), ["model"], limit=3, offset=3 * page)
            for page in range(3)
        ]
    assert [len(page.rows) for page in pages] == [3, 3, 1]
    assert {page.total for page in pages} == {7}
    assert [int(each) for page in pages for each in page.rows["id"]] == sorted(filled.values())


def test_groups_tell_mean_and_spread(maker: Maker, filled: dict[str, int]) -> None:
    with maker() as s:
        found = listing.groups(s, Query(where={"state": ["finished"]}), ["model", "step"])
    table = found.rows.set_index(["model", "step"])
    assert (found.total, list(table["number"])) == (4, [3, 1, 1, 1])
    alpha = table.loc[("alpha", 100.0)]
    assert alpha["lambda"] == 2.0
    assert alpha["lambda_spread"] == pytest.approx(np.std([1.0, 2.0, 3.0], ddof=1), rel=1e-15)
    assert alpha["overlap_spread"] == pytest.approx(np.std([0.1, 0.2, 0.3], ddof=1))
    assert np.isnan(table.loc[("beta", 100.0)]["lambda_spread"])


def test_the_spread_of_large_numbers_that_differ_little_is_right(maker: Maker) -> None:
    leads = [1e9 + offset for offset in (0.0, 1.0, 2.0, 3.0)]
    with maker.begin() as s:
        for seed, lead in enumerate(leads):
            one(s, "large", 1, lead, seed=seed)
    with maker() as s:
        (row,) = listing.groups(s, Query(), ["model"]).rows.to_dict("records")
    assert row["lambda_spread"] == pytest.approx(np.std(leads, ddof=1), rel=1e-9)


def test_choices_are_what_the_other_filters_leave(maker: Maker, filled: dict[str, int]) -> None:
    with maker() as s:
        query = Query(where={"step": ["100"], "N": ["500"]})
        assert listing.choices(s, query, "N") == ["100", "500"]
        assert listing.choices(s, query, "step") == ["2", "100", "300", "2000"]
        assert listing.choices(s, query, "tag") == ["baseline"]
        assert listing.choices(s, Query(), "tag") == ["baseline", "two words"]


MISUNDERSTOOD = {
    "nonsense=5": r"^There is no column 'nonsense'; there is id, ",
    "N=many": r"^'many' is no number, which N is compared with; write N=500\.$",
    "tag>b": r"^A tag is the same or another one; write tag:b\.$",
    "fact.norm.missing=1": r"^No recent analysis has the fact 'fact\.norm\.missing'; ",
}


def test_what_cannot_be_understood_is_said(maker: Maker, filled: dict[str, int]) -> None:
    for search, sentence in MISUNDERSTOOD.items():
        with maker() as s, pytest.raises(StoreError, match=sentence):
            listing.rows(s, Query(search), ["model"])


def test_models_that_are_put_away_are_left_out(maker: Maker, filled: dict[str, int]) -> None:
    with maker.begin() as s:
        number = s.query(Model.id).filter(Model.name == "beta").scalar()
        actions.archive_model(s, actions_by("ada"), number, True)
    assert names(maker, filled, "N<1000") == ["a0", "a1", "a2", "x2", "waits"]
    assert "b0" in names(maker, filled, archived=True)


def actions_by(name: str) -> Actor:
    return Actor(name, Role.member, "")


def test_what_cannot_be_a_tag_is_refused(maker: Maker, filled: dict[str, int]) -> None:
    for name in ("", " ", "a,b", "x" * 61, "a\nb"):
        with maker.begin() as s, pytest.raises(StoreError, match=r"^A tag has 1 to 60 printable characters"):
            store.tag_analyses(s, [filled["a0"]], [name])


def test_tags_are_put_on_once_and_taken_away(maker: Maker, filled: dict[str, int]) -> None:
    with maker.begin() as s:
        store.tag_analyses(s, [filled["a0"], 10**6], ["baseline", " baseline ", "new"])
        assert listing.tags(s, [filled["a0"]]) == {filled["a0"]: ["baseline", "new"]}
        store.tag_analyses(s, [filled["a0"]], [], ["baseline"])
        assert listing.tags(s, [filled["a0"]]) == {filled["a0"]: ["new"]}
        store.delete(s, Analysis, filled["a0"])
    with maker() as s:
        assert listing.tags(s, [filled["a0"]]) == {}


def test_a_model_is_renamed_and_described(maker: Maker, filled: dict[str, int]) -> None:
    ada, bob = actions_by("ada"), actions_by("bob")
    with maker.begin() as s:
        number = s.query(Model.id).filter(Model.name == "beta").scalar()
        with pytest.raises(AccessError, match=r"is by ada; only ada and admins may change it\.$"):
            actions.rename_model(s, bob, number, "gamma")
        with pytest.raises(StoreError, match=r"^There is a model 'alpha' already"):
            actions.rename_model(s, ada, number, "alpha")
        with pytest.raises(StoreError, match="at most 200 characters"):
            actions.rename_model(s, ada, number, "x" * 201)
        actions.rename_model(s, ada, number, " gamma ")
        actions.describe_model(s, ada, number, "as published")
    assert names(maker, filled, "gamma") == ["b0", "b1"]
    assert names(maker, filled, "published") == ["b0", "b1"]
