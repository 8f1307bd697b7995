"""One checkpoint and its settings in; eigenpairs, overlap curves and their record out."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from seigh.core import curves, methods, preparation, version
from seigh.core.allocator import freed_memory_kept
from seigh.core.curvature import CurvatureOperator
from seigh.core.device import available_memory
from seigh.core.landscape import NetworkLandscape
from seigh.core.names import REDUCED
from seigh.core.network import (
    Network,
    Plan,
    certified,
    decays,
    load,
    objective,
    plan,
    planned,
    precision,
    reference,
    reproducible,
    seconds_per_product,
    without_influence,
)
from seigh.core.overlap import (
    FURTHER,
    RESOLVED,
    chance_curve,
    find_ties,
    largest_first,
    layer_shares,
    magnitude_bins,
    mask_curves,
    mask_metrics,
    resolved,
    sizes,
    stated_extremes,
    stated_overlap,
)
from seigh.core.overlap.observables import Curve, Estimated, Observed, Quantity, Scene, tilts
from seigh.core.overlap.unsure import extreme_overlaps, with_eigenspace
from seigh.core.problems import architectures, losses
from seigh.core.problems import data as datasets
from seigh.core.reading import parent
from seigh.core.reading.parent import Refused
from seigh.core.reading.results import FORMAT
from seigh.core.results.masks import Mask, open_places
from seigh.core.results.result import Outcome, ResultError, Stage
from seigh.core.settings import AnalysisSettings, Settings
from seigh.core.sharing.crew import Crew, SharedOperator, SharedStorage
from seigh.core.spectra import (
    APosteriori,
    Deferred,
    Eigenpairs,
    Operator,
    Shifted,
    SpectrumError,
    Storage,
    a_posteriori,
    numerical_rank,
    rayleigh,
    rayleigh_ritz,
    residuals,
)
from seigh.core.spectra.aposteriori import Scree
from seigh.core.spectra.residuals import CHECKS, with_rounding

Floats = NDArray[np.float64]

# Of the intervals of the estimated norms.
PROBABILITY = 0.95

# The largest entry of XᵀHX − XᵀHᵀX may be so many times what one random pair of vectors shows.
_ENTRIES = 8.0

# Part of the machine's memory for a basis.
_BASIS_SHARE = 0.5

# How far lengths and angles of saved eigenvectors may be from 1 and from right ones: far above rounding.
_ORTHONORMAL = 1e-3

# Bins by magnitude are told for the last of the sizes and every third before it, four at most.
_BINNED, _MOST_BINNED = 3, 4

# Share of the products in the time of an analysis, for the progress bar; a dense eigensolver takes longer
# than the products.
_SHARE_OF_PRODUCTS, _SHARE_BESIDE_DENSE = 0.9, 0.4


@dataclass(frozen=True)
class Progress:
    """How far an analysis has come.

    Attributes:
        stage: Name of the stage that runs.
        fraction: Fraction of the whole analysis, in [0, 1].
        hvps: Hessian-vector products done.
        resumed: The products among them that earlier attempts made.
    """

    stage: str
    fraction: float
    hvps: int
    resumed: int = 0


@dataclass(frozen=True)
class Cost:
    """The products, memory and disk space of an analysis, computed before it starts.

    Attributes:
        parameters: Number of parameters, D.
        hvps: Hessian-vector products, those that measure residuals and errors included. Krylov may take
            fewer, or up to twice as many until the overlap is resolved, or as many as a tolerance asks for.
        memory: Bytes of the basis or dense matrices, and of the eigenvectors that are kept. The network's
            activations come on top.
    """

    parameters: int
    hvps: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Result(Outcome):
    """Everything an analysis found.

    Attributes:
        eigenvectors: (k, D) float32 on the CPU, an eigenvector in each row; (0, D) of a result that was read
            from JSON, which has none.
        checkpoint_sha256: Hash of the checkpoint file.
        settings: The requested settings.
    """

    residuals: Floats
    overlap_error: Floats
    least: Floats
    greatest: Floats
    tied: NDArray[Any]
    scree_lower: Floats
    scree_upper: Floats
    eigenvectors: Tensor
    checkpoint_sha256: str
    settings: AnalysisSettings

    def to_json(self) -> dict[str, Any]:
        """The result without its eigenvectors, as JSON types: what ``seigh analyze --json`` writes."""
        found = self.document(self.checkpoint_sha256, self.settings.model_dump(mode="json"))
        return found | {"split": self.settings.said_split}

    def save(self, path: Path | str, *, eigenvectors: bool = True) -> None:
        """Write the result to one file, which ``load`` and ``seigh import-result`` read.

        It is a safetensors file with the tensors ``eigenvalues`` (k,) float64 and ``eigenvectors`` (k, D)
        float32; its metadata have ``format``, ``seigh result 1``, and ``result``, the JSON of ``to_json``.

        Args:
            path: The file, best with the suffix ``.safetensors``; it is there complete or not at all.
            eigenvectors: Whether the eigenvectors, which take 4·k·D bytes, are in it.
        """
        path = Path(path)
        tensors = {"eigenvalues": torch.from_numpy(self.eigenvalues)}
        if eigenvectors and len(self.eigenvectors):
            tensors["eigenvectors"] = self.eigenvectors.contiguous()
        document = json.dumps(_finite(self.to_json()), allow_nan=False)
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            save_file(tensors, temporary, {"format": FORMAT, "result": document})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str, *, name: str | None = None) -> Result:
        """The result that ``save`` has written; the file is read in a process with limits.

        Args:
            path: The file.
            name: What to call it in messages; its own name when not given.

        Raises:
            ResultError: It is no such file, or damaged.
        """
        path = Path(path)
        name = name or path.name
        try:
            if not path.stat().st_size:
                raise ResultError(f"The result '{name}' is empty; save or copy it again.")
            answer = parent.read("result", path, name)
        except Refused as error:
            raise ResultError(str(error)) from error
        except OSError as error:
            raise ResultError(f"The result '{name}' cannot be read: {error.strerror}.") from error
        found = cls.from_json(answer.facts["result"])
        values, vectors = (answer.tensors.get(each) for each in ("eigenvalues", "eigenvectors"))
        if values is not None and not np.array_equal(values.numpy(), found.eigenvalues):
            raise ResultError(f"'{name}' has two different sets of eigenvalues; save the result again.")
        if vectors is None:
            return found
        if not _orthonormal(vectors):
            raise ResultError(
                f"'{name}' has eigenvectors that are not orthonormal, so they are of no analysis; save the "
                "result again, or without them (eigenvectors=False)."
            )
        return replace(found, eigenvectors=vectors)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Result:
        """The result that ``to_json`` has written, or a page's *Everything (JSON)*, without eigenvectors.

        Raises:
            ResultError: It is no such object.
        """
        parts = cls._parts(document)
        try:
            settings = AnalysisSettings.model_validate(document["settings"])
            checkpoint_sha256 = str(document["checkpoint_sha256"])
        except (KeyError, ValidationError) as error:
            raise ResultError(
                "The result has no settings of an analysis; take what 'seigh analyze --json' writes."
            ) from error
        return cls(
            **parts,
            eigenvectors=torch.empty(0, parts["parameters"]),
            checkpoint_sha256=checkpoint_sha256,
            settings=settings,
        )


def _orthonormal(rows: Tensor) -> bool:
    """Whether vectors (k, D) have length 1 and, by the lengths of two random sums of them, right angles."""
    lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    signs = 1.0 - 2.0 * torch.randint(2, (2, len(rows)), generator=torch.Generator().manual_seed(0))
    sums = torch.linalg.vector_norm(signs.to(rows.dtype) @ rows, dim=1, dtype=torch.float64)
    off = torch.cat([lengths - 1, sums / math.sqrt(len(rows)) - 1])
    return bool((off.abs() <= _ORTHONORMAL).all())


def _finite(value: Any) -> Any:
    """JSON without the numbers that it does not have: None is what is not known."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class SharedBy(Crew, Protocol):
    """The crew that shares an analysis, with the lines that it adds to the record."""

    def record(self) -> dict[str, Any]: ...


