"""Compare, Metrics and Stabilisation: what differs can be told apart, and what is left out is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from seigh.app.lines_form import lines_of
from seigh.app.panels import masks_of_steps
from seigh.app.report import report
from seigh.app.scattered import Axes
from seigh.core.lab import queries
from seigh.core.lab.session import migrate, sessions
from seigh.core.names import METRICS
from seigh.core.observables.trace import ENERGY
from seigh.core.settings import Settings
from tests.core.lab import lab

Open = Callable[..., AppTest]
Add = Callable[..., int]


def said(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(each.value) for kind in kinds for each in app.get(kind)).replace("\\", "")


def specifications(app: AppTest) -> list[dict[str, Any]]:
    return [json.loads(each.proto.spec) for each in app.get("vega_lite_chart")]


def numbers_behind(app: AppTest) -> pd.DataFrame:
    """The table below the charts over training or the scatter, which is sent to who opens it."""
    for key in ("compare_behind", "compare_behind_scatter"):
        app.session_state[key] = True
    found: pd.DataFrame = app.run().dataframe[0].value
    return found


def colors(specification: dict[str, Any]) -> dict[str, str]:
    """Colour by group, of the lines of a chart over training."""
    scales = [layer["encoding"]["color"]["scale"] for layer in specification["layer"] if is_colored(layer)]
    return dict(zip(scales[0]["domain"], scales[0]["range"], strict=True))


def is_colored(layer: dict[str, Any]) -> bool:
    return layer["encoding"].get("color", {}).get("field") == "group"


def test_two_compared_models_never_have_the_same_colour(open_page: Open, add: Add) -> None:
    for number in range(1, 9):  # the first and the seventh had the same
        add(model=f"model {number}")
    app = open_page("compare", model=["model 1", "model 7", "model 8", "model 2"])
    found = colors(specifications(app)[0])
    assert len(set(found.values())) == len(found) == 4


def test_of_twenty_models_a_few_are_compared_at_first_and_their_names_differ(
    open_page: Open, add: Add
) -> None:
    names = [f"cifar10-resnet18-with-augmentation-seed-{number:02d}-final" for number in range(20)]
    for name in names:
        add(model=name)
    app = open_page("compare")
    assert app.multiselect(key="compare_model").value == names[:6]
    assert "6 of 20 models are shown at first" in said(app, "caption")
    app.multiselect(key="compare_model").set_value(names).run()
    (overlap, _, *_) = specifications(app)
    assert len(set(colors(overlap).values())) == 20
    labels = overlap["layer"][-2]["encoding"]["color"]["legend"]["labelExpr"]
    shown = json.loads(labels.partition("(")[2].rpartition(")[datum.label]")[0])
    assert set(shown) == set(names)
    assert len(set(shown.values())) == 20
    assert app.query_params["model"] == names
    metrics = open_page("metrics")
    assert metrics.multiselect(key="metrics_models").value == names[:6]
    assert "6 of 20 models are shown at first" in said(metrics, "caption")


def test_analyses_of_other_samples_have_colours_of_their_own_and_it_is_said(
    open_page: Open, add: Add
) -> None:
    for step in (0, 100):
        add(step=step, settings={"samples": 50})
    assert "differ" not in said(open_page("compare"), "info")
    for step in (0, 100):
        add(step=step, settings={"samples": 500})
    app = open_page("compare")
    assert "These analyses differ in N (50, 500)" in said(app, "info")
    found = colors(specifications(app)[0])
    assert found.keys() == {"mlp · N = 50", "mlp · N = 500"}
    assert len(set(found.values())) == 2


def test_what_a_k_leaves_out_is_named(open_page: Open, add: Add) -> None:
    add(model="long", k=5)
    add(model="short", k=3)
    compare = open_page("compare", k="5")
    assert "1 of 2 chosen analyses have too few eigenpairs for k = 5" in said(compare, "caption")
    assert "short · test, step 0" in said(compare, "caption")
    metrics = open_page("metrics", k="5")
    assert "Left out, without metrics at k = 5" in said(metrics, "caption")
    assert "short · test" in said(metrics, "caption")


def test_hidden_analyses_are_named(open_page: Open, add: Add) -> None:
    add(k=5)
    hidden = add(k=4)
    assert f"Not shown: **#{hidden}**." in said(open_page("compare"), "caption")


def test_every_line_has_a_panel_at_first(open_page: Open, add: Add) -> None:
    for step in range(0, 1000, 100):
        add(model="long", step=step)
    add(model="short", step=150)  # none of the steps that are spread over all
    app = open_page("compare")
    assert "short · test" in [each.value.replace("\\", "") for each in app.subheader]
    app.multiselect(key="compare_step").set_value(["0"]).run()
    assert "Of none of these steps: **short · test**." in said(app, "caption")
    # A model that joins has its panel too, as long as nobody has chosen the steps.
    app = open_page("compare", model=["long"])
    app.pills(key="compare_model").set_value(["long", "short"]).run()
    assert "short · test" in [each.value.replace("\\", "") for each in app.subheader]


def test_panels_that_differ_tenfold_have_axes_of_their_own(open_page: Open, add: Add) -> None:
    add(model="small")
    add(model="large", results={"overlap": np.full(5, 1e-6)})
    app = open_page("compare")
    assert "Each panel has an axis of its own" in said(app, "caption")
    axes = [layer["encoding"].get("y", {}) for each in specifications(app)[2:] for layer in each["layer"]]
    assert not any("domain" in (axis.get("scale") or {}) for axis in axes)


def test_metrics_say_what_is_compared_with_what_and_fold_what_is_noise(open_page: Open, add: Add) -> None:
    noise = {"geodesic": 0.5, "overlap": 0.5, "chordal_f": 0.5, "projection_f": 0.5}
    largest = {"chordal_2": 2**0.5, "projection_2": 1.0, "fubini_study": 1.5707963267948966}
    metrics = [
        {"k": 5, "metric": metric, "value": (noise | largest)[metric], "error": None, "random_mean": 0.6}
        | {"random_std": 0.1}
        for metric in METRICS
    ]
    add(results={"metrics": metrics})
    app = open_page("metrics")
    assert "the mask of the k weights of largest |θ|" in said(app, "caption")
    assert "is compared with Vₖ, the span of the top k eigenvectors of the same checkpoint" in said(
        app, "caption"
    )
    assert len(app.get("vega_lite_chart")) == len(METRICS) - len(largest)
    assert "Not drawn: chordal, 2-norm, projection, 2-norm, Fubini–Study." in said(app, "info")


def drawn(app: AppTest, place: int, mark: str) -> list[dict[str, Any]]:
    """The encodings of a chart's layers with this mark."""
    layers = specifications(app)[place]["layer"]
    return [each["encoding"] for each in layers if mark == (each["mark"].get("type") or each["mark"])]


