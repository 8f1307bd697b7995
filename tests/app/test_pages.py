from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import combinations_with_replacement

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from seigh.core.lab import incidents, queries, store, turns
from seigh.core.lab.models import Analysis, PairValue
from seigh.core.lab.session import close, sessions
from seigh.core.names import IOU, METRICS
from seigh.core.settings import Settings
from tests.opening import MAIN

Open = Callable[..., AppTest]
Add = Callable[..., int]


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


def state_of(home: Settings, number: int) -> str:
    with sessions(home.database)() as s:
        return queries.analysis(s, number).state


# --- All pages --------------------------------------------------------------------------------------------


EMPTY = ["overview", "runs", "analyses", "model", "data", "result", "compare", "stabilisation", "metrics"]


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_page_says_what_to_do_next(open_page: Open, name: str) -> None:
    app = open_page(name)
    ways = [each.label for kind in ("page_link", "button") for each in app.get(kind)]
    trial = "Try it on real digits" if name == "overview" else "Or try it on real digits, on Overview"
    assert ways[:2] == ["Start an analysis", trial]
    assert not app.error
    assert not app.exception


@pytest.mark.parametrize("name", ["overview", "runs", "result", "compare", "stabilisation", "metrics"])
def test_a_failing_page_shows_a_sentence_and_logs_the_rest(
    open_page: Open, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inner secret")

    failing = {"runs": "listed_runs", "overview": "models"}
    monkeypatch.setattr(queries, failing.get(name, "comparable"), fail)
    app = open_page(name)
    assert [error.value for error in app.error] == [
        "Something went wrong on this page; reload it, and if that does not help, see the app's log."
    ]
    assert not app.exception
    assert "inner secret" in caplog.text


def test_a_damaged_database_is_said(open_page: Open, home: Settings) -> None:
    close(home.database)
    for file in home.root.glob("seigh.db*"):
        file.write_bytes(b"no database at all" * 100)
    (error,) = open_page("overview").error
    assert str(error.value).startswith("The database is damaged")


# --- Overview ---------------------------------------------------------------------------------------------


def test_the_entry_is_the_overview(home: Settings) -> None:
    app = AppTest.from_file(MAIN, default_timeout=60).run()
    assert [element.value for element in app.title] == ["Overview"]


def test_the_overview_counts_and_shows_what_runs_and_came_out_last(open_page: Open, add: Add) -> None:
    for step in range(7):
        add(step=step)
    add("running", step=7)
    add("queued", step=8)
    add("failed", step=9)
    app = open_page("overview")
    numbers = {metric.label: metric.value for metric in app.metric[:5]}
    assert numbers == {
        "Models": "1",
        "Checkpoints": "10",
        "Finished analyses": "7",
        "Waiting": "1",
        "Failed": "1",
    }
    (progress,) = app.get("progress")
    assert progress.text.startswith("**mlp** · step 7 · test Hessian · 25%")
    cards = app.metric[5:]
    assert len(cards) == 6  # the latest
    assert {(card.label, card.value, card.delta) for card in cards} == {
        ("Overlap, k = 5", "0.002134 ± 8e-6", "3.00 × chance")
    }
    assert "step 6" in texts(app, "markdown")
    assert "step 0 " not in texts(app, "markdown")
    assert not app.error


# --- Runs -------------------------------------------------------------------------------------------------


def test_runs_shows_every_state(open_page: Open, add: Add) -> None:
    add("finished", step=0)
    add("failed", step=1)
    add("running", step=2)
    add("queued", step=3)
    app = open_page("runs")
    shown = texts(app, "markdown")
    for state in ("finished", "failed", "running", "queued"):
        assert f"{state}]" in shown
    assert shown.index("running]") < shown.index("queued]")  # what runs comes first
    assert [error.value for error in app.error] == ["There was too little of something."]
    assert app.get("progress")[0].text.startswith("eigenpairs · 25%")
    assert [link.label for link in app.get("page_link")] == ["Open"]


@pytest.mark.parametrize("page", ["overview", "runs"])
def test_what_is_wrong_with_the_installation_is_said_until_it_is_over(
    open_page: Open, home: Settings, page: str
) -> None:
    with sessions(home.database).begin() as s:
        for _ in range(3):
            incidents.tell(s, "worker on a", "The worker process ended *unexpectedly*.")
    assert r"The worker process ended \*unexpectedly\*. (3 times, the last one just now)" in texts(
        open_page(page), "warning"
    )
    with sessions(home.database).begin() as s:
        incidents.over(s, "worker on a")
    assert "unexpectedly" not in texts(open_page(page), "warning")


def test_runs_can_be_narrowed_to_a_state(open_page: Open, add: Add) -> None:
    add("finished", step=0)
    add("failed", step=1)
    app = open_page("runs")
    app.pills(key="runs_states").select("failed").run()
    assert "failed]" in texts(app, "markdown")
    assert "finished]" not in texts(app, "markdown")


def test_cancelling_asks_first_and_then_cancels(open_page: Open, add: Add, home: Settings) -> None:
    number = add("queued")
    app = open_page("runs")
    assert f"Stop analysis {number}?" in texts(app, "markdown")
    assert state_of(home, number) == "queued"
    app.button(key=f"really_cancel_analysis_{number}").click().run()
    assert state_of(home, number) == "cancelled"
    assert not app.error


def test_what_can_no_longer_be_cancelled_says_so(open_page: Open, add: Add, home: Settings) -> None:
    number = add("queued")
    app = open_page("runs")
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, number)
    app.button(key=f"really_cancel_analysis_{number}").click().run()
    assert "nothing to cancel" in texts(app, "toast")
    assert not app.error