class Hire(Protocol):
    """Who is asked for a crew.

    Called with the plan; the seconds of all products, and of those of a typical block, for one worker; the
    bytes of the basis; and what is to be told how many products others have made so far. Returns None where
    the analysis is not to be shared.
    """

    def __call__(
        self, plan: Plan, *, seconds: float, block_seconds: float, size: int, helped: Callable[[int], None]
    ) -> SharedBy | None: ...


def analyse(
    checkpoint: Path,
    settings: AnalysisSettings,
    *,
    name: str | None = None,
    environment: Settings | None = None,
    scratch: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    before: Plan | None = None,
    hire: Hire | None = None,
) -> Result:
    """Overlap between the largest parameters of a checkpoint and the top eigenspaces of its Hessian.

    Args:
        checkpoint: A checkpoint file.
        settings: What to compute.
        name: What to call the checkpoint in messages; its file's name when not given.
        environment: Where data sets and artefacts lie and which device to use; from ``SEIGH_*`` when not
            given.
        scratch: A folder of this analysis alone. A basis that is worth it is kept there, so that it may
            exceed the memory for it and a killed analysis goes on from its last finished block.
        progress: Told after each batch of products and at each stage; what it raises ends the analysis.
        before: How an earlier attempt on such a device has computed products, to compute them the same way.
        hire: Asked, once it is known how products are computed, who shares the analysis, if anybody does.

    Raises:
        CheckpointError: The file is no checkpoint of the architecture.
        DataError: The data are missing, malformed, or do not fit the model.
        SettingsError: The settings cannot work for this model.
        SpectrumError: The Hessian has no usable spectrum (NaN, or rank below k), or the basis does not fit.
    """
    environment = environment or Settings()
    settings = preparation.named(settings)
    preparation.check(settings)
    name = name or checkpoint.name
    return analyse_network(
        lambda: load(checkpoint, settings, name, environment),
        settings,
        called=f"Checkpoint '{name}'",
        environment=environment,
        scratch=scratch,
        progress=progress,
        before=before,
        hire=hire,
    )


