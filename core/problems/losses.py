"""The losses by name, each the mean over the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.problems import plugins
from core.settings import LOSSES, AnalysisSettings, SettingsError

# Share of a loss that sums in another order may differ by.
_ROUNDING = 1e-3


def names() -> tuple[str, ...]:
    """The losses there are, the usual one first."""
    further = [name for name in plugins.registry().losses if name not in LOSSES]
    return (*LOSSES, *further)


def build(settings: AnalysisSettings) -> nn.Module:
    """The loss that the settings name: ``loss(outputs, targets(…)) -> scalar``, the mean over the samples.

    - ``cross-entropy``: −Σ_c q_c log softmax(f)_c with q the label's unit vector, or, with label smoothing ε,
      (1 − ε) times it plus ε/C (Szegedy et al., arXiv 1512.00567, §7).
    - ``mse``: (1/C) Σ_c (f_c − q_c)², the mean over the C outputs too, as ``torch.nn.MSELoss``.

    Weight decay is no part of it: its λ·I is added to the matrix itself.

    Raises:
        SettingsError: There is no such loss.
    """
    match settings.loss:
        case "cross-entropy":
            return nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        case "mse":
            return nn.MSELoss()
    if settings.loss not in plugins.registry().losses:
        raise SettingsError(f"There is no loss '{settings.loss}'; choose one of {', '.join(names())}.")
    return plugins.registry().losses[settings.loss]()


def check(name: str, loss: nn.Module, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a plug-in's loss that is no mean over the samples, which a Hessian of batches of data needs.

    Args:
        name: Of the loss.
        loss: As ``build`` gives it.
        outputs: The network's, (N, C), N ≥ 1.
        targets: What it is compared with, (N, …).

    Raises:
        SettingsError: It gives no single number, or the mean of its parts is another.
    """
    if name in LOSSES:
        return
    first = (len(outputs) + 1) // 3
    parts = [part for part in (slice(0, first), slice(first, len(outputs))) if len(outputs[part])]
    values = [loss(outputs[part], targets[part]) for part in (slice(None), *parts)]
    if any(not isinstance(value, Tensor) or value.numel() != 1 for value in values):
        raise SettingsError(
            f"The loss '{name}' gives no single number; it must be the mean over its samples."
        )
    whole, *partial = (float(value) for value in values)
    mean = sum(len(outputs[part]) * value for part, value in zip(parts, partial, strict=True)) / len(outputs)
    if abs(mean - whole) > _ROUNDING * max(abs(whole), *map(abs, partial)):
        raise SettingsError(
            f"The loss '{name}' is no mean over its samples: it is {whole:.6g} on all of them and {mean:.6g} "
            "as the mean of two parts; divide by their number, and weigh them alike."
        )


def targets(loss: str, y: Tensor, outputs: Tensor) -> Tensor:
    """What a loss compares the outputs with: the labels, or their unit vectors for ``mse``.

    Args:
        loss: Name of the loss.
        y: Labels (N,).
        outputs: The network's, (n, C); for C and the floating-point format.

    Returns:
        (N,) int64, or (N, C) in the outputs' format.
    """
    if loss != "mse":
        return y
    return nn.functional.one_hot(y, outputs.shape[-1]).to(outputs.dtype)


def penalty(model: nn.Module, weight_decay: float) -> float:
    """(λ/2)‖θ‖² of all trainable parameters: what weight decay adds to the loss."""
    squares = (p.detach().double().square().sum() for p in model.parameters() if p.requires_grad)
    return 0.5 * weight_decay * float(sum(squares, torch.zeros((), dtype=torch.float64)))
