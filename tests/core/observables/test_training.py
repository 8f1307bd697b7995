"""Observables of the training, against dense truth: Adam's sharpness, and the line between checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seigh.core.problems import architectures, data
from seigh.core.problems.checkpoints import CheckpointError
from seigh.core.problems.checkpoints.moments import read_adam
from tests.core.observables.test_observables import NETWORKS, RATE, SAMPLES, Truth, analysed, checkpoint


def trained(
    folder: Path, name: str, seed: int, groups: bool = False, **options: object
) -> tuple[Path, object]:
    """A checkpoint with its optimizer after some steps of Adam."""
    torch.manual_seed(seed)
    model = architectures.build(name)
    subset = data.fitting_subset("digits", "train", SAMPLES, seed, model)
    params: object = model.parameters()
    if groups:
        named = [*model.named_parameters()]
        params = [{"params": named[1::2]}, {"params": named[::2], "eps": 1e-4}]
    optimizer = torch.optim.AdamW(params, lr=RATE / 50, betas=(0.8, 0.95), **options)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(subset.x), subset.y).backward()
        optimizer.step()
    path = folder / "step_12.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 12}, path)
    return path, (model, optimizer)


@pytest.mark.parametrize(
    ("name", "seed", "groups", "amsgrad"),
    [(NETWORKS[0], 0, False, False), (NETWORKS[1], 1, True, True)],
)
def test_the_sharpness_that_adam_sees_is_that_of_the_dense_matrix(
    tmp_path: Path, name: str, seed: int, groups: bool, amsgrad: bool
) -> None:
    path, (model, optimizer) = trained(tmp_path, name, seed, groups, amsgrad=amsgrad)
    found = analysed(path, name, curves=("adam-sharpness",), weight_decay=0.01)
    weights = tmp_path / "weights.safetensors"
    save_file(dict(model.state_dict()), weights)
    truth = Truth(weights, name, "test", 0.01)
    matrix = torch.func.hessian(truth.loss)(truth.theta)
    parts = []
    for p in model.parameters():
        state = optimizer.state[p]
        moment = state["max_exp_avg_sq" if amsgrad else "exp_avg_sq"].double()
        eps = 1e-4 if groups and p.ndim == 2 else 1e-8
        parts.append(((moment / (1 - 0.95**12)).sqrt() + eps).flatten())
    scale = torch.cat(parts).rsqrt()
    exact = float(torch.linalg.eigvalsh(scale[:, None] * matrix * scale)[-1])
    sharpness = found.quantities["adam-sharpness"]
    assert sharpness["lower"] <= exact <= sharpness["upper"]
    assert sharpness["value"] == pytest.approx(exact, rel=1e-3)
    assert sharpness["reference"] == pytest.approx((2 + 1.6) / (0.2 * RATE / 50))
    assert "after 12 steps" in found.record["remarks"]["adam-sharpness"]


def test_without_moments_a_sentence_says_what_to_save(tmp_path: Path) -> None:
    name = NETWORKS[1]

    bare = analysed(checkpoint(tmp_path, name, 0), name, curves=("adam-sharpness",))
    message = bare.record["curves_failed"]["adam-sharpness"]
    assert "holds no state of an optimizer; save the state dict of Adam" in message
    path, (model, _) = trained(tmp_path, name, 0)
    for change, message in (
        (lambda s: s["param_groups"][0].pop("betas"), "does not say beta1 of its optimizer"),
        (lambda s: s["state"][0].pop("exp_avg_sq"), "holds no second moments (exp_avg_sq) of parameter 0"),
        (
            lambda s: s["state"][1].update(exp_avg_sq=torch.ones(4)),
            "is of other parameters than the model has",
        ),
        (lambda s: s["state"][1]["exp_avg_sq"].fill_(torch.nan), "holds NaN or infinite values"),
        (lambda s: s["state"][1]["exp_avg_sq"].fill_(-1.0), "are negative, so they are none of Adam's"),
        (lambda s: s["param_groups"].append(s["param_groups"][0] | {"params": []}), "groups without names"),
    ):
        copied = torch.load(path, weights_only=True)["optimizer"]
        change(copied)
        file = tmp_path / "changed.pt"
        torch.save({"model": model.state_dict(), "optimizer": copied}, file)
        with pytest.raises(CheckpointError) as error:
            read_adam(file, "changed.pt", model, None)
        assert message in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_line_between_two_checkpoints_and_its_parabolas_are_exact(tmp_path: Path, name: str) -> None:
    before, now = (checkpoint(tmp_path, name, step) for step in (2, 3))
    curves = ("loss-between", "loss-from-initial")
    found = analysed(now, name, curves=curves, previous=str(before), initial=str(before), weight_decay=0.02)
    first, last = (Truth(file, name, "test", 0.02) for file in (before, now))
    step = last.theta - first.theta
    profile = found.profiles["loss-between"]
    for end, truth in ((1, first), (2, last)):
        mine = profile["line"] == end
        places = profile["x"][mine]
        real = [float(truth.loss(first.theta + place * step)) for place in places]
        assert (profile["lower"][mine] <= real).all()
        assert (real <= profile["upper"][mine]).all()
        away = places - (end - 1)
        bend = float(step @ torch.func.hessian(truth.loss)(truth.theta) @ step)
        expected = float(truth.loss(truth.theta)) + away * float(truth.gradient() @ step) + away**2 * bend / 2
        np.testing.assert_allclose(profile["reference"][mine], expected, rtol=1e-9)
        assert abs(profile["value"][mine] - expected)[np.abs(away).argmin()] < 1e-12
    np.testing.assert_array_equal(found.profiles["loss-from-initial"]["value"], profile["value"])
    said = found.record["remarks"]["loss-between"]
    assert said.startswith("Compared with the checkpoint before: step 2, ")
    assert f"Δ has the length {float(step.norm()):.4g}" in said