def analyse_network(
    opened: Callable[[], Network],
    settings: AnalysisSettings,
    *,
    called: str,
    environment: Settings,
    scratch: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    before: Plan | None = None,
    hire: Hire | None = None,
) -> Result:
    """Run an analysis of the network that ``opened`` gives; ``analyse`` says where that comes from.

    Args:
        opened: Gives the network and its data; called once, as the first stage.
        settings: What to compute.
        called: What the network is called at the beginning of a sentence.
        environment: As for ``analyse``, like the rest.
        scratch: Likewise.
        progress: Likewise.
        before: Likewise.
        hire: Likewise.
    """
    clock = _Clock(settings, progress)
    with reproducible(), freed_memory_kept():
        try:
            return _analyse(opened, environment, scratch, clock, before, hire)
        except SpectrumError as error:
            raise SpectrumError(f"{called}: {error}") from error


def _analyse(
    opened: Callable[[], Network],
    environment: Settings,
    scratch: Path | None,
    clock: _Clock,
    before: Plan | None,
    hire: Hire | None,
) -> Result:
    with clock.stage("load"):
        network = opened()
        others = preparation.others(
            network.settings, environment, checkpoints=[network.stored.sha256]
        )  # before hours of products, not after them
        settings = others.settings
        model, theta = network.model, network.theta
        storage = Storage(_basis_memory(environment, network.device), scratch)
        clock.expect(_products(settings, theta.dimension, storage, network.dtype))
        facts = describe_environment(network.device)

    with clock.stage("operator"):
        loss = objective(network)
        if before is not None and before.device == facts["device"]:
            curvature, made = planned(network, loss, before, after_batch=clock.counter()), before
        else:
            block = _block(settings, theta.dimension)
            curvature, made = plan(
                *(network, loss),
                block=block,
                products=clock.expected,
                device=str(facts["device"]),
                after_batch=clock.counter(),
            )
        idle = without_influence(network, loss, curvature.batch_size)
        curvature, made, certificate = certified(network, loss, curvature, made, after_batch=clock.counter())
        crew = None if hire is None else _hired(hire, made, curvature, settings, clock)
        products: Operator = curvature
        if crew is not None:
            products = SharedOperator(curvature, crew, made.columns)
            storage = SharedStorage(storage.memory, storage.folder, crew, curvature)
        groups = decays(network)
        hessian = _with_weight_decay(products, settings, groups)

    order = largest_first(theta.flat(model), settings.k)
    precise = exactly = None
    if settings.precision in REDUCED:
        # The recurrence believes the products that it was given; what they cost shows in exact ones.
        exactly = planned(network, loss, made, exact=True, after_batch=clock.counter())
    elif network.dtype != torch.float64:
        precise = Deferred(
            curvature.shape,
            torch.float64,
            network.device,
            reference(network, loss, made, after_batch=clock.counter()),
        )
    found = eigenspace(
        products,
        settings,
        order,
        exactly=exactly,
        reference=precise,
        decays=groups,
        storage=storage,
        resumed=clock.resume,
        stage=clock.stage,
    )

    certificate += _symmetry_of_the_run(found.pairs, certificate)

    wanted = curves.asked(settings)
    with clock.stage("masks"):
        kept = found.pairs.record.get("kept_in") == "file"  # the basis is needed until the end, to go on from
        if wanted and not kept:  # they look at further pairs too, which must not be written over
            found = replace(found, pairs=found.pairs.turned(settings.k))
        room = (
            storage.room("vectors", settings.k, theta.dimension, network.dtype) if kept else found.pairs.basis
        )
        pairs = replace(found.pairs, residuals=found.residuals).top(settings.k).formed(room)
        at, ties = sizes(settings.k, theta.dimension), find_ties(theta.flat(model), order)
        masks = mask_curves(pairs.basis, ties, found.overlap, at)
        best_error, random_std_error = stated_extremes(found.pairs, found.residuals, masks)
        overlap, stated = masks.ties.average, masks.ties.error(found.overlap_error)

    with clock.stage("structure"):
        layers = layer_shares(theta.tensors(model), masks.masses, ties, at)
        binned = range(len(at))[::-_BINNED][:_MOST_BINNED][::-1]
        told = [at[g] for g in binned]
        magnitudes = magnitude_bins(theta.flat(model), masks.masses[list(binned)], told)
        # The principal angles are those of the mask that takes equal magnitudes by their index, with the
        # computed eigenvectors, which the limit of the overlap is away from by what was extrapolated.
        reach = masks.ties.error_by_index(found.overlap_error) + found.ahead.abs()
        behind = found.overlap - found.ahead
        metrics = mask_metrics(pairs.basis, order, at, behind.tolist(), reach.tolist())
        masks = replace(masks, masses=torch.empty(0))  # as large as G eigenvectors

    if exactly is not None:
        # Whatever looks at H from here on states errors of its own, which know nothing of coarse products.
        hessian = _with_weight_decay(exactly, settings, groups)
    with clock.stage("missed"):
        estimate, scree = missed(hessian, pairs, settings)

    computed: dict[str, Observed] = {}
    failed: dict[str, str] = {}
    if wanted:
        with clock.stage("curves"):
            scene = Scene(
                pairs.basis,
                pairs.values.double().cpu(),
                tilts(found.pairs, found.residuals, settings.k),
                theta.named(model),
                partial(_overlap_of, found, pairs),
                found=found.pairs,
                residuals=found.residuals,
                operator=hessian,
                estimate=estimate,
                request=settings.request(theta.dimension),
                ground=NetworkLandscape(*(network, loss, made, environment), count=clock.counter),
                scores=others.scores,
                past=others.past,
            )
            computed, failed = curves.compute(wanted, scene)

    return Result(
        parameters=theta.dimension,
        hvps=clock.hvps,
        eigenvalues=_numpy(pairs.values),
        residuals=_numpy(found.residuals[: settings.k]),
        overlap=_numpy(overlap),
        overlap_error=_numpy(stated),
        least=_numpy(masks.ties.least),
        greatest=_numpy(masks.ties.greatest),
        tied=masks.ties.tied.numpy(),
        resolved_k=resolved(overlap, stated),
        random_mean=_numpy(chance_curve(theta.dimension, settings.k)),
        random_std=_numpy(masks.random_std),
        random_std_error=_numpy(random_std_error),
        best=_numpy(masks.best),
        best_error=_numpy(best_error),
        layers=layers.rows(),
        magnitudes=magnitudes.rows(),
        metrics=[asdict(each) for each in metrics],
        **_by_kind(computed),
        scree_lower=_numpy(scree.lower),
        scree_upper=_numpy(scree.upper),
        eigenvectors=pairs.basis.to("cpu", torch.float32),
        stages=clock.stages,
        checkpoint_sha256=network.stored.sha256,
        data_sha256=datasets.content_hash(network.subset),
        settings=settings,
        environment=facts,
        record={
            "subset_loss": loss.value,
            "subset_accuracy": loss.accuracy,
            "step": network.stored.step,
            "epoch": network.stored.epoch,
            "notes": list(network.stored.notes),
            "loss": {
                "name": settings.loss,
                "label_smoothing": settings.label_smoothing,
                "weight_decay": settings.weight_decay,
                "penalty": losses.penalty(model, settings),
                **_of_loss(settings),
            },
            "theta": asdict(architectures.theta_facts(model)),
            **({"without_influence": idle} if idle else {}),
            "data": {
                "indices": network.subset.index.tolist(),
                "synthetic": network.subset.synthetic,
                "samples": len(network.subset.index),
                "subset": settings.subset,
            },
            "hvp": {
                "path": curvature.path,
                "columns": curvature.columns,
                "batch_size": curvature.batch_size,
                "measured": made.measured,
                "seconds": curvature.seconds,
                "out_of_memory": [layout._asdict() for layout in curvature.out_of_memory],
            },
            **({"curves_failed": failed} if failed else {}),
            **_masks_record(computed, _mask(order, masks.ties.tied), others.notes),
            **({"remarks": remarks} if (remarks := _remarks(computed)) else {}),
            "rank": found.rank,
            "extrapolated": _numpy(found.ahead).tolist(),
            "completeness": found.completeness,
            "basis": dict(pairs.record),
            "certificate": certificate,
            "shared": None if crew is None else crew.record(),
            **_norms(estimate),
        },
    )


