"""``seigh.export``: a network in a file that the lab takes as an architecture, certified to be the same."""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seigh.core.curvature import CurvatureOperator
from seigh.core.curvature.causes import place
from seigh.core.curvature.certificate import what_cuts
from seigh.core.curvature.operator import chosen_parameters
from seigh.core.curvature.paths import Function
from seigh.core.errors import first_line
from seigh.core.names import Kind
from seigh.core.problems.graphs.files import SUFFIX, read
from seigh.core.problems.graphs.network import ExportedNetwork
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.problems.outputs import with_tensor_outputs

# Of what torch.export.save writes, the lab reads this alone. Weights are left to the checkpoints.
_READ = re.compile(
    r"[^/]+/(?:models/model\.json|data/constants/.+|data/weights/model_weights_config\.json"
    r"|archive_format|archive_version|byteorder|\.data/.+)"
)
# Of an operation, the one fact that the lab tells about its place. Paths and lines of source code stay here.
_TOLD = "nn_module_stack"

# Samples that are exported where their number cannot be left open.
_FIXED = 23

# Rounding in float64: relative to the largest output, and to the norm of a product.
_OUTPUTS = 1e-10
_PRODUCTS = 1e-8


@dataclass(frozen=True)
class Exported:
    """What an exported network was measured to be.

    Attributes:
        path: The file.
        architecture: What the lab calls it.
        parameters: D, its trainable parameters.
        operations: How many it consists of.
        outputs: Largest difference between outputs of the file and of the module, over the largest output,
            in float64.
        hessian: ‖Hv − H′v‖ / ‖Hv‖ for a random v, where H is the Hessian of a loss of the module's outputs
            and H′ the one of the file's, in float64; None where the module has no second derivative.
            Then gradients were compared instead.
        ggn: The same of the generalised Gauss–Newton matrix; None where the module has none.
    """

    path: Path
    architecture: str
    parameters: int
    operations: int
    outputs: float
    hessian: float | None
    ggn: float | None


def export(model: nn.Module, example: Tensor | Sequence[Tensor], path: str | Path) -> Exported:
    """Write a network as a file that the lab takes as an architecture, without any of its code.

    The file holds the network's operations, in eval mode, for any number of samples, and its constants; no
    weights, which checkpoints bring, and no source code. It is written once the network in it gives the
    module's outputs and products with Hessian and GGN, for the weights that the module has.

    Args:
        model: The network; its outputs are a tensor (N, …), or hold one called ``logits`` or ``out``. It is
            left as it is.
        example: Samples as the network takes them, (N, …), two or more.
        path: The file, which ends in ``.pt2``.

    Returns:
        How close the network in the file is to the module.

    Raises:
        SettingsError: If the network cannot be exported, consists of operations that the lab does not take,
            or is not the same in the file; the sentence says which operation it is and what to do.
    """
    target = Path(path)
    if target.suffix.lower() != SUFFIX:
        raise Unfit(f"'{target.name}' does not end in {SUFFIX}; give a path that does.")
    if not target.absolute().parent.is_dir():
        raise Unfit(f"The folder of '{target}' does not exist; make it first.")
    x = _samples(example)
    net = copy.deepcopy(model).eval().cpu()
    partial = target.with_name(f".{target.name}.partial{SUFFIX}")
    refusals: list[str] = []
    try:
        for attempt in ({}, {"rewritten": True}, {"free": False}):
            try:
                _write(net, x, partial, **attempt)
                graph = read(partial, target.name)
                found = _certified(net, graph.program, x)
            except Unfit as error:
                refusals.append(str(error))
                continue
            os.replace(partial, target)
            parameters = sum(each.numel() for each in net.parameters() if each.requires_grad)
            return Exported(target, graph.name, parameters, len(graph.program.steps), *found)
    finally:
        partial.unlink(missing_ok=True)
    raise Unfit(refusals[0])


def _samples(example: Tensor | Sequence[Tensor]) -> Tensor:
    """The example as two samples or more."""
    if not isinstance(example, Tensor):
        if len(example) != 1 or not isinstance(example[0], Tensor):
            raise Unfit(
                "The network is given something else than one tensor of samples (N, …); wrap it in a module "
                "whose forward takes that alone."
            )
        example = example[0]
    if example.ndim == 0 or len(example) == 0:
        raise Unfit("The example is no batch of samples (N, …); give two samples or more.")
    x = example.detach().cpu()
    return x if len(x) > 1 else torch.cat([x, x])


