"""The loss of a network as a function of θ: its value, gradients and matrices, for observables and masks.

Everything is computed in float64 from a copy of the network, so that a gradient near a minimum is more than
the rounding errors of its samples; products with H alone are in the precision of the analysis, as its
eigenpairs are. Nothing is computed before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from seigh.core.curvature import CurvatureOperator
from seigh.core.curvature.certificate import Float64, copied, in_float64
from seigh.core.curvature.operator import chosen_parameters
from seigh.core.curvature.paths import Function, arithmetic
from seigh.core.errors import first_line
from seigh.core.network import Network, Objective, Plan, decays, objective, planned
from seigh.core.overlap.observables import Adam, Unavailable
from seigh.core.problems import data as datasets
from seigh.core.problems import losses
from seigh.core.problems.checkpoints.moments import read_adam
from seigh.core.settings import Settings
from seigh.core.spectra import Operator, Shifted

# Bytes of the per-sample gradients that are held at once.
_BLOCK = 2**27

# Labels are drawn by another seed than samples and test matrices.
_OF_LABELS = 2**31

# Outputs of a sample by all of which a loss is differentiated twice, such as all logits of a sequence.
_MOST_OUTPUTS = 1024


class _Columns:
    """A float64 operator of ``curvlinops``, multiplied once as a check that it works at all."""

    def __init__(self, operator: Any, theta: Tensor) -> None:
        self.shape = (len(theta), len(theta))
        self.dtype = theta.dtype
        self.device = theta.device
        self._operator = operator
        _ = self @ torch.zeros_like(theta)[:, None]

    def __matmul__(self, block: Tensor) -> Tensor:
        """(D, b) → (D, b)."""
        with Float64():
            product: Tensor = self._operator @ block.to(self.device, self.dtype)
        return product.detach()


class NetworkLandscape:
    """``Landscape`` of a network on one split of its data.

    Attributes:
        kind: Kind of the analysis's matrix.
        split: Split of the data.
        value: The loss at θ without its penalty, in the precision of the analysis.
    """

    def __init__(
        self,
        network: Network,
        loss: Objective,
        plan: Plan,
        environment: Settings,
        *,
        count: Callable[[], Callable[[int], None]] | None = None,
    ) -> None:
        """Args:
        network: The model, θ and the data.
        loss: Its loss.
        plan: How its products are computed.
        environment: Where data sets lie.
        count: Gives what an operator tells how many products it has made.
        """
        self.kind: str = network.settings.curvature
        self.split: str = network.settings.split
        self.value = loss.value
        self._network = network
        self._objective = loss
        self._plan = plan
        self._environment = environment
        self._count = count or (lambda: lambda _: None)
        self._made: dict[str, Operator] = {}

    @cached_property
    def theta(self) -> Tensor:
        """θ: (D,) float64."""
        return self._network.theta.flat(self._network.model).double()

    @property
    def learning_rate(self) -> float | None:
        """η of the training: the one that was given, or the checkpoint's."""
        given = self._network.settings.learning_rate
        return self._network.stored.learning_rate if given is None else given

    @cached_property
    def _function(self) -> Function:
        model, loss = copied(self._network.model), copied(self._objective.loss)
        return Function(model, loss, chosen_parameters(model, self._network.theta.names))

    @cached_property
    def _batches(self) -> list[tuple[Tensor, Tensor, float]]:
        """Inputs, targets and weight in the mean of each batch of data."""
        x, y = in_float64(self._network.x), in_float64(self._objective.targets)
        size = max(1, -(-self._plan.batch_size // 2))
        shares = torch.split(self._weights, size)
        parts = zip(torch.split(x, size), torch.split(y, size), shares, strict=True)
        return [(a, b, float(share.sum())) for a, b, share in parts if float(share.sum())]

    @property
    def _weights(self) -> Tensor:
        """(N,) float64 on the CPU: each sample's weight in the mean."""
        shares, samples = self._objective.mean.shares, len(self._network.x)
        if shares is None:
            return torch.full((samples,), 1 / samples, dtype=torch.float64)
        return shares.double().cpu()

    @cached_property
    def _decays(self) -> Tensor | float:
        """λ of each coordinate, (D,), or of all."""
        groups = decays(self._network)
        return self._network.settings.weight_decay if groups is None else groups

    @cached_property
    def _outside(self) -> float:
        """The penalty of the trainable parameters that no coordinate stands for."""
        whole = losses.penalty(self._network.model, self._network.settings)
        return whole - float(0.5 * (self._decays * self.theta.square()).sum())

    def _evaluate(self, leaves: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        with Float64(), arithmetic(self._network.device, None):
            value: Tensor = self._function.loss(self._function.outputs(leaves, x), y)
        return value

    def loss(self, theta: Tensor) -> float:
        """L at θ (D,), its penalty (λ/2)‖θ‖² included, in float64."""
        theta = theta.detach().to(self._network.device, torch.float64)
        leaves = self._function.split(theta)
        with torch.no_grad():
            total = sum(float(self._evaluate(leaves, x, y)) * share for x, y, share in self._batches)
        return total + self._outside + float(0.5 * (self._decays * theta.square()).sum())

    @cached_property
    def _gradient(self) -> Tensor:
        return self._gradient_at(self.theta)

    def _gradient_at(self, theta: Tensor) -> Tensor:
        total = self._decays * theta
        leaves = [part.clone().requires_grad_() for part in self._function.split(theta)]
        for x, y, share in self._batches:
            with torch.enable_grad():
                value = self._evaluate(leaves, x, y)
            parts = torch.autograd.grad(value, leaves, allow_unused=True)
            total = total.add(self._function.join([*parts], theta), alpha=share)
        return total

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """∇L, that of the penalty included: (D,) float64; that of the checkpoint is computed once.

        Args:
            theta: (D,), where; at the checkpoint's θ when not given.
        """
        if theta is None:
            return self._gradient
        return self._gradient_at(theta.detach().to(self._network.device, torch.float64))

    def product(self, vector: Tensor, theta: Tensor | None = None) -> Tensor:
        """∇²L times a vector, the penalty included, by differentiating twice in float64: (D,) → (D,).

        Args:
            vector: (D,).
            theta: As of ``gradient``.
        """
        theta = self.theta if theta is None else theta.detach().to(self._network.device, torch.float64)
        vector = vector.detach().to(theta)
        along = self._function.split(vector)
        total = self._decays * vector
        leaves = [part.clone().requires_grad_() for part in self._function.split(theta)]
        for x, y, share in self._batches:
            with torch.enable_grad():
                value = self._evaluate(leaves, x, y)
                slopes = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
                inner = [
                    (slope * part).sum()
                    for slope, part in zip(slopes, along, strict=True)
                    if slope is not None and slope.requires_grad
                ]
                slope_along = sum(inner, start=torch.zeros((), dtype=theta.dtype, device=theta.device))
            if not inner:
                continue
            parts = torch.autograd.grad(slope_along, leaves, allow_unused=True)
            total = total.add(self._function.join([*parts], theta), alpha=share)
        return total

    def adam(self) -> Adam:
        """The state of Adam in the checkpoint's file.

        Raises:
            UserError: There is none, or it does not fit.
        """
        stored, names = self._network.stored, self._network.theta.names
        if not stored.path.is_file():
            raise Unavailable("The model was in memory, without the state of its optimizer; leave this out.")
        return read_adam(stored.path, stored.name, self._network.model, names, self._environment)

    def sample_gradients(self, *, drawn: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """(n,) weights w and (n, D) gradients ∇ℓ of blocks of samples, float64, without the penalty.

        Σ w ∇ℓ over all samples is ∇L without its penalty. They are as many numbers as N · D: look at a block
        and let go of it. Each pass computes them anew, as a gradient of all samples is worth.

        Args:
            drawn: Take labels that are drawn from the network's own distribution, by the seed of the
                analysis, in place of those of the data.

        Raises:
            UserError: There is no such distribution, as the loss is no plain cross-entropy of N × C outputs.
        """
        x, y = in_float64(self._network.x), in_float64(self._objective.targets)
        y = self._drawn_labels(x) if drawn else y
        weights = self._weights.to(self._network.device)
        leaves = self._function.split(self.theta)
        size = max(1, _BLOCK // (8 * len(self.theta)))

        def value(parts: list[Tensor], one: Tensor, target: Tensor) -> Tensor:
            return self._evaluate(parts, one[None], target[None])

        at_once = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0, 0), randomness="error")
        fits = True
        for start in range(0, len(x), size):
            block = slice(start, start + size)
            rows = None
            if fits:
                try:
                    rows = torch.cat([part.flatten(1) for part in at_once(leaves, x[block], y[block])], 1)
                except Exception:  # what vmap does not know it refuses by every kind of exception
                    fits = False
            if rows is None:
                rows = torch.stack([self._one(x[n], y[n]) for n in range(len(x))[block]])
            counted = weights[block] > 0  # of samples without loss, that of their own mean is 0/0
            yield weights[block], torch.where(counted[:, None], rows.detach(), 0)

    def _drawn_labels(self, x: Tensor) -> Tensor:
        """A label of each sample, drawn from the softmax of its outputs: (N,)."""
        self._refuse_other_losses("Labels can be drawn")
        leaves = self._function.split(self.theta)
        with torch.no_grad(), Float64(), arithmetic(self._network.device, None):
            parts = [self._function.outputs(leaves, part) for part in torch.split(x, self._plan.batch_size)]
        probabilities = torch.cat(parts).softmax(1).cpu()
        generator = torch.Generator().manual_seed(self._network.settings.seed + _OF_LABELS)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(self._network.device)

    def _refuse_other_losses(self, what: str) -> None:
        settings, targets = self._network.settings, self._objective.targets
        plain = settings.loss == "cross-entropy" and targets.ndim == 1 and not targets.is_floating_point()
        special = settings.class_weights or settings.label_smoothing or settings.ignore_index is not None
        if not plain or special or self._network.loss is not None:
            raise Unavailable(
                f"{what} for plain cross-entropy with one label per sample, and the loss here is another; "
                "leave this out."
            )

    def kronecker(self, kind: str) -> Operator:
        """KFAC ("kfac") or EKFAC ("ekfac") of the GGN, as ``curvlinops`` has them, without the penalty.

        Blocks are of single tensors, of the expanded kind for shared weights, with the exact second
        derivatives of the loss ("type-2"): Martens & Grosse 2015 (arXiv 1503.05671), George et al. 2018
        (arXiv 1806.03884), Eschenhagen et al. 2023 (arXiv 2311.00636).

        Raises:
            UserError: They are not defined for this loss, or for a layer of the network.
        """
        self._refuse_other_losses("KFAC and EKFAC are computed")
        import curvlinops  # it takes seconds

        made = {"kfac": curvlinops.KFACLinearOperator, "ekfac": curvlinops.EKFACLinearOperator}[kind]
        model = copied(self._network.model)
        chosen = chosen_parameters(model, self._network.theta.names)
        for name, p in model.named_parameters():
            p.requires_grad_(name in chosen)
        data = [(in_float64(self._network.x), self._objective.targets)]
        try:
            with Float64(), arithmetic(self._network.device, None):
                found = made(
                    *(model, nn.CrossEntropyLoss(), [*chosen.values()], data),
                    check_deterministic=False,
                    fisher_type="type-2",
                    num_data=len(data[0][0]),
                )
                return _Columns(found, self.theta)
        except Unavailable:
            raise
        except Exception as error:  # curvlinops refuses layers by several kinds of exception
            raise Unavailable(
                f"{kind.upper()} is defined for linear and convolutional layers alone, and this network has "
                f"others ({first_line(error)}); leave it out."
            ) from error

    def _one(self, x: Tensor, y: Tensor) -> Tensor:
        leaves = [part.clone().requires_grad_() for part in self._function.split(self.theta)]
        with torch.enable_grad():
            value = self._evaluate(leaves, x[None], y[None])
        parts = torch.autograd.grad(value, leaves, allow_unused=True)
        return self._function.join([*parts], self.theta)

    def ggn_diagonal(self, outputs: int) -> tuple[Tensor, Tensor]:
        """The diagonal of G = Σ_n w_n J_nᵀ ∇²ℓ_n J_n + λ·I and its standard errors: 2 × (D,) float64.

        With ∇²ℓ_n = S_n diag(±1) S_nᵀ it is Σ_n w_n Σ_c ± (J_nᵀ S_n e_c)², squares of entries: exact, at a
        backward pass for every output. Where the network has more than ``outputs`` of them, so many random
        sign vectors u take the place of the e_c, whose mean it is without bias.
        """
        x, y = in_float64(self._network.x), in_float64(self._objective.targets)
        weights = self._weights.to(self._network.device)
        leaves = self._function.split(self.theta)
        generator = torch.Generator().manual_seed(self._network.settings.seed)
        size = max(1, _BLOCK // (8 * len(self.theta)))
        draws: Tensor | None = None
        exact = True

        def pulled(one: Tensor, cotangent: Tensor) -> list[Tensor]:
            def of(parts: list[Tensor]) -> Tensor:
                with Float64(), arithmetic(self._network.device, None):
                    return self._function.outputs(parts, one[None])[0]

            parts: list[Tensor] = torch.func.vjp(of, leaves)[1](cotangent)[0]
            return parts

        at_once = torch.func.vmap(pulled, randomness="error")
        for start in range(0, len(x), size):
            chosen = [n for n in range(len(x))[start : start + size] if float(weights[n])]
            if not chosen:
                continue
            with torch.no_grad(), Float64(), arithmetic(self._network.device, None):
                outputs_of = self._function.outputs(leaves, x[chosen])
            factors, signs = self._factors(outputs_of, y[chosen])
            count = factors.shape[-1]
            exact = count <= outputs
            if not exact:
                shape = (len(chosen), count, outputs)
                u = torch.randint(0, 2, shape, generator=generator).to(factors) * 2 - 1
                # The factors with their signs, so that the product of both sides has them.
                left, right = factors @ u, (factors * signs[:, None, :]) @ u
            if draws is None:
                draws = torch.zeros(1 if exact else outputs, len(self.theta), dtype=torch.float64)
                draws = draws.to(self._network.device)
            w = weights[chosen]

            def rows(
                columns: Tensor, c: int, chosen: list[int] = chosen, like: Tensor = outputs_of
            ) -> Tensor:
                cotangents = columns[:, :, c].reshape(like.shape)
                try:
                    parts = at_once(x[chosen], cotangents)
                except Exception:  # what vmap does not know it refuses by every kind of exception
                    pairs = zip(x[chosen], cotangents, strict=True)
                    return torch.stack([self._pulled(*each) for each in pairs])
                return torch.cat([part.flatten(1) for part in parts], 1)

            if exact:
                for c in range(count):
                    draws[0] += (w * signs[:, c]) @ rows(factors, c).square()
            else:
                same = bool((signs > 0).all())
                for c in range(outputs):
                    one = rows(left, c)
                    draws[c] += w @ (one * (one if same else rows(right, c)))
        assert draws is not None
        deviation = torch.zeros_like(draws[0]) if exact else draws.std(0) / len(draws) ** 0.5
        return draws.mean(0) + self._decays, deviation

    def _pulled(self, x: Tensor, cotangent: Tensor) -> Tensor:
        """Jᵀ times a vector for one sample, where many at once are not to be had: (D,)."""
        leaves = [part.clone().requires_grad_() for part in self._function.split(self.theta)]
        with torch.enable_grad(), Float64(), arithmetic(self._network.device, None):
            outputs = self._function.outputs(leaves, x[None])
        parts = torch.autograd.grad(outputs, leaves, cotangent[None], allow_unused=True)
        return self._function.join([*parts], self.theta)

    def _factors(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """S (n, C, C) and signs (n, C) with ∇²ℓ = S diag(signs) Sᵀ of every sample, C all its outputs."""
        samples = outputs.shape[0]
        if self._network.settings.loss == "cross-entropy" and outputs.ndim == 2:
            # s (diag(p) − ppᵀ) = s SSᵀ with S = diag(√p) − p√pᵀ, and s the sum of the sample's target.
            p = outputs.detach().softmax(1)
            factors = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
            sums = losses.target_sums(self._network.settings, targets, outputs.shape[1])
            return factors * sums.sqrt().to(factors)[:, None, None], torch.ones_like(p)
        flat = outputs.detach().reshape(samples, -1)
        if flat.shape[1] > _MOST_OUTPUTS:
            raise Unavailable(
                "The GGN's diagonal takes second derivatives of the loss by all outputs of a sample, "
                f"and there are {flat.shape[1]:,} of them here; leave this mask out."
            )

        def value(one: Tensor, target: Tensor) -> Tensor:
            with Float64():
                result: Tensor = self._function.loss(one.view(outputs.shape[1:])[None], target[None])
            return result

        found = [torch.func.hessian(value)(one, target) for one, target in zip(flat, targets, strict=True)]
        values, vectors = torch.linalg.eigh(torch.stack(found).detach())
        return vectors * values.abs().sqrt()[:, None, :], values.sign() + (values == 0).to(values)

    def matrix(self, kind: str) -> Operator:
        """The Hessian ("hessian") or GGN ("ggn") with its penalty, in float64 or float32 as the eigenpairs;
        without reduced precision."""
        if kind not in self._made:
            settings: Any = self._network.settings.model_copy(update={"curvature": kind})
            operator: CurvatureOperator = planned(
                replace(self._network, settings=settings),
                self._objective,
                self._plan,
                exact=True,
                after_batch=self._count(),
            )
            self._made[kind] = self.penalised(operator)
        return self._made[kind]

    def penalised(self, operator: Operator) -> Operator:
        """The operator with the second derivative of the penalty, diag(λ), added."""
        settings = self._network.settings
        return Shifted(operator, self._decays) if settings.weight_decay or settings.penalty else operator

    @cached_property
    def other(self) -> NetworkLandscape:
        """The same θ on the other split: as many samples, chosen by the same rule.

        Raises:
            UserError: There is no such split, or the analysis is of listed samples.
        """
        settings = self._network.settings
        if settings.subset == "indices":
            raise Unavailable(
                "The samples of this analysis are listed, so there are none of the other split to set "
                "beside them; choose another subset."
            )
        if settings.data.startswith(datasets.IN_MEMORY):
            raise Unavailable(
                "The data of this analysis were in memory, so there are none of the other split to set "
                "beside them; leave this curve out."
            )
        if not datasets.has_splits(settings.data):
            raise Unavailable(
                "The data of this analysis are a file, which has no other split to set beside it; leave this "
                "curve out."
            )
        split = "train" if settings.split == "test" else "test"
        subset = datasets.fitting_subset(
            *(settings.data, split, settings.samples, settings.seed, self._network.model),
            subset=settings.subset,
            env=self._environment,
            settings=settings,
        )
        x, y = (each.to(self._network.device) for each in (subset.x, subset.y))
        x, y = (each.to(self._network.dtype) if each.is_floating_point() else each for each in (x, y))
        settings = settings.model_copy(update={"split": split, "samples": len(subset.index)})
        network = replace(self._network, settings=settings, subset=subset, x=x, y=y)
        return NetworkLandscape(
            *(network, objective(network), self._plan, self._environment), count=self._count
        )
