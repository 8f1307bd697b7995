"""GGN, Fisher matrices, KFAC and EKFAC beside H, against matrices that are written down here in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seigh import analyse
from seigh.core.analysis import Result
from seigh.core.observables import dense
from seigh.core.observables.approximations import MATRICES

N, K, CLASSES = 24, 6, 4
NAMES = tuple(f"{kind}-{each.name}" for each in MATRICES for kind in ("eigenspace", "error"))


def mlp(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    return model, torch.randn(N, 5, dtype=torch.float64)


def cnn(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES, bias=False)
    ).double()
    return model, torch.randn(N, 1, 4, 4, dtype=torch.float64)


class Truth:
    """H and what stands for it, each written out from Jacobians and layer inputs."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, decay: float) -> None:
        named = dict(model.named_parameters())
        shapes = [p.shape for p in named.values()]
        flat = torch.cat([p.detach().flatten() for p in named.values()])

        def outputs(theta: Tensor) -> Tensor:
            parts = torch.split(theta, [shape.numel() for shape in shapes])
            own = {k: part.view(s) for k, part, s in zip(named, parts, shapes, strict=True)}
            return torch.func.functional_call(model, own, (x,))

        def loss(theta: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs(theta), y)

        self.model, self.x, self.y = model, x, y
        self.penalty = decay * torch.eye(len(flat), dtype=torch.float64)
        self.hessian = torch.func.hessian(loss)(flat) + self.penalty
        self.jacobian = torch.func.jacrev(outputs)(flat)  # (N, C, D)
        self.p = outputs(flat).softmax(1)
        # diag(p) − ppᵀ = SSᵀ
        self.roots = torch.diag_embed(self.p.sqrt()) - self.p[:, :, None] * self.p.sqrt()[:, None, :]
        self.pulled = torch.einsum("ncd,ncr->nrd", self.jacobian, self.roots)

    def ggn(self) -> Tensor:
        return torch.einsum("nrd,nre->de", self.pulled, self.pulled) / len(self.x) + self.penalty

    def fisher(self, labels: Tensor) -> Tensor:
        slopes = self.p - nn.functional.one_hot(labels, CLASSES)
        rows = torch.einsum("ncd,nc->nd", self.jacobian, slopes)
        return rows.T @ rows / len(self.x) + self.penalty

    def kronecker(self, *, corrected: bool) -> Tensor:
        """Blocks B ⊗ A of every tensor; their eigenvalues measured where ``corrected``."""
        inputs: dict[str, Tensor] = {}
        hooks = [
            module.register_forward_hook(lambda _m, given, _o, name=name: inputs.update({name: given[0]}))
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        ]
        self.model(self.x)
        for hook in hooks:
            hook.remove()
        places = {}
        for name, module in self.model.named_modules():
            if name in inputs:
                a = inputs[name]
                if isinstance(module, nn.Conv2d):
                    a = nn.functional.unfold(a, module.kernel_size).transpose(1, 2)  # (N, T, in)
                else:
                    a = a[:, None]
                places[name] = a
        slopes = self._slopes(places)
        blocks = []
        for key, parameter in self.model.named_parameters():
            layer, kind = key.rsplit(".", 1)
            a, g = places[layer].detach(), slopes[layer]  # (N, T, in), (R, N, T, out)
            n, t = a.shape[:2]
            b = torch.einsum("rnto,rntp->op", g, g) / n
            if kind == "bias":
                a = torch.ones(n, t, 1, dtype=torch.float64)
            gram = torch.einsum("nti,ntj->ij", a, a) / (n * t)
            if not corrected:
                blocks.append(torch.kron(b, gram) if kind == "weight" else b * gram)
                continue
            qb, qa = torch.linalg.eigh(b).eigenvectors, torch.linalg.eigh(gram).eigenvectors
            if kind == "bias":
                qa = torch.ones(1, 1, dtype=torch.float64)
            # Gradients of samples, summed over places, in the eigenbasis.
            rows = torch.einsum("rnto,nti,op,ij->rnpj", g, a, qb, qa)
            q = torch.kron(qb, qa)
            blocks.append((q * (rows.square().sum((0, 1)) / n).flatten()) @ q.T)
            assert parameter.numel() == len(blocks[-1])
        return torch.block_diag(*blocks) + self.penalty

    def _slopes(self, places: dict[str, Tensor]) -> dict[str, Tensor]:
        """Derivatives of S_rᵀf by every layer's outputs: (R, N, T, out)."""
        found: dict[str, list[Tensor]] = {name: [] for name in places}
        for r in range(CLASSES):
            kept: dict[str, Tensor] = {}

            def keep(
                _m: nn.Module, _i: Any, out: Tensor, name: str = "", kept: dict[str, Tensor] = kept
            ) -> None:
                out.retain_grad()
                kept[name] = out

            hooks = [
                module.register_forward_hook(lambda m, i, o, name=name, keep=keep: keep(m, i, o, name=name))
                for name, module in self.model.named_modules()
                if name in places
            ]
            (self.model(self.x) * self.roots[:, :, r].detach()).sum().backward()
            for hook in hooks:
                hook.remove()
            for name, out in kept.items():
                g = out.grad
                assert g is not None
                found[name].append(g.flatten(2).transpose(1, 2) if g.ndim == 4 else g[:, None])
        return {name: torch.stack(each) for name, each in found.items()}


