"""The page of a model, with Streamlit's own test runner."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from seigh.core.lab import listing, queries, store
from seigh.core.lab.models import Model
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings

Open = Callable[..., AppTest]
Add = Callable[..., int]


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


@pytest.fixture
def model(add: Add, home: Settings) -> int:
    """Id of a model with two checkpoints, one of them analysed twice; there is another model, too."""
    add(model="another")
    for split in ("test", "train"):
        add(model="mlp", step=100, split=split)
    add("queued", model="mlp", step=2000)
    with sessions(home.database)() as s:
        return s.scalars(select(Model.id).where(Model.name == "mlp")).one()


def test_a_model_shows_its_checkpoints_with_metrics_and_analyses(open_page: Open, model: int) -> None:
    app = open_page("model", id=str(model))
    assert not app.exception
    assert not app.error
    table = app.dataframe[0].value
    assert table["step"].tolist() == [100, 2000]
    assert table["test accuracy"].tolist() == [0.5, 0.5]
    assert table["analysed"].tolist() == ["test krylov k = 5, N = 50; train krylov k = 5, N = 50", "–"]
    assert "7,030 parameters · 2 checkpoints · 3 analyses" in texts(app, "caption")
    links = {each.label: each.proto.query_string for each in app.get("page_link")}
    assert links["Analyse all checkpoints with other settings"].count("checkpoint=") == 2
    assert links["Its analyses"] == "model=mlp"


def test_name_note_and_tags_are_saved(open_page: Open, model: int, home: Settings) -> None:
    app = open_page("model", id=str(model))
    app.text_input(key=f"model_name_{model}").set_value("https://other.example/mlp")
    app.text_area(key=f"model_note_{model}").set_value("as *published*")
    app.multiselect(key=f"model_tags_{model}").set_value(["paper"])
    app.button[0].click().run()
    assert not app.exception
    assert not app.error
    with sessions(home.database)() as s:
        detail = queries.model(s, model)
        assert detail is not None
        assert (detail.name, detail.note, detail.tags) == (
            "https://other.example/mlp",
            "as *published*",
            ("paper",),
        )
        assert len(listing.ids(s, listing.Query("tag:paper"))) == 3
    shown = texts(app, "markdown")
    assert "as \\*published\\*" in shown  # no marks, no links
    assert "https\\://" not in shown


def test_a_name_that_is_taken_is_refused_and_nothing_is_lost(
    open_page: Open, model: int, home: Settings
) -> None:
    app = open_page("model", id=str(model))
    app.text_input(key=f"model_name_{model}").set_value("another")
    app.button[0].click().run()
    assert "There is a model 'another' already" in app.error[0].value.replace("\\", "")
    with sessions(home.database)() as s:
        detail = queries.model(s, model)
        assert detail is not None
        assert detail.name == "mlp"


def test_an_archived_model_is_listed_no_more_and_can_be_taken_back(
    open_page: Open, model: int, home: Settings
) -> None:
    app = open_page("model", id=str(model))
    app.button(key="model_archive").click().run()
    assert "archived]" in texts(app, "markdown")
    overview = open_page("overview")
    assert overview.dataframe[0].value["name"].tolist() == ["another"]
    assert "1 archived model is not listed." in texts(overview, "caption")
    app.button(key="model_archive").click().run()
    with sessions(home.database)() as s:
        assert len(listing.ids(s, listing.Query())) == 4


def test_a_model_is_deleted_and_its_address_says_so(open_page: Open, model: int, home: Settings) -> None:
    app = open_page("model", id=str(model))
    app.button(key="really_model_delete").click().run()
    assert not app.exception
    with sessions(home.database)() as s:
        assert s.scalars(select(Model.name)).all() == ["another"]
    gone = open_page("model", id=str(model))
    assert "There is no such model" in texts(gone, "info")
    assert gone.query_params["id"] in (str(model), [str(model)])


def test_what_is_gone_is_refused(home: Settings, model: int) -> None:
    with sessions(home.database).begin() as s, pytest.raises(store.StoreError, match=r"^Model 999 no longer"):
        store.archive_model(s, 999, True)


@pytest.mark.parametrize("page", ["compare", "metrics", "stabilisation", "result", "model"])
def test_an_archived_model_is_offered_to_those_alone_who_ask(
    open_page: Open, add: Add, home: Settings, page: str
) -> None:
    numbers = {
        name: [add(model=name, step=step, results={"eigenvectors": f"{name}{step}"}) for step in (0, 100)]
        for name in ("used", "old")
    }
    with sessions(home.database).begin() as s:
        (old,) = s.scalars(select(Model.id).where(Model.name == "old"))
        store.archive_model(s, old, archived=True)

    def offers(app: AppTest) -> bool:
        assert not app.exception
        assert not app.error
        chosen = [each for kind in ("selectbox", "multiselect", "pills") for each in app.get(kind)]
        return any("old" in option for each in chosen for option in each.options)

    app = open_page(page)
    assert not offers(app)
    app.checkbox(key=f"{page}_archived").check().run()
    assert offers(app)
    assert app.query_params["archived"] == "1"
    link = {"result": {"analysis": str(numbers["old"][0])}, "model": {"id": str(old)}}.get(
        page, {"model": "old"}
    )
    app = open_page(page, **link)
    assert offers(app)
    assert not app.warning
    assert not app.checkbox(key=f"{page}_archived").value
