"""Observables against dense truth: on random matrices, and on small networks written down anew in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.observables import COSTLY, cases, coverage, held, held_of_network, network
from seigh.core.analysis import Result, analyse, cost
from seigh.core.checksum import sha256_of
from seigh.core.observables import BUILT_IN
from seigh.core.observables.density import _places, lanczos, sampling, smoothed, unfollowed
from seigh.core.observables.direction import shares
from seigh.core.observables.powerlaw import fit
from seigh.core.overlap.masks.built_in import MASKS
from seigh.core.overlap.observables import Curve, Quantity, Unavailable
from seigh.core.problems import architectures, data
from seigh.core.settings import AnalysisSettings, SettingsError

K, SAMPLES, RATE = 10, 60, 0.2
EVERYTHING = tuple(name for name, each in BUILT_IN.items() if not each.earlier)
NETWORKS = ("tanh-mlp(width=5,depth=2)", "tanh-mlp(width=3,depth=1)")


def test_every_error_and_interval_holds_on_random_matrices() -> None:
    """The short version of ``python -m benchmarks.observables``."""
    for name, (count, share) in coverage(18, every=4).items():
        assert share >= (0.95 if name == "density" else 1.0), name
        assert count >= (3 if name in ("most-negative", *COSTLY) else 15), name


@pytest.mark.parametrize("number", [9, 14])
def test_everything_of_a_network_is_within_its_error_of_dense_truth(tmp_path: Path, number: int) -> None:
    """The short version of ``python -m benchmarks.observables --of networks``: convolutions multiplied out,
    by a sketch; and as of a large network, in single precision by the exact method."""
    case = network(number, tmp_path)
    failed = case.found.record.get("curves_failed", {})
    assert not [message for message in failed.values() if "cannot be computed" in message]
    found = held_of_network(case)
    assert len(found) + len(failed) == len(BUILT_IN) + 2 * len(MASKS) + 2
    for name, each in found.items():
        places = name.endswith("density") or name.startswith("scores of ")
        assert each.mean() >= (0.95 if places else 1), name
    for name, curve in case.found.curves.items():
        assert (curve["lower"] <= curve["value"]).all(), name
        assert (curve["value"] <= curve["upper"]).all(), name
        if name not in ("trace-share", "negative-count", "participation"):  # all others are shares
            assert (curve["lower"] >= 0).all(), name
            assert (curve["upper"] <= 1).all(), name
    # And what is not true is seen.
    wrong = replace(case, truth=case.elsewhere)
    assert not all(each.all() for each in held_of_network(wrong).values())


def test_signs_that_compete_for_the_last_place_are_not_known() -> None:
    """Of λ = 1 and −1 + 1e-6 with residuals of 1e-3 either one may be the largest."""
    case = next(iter(cases(1)))
    values = torch.tensor([3.0, 1.0, -1 + 1e-6, -0.5, 0.4, 0.1], dtype=torch.float64)
    found = replace(
        case.scene.found, values=values, completeness=None, outside=None,
        basis=torch.eye(6, len(case.matrix), dtype=torch.float64),
    )  # fmt: skip
    scene = replace(case.scene, values=values[:4], found=found, residuals=torch.full((6,), 1e-3))
    count, mass = (BUILT_IN[name].compute(scene) for name in ("negative-count", "negative-mass"))
    assert isinstance(count, Curve)
    assert isinstance(mass, Curve)
    assert count.value.tolist() == [0, 0, 1, 2]
    assert count.error.tolist() == [0, 1, 0, 0]
    assert mass.error[1] == pytest.approx(0.25, rel=0.01)  # 1 of 4 may be negative
    assert (mass.error[[0, 2, 3]] < 3e-3).all()
    sketch = replace(scene, found=replace(found, ritz=False))  # what it misses may be anything
    assert (BUILT_IN["negative-count"].compute(sketch).error >= count.error).all()


def test_what_is_stated_says_something() -> None:
    """No interval is so wide that anything would lie in it."""
    shared, traces = [], []
    for case in cases(18):
        share = shares(case.scene, case.direction, "it")
        assert share.error is not None
        shared.append(np.mean(share.error <= 0.01 + 0.05 * share.value))
        trace = BUILT_IN["trace"].compute(case.scene)
        assert isinstance(trace, Quantity)
        assert trace.lower is not None
        assert trace.upper is not None
        traces.append((trace.upper - trace.lower) / 2 / float(case.values[K:].norm()))
    assert np.mean(shared) > 0.6
    assert np.median(traces) < 5  # ± twice the standard deviation of ten forms would be 0.9


def test_a_wrong_statement_is_seen() -> None:
    case = next(iter(cases(1)))
    assert held("trace", case) is not None
    wrong = case.__class__(case.matrix, case.values + 1, case.vectors, -case.direction, case.scene)
    for name in ("trace", "energy-share", "density", "power-law"):
        found = held(name, wrong)
        assert found is not None
        assert not found.all()


def test_lanczos_integrates_polynomials_exactly_outside_of_the_vectors() -> None:
    case = next(iter(cases(1)))
    matrix, vectors = case.matrix, case.scene.vectors
    rule = lanczos(matrix, vectors, 5, 6, seed=3)
    outside = torch.eye(len(matrix), dtype=torch.float64) - vectors.T @ vectors
    projected = outside @ matrix @ outside
    again = lanczos(matrix, vectors, 5, 1, seed=3)  # the same vectors: one step has the first two moments
    np.testing.assert_allclose(rule.weights.sum(1), again.weights.sum(1))
    values, basis = torch.linalg.eigh(projected)
    del basis
    moments = [float((rule.weights * rule.nodes**power).sum(1).mean()) for power in range(3)]
    rank = len(matrix) - len(vectors)
    assert moments[0] == pytest.approx(rank, rel=0.3)
    assert moments[1] == pytest.approx(float(values.sum()), rel=0.6)
    # With as many steps as there are dimensions, nodes are eigenvalues.
    full = lanczos(matrix, vectors, 1, rank, seed=3)
    inside = values[values.abs() > 1e-10]
    np.testing.assert_allclose(np.sort(full.nodes[0])[-5:], inside[-5:].numpy(), rtol=1e-6)


def test_polynomials_follow_as_far_as_is_said() -> None:
    places = np.linspace(-1.2, 1.2, 7)
    for width, degree in ((0.2, 11), (0.1, 31)):
        said = unfollowed(places, width, 1.0, degree)
        grid = np.linspace(-1, 1, 4001)
        for place, bound in zip(places, said, strict=True):
            heights = np.exp(-0.5 * ((place - grid) / width) ** 2) / (width * np.sqrt(2 * np.pi))
            fitted = np.polynomial.chebyshev.Chebyshev.fit(grid, heights, degree)
            assert np.abs(fitted(grid) - heights).max() >= 0.2 * bound  # least squares is no better than best
            interpolated = np.polynomial.chebyshev.Chebyshev.interpolate(
                lambda t, place=place, width=width: (
                    np.exp(-0.5 * ((place - t) / width) ** 2) / (width * np.sqrt(2 * np.pi))
                ),
                degree,
            )
            assert np.abs(interpolated(grid) - heights).max() <= 2 * bound + 1e-12


@pytest.mark.parametrize("count", [5, 100, 1000])
def test_no_bump_of_a_found_eigenvalue_is_left_out(count: int) -> None:
    """The peak of each is among the places, and linear interpolation between them has the area of all."""
    values = np.sort(np.random.default_rng(count).uniform(1.0, 2.0, count) * 10.0)
    width = 0.01
    places = _places(values, 0.5, width)
    assert len(places) <= 3500
    apart = np.abs(places[:, None] - values).min(0)
    assert apart.max() <= 0.2 * width
    fine = np.linspace(9.9, 20.1, 50_001)
    truth = smoothed(fine, values, np.ones(count), width)
    drawn = np.interp(fine, places, smoothed(places, values, np.ones(count), width))
    assert np.trapezoid(np.abs(drawn - truth), fine) < (0.06 if count <= 100 else 0.5) * count


@pytest.mark.parametrize("numbers", [1, 3, 40])
def test_the_interval_of_sampled_traces_holds(numbers: int) -> None:
    """The worst kind for it: all of the trace in few eigenvalues."""
    generator = np.random.default_rng(numbers)
    forms = generator.chisquare(numbers, (2000, 8)).mean(1)
    lower, upper = sampling(forms, np.ones(1), 8, 0.95)
    assert np.mean((lower <= numbers) & (numbers <= upper)) >= 0.95
    assert np.median(upper - lower) < 12 * numbers**0.5


def test_a_power_law_is_found_and_another_law_is_seen() -> None:
    generator = np.random.default_rng(0)
    drawn = np.sort(1 + generator.pareto(1.5, 4000))[::-1]
    exponent, distance = fit(drawn)
    assert exponent == pytest.approx(2.5, abs=0.1)
    assert distance < 0.03
    assert fit(np.sort(np.exp(-(generator.exponential(1, 4000) ** 2)) + 1)[::-1])[1] > 0.1


# --- Networks -----------------------------------------------------------------------------------------------


class Truth:
    """A network's loss on some samples, with its Hessian and gradient by autograd in float64."""

    def __init__(self, file: Path, name: str, split: str, decay: float = 0.0) -> None:
        self.model = architectures.build(name)
        self.model.load_state_dict(load_file(file))
        subset = data.fitting_subset("digits", split, SAMPLES, 0, self.model)
        self.model.double()
        self.x, self.y, self.decay = subset.x.double(), subset.y, decay
        self.names = [name for name, _ in self.model.named_parameters()]
        self.shapes = [p.shape for p in self.model.parameters()]
        self.theta = torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def loss(self, theta: Tensor) -> Tensor:
        parts = torch.split(theta, [shape.numel() for shape in self.shapes])
        named = {
            name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }
        outputs = torch.func.functional_call(self.model, named, (self.x,))
        return nn.functional.cross_entropy(outputs, self.y) + 0.5 * self.decay * theta.square().sum()

    def gradient(self) -> Tensor:
        return torch.func.grad(self.loss)(self.theta)

    def hessian(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(torch.func.hessian(self.loss)(self.theta))
        order = values.abs().argsort(descending=True)
        return values[order], vectors[:, order]


def checkpoint(folder: Path, name: str, seed: int) -> Path:
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{seed}.safetensors"
    save_file(dict(architectures.build(name).state_dict()), path)
    return path


def analysed(path: Path, name: str, **more: Any) -> Result:
    given = {"samples": SAMPLES, "k": K, "learning_rate": RATE, "curves": EVERYTHING} | more
    return analyse(path, AnalysisSettings(architecture=name, data="digits", **given))


@pytest.mark.parametrize(("name", "seed"), [(NETWORKS[0], 0), (NETWORKS[0], 1), (NETWORKS[1], 1)])
def test_observables_of_a_network_are_those_of_its_dense_hessian(
    tmp_path: Path, name: str, seed: int
) -> None:
    path, decay = checkpoint(tmp_path, name, seed), 0.01 * seed
    found = analysed(path, name, weight_decay=decay)
    cannot = {"adam-sharpness", "most-negative", "power-law", "power-law-distance"}
    assert found.record["curves_failed"].keys() <= cannot
    truth = Truth(path, name, "test", decay)
    values, vectors = truth.hessian()
    for split, observable in (("test", "gradient-share"), ("train", "gradient-share-other-split")):
        gradient = Truth(path, name, split, decay).gradient()
        share = (vectors.T @ gradient).square().cumsum(0)[:K] / gradient.square().sum()
        curve = found.curves[observable]
        assert (np.abs(curve["value"] - share.numpy()) <= curve["error"] + 1e-12).all(), observable
        np.testing.assert_allclose(curve["chance"], np.arange(1, K + 1) / len(values))
        assert curve["error"][:3].min() < 0.01  # and it says something
    trace = found.quantities["trace"]
    assert trace["lower"] <= float(values.sum()) <= trace["upper"]
    edge = found.quantities["edge-of-stability"]
    assert edge["lower"] - 1e-9 <= RATE / 2 * float(values.max()) <= edge["upper"] + 1e-9
    assert edge["reference"] == 1
    if "most-negative" in found.quantities:
        least = found.quantities["most-negative"]
        assert least["lower"] - 1e-6 <= float(values.min()) <= least["upper"] + 1e-6
    density = found.profiles["density"]
    width = float(found.record["remarks"]["density"].split("deviation ")[1].split(";")[0])
    whole = smoothed(density["x"], values.numpy(), np.ones(len(values)), width) / len(values)
    assert np.mean((density["lower"] <= whole + 1e-9) & (whole <= density["upper"] + 1e-9)) >= 0.95
    energy = (values.square().cumsum(0)[:K] / values.square().sum()).numpy()
    curve = found.curves["energy-share"]
    assert (np.abs(curve["value"] - energy) <= curve["error"] + 1e-6).all()


def test_the_loss_bends_as_the_eigenvalues_say(tmp_path: Path) -> None:
    name = NETWORKS[0]
    path = checkpoint(tmp_path, name, 3)
    found, truth = analysed(path, name), Truth(path, name, "test")
    profile = found.profiles["loss-along"]
    vectors = found.eigenvectors.double()
    for line in (1, 2, 3):
        mine = profile["line"] == line
        places, losses, parabola = (profile[part][mine] for part in ("x", "value", "reference"))
        vector = vectors[line - 1] / vectors[line - 1].norm()
        for place, low, value, high in zip(
            places, profile["lower"][mine], losses, profile["upper"][mine], strict=True
        ):
            real = float(truth.loss(truth.theta + place * vector))
            assert low <= real + 1e-12
            assert real <= high + 1e-12
            assert value == pytest.approx(real, rel=1e-10)
        slope, bend = (
            float(truth.gradient() @ vector),
            float(vector @ torch.func.hessian(truth.loss)(truth.theta) @ vector),
        )
        expected = float(truth.loss(truth.theta)) + places * slope + 0.5 * bend * places**2
        np.testing.assert_allclose(parabola, expected, rtol=1e-5)
        near = np.abs(places) == np.abs(places[places != 0]).min()
        # What is left is of third order: an eigenvalue that were wrong would leave a hundredth.
        assert np.abs(losses - parabola)[near].max() < 5e-3 * np.abs(losses - parabola).max()
    said = found.record["remarks"]["loss-along"]
    bent = float(said.split(" by ")[1].split(" ")[0])
    assert bent == pytest.approx(float(found.eigenvalues[0]), rel=1e-3)


def test_the_update_is_compared_with_the_checkpoint_before(tmp_path: Path) -> None:
    name = NETWORKS[0]
    before, now = (checkpoint(tmp_path, name, step) for step in (2, 3))
    found = analysed(now, name, curves=("update-share",), previous=str(before))
    truth = Truth(now, name, "test")
    _, vectors = truth.hessian()
    update = truth.theta - Truth(before, name, "test").theta
    share = (vectors.T @ update).square().cumsum(0)[:K] / update.square().sum()
    curve = found.curves["update-share"]
    assert (np.abs(curve["value"] - share.numpy()) <= curve["error"] + 1e-12).all()
    digest = sha256_of(before)
    assert found.settings.previous == f"sha256:{digest}"
    assert found.record["remarks"]["update-share"] == (
        f"Compared with the checkpoint before: step 2, file sha256:{digest[:12]}…."
    )
    same = tmp_path / "step_1.safetensors"
    save_file(load_file(now), same, {"copied": "yes"})
    still = analysed(now, name, curves=("update-share",), previous=str(same))
    assert "exactly 0 here" in still.record["curves_failed"]["update-share"]
    with pytest.raises(SettingsError, match="update-share needs the checkpoint before; name its file with"):
        analysed(now, name, curves=("update-share",))


def test_what_they_cost_is_what_they_take(tmp_path: Path) -> None:
    name = NETWORKS[1]
    path = checkpoint(tmp_path, name, 0)
    plain = analysed(path, name, curves=())
    for curve in ("density", "trace", "gradient-share", "loss-along"):
        found = analysed(path, name, curves=(curve,))
        base, asked = (cost(result.settings, result.parameters).hvps for result in (plain, found))
        spent = found.hvps - plain.hvps
        assert spent == (192 if curve == "density" else 0)
        assert spent <= asked - base <= spent + 20


def test_a_learning_rate_is_needed_and_may_be_in_the_checkpoint(tmp_path: Path) -> None:
    name = NETWORKS[1]
    bare = analysed(checkpoint(tmp_path, name, 0), name, learning_rate=None, curves=("edge-of-stability",))
    assert "does not say its learning rate" in bare.record["curves_failed"]["edge-of-stability"]
    torch.manual_seed(0)
    model = architectures.build(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.125)
    path = tmp_path / "with_optimizer.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 4}, path)
    found = analysed(path, name, learning_rate=None, curves=("edge-of-stability",))
    edge = found.quantities["edge-of-stability"]
    assert edge["value"] == pytest.approx(0.125 / 2 * found.eigenvalues.max())
    assert found.record["remarks"]["edge-of-stability"] == "With the learning rate η = 0.125."


def test_what_cannot_be_said_is_a_sentence() -> None:
    case = next(each for each in cases(6) if bool((each.values >= 0).all()))
    with pytest.raises(Unavailable, match="is negative, so none lies below"):
        BUILT_IN["most-negative"].compute(case.scene)
    with pytest.raises(Unavailable, match="exactly 0 here"):
        shares(case.scene, torch.zeros(len(case.matrix), dtype=torch.float64), "It")
    few = case.scene.__class__(**vars(case.scene) | {"values": case.scene.values[:5]})
    with pytest.raises(Unavailable, match="10 eigenvalues at least"):
        BUILT_IN["power-law"].compute(few)


def test_every_observable_is_of_the_kind_that_it_says() -> None:
    case = next(iter(cases(3)))
    for name, each in BUILT_IN.items():
        assert each.kind in ("curve", "profile", "quantity")
        assert each.note[0].islower() or not each.note[0].isalpha()
        assert each.words()["kind"] == each.kind
        if each.kind == "curve" and name in ("trace-share", "energy-share", "negative-count"):
            assert isinstance(each.compute(case.scene), Curve)
