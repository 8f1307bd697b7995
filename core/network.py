"""A network at a checkpoint with its data, and the operator of its curvature: what every product needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.curvature import CurvatureOperator, choose, footprint, select_parameters
from core.device import available_memory, pick_device
from core.names import REDUCED, PathName
from core.problems import architectures, checkpoints, losses
from core.problems import data as datasets
from core.problems.checkpoints import Checkpoint
from core.problems.data import Subset
from core.settings import AnalysisSettings, Settings, SettingsError

# Part of the machine's memory for what a product computes on its way.
_PRODUCT_SHARE = 0.25

# Seconds that timing products may take beyond one of them.
_QUICK = 0.5


@dataclass(frozen=True)
class Theta:
    """Which parameters of the model θ is made of.

    Attributes:
        names: In the model's order; None for all trainable ones.
        dimension: D.
    """

    names: list[str] | None
    dimension: int

    def flat(self, model: nn.Module) -> Tensor:
        """θ: (D,)."""
        return torch.cat([p.detach().flatten() for p in self._of(model).values()])

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
        path: Of the products.
        columns: Vectors that are multiplied at once.
        batch_size: Samples that are differentiated at once.
        keep: Whether what a path prepares is kept for every batch of data.
        device: What it was measured on, as in an analysis's environment.
        seconds: Of a product with one vector; None where none was measured.
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
        settings: Those of the analysis.
        stored: The checkpoint.
        model: The network f.
        theta: Which of its parameters count.
        subset: The data.
        x: Inputs (N, …), on the device.
        y: Labels (N,), on the device.
        device: Where products are computed.
        dtype: Of weights and vectors.
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


def load(checkpoint: Path, settings: AnalysisSettings, name: str, environment: Settings) -> Network:
    """The network and the data of an analysis.

    Raises:
        CheckpointError: The file is no checkpoint of the architecture.
        DataError: The data are missing, malformed, or do not fit the model.
        SettingsError: The settings cannot work for this model.
    """
    device = pick_device(environment.device)
    stored, model = _read(checkpoint, settings, name)
    theta = _theta(model, settings)
    settings.check(theta.dimension)
    subset = datasets.fitting_subset(
        settings.data,
        settings.split,
        settings.samples,
        settings.seed,
        model,
        env=environment,
    )
    dtype = precision(settings)
    model.to(device, dtype)
    x, y = subset.x.to(device, dtype), subset.y.to(device)
    return Network(settings, stored, model, theta, subset, x, y, device, dtype)


def parameters_of(checkpoint: Path, settings: AnalysisSettings, name: str | None = None) -> Tensor:
    """θ of a checkpoint as an analysis with these settings has it: (D,), on the CPU.

    Raises:
        CheckpointError: The file is no checkpoint of the architecture.
        SettingsError: The settings choose parameters that the model has not.
    """
    _, model = _read(checkpoint, settings, name or checkpoint.name)
    return _theta(model, settings).flat(model.to(precision(settings)))


def _read(checkpoint: Path, settings: AnalysisSettings, name: str) -> tuple[Checkpoint, nn.Module]:
    stored = checkpoints.read(checkpoint, name)
    checkpoints.check_fits(stored, settings.architecture)
    model = architectures.build(settings.architecture)
    checkpoints.load_into(model, stored)
    return stored, model


def precision(settings: AnalysisSettings) -> torch.dtype:
    """Of weights and vectors."""
    return torch.float64 if settings.precision == "float64" else torch.float32


def _theta(model: nn.Module, settings: AnalysisSettings) -> Theta:
    if not settings.parameters:
        return Theta(None, parameter_count(model))
    try:
        names = select_parameters(model, settings.parameters)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    named = dict(model.named_parameters())
    return Theta(names, sum(named[name].numel() for name in names))


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
        accuracy: On the subset.
    """

    loss: nn.Module
    targets: Tensor
    value: float
    accuracy: float


def objective(network: Network) -> Objective:
    """The loss that the settings ask for.

    Raises:
        SettingsError: It does not work with these outputs and targets.
    """
    settings = network.settings
    loss = losses.build(settings).to(network.device, network.dtype)
    with torch.no_grad():
        outputs = network.model(network.x)
        targets = losses.targets(settings.loss, network.y, outputs)
        losses.check(settings.loss, loss, outputs, targets)
        value = float(loss(outputs, targets))
        accuracy = float((outputs.argmax(1) == network.y).double().mean())
    return Objective(loss, targets, value, accuracy)


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
    if settings.hvp_path is None:
        operator, measured = choose(
            *data, block=block, products=products, memory=memory, after_batch=after_batch, **_matrix(network)
        )
        chosen = (operator.path, operator.columns, operator.batch_size)
        seconds = [
            each.seconds_per_product
            for each in measured
            if (each.path, each.columns, each.batch_size) == chosen and each.seconds_per_product is not None
        ]
        facts = [each.to_json() for each in measured]
        return operator, _plan_of(operator, device, min(seconds, default=None), facts)
    operator = CurvatureOperator(
        *data,
        path=settings.hvp_path,
        columns=settings.hvp_columns or block,
        batch_size=settings.batch_size,
        keep=footprint(*data, **_matrix(network)).per_sample * len(network.x) <= memory,
        after_batch=after_batch,
        **_matrix(network),
    )
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
        after_batch=after_batch,
        **(matrix | {"reduced": None} if exact else matrix),
    )


def seconds_per_product(operator: CurvatureOperator) -> float:
    """What a product takes, by one vector and a batch of data; by as many vectors as are multiplied at once
    where that takes no time worth saving."""
    operator.prepare(0)
    seconds = _seconds(operator, 1)
    if operator.columns > 1 and seconds * operator.columns < _QUICK:
        seconds = _seconds(operator, operator.columns)
    return seconds * operator.batches


def _seconds(operator: CurvatureOperator, columns: int) -> float:
    """What a product with each of so many vectors at once takes, for the first batch of data."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(columns, operator.shape[0], generator=generator, dtype=operator.dtype)
    rows = rows.to(operator.device)
    start = time.perf_counter()
    float(operator.multiply_batch(0, rows).sum())  # to wait for it
    return (time.perf_counter() - start) / columns


@contextmanager
def reproducible() -> Iterator[None]:
    """Convolutions on a GPU by the same algorithm every time, in the precision asked for."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
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
