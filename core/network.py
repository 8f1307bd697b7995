"""A network at a checkpoint with its data, and the operator of its curvature: what every product needs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seigh.core.curvature import CurvatureOperator, choose, footprint, select_parameters
from seigh.core.curvature.causes import instead, known, operation, place, reason
from seigh.core.curvature.certificate import (
    Certifier,
    Check,
    copied,
    failure,
    in_float64,
    suppressed,
    what_cuts,
)
from seigh.core.curvature.operator import chosen_parameters
from seigh.core.curvature.paths import Function, arithmetic
from seigh.core.curvature.shares import LossError, Mean
from seigh.core.device import available_memory, pick_device
from seigh.core.linalg.memory import is_out_of_memory
from seigh.core.names import PATHS, REDUCED, PathName
from seigh.core.overlap.observables import Past
from seigh.core.problems import architectures, checkpoints, losses, token_losses
from seigh.core.problems import data as datasets
from seigh.core.problems.checkpoints import Checkpoint
from seigh.core.problems.data import Subset
from seigh.core.problems.outputs import chosen_among
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from seigh.core.spectra.operators import SpectrumError

# Part of the machine's memory for what a product computes on its way.
_PRODUCT_SHARE = 0.25

# Outputs of tokens that are held at once: a vocabulary of 50,000 makes many.
_OUTPUTS_AT_ONCE = 2**24

# Samples on which the cause of a failure is looked for.
_FEW_SAMPLES = 16

# Seconds that timing products may take beyond one of them.
_QUICK = 0.5


@dataclass(frozen=True)
class Theta:
    """The selection of the model's parameters that make up θ.

    Attributes:
        names: In the model's order; None for all trainable ones.
        dimension: D.
    """

    names: list[str] | None
    dimension: int

    def flat(self, model: nn.Module) -> Tensor:
        """θ: (D,)."""
        return torch.cat([p.detach().flatten() for p in self._of(model).values()])

    def named(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors of θ by name, in its order."""
        return {name: parameter.detach() for name, parameter in self._of(model).items()}

    def tensors(self, model: nn.Module) -> list[tuple[str, int]]:
        """Name and number of parameters of each tensor."""
        return [(name, parameter.numel()) for name, parameter in self._of(model).items()]

    def _of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        named = dict(model.named_parameters())
        if self.names is None:
            return {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        return {name: named[name] for name in self.names}


@dataclass(frozen=True)
class Plan:
    """How products are computed: measured once, kept for later attempts and for those who help.

    Attributes:
        path: Path of the products.
        columns: Vectors that are multiplied at once.
        batch_size: Samples that are differentiated at once.
        keep: Whether what a path prepares is kept for every batch of data.
        device: What it was measured on, as in an analysis's environment.
        seconds: Seconds of a product with one vector; None where none was measured.
        measured: What was measured to choose the path; JSON.
        shared: Whether others are asked to help; None before that is decided.
    """

    path: PathName
    columns: int
    batch_size: int
    keep: bool
    device: str
    seconds: float | None
    measured: list[dict[str, Any]]
    shared: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Plan:
        return cls(**stored)


@dataclass(frozen=True)
class Network:
    """A model in eval mode with the weights of a checkpoint, and its data, on a device.

    Attributes:
        settings: Settings of the analysis, with N.
        stored: The checkpoint.
        model: The network f.
        theta: Which of its parameters count.
        subset: The data.
        x: Inputs (N, …), on the device.
        y: Targets (N, …), on the device.
        device: Where products are computed.
        dtype: Floating-point type of weights and vectors.
        loss: A loss of somebody's own; None for the one that the settings name.
    """

    settings: AnalysisSettings
    stored: Checkpoint
    model: nn.Module
    theta: Theta
    subset: Subset
    x: Tensor
    y: Tensor
    device: torch.device
    dtype: torch.dtype
    loss: nn.Module | None = None


def load(checkpoint: Path, settings: AnalysisSettings, name: str, environment: Settings) -> Network:
    """The network and the data of an analysis.

    Raises:
        CheckpointError: The file is no checkpoint of the architecture.
        DataError: The data are missing, malformed, or do not fit the model.
        SettingsError: The settings cannot work for this model.
    """
    device = pick_device(environment.device)
    stored, model = _read(checkpoint, settings, name)
    theta = chosen_theta(model, settings)
    settings.check(theta.dimension)
    subset = datasets.fitting_subset(
        settings.data,
        settings.split,
        settings.samples,
        settings.seed,
        model,
        subset=settings.subset,
        indices=settings.listed,
        env=environment,
        settings=settings,
    )
    settings = settings.model_copy(update={"samples": len(subset.index)})
    dtype = precision(settings)
    if dtype == torch.float32:  # the data of the analysis, whose hash is told, are the rounded ones
        subset = replace(subset, x=_rounded(subset.x), y=_rounded(subset.y))
    model.to(device)
    x, y = subset.x.to(device), subset.y.to(device)
    x, y = (each.to(dtype) if each.is_floating_point() else each for each in (x, y))
    return Network(settings, stored, model, theta, subset, x, y, device, dtype)


def _rounded(values: Tensor) -> Tensor:
    """Floating-point numbers in float32; integers as they are."""
    return values.float() if values.is_floating_point() else values


def parameters_of(checkpoint: Path, settings: AnalysisSettings, name: str | None = None) -> Tensor:
    """θ of a checkpoint as an analysis with these settings has it: (D,), on the CPU.

    Raises:
        CheckpointError: The file is no checkpoint of the architecture.
        SettingsError: The settings choose parameters that the model has not.
    """
    _, model = _read(checkpoint, settings, name or checkpoint.name)
    return chosen_theta(model, settings).flat(model)


def past_of(checkpoint: Path, settings: AnalysisSettings) -> Past:
    """θ of an earlier checkpoint of the training that is analysed, on the CPU.

    Raises:
        CheckpointError, SettingsError: As of ``parameters_of``.
    """
    stored, model = _read(checkpoint, settings, checkpoint.name)
    theta = chosen_theta(model, settings).flat(model)
    return Past(theta.double(), stored.step, stored.sha256)


def _read(checkpoint: Path, settings: AnalysisSettings, name: str) -> tuple[Checkpoint, nn.Module]:
    stored = checkpoints.read(checkpoint, name, entry=settings.entry)
    checkpoints.check_fits(stored, settings.architecture, settings.match)
    model = in_format(architectures.build(settings.architecture), precision(settings))
    checkpoints.load_into(model, stored, checkpoints.named(stored, settings.architecture, settings.match))
    return stored, model


def precision(settings: AnalysisSettings) -> torch.dtype:
    """Return the floating-point type of weights and vectors."""
    return torch.float64 if settings.precision == "float64" else torch.float32


def in_format(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its floating-point numbers in a format; complex ones, which ``Module.to`` would take the
    imaginary part from, stay what they are."""
    model._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)  # type: ignore[no-untyped-call]
    return model


def chosen_theta(model: nn.Module, settings: AnalysisSettings) -> Theta:
    """Select the parameters of a model that the settings name.

    Raises:
        SettingsError: They choose none, or one has complex numbers.
    """
    for name, p in model.named_parameters():
        if p.is_complex():
            raise SettingsError(
                f"The parameter '{name}' has complex numbers, along which no Hessian is taken; keep real "
                "and imaginary part as two parameters, as torch.view_as_real gives them."
            )
    if not settings.parameters:
        return Theta(None, parameter_count(model))
    try:
        names = select_parameters(model, settings.parameters)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    named = dict(model.named_parameters())
    return Theta(names, sum(named[name].numel() for name in names))


def decays(network: Network) -> Tensor | None:
    """λ of each coordinate of θ, (D,) float64; None where it is the settings' weight decay for all."""
    settings = network.settings
    if not settings.penalty:
        return None
    parts = [
        torch.full((p.numel(),), losses.decay_of(settings, name), dtype=torch.float64)
        for name, p in network.theta.named(network.model).items()
    ]
    return torch.cat(parts).to(network.device)


def parameter_count(model: nn.Module) -> int:
    """D: the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Objective:
    """The loss of a network and what it is compared with.

    Attributes:
        loss: The mean over the samples.
        targets: (N, …), as the loss takes them.
        value: The loss on the subset.
        accuracy: On the subset; None where there are no classes.
        mean: How the loss weighs the samples, and what was measured of it.
    """

    loss: nn.Module
    targets: Tensor
    value: float
    accuracy: float | None
    mean: Mean


def objective(network: Network) -> Objective:
    """The loss that the settings ask for.

    Raises:
        SettingsError: It does not work with these outputs and targets.
        SpectrumError: The network's outputs are not finite.
    """
    settings = network.settings
    loss = losses.build(settings) if network.loss is None else network.loss
    loss = loss.to(network.device, network.dtype)
    with _unchanged(network), torch.no_grad(), arithmetic(network.device, None):
        if isinstance(loss, token_losses.TokenCrossEntropy):
            return _objective_of_tokens(network, loss)
        outputs = _outputs(network, network.x)
        targets = losses.targets(settings.loss, network.y, outputs)
        mean = losses.mean(settings.loss, loss, outputs, targets)
        value = float(loss(outputs, targets))
        accuracy = losses.accuracy(settings, network.y, outputs)
    return Objective(loss, targets, value, accuracy, mean)


def _objective_of_tokens(network: Network, loss: token_losses.TokenCrossEntropy) -> Objective:
    """The objective of a network with outputs for every token, which are computed some samples at a time."""
    name, first = network.settings.loss, _outputs(network, network.x[:1])
    targets = losses.targets(name, network.y, first)
    try:
        token_losses.check(name, network.x, network.y, first, targets)
        tally = token_losses.Tally(loss, targets)
        for x in torch.split(network.x, max(1, _OUTPUTS_AT_ONCE // first.numel())):
            tally.add(_outputs(network, x))
        mean = tally.mean()
    except LossError as error:
        raise SettingsError(f"The loss '{name}' {error}") from error
    if not mean.curvature.passed:
        raise SettingsError(mean.curvature.sentence)
    return Objective(loss, targets, tally.value, tally.accuracy, mean)


@contextmanager
def _unchanged(network: Network) -> Iterator[None]:
    """Refuse a network that holds NaN, or changes its weights or inputs when it is computed inside.

    Raises:
        SettingsError: It does.
    """
    named = dict(network.model.named_parameters())
    for name, p in named.items():
        if not bool(p.sum().isfinite()) and not bool(p.isfinite().all()):  # a sum may overflow by itself
            raise SettingsError(
                f"The weights hold NaN or infinite values ('{name}'), as after a training that diverged; "
                "choose an earlier checkpoint."
            )
    held = {**named, "": network.x}
    before = {name: _fingerprint(tensor) for name, tensor in held.items()}
    yield
    for name, tensor in held.items():
        if _fingerprint(tensor) == before[name]:
            continue
        model = type(network.model).__name__
        if not name:
            raise SettingsError(
                f"{model} changes its inputs in place when it is computed, so that every product would be "
                "of other data; let it work on a copy (x.clone())."
            )
        raise SettingsError(
            f"{model} changes its weights ('{name}') when it is computed, as with an embedding's max_norm, "
            "so that every product would be at another θ; let it leave them alone in eval mode."
        )


def _fingerprint(tensor: Tensor) -> tuple[int, float]:
    """Numbers that change with the tensor: how often it was written to, and its sum."""
    numbers = tensor.detach()
    numbers = torch.view_as_real(numbers) if numbers.is_complex() else numbers
    wide = torch.float64 if numbers.is_floating_point() else torch.int64
    return tensor._version, float(numbers.sum(dtype=wide))


def _outputs(network: Network, x: Tensor) -> Tensor:
    """The network's outputs for samples x (n, …).

    Raises:
        SettingsError: It fails, or gives no row of numbers for each sample.
        SpectrumError: They are not finite.
    """
    samples, name = len(x), type(network.model).__name__
    try:
        outputs = network.model(x)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, SettingsError):
            raise
        where = place(error)
        raise SettingsError(
            f"{name} fails on {samples:,} samples at once ({reason(error)}{f', {where}' if where else ''}); "
            "correct its forward pass."
        ) from error
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = str(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise SettingsError(
            f"{name} returns {kind}, not a tensor of floating-point outputs; return the logits."
        )
    if outputs.ndim == 0 or len(outputs) != samples:
        raise SettingsError(
            f"{name} returns outputs of shape {tuple(outputs.shape)} for {samples:,} samples; let it return "
            "one row for each sample, (N, classes)."
        )
    if not bool(outputs.isfinite().all()):
        raise SpectrumError(
            "The network's outputs are not finite (NaN or infinity): they overflow at this checkpoint; "
            "check the weights, or use float64."
        )
    return outputs


def without_influence(network: Network, objective: Objective, batch_size: int) -> dict[str, int]:
    """The tensors of θ that the loss does not depend on, and how many numbers each has: their rows of the
    matrix and of every eigenvector are 0. Found by what autograd reaches, for one sample or any other.

    Args:
        network: The model and its data.
        objective: Its loss.
        batch_size: How many samples may be differentiated at once.

    Raises:
        SettingsError: The loss depends on none of them, or what it was taken of may not be the logits.
    """
    chosen = chosen_parameters(network.model, network.theta.names)
    function = Function(network.model, objective.loss, chosen)
    idle = {name: p.numel() for name, p in chosen.items() if p.numel()}
    for x, y in zip(
        torch.split(network.x, batch_size), torch.split(objective.targets, batch_size), strict=True
    ):
        leaves = [p.detach().requires_grad_() for p in function.leaves]
        with torch.enable_grad(), arithmetic(network.device, None):
            value = function.loss(function.outputs(leaves, x), y)
            if value.requires_grad:
                found = torch.autograd.grad(value, leaves, allow_unused=True)
                reached = {name for name, slope in zip(chosen, found, strict=True) if slope is not None}
                idle = {name: size for name, size in idle.items() if name not in reached}
        if not idle:  # of most networks after the first batch
            return {}
    if len(idle) == sum(p.numel() > 0 for p in chosen.values()):
        raise SettingsError(
            "The loss does not depend on any of the chosen parameters, as far as PyTorch can differentiate "
            f"the network{what_cuts(function, network.x[:1])}, so there are no eigenpairs; let its outputs "
            "have a gradient, or choose other parameters."
        )
    if (several := chosen_among(network.model)) > 1:
        raise SettingsError(
            f"{type(network.model).__name__} returns {several} tensors that may be the logits, and the "
            f"first, which was taken, does not depend on {', '.join(list(idle)[:3])}; let it return the "
            "logits alone, or name them 'logits'."
        )
    return idle


def certified(
    network: Network,
    objective: Objective,
    operator: CurvatureOperator,
    plan: Plan,
    *,
    after_batch: Callable[[int], None] | None = None,
) -> tuple[CurvatureOperator, Plan, list[dict[str, Any]]]:
    """The operator once it has been measured to be the curvature of the mean loss, or else one that is.

    Args:
        network: The model and its data.
        objective: Its loss.
        operator: As ``plan`` or ``planned`` gives it.
        plan: How it computes products.
        after_batch: As for ``CurvatureOperator``.

    Returns:
        The operator, the plan that says how it computes products, and what was measured, as JSON.

    Raises:
        SettingsError: No path gives the curvature, or the one that the settings ask for does not.
        SpectrumError: Products are not finite.
    """
    try:
        return _certified(network, objective, operator, plan, after_batch, batches=2)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    operator.release()
    return _certified(network, objective, operator, plan, after_batch, batches=1)


def _certified(
    network: Network,
    objective: Objective,
    operator: CurvatureOperator,
    plan: Plan,
    after_batch: Callable[[int], None] | None,
    batches: int,
) -> tuple[CurvatureOperator, Plan, list[dict[str, Any]]]:
    certifier = _certifier(network, objective, operator.batch_size, batches)
    checks = [objective.mean.additivity, objective.mean.curvature]
    try:
        checks += certifier.network()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if way := known(error):
            raise SettingsError(way) from error
        raise SettingsError(
            f"The network cannot be computed in float64 ({reason(error)}), so its curvature cannot be "
            "checked; let it take its format from its weights and inputs."
        ) from error
    if failed := failure(checks):
        raise SettingsError(failed.sentence)
    measured = _measured(certifier, operator, network, objective)
    failed = failure(measured)
    if failed is not None and failed.name == "truth" and failed.value:
        # PyTorch has operations that are right for one vector and wrong for several at once, such as cdist.
        one_by_one = [replace(plan, columns=1)] if operator.columns > 1 else []
        others = [replace(plan, path=path) for path in PATHS if path != operator.path]
        for other_plan in (*one_by_one, *others):
            operator.release()
            other = planned(network, objective, other_plan, after_batch=after_batch)
            try:
                found = certifier.operator(other)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                continue
            if failure(found) is not None:
                continue
            if network.settings.hvp_path is not None:
                right = f"the path '{other_plan.path}' is right, so choose it, or none"
                if other_plan.path == operator.path:
                    right = "it is right for one vector at a time, so choose --hvp-columns 1"
                raise SettingsError(f"{failed.sentence.removesuffix('.')}; {right}.")
            return other, other_plan, [check.to_json() for check in (*checks, *found)]
        raise SettingsError(
            f"{failed.sentence.removesuffix('.')}, and no other path is right; write this operation by "
            "elementary ones" + ("." if network.settings.curvature == "ggn" else ", or analyse the GGN.")
        )
    if failed is not None:
        raise (SpectrumError if failed.name == "finite" else SettingsError)(failed.sentence)
    return operator, plan, [check.to_json() for check in (*checks, *measured)]


def _certifier(network: Network, objective: Objective, batch_size: int, batches: int) -> Certifier:
    return Certifier(
        *(network.model, objective.loss, network.x, objective.targets),
        kind=network.settings.curvature,
        parameters=network.theta.names,
        shares=objective.mean.shares,
        batch_size=batch_size,
        batches=batches,
        amplification=objective.mean.amplification,
    )


def _measured(
    certifier: Certifier, operator: CurvatureOperator, network: Network, objective: Objective
) -> list[Check]:
    try:
        return certifier.operator(operator)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise SettingsError(_not_twice(error, network, objective)) from error


def _refusal(error: Exception, network: Network, objective: Objective) -> SettingsError:
    """Why a network's curvature cannot be computed: a fault of it that explains this, if it has one."""
    if operation(str(error)) is None:
        certifier = _certifier(network, objective, min(len(network.x), _FEW_SAMPLES), 1)
        try:
            failed = failure(certifier.network())
        except Exception:  # the one that is to be explained, again
            failed = None
        if failed is not None:
            return SettingsError(failed.sentence)
    return SettingsError(_not_twice(error, network, objective))


def _not_twice(error: BaseException, network: Network, objective: Objective) -> str:
    """Return the sentence for a network that cannot be differentiated twice."""
    if way := known(error):
        return way
    settings = network.settings
    named = operation(str(error))
    what = f"The operation {named} of this network" if named else f"This network ({reason(error)})"
    other = ""
    if settings.curvature == "hessian" and _has_ggn(network, objective):
        other = ", or analyse the GGN"
    if settings.hvp_path is not None:
        path = settings.hvp_path
        return f"{what} has no derivative by the path '{path}'; choose another path, or none{other}."
    other = f"{other}, which needs none" if other else ""
    return f"{what} has no second derivative in PyTorch; {instead(named or '')}{other}."


def _has_ggn(network: Network, objective: Objective) -> bool:
    """Whether a path gives products with the GGN, of one sample."""
    matrix = _matrix(network) | {"kind": "ggn"}
    vector = torch.ones(network.theta.dimension, dtype=network.dtype, device=network.device)
    for path in PATHS:
        with suppressed():
            operator = CurvatureOperator(
                *(network.model, objective.loss, network.x[:1], objective.targets[:1]),
                path=path,
                columns=1,
                **matrix,
            )
            return bool((operator @ vector).isfinite().all())
    return False


def reference(
    network: Network,
    objective: Objective,
    plan: Plan,
    *,
    after_batch: Callable[[int], None] | None = None,
) -> Callable[[], CurvatureOperator]:
    """The analysis's matrix in float64, made when it is first asked for: ``reference(…)() @ block``.

    It multiplies float64 blocks, one vector at a time, in batches of data half as large as the plan's, of
    which nothing is kept. The copy of the network takes twice the memory of a float32 one.

    Args:
        network: The model and its data.
        objective: Its loss.
        plan: Plan of the operator that ``certified`` gives: its path is used, or double backward where it is
            the traced one, which would have to be traced anew.
        after_batch: As for ``CurvatureOperator``.
    """

    @cache
    def made() -> CurvatureOperator:
        path: PathName = "double-backward"
        if plan.path != "linearize" or network.settings.curvature == "ggn":
            path = plan.path  # operations without a second derivative have a GGN by this path alone
        return CurvatureOperator(
            copied(network.model),
            copied(objective.loss),
            in_float64(network.x),
            in_float64(objective.targets),
            path=path,
            columns=1,
            batch_size=-(-plan.batch_size // 2),
            after_batch=after_batch,
            **(_matrix(network) | {"reduced": None, "shares": objective.mean.shares}),
        )

    return made


def plan(
    network: Network,
    objective: Objective,
    *,
    block: int,
    products: int,
    device: str,
    after_batch: Callable[[int], None] | None = None,
) -> tuple[CurvatureOperator, Plan]:
    """The operator by the path that the settings ask for, or the fastest, and the plan that says how.

    Args:
        network: The model and its data.
        objective: Its loss.
        block: Vectors in a typical product.
        products: Products with one vector that will be asked for in all.
        device: What the plan says that it was measured on.
        after_batch: As for ``CurvatureOperator``.
    """
    settings = network.settings
    memory = int(_PRODUCT_SHARE * available_memory(network.device))
    data = (network.model, objective.loss, network.x, objective.targets)
    shares = objective.mean.shares
    if settings.hvp_path is None:
        try:
            operator, measured = choose(
                *data,
                block=block,
                products=products,
                memory=memory,
                shares=shares,
                after_batch=after_batch,
                **_matrix(network),
            )
        except Exception as error:  # of the network's own code, there is every kind
            if is_out_of_memory(error):
                raise
            raise _refusal(error, network, objective) from error
        chosen = (operator.path, operator.columns, operator.batch_size)
        seconds = [
            each.seconds_per_product
            for each in measured
            if (each.path, each.columns, each.batch_size) == chosen and each.seconds_per_product is not None
        ]
        facts = [each.to_json() for each in measured]
        return operator, _plan_of(operator, device, min(seconds, default=None), facts)
    try:
        operator = CurvatureOperator(
            *data,
            path=settings.hvp_path,
            columns=settings.hvp_columns or block,
            batch_size=settings.batch_size,
            keep=footprint(*data, **_matrix(network)).per_sample * len(network.x) <= memory,
            shares=shares,
            after_batch=after_batch,
            **_matrix(network),
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _refusal(error, network, objective) from error
    return operator, _plan_of(operator, device, None, [])


def planned(
    network: Network,
    objective: Objective,
    plan: Plan,
    *,
    exact: bool = False,
    after_batch: Callable[[int], None] | None = None,
) -> CurvatureOperator:
    """The operator by a plan; ``exact``, without the reduced precision that the settings ask for."""
    matrix = _matrix(network)
    return CurvatureOperator(
        *(network.model, objective.loss, network.x, objective.targets),
        path=plan.path,
        columns=plan.columns,
        batch_size=plan.batch_size,
        keep=plan.keep,
        shares=objective.mean.shares,
        after_batch=after_batch,
        **(matrix | {"reduced": None} if exact else matrix),
    )


def seconds_per_product(operator: CurvatureOperator) -> float:
    """Measure the seconds of a product, by one vector and a batch of data; by as many vectors as go at once
    where that takes no time worth saving."""
    operator.prepare(0)
    seconds = _seconds(operator, 1)
    if operator.columns > 1 and seconds * operator.columns < _QUICK:
        seconds = _seconds(operator, operator.columns)
    return seconds * operator.batches


def _seconds(operator: CurvatureOperator, columns: int) -> float:
    """Measure seconds per vector of a product with ``columns`` vectors at once, for the first batch."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(columns, operator.shape[0], generator=generator, dtype=operator.dtype)
    rows = rows.to(operator.device)
    start = time.perf_counter()
    float(operator.multiply_batch(0, rows).sum())  # to wait for it
    return (time.perf_counter() - start) / columns


@contextmanager
def reproducible() -> Iterator[None]:
    """Convolutions on a GPU by the same algorithm every time, in the precision asked for; what a network has
    compiled is computed as it is written, as compiled code has no second derivatives."""
    cudnn = torch.backends.cudnn
    # Whoever has compiled anything has loaded the compiler, which others need not wait for.
    compiles = "torch._dynamo" in sys.modules
    with (
        torch.compiler.set_stance("force_eager") if compiles else nullcontext(),
        cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def _matrix(network: Network) -> dict[str, Any]:
    settings = network.settings
    return {
        "kind": settings.curvature,
        "parameters": network.theta.names,
        "reduced": settings.precision if settings.precision in REDUCED else None,
    }


def _plan_of(
    operator: CurvatureOperator, device: str, seconds: float | None, measured: list[dict[str, Any]]
) -> Plan:
    return Plan(
        operator.path, operator.columns, operator.batch_size, operator.keep, device, seconds, measured
    )
