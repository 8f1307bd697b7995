"""The first five minutes: the trial on real digits and the tour of a result, without a browser or worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from seigh.app import tour, trying
from seigh.core.lab import queries, store
from seigh.core.lab.models import Training
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from seigh.tasks import trial

Open = Callable[..., AppTest]
Add = Callable[..., int]


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(each.value) for kind in kinds for each in app.get(kind)).replace("\\", "")


def bars(app: AppTest) -> list[str]:
    return [each.proto.text.replace("\\", "") for each in app.get("progress")]


def test_what_the_page_says_of_the_trial_is_what_it_is() -> None:
    assert trying.MODEL == trial.MODEL
    assert len(trial.STEPS) * len(trial.ANALYSES) == trying.EXPECTED


def test_one_button_queues_the_trial_and_its_progress_is_said(open_page: Open, home: Settings) -> None:
    app = open_page("overview")
    assert app.markdown[0].value.count("?") == 1  # what the lab answers
    app.button(key="try_it").click().run()
    assert not app.exception
    with sessions(home.database)() as s:
        (run,) = queries.runs(s).to_dict("records")
    assert (run["kind"], run["model"], run["steps"], run["state"]) == (
        "training",
        trial.MODEL,
        1000,
        "queued",
    )
    assert bars(app) == [
        "Training waits for a worker: none runs at the moment; `seigh worker` starts one",
        "Analyses · 0 of 8 finished",
    ]
    with sessions(home.database).begin() as s:
        store.claim(s, Training, run["id"], "token", "worker")
        store.fail(s, Training, run["id"], "token", "There was too little of something.")
    app.run()
    assert "There was too little of something." in texts(app, "error")
    assert "1 piece of work did not finish" in texts(app, "caption")


@pytest.mark.parametrize("state", ["running", "finished"])
def test_the_result_of_the_trial_is_linked_as_soon_as_there_is_one(
    open_page: Open, add: Add, state: str
) -> None:
    number = add(model=trial.MODEL, step=100)
    add(state, model=trial.MODEL, step=0)
    app = open_page("overview")
    (link,) = [each for each in app.get("page_link") if each.label.startswith("Look at the result")]
    assert link.proto.query_string == f"analysis={number}&tour=1"
    add(model="another")
    assert not [each for each in open_page("overview").get("page_link") if "Look at" in each.label]


def test_the_tour_shows_each_part_of_a_result_by_itself_with_its_question(open_page: Open, add: Add) -> None:
    number = add()
    whole = [each.value for each in open_page("result", analysis=str(number)).header]
    app = open_page("result", analysis=str(number), tour="1")
    seen = []
    for place, stop in enumerate(tour.STOPS, start=1):
        title, *parts = [each.value.replace("\\", "") for each in app.header]
        assert title == f"{place} of {len(tour.STOPS)} · {stop.question}"
        assert app.query_params["tour"] in (str(place), [str(place)])
        assert not app.exception
        seen += parts
        if place < len(tour.STOPS):
            app.button(key="tour_next").click().run()
    assert [each for each in whole if each in seen] == whole  # all of the page, in its order
    app.button(key="tour_end").click().run()
    assert [each.value for each in app.header] == whole
    assert "tour" not in app.query_params