def test_deleting_asks_first_and_then_deletes(open_page: Open, add: Add, home: Settings) -> None:
    number, other = add(step=0), add("failed", step=1)
    app = open_page("runs")
    assert f"Delete analysis {number} with its numbers and eigenvectors?" in texts(app, "markdown")
    app.button(key=f"really_delete_analysis_{number}").click().run()
    assert not app.exception
    with sessions(home.database)() as s:
        assert queries.analysis(s, number) is None
        assert queries.runs(s)["id"].tolist() == [other]


def test_runs_tell_speed_and_who_works(open_page: Open, add: Add, home: Settings) -> None:
    number = add("running")
    with sessions(home.database).begin() as s:
        analysis = s.get_one(Analysis, number)
        analysis.started_at = analysis.heartbeat_at - timedelta(seconds=4)
    app = open_page("runs")
    assert "10 products, 2.5 per second" in app.get("progress")[0].text
    assert "**1** running" in texts(app, "markdown")
    assert "No worker has been heard of lately" in texts(app, "warning")


def test_runs_can_be_narrowed_to_a_model(open_page: Open, add: Add) -> None:
    add(model="one")
    add(model="two")
    app = open_page("runs")
    app.selectbox(key="runs_model").select("two").run()
    assert "**two**" in texts(app, "markdown")
    assert "**one**" not in texts(app, "markdown")


def test_retry_queues_again_and_says_when_no_broker_answers(
    open_page: Open, add: Add, home: Settings
) -> None:
    number = add("failed")
    app = open_page("runs")
    app.button(key=f"retry_analysis_{number}").click().run()
    assert state_of(home, number) == "queued"
    assert "Redis" in texts(app, "toast")


# --- Result -----------------------------------------------------------------------------------------------


def test_result_shows_the_analysis_of_the_address(open_page: Open, add: Add) -> None:
    number = add(step=100)
    add(step=200)
    app = open_page("result", analysis=str(number), k="4")
    assert app.selectbox(key="result_analysis").value == number
    assert [metric.value for metric in app.metric] == ["1.0000", "0.001707", "3.00 ×", "0.00057", "50.00%"]
    assert len(app.get("vega_lite_chart")) == 6  # overlap, spectrum, scree, layers, magnitudes, time
    labels = [button.label for button in app.get("download_button")]
    assert labels.count("Everything (JSON)") == 1
    for kind in ("SVG", "PNG", "PDF", "CSV", "Parquet"):
        assert labels.count(kind) == 6
    assert app.query_params["analysis"] == str(number)
    assert app.query_params["k"] == "4"