def test_seeds_become_a_mean_with_its_spread_and_the_address_restores_it(open_page: Open, add: Add) -> None:
    for seed in range(3):
        for model in ("a", "b"):
            add(model=model, settings={"seed": seed}, results={"overlap": np.full(5, 0.01 * (seed + 1))})
    app = open_page("compare")
    assert len(colors(specifications(app)[0])) == 6
    app.multiselect(key="compare_over").set_value(["seed"]).run()
    assert list(colors(specifications(app)[0])) == ["a", "b"]
    assert "Means over seed, n = 3. Pale: ± one standard deviation (n − 1)" in said(app, "caption")
    assert not app.dataframe
    numbers = numbers_behind(app)
    assert numbers["overlap"].tolist() == pytest.approx([0.02, 0.02])
    assert numbers["spread"].tolist() == pytest.approx([0.01, 0.01])
    assert numbers["n"].tolist() == [3, 3]
    assert app.query_params["over"] == "seed"
    again = open_page("compare", model=["a", "b"], over=["seed"], color=["model"])
    assert numbers_behind(again)["n"].tolist() == [3, 3]
    assert again.selectbox(key="compare_color").value == "model"
    # All models and seeds in one line.
    again.selectbox(key="compare_color").set_value(None)
    again.multiselect(key="compare_over").set_value(["model", "seed"]).run()
    assert numbers_behind(again)["series"].tolist() == ["tanh-mlp · test"]
    assert numbers_behind(again)["n"].tolist() == [6]
    for view in ("spectrum", "curves", "masks", "scatter"):
        again.segmented_control(key="compare_view").set_value(view).run()
        assert not again.exception
        assert not again.error


