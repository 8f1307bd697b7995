"""Scores of masks against float64 truth written out over samples, outputs and coordinates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.masks import kinds, measured
from seigh.core.analysis import Eigenspace, _overlap_of
from seigh.core.landscape import NetworkLandscape
from seigh.core.network import load, objective, plan
from seigh.core.overlap import stated_overlap
from seigh.core.overlap.masks import built_in, diagonal
from seigh.core.overlap.observables import Estimated, Scene
from seigh.core.overlap.unsure import extreme_overlaps
from seigh.core.problems import architectures
from seigh.core.settings import AnalysisSettings, Settings
from seigh.core.spectra import Eigenpairs

N = 6
NETWORKS: dict[str, dict[str, Any]] = {
    "tanh": {
        "architecture": "tanh-mlp(inputs=6,width=4,depth=2,num_classes=3)",
        "data": "random(1x2x3,classes=3)",
    },
    # Convolutions, ReLU and maximum pooling.
    "3c3d": {
        "architecture": "3c3d",
        "data": "random(3x32x32,classes=10)",
        "parameters": ("conv1.bias", "dense3.bias"),
    },
}
MASKS = {mask.name: mask for mask in built_in.MASKS}


class Case:
    """An analysis that is about to ask for masks, and its truth."""

    def __init__(self, folder: Path, name: str, seed: int, **changes: Any) -> None:
        self.settings = AnalysisSettings(
            **NETWORKS[name] | {"samples": N, "k": 4, "precision": "float64"} | changes,
            hvp_path="double-backward",
        )
        torch.manual_seed(seed)
        path = folder / "a.safetensors"
        save_file(dict(architectures.build(self.settings.architecture).state_dict()), path)
        network = load(path, self.settings, path.name, Settings())
        loss = objective(network)
        _, made = plan(network, loss, block=4, products=10, device="cpu")
        self.model, self.x, self.y = network.model, network.x, network.y
        names = network.theta.named(network.model)
        self.chosen = [p for each, p in network.model.named_parameters() if each in names]
        self.theta = torch.cat([p.detach().flatten() for p in self.chosen])
        self.decay = self.settings.weight_decay
        size = len(self.theta)
        self.scene = Scene(
            torch.eye(4, size, dtype=torch.float64),
            torch.ones(4, dtype=torch.float64),
            torch.zeros(4),
            names,
            lambda _: pytest.fail("no overlap is asked for"),
            ground=NetworkLandscape(network, loss, made, Settings()),
        )
        if self.settings.curvature == "hessian":
            self.scene = Scene(**vars(self.scene) | {"operator": self.scene.landscape.matrix("hessian")})

    def row(self, value: Tensor, **more: Any) -> Tensor:
        parts = torch.autograd.grad(value, self.chosen, allow_unused=True, **more)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for g, p in zip(parts, self.chosen, strict=True)
            ]
        )

    def sample_loss(self, n: int) -> Tensor:
        out = self.model(self.x[n : n + 1])[0]
        if self.settings.loss == "mse":
            unit = torch.zeros_like(out)
            unit[self.y[n]] = 1
            return (out - unit).square().sum() / len(out)
        return out.logsumexp(0) - out[self.y[n]]

    def gradient(self) -> Tensor:
        return sum(self.row(self.sample_loss(n)) for n in range(N)) / N + self.decay * self.theta

    def hessian_diagonal(self) -> Tensor:
        total = sum(self.sample_loss(n) for n in range(N)) / N
        slope = self.row(total, create_graph=True)
        found = [self.row(slope[i], retain_graph=True)[i] for i in range(len(slope))]
        return torch.stack(found) + self.decay

    def fisher_diagonal(self) -> Tensor:
        found = torch.zeros_like(self.theta)
        for n in range(N):
            gradient = self.row(self.sample_loss(n))
            for i in range(len(found)):
                found[i] += gradient[i] ** 2 / N
        return found

    def ggn_diagonal(self) -> Tensor:
        found = torch.zeros_like(self.theta)
        for n in range(N):
            out = self.model(self.x[n : n + 1])[0]
            jacobian = torch.stack([self.row(each, retain_graph=True) for each in out])
            p = out.detach().softmax(0)
            for c in range(len(out)):
                for d in range(len(out)):
                    if self.settings.loss == "mse":
                        bend = 2.0 / len(out) * (c == d)
                    else:
                        bend = float(p[c] * (c == d) - p[c] * p[d])
                    found += bend * jacobian[c] * jacobian[d] / N
        return found + self.decay

    def scores(self, name: str) -> Tensor:
        given = MASKS[name].scores(self.scene)
        return given.scores if isinstance(given, Estimated) else given


@pytest.mark.parametrize(
    ("network", "seed", "decay"), [("tanh", 0, 0.0), ("tanh", 1, 0.03), ("tanh", 2, 0.03), ("3c3d", 1, 0.03)]
)
def test_scores_are_those_written_out(tmp_path: Path, network: str, seed: int, decay: float) -> None:
    case = Case(tmp_path, network, seed, weight_decay=decay)
    gradient, hessian = case.gradient(), case.hessian_diagonal()
    saliency = 0.5 * hessian * case.theta**2
    truth = {
        "gradient": gradient.abs(),
        "snip": (case.theta * gradient).abs(),
        "sam": gradient.abs(),
        "asam": (case.theta**2 * gradient).abs(),
        "hessian-diagonal": hessian.abs(),
        "obd": saliency - min(0.0, float(saliency.min())),
        "fisher-diagonal": case.fisher_diagonal(),
        "ggn-diagonal": case.ggn_diagonal(),
    }
    for name, expected in truth.items():
        torch.testing.assert_close(case.scores(name), expected, rtol=1e-8, atol=1e-12, msg=name)
    assert truth.keys() | {"layerwise", "movement", "update"} == MASKS.keys()


def test_of_other_losses_and_matrices_too(tmp_path: Path) -> None:
    case = Case(tmp_path, "tanh", 3, loss="mse", curvature="ggn")
    torch.testing.assert_close(case.scores("ggn-diagonal"), case.ggn_diagonal(), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        case.scores("hessian-diagonal"), case.hessian_diagonal().abs(), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_of_many_outputs_the_ggns_diagonal_is_estimated_within_its_errors(tmp_path: Path, loss: str) -> None:
    case = Case(tmp_path, "3c3d", 4, loss=loss, weight_decay=0.1)
    found, deviation = case.scene.landscape.ggn_diagonal(8)
    truth = case.ggn_diagonal()
    live = deviation > 0
    assert live.sum() > 20
    assert ((found - truth).abs() <= 6 * deviation + 1e-12).all()
    assert float(((found - truth) / deviation)[live].square().mean()) < 3


def test_a_deflated_diagonal_is_unbiased_with_honest_standard_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(90, 90, generator=generator, dtype=torch.float64)).Q
    dense = (q * 0.8 ** torch.arange(90, dtype=torch.float64)) @ q.T
    found, errors = [], []
    for seed in range(60):  # with vectors that are no eigenvectors, too
        turned = torch.linalg.qr(q[:, :6] + (seed % 3) * 0.05 * torch.randn(90, 6, dtype=torch.float64)).Q
        each, deviation = diagonal.deflated_diagonal(
            dense, turned.T, (0.8 ** torch.arange(6).double()).diag(), 40, seed
        )
        found.append(each - dense.diagonal())
        errors.append(deviation)
    z = torch.stack(found) / torch.stack(errors)
    assert abs(float(z.mean())) < 0.1
    assert 0.8 < float(z.square().mean()) < 1.3
    assert float((z.abs() > diagonal.WIDTH).double().mean()) < 2e-3
    exact = diagonal.diagonal(dense, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(exact, dense.diagonal())


def test_uncertain_scores_admit_the_masks_of_a_brute_force_search() -> None:
    from itertools import combinations, product

    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        vectors = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64)).Q[:3]
        scores = torch.rand(7, generator=generator, dtype=torch.float64)
        error = 0.2 * torch.rand(7, generator=generator, dtype=torch.float64)
        least, greatest, _ = extreme_overlaps(vectors, scores - error, scores + error)
        for k in (1, 2, 3):
            seen = []
            for signs in product((-1.0, 1.0), repeat=7):  # the extremes are reached at ends of intervals
                chosen = (scores + torch.tensor(signs) * error).topk(k).indices
                seen.append(float(vectors[:k, chosen].square().sum()) / k)
            assert least[k - 1] <= min(seen) + 1e-12
            assert greatest[k - 1] >= max(seen) - 1e-12
            every = [float(vectors[:k, list(c)].square().sum()) / k for c in combinations(range(7), k)]
            assert min(every) - 1e-12 <= least[k - 1] <= greatest[k - 1] <= max(every) + 1e-12


def test_stated_errors_of_estimated_masks_cover_the_truth() -> None:
    """A short version of ``python -m benchmarks.masks``."""
    found = [measured(kind, seed) for kind in kinds() for seed in range(4)]
    assert all(each.covered for each in found)
    assert sum(each.relative < 0.5 for each in found) >= len(found) / 2  # and says something


def test_the_mask_that_may_be_taken_has_the_error_of_its_own_share_of_the_eigenspace() -> None:
    """Of masks of one coordinate, and eigenvectors that are tilted by as much as their residuals say."""
    generator = torch.Generator().manual_seed(2)
    values = torch.tensor([4.0, 2.0, 1.0, 0.5] + [0.01] * 16, dtype=torch.float64)
    tilt, beyond = 1e-3, 0
    for _ in range(20):
        q = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64)).Q
        dense = (q * values) @ q.T
        turned = torch.linalg.qr(q[:, :5] + tilt * torch.randn(20, 5, generator=generator).double()).Q
        found, w = torch.linalg.eigh(turned.T @ dense @ turned)
        vectors, found = (turned @ w).flip(1), found.flip(0)
        lengths = (dense @ vectors - vectors * found).norm(dim=0)
        pairs = Eigenpairs(vectors.T.contiguous(), torch.eye(5, dtype=torch.float64), found, lengths, 0)
        space = Eigenspace(pairs, lengths, *(torch.zeros(1),) * 3, 5, None, 0)
        leading = vectors[:, 0].square()
        poor, rich = int(leading.argmin()), int(leading.argmax())
        scores, error = torch.zeros(20).double(), torch.zeros(20).double()
        scores[poor], scores[rich], error[rich] = 1.0, 0.9, 0.2
        shown = replace(pairs, basis=vectors.T[:1].contiguous(), values=found[:1])
        curve = _overlap_of(space, shown, Estimated(scores, error))
        assert curve.error is not None
        truth = float(q[rich, 0] ** 2)
        assert abs(truth - curve.value[0]) <= curve.error[0]
        own = stated_overlap(pairs, torch.tensor([poor]), lengths)
        beyond += truth > float(leading[rich] + own.error)
    assert beyond > 2  # the error of the mask that is taken by score would not have covered them