def _masks_record(
    computed: Mapping[str, Observed], magnitude: Mask, notes: Mapping[str, str]
) -> dict[str, Any]:
    """The masks of curves for the record, and beside them that of the largest |θ|; nothing if there are none.

    Each has the coordinates by descending score, and how many equal scores compete at each size, where any
    do.
    """
    found = {
        name.removeprefix("overlap-"): each.mask for name, each in computed.items() if isinstance(each, Curve)
    }
    orders = {name: mask for name, mask in found.items() if mask is not None}
    if not orders:
        return {}
    told: dict[str, dict[str, Any]] = {}
    for name, mask in {"magnitude": magnitude, **orders}.items():
        told[name] = {**mask.to_json()}
        if name in notes:
            told[name]["note"] = notes[name]
    return {"masks": told}


def _mask(order: Tensor, tied: Tensor) -> Mask:
    return Mask(order.cpu().numpy(), tied.numpy(), open_places(tied.numpy()))


def _by_kind(computed: Mapping[str, Observed]) -> dict[str, dict[str, dict[str, Any]]]:
    """Curves, profiles and quantities as an ``Outcome`` has them."""
    kinds: dict[str, dict[str, dict[str, Any]]] = {"curves": {}, "profiles": {}, "quantities": {}}
    for name, each in computed.items():
        if isinstance(each, Curve):
            kinds["curves"][name] = each.parts()
            continue
        parts = {part: value for part, value in vars(each).items() if part != "remark"}
        if isinstance(each, Quantity):
            kinds["quantities"][name] = parts | {"unit": curves.available()[name].unit}
        else:
            kinds["profiles"][name] = parts
    return kinds


