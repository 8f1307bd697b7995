"""What is asked of an eigenspace, of small networks, written out densely in float64.

Nothing here is shared with what computes the same in an analysis: Hessians and Jacobians are autograd's, KFAC
and EKFAC are Kronecker products that are multiplied out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from seigh.core.problems import architectures, data, imported
from seigh.core.settings import AnalysisSettings

Floats = NDArray[np.float64]

SAMPLES = 36

# Adam's settings in ``trained``.
RATE, BETAS, EPS = 0.02, (0.8, 0.95), 1e-8


class Dense(nn.Sequential):
    """Three linear layers of D = 239 weights; so many outputs that the diagonal of the GGN is estimated."""

    def __init__(self) -> None:
        hidden = (nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh())
        super().__init__(nn.Flatten(), *hidden, nn.Linear(4, 36))


class Convolutional(nn.Sequential):
    """Two convolutions and a linear layer of D = 206 weights, on 6 × 6 images."""

    def __init__(self) -> None:
        layers = (nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten())
        super().__init__(*layers, nn.Linear(16, 4, bias=False))


NETWORKS: Mapping[str, str] = {
    f"{__name__}:Dense": "random(1x2x3,classes=36)",
    f"{__name__}:Convolutional": "random(1x6x6,classes=4)",
}
"""Their data by architecture."""


class Truth:
    """H of the mean cross-entropy and what stands for it, from Jacobians and the inputs of layers.

    Args:
        model: In float64, of linear and convolutional layers without padding.
        x: (N, …) float64.
        y: (N,) labels.
        decay: λ of the penalty (λ/2)‖θ‖², which is part of all matrices.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, decay: float) -> None:
        self.model, self.x, self.y, self.decay = model, x, y, decay
        self.named = dict(model.named_parameters())
        self.theta = torch.cat([p.detach().flatten() for p in self.named.values()])
        self.penalty = decay * torch.eye(len(self.theta), dtype=torch.float64)

    def outputs(self, theta: Tensor) -> Tensor:
        """(N, C)."""
        parts = torch.split(theta, [p.numel() for p in self.named.values()])
        own = {name: part.view_as(p) for (name, p), part in zip(self.named.items(), parts, strict=True)}
        found: Tensor = torch.func.functional_call(self.model, own, (self.x,))
        return found

    def loss(self, theta: Tensor) -> Tensor:
        """The mean cross-entropy with its penalty."""
        value = nn.functional.cross_entropy(self.outputs(theta), self.y)
        return value + 0.5 * self.decay * theta.square().sum()

    @cached_property
    def gradient(self) -> Tensor:
        """∇L."""
        found: Tensor = torch.func.grad(self.loss)(self.theta)
        return found

    @cached_property
    def hessian(self) -> Tensor:
        """H."""
        found: Tensor = torch.func.hessian(self.loss)(self.theta).detach()
        return (found + found.T) / 2

    @cached_property
    def eigenpairs(self) -> tuple[Tensor, Tensor]:
        """Of H, by descending |λ|."""
        return leading(self.hessian)

    def blocks(self) -> list[Tensor]:
        """The blocks of H on its diagonal, one for each tensor."""
        ends = np.cumsum([0, *(p.numel() for p in self.named.values())])
        return [self.hessian[a:b, a:b] for a, b in pairwise(ends)]

    @cached_property
    def jacobian(self) -> Tensor:
        """Of the outputs: (N, C, D)."""
        found: Tensor = torch.func.jacrev(self.outputs)(self.theta).detach()
        return found

    @cached_property
    def p(self) -> Tensor:
        """The network's probabilities: (N, C)."""
        return self.outputs(self.theta).softmax(1).detach()

    @cached_property
    def roots(self) -> Tensor:
        """S with SSᵀ = diag(p) − ppᵀ of every sample: (N, C, C)."""
        return torch.diag_embed(self.p.sqrt()) - self.p[:, :, None] * self.p.sqrt()[:, None, :]

    def ggn(self) -> Tensor:
        """The generalised Gauss–Newton matrix."""
        pulled = torch.einsum("ncd,ncr->nrd", self.jacobian, self.roots)
        return torch.einsum("nrd,nre->de", pulled, pulled) / len(self.x) + self.penalty

    def sample_gradients(self, labels: Tensor) -> Tensor:
        """∇ℓ of every sample, without the penalty: (N, D)."""
        slopes = self.p - nn.functional.one_hot(labels, self.p.shape[1])
        return torch.einsum("ncd,nc->nd", self.jacobian, slopes)

    def fisher(self, labels: Tensor) -> Tensor:
        """The mean of ∇ℓ∇ℓᵀ with these labels."""
        rows = self.sample_gradients(labels)
        return rows.T @ rows / len(self.x) + self.penalty

    def drawn_labels(self, seed: int) -> Tensor:
        """Labels that are drawn from the network's probabilities, as an analysis of this seed draws them."""
        generator = torch.Generator().manual_seed(seed + 2**31)
        return torch.multinomial(self.p, 1, generator=generator)[:, 0]

    def kronecker(self, *, corrected: bool) -> Tensor:
        """Blocks B ⊗ A of every tensor: KFAC; their eigenvalues measured where ``corrected``: EKFAC."""
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
        for key in self.named:
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
        return torch.block_diag(*blocks) + self.penalty

    def _slopes(self, places: dict[str, Tensor]) -> dict[str, Tensor]:
        """Derivatives of S_rᵀf by every layer's outputs: (R, N, T, out)."""
        found: dict[str, list[Tensor]] = {name: [] for name in places}
        for r in range(self.roots.shape[2]):
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
            (self.model(self.x) * self.roots[:, :, r]).sum().backward()
            for hook in hooks:
                hook.remove()
            for name, out in kept.items():
                g = out.grad
                assert g is not None
                found[name].append(g.flatten(2).transpose(1, 2) if g.ndim == 4 else g[:, None])
        return {name: torch.stack(each) for name, each in found.items()}

    def matrices(self, seed: int) -> dict[str, Tensor]:
        """What stands for H by its name, as an analysis of this seed has it."""
        return {
            "ggn": self.ggn(),
            "fisher": self.fisher(self.drawn_labels(seed)),
            "empirical-fisher": self.fisher(self.y),
            "kfac": self.kronecker(corrected=False),
            "ekfac": self.kronecker(corrected=True),
        }


