"""Losses with a label for each position of a sequence, as language models have them.

The loss of N sequences is the mean over all their tokens that have a label,
L = Σ_n Σ_t ℓ(f(x_n)_t, y_nt) / Σ_n |{t : y_nt ≠ −100}|, so a sequence weighs as much as it has such tokens:
a weighted mean over samples. Labels of −100 have no loss, as ``torch.nn.CrossEntropyLoss`` has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seigh.core.curvature.shares import LossError, Mean, mean_of

IGNORED = -100  # the label of a token without a loss

NEXT_TOKEN = "next-token"
EACH_TOKEN = "token-cross-entropy"

# Outputs on which a loss is measured, whose derivatives take ten times as much in float64.
_MEASURED = 2**22

# Tokens in the sequences that measured tokens are put together to.
_LENGTH = 4

# What two ways to find the weights of samples may differ by, relative to the largest.
_TOLERANCE = 1e-6


class TokenCrossEntropy(nn.Module):
    """Cross-entropy of (N, T, V) outputs with (N, T) labels, the mean over all tokens that have one."""

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1), ignore_index=IGNORED
        )

    def weights(self, labels: Tensor) -> Tensor:
        """How many tokens of each sequence have a label: (N,) float64."""
        return (labels != IGNORED).sum(1).double()


def next_tokens(y: Tensor, positions: int) -> Tensor:
    """Return the labels that a model of ``positions`` outputs is to predict: each of the next position.

    Args:
        y: The label at each position, (N, T), and after the last one if there is one more, (N, T + 1).
        positions: T.

    Returns:
        (N, T); the last position has nothing to predict, −100, unless y has one more column.
    """
    if y.is_floating_point() or y.ndim != 2 or y.shape[1] not in (positions, positions + 1):
        return y  # which ``check`` refuses
    following = y[:, 1:]
    if y.shape[1] == positions:
        following = torch.cat([following, torch.full_like(y[:, :1], IGNORED)], dim=1)
    return following.contiguous()


def check(name: str, x: Tensor | None, y: Tensor, outputs: Tensor, labels: Tensor) -> None:
    """Refuse labels that do not go with the outputs, and those that another of these losses is for.

    Args:
        name: Name of the loss.
        x: Inputs of the network, (N, T) tokens or any other; None if they are not to be looked at.
        y: Labels as the data have them.
        outputs: Outputs for some of the samples.
        labels: What the loss compares all outputs with.

    Raises:
        LossError: They do not pair.
    """
    if y.is_floating_point() or outputs.ndim != 3 or labels.ndim != 2 or labels.shape[1] != outputs.shape[1]:
        raise LossError(
            f"takes outputs of shape (N, T, vocabulary) and labels of shape (N, T), not outputs of shape "
            f"{_shape(outputs)} and labels of shape {_shape(y)}; choose cross-entropy for one label a "
            "sample, or a network and data that pair."
        )
    counted = labels != IGNORED
    if not bool(counted.any()):
        raise LossError(
            "is taken of no token: every label of these samples is −100; choose others, or give them labels."
        )
    smallest, largest = int(labels[counted].min()), int(labels[counted].max())
    if smallest < 0 or largest >= outputs.shape[2]:
        wrong = smallest if smallest < 0 else largest
        raise LossError(
            f"has outputs for the tokens 0 to {outputs.shape[2] - 1:,}, and there is a label {wrong:,}; "
            "choose data of the network's own vocabulary (−100 marks tokens without a loss)."
        )
    if x is None or x.shape != y.shape or x.is_floating_point() or x.shape[1] < 2:
        return
    given = y != IGNORED
    if name == NEXT_TOKEN and bool((y == x)[:, 1:][given[:, 1:]].all()):
        return
    if name == NEXT_TOKEN and bool((y[:, :-1] == x[:, 1:])[given[:, :-1]].all()):
        raise LossError(
            "shifts the labels by a position, and these are the next tokens already; choose the loss "
            f"{EACH_TOKEN}, which does not."
        )
    if name == EACH_TOKEN and bool((y == x)[given].all()):
        raise LossError(
            "compares each output with the label at its own position, and these labels are the inputs "
            f"themselves; choose the loss {NEXT_TOKEN}, or labels that are to be predicted."
        )


class Tally:
    """Loss and accuracy over batches of outputs, and what the loss is the mean of.

    A vocabulary of 50,000 makes outputs that are too many to hold at once: of each batch only sums are kept,
    and some tokens on which the loss is measured.
    """

    def __init__(self, loss: TokenCrossEntropy, labels: Tensor) -> None:
        """Args:
        loss: The loss.
        labels: Labels of all samples, (N, T).
        """
        self._loss = loss
        self._labels = labels
        self._sum = 0.0
        self._correct = 0
        self._outputs: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._kept = 0
        self._seen = 0

    def add(self, outputs: Tensor) -> None:
        """Count the outputs of the next samples, (n, T, V)."""
        labels = self._labels[self._seen : self._seen + len(outputs)]
        counted = labels != IGNORED
        number = int(counted.sum())
        if number:
            self._sum += number * float(self._loss(outputs, labels))
            self._correct += int((outputs.argmax(-1) == labels)[counted].sum())
        self._seen += len(outputs)
        room = max(2, _MEASURED // outputs.shape[-1]) - self._kept
        if self._whole(outputs):
            self._outputs.append(outputs)
        elif room > 0 and number:
            self._outputs.append(outputs[counted][:room].clone())
            self._tokens.append(labels[counted][:room])
            self._kept += len(self._tokens[-1])

    def _whole(self, outputs: Tensor) -> bool:
        """Whether all outputs together are few enough to be kept as they are."""
        return outputs[0].numel() * len(self._labels) <= _MEASURED

    @property
    def value(self) -> float:
        """The loss of what was added."""
        return self._sum / self._number

    @property
    def accuracy(self) -> float:
        """The share of tokens with a label whose largest output is that of the label."""
        return self._correct / self._number

    @property
    def _number(self) -> int:
        return int((self._labels[: self._seen] != IGNORED).sum())

    def mean(self) -> Mean:
        """Return the weighted mean that the loss is, once all outputs have been added.

        Where there are many, it is measured on some of the tokens, put together to short sequences some of
        whose labels are taken away.

        Raises:
            LossError: As ``mean_of``.
        """
        outputs, labels = torch.cat(self._outputs), self._labels
        if self._tokens:
            outputs, labels = _sequences(outputs, torch.cat(self._tokens))
        found = mean_of(self._loss, outputs, labels)
        claimed = _shares(self._loss.weights(labels))
        measured = torch.full_like(claimed, 1 / len(claimed)) if found.shares is None else found.shares.cpu()
        if not float((claimed - measured).abs().max()) <= _TOLERANCE * float(claimed.max()):
            raise LossError("does not weigh sequences by their tokens with a label.")
        shares = _shares(self._loss.weights(self._labels))
        same = bool((shares == shares[0]).all())
        return Mean(None if same else shares, found.additivity, found.curvature, found.amplification)


def _sequences(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences of few tokens, of (m, V) outputs and (m,) labels, with 1 to all of the labels left."""
    length = _LENGTH if len(labels) >= 2 * _LENGTH else 1
    number = len(labels) // length
    outputs = outputs[: number * length].reshape(number, length, -1)
    labels = labels[: number * length].reshape(number, length).clone()
    places = torch.arange(length, device=labels.device)
    left = torch.arange(number, device=labels.device) % length + 1
    labels[places >= left[:, None]] = IGNORED
    return outputs, labels


def _shares(weights: Tensor) -> Tensor:
    return (weights / weights.sum()).cpu()


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