def test_result_says_how_wrong_the_overlap_may_be(open_page: Open, add: Add) -> None:
    number = add(step=100)  # made-up results are resolved up to k = 3 of 5
    app = open_page("result", analysis=str(number), k="3")
    assert app.metric[1].delta == "± 5e-6, k = 3"
    assert not app.info
    app.slider(key="result_k").set_value(4).run()
    assert app.metric[1].delta == "± 6e-6, k = 4"
    assert [info.value for info in app.info] == [
        "Every overlap up to k = 3 is resolved to 1 %, not every one beyond; "
        "at k = 4 the stated error is 0.33 % of the overlap."
    ]
    assert "its stated error" in texts(app, "caption")


def test_eigenvectors_can_be_kept_for_good_where_they_expire(
    open_page: Open, add: Add, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = add(results={"eigenvectors": "eigenvectors/a"})
    assert f"result_pinned_{number}" not in {toggle.key for toggle in open_page("result").toggle}
    monkeypatch.setenv("SEIGH_RETENTION_DAYS", "30")
    st.cache_resource.clear()
    for pinned in (True, False):
        app = open_page("result")
        toggle = app.toggle(key=f"result_pinned_{number}")
        assert "removed 30 days after" in toggle.help
        assert toggle.value is not pinned
        toggle.set_value(pinned).run()
        assert app.toggle(key=f"result_pinned_{number}").value is pinned
        with sessions(home.database)() as s:
            assert queries.analysis(s, number).pinned is pinned


def test_result_says_why_there_are_no_eigenvectors(open_page: Open, add: Add) -> None:
    results = {"eigenvectors": None, "record": {"eigenvectors_lost": "The disk is full."}}
    add(results=results)
    captions = texts(open_page("result"), "caption")
    assert "The eigenvectors are not kept; all numbers are. The disk is full." in captions.replace("\\", "")


def test_results_from_before_errors_were_stated_still_show(open_page: Open, add: Add) -> None:
    unknown = dict.fromkeys(("residuals", "overlap_error", "resolved_k", "scree_lower", "scree_upper"))
    unknown |= dict.fromkeys(("layers", "magnitudes", "metrics"), ())
    number = add(results=unknown | {"record": {"subset_loss": 0.5, "hvp_path": "double-backward"}})
    for page in ("result", "compare", "runs", "overview", "metrics", "stabilisation"):
        app = open_page(page, analysis=str(number))
        assert not app.error
        assert not app.exception
        if page == "result":
            assert app.metric[1].delta == "k = 5"
            assert len(app.get("vega_lite_chart")) == 3  # overlap, spectrum, time
            assert not app.info
            assert "from before layers and magnitudes were told" in texts(app, "caption")
            assert "stated error" not in texts(app, "caption")


def test_result_tells_how_it_was_made_in_words(open_page: Open, add: Add) -> None:
    settings = {"method": "seigh", "outer": 9, "parameters": ("linear6.*",), "curvature": "ggn"}
    number = add(parameters=210, settings=settings)
    app = open_page("result", analysis=str(number))
    assert app.code[0].value == (
        "seigh analyze step_0.pt --data digits --architecture tanh-mlp --curvature ggn "
        "--parameters 'linear6.*' --samples 50 --k 5 --method seigh --outer 9"
    )
    chosen, numerics, measured = (table.value for table in app.table[:3])
    facts = dict(zip(chosen["name"], chosen["value"].str.replace("\\", ""), strict=True))
    assert (facts["parameters D"], facts["parameters"], facts["curvature"]) == ("210", "linear6.*", "ggn")
    facts = dict(zip(numerics["name"], numerics["value"].str.replace("\\", ""), strict=True))
    assert facts == {
        "subset loss": "0.5",
        "step": "100",
        "products": "linearize, 16 vectors and 50 samples at once",
        "basis": "60 products in blocks of 4; room for 100 vectors in a file; restarted once; "
        "20 products read back from an earlier attempt",
        "‖H‖ (Frobenius)": "2 (at least 1.5 with 95% probability)",
        "‖H − Ĥ‖ (Frobenius)": "0.25 (0.125 to 0.5 with 95% probability)",
    }
    assert measured["time per product"].str.replace("\\", "").tolist() == [
        "1.2 ms",
        "Too little time to try it.",
    ]
    assert app.metric[0].delta == "± 0.0001 · test GGN"
    assert app.metric[2].help.endswith("k = 5 and D = 210.")
    assert "GGN of linear6.*" in app.selectbox(key="result_analysis").options[0]


@pytest.mark.parametrize(
    ("basis", "words"),
    [
        ({}, None),
        ({"columns": 30, "kept_in": "memory", "resumed": 0}, "room for 30 vectors in memory"),
        (
            {"block": 4, "columns": 100, "restarts": 3, "products": 60, "kept_in": "memory", "resumed": 0,
             "tolerance_met": False},
            "60 products in blocks of 4; room for 100 vectors in memory; restarted 3 times; "
            "tolerance not met",
        ),
    ],
)  # fmt: skip
def test_result_tells_of_every_methods_basis(
    open_page: Open, add: Add, basis: dict[str, object], words: str | None
) -> None:
    number = add(results={"record": {"basis": basis}})
    numerics = open_page("result", analysis=str(number)).table[1].value
    assert numerics["value"].tolist() == ([words] if words else [])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"loss": {"name": "cross-entropy", "label_smoothing": 0.1, "weight_decay": 0.0, "penalty": 0.0}},
            "cross-entropy, the mean over the samples, with label smoothing 0.1; weight decay is not "
            "included",
        ),
        (
            {"loss": {"name": "mse", "label_smoothing": 0.0, "weight_decay": 0.01, "penalty": 3.0}},
            "mse, the mean over the samples; weight decay is included: λ·I with λ = 0.01 is part of the "
            "matrix",
        ),
        (
            {"theta": {"total": 1234, "trainable": 1000, "frozen": 234, "tied": 56}},
            "1,000 trainable parameters; 56 that are tied to others count once; 234 that are frozen are left "
            "out",
        ),
        ({"theta": {"total": 10, "trainable": 10, "frozen": 0, "tied": 0}}, "10 trainable parameters"),
        ({"notes": ["One thing.", "And another."]}, "One thing. And another."),
        ({"notes": []}, None),
    ],
)
def test_result_tells_what_the_matrix_is_of(
    open_page: Open, add: Add, record: dict[str, object], words: str | None
) -> None:
    number = add(results={"record": record})
    numerics = open_page("result", analysis=str(number)).table[1].value
    assert [value.replace("\\", "") for value in numerics["value"]] == ([words] if words else [])