def test_splits_become_a_mean_though_they_have_a_dash_each_otherwise(open_page: Open, add: Add) -> None:
    for split, height in (("train", 0.01), ("test", 0.03)):
        for step in (0, 100):
            add(step=step, split=split, results={"overlap": np.full(5, height)})
    for panel in ("model", "step"):
        app = open_page("compare", over="split", panel=panel)
        assert not app.error
        assert "Means over split, n = 2." in said(app, "caption")
        assert numbers_behind(app)["overlap"].tolist() == pytest.approx([0.02, 0.02])
        for view in ("spectrum", "curves", "masks", "scatter"):
            app.segmented_control(key="compare_view").set_value(view).run()
            assert not app.error


def test_profiles_of_seeds_become_a_mean_with_its_spread(open_page: Open, add: Add) -> None:
    words = {
        "title": "shape", "note": "its shape.", "unit": "", "x_title": "α", "line_title": "",
        "reference_title": "", "log": False,
    }  # fmt: skip
    for seed in range(3):
        profile = {"x": np.array([0.0, 1.0]), "value": np.array([1.0, 2.0]) + seed, "upper": None}
        profile |= {"lower": None, "reference": None, "line": None}
        add(settings={"seed": seed}, results={"profiles": {"shape": words | profile}})
    app = open_page("compare", view="curves", curve="shape", over="seed")
    assert not app.exception
    assert "Means over seed, n = 3." in said(app, "caption")
    (chart,) = specifications(app)
    marks = [each["mark"]["type"] for each in chart["layer"]]
    assert marks == ["area", "line"]
    assert said(app, "subheader") == "mlp · test"
    apart = open_page("compare", view="curves", curve="shape")
    assert len(specifications(apart)) == 3


def test_colour_and_panel_are_of_any_setting_on_the_same_axes(open_page: Open, add: Add) -> None:
    add()
    add(settings={"precision": "float64"}, results={"overlap": np.full(5, 0.01)})
    assert "Not shown" in said(open_page("compare"), "caption")
    app = open_page("compare", color="setting.precision", panel="setting.precision")
    assert "Not shown" not in said(app, "caption")
    assert {"setting: precision float32", "setting: precision float64"} <= {
        each.value.replace("\\", "") for each in app.subheader
    }
    axes = [drawn(app, place, "line")[0]["y"]["scale"]["domain"] for place in (0, 1)]
    assert axes[0] == axes[1]
    assert axes[0][1] > 0.01
    assert app.query_params["panel"] == "setting.precision"
    gone = open_page("compare", color="setting.gone")
    assert "The address asks for column **setting.gone**" in said(gone, "warning")


def test_a_pinned_baseline_has_differences_and_ratios(open_page: Open, add: Add) -> None:
    for step in (0, 100):
        base = add(model="a", step=step, results={"overlap": np.full(5, 0.01 + step)})
        add(model="b", step=step, results={"overlap": np.full(5, 0.03), "overlap_error": np.full(5, np.nan)})
        add(model="c", step=step, results={"overlap": np.full(5, 0.03), "overlap_error": np.full(5, 0.005)})
    app = open_page("compare", baseline_model="a")
    assert "Difference to a: overlap, k = 5" in said(app, "header")
    assert len(specifications(app)) == 4 + 3
    difference, ratio = (specifications(app)[place] for place in (2, 3))
    assert "Neither, as its stated error or that of the baseline is not known" in said(app, "caption")
    assert difference != ratio
    assert app.query_params["baseline_model"] == "a"
    panels = open_page("compare", baseline_model="a", panel="split")
    assert [len(each["layer"]) for each in specifications(panels)] == [
        len(each["layer"]) for each in specifications(app)
    ]
    one = open_page("compare", baseline=str(base))
    assert one.selectbox(key="compare_baseline").value == "a · test"
    assert one.query_params["baseline"] == str(base - 3)
    gone = open_page("compare", baseline_model="gone")
    assert "The address asks for model **gone**" in said(gone, "warning")
    assert "Difference to" not in said(gone, "header")