def _write(net: nn.Module, x: Tensor, path: Path, *, rewritten: bool = False, free: bool = True) -> None:
    """Export a network, with the number of samples free.

    Args:
        net: In eval mode.
        x: Samples.
        path: The file.
        rewritten: Whether torch rewrites changes in place, and with them most layers, to elementary
            operations.
        free: Whether torch leaves the number of samples open. Where it does not, as for a network that asks
            for ``len(x)``, it is a number that is hardly one of the network's own sizes, and reading the
            file makes it free again.
    """
    content = io.BytesIO()
    shapes = ({0: torch.export.Dim.DYNAMIC},) if free else None
    if not free:
        x = x[torch.arange(_FIXED) % len(x)]
    try:
        with warnings.catch_warnings(), _layers_apart(), _silent():
            warnings.simplefilter("ignore")
            program = torch.export.export(net, (x.clone(),), dynamic_shapes=shapes)
            if rewritten:
                program = program.run_decompositions({})
            torch.export.save(program, content)
    except Exception as error:  # tracing meets the network's own code, and fails in every way there is
        raise Unfit(_untraceable(net, error)) from error
    _kept(content, path)


def _untraceable(net: nn.Module, error: Exception) -> str:
    """Say why torch.export fails."""
    name, why, where = type(net).__name__, first_line(error), place(error)
    at = f", {where}" if where else ""
    if "data-dependent" in why:
        return (
            f"torch.export cannot trace {name}, which takes a number out of a tensor{at} (by float(), "
            "item(), or a branch that depends on it); keep it in a tensor."
        )
    return (
        f"torch.export cannot trace {name} with a free number of samples ({why}{at}); take sizes from "
        "x.shape (x.shape[0], not len(x)), and let no branch depend on sizes or numbers."
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch.export prints where it fails, which the refusal says in a sentence."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(before)


@contextmanager
def _layers_apart() -> Iterator[None]:
    """Attention of its parts, where torch would take one kernel for a whole layer, without derivatives."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _kept(content: io.BytesIO, path: Path) -> None:
    """Copy what the lab reads of an archive."""
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as copied:
        for entry in archive.infolist():
            if not _READ.fullmatch(entry.filename):
                continue
            data = archive.read(entry)
            if entry.filename.endswith("/models/model.json"):
                data = _without_source(json.loads(data))
            # The same network gives the same file, whenever it is exported.
            name = "network/" + entry.filename.partition("/")[2]
            if name != "network/.data/serialization_id":
                copied.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def _without_source(model: dict[str, Any]) -> bytes:
    for node in model["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {key: value for key, value in node["metadata"].items() if key == _TOLD}
    model["guards_code"] = []
    return json.dumps(model, separators=(",", ":")).encode()


# --- The certificate --------------------------------------------------------------------------------------


def _certified(net: nn.Module, program: Any, x: Tensor) -> tuple[float, float | None, float | None]:
    """How far outputs and products of the network in the file are from those of the module, in float64.

    Raises:
        Unfit: If they differ by more than rounding.
    """
    try:
        ours = with_tensor_outputs(copy.deepcopy(net).double())
        rebuilt = ExportedNetwork(program)
        rebuilt.load_state_dict(net.state_dict())
        theirs = with_tensor_outputs(rebuilt.eval().double())
    except RuntimeError as error:
        raise Unfit(f"The file has other tensors than the module ({first_line(error)}).") from error
    if list(dict(theirs.named_parameters())) != list(dict(ours.named_parameters())):
        raise Unfit("The file has the parameters in another order than the module; report this network.")
    samples = x.double() if x.is_floating_point() else x
    # What a module has compiled is computed as it is written: compiled code has no second derivatives.
    with torch.compiler.set_stance("force_eager"):
        outputs, width = _outputs(ours, theirs, samples)
        targets = torch.arange(len(samples)) % width
        try:
            products = _products(ours, theirs, samples, targets)
        except _NotFinite:  # at zeros, as of layers that begin as nothing
            _move(ours, theirs)
            products = _products(ours, theirs, samples, targets)
    return outputs, products["hessian"], products["ggn"]


def _outputs(ours: nn.Module, theirs: nn.Module, x: Tensor) -> tuple[float, int]:
    """The largest difference of outputs over the largest output, and a sample's number of outputs.

    Raises:
        Unfit: If they differ by more than rounding.
    """
    differences = []
    for part in (x, x[:1]):
        given = part.clone()
        try:
            with torch.no_grad():
                expected, found = ours(given), theirs(part.clone())
        except Exception as error:  # the network's own code
            raise Unfit(
                f"The network cannot be computed in float64 ({first_line(error)}); let it take its "
                "format from its weights and inputs."
            ) from error
        if given._version:
            raise Unfit(
                "The network changes its input in place when it is computed; let it work on a copy "
                "(x.clone())."
            )
        if found.shape != expected.shape:
            raise Unfit(
                f"The network in the file gives outputs of shape {tuple(found.shape)}, the module "
                f"{tuple(expected.shape)}; let its forward pass depend on its input and weights alone."
            )
        if not bool(expected.isfinite().all()):
            raise Unfit(
                "The network's outputs are not finite (NaN or infinity) for the example; check its weights "
                "and the example."
            )
        scale = float(expected.abs().max()) or 1.0
        differences.append(float((found - expected).abs().max()) / scale)
    if not max(differences) <= _OUTPUTS:
        raise Unfit(
            "The network in the file gives other outputs than the module (they differ by "
            f"{max(differences):.1e}), as something in its forward pass depends on more than its input and "
            "weights; let it depend on these alone."
        )
    return max(differences), math.prod(expected.shape[1:])


class _Loss(nn.Module):
    """A loss of any outputs: cross-entropy of all outputs of a sample against one of them, or the squared
    difference where there is one output only; the mean over samples."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        rows = outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]
        if rows.shape[1] == 1:
            return ((rows[:, 0] - targets) ** 2).mean()
        return functional.cross_entropy(rows, targets)


class _NotFinite(Unfit):
    """Products are not finite at these weights."""


@torch.no_grad()
def _move(ours: nn.Module, theirs: nn.Module) -> None:
    """Change the parameters of both networks at random, alike, by a little."""
    generator = torch.Generator().manual_seed(1)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        noise = 0.01 * torch.randn(one.shape, generator=generator, dtype=one.dtype)
        one.add_(noise)
        other.add_(noise)


def _products(ours: nn.Module, theirs: nn.Module, x: Tensor, targets: Tensor) -> Mapping[str, float | None]:
    """Relative differences of products with one random vector; None where the module has none.

    Raises:
        Unfit: If they differ by more than rounding, or the file's network has none where the module has.
    """
    if not any(each.requires_grad for each in ours.parameters()):
        raise Unfit("The network has no trainable parameters; unfreeze those to analyse (requires_grad).")
    expected_slope, given_slope = (_gradient(model, x, targets) for model in (ours, theirs))
    _difference("gradient", expected_slope, given_slope, ours, x)
    found: dict[str, float | None] = {}
    for kind in ("hessian", "ggn"):
        expected, given = (_product(model, x, targets, kind) for model in (ours, theirs))
        found[kind] = None
        if expected is not None and given is None:
            raise Unfit(
                f"The module has a product with its {kind}, and the network in the file has none; "
                "report this network."
            )
        if expected is not None and given is not None:
            found[kind] = _difference(kind, expected, given, ours, x)
    return found


def _difference(what: str, expected: Tensor, given: Tensor, ours: nn.Module, x: Tensor) -> float:
    """‖given − expected‖ / ‖expected‖.

    Raises:
        _NotFinite: The module's is not finite.
        Unfit: It is more than rounding.
    """
    if not bool(expected.isfinite().all()):
        raise _NotFinite(
            f"The {what} of the network is not finite (NaN or infinity), at its weights and beside them; "
            "keep norms, square roots and logarithms away from 0."
        )
    difference = float((given - expected).norm() / expected.norm().clamp_min(1e-300))
    if not difference <= _PRODUCTS:
        function = Function(ours, _Loss(), chosen_parameters(ours, None))
        raise Unfit(
            f"The network in the file has another {what} than the module (they differ by "
            f"{difference:.1e}), as where a backward pass is not the derivative of its forward "
            f"pass{what_cuts(function, x[:1])}; leave its derivatives to PyTorch."
        )
    return difference


def _gradient(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the loss, (D,).

    Raises:
        Unfit: There is none.
    """
    weights = [each for each in model.parameters() if each.requires_grad]
    try:
        slopes = torch.autograd.grad(_Loss()(model(x.clone()), targets), weights, allow_unused=True)
    except RuntimeError as error:
        raise Unfit(
            f"The network's outputs have no derivative ({first_line(error)}); write it with differentiable "
            "operations."
        ) from error
    dense = (torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(weights, slopes, strict=True))
    return torch.cat([each.flatten() for each in dense])


def _product(model: nn.Module, x: Tensor, targets: Tensor, kind: Kind) -> Tensor | None:
    """The curvature times a random vector, (D, 1); None where there is no such derivative."""
    try:
        operator = CurvatureOperator(
            model, _Loss(), x, targets, kind=kind, path="double-backward", columns=1, batch_size=len(x)
        )
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(operator.shape[0], 1, generator=generator, dtype=torch.float64)
        found: Tensor = operator @ vector
        return found
    except (RuntimeError, NotImplementedError, ValueError):
        return None
