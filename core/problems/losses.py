"""The losses by name, each the mean over the samples of a batch, and what they pair outputs with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import Tensor, nn

from seigh.core.curvature.causes import operation, reason
from seigh.core.curvature.shares import LossError, Mean, mean_of
from seigh.core.linalg.memory import is_out_of_memory
from seigh.core.problems import plugins, token_losses
from seigh.core.settings import AnalysisSettings, SettingsError

# The label that has no loss unless the settings name another one, as in PyTorch.
IGNORED = -100

# By how much the probabilities of a sample may miss the sum 1: they were rounded to float16 or printed.
_SUM = 1e-3


def _cross_entropy(settings: AnalysisSettings) -> nn.Module:
    return nn.CrossEntropyLoss(
        weight=_weights(settings),
        ignore_index=_ignored(settings),
        label_smoothing=settings.label_smoothing,
    )


def _bce(settings: AnalysisSettings) -> nn.Module:
    return nn.BCEWithLogitsLoss(pos_weight=_weights(settings))


def _weights(settings: AnalysisSettings) -> Tensor | None:
    """The class weights in float64, so that an analysis in float64 has them unrounded; None without any."""
    return torch.tensor(settings.weights, dtype=torch.float64) if settings.weights else None


# What makes each of the losses that are here without a plug-in.
BUILT_IN: Mapping[str, Callable[[AnalysisSettings], nn.Module]] = MappingProxyType(
    {
        "cross-entropy": _cross_entropy,
        "mse": lambda _: nn.MSELoss(),
        "bce": _bce,
        token_losses.NEXT_TOKEN: lambda _: token_losses.TokenCrossEntropy(),
        token_losses.EACH_TOKEN: lambda _: token_losses.TokenCrossEntropy(),
    }
)


def names() -> tuple[str, ...]:
    """The losses there are, the usual one first."""
    return (*BUILT_IN, *plugins.registry().losses)


def build(settings: AnalysisSettings) -> nn.Module:
    """The loss that the settings name: ``loss(outputs, targets(…)) -> scalar``, the mean over the samples.

    - ``cross-entropy``: −Σ_c q_c log softmax(f)_c with q the label's unit vector, or, with label smoothing ε,
      (1 − ε) times it plus ε/C (Szegedy et al., arXiv 1512.00567, §7), or a soft label. Of labels, it is the
      mean over all samples and positions that are not ignored, weighted by their class weights, as
      ``torch.nn.CrossEntropyLoss``.
    - ``mse``: the mean of (f_j − y_j)² over samples and outputs, as ``torch.nn.MSELoss``; y is the label's
      unit vector where it is one.
    - ``bce``: the mean of −y_j log σ(f_j) − (1 − y_j) log(1 − σ(f_j)) over samples and outputs, as
      ``torch.nn.BCEWithLogitsLoss``; class weights multiply the first term.
    - ``next-token``: cross-entropy at every position of a sequence with the token after it, the mean over all
      tokens that have a label other than −100.
    - ``token-cross-entropy``: likewise with the label at the position itself, as of masked tokens.

    Weight decay is no part of it: its λ·I is added to the matrix itself.

    Raises:
        SettingsError: There is no such loss.
    """
    if settings.loss in BUILT_IN:
        return BUILT_IN[settings.loss](settings)
    if settings.loss not in plugins.registry().losses:
        raise SettingsError(f"There is no loss '{settings.loss}'; choose one of {', '.join(names())}.")
    return plugins.registry().losses[settings.loss]()


def mean(name: str, loss: nn.Module, outputs: Tensor, targets: Tensor) -> Mean:
    """Find the weights with which a loss averages its samples, by its derivatives in the outputs.

    Args:
        name: Name of the loss.
        loss: As ``build`` gives it.
        outputs: The network's, (N, …), N ≥ 1.
        targets: What it is compared with, (N, …).

    Raises:
        SettingsError: It gives no single number, is no weighted mean over the samples, does not take these
            outputs and targets, or is flat to rounding.
    """
    try:
        found = mean_of(loss, outputs, targets)
    except LossError as error:
        raise SettingsError(f"The loss '{name}' {error}") from error
    except Exception as error:  # a loss refuses shapes and formats by every kind of exception
        if is_out_of_memory(error):
            raise
        if (name_of := operation(str(error))) is not None:
            raise SettingsError(
                f"The operation {name_of} of the loss '{name}' has no second derivative in PyTorch; write it "
                "by elementary operations, or choose another loss."
            ) from error
        raise SettingsError(
            f"The loss '{name}' does not take outputs of shape {_shape(outputs.shape)} with targets of shape "
            f"{_shape(targets.shape)} ({reason(error)}); choose a loss for such outputs, or a network and "
            "labels that pair: outputs (N, classes) and labels (N,)."
        ) from error
    if not found.curvature.passed:
        raise SettingsError(found.curvature.sentence)
    if found.shares is None and getattr(loss, "weight", None) is not None:
        # The weights happen to be alike on these samples; said, the data can be divided.
        found = replace(found, shares=torch.full((len(outputs),), 1 / len(outputs), dtype=torch.float64))
    return found


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


# --- Outputs and targets ----------------------------------------------------------------------------------


def targets(loss: str, y: Tensor, outputs: Tensor) -> Tensor:
    """Return the targets in the form in which a loss compares them with the outputs.

    Args:
        loss: Name of the loss.
        y: Labels or numbers, (N, …).
        outputs: The network's, (n, …); for their shape and floating-point format.

    Returns:
        The labels as they are, or numbers in the outputs' format: of ``mse``, labels (N,) become unit
        vectors; numbers (N,) pair with outputs (N, 1); of ``next-token``, the labels of the next positions.
    """
    if loss == token_losses.NEXT_TOKEN:
        return token_losses.next_tokens(y, outputs.shape[1] if outputs.ndim == 3 else 0)
    if loss == token_losses.EACH_TOKEN or loss not in BUILT_IN:
        return y
    if loss == "mse" and not y.is_floating_point() and y.ndim == 1 and outputs.ndim == 2:
        return nn.functional.one_hot(y, outputs.shape[-1]).to(outputs.dtype)
    if loss == "cross-entropy" and not y.is_floating_point():
        return y
    if y.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] == 1:
        y = y[:, None]
    return y.to(outputs.dtype)


def target_sums(settings: AnalysisSettings, y: Tensor, classes: int) -> Tensor:
    """s_n = Σ_c t_nc of cross-entropies −Σ_c t_nc log softmax(f_n)_c of single samples, each the mean over
    itself alone: (n,) float64.

    It is 1 of labels, whatever their class weights, and of soft labels that sum to 1. Smoothing beside class
    weights spreads ε/C times the weight of each class, in units of the weight of the label's own; and soft
    labels take the weights of all their classes.

    Args:
        settings: Of ``cross-entropy``.
        y: Labels (n,), none of them ignored, or soft labels (n, C).
        classes: C.
    """
    weights = torch.tensor(settings.weights or [1.0] * classes, dtype=torch.float64, device=y.device)
    smoothing = settings.label_smoothing
    if y.is_floating_point():
        return ((1 - smoothing) * y.double() + smoothing / classes) @ weights
    return (1 - smoothing) + smoothing / classes * weights.sum() / weights[y]


def accuracy(settings: AnalysisSettings, y: Tensor, outputs: Tensor) -> float | None:
    """The share of right predictions: of samples, of positions that are not ignored, or of outputs for
    ``bce``; None where there are no classes."""
    if settings.loss == "bce":
        wanted = targets("bce", y, outputs)
        return float(((outputs > 0) == (wanted > 0.5)).double().mean())
    if outputs.ndim < 2:
        return None
    predicted = outputs.argmax(1)
    if y.is_floating_point():
        if settings.loss != "cross-entropy" or y.shape != outputs.shape:
            return None
        return float((predicted == y.argmax(1)).double().mean())
    if y.shape != predicted.shape:
        return None
    counted = y != _ignored(settings)
    return float((predicted == y)[counted].double().mean()) if bool(counted.any()) else None


def mismatch(settings: AnalysisSettings, y: Tensor, outputs: tuple[int, ...], data: str) -> str | None:
    """Why a loss that is built in cannot compare a network's outputs with these targets, and what would fit.

    Args:
        settings: With the loss.
        y: All targets of the data, (N, …).
        outputs: Shape of a sample's outputs, without the batch.
        data: Name of the data.

    Returns:
        A sentence; None if they fit, or only the loss itself knows.
    """
    match settings.loss:
        case "cross-entropy":
            wrong = (
                _not_soft(settings, y, outputs) if y.is_floating_point() else _no_labels(settings, y, outputs)
            )
        case "mse":
            wrong = _not_like(settings, y, outputs) if y.is_floating_point() else _no_unit_vectors(y, outputs)
        case "bce":
            wrong = _not_like(settings, y, outputs) or _not_binary(y)
        case token_losses.NEXT_TOKEN | token_losses.EACH_TOKEN:
            one = torch.empty((1, *outputs), device="meta")
            try:
                token_losses.check(settings.loss, None, y, one, targets(settings.loss, y, one))
            except LossError as error:
                return f"The loss '{settings.loss}' {error}"
            return None
        case _:
            return None
    if wrong is None and settings.weights:
        wrong = _wrong_weights(settings, outputs)
    if wrong is None:
        return None
    if not wrong.startswith(("bce", "mse")):
        wrong = wrong[:1].upper() + wrong[1:]
    return wrong.replace("{data}", data)


def _ignored(settings: AnalysisSettings) -> int:
    return IGNORED if settings.ignore_index is None else settings.ignore_index


def _pair(y: Tensor, outputs: tuple[int, ...]) -> str:
    return f"targets (N{_more(y.shape[1:])}) of {{data}} and outputs (N{_more(outputs)})"


def _more(shape: tuple[int, ...]) -> str:
    return "".join(f", {each}" for each in shape) or ","


def _no_labels(settings: AnalysisSettings, y: Tensor, outputs: tuple[int, ...]) -> str | None:
    """Say what keeps integers from being labels (N, …) from 0 to C − 1 for outputs (N, C, …)."""
    inner, classes = tuple(y.shape[1:]), outputs[0] if outputs else 1
    if inner != outputs[1:]:
        if outputs == inner:
            binary = bool(((y == 0) | (y == 1)).all())
            way = "--loss bce compares each output with 0 or 1"
            if binary and y.ndim == 2 and bool((y.sum(1) == 1).all()):
                return (
                    f"the targets of {{data}} are one-hot, of shape {_shape(y.shape)}; save the labels "
                    "themselves, y.argmax(1), or for one sigmoid per output choose --loss bce."
                )
            if not binary:
                way = "--loss mse compares numbers: save y as float32"
            return f"cross-entropy does not pair {_pair(y, outputs)}; {way}."
        if inner == (1,) and len(outputs) == 1 and outputs != (1,):
            return f"the labels of {{data}} have the shape {_shape(y.shape)}; save them as (N,), y[:, 0]."
        if len(outputs) == len(inner) + 1 and inner == outputs[:-1]:
            return (
                f"cross-entropy takes outputs (N, classes, …), and {_pair(y, outputs)} have the classes "
                f"last; choose the loss {token_losses.NEXT_TOKEN} for a language model, "
                f"{token_losses.EACH_TOKEN} for labels at the tokens themselves, or else let the network "
                "return outputs.movedim(-1, 1)."
            )
        return (
            f"cross-entropy does not pair {_pair(y, outputs)}; it takes outputs (N, classes, …) with labels "
            "(N, …), one for each sample or each position."
        )
    labels = y[y != _ignored(settings)]
    if not labels.numel():
        return f"all labels of {{data}} are {_ignored(settings)}, the one without loss; choose other data."
    least, largest = int(labels.min()), int(labels.max())
    if least < 0:
        return f"{{data}} holds the label {least}; labels count from 0, and {IGNORED} has no loss."
    if largest >= classes == 1:
        return (
            "this architecture has one output for each sample, as a regression or a classifier with a sigmoid"
            f" has, and the labels of {{data}}, 0 to {largest}, need an output for each class; give it "
            f"{largest + 1} outputs" + (", or choose --loss bce." if largest == 1 else ".")
        )
    if largest >= classes:
        remedy = "choose data with fewer classes"
        if y.ndim > 1 and len(set(labels.flatten()[:100_000].tolist())) <= classes + 1:
            remedy = f"if it has no loss, say so with --ignore-index {largest}"
        if largest == classes and least > 0:
            remedy = "its labels seem to count from 1: save y - 1"
        return (
            f"{{data}} has the label {largest}, but this architecture has {classes} outputs "
            f"(labels 0 to {classes - 1}); {remedy}."
        )
    return None


def _not_soft(settings: AnalysisSettings, y: Tensor, outputs: tuple[int, ...]) -> str | None:
    """Say what keeps numbers from being soft labels: the outputs' shape, sums of 1 over the classes."""
    if settings.ignore_index is not None:
        return (
            "the targets of {data} are soft labels, of which none can be ignored; leave --ignore-index out."
        )
    if tuple(y.shape[1:]) != outputs or not outputs:
        whole = bool((y == y.round()).all())
        way = "save the labels as integers" if whole else "for a regression, choose --loss mse"
        return (
            "cross-entropy takes labels as integers or soft labels of the outputs' shape, not "
            f"{_pair(y, outputs)} in floating point; {way}."
        )
    if bool((y < 0).any()) or bool(((y.sum(1) - 1).abs() > _SUM).any()):
        binary = bool(((y >= 0) & (y <= 1)).all())
        way = "--loss bce compares each output by itself" if binary else "--loss mse compares any numbers"
        return f"the targets of {{data}} are no probabilities that sum to 1 over the classes; {way}."
    return None


