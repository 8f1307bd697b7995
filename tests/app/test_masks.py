"""Masks on Result and Compare, in exports and as files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from safetensors.torch import load_file
from sqlalchemy import event

from seigh.app.cli.command import main
from seigh.app.common import heading
from seigh.app.lines_form import lines_of
from seigh.app.panels import heatmaps_of_masks, masks_beside, masks_of_steps
from seigh.app.report import report
from seigh.core.lab import queries
from seigh.core.lab.session import migrate, sessions
from seigh.core.lab.tables import export
from seigh.core.settings import Settings
from tests.app.test_report import specifications
from tests.app.test_report import titles as titles_of
from tests.core.lab import lab
from tests.opening import forget_caches, open_page

CURVE = {
    "title": "overlap of the largest |∂L/∂θ|",
    "note": "the mask takes the steepest.",
    "value": np.array([0.5, 0.4, 0.3]),
    "error": np.array([0.1, 0.1, 0.1]),
    "chance": np.array([1, 2, 3]) / 7030,
}
RECORD = {
    "masks": {
        "magnitude": {"coordinates": [5, 9, 7000]},
        "gradient": {
            "coordinates": [5, 7000, 1],
            "tied": [0, 4, 4],
            "open": [0, 1, 2],
            "note": "'x' has none.",
        },
    }
}


@pytest.fixture
def study(home: Settings) -> list[int]:
    """Two steps of a model with two masks each."""
    migrate(home.database)
    changes = {"record": RECORD, "curves": {"overlap-gradient": CURVE}}
    with sessions(home.database).begin() as s:
        numbers = [
            lab.finished(s, step=step, curves=("overlap-gradient",), changes=changes) for step in (0, 100)
        ]
    forget_caches()
    return numbers


def test_result_shows_how_alike_masks_are_and_gives_them_as_files(study: list[int], home: Settings) -> None:
    page = open_page("result", analysis=str(study[0]))
    assert not page.exception
    assert any("IoU of the masks largest" in each.value for each in page.header)
    said = " ".join(each.value for each in page.caption)
    assert "'x' has none." in said
    assert "at 2 of 3 sizes weights of equal score compete for its places, up to 4" in said


def test_compare_shows_them_over_training(study: list[int]) -> None:
    page = open_page("compare", view="masks", k="2", mask="gradient", other="magnitude")
    assert not page.exception
    assert any(
        heading("IoU of the masks gradient and largest |θ|, k = 2") in each.value for each in page.header
    )


def test_exports_have_the_weights_of_every_mask(study: list[int], home: Settings) -> None:
    with sessions(home.database)() as s:
        table = export(s, "masks")
        pair = ("magnitude", "gradient")
        found = queries.mask_iou(s, {pair: {number: number for number in study}})[pair]
    assert len(table) == 2 * 2 * 3
    gradient = table[(table["analysis_id"] == study[0]) & (table["mask"] == "gradient")]
    assert gradient["coordinate"].tolist() == [5, 7000, 1]
    assert gradient["open"].tolist() == [0, 1, 2]
    assert found[found["step"] == 100]["value"].tolist() == [1.0, pytest.approx(1 / 3), pytest.approx(0.5)]
    assert found["error"].iloc[0] == 0
    assert found["error"].iloc[1] > 0


def test_the_command_line_writes_a_mask(study: list[int], home: Settings, tmp_path: Path) -> None:
    with sessions(home.database)() as s:
        document = queries.export_result(s, study[1])
    results, file = tmp_path / "out.json", tmp_path / "mask.safetensors"
    results.write_text(json.dumps([document]))
    with pytest.raises(SystemExit) as ended:
        main(["mask", str(results), "--name", "gradient", "--k", "2", "--out", str(file)])
    assert ended.value.code == 0
    tensors = load_file(file)
    assert sum(int(each.sum()) for each in tensors.values()) == 2
    assert int(tensors["linear1.weight"].flatten()[5]) == 1
    for wrong in (["--name", "snip", "--k", "2"], ["--name", "gradient", "--k", "9"]):
        with pytest.raises(SystemExit) as ended:
            main(["mask", str(results), *wrong, "--out", str(file)])
        assert ended.value.code == 2


def ranked(random: np.random.Generator, size: int) -> list[int]:
    found: list[int] = random.permutation(12)[:size].tolist()
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_masks_of_two_steps_are_compared_as_sets(home: Settings, seed: int) -> None:
    """IoU with the mask of the step before, the first and the last one, beside sets of coordinates."""
    migrate(home.database)
    random = np.random.default_rng(seed)
    ranks = {
        (split, step): {"magnitude": ranked(random, 6), "gradient": ranked(random, 6 if step else 4)}
        for split in ("train", "test")
        for step in (0, 100, 200)
    }
    number = {}
    with sessions(home.database).begin() as s:
        for (split, step), masks in ranks.items():
            record = {"masks": {name: {"coordinates": each} for name, each in masks.items()}}
            number[split, step] = lab.finished(s, step=step, split=split, changes={"record": record})
    with sessions(home.database)() as s:
        lines = lines_of(queries.comparable(s))
        for which, pairs in (
            ("previous", {100: 0, 200: 100}),
            ("first", {100: 0, 200: 0}),
            ("last", {0: 200, 100: 200}),
            ("same", {0: 0, 100: 100, 200: 200}),
        ):
            for one, other in (("gradient", "gradient"), ("magnitude", "gradient")):
                found = masks_of_steps(s, lines, [(one, other)], which)[one, other]
                truth = {}
                for split in ("train", "test"):
                    for step, beside in pairs.items():
                        first, second = ranks[split, step][one], ranks[split, beside][other]
                        for k in range(1, min(len(first), len(second)) + 1):
                            a, b = set(first[:k]), set(second[:k])
                            truth[number[split, step], k] = len(a & b) / len(a | b)
                values = found.set_index(["analysis_id", "k"])["value"].to_dict()
                assert values == pytest.approx(truth)
                assert (found["error"] == 0).all()
                at_5 = masks_of_steps(s, lines, [(one, other)], which, lambda _: 5)[one, other]
                assert at_5.to_dict() == found[found["k"] == 5].reset_index(drop=True).to_dict()


def test_ties_at_either_step_open_the_iou_between_them(home: Settings) -> None:
    """Three equal scores compete at step 100: the IoU holds whatever places of the mask they take."""
    migrate(home.database)
    with sessions(home.database).begin() as s:
        for step, told in (
            (0, {"coordinates": [0, 1, 2]}),
            (100, {"coordinates": [0, 2, 3], "tied": [0, 3, 3], "open": [0, 1, 1]}),  # 2, 3 and 7 tie
        ):
            lab.finished(s, step=step, changes={"record": {"masks": {"gradient": told}}})
    with sessions(home.database)() as s:
        pair = ("gradient", "gradient")
        found = masks_of_steps(s, lines_of(queries.comparable(s)), [pair], "previous")[pair]
    for k, rows in found.groupby("k"):
        first = {*[0, 1, 2][: int(k)]}
        for chosen in itertools.combinations([2, 3, 7], int(k) - 1):
            second = {0, *chosen}
            exact = len(first & second) / len(first | second)
            assert abs(rows["value"].item() - exact) <= rows["error"].item() + 1e-12
    assert found["error"].tolist()[1] > 0


def test_compare_and_its_report_draw_every_mask_at_steps_and_splits_and_two_of_different_steps(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(home.database)
    with sessions(home.database).begin() as s:
        for split, step in itertools.product(("train", "test"), (0, 100)):
            changes = {"record": RECORD, "curves": {"overlap-gradient": CURVE}}
            lab.finished(s, step=step, split=split, curves=("overlap-gradient",), changes=changes)
    forget_caches()
    made: list[str] = []
    monkeypatch.setattr(
        st, "download_button", lambda label, make, **_: made.append(make()) if callable(make) else None
    )
    page = open_page(
        "compare", view="masks", k="2", masks=["magnitude", "gradient"], beside="previous",
        mask="gradient", other="gradient",
    )  # fmt: skip
    assert not page.exception
    charts = [json.loads(each.proto.spec) for each in page.get("vega_lite_chart")]
    scales = [
        layer["encoding"]["color"]["scale"]["domain"]
        for layer in charts[0]["layer"]
        if layer["encoding"].get("color", {}).get("field") == "group"
    ]
    assert scales[0] == ["largest |θ|", "gradient"]
    # Both splits' panels of the overlap and the IoU with |θ| and the step before; the pair over steps,
    # and against k by split.
    assert len(charts) == 2 + 2 * 2 + 1 + 2
    titles = " ".join(each.value for each in page.header)
    assert "Overlap of every mask over training, k = 2" in titles
    assert "IoU of the mask gradient and that of the step before" in titles
    assert page.query_params["masks"] == ["magnitude", "gradient"]
    assert page.query_params["beside"] == "previous"
    against_k = [
        each for each in charts[-1]["layer"] if each["encoding"].get("y", {}).get("field") == "beside"
    ]
    assert len(against_k) == 1  # chance, of all steps
    shown = [each for each in titles_of(made[-1]) if "mask" in each]
    pair = "IoU of the mask gradient and that of the step before"
    assert shown == [
        *(f"Overlap of every mask over training, k = 2: mlp · {split}" for split in ("test", "train")),
        *(f"IoU of every mask and the largest |θ|, k = 2: mlp · {split}" for split in ("test", "train")),
        *(
            f"IoU of every mask and that of the step before, k = 2: mlp · {split}"
            for split in ("test", "train")
        ),
        f"{pair}, k = 2",
        *(f"{pair}: mlp · {split}" for split in ("test", "train")),
    ]
    drawn = specifications(made[-1])[titles_of(made[-1]).index(shown[4])]
    rows = [row for rows in drawn["datasets"].values() for row in rows if row.get("step") == 100]
    of_masks = {row["group"]: (row["value"], row["k"]) for row in rows}
    assert of_masks == {"largest |θ|": (1.0, 2), "gradient": (1.0, 2)}  # both steps have the same masks


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_further_mask_of_all_pairs_of_steps_is_compared_as_sets(home: Settings, seed: int) -> None:
    migrate(home.database)
    random = np.random.default_rng(seed)
    ranks = {step: ranked(random, 6) for step in (0, 100, 200)}
    with sessions(home.database).begin() as s:
        for step, each in ranks.items():
            record = {"masks": {"gradient": {"coordinates": each}, "magnitude": {"coordinates": each}}}
            lab.finished(s, step=step, changes={"record": record, "eigenvectors": f"{step}.safetensors"})
    with sessions(home.database)() as s:
        sets = queries.stabilisation_sets(s)
        for k in (1, 3, 6):
            (panel,) = heatmaps_of_masks(s, sets.assign(series="test"), ["gradient"], k)
            truth = {
                (one, other): len({*first[:k]} & {*second[:k]}) / len({*first[:k]} | {*second[:k]})
                for one, first in ranks.items()
                for other, second in ranks.items()
            }
            values = panel.values.set_index(["first_step", "second_step"])["value"].to_dict()
            assert values == pytest.approx(truth)
            assert (panel.values["error"] == 0).all()
        assert list(heatmaps_of_masks(s, sets.assign(series="test"), ["gradient"], 7)) == []


@pytest.mark.parametrize("differs", [False, True])
def test_a_mask_that_is_the_same_in_all_sets_has_one_heat_map(home: Settings, differs: bool) -> None:
    migrate(home.database)
    with sessions(home.database).begin() as s:
        for split, step in itertools.product(("test", "train"), (0, 100)):
            ranks = [0, step, 2 if differs and step and split == "train" else 3]
            changes = {"record": {"masks": {"own": {"coordinates": ranks}}}, "eigenvectors": f"{split}{step}"}
            lab.finished(s, step=step, split=split, changes=changes)
    with sessions(home.database)() as s:
        sets = queries.stabilisation_sets(s)
        panels = list(heatmaps_of_masks(s, sets.assign(series=sets["split"]), ["own"], 3))
    titles = ["Mask own, test", "Mask own, train"] if differs else ["Mask own"]
    assert [panel.title for panel in panels] == titles


def test_masks_are_read_once_however_many_are_compared(study: list[int], home: Settings) -> None:
    def statements(*masks: str) -> int:
        made = []
        with sessions(home.database)() as s:
            lines = lines_of(queries.comparable(s))
            event.listen(s.get_bind(), "before_cursor_execute", lambda *told: made.append(told))
            masks_beside(s, lines, dict(zip(masks, masks, strict=True)), "previous", lambda _: 2)
        return len(made)

    assert statements("gradient") == statements("gradient", "magnitude", "other")


def test_stabilisation_and_the_report_show_further_masks_with_what_ties_leave_open(home: Settings) -> None:
    """At step 100 weight 2, 3 or 7 is in the mask: beside {0, 1} and {0, 2} the IoU is not known exactly."""
    migrate(home.database)
    told = {
        0: {"coordinates": [0, 1, 2]},
        100: {"coordinates": [0, 2, 3], "tied": [0, 3, 3], "open": [0, 1, 1]},
    }
    with sessions(home.database).begin() as s:
        ids = [
            lab.finished(
                s,
                step=step,
                changes={"record": {"masks": {"gradient": mask}}, "eigenvectors": f"{step}.safetensors"},
            )
            for step, mask in told.items()
        ]
    forget_caches()
    page = open_page("stabilisation", k="2", mask="gradient")
    assert not page.exception
    (chart,) = [json.loads(each.proto.spec) for each in page.get("vega_lite_chart")]
    tooltips = [each["title"] for each in chart["layer"][0]["encoding"]["tooltip"]]
    assert "stated error" in tooltips
    assert page.query_params["mask"] in ("gradient", ["gradient"])
    with sessions(home.database)() as s:
        made = report(s, "study", ids, 2)
    (where,) = [place for place, title in enumerate(titles_of(made)) if "All pairs of steps" in title]
    rows = [row for rows in specifications(made)[where]["datasets"].values() for row in rows]
    found = {row["second_step"]: (row["value"], row["error"]) for row in rows if row["first_step"] == 0}
    assert found[0] == (1.0, 0.0)
    assert found[100] == pytest.approx((1 / 3, 2 / 3))  # {0, 1} beside {0, 2}; as far as counts go, {0, 1}
