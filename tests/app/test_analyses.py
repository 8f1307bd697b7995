"""The table of analyses, with Streamlit's own test runner."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from seigh.app import figures
from seigh.app.views.analyses import told
from seigh.core.lab import listing, queries, store
from seigh.core.lab.listing import Column
from seigh.core.lab.models import Analysis
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings

Open = Callable[..., AppTest]
Add = Callable[..., int]


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


@pytest.fixture
def filled(add: Add, home: Settings) -> list[int]:
    """Four finished analyses of two models, and one that waits; the first is tagged."""
    numbers = [add(model="mlp", step=step, split=split) for step in (0, 100) for split in ("test", "train")]
    numbers.append(add("queued", model="net", step=100))
    with sessions(home.database).begin() as s:
        store.tag_analyses(s, numbers[:1], ["baseline"])
    return numbers


def shown(app: AppTest) -> list[int]:
    return [int(each) for each in app.dataframe[0].value["id"]]


def displayed(app: AppTest) -> pd.DataFrame:
    """What the cells show, by column."""
    found = pa.ipc.open_stream(app.dataframe[0].proto.arrow_data.styler.display_values).read_pandas()
    return found.set_axis(app.dataframe[0].value.columns, axis=1)


def test_the_table_has_a_row_for_each_with_its_numbers_and_errors(open_page: Open, filled: list[int]) -> None:
    app = open_page("analyses")
    assert not app.exception
    assert not app.error
    assert sorted(shown(app)) == filled
    table = app.dataframe[0].value.set_index("id")
    row = table.loc[filled[0]]
    assert (row["model"], row["step"], row["N"], row["k"], row["method"]) == ("mlp", 0, 50, 5, "krylov")
    assert row["ratio"] == pytest.approx(3.0)
    assert row["tags"] == "baseline"
    assert "÷ chance is the overlap divided by k/D" in texts(app, "caption")
    said = displayed(app)
    assert list(said["id"]) == [str(each) for each in app.dataframe[0].value["id"].astype(int)]
    finished = said["overlap"].to_numpy() != "–"
    assert set(said["overlap"][finished]) == {"0.002134 ± 8e-6"}  # the digits that the error allows
    assert set(said["ratio"][finished]) == {"3.00 ± 0.01"}
    assert set(said["lambda"][finished]) == {"1.0000 ± 0.0001"}
    assert set(said["step"]) == {"0", "100"}


def test_it_is_found_by_tag_step_and_n_in_three_actions(open_page: Open, filled: list[int]) -> None:
    app = open_page("analyses")
    app.multiselect(key="analyses_where_tag").set_value(["baseline"]).run()
    app.multiselect(key="analyses_where_step").set_value(["0"]).run()
    app.text_input(key="analyses_search").set_value("N=50").run()
    assert shown(app) == filled[:1]


def address_of(app: AppTest) -> dict[str, list[str]]:
    values = {name: app.query_params[name] for name in app.query_params}
    return {name: [each] if isinstance(each, str) else list(each) for name, each in values.items()}


def test_what_is_shown_is_in_the_address_and_comes_back_from_it(open_page: Open, filled: list[int]) -> None:
    app = open_page("analyses")
    app.text_input(key="analyses_search").set_value("split=test state=finished").run()
    app.selectbox(key="analyses_sort").set_value("step").run()
    app.toggle(key="analyses_descending").set_value(False).run()
    app.multiselect(key="analyses_columns").set_value(["step", "setting.precision", "fact.step"]).run()
    app.number_input(key="analyses_k").set_value(2).run()
    first = shown(app)
    address = address_of(app)
    assert address["q"] == ["split=test state=finished"]
    again = open_page("analyses", **address)
    assert shown(again) == first == [filled[0], filled[2]]
    assert list(again.dataframe[0].value.columns) == ["id", "step", "setting.precision", "fact.step", "tags"]
    assert set(again.dataframe[0].value["setting.precision"]) == {"float32"}
    assert address_of(again) == address


def test_groups_are_rows_with_mean_and_spread(open_page: Open, filled: list[int]) -> None:
    app = open_page("analyses", by=["model", "step"], q="state=finished")
    table = app.dataframe[0].value
    assert table["analyses"].tolist() == [2, 2]
    assert table["model"].tolist() == ["mlp", "mlp"]
    assert "standard deviation" in texts(app, "caption")


def test_a_search_that_is_not_understood_is_said(open_page: Open, filled: list[int]) -> None:
    app = open_page("analyses", q="N=many")
    assert "'many' is no number" in app.error[0].value.replace("\\", "")
    assert not app.dataframe
    app.text_input(key="analyses_search").set_value("nothing-has-this").run()
    assert "No analysis matches" in texts(app, "info")


def test_all_that_match_are_tagged_and_deleted(open_page: Open, filled: list[int], home: Settings) -> None:
    app = open_page("analyses", q="step=100 state=finished")
    app.checkbox(key="analyses_all").check().run()
    app.multiselect(key="analyses_tag_add").set_value(["baseline"]).run()
    app.button(key="analyses_tag").click().run()
    assert not app.exception
    with sessions(home.database)() as s:
        tagged = listing.tags(s, filled)
    assert tagged == {number: ["baseline"] for number in (filled[0], filled[2], filled[3])}
    links = {each.label: each.proto.query_string for each in app.get("page_link")}
    assert f"analysis={filled[2]}" in links["Compare"]
    assert "checkpoint=" in links["Analyse again with other settings"]
    app.button(key="really_analyses_delete").click().run()
    with sessions(home.database)() as s:
        assert sorted(s.scalars(select(Analysis.id))) == [filled[0], filled[1], filled[4]]


def test_only_the_chosen_ones_are_compared(open_page: Open, filled: list[int]) -> None:
    app = open_page("compare", analysis=[str(filled[0]), str(filled[2])])
    assert not app.exception
    assert "Only the 2 analyses chosen on Analyses are compared" in texts(app, "caption")
    assert address_of(app)["analysis"] == [str(filled[0]), str(filled[2])]
    app.button(key="compare_all").click().run()
    assert "chosen on Analyses" not in texts(app, "caption")
    assert "analysis" not in app.query_params


def test_checkpoints_of_an_address_that_are_gone_are_said(open_page: Open, filled: list[int]) -> None:
    app = open_page("new_analysis", checkpoint=["999"])
    assert "1 checkpoint is no longer there." in texts(app, "error").replace("\\", "")
    assert "checkpoint" not in app.query_params


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("step", 1000.0, "1,000"), ("test_accuracy", 0.98765, "98.77%"), ("seconds", 100.0, "1 min 40 s"),
        ("resolved_k", float("nan"), "–"),
    ],
)  # fmt: skip
def test_numbers_are_shown_in_their_unit(name: str, value: float, said: str) -> None:
    assert told(name, value) == said


def test_numbers_have_the_digits_that_their_error_allows_and_both_ends_where_these_differ() -> None:
    rows = pd.DataFrame({"value": [0.0021341, -10720.4, 7.0, np.nan], "error": [7.2e-6, 0.3, np.nan, np.nan]})
    ends = {"lower": [0.0, -10720.7, np.nan, np.nan], "upper": [0.0031341, -10720.1, np.nan, np.nan]}
    of_error = Column("value", "overlap", "number", None, error="error")
    assert figures.told(rows, of_error) == ["0.002134 ± 8e-6", "-10,720.4 ± 0.3", "7", "–"]
    between = Column("value", "share", "number", None, ends=("lower", "upper"))
    assert figures.told(rows.assign(**ends), between) == [
        "0.0021, between 0 and 0.0032", "-10,720.4 ± 0.3", "7", "–",
    ]  # fmt: skip


def test_the_checkpoints_of_analyses_are_known(filled: list[int], home: Settings) -> None:
    with sessions(home.database)() as s:
        ids = queries.checkpoints_of(s, filled)
        found = queries.stored_checkpoints(s, ids)
        assert queries.stored_checkpoints(s, [10**6]).empty
    assert found["model"].tolist() == ["mlp", "mlp", "net"]
    assert found["step"].tolist() == [0, 100, 100]
    assert sorted(found["id"]) == ids