def test_any_column_is_scattered_against_any_other_and_points_lead_to_results(
    open_page: Open, add: Add
) -> None:
    small = add(model="small", parameters=100, k=5)
    for step in (0, 100):
        large = add(model="large", step=step, k=5)
    app = open_page("compare", view="scatter", k="5")
    (chart,) = specifications(app)
    points = drawn(app, 0, "point")[0]
    assert points["x"]["scale"]["type"] == "log"  # both span more than a decade
    assert points["y"]["scale"]["type"] == "log"
    assert points["href"]["field"] == "address"
    assert len([each for each in chart["layer"] if "y2" in each["encoding"]]) == 1  # the stated errors
    table = numbers_behind(app)
    assert sorted(table["result"]) == sorted(f"result?analysis={each}" for each in (small, large))
    assert set(table["÷ chance"]) == {"3.00 ± 0.01", "0.04267 ± 0.00015"}
    app.button(key="compare_preset_2").click().run()
    assert app.query_params["x"] == "test_loss"
    assert "3 analyses of 3" not in said(app, "caption")
    assert "have no value of both" in said(app, "caption")  # nobody recorded a loss
    again = open_page("compare", view="scatter", x="step", y="lambda", steps="all", log_y="1", rho="0.05")
    assert len(numbers_behind(again)) == 3
    assert drawn(again, 0, "point")[0]["y"]["scale"]["type"] == "log"
    assert "The address asks for column **gone**" in said(
        open_page("compare", view="scatter", x="gone"), "warning"
    )


def test_a_link_to_the_former_view_of_sizes_opens_the_scatter(open_page: Open, add: Add) -> None:
    add(model="small", parameters=100, k=5)
    add(model="large", k=5)
    app = open_page("compare", view="size", rho="0.05", model=["small"])
    assert app.segmented_control(key="compare_view").value == "scatter"
    assert [app.query_params[name] for name in ("view", "x", "y", "rho")] == ["scatter", "D", "ratio", "0.05"]
    assert numbers_behind(app)["÷ chance"].tolist() == ["0.04267 ± 0.00015"]
    assert app.pills(key="compare_model").value == ["small"]
    again = open_page("compare", view="size")  # at a sparsity, as the view always was
    assert again.query_params["rho"] == "0.05"


def test_what_the_latest_analysis_was_not_asked_for_is_that_of_another(
    open_page: Open, add: Add, home: Settings
) -> None:
    """Three analyses of a checkpoint with the same settings but for what they were asked for."""
    said_of = {"title": "size", "note": "how large it is.", "unit": "", "reference": None}
    ranks = {"first": [5, 9, 70, 7, 3], "second": [5, 70, 1, 2, 4]}
    numbers, overlap = {}, 0.01
    for name in ("first", "second", "neither"):
        found: dict[str, Any] = {"overlap": np.full(5, overlap := overlap + 0.01)}
        if name in ranks:
            curve = said_of | {"title": f"overlap of {name}"}
            curve |= {"value": np.full(5, 0.5), "error": None, "chance": None}
            found["record"] = {"masks": {name: {"coordinates": ranks[name]}}}
            found["curves"] = {f"overlap-{name}": curve}
        if name == "first":
            found["quantities"] = {"size": said_of | {"value": 2.0, "lower": 1.5, "upper": 2.5}}
        elif name == "second":
            found["quantities"] = {"size": said_of | {"value": 3.0, "lower": 2.5, "upper": 3.5}}
        numbers[name] = add(settings={"curves": [f"overlap-{name}"] if name in ranks else []}, results=found)
    app = open_page("compare", k="5")
    assert numbers_behind(app)["overlap"].tolist() == [pytest.approx(0.04)]  # of the latest
    app = open_page("compare", view="curves", curve="size", k="5")
    assert len(specifications(app)) == 1
    assert f"Here #{numbers['second']} stands for" in said(app, "caption").replace("\\", "")
    assert "have no such" not in said(app, "caption")
    app = open_page("compare", view="masks", k="5", mask="first", other="second")
    assert not app.exception
    assert "have none of these masks" not in said(app, "caption")
    assert "have not both masks" not in said(app, "caption")
    app = open_page("compare", view="scatter", x="observable.size", y="observable.overlap-first", k="5")
    assert numbers_behind(app).iloc[:, -2:].values.tolist() == [["3.0 ± 0.5", "0.5"]]
    both = f"Here #{numbers['first']}, #{numbers['second']} stand for"
    assert both in said(app, "caption").replace("\\", "")
    with sessions(home.database)() as s:
        lines = lines_of(queries.comparable(s))
        pair = ("first", "second")
        found_iou = masks_of_steps(s, lines, [pair])[pair]
        sizes = lines.having(queries.with_observable(s, lines.every, "size"))
        axes = Axes("observable.size", "observable.overlap-first")
        page = report(s, "own", [numbers["neither"]], 5, lines=lines, axes=axes)
    expected = [len({*ranks["first"][:k]} & {*ranks["second"][:k]}) for k in range(1, 6)]
    truth = [common / (2 * k - common) for k, common in enumerate(expected, 1)]
    assert found_iou["value"].tolist() == pytest.approx(truth)
    assert sizes["analysis_id"].tolist() == [numbers["second"]]
    for chart, whose in (("Size", "second"), ("Overlap of first", "first"), ("Overlap of second", "second")):
        (section,) = [each for each in page.split("<section>") if re.search(f"<h2>{chart}[,<]", each)]
        assert f"Here #{numbers[whose]} stands for the analyses" in section
    assert "<h2>Overlap of first against size, k = 5</h2>" in page


