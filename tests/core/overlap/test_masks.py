"""Masks of an analysis against dense truth: scores, overlaps, stated errors, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from seigh.core import curves, preparation
from seigh.core.analysis import Result, analyse
from seigh.core.names import OF_EARLIER
from seigh.core.problems import masks
from seigh.core.problems.checkpoints import CheckpointError
from seigh.core.problems.masks import MaskError
from seigh.core.settings import AnalysisSettings, SettingsError
from tests.core.overlap import dense

K = 8


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_masks_of_what_has_moved_agree_with_dense_truth(tmp_path: Path, seed: int, decay: float) -> None:
    first, before, now = (dense.checkpoint(tmp_path, each) for each in (0, seed + 10, seed))
    chosen = dense.settings(
        curves=["overlap-movement", "overlap-update"],
        initial=str(first),
        previous=str(before),
        weight_decay=decay,
    )
    result = analyse(now, chosen)
    matrix = dense.hessian(*dense.network(now, chosen), decay)
    theta = {path: dense.theta(dense.network(path, chosen)[0]) for path in (first, before, now)}
    for name, earlier in (("movement", first), ("update", before)):
        scores = (theta[now] - theta[earlier]).abs()
        curve = result.curves[f"overlap-{name}"]
        truth = dense.overlaps(matrix, scores, K)
        assert (np.abs(curve["value"] - truth) <= curve["error"] + 1e-12).all()
        np.testing.assert_allclose(curve["value"], truth, rtol=1e-6)
        np.testing.assert_allclose(curve["chance"], np.arange(1, K + 1) / dense.D)
        told = result.record["masks"][name]
        assert told["coordinates"] == scores.argsort(descending=True)[:K].tolist()
        assert "tied" not in told
    digests = {preparation.sha256_of(path): path for path in (first, before)}
    said = result.record["remarks"]["overlap-update"]
    assert said == (
        f"Compared with the checkpoint before: step {seed + 10}, file sha256:"
        f"{preparation.sha256_of(before)[:12]}…."
    )
    assert digests[result.settings.initial.removeprefix("sha256:")] == first
    assert digests[result.settings.previous.removeprefix("sha256:")] == before
    # What is written can be read again, and says which weights the masks have.
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert again.settings == result.settings
    assert again.record["masks"]["magnitude"]["coordinates"] == (
        theta[now].abs().argsort(descending=True)[:K].tolist()
    )


@pytest.mark.parametrize("ones", [3, 20])
def test_a_mask_of_ones_is_the_mean_over_all_choices_among_them(tmp_path: Path, ones: int) -> None:
    now = dense.checkpoint(tmp_path, 1)
    coordinates = torch.randperm(dense.D, generator=torch.Generator().manual_seed(0))[:ones]
    file = tmp_path / "lottery.safetensors"
    save_file(masks.as_tensors(coordinates.tolist(), dense.settings()), file)
    result = analyse(now, dense.settings(masks=[f"ticket={file}"]))
    curve = result.curves["overlap-ticket"]
    values, vectors = torch.linalg.eigh(dense.hessian(*dense.network(now, dense.settings())))
    vectors = vectors[:, values.abs().argsort(descending=True)]
    inside = torch.zeros(dense.D, dtype=torch.bool)
    inside[coordinates] = True
    for k in range(1, K + 1):
        mass = vectors[:, :k].square().sum(1)
        taken = min(k, ones)
        rest = mass[~inside].sum() * (k - taken) / (dense.D - ones)
        truth = float((mass[inside].sum() * taken / ones + rest) / k)
        assert curve["value"][k - 1] == pytest.approx(truth, rel=1e-6)
        group = inside if k <= ones else ~inside
        taken_of_group = k if k <= ones else k - ones
        certain = 0.0 if k <= ones else float(mass[inside].sum())
        for part in (
            mass[group].topk(taken_of_group).values,
            mass[group].topk(taken_of_group, largest=False).values,
        ):
            assert (
                abs(curve["value"][k - 1] - (certain + float(part.sum())) / k) <= curve["error"][k - 1] + 1e-9
            )
    tied = result.record["masks"]["ticket"]["tied"]
    assert tied == [0 if k == ones else ones if k < ones else dense.D - ones for k in range(1, K + 1)]
    assert result.settings.masks[0].startswith("ticket=sha256:")


def test_a_mask_that_comes_back_has_the_overlap_that_it_had(tmp_path: Path) -> None:
    """By Krylov, whose basis the eigenvectors are written over, and without any other curve."""
    now = dense.checkpoint(tmp_path, 4, scale=2.0)
    krylov = dense.settings(method="krylov", precision="float32")
    first = analyse(now, krylov)
    order = dense.theta(dense.network(now, krylov)[0]).abs().argsort(descending=True)[:K]
    file = tmp_path / "again.safetensors"
    save_file(masks.as_tensors(order.tolist(), krylov), file)
    again = analyse(now, dense.settings(method="krylov", precision="float32", masks=[str(file)]))
    curve = again.curves["overlap-again"]
    assert curve["value"][-1] == pytest.approx(first.overlap[-1], rel=1e-4)
    assert curve["error"][-1] < 0.01 * curve["value"][-1]


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    now = dense.checkpoint(tmp_path, 1)
    digest = preparation.sha256_of(now)
    movement = dense.settings(curves=["overlap-movement"])
    with pytest.raises(SettingsError, match="overlap-movement needs the initial checkpoint; name its file"):
        preparation.others(movement)
    itself = dense.settings(curves=["overlap-update"], previous=str(now))
    with pytest.raises(SettingsError, match="previous names the checkpoint that is analysed"):
        preparation.others(itself, checkpoints=[digest])
    with pytest.raises(SettingsError, match="previous names the checkpoint that is analysed"):
        analyse(now, itself)
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.ones(3)}, other)
    with pytest.raises(CheckpointError, match="do not fit"):
        preparation.others(dense.settings(curves=["overlap-update"], previous=str(other)))
    with pytest.raises(MaskError, match="has scores for 'w'"):
        preparation.others(dense.settings(masks=[str(other)]))
    with pytest.raises(SettingsError, match="There is a mask 'layerwise' already"):
        preparation.check(dense.settings(masks=[f"layerwise={other}"]))
    with pytest.raises(SettingsError, match=r"initial belongs to .*overlap-movement; ask for one"):
        preparation.check(dense.settings(initial=str(now)))
    with pytest.raises(ValueError, match="other names two masks"):
        dense.settings(masks=[str(other)], pruned=[str(other)])
    with pytest.raises(ValueError, match="names no mask; write NAME=FILE"):
        dense.settings(masks=["=.pt"])


def test_the_steps_of_a_model_choose_earlier_checkpoints() -> None:
    chosen = preparation.by_step(
        dense.settings(curves=["overlap-movement", "overlap-update", "participation"])
    )
    steps = {300: "c", 0: "a", 100: "b"}
    at = {step: chosen.among(steps, step) for step in steps}
    assert (at[300].initial, at[300].previous) == ("sha256:a", "sha256:b")
    assert (at[100].initial, at[100].previous) == ("sha256:a", "sha256:a")
    assert at[0].curves == ("participation",)
    assert at[0].key == dense.settings(curves=["participation"]).key
    said = preparation.say_earlier_steps([chosen], [*steps], [0, 300])
    assert said == [
        "overlap-movement compares each step with step 0; of step 0 itself it is left out.",
        "overlap-update compares each step with the step before; of step 0 itself it is left out.",
    ]
    with pytest.raises(SettingsError, match="step 0 is the model's first; add an earlier checkpoint"):
        preparation.say_earlier_steps([chosen], [0, 100], [0])
    assert chosen.among(steps | {200: "d"}, 300).key != at[300].key  # another checkpoint is another analysis
    declared = {name: each.earlier for name, each in curves.available().items() if each.earlier}
    assert declared == OF_EARLIER
    plain = AnalysisSettings(architecture="a", data="b")
    assert preparation.by_step(plain) == plain
    assert {"initial", "previous", "masks", "pruned"}.isdisjoint(plain.model_dump())