def test_result_follows_the_selection_into_the_address(open_page: Open, add: Add) -> None:
    first, second = add(step=100), add(step=200)
    app = open_page("result")
    assert app.query_params["analysis"] == str(second)  # the latest, where nothing is asked for
    app.selectbox(key="result_analysis").select(first).run()
    assert app.query_params["analysis"] == str(first)
    app.slider(key="result_k").set_value(2).run()
    assert app.query_params["k"] == "2"
    assert app.metric[1].value == "0.000853"


@pytest.mark.parametrize(
    ("state", "kind", "sentence"),
    [
        ("failed", "error", "too little of something"),
        ("queued", "caption", "appears here"),
        ("running", "caption", "appears here"),
    ],
)
def test_result_says_why_there_is_none_yet(
    open_page: Open, add: Add, state: str, kind: str, sentence: str
) -> None:
    number = add(state)
    app = open_page("result", analysis=str(number))
    assert sentence in texts(app, kind)
    assert not app.get("vega_lite_chart")


@pytest.mark.parametrize("asked", ["999", "12345678901234567890123", "x", "-1"])
def test_result_copes_with_any_address(open_page: Open, add: Add, asked: str) -> None:
    add()
    app = open_page("result", analysis=asked)
    assert not app.exception
    assert not app.error
    if asked == "999":
        assert "There is no analysis" in texts(app, "info")