def _no_unit_vectors(y: Tensor, outputs: tuple[int, ...]) -> str | None:
    """Say what keeps integers from being labels (N,) below the number of outputs, for mse."""
    if y.ndim != 1 or len(outputs) != 1 or outputs == (1,):
        return (
            f"mse compares integers (N,) as unit vectors with outputs (N, classes), and {_pair(y, outputs)} "
            "are of other shapes; for a regression, save y as float32."
        )
    if int(y.min()) < 0 or int(y.max()) >= outputs[0]:
        return (
            f"{{data}} has the labels {int(y.min())} to {int(y.max())}, but this architecture has "
            f"{outputs[0]} outputs; for a regression, save y as float32, in the outputs' shape."
        )
    return None


def _not_like(settings: AnalysisSettings, y: Tensor, outputs: tuple[int, ...]) -> str | None:
    """Say what keeps numbers from being targets of the outputs' shape; (N,) stands for (N, 1)."""
    inner = tuple(y.shape[1:])
    if inner == outputs or (not inner and outputs == (1,)):
        return None
    way = "save y in the shape of the outputs"
    if settings.loss == "bce" and not y.is_floating_point() and inner == outputs[1:]:
        way = "these labels fit --loss cross-entropy"
    return f"{settings.loss} compares numbers of one shape, and {_pair(y, outputs)} have two; {way}."


