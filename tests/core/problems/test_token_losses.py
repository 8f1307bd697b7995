"""Losses of tokens: their definition, their weights, refusals, and that large outputs are not held."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from seigh.core import network
from seigh.core.curvature import CurvatureOperator
from seigh.core.curvature.shares import LossError
from seigh.core.names import PATHS, PathName
from seigh.core.problems import losses, token_losses
from seigh.core.problems.token_losses import EACH_TOKEN, IGNORED, NEXT_TOKEN, Tally, TokenCrossEntropy
from seigh.core.settings import AnalysisSettings
from tests.core.curvature.problems import dense


class Bigrams(nn.Module):
    """Logits of the next token by the one before, (N, T) → (N, T, V)."""

    def __init__(self, vocabulary: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, 3)
        self.head = nn.Linear(3, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(x.clamp(min=0))))


def settings(loss: str) -> AnalysisSettings:
    return AnalysisSettings(architecture="tanh-mlp", data="digits", loss=loss)


def ragged(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens of sequences of unequal length, and labels some of which have no loss."""
    x = torch.randint(4, (5, 6), generator=torch.Generator().manual_seed(seed))
    x[1, 3:] = -1
    y = torch.where(x >= 0, x, IGNORED)
    y[0, 2] = y[2, :4] = y[3] = IGNORED
    return x, y


def written_out(outputs: Tensor, labels: Tensor) -> Tensor:
    terms = [
        outputs[n, t].exp().sum().log() - outputs[n, t, labels[n, t]]
        for n in range(len(labels))
        for t in range(labels.shape[1])
        if labels[n, t] != IGNORED
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("name", [NEXT_TOKEN, EACH_TOKEN])
def test_a_loss_is_its_definition(name: str) -> None:
    x, y = ragged()
    outputs = torch.randn(5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = losses.targets(name, y, outputs)
    loss = losses.build(settings(name))
    assert labels.shape == x.shape
    torch.testing.assert_close(loss(outputs, labels), written_out(outputs, labels))
    if name == EACH_TOKEN:
        assert torch.equal(labels, y)
        return
    for n in range(5):
        assert labels[n].tolist() == [*y[n, 1:].tolist(), IGNORED]
    one_more = torch.cat([y, torch.full((5, 1), 2)], 1)  # the token after the block
    assert torch.equal(losses.targets(name, one_more, outputs), one_more[:, 1:])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("batch", [2, 5])
def test_products_with_unequal_lengths_are_those_of_the_dense_matrix(path: PathName, batch: int) -> None:
    torch.manual_seed(0)
    model = Bigrams().double().eval()
    x, y = ragged(3)
    labels = losses.targets(NEXT_TOKEN, y, model(x))
    loss = TokenCrossEntropy()

    class Defined(nn.Module):
        def forward(self, outputs: Tensor, _: Tensor) -> Tensor:
            return written_out(outputs, labels)

    for kind in ("hessian", "ggn"):
        truth = dense(model, Defined(), x, labels, kind)
        tally = Tally(loss, labels)
        tally.add(model(x).detach())
        operator = CurvatureOperator(
            model, loss, x, labels, kind=kind, path=path, batch_size=batch, shares=tally.mean().shares
        )
        found = operator @ torch.eye(len(truth), dtype=torch.float64)
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)


def test_large_outputs_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    outputs = torch.randn(9, 6, 4, generator=generator)
    labels = torch.randint(4, (9, 6), generator=generator)
    labels[2, 1:] = labels[5] = labels[7, :3] = IGNORED
    loss = TokenCrossEntropy()
    whole = Tally(loss, labels)
    whole.add(outputs)
    monkeypatch.setattr(token_losses, "_MEASURED", 100)
    parts = Tally(loss, labels)
    for some in outputs.split(2):
        parts.add(some)
    assert parts._kept <= 100 // 4 < labels.numel()
    assert parts.value == pytest.approx(float(loss(outputs, labels)), rel=1e-6)
    assert parts.value == pytest.approx(whole.value, rel=1e-6)
    counted = labels != IGNORED
    assert parts.accuracy == whole.accuracy
    assert parts.accuracy == pytest.approx(float((outputs.argmax(-1) == labels)[counted].float().mean()))
    one, other = parts.mean(), whole.mean()
    assert one.shares is not None
    assert other.shares is not None
    torch.testing.assert_close(one.shares, counted.sum(1).double() / counted.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(one.shares, other.shares, rtol=1e-9, atol=1e-12)
    assert one.additivity.passed
    assert one.curvature.passed


def test_sequences_of_one_length_weigh_the_same() -> None:
    outputs, labels = torch.randn(4, 3, 5), torch.randint(5, (4, 3))
    tally = Tally(TokenCrossEntropy(), labels)
    tally.add(outputs)
    assert tally.mean().shares is None


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        (NEXT_TOKEN, lambda x: torch.roll(x, -1, 1), "next tokens already"),
        (EACH_TOKEN, lambda x: x, "the inputs themselves"),
        (NEXT_TOKEN, lambda x: torch.full_like(x, IGNORED), "of no token"),
        (EACH_TOKEN, lambda x: x + 7, "a label 1"),
        (EACH_TOKEN, lambda x: torch.full_like(x, -1), "a label -1"),
        (NEXT_TOKEN, lambda x: x[:, 0], "choose cross-entropy for one label a sample"),
        (NEXT_TOKEN, lambda x: x[:, :3], "data that pair"),
    ],
)
def test_labels_that_do_not_go_with_a_loss_are_refused(name: str, labels: object, words: str) -> None:
    x = torch.randint(4, (5, 6), generator=torch.Generator().manual_seed(0))
    outputs = torch.randn(5, 6, 4)
    y = labels(x)  # type: ignore[operator]
    with pytest.raises(LossError, match=words):
        token_losses.check(name, x, y, outputs[:1], losses.targets(name, y, outputs[:1]))


def test_labels_of_the_usual_form_are_taken() -> None:
    constant = torch.full((3, 4), 2)  # of which each is also the next
    token_losses.check(NEXT_TOKEN, constant, constant, torch.randn(3, 4, 5), constant)


def test_cross_entropy_names_the_losses_of_tokens() -> None:
    wrong = losses.mismatch(settings("cross-entropy"), torch.randint(5, (3, 4)), (4, 5), "these")
    assert wrong is not None
    assert NEXT_TOKEN in wrong
    assert losses.mismatch(settings(NEXT_TOKEN), torch.randint(5, (3, 4)), (4, 5), "these") is None
    wrong = losses.mismatch(settings(NEXT_TOKEN), torch.tensor([0, 1]), (3,), "these")
    assert wrong is not None
    assert "cross-entropy for one label a sample" in wrong


def test_as_many_outputs_are_held_as_fit() -> None:
    # 2**24 numbers of 4 bytes are 64 MiB: of GPT-2's vocabulary, the outputs of 333 tokens.
    assert math.log2(network._OUTPUTS_AT_ONCE) == 24