# --- Compare ----------------------------------------------------------------------------------------------


@pytest.fixture
def study(add: Add) -> None:
    for step in (0, 100, 200):
        for split in ("train", "test"):
            add(step=step, split=split, k=5)
    add(model="other", step=0, k=3)


@pytest.mark.usefixtures("study")
def test_compare_draws_everything_at_first(open_page: Open) -> None:
    app = open_page("compare")
    assert app.slider(key="compare_k").value == 3  # what every analysis reaches
    assert len(app.get("vega_lite_chart")) == 2 + 3  # over training, and a panel for each line
    assert app.query_params["model"] == ["mlp", "other"]
    assert app.query_params["k"] == "3"


@pytest.mark.usefixtures("study")
def test_compare_restores_a_selection_from_the_address(open_page: Open) -> None:
    app = open_page("compare", model=["mlp"], split=["train"], k="2", step=["0", "200"])
    assert app.pills(key="compare_model").value == ["mlp"]
    assert app.pills(key="compare_split").value == ["train"]
    assert app.slider(key="compare_k").value == 2
    assert app.pills(key="compare_step").value == ["0", "200"]
    assert len(app.get("vega_lite_chart")) == 2 + 1


@pytest.mark.usefixtures("study")
def test_compare_keeps_the_address_up_to_date(open_page: Open) -> None:
    app = open_page("compare", model=["mlp"], k="2")
    app.slider(key="compare_k").set_value(4).run()
    assert app.slider(key="compare_k").value == 4
    assert app.query_params["k"] == "4"
    assert app.query_params["model"] == "mlp"


@pytest.mark.usefixtures("study")
def test_compare_says_what_a_larger_k_leaves_out(open_page: Open) -> None:
    app = open_page("compare", k="5")
    assert "1 of 7 chosen analyses have too few eigenpairs for k = 5" in texts(app, "caption")


@pytest.mark.usefixtures("study")
def test_compare_at_a_sparsity(open_page: Open, add: Add) -> None:
    add(model="small", step=0, settings={"parameters": ("linear6.*",)}, parameters=210)
    app = open_page("compare", rho="0.0005")
    assert app.select_slider(key="compare_rho").value == 0.0005
    assert "Overlap over training, ρ = 0.0005" in texts(app, "header")
    assert app.query_params["rho"] == "0.0005"
    assert "k" not in app.query_params
    app.segmented_control(key="compare_by").set_value("k").run()
    assert "Overlap over training, k = 3" in texts(app, "header")
    assert "rho" not in app.query_params


def test_compare_says_where_no_analysis_reaches_a_sparsity(open_page: Open, add: Add) -> None:
    add(model="large", k=5, parameters=1_000_000)
    app = open_page("compare", rho="0.05")
    assert not app.slider
    assert not app.select_slider
    assert "No chosen analysis reaches ρ = 0.0005" in texts(app, "markdown")
    assert "the most that one has is ρ = 5e-6" in texts(app, "markdown")
    app.segmented_control(key="compare_by").set_value("k").run()
    assert "Overlap over training, k = 5" in texts(app, "header")


@pytest.mark.usefixtures("study")
def test_compare_has_other_views_that_the_address_restores(open_page: Open) -> None:
    app = open_page("compare", view="spectrum")
    assert len(app.get("vega_lite_chart")) == 2 + 3  # λ₁, accuracy, and a panel for each line
    app.segmented_control(key="compare_view").set_value("scatter").run()
    assert app.query_params["view"] == "scatter"
    assert len(app.get("vega_lite_chart")) == 1
    assert "analyse a model of another size" in texts(app, "caption")
    assert not app.error


def test_compare_draws_so_many_panels_at_a_time(open_page: Open, add: Add) -> None:
    for seed in range(8):
        add(settings={"seed": seed})
    assert len(open_page("compare").get("vega_lite_chart")) == 2 + 6


def test_analyses_with_other_losses_are_other_lines(open_page: Open, add: Add) -> None:
    add()
    add(settings={"loss": "mse"})
    app = open_page("compare")
    titles = texts(app, "subheader").replace("\\", "")
    assert "mlp · test · cross-entropy" in titles
    assert "mlp · test · mse" in titles