def _remarks(computed: Mapping[str, Observed]) -> dict[str, str]:
    return {name: each.remark for name, each in computed.items() if each.remark}


def _overlap_of(found: Eigenspace, pairs: Eigenpairs, given: Tensor | Estimated) -> Curve:
    """The overlap of the coordinates of largest score with V_1 … V_k, as of the largest magnitudes.

    Raises:
        ValueError: The scores are not D finite numbers ≥ 0.
    """
    k, dimension = pairs.basis.shape
    estimated = given if isinstance(given, Estimated) else Estimated(given)
    scores = estimated.scores.detach().to(pairs.basis.device)
    if scores.shape != (dimension,):
        raise ValueError(f"its scores have the shape {tuple(scores.shape)} and not ({dimension},)")
    if not bool((scores >= 0).all()) or not bool(scores.isfinite().all()):
        raise ValueError("its scores are not all finite numbers ≥ 0")
    order = largest_first(scores, k)
    overlap, error, _ = stated_overlap(found.pairs, order, found.residuals)
    # Of the masses, which nobody looks at here, those of one size are the least that can be kept.
    masks = mask_curves(pairs.basis, find_ties(scores, order), overlap[:k], [k])
    ties = masks.ties
    stated, mask = ties.error(error[:k]), _mask(order, ties.tied)
    if estimated.error is not None:
        unsure = estimated.error.detach().to(pairs.basis.device)
        least, greatest, undecided = extreme_overlaps(pairs.basis, scores - unsure, scores + unsure)
        best, _ = stated_extremes(found.pairs, found.residuals, masks)
        highest = with_eigenspace(greatest, ties.average, error[:k], masks.best + best)
        reach = torch.maximum(highest - ties.average, ties.average - least + stated)
        stated = torch.minimum(reach.clamp_min(0), torch.maximum(ties.average, 1 - ties.average))
        mask = replace(mask, open=np.maximum(mask.open, undecided.numpy()))
    chance, value = chance_curve(dimension, k), ties.average
    lower, upper = (value - stated).clamp_min(0), (value + stated).clamp_max(1)
    return replace(Curve.between(value, lower, upper, _numpy(chance)), mask=mask)


