"""One checkpoint and its settings in; eigenpairs, overlap curves and their record out."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.curvature import CurvatureOperator
from core.overlap import best_curve, chance_curve, largest_first, overlap_curve, random_curve
from core.problems import architectures, checkpoints
from core.problems import data as datasets
from core.settings import AnalysisSettings, Settings
from core.spectra import (
    Eigenpairs,
    SpectrumError,
    block_krylov,
    eigenpairs_of,
    exact,
    krylov,
    residuals,
    seigh,
    ssvd,
)

Floats = NDArray[np.float64]

# Share of the products in the time of an analysis, for the progress bar; the dense eigensolver of the exact
# method takes longer than its products.
_SHARE_OF_PRODUCTS = {"exact": 0.4}
_USUAL_SHARE = 0.9


@dataclass(frozen=True)
class Progress:
    """How far an analysis has come.

    Attributes:
        stage: Name of the stage that runs.
        fraction: Of the whole analysis, in [0, 1].
        hvps: Hessian-vector products done.
    """

    stage: str
    fraction: float
    hvps: int


@dataclass(frozen=True)
class Stage:
    """Seconds and Hessian-vector products of one stage."""

    name: str
    seconds: float
    hvps: int


@dataclass(frozen=True)
class Cost:
    """What an analysis will take, known beforehand.

    Attributes:
        parameters: D.
        hvps: Hessian-vector products, those that measure residuals included.
        memory: Bytes of the basis or dense matrices, and of the eigenvectors that are kept. The network's
            activations come on top.
    """

    parameters: int
    hvps: int
    memory: int


@dataclass(frozen=True)
class Result:
    """Everything an analysis found.

    Attributes:
        parameters: D.
        hvps: Hessian-vector products spent.
        eigenvalues: (k,), by descending |λ|.
        residuals: (k,), ‖Hv − λv‖₂ of each pair.
        overlap: (k,), of the mask of largest magnitudes with V_k for k = 1 … K.
        random_mean: (k,), mean overlap of random masks.
        random_std: (k,), its standard deviation over the masks.
        best: (k,), overlap of the best mask for each V_k.
        eigenvectors: (D, k) float32.
        stages: In the order they ran.
        checkpoint_sha256: Hash of the checkpoint file.
        data_sha256: Hash of the data subset.
        settings: Those asked for.
        environment: Software and hardware.
        record: Further scalar facts; JSON.
    """

    parameters: int
    hvps: int
    eigenvalues: Floats
    residuals: Floats
    overlap: Floats
    random_mean: Floats
    random_std: Floats
    best: Floats
    eigenvectors: NDArray[np.float32]
    stages: list[Stage]
    checkpoint_sha256: str
    data_sha256: str
    settings: AnalysisSettings
    environment: dict[str, str | int]
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The result without its eigenvectors, as JSON types."""
        chance = chance_curve(self.parameters, len(self.overlap))
        curves = {
            "overlap": self.overlap,
            "chance": chance.numpy(),
            "random_mean": self.random_mean,
            "random_std": self.random_std,
            "best": self.best,
        }
        return {
            "parameters": self.parameters,
            "hvps": self.hvps,
            "eigenvalues": self.eigenvalues.tolist(),
            "residuals": self.residuals.tolist(),
            "overlap": [
                {"k": k} | {name: float(curve[k - 1]) for name, curve in curves.items()}
                for k in range(1, len(self.overlap) + 1)
            ],
            "seconds": {stage.name: stage.seconds for stage in self.stages}
            | {"total": sum(stage.seconds for stage in self.stages)},
            "checkpoint_sha256": self.checkpoint_sha256,
            "data_sha256": self.data_sha256,
            "settings": self.settings.model_dump(mode="json"),
            "environment": self.environment,
            "record": self.record,
        }