def test_compare_offers_curvatures_and_parameters_when_there_are_several(open_page: Open, add: Add) -> None:
    for step in (0, 100):
        add(step=step)
        add(step=step, settings={"curvature": "ggn"})
        add(step=step, settings={"parameters": ("linear6.*",)}, parameters=210)
    app = open_page("compare")
    assert app.pills(key="compare_curvature").options == ["ggn", "hessian"]
    assert [each.replace("\\", "") for each in app.pills(key="compare_subset").options] == [
        "all",
        "linear6.*",
    ]
    titles = texts(app, "subheader").replace("\\", "").splitlines()
    panels = ["mlp · test · ggn · all", "mlp · test · hessian · all", "mlp · test · hessian · linear6.*"]
    assert [title for title in titles if title.startswith("mlp")] == panels
    app = open_page("compare", curvature=["hessian"], subset=["linear6.*"])
    assert app.pills(key="compare_curvature").value == ["hessian"]
    assert len(app.get("vega_lite_chart")) == 2 + 1
    assert app.query_params["subset"] == "linear6.*"
    app.pills(key="compare_subset").set_value(["all"]).run()
    assert app.query_params["subset"] == "all"


def test_compare_says_which_of_equals_it_shows(open_page: Open, add: Add) -> None:
    add(k=5)
    assert "differ from those shown" not in texts(open_page("compare"), "caption")
    add(k=4)
    add(k=5, settings={"precision": "float64"})
    app = open_page("compare")
    assert "2 more analyses of the same checkpoints and data differ" in texts(app, "caption")
    assert len(app.get("vega_lite_chart")) == 2 + 1


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    "address", [{"model": "gone"}, {"k": "0"}, {"k": "99999"}, {"k": "x"}, {"step": "7"}, {"nonsense": "1"}]
)
def test_compare_copes_with_any_address(open_page: Open, address: dict[str, str]) -> None:
    app = open_page("compare", **address)
    assert not app.exception
    assert not app.error


# --- Stabilisation ----------------------------------------------------------------------------------------


def compared(home: Settings, ids: list[int], k: int) -> None:
    """Values of all pairs at one k, as a comparison writes them."""
    with sessions(home.database).begin() as s:
        for first, second in combinations_with_replacement(sorted(ids), 2):
            for measure in (IOU, *METRICS):
                value = 1.0 if first == second else 0.5
                s.add(PairValue(first_id=first, second_id=second, k=k, measure=measure, value=value))


@pytest.fixture
def steps(add: Add, home: Settings) -> dict[str, list[int]]:
    """Analyses of three steps on both splits, with stored eigenvectors."""
    return {
        split: [
            add(step=step, split=split, k=50, results={"eigenvectors": f"eigenvectors/{split}{step}"})
            for step in (0, 100, 200)
        ]
        for split in ("train", "test")
    }


def test_stabilisation_asks_for_pairs_that_are_not_compared(
    open_page: Open, steps: dict[str, list[int]], home: Settings
) -> None:
    app = open_page("stabilisation", k="35")
    assert not app.get("vega_lite_chart")
    assert "6 pairs are not compared yet" in texts(app, "markdown")
    app.button(key="stabilisation_compare").click().run()
    with sessions(home.database)() as s:
        known = queries.comparisons(s)
    assert sorted(known["analysis_ids"]) == sorted(steps.values())
    assert set(known["ks"].map(tuple)) == {(35, 70, 352, 1406)}  # the paper's sparsities
    assert "comparing 3 pairs" in app.get("progress")[0].text
    assert not app.error