def leading(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenpairs by descending |λ|."""
    values, vectors = torch.linalg.eigh(matrix)
    order = values.abs().argsort(descending=True)
    return values[order], vectors[:, order]


def common(first: Tensor, second: Tensor, k: int) -> Floats:
    """‖V_jᵀU_j‖²/j of leading columns, j = 1 … k."""
    inner = (first.T @ second).square().cumsum(0).cumsum(1).diagonal()[:k]
    found: Floats = (inner / torch.arange(1, k + 1)).numpy()
    return found


@dataclass(frozen=True)
class Trained:
    """Checkpoints of a network that was trained by Adam: the last one with its moments.

    Attributes:
        files: The initial one, one in between, and the last.
        moments: v of each coordinate at the last: (D,) float64.
        steps: How many steps it took.
    """

    files: tuple[Path, Path, Path]
    moments: Tensor
    steps: int

    @property
    def preconditioner(self) -> Tensor:
        """√v̂ + ε: (D,)."""
        return (self.moments / (1 - BETAS[1] ** self.steps)).sqrt() + EPS


def trained(folder: Path, architecture: str, seed: int, steps: int) -> Trained:
    """A network after so many steps of Adam on its training data."""
    imported.load(architecture)
    torch.manual_seed(seed)
    model = architectures.build(architecture)
    subset = data.fitting_subset(NETWORKS[architecture], "train", SAMPLES, seed, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=BETAS, eps=EPS)
    files = []
    for step in range(steps):
        if step in (0, steps // 2):
            files.append(folder / f"step_{step}.safetensors")
            save_file(dict(model.state_dict()), files[-1])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(subset.x), subset.y).backward()
        optimizer.step()
    files.append(folder / f"step_{steps}.pt")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": steps}, files[-1])
    moments = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in model.parameters()])
    return Trained((files[0], files[1], files[2]), moments.double(), steps)


def truth_of(file: Path, settings: AnalysisSettings, split: str) -> Truth:
    """The truth of a checkpoint on the samples of a split that an analysis with these settings takes."""
    from safetensors.torch import load_file

    model = architectures.build(settings.architecture)
    weights = (
        load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)["model"]
    )
    model.load_state_dict(weights)
    subset = data.fitting_subset(settings.data, split, settings.samples, settings.seed, model)
    return Truth(model.double(), subset.x.double(), subset.y, settings.weight_decay)
