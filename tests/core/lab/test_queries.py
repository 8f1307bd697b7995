"""What pages and exports read, on both databases."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import queries, store
from seigh.core.lab.models import WORK, Analysis, Comparison, Mask, State, Training, now
from seigh.core.lab.store import StoreError
from tests.core.lab import lab

Maker = sessionmaker[Session]


def test_models_are_counted(maker: Maker) -> None:
    with maker.begin() as s:
        store.add_model(s, "zero", "3c3d")
        lab.queue(s, step=1)
        lab.queue(s, step=1, seed=5)
        lab.queue(s, step=2)
    with maker() as s:
        frame = queries.models(s)
    assert frame.drop(columns=["id", "archived"]).to_dict("records") == [
        {"name": "mlp", "architecture": "tanh-mlp", "parameters": 7030, "checkpoints": 2, "analyses": 3},
        {"name": "zero", "architecture": "3c3d", "parameters": 0, "checkpoints": 0, "analyses": 0},
    ]


def test_runs_come_newest_first_with_their_progress(maker: Maker) -> None:
    with maker.begin() as s:
        waiting = lab.queue(s, step=1, split="train", seed=4).id
        working = lab.queue(s, step=2).id
        assert lab.claim(s, working)
        analysis = s.get_one(Analysis, working)
        analysis.started_at = analysis.started_at - timedelta(seconds=30)
        store.report(s, Analysis, working, "mine", stage="eigenpairs", progress=0.25, hvps=35)
    with maker() as s:
        frame = queries.runs(s)
        detail = queries.analysis(s, working)
    assert frame["id"].tolist() == [working, waiting]
    first, second = frame.to_dict("records")
    assert first["remaining_low"] < 90 < first["remaining_high"] < 4 * first["remaining_low"]
    assert detail is not None
    assert detail.remaining_high == pytest.approx(first["remaining_high"])
    assert (detail.late, first["late"]) == (False, False)
    assert (first["state"], first["stage"], first["progress"], first["hvps"]) == (
        "running",
        "eigenpairs",
        0.25,
        35,
    )
    assert (first["model"], first["step"], first["worker"], first["attempts"]) == ("mlp", 2, "host:1", 1)
    assert (second["state"], second["split"], second["seed"], second["k"]) == ("queued", "train", 4, 3)
    assert (second["data"], second["submitted_by"], second["cancel_requested"]) == ("digits", "ada", False)
    assert pd.isna(second["remaining_high"])
    assert pd.isna(second["started_at"])
    assert second["message"] is None


def test_runs_can_be_listed_first_and_read_in_part(maker: Maker) -> None:
    with maker.begin() as s:
        numbers = {name: lab.queue_any(s, kind) for name, kind in WORK.items()}
        running = lab.queue(s, step=7).id
        assert lab.claim(s, running)
    with maker() as s:
        whole, short = queries.runs(s), queries.listed_runs(s)
        pd.testing.assert_frame_equal(whole[list(short.columns)], short, check_like=True)
        part = queries.runs(s, {"training": [numbers["training"]], "analysis": [running, 10**6]})
        assert sorted(zip(part["kind"], part["id"], strict=True)) == [
            ("analysis", running), ("training", numbers["training"]),
        ]  # fmt: skip
        assert queries.runs(s, states=[State.running])["id"].tolist() == [running]
        assert queries.runs(s, {}).empty


def test_runs_are_of_all_kinds(maker: Maker) -> None:
    with maker.begin() as s:
        training = lab.queue_training(s, record=(0, 100), analyses=(lab.settings(),))[0].id
        assert lab.claim(s, training, kind=Training)
        store.report(s, Training, training, "mine", stage="training", progress=0.5, steps_done=50)
        ids = [lab.finished(s, model=model) for model in ("b", "a")]
        comparison = store.queue_comparison(s, ids, [2, 1], "bob")[0].id
        for number, row in enumerate(s.get_one(Analysis, each) for each in ids):
            row.submitted_at = now() - timedelta(hours=1 + number)
        s.get_one(Training, training).submitted_at = now() - timedelta(minutes=1)
    with maker() as s:
        frame = queries.runs(s)
    assert frame[["kind", "id"]].values.tolist() == [
        ["comparison", comparison],
        ["training", training],
        ["analysis", ids[0]],
        ["analysis", ids[1]],
    ]
    of_comparison, of_training, of_analysis, _ = frame.to_dict("records")
    assert (of_comparison["model"], of_comparison["analyses"], of_comparison["pairs"]) == ("a, b", 2, 1)
    assert (of_comparison["submitted_by"], of_comparison["state"]) == ("bob", "queued")
    assert (of_training["model"], of_training["problem"]) == ("net", "digits-mlp")
    assert (of_training["steps_done"], of_training["steps"], of_training["progress"]) == (50, 100, 0.5)
    assert of_training["stage"] == "training"
    assert (of_analysis["model"], of_analysis["step"], of_analysis["k"]) == ("b", 100, 3)
    assert of_training["analyses"] == 1
    unknown = {"step", "split", "k", "method", "samples", "hvps", "pairs"}
    assert all(pd.isna(of_training[name]) for name in unknown)
    assert all(pd.isna(of_analysis[name]) for name in ("problem", "steps", "steps_done", "pairs"))


def test_trainings_tell_what_they_have_recorded(maker: Maker) -> None:
    with maker.begin() as s:
        lab.queue_training(s, record=(0, 50, 100), analyses=(lab.settings(),))
        other = lab.queue_training(s, model="other", seed=3)[0]
        other.submitted_at = now() - timedelta(minutes=1)
        for step in (0, 7, 100):
            lab.add_checkpoint(s, model="net", step=step)
    with maker() as s:
        frame = queries.trainings(s)
    columns = ["model", "seed", "record", "recorded", "analyses", "state"]
    assert frame[columns].values.tolist() == [
        ["net", 0, [0, 50, 100], 2, 1, "queued"],
        ["other", 3, [0, 100], 0, 0, "queued"],
    ]


def test_comparisons_tell_what_they_compare(maker: Maker) -> None:
    with maker.begin() as s:
        ids = [lab.finished(s, model=model) for model in ("b", "a", "b2")]
        store.queue_comparison(s, ids, [3, 1], "ada")
        store.delete(s, Analysis, ids[2])
    with maker() as s:
        frame = queries.comparisons(s)
    columns = ["analysis_ids", "ks", "model", "analyses", "pairs"]
    assert frame[columns].values.tolist() == [[ids, [1, 3], "a, b", 3, 3]]


def test_an_analysis_in_detail(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s, step=300, samples=50)
    with maker() as s:
        assert queries.analysis(s, number + 1) is None
        detail = queries.analysis(s, number)
    assert detail is not None
    assert (detail.state, detail.remaining_high, detail.hvps, detail.seconds) == ("finished", None, 10, 2.5)
    assert (detail.parameters, detail.filename, detail.checkpoint_sha256) == (7030, "step_300.pt", "a" * 64)
    assert detail.metrics == {"test_accuracy": 0.3}  # the loss, NaN in the file, is unknown
    assert detail.settings == lab.settings(samples=50).model_dump(mode="json")
    assert detail.environment == {"torch": "2.9", "threads": 2}
    assert detail.record == {"subset_loss": 0.25}
    assert detail.eigenvectors == "eigenvectors/1-x.safetensors"
    assert detail.stages.to_dict("list") == {
        "stage": ["load", "eigenpairs"],
        "seconds": [0.5, 2.0],
        "hvps": [0, 10],
    }
    assert detail.finished_at is not None
    assert detail.finished_at.utcoffset() == timedelta(0)


def test_a_spectrum_tells_signs(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s)
    with maker() as s:
        frame = queries.spectrum(s, number)
    assert frame["position"].tolist() == [1, 2, 3]
    assert frame["value"].tolist() == [-4.0, 2.0, 1.0]
    assert frame["magnitude"].tolist() == [4.0, 2.0, 1.0]
    assert frame["sign"].tolist() == ["negative", "positive", "positive"]
    np.testing.assert_array_equal(frame["residual"], [0.1, np.nan, 0.3])
    assert frame["scree_lower"].tolist() == [0.3, 0.1, 0.05]
    np.testing.assert_array_equal(frame["scree_upper"], [0.5, 0.3, np.nan])


def test_results_without_errors_are_results(maker: Maker) -> None:
    ties = ("least", "greatest", "tied")
    of_masks = ("random_std_error", "best_error")
    unknown = ("residuals", "overlap_error", "resolved_k", "scree_lower", "scree_upper", *ties, *of_masks)
    with maker.begin() as s:
        number = lab.finished(s, changes=dict.fromkeys(unknown))
    with maker() as s:
        curves, spectrum = queries.overlap_curves(s, [number]), queries.spectrum(s, number)
        detail, result = queries.analysis(s, number), queries.export_result(s, number)
        assert queries.comparable(s)["resolved_k"].isna().all()
    assert curves[["error", "std_error", *ties]].isna().all(axis=None)
    assert spectrum[["residual", "scree_lower", "scree_upper"]].isna().all(axis=None)
    assert detail is not None
    assert detail.resolved_k is None
    for name in ("error", *ties, *of_masks):
        assert [point[name] for point in result["overlap"]] == [None] * 3
    assert result["scree_upper"] == [None] * 3


def test_overlap_curves_know_their_chance_level(maker: Maker) -> None:
    with maker.begin() as s:
        first, second = lab.finished(s, step=1), lab.finished(s, step=2, split="train")
        lab.finished(s, step=3)
    with maker() as s:
        frame = queries.overlap_curves(s, [first, second])
        magnitude = queries.overlap_curves(s, [second], masks=["magnitude"])
        assert queries.overlap_curves(s, []).empty
    assert len(frame) == 2 * 3 * 3
    assert set(frame["mask"]) == {"magnitude", "random", "best"}
    np.testing.assert_allclose(frame["chance"], frame["k"] / 7030)
    np.testing.assert_allclose(frame["ratio"], frame["overlap"] * 7030 / frame["k"])
    assert magnitude["k"].tolist() == [1, 2, 3]
    assert magnitude["overlap"].tolist() == [0.5, 0.4, 0.3]
    assert magnitude["split"].unique().tolist() == ["train"]
    random = frame[(frame["mask"] == "random") & (frame["analysis_id"] == first)]
    assert random["std"].tolist() == [0.001, 0.002, 0.003]
    assert frame[frame["mask"] != "random"]["std"].isna().all()
    ties = ["least", "greatest", "tied"]
    assert frame[frame["mask"] == "magnitude"][ties].values.tolist()[1] == [0.35, 0.45, 48]
    assert frame[frame["mask"] != "magnitude"][ties].isna().all(axis=None)
    np.testing.assert_array_equal(magnitude["error"], [0.001, 0.01, np.nan])
    best = frame[(frame["mask"] == "best") & (frame["analysis_id"] == first)]
    assert best["error"].tolist() == [0.01, 0.02, 0.03]
    assert random["std_error"].tolist() == [1e-5, 2e-5, 3e-5]
    assert random["error"].isna().all()
    assert frame[frame["mask"] != "random"]["std_error"].isna().all()


def test_chance_is_that_of_the_chosen_parameters(maker: Maker) -> None:
    settings = lab.settings(parameters=("linear1.*", "*.bias"), curvature="ggn")
    with maker.begin() as s:
        analysis, _ = store.queue_analysis(s, lab.add_checkpoint(s), settings, "ada", parameters=500)
        number = analysis.id
        assert lab.claim(s, number)
        assert store.finish(s, number, "mine", **lab.results())
        lab.finished(s)
    with maker() as s:
        curves = queries.overlap_curves(s, [number], masks=["magnitude"])
        table = queries.export_table(s)
        comparable = queries.comparable(s)
        runs = queries.runs(s)
        detail = queries.analysis(s, number)
        result = queries.export_result(s, number)
        models = queries.models(s)
    np.testing.assert_allclose(curves["chance"], np.array([1, 2, 3]) / 500)
    assert curves["curvature"].unique().tolist() == ["ggn"]
    chosen = table[table["analysis_id"] == number]
    assert (set(chosen["subset"]), set(chosen["parameters"])) == ({"linear1.*, *.bias"}, {500})
    np.testing.assert_allclose(table["chance"], table["k"] / table["parameters"])
    for frame in (comparable, runs.iloc[::-1]):
        assert frame[["curvature", "subset", "parameters"]].values.tolist() == [
            ["ggn", "linear1.*, *.bias", 500],
            ["hessian", "", 7030],
        ]
    assert detail is not None
    assert (detail.curvature, detail.subset, detail.parameters) == ("ggn", "linear1.*, *.bias", 500)
    assert result["parameters"] == 500
    assert models["parameters"].tolist() == [7030]


def test_the_loss_is_told_with_what_changes_it(maker: Maker) -> None:
    changes = [{}, {"label_smoothing": 0.1, "weight_decay": 5e-4}, {"loss": "mse"}]
    with maker.begin() as s:
        numbers = [lab.finished(s, **each) for each in changes]
        # As if from before there was a choice.
        first = s.get_one(Analysis, numbers[0])
        first.settings = {name: value for name, value in first.settings.items() if name != "loss"}
    with maker() as s:
        losses = queries.comparable(s).set_index("analysis_id")["loss"]
    assert losses[numbers].tolist() == [
        "cross-entropy",
        "cross-entropy, label smoothing 0.1, weight decay 0.0005",
        "mse",
    ]


def test_class_weights_that_begin_alike_are_two_losses(maker: Maker) -> None:
    weights = [",".join(["0.1"] * 30 + [last]) for last in ("0.1", "0.2")]
    with maker.begin() as s:
        numbers = [lab.finished(s, class_weights=each, step=step) for step, each in enumerate(weights)]
    with maker() as s:
        losses = queries.comparable(s).set_index("analysis_id")["loss"]
    assert losses[numbers].nunique() == 2
    assert losses.str.len().max() < 100


def test_overlap_by_step_at_one_k(maker: Maker) -> None:
    with maker.begin() as s:
        lab.finished(s, step=200, changes={"overlap": np.array([0.6, 0.5, 0.4])})
        lab.finished(s, step=100)
        train = lab.finished(s, step=100, split="train", method="seigh")
        lab.finished(s, model="other", step=100)
        lab.queue(s, step=300)
    with maker() as s:
        frame = queries.overlap_by_step(s, 2)
        assert queries.overlap_by_step(s, 4).empty
        assert queries.overlap_by_step(s, 2, ids=[]).empty
        masks = queries.overlap_by_step(s, 2, ids=[train], masks=[Mask.random, Mask.best])
    assert frame[["model", "step", "split", "overlap"]].values.tolist() == [
        ["mlp", 100, "test", 0.4],
        ["mlp", 100, "train", 0.4],
        ["mlp", 200, "test", 0.5],
        ["other", 100, "test", 0.4],
    ]
    assert set(frame["lambda_max"]) == {-4.0}
    assert frame["test_accuracy"].tolist() == [0.1, 0.1, 0.2, 0.1]
    assert masks["overlap"].tolist() == [0.8, 0.02]
    assert set(masks["method"]) == {"seigh"}


def test_a_sparsity_is_the_k_of_each_size(maker: Maker) -> None:
    with maker.begin() as s:
        lab.finished(s)  # of 7030 parameters, so that k = 2
        small, _ = store.queue_analysis(
            s, lab.add_checkpoint(s), lab.settings(parameters=("linear6.*",)), "ada", parameters=3400
        )
        assert lab.claim(s, small.id)
        assert store.finish(s, small.id, "mine", **lab.results())
    with maker() as s:
        frame = queries.overlap_by_step(s, rho=3e-4)
        assert queries.overlap_by_step(s, rho=1e-9)["k"].tolist() == [1, 1]
        assert queries.overlap_by_step(s, rho=0.5).empty
        with pytest.raises(ValueError, match="either"):
            queries.overlap_by_step(s, 2, rho=0.5)
    assert frame[["parameters", "k", "overlap"]].values.tolist() == [[7030, 2, 0.4], [3400, 1, 0.5]]


def test_long_curves_and_spectra_are_thinned_but_keep_their_ends(maker: Maker) -> None:
    size = np.arange(1, 1001)
    longer = dict.fromkeys(("eigenvalues", "residuals", "scree_lower", "scree_upper"), 1.0 / size)
    longer |= dict.fromkeys(("overlap", "overlap_error", "random_mean", "random_std", "best"), size / 7030)
    longer |= dict.fromkeys(("least", "greatest", "tied", "random_std_error", "best_error"))
    with maker.begin() as s:
        long = lab.finished(s, k=1000, changes=longer)
        short = lab.finished(s, step=200)
    with maker() as s:
        whole = queries.overlap_curves(s, [long, short], masks=[Mask.magnitude])
        curves = queries.overlap_curves(s, [long, short], masks=[Mask.magnitude], most=20)
        spectra = queries.eigenvalues(s, [long, short], most=20)
        first = queries.eigenvalues(s, [short])
    assert len(whole) == 1003
    for frame, column in ((curves, "k"), (spectra, "position")):
        ks = frame[frame["analysis_id"] == long][column].tolist()
        assert 20 < len(ks) <= 41
        assert (ks[0], ks[-1]) == (1, 1000)
        assert set(frame[frame["analysis_id"] == short][column]) >= {1, 3}
    assert first[["position", "value", "magnitude"]].values.tolist() == [[1, -4, 4], [2, 2, 2], [3, 1, 1]]
    np.testing.assert_array_equal(first["residual"], [0.1, np.nan, 0.3])


def test_recorded_metrics_are_a_row_each(maker: Maker) -> None:
    with maker.begin() as s:
        lab.add_checkpoint(s, step=200)
        lab.add_checkpoint(s, "other", step=100)
    with maker() as s:
        frame = queries.recorded_metrics(s, ["mlp"])
    assert frame.values.tolist() == [["mlp", 200, "test", "accuracy", 0.2]]


def test_latest_results_are_the_newest_of_those_finished(maker: Maker) -> None:
    with maker.begin() as s:
        lab.finished(s)
        second = lab.finished(s, step=200)
        lab.queue(s, step=300)
    with maker() as s:
        frame = queries.latest_results(s, 5)
        assert queries.latest_results(s, 1)["analysis_id"].tolist() == [second]
    assert frame[["step", "k", "lambda_max", "overlap"]].values.tolist() == [
        [200, 3, -4, 0.3],
        [100, 3, -4, 0.3],
    ]
    assert frame["ratio"].tolist() == pytest.approx([0.3 * 7030 / 3] * 2)
    assert frame["error"].isna().all()


def test_only_finished_analyses_are_comparable(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s)
        lab.queue(s, step=200)
    with maker() as s:
        frame = queries.comparable(s)
    record = frame.to_dict("records")[0]
    assert len(frame) == 1
    assert (record["analysis_id"], record["model"], record["parameters"]) == (number, "mlp", 7030)


def test_the_json_of_a_result(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s, step=300)
        unfinished = lab.queue(s, step=400).id
    with maker() as s:
        result = queries.export_result(s, number)
        with pytest.raises(StoreError, match=f"Analysis {unfinished} is queued"):
            queries.export_result(s, unfinished)
        with pytest.raises(StoreError, match="Analysis 99 no longer exists"):
            queries.export_result(s, 99)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result == {
        "resolved_k": 1,
        "scree_lower": [0.3, 0.1, 0.05],
        "scree_upper": [0.5, 0.3, None],
        "layers": [],
        "magnitudes": [],
        "metrics": [],
        "curves": {},
        "profiles": {},
        "quantities": {},
        "model": "mlp",
        "step": 300,
        "split": "test",
        "parameters": 7030,
        "hvps": 10,
        "eigenvalues": [-4.0, 2.0, 1.0],
        "residuals": [0.1, None, 0.3],
        "overlap": [
            {
                "k": k,
                "overlap": overlap,
                "error": error,
                "least": least,
                "greatest": greatest,
                "chance": pytest.approx(k / 7030),
                "random_mean": k / 100,
                "random_std": k / 1000,
                "random_std_error": pytest.approx(k * 1e-5),
                "best": best,
                "best_error": k / 100,
                "tied": tied,
            }
            for k, overlap, error, least, greatest, best, tied in (
                (1, 0.5, 0.001, 0.5, 0.5, 0.9, 0),
                (2, 0.4, 0.01, 0.35, 0.45, 0.8, 48),
                (3, 0.3, None, 0.3, 0.3, 0.7, 0),
            )
        ],
        "seconds": {"load": 0.5, "eigenpairs": 2.0, "total": 2.5},
        "stages": [
            {"stage": "load", "seconds": 0.5, "hvps": 0},
            {"stage": "eigenpairs", "seconds": 2.0, "hvps": 10},
        ],
        "checkpoint_sha256": "a" * 64,
        "data_sha256": "d" * 64,
        "settings": lab.settings().model_dump(mode="json"),
        "environment": {"torch": "2.9", "threads": 2},
        "record": {"subset_loss": 0.25},
    }


def test_the_table_of_a_study(maker: Maker) -> None:
    with maker.begin() as s:
        lab.finished(s, step=1)
        lab.finished(s, model="other", step=1)
    with maker() as s:
        everything = queries.export_table(s)
        one = queries.export_table(s, ["other"])
        with pytest.raises(StoreError, match="There is no model 'nobody'; there is mlp, other"):
            queries.export_table(s, ["mlp", "nobody"])
    assert len(everything) == 18
    points = everything[(everything["mask"] == "magnitude") & (everything["k"] == 2)]
    assert points[["least", "greatest", "tied"]].values.tolist() == [[0.35, 0.45, 48]] * 2
    assert one["model"].unique().tolist() == ["other"]
    assert set(one["architecture"]) == {"tanh-mlp"}


def test_columns_have_their_types_without_rows_too(maker: Maker) -> None:
    def kinds(s: Session, number: int) -> list[pd.Series]:
        frames = [
            queries.models(s),
            queries.runs(s),
            queries.trainings(s),
            queries.comparisons(s),
            queries.spectrum(s, number),
            queries.overlap_curves(s, [number]),
            queries.overlap_by_step(s, 1),
            queries.eigenvalues(s, [number]),
            queries.recorded_metrics(s, ["mlp"]),
            queries.latest_results(s, 3),
            queries.comparable(s),
            queries.export_table(s),
        ]
        return [frame.dtypes for frame in frames]

    with maker() as s:
        without = kinds(s, 1)
    with maker.begin() as s:
        number = lab.finished(s)
        lab.queue_any(s, Training)
        lab.queue_any(s, Comparison)
    with maker() as s:
        for empty, full in zip(without, kinds(s, number), strict=True):
            pd.testing.assert_series_equal(empty, full)


def test_curves_say_between_what_they_lie(maker: Maker) -> None:
    """Both ends where they are told; else, as of earlier results, the error to both sides."""
    words = {"title": "a share", "note": "how", "chance": None}
    value, error = np.array([0.5, 0.8, 0.9]), np.array([0.4, 0.3, 0.2])
    lower, upper = value - error, np.array([0.6, 0.9, 1.0])
    known = {"known": words | {"value": value, "error": error, "lower": lower, "upper": upper}}
    earlier = {"earlier": words | {"value": value, "error": error}}
    with maker.begin() as s:
        number = lab.queue(s).id
        assert lab.claim(s, number)
        assert store.finish(s, number, "mine", **lab.results(curves=known | earlier))
    with maker() as s:
        found = queries.curves(s, [number])
        again = queries.export_result(s, number)
        for k in (1, 2, 3):
            for name, ends in (("known", upper), ("earlier", value + error)):
                row = queries.curves_at(s, [number], name, k).iloc[0]
                assert (row["lower"], row["upper"]) == pytest.approx((lower[k - 1], ends[k - 1]))
        assert queries.curves_at(s, [number], "known", 4).empty
    np.testing.assert_allclose(found.loc[found["curve"] == "known", "upper"], upper)
    np.testing.assert_allclose(found.loc[found["curve"] == "earlier", "upper"], value + error)
    assert again["curves"]["known"]["upper"] == pytest.approx(upper)