def test_stabilisation_draws_masks_and_the_eigenspaces_of_each_split(
    open_page: Open, steps: dict[str, list[int]], home: Settings
) -> None:
    for ids in steps.values():
        compared(home, ids, 35)
    app = open_page("stabilisation", k="35")
    assert len(app.get("vega_lite_chart")) == 3
    titles = texts(app, "subheader").replace("\\", "").splitlines()
    for title in ("Masks", "Eigenspaces, train", "Eigenspaces, test"):
        assert title in titles
    assert "Chance at k = 35 is 0.0025 for masks and 0.00498 for eigenspaces" in texts(app, "caption")
    assert not app.button
    assert app.segmented_control(key="stabilisation_rho").value == "0.005"
    app.pills(key="stabilisation_sets").set_value([str(min(steps["test"]))]).run()
    assert len(app.get("vega_lite_chart")) == 2
    assert app.query_params["set"] == str(min(steps["test"]))


def test_stabilisation_says_where_only_masks_can_be_compared(
    open_page: Open, steps: dict[str, list[int]], home: Settings
) -> None:
    compared(home, steps["test"], 70)
    compared(home, steps["train"], 70)
    app = open_page("stabilisation", k="70")
    assert "At k = 70 only masks can be compared" in texts(app, "info")


@pytest.mark.parametrize("address", [{"model": "gone"}, {"set": "999"}, {"k": "0"}, {"k": "99999999"}])
def test_stabilisation_copes_with_any_address(
    open_page: Open, steps: dict[str, list[int]], address: dict[str, str]
) -> None:
    app = open_page("stabilisation", **address)
    assert not app.exception
    assert not app.error


# --- Metrics ----------------------------------------------------------------------------------------------


def test_metrics_over_training_have_a_panel_for_each(open_page: Open, steps: dict[str, list[int]]) -> None:
    app = open_page("metrics")
    assert len(app.get("vega_lite_chart")) == len(METRICS)
    assert app.select_slider(key="metrics_k").value == 50
    app.select_slider(key="metrics_k").set_value(1).run()
    app.toggle(key="metrics_raw").set_value(True).run()
    assert app.query_params["k"] == "1"
    assert app.query_params["raw"] == "1"
    assert not app.error


def test_metrics_between_two_analyses_are_asked_for_and_drawn(
    open_page: Open, steps: dict[str, list[int]], home: Settings
) -> None:
    first, second = steps["train"][0], steps["test"][0]
    address = {"view": "pair", "first": str(first), "second": str(second)}
    app = open_page("metrics", **address)
    assert app.button(key="metrics_compare").label == "Compare 1 pair"
    compared(home, [first, second], 50)
    app = open_page("metrics", **address)
    assert len(app.get("vega_lite_chart")) == 1
    assert not app.error


def test_metrics_of_random_subspaces_need_no_analysis(open_page: Open) -> None:
    app = open_page("metrics", view="random", d="1000", k="10")
    assert len(app.get("vega_lite_chart")) == 1
    table = app.table[0].value
    assert table["metric"].tolist()[-1] == "overlap"
    assert table["raw"].tolist()[-1].startswith("0.0100 ±")  # k/D
    assert app.query_params["d"] == "1000"


def test_metrics_of_random_subspaces_by_the_size_of_the_network(open_page: Open) -> None:
    app = open_page("metrics", view="random", d="1000", k="10", along="dimension")
    assert not app.exception
    assert "ρ" in app.header[0].value
    assert app.table[0].value["raw"].tolist()[-1].startswith("0.0100 ±")
    assert app.query_params["along"] == "dimension"


@pytest.mark.parametrize(
    "address",
    [
        {"view": "nonsense"},
        {"model": "gone"},
        {"view": "pair", "first": "999", "second": "x"},
        {"view": "random", "d": "1", "k": "0"},
        {"view": "random", "d": "999999999", "k": "99999"},
        {"view": "random", "d": "999999999", "k": "1", "along": "dimension"},
        {"view": "random", "d": "2", "k": "2", "along": "x"},
    ],
)
def test_metrics_cope_with_any_address(
    open_page: Open, steps: dict[str, list[int]], address: dict[str, str]
) -> None:
    app = open_page("metrics", **address)
    assert not app.exception
    assert not app.error