def _symmetry_of_the_run(pairs: Eigenpairs, certificate: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether XᵀHX of every block X of a Krylov run was symmetric, as a check of the certificate.

    Raises:
        SpectrumError: It was not, by more than rounding explains.
    """
    asymmetry = pairs.record.get("asymmetry")
    known = next((check for check in certificate if check["name"] == "symmetry"), None)
    if asymmetry is None or known is None or not known["tolerance"]:
        return []
    value = asymmetry / max(float(pairs.values[0].abs()), torch.finfo(torch.float64).tiny)
    tolerance = _ENTRIES * known["tolerance"]
    if value > tolerance:
        raise SpectrumError(
            f"The products of this run are not symmetric: XᵀHX differs from its transpose by {value:.2g} of "
            f"|λ₁|, where rounding explains {tolerance:.2g}; use float64."
        )
    sentence = "XᵀHX was symmetric for every block of vectors that the run multiplied."
    return [
        {
            "name": "symmetry of the run",
            "value": value,
            "tolerance": tolerance,
            "passed": True,
            "sentence": sentence,
            "products": 0.0,
        }
    ]


def _hired(
    hire: Hire, made: Plan, curvature: CurvatureOperator, settings: AnalysisSettings, clock: _Clock
) -> SharedBy | None:
    seconds = seconds_per_product(curvature) if made.seconds is None else made.seconds
    dimension = curvature.shape[0]
    return hire(
        replace(made, seconds=seconds),
        seconds=seconds * clock.expected,
        block_seconds=seconds * _block(settings, dimension),
        size=cost(settings, dimension).memory,
        helped=clock.counter(),
    )


def _with_weight_decay(
    curvature: Operator, settings: AnalysisSettings, decays: Tensor | None = None
) -> Operator:
    """The matrix of the loss with its penalty (λ/2)‖θ‖², whose part is exactly λ·I; or with the penalty of
    each parameter group, whose part is diag(``decays``)."""
    if decays is not None:
        return Shifted(curvature, decays)
    return Shifted(curvature, settings.weight_decay) if settings.weight_decay else curvature


def _of_loss(settings: AnalysisSettings) -> dict[str, Any]:
    """The options of the loss that differ from their defaults."""
    told: dict[str, Any] = {}
    if settings.weights:
        told["class_weights"] = settings.weights
    if settings.ignore_index is not None:
        told["ignore_index"] = settings.ignore_index
    if settings.penalty:
        told["penalties"] = dict(settings.decays)
    return told


def _norms(estimate: APosteriori) -> dict[str, Any]:
    bounds = estimate.interval(PROBABILITY)
    return {
        "norm": {"estimate": estimate.norm, "lower": bounds.norm.lower, "upper": bounds.norm.upper},
        "missed_norm": {"estimate": estimate.error, "lower": bounds.error.lower, "upper": bounds.error.upper},
        "probability": PROBABILITY,
    }


@dataclass(frozen=True)
class Eigenspace:
    """The leading eigenpairs of an operator, and their overlap with a mask.

    Attributes:
        pairs: k eigenpairs and further ones, by descending |λ|.
        residuals: ‖Hv − λv‖₂ of all of them.
        overlap: (k,), of the mask with V_1 … V_k.
        overlap_error: (k,), its stated error.
        ahead: (k,), the part of it that was extrapolated.
        rank: How many of the k pairs have an |λ| above the rounding errors of the products.
        completeness: What a fresh random block says about pairs that may be missing; JSON, and None where the
            method cannot have missed any or does not look.
        hvps: Products that were spent.
    """

    pairs: Eigenpairs
    residuals: Tensor
    overlap: Tensor
    overlap_error: Tensor
    ahead: Tensor
    rank: int
    completeness: dict[str, Any] | None
    hvps: int


def eigenspace(
    operator: Operator,
    settings: AnalysisSettings,
    order: Tensor,
    *,
    exactly: Operator | None = None,
    reference: Operator | None = None,
    decays: Tensor | None = None,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
    stage: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Eigenspace:
    """The leading eigenpairs, how far they are from true ones, and their overlap with a mask.

    Args:
        operator: H without the penalty of weight decay, D × D.
        settings: The method and its sizes.
        order: (k,), the mask's coordinates.
        exactly: The same operator without reduced precision, where ``operator`` has it.
        reference: The same operator in float64, by which some pairs are checked.
        decays: λ of each coordinate, (D,), where it is not the settings' for all.
        storage: Where the basis lives.
        resumed: Told how many products an earlier attempt has made.
        stage: Called with the name of each stage, around it.

    Raises:
        SpectrumError: There are not k pairs, or a product is not finite.
    """
    k = settings.k
    penalised = _with_weight_decay(operator, settings, decays)
    checked = None if reference is None else _with_weight_decay(reference, settings, decays)
    with stage("eigenpairs"):
        pairs = eigenpairs(
            operator, settings, order, reference=checked, decays=decays, storage=storage, resumed=resumed
        )
        if len(pairs.values) < k:
            raise SpectrumError(
                f"The Hessian's sketch has numerical rank {len(pairs.values):,}, so there are no "
                f"{k:,} eigenpairs to compare; choose k ≤ {len(pairs.values):,}."
            )
    with stage("residuals"):
        errors, spent = pairs.residuals, pairs.hvps
        if exactly is not None:
            exact_hessian = _with_weight_decay(exactly, settings, decays)
            errors = residuals(exact_hessian, pairs, storage=storage, resumed=resumed)
            pairs = replace(pairs, rounding=errors)
            spent += len(errors)
        if not pairs.ritz and exactly is None:
            pairs = rayleigh(penalised, pairs, storage=storage, resumed=resumed)
            errors, spent = pairs.residuals, pairs.hvps
        assert errors is not None
        if exactly is None and pairs.rounding is None:  # Krylov has done so itself
            pairs = with_rounding(penalised, checked, pairs, errors, k, storage=storage, resumed=resumed)
            errors, spent = pairs.residuals, pairs.hvps
            assert errors is not None
    with stage("overlap"):
        stated = stated_overlap(pairs, order, errors)
    last = float(pairs.values[k - 1].abs())
    return Eigenspace(
        pairs,
        errors,
        stated.overlap,
        stated.error,
        stated.ahead,
        numerical_rank(pairs.top(k), errors),
        None if pairs.completeness is None else pairs.completeness.to_json(last),
        spent,
    )


def missed(hessian: Operator, pairs: Eigenpairs, settings: AnalysisSettings) -> tuple[APosteriori, Scree]:
    """Estimate the part of H outside the k pairs: its norm, and the band of the scree curve.

    Args:
        hessian: H, the penalty of weight decay included.
        pairs: The k pairs with their residuals.
        settings: Number of test vectors and seed.
    """
    estimate = a_posteriori(hessian, pairs, tests=settings.error_tests, seed=settings.seed)
    # What residuals say of eigenvalues holds for pairs that are all there.
    known = pairs.ritz and (pairs.completeness is None or pairs.completeness.complete)
    return estimate, estimate.scree(pairs.values, pairs.residuals if known else None, PROBABILITY)


def eigenpairs(
    operator: Operator,
    settings: AnalysisSettings,
    order: Tensor,
    *,
    reference: Operator | None = None,
    decays: Tensor | None = None,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Eigenpairs:
    """The top k eigenpairs, and some further ones, by the method that the settings ask for.

    A sketch measures the matrix without its penalty λ·I, which has the same eigenvectors: with it all D
    eigenvalues would count, and no approximation of low rank be near.

    Args:
        operator: Symmetric, D × D, without the penalty of weight decay.
        settings: The method and its sizes.
        order: (k,), the mask's coordinates: unless it was given a tolerance, Krylov goes on for a while if
            the overlap with this mask is not resolved yet.
        reference: The same operator in float64, the penalty included, by which Krylov's pairs are checked.
        decays: As for ``eigenspace``.
        storage: Where the basis lives.
        resumed: Told how many products an earlier attempt has made.
    """
    method = methods.get(settings.method)
    request = settings.request(
        operator.shape[0],
        further=FURTHER,
        enough=lambda pairs: _excess(pairs, order),
        reference=reference,
        storage=storage,
        resumed=resumed,
    )
    penalised = _with_weight_decay(operator, settings, decays)
    found = method.run(penalised if method.penalised else operator, request)
    if method.plugged or not isinstance(found, Eigenpairs):
        return _of_plugin(penalised, method, found, settings)
    return found if method.penalised else found.shifted(settings.weight_decay).top(settings.k)


def _of_plugin(
    penalised: Operator, method: methods.Method, found: Any, settings: AnalysisSettings
) -> Eigenpairs:
    """The Ritz pairs of the subspace that a plug-in's method has found: nothing rests on its word.

    Raises:
        SpectrumError: It is no subspace of k vectors.
    """
    vectors = found.vectors() if isinstance(found, Eigenpairs) else found
    dimension, k = penalised.shape[0], settings.k
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or vectors.shape[0] != dimension:
        what = f"shape {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(vectors).__name__
        raise SpectrumError(
            f"The method {method.name} gave {what} where vectors ({dimension:,}, n ≥ {k:,}) are due; ask who "
            "wrote it."
        )
    try:
        pairs = rayleigh_ritz(penalised, vectors)
    except SpectrumError as error:
        raise SpectrumError(f"The vectors of the method {method.name} are of no use: {error}") from error
    if len(pairs.values) < k:
        raise SpectrumError(
            f"The method {method.name} found a subspace of dimension {len(pairs.values):,}, and "
            f"k = {k:,} pairs are wanted; choose a smaller k, or ask who wrote it."
        )
    return pairs


def _block(settings: AnalysisSettings, parameters: int) -> int:
    """Vectors that the method multiplies at once."""
    return methods.get(settings.method).width(settings.request(parameters))


def _excess(pairs: Eigenpairs, order: Tensor) -> float:
    """How many times as large as in a resolved overlap the stated error is, at the worst size."""
    assert pairs.residuals is not None
    overlap, error, _ = stated_overlap(pairs, order, pairs.residuals)
    return float((error / (RESOLVED * overlap)).nan_to_num(math.inf).max())


def cost(settings: AnalysisSettings, parameters: int) -> Cost:
    """Compute products, memory and disk space of an analysis of a model with D = ``parameters``.

    Raises:
        SettingsError: The settings cannot work for this model.
    """
    settings.check(parameters)
    hvps = _products(settings, parameters, None, precision(settings))
    memory = methods.get(settings.method).memory(settings.request(parameters))
    return Cost(parameters, hvps, memory)


def _products(
    settings: AnalysisSettings, parameters: int, storage: Storage | None, dtype: torch.dtype
) -> int:
    """Hessian-vector products of a whole analysis, if no tolerance or resumption changes it."""
    k = settings.k
    method = methods.get(settings.method)
    hvps = method.products(settings.request(parameters, storage=storage))
    if not method.ritz or settings.precision in REDUCED:
        hvps += k  # which measure the residuals
    checks = min(CHECKS, k) * (1 if dtype == torch.float64 else 2)
    beyond = curves.products(settings.curves, settings.request(parameters))
    return hvps + checks + settings.error_tests + math.ceil(beyond)


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Software, to the commit, and hardware that numbers may depend on."""
    versions = {
        name: importlib.metadata.version(package)
        for name, package in (
            ("torch", "torch"),
            ("curvlinops", "curvlinops-for-pytorch"),
            ("numpy", "numpy"),
        )
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        **version.exact(),
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


class _Clock:
    """Times the stages, counts the products and tells the progress."""

    def __init__(self, settings: AnalysisSettings, progress: Callable[[Progress], None] | None) -> None:
        self.stages: list[Stage] = []
        self.hvps = 0
        self.expected = 1
        self._share = _SHARE_BESIDE_DENSE if methods.get(settings.method).dense else _SHARE_OF_PRODUCTS
        self._progress = progress or (lambda _: None)
        self._stage = ""
        self._fraction = 0.0
        self._resumed = 0

    def expect(self, hvps: int) -> None:
        """How many products the whole analysis will take."""
        self.expected = hvps

    def resume(self, hvps: int) -> None:
        """Count products that an earlier attempt has made."""
        self.hvps += hvps
        self._resumed += hvps
        self._tell()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage = name
        before = self.hvps
        self._tell()
        start = time.perf_counter()
        yield
        self.stages.append(Stage(name, time.perf_counter() - start, self.hvps - before))

    def counter(self) -> Callable[[int], None]:
        """Return the callback to which an operator reports the number of its products so far."""
        counted = 0

        def batch(hvps: int) -> None:
            nonlocal counted
            self.hvps += hvps - counted
            counted = hvps
            self._fraction = max(self._fraction, self._share * min(1.0, self.hvps / self.expected))
            self._tell()

        return batch

    def _tell(self) -> None:
        self._progress(Progress(self._stage, self._fraction, self.hvps, self._resumed))


def _basis_memory(environment: Settings, device: torch.device) -> int:
    """Bytes of a basis that are held in memory."""
    if environment.memory_gb is not None:
        return int(environment.memory_gb * 2**30)
    return int(_BASIS_SHARE * available_memory(device))


def _numpy(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