def test_points_of_a_scatter_are_means_with_their_spread(open_page: Open, add: Add) -> None:
    ids = []
    for seed, overlap in enumerate((0.01, 0.02, 0.06)):
        ids.append(add(settings={"seed": seed}, results={"overlap": np.full(5, overlap)}, step=100))
        add(settings={"seed": seed}, step=0)
    alone = add(model="alone", results={"overlap": np.full(5, 0.03)})
    app = open_page("compare", view="scatter", x="D", y="overlap", over="seed", k="5")
    assert "Means over seed, n = 1 to 3." in said(app, "caption")
    table = numbers_behind(app).set_index("line")
    assert table.loc["mlp · test", "overlap"] == f"0.030000 ± 8e-6, std {np.std([1, 2, 6], ddof=1) / 100:.2g}"
    assert table.loc["alone · test", "overlap"] == "0.030000 ± 8e-6"
    addresses = table["result"]
    assert addresses["mlp · test"] == "compare?view=scatter&" + "&".join(f"analysis={each}" for each in ids)
    assert addresses["alone · test"] == f"compare?view=scatter&analysis={alone}"
    spans = [each["encoding"] for each in specifications(app)[0]["layer"] if "y2" in each["encoding"]]
    assert [each["y2"]["field"] for each in spans] == ["y_high", "y_above"]


def test_the_points_of_splits_are_told_apart_in_a_scatter(open_page: Open, add: Add) -> None:
    for split in ("train", "test"):
        add(model="own", k=5, settings={"split": split})
    app = open_page("compare", view="scatter", k="5")
    filling = drawn(app, 0, "point")[0]["fillOpacity"]
    assert dict(zip(filling["scale"]["domain"], filling["scale"]["range"], strict=True)) == {
        "test": 1.0, "train": 0.0,
    }  # fmt: skip
    assert "Points are filled for test, hollow for train." in said(app, "caption")
    one = open_page("compare", view="scatter", k="5", split="test")
    assert "Points are" not in said(one, "caption")


def test_models_stand_in_the_order_of_their_numbers(open_page: Open, add: Add) -> None:
    names = [f"seed {number}" for number in (10, 9, 2, 1, 11, 100, 3)]
    for name in names:
        for step in (0, 100):
            add(model=name, step=step)
    app = open_page("compare")
    first = [f"seed {number}" for number in (1, 2, 3, 9, 10, 11)]
    assert app.multiselect(key="compare_model").value == first
    assert app.multiselect(key="compare_model").options == [*first, "seed 100"]
    assert open_page("overview").dataframe[0].value["name"].tolist() == [*first, "seed 100"]