# --- Samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 50}, "N = 50"),
        ({"subset": "all", "samples": 540}, "all 540 test samples"),
        ({"subset": "all", "samples": 100, "data": f"sha256:{'a' * 64}"}, "all 100 samples"),
        ({"subset": "first-per-class", "samples": 50}, "N = 50, the first of each class"),
        ({"subset": "random", "samples": 50}, "N = 50 at random, not balanced"),
        ({"indices": "0-9,20", "samples": None}, "N = 11 chosen by index"),
    ],
)
def test_pages_say_of_how_many_and_which_samples_a_result_is(
    open_page: Open, add: Add, settings: dict[str, object], words: str
) -> None:
    number = add("finished", settings=settings)
    overview, result, runs = (open_page(name) for name in ("overview", "result", "runs"))
    captions = "\n".join(each.value for page in (overview, runs) for each in page.caption)
    assert captions.replace("\\", "").count(f"{words} ·") == 2
    (choice,) = [box for box in result.selectbox if box.key == "result_analysis"]
    assert f"{words}, seed 0" in choice.options[0]
    table = [str(value).replace("\\", "") for each in result.table for value in each.value.to_numpy().flat]
    assert words in table
    assert f"#{number}" in choice.options[0]


def test_a_long_list_of_indices_is_a_file_on_the_command_line(open_page: Open, add: Add) -> None:
    number = add("finished", settings={"indices": list(range(0, 1000, 2)), "samples": None})
    result = open_page("result")
    (line,) = [each.value for each in result.code]
    assert f"--subset indices --indices mlp-step0-test-analysis{number}.json" in line
    assert not result.exception


def test_analyses_of_other_samples_are_lines_of_their_own(open_page: Open, add: Add) -> None:
    for settings in (
        {"samples": 50},
        {"subset": "random", "samples": 50},
        {"indices": "0-49", "samples": None},
    ):
        add("finished", settings=settings)
    app = open_page("compare")
    headings = "\n".join(str(each.value) for kind in ("markdown", "caption") for each in app.get(kind))
    assert "differ from those shown only in" not in headings
    assert not app.exception


def test_the_overview_says_what_the_lab_answers(open_page: Open) -> None:
    app = open_page("overview")
    assert "Do the largest weights of a network span" in " ".join(each.value for each in app.markdown)


def test_runs_tells_the_place_in_the_queue_and_changes_the_priority(
    open_page: Open, add: Add, home: Settings
) -> None:
    first, second = add("queued", step=0), add("queued", step=1)
    app = open_page("runs")
    places = {number: f"analysis {number} " for number in (first, second)}
    said = {number: next(c.value for c in app.caption if places[number] in c.value) for number in places}
    assert "number 1 in the queue" in said[first]
    assert "number 2 in the queue" in said[second]
    app.selectbox(key=f"priority_analysis_{second}").set_value("high").run()
    assert not app.exception
    with sessions(home.database)() as s:
        assert [(each.number, each.priority) for each in turns.queue(s)] == [
            (second, "high"),
            (first, "normal"),
        ]
    said = {number: next(c.value for c in app.caption if places[number] in c.value) for number in places}
    assert "number 1 in the queue" in said[second]


def test_cancelling_what_has_not_begun_does_not_warn_of_a_loss(open_page: Open, add: Add) -> None:
    waits, runs = add("queued", step=0), add("running", step=1)
    said = {line for line in texts(open_page("runs"), "markdown").splitlines() if line.startswith("Stop ")}
    assert said == {
        f"Stop analysis {waits}? It has not begun, so nothing is lost.",
        f"Stop analysis {runs}? What it has computed so far is lost.",
    }


def test_what_is_being_cancelled_says_what_it_waits_for(open_page: Open, add: Add, home: Settings) -> None:
    number = add("running")
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, number)
    (progress,) = open_page("runs").get("progress")
    assert progress.text == (
        "stopping: the worker ends the batch of products or decomposition at hand (eigenpairs) "
        "and looks after each"
    )


def test_an_address_as_a_name_is_no_link_in_a_choice(open_page: Open, add: Add) -> None:
    add(model="http://x.example")
    (option,) = open_page("compare").pills(key="compare_model").options
    assert "http\\:\u2060//" in option  # which shows as it is, and links nowhere
