"""The losses by name, each the mean over the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from seigh.core.curvature.causes import operation, reason
from seigh.core.curvature.shares import LossError, Mean, mean_of
from seigh.core.linalg.memory import is_out_of_memory
from seigh.core.problems import plugins
from seigh.core.settings import AnalysisSettings, SettingsError

# What makes each of the losses that are here without a plug-in.
BUILT_IN: Mapping[str, Callable[[AnalysisSettings], nn.Module]] = MappingProxyType(
    {
        "cross-entropy": lambda settings: nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing),
        "mse": lambda _: nn.MSELoss(),
    }
)


def names() -> tuple[str, ...]:
    """The losses there are, the usual one first."""
    return (*BUILT_IN, *plugins.registry().losses)


def build(settings: AnalysisSettings) -> nn.Module:
    """The loss that the settings name: ``loss(outputs, targets(…)) -> scalar``, the mean over the samples.

    - ``cross-entropy``: −Σ_c q_c log softmax(f)_c with q the label's unit vector, or, with label smoothing ε,
      (1 − ε) times it plus ε/C (Szegedy et al., arXiv 1512.00567, §7).
    - ``mse``: (1/C) Σ_c (f_c − q_c)², the mean over the C outputs too, as ``torch.nn.MSELoss``.

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
    """What a loss is the mean of: the weights of the samples, by its derivatives in the outputs.

    Args:
        name: Of the loss.
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
            f"The loss '{name}' does not take outputs of shape {_shape(outputs)} with targets of shape "
            f"{_shape(targets)} ({reason(error)}); choose a loss for such outputs, or a network and labels "
            "that pair: outputs (N, classes) and labels (N,)."
        ) from error
    if not found.curvature.passed:
        raise SettingsError(found.curvature.sentence)
    return found


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def targets(loss: str, y: Tensor, outputs: Tensor) -> Tensor:
    """What a loss compares the outputs with: the labels, or their unit vectors for ``mse``.

    Args:
        loss: Name of the loss.
        y: Labels (N,).
        outputs: The network's, (n, C); for C and the floating-point format.

    Returns:
        (N,) int64, or (N, C) in the outputs' format.
    """
    if loss != "mse" or y.is_floating_point():
        return y
    return nn.functional.one_hot(y, outputs.shape[-1]).to(outputs.dtype)


def penalty(model: nn.Module, weight_decay: float) -> float:
    """(λ/2)‖θ‖² of all trainable parameters: what weight decay adds to the loss."""
    squares = (p.detach().double().square().sum() for p in model.parameters() if p.requires_grad)
    return 0.5 * weight_decay * float(sum(squares, torch.zeros((), dtype=torch.float64)))