def test_what_analyses_cost_is_drawn_over_training(open_page: Open, add: Add, home: Settings) -> None:
    numbers = []
    for step, seconds in ((0, 2.0), (100, 6.0)):
        stages = [("load", 0.5, 0), ("eigenpairs", seconds, 40), ("overlap", 0.25, 2)]
        numbers.append(add(step=step, results={"stages": stages, "hvps": 42}))
    shared = {"stages": [("eigenpairs", 1.0, 40)], "record": {"shared": {"workers": 2}}}
    numbers.append(add(step=200, results=shared))
    for name, heights in (
        ("seconds", [2.75, 6.75]),
        ("seconds-eigenpairs", [2.0, 6.0]),
        ("products", [42, 42, 40]),
    ):
        app = open_page("compare", view="curves", curve=name)
        assert not app.exception
        with sessions(home.database)() as s:
            assert queries.runtimes(s, numbers, name)["value"].tolist() == heights
        assert len(specifications(app)) == 1
        assert app.query_params["curve"] == name
        missing = "1 of 3 chosen analyses have no such quantity" in said(app, "caption")
        assert missing == (name != "products")
    scattered = open_page("compare", view="scatter", x="step", y="eigenpair_seconds", steps="all")
    assert sorted(numbers_behind(scattered)["time of the eigenpairs, s"]) == ["1", "2", "6"]


def stored(add: Add, k: int, step: int, split: str = "test") -> int:
    return add(step=step, split=split, k=k, results={"eigenvectors": f"eigenvectors/{split}{step}"})


@pytest.mark.parametrize(("k", "shown"), [(60, "0.005"), (80, "0.01"), (400, "0.05"), (20, "another k")])
def test_stabilisation_opens_where_eigenspaces_are_stored(
    open_page: Open, add: Add, k: int, shown: str
) -> None:
    for step in (0, 100):
        stored(add, k, step)
    app = open_page("stabilisation")
    assert app.segmented_control(key="stabilisation_rho").value == shown
    assert "cannot be compared" not in said(app, "info")
    assert "only masks" not in said(app, "info")
    if shown == "another k":
        assert app.number_input(key="stabilisation_k").value == k


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((60, 60), "only masks can be compared: the 2 analyses have 60 eigenpairs each."),
        ((60, 65), "only masks can be compared: the 4 analyses have 60 to 65 eigenpairs each."),
        (
            (60, 80),
            "the eigenspaces of 2 analyses of 4 cannot be compared, only their masks: the fewest have 60 ",
        ),
    ],
)
def test_stabilisation_says_truly_how_many_eigenpairs_there_are(
    open_page: Open, add: Add, sizes: tuple[int, int], sentence: str
) -> None:
    for step in (0, 100):
        stored(add, sizes[0], step)
        if sizes[1] != sizes[0]:
            stored(add, sizes[1], step, "train")
    assert f"At k = 70 {sentence}" in said(open_page("stabilisation", k="70"), "info")


def test_a_share_of_energy_is_drawn_over_training_with_its_error(home: Settings, open_page: Open) -> None:
    """A curve with an error and no chance, of a title that has marks of Markdown in it."""
    migrate(home.database)
    with sessions(home.database).begin() as s:
        for step in (0, 100):
            curve = {"title": ENERGY.title, "note": ENERGY.note, "chance": None}
            curve |= {"value": np.array([0.5, 0.75, 0.875]), "error": np.array([0.25, 0.125, 0.0625])}
            lab.finished(s, step=step, curves=("energy-share",), changes={"curves": {"energy-share": curve}})
    app = open_page("compare", view="curves", curve="energy-share", k="2")
    assert not app.exception
    assert ENERGY.title in app.selectbox(key="compare_curve").options
    (chart,) = specifications(app)
    bars = [each for each in chart["layer"] if "y2" in each["encoding"]]
    assert [each["encoding"]["y"]["field"] for each in bars] == ["low"]
    assert "Bars: the stated error." in said(app, "caption")