def _not_binary(y: Tensor) -> str | None:
    if bool(((y < 0) | (y > 1)).any()):
        least, largest = float(y.min()), float(y.max())
        way = (
            "cross-entropy takes labels of more classes"
            if not y.is_floating_point()
            else "mse takes any numbers"
        )
        return f"bce takes targets from 0 to 1, and those of {{data}} are {least:g} to {largest:g}; {way}."
    return None


def _wrong_weights(settings: AnalysisSettings, outputs: tuple[int, ...]) -> str | None:
    if settings.loss == "bce":
        # PyTorch lines the weights up with the last axis, and one weight with every output.
        wanted, of = (outputs[-1] if outputs else 1), "outputs"
        fits = len(settings.weights) in (1, wanted)
    else:
        wanted, of = outputs[0], "classes"
        fits = len(settings.weights) == wanted
    if fits:
        return None
    return f"there are {len(settings.weights)} class weights for {wanted} {of}; give one for each."


# --- The penalty ------------------------------------------------------------------------------------------


def decay_of(settings: AnalysisSettings, name: str) -> float:
    """λ of a parameter by its name."""
    found = settings.weight_decay
    for pattern, decay in settings.decays:
        if fnmatchcase(name, pattern):
            found = decay
    return found


def check_penalty(settings: AnalysisSettings, names: list[str]) -> None:
    """Refuse a penalty of parameters that there are none of.

    Raises:
        SettingsError: A pattern matches none of the names.
    """
    for pattern, _ in settings.decays:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
            raise SettingsError(f"The penalty of '{pattern}' matches no parameter; the model's are {some}.")


def penalty(model: nn.Module, settings: AnalysisSettings) -> float:
    """Σ (λ/2)‖θ_i‖² over all trainable parameters: what weight decay adds to the loss."""
    terms = (
        0.5 * decay_of(settings, name) * float(p.detach().double().square().sum())
        for name, p in model.named_parameters()
        if p.requires_grad
    )
    return sum(terms, 0.0)