def analyse(
    checkpoint: Path,
    settings: AnalysisSettings,
    *,
    environment: Settings | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Overlap between the largest parameters of a checkpoint and the top eigenspaces of its Hessian.

    Args:
        checkpoint: A checkpoint file.
        settings: What to compute.
        environment: Where data sets and artefacts lie and which device to use; from ``SEIGH_*`` when not
            given.
        progress: Told after each batch of products and at each stage; what it raises ends the analysis.

    Raises:
        CheckpointError: The file is no checkpoint of the architecture.
        DataError: The data are missing, malformed, or do not fit the model.
        SettingsError: The settings cannot work for this model.
        SpectrumError: The Hessian has no usable spectrum (NaN, or rank below k).
    """
    environment = environment or Settings()
    clock = _Clock(settings, progress)

    with clock.stage("load"):
        device = pick_device(environment.device)
        stored = checkpoints.read(checkpoint)
        checkpoints.check_fits(stored, settings.architecture)
        model = architectures.build(settings.architecture)
        checkpoints.load_into(model, stored)
        settings.check(parameter_count(model))
        subset = datasets.fitting_subset(
            settings.data,
            settings.split,
            settings.samples,
            settings.seed,
            model,
            artifact_folder=environment.artifact_folder,
        )
        precision = getattr(torch, settings.precision)
        model.to(device, precision)
        x, y = subset.x.to(device, precision), subset.y.to(device)
        loss = nn.CrossEntropyLoss()
        clock.parameters = parameter_count(model)

    with clock.stage("operator"):
        hessian = CurvatureOperator(model, loss, x, y, after_batch=clock.batch)
        subset_loss, subset_accuracy = _loss_and_accuracy(model, loss, x, y)

    with clock.stage("eigenpairs"):
        pairs = eigenpairs(hessian, settings)
        if len(pairs.values) < settings.k:
            raise SpectrumError(
                f"The Hessian's sketch has numerical rank {len(pairs.values):,}, so there are no "
                f"{settings.k:,} eigenpairs to compare; choose k ≤ {len(pairs.values):,}."
            )

    with clock.stage("residuals"):
        errors = residuals(hessian, pairs) if pairs.residuals is None else pairs.residuals

    with clock.stage("overlap"):
        theta = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
        overlap = overlap_curve(pairs.rows(largest_first(theta, settings.k)))
        random_mean, random_std = random_curve(pairs, settings.random_masks, settings.seed)
        best = best_curve(pairs)
        eigenvectors = pairs.vectors().float()

    return Result(
        parameters=clock.parameters,
        hvps=hessian.hvps,
        eigenvalues=_numpy(pairs.values),
        residuals=_numpy(errors),
        overlap=_numpy(overlap),
        random_mean=_numpy(random_mean),
        random_std=_numpy(random_std),
        best=_numpy(best),
        eigenvectors=eigenvectors.cpu().numpy(),
        stages=clock.stages,
        checkpoint_sha256=stored.sha256,
        data_sha256=datasets.content_hash(subset),
        settings=settings,
        environment=describe_environment(device),
        record={
            "subset_loss": subset_loss,
            "subset_accuracy": subset_accuracy,
            "hvp_path": hessian.path,
            "step": stored.step,
        },
    )


def eigenpairs(operator: CurvatureOperator, settings: AnalysisSettings) -> Eigenpairs:
    """The top k eigenpairs by the method that the settings ask for."""
    k, seed = settings.k, settings.seed
    match settings.method:
        case "krylov":
            return block_krylov(operator, k, seed=seed)
        case "seigh":
            return seigh(operator, settings.n_outer, settings.n_inner, k=k, seed=seed)
        case "ssvd":
            return eigenpairs_of(ssvd(operator, settings.n_outer, settings.n_inner, k=k, seed=seed))
        case "exact":
            return exact(operator, k)


def cost(settings: AnalysisSettings, parameters: int) -> Cost:
    """What an analysis of a model with D = ``parameters`` will take.

    Raises:
        SettingsError: The settings cannot work for this model.
    """
    settings.check(parameters)
    k, itemsize = settings.k, 4 if settings.precision == "float32" else 8
    kept = 4 * parameters * k
    match settings.method:
        case "krylov":
            columns = krylov.default_products(k, parameters)
            return Cost(parameters, columns + min(krylov.CHECKS, k), itemsize * parameters * columns + kept)
        case "seigh":
            hvps = settings.n_inner + k
            return Cost(parameters, hvps, itemsize * parameters * settings.n_outer + kept)
        case "ssvd":
            hvps = 2 * settings.n_outer + settings.n_inner + k
            return Cost(parameters, hvps, 2 * itemsize * parameters * settings.n_outer + kept)
        case "exact":
            # The dense matrix, its symmetric part, the eigenvectors and the solver's workspace.
            return Cost(parameters, parameters, 5 * 8 * parameters**2 + kept)


def parameter_count(model: nn.Module) -> int:
    """D: the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def pick_device(name: str) -> torch.device:
    """The device ``name``; ``auto`` is the first GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Software and hardware that numbers may depend on."""
    versions = {
        name: importlib.metadata.version(package)
        for name, package in (
            ("seigh", "seigh-lab"),
            ("torch", "torch"),
            ("curvlinops", "curvlinops-for-pytorch"),
            ("numpy", "numpy"),
        )
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


class _Clock:
    """Times the stages and tells the progress."""

    def __init__(self, settings: AnalysisSettings, progress: Callable[[Progress], None] | None) -> None:
        self.stages: list[Stage] = []
        self.parameters = 0
        self._settings = settings
        self._progress = progress or (lambda _: None)
        self._stage = ""
        self._hvps = 0
        self._fraction = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage = name
        before = self._hvps
        self._tell()
        start = time.perf_counter()
        yield
        self.stages.append(Stage(name, time.perf_counter() - start, self._hvps - before))

    def batch(self, hvps: int) -> None:
        self._hvps = hvps
        share = _SHARE_OF_PRODUCTS.get(self._settings.method, _USUAL_SHARE)
        self._fraction = share * min(1.0, hvps / cost(self._settings, self.parameters).hvps)
        self._tell()

    def _tell(self) -> None:
        self._progress(Progress(self._stage, self._fraction, self._hvps))


def _loss_and_accuracy(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        outputs = model(x)
        return float(loss(outputs, y)), float((outputs.argmax(1) == y).double().mean())


def _numpy(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