def analysed(model: nn.Module, x: Tensor, y: Tensor, **more: Any) -> Result:
    more = {"curves": NAMES, "weight_decay": 0.01, "hvp_path": "double-backward", "seed": 3} | more
    return analyse(model, "cross-entropy", (x, y), k=K, **more)


def labels_drawn(truth: Truth, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 2**31)
    return torch.multinomial(truth.p.detach(), 1, generator=generator)[:, 0]


@pytest.mark.parametrize(("make", "seed", "exact"), [(mlp, 0, False), (cnn, 1, True)])
def test_they_are_as_far_from_h_as_their_dense_matrices(
    make: Any, seed: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(dense, "EXACT_UP_TO", 0)
    model, x = make(seed)
    y = torch.randint(CLASSES, (N,))
    found, truth = analysed(model, x, y), Truth(model, x, y, 0.01)
    assert "curves_failed" not in found.record
    h = truth.hessian
    values, vectors = torch.linalg.eigh(h)
    vectors = vectors[:, values.abs().argsort(descending=True)]
    matrices = {
        "ggn": truth.ggn(),
        "fisher": truth.fisher(labels_drawn(truth, 3)),
        "empirical-fisher": truth.fisher(y),
        "kfac": truth.kronecker(corrected=False),
        "ekfac": truth.kronecker(corrected=True),
    }
    for name, matrix in matrices.items():
        distance = float((matrix - h).norm() / h.norm())
        told = found.quantities[f"error-{name}"]
        assert told["lower"] - 1e-9 <= distance <= told["upper"] + 1e-9, name
        assert told["value"] == pytest.approx(distance, rel=1e-6 if exact else 0.3), name
        own, basis = torch.linalg.eigh(matrix)
        basis = basis[:, own.abs().argsort(descending=True)]
        inner = (vectors.T @ basis).square().cumsum(0).cumsum(1).diagonal()[:K]
        overlap = (inner / torch.arange(1, K + 1)).detach().numpy()
        curve = found.curves[f"eigenspace-{name}"]
        assert (np.abs(curve["value"] - overlap) <= curve["error"] + 1e-9).all(), name
        assert np.median(curve["error"]) < 0.1, name


def test_what_they_are_not_defined_for_is_a_sentence() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    x, y = torch.randn(N, 5, dtype=torch.float64), torch.randint(CLASSES, (N,))
    named = [f"error-{each.name}" for each in MATRICES]
    found = analysed(model, x, y, curves=named)
    failed = found.record["curves_failed"]
    assert failed.keys() == {"error-kfac", "error-ekfac"}
    assert failed["error-kfac"].startswith("KFAC is defined for linear and convolutional layers alone")
    smoothed = analysed(mlp(0)[0], x, y, curves=named, label_smoothing=0.1)
    assert smoothed.record["curves_failed"]["error-fisher"].startswith("Labels can be drawn for plain")
    assert "error-ggn" in smoothed.quantities
