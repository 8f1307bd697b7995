"""The model of characters: its text, its shapes, and its recipe."""

from __future__ import annotations

from pathlib import Path

import torch

from seigh.core.analysis import analyse
from seigh.core.problems import architectures, checkpoints, data, training
from seigh.core.problems.data import text
from seigh.core.problems.gpt import CharGPT


def test_the_text_is_cut_into_blocks_with_the_character_after_each() -> None:
    train, test = (data.load("python-docs", split) for split in ("train", "test"))
    assert len(train.y) > 8 * len(test.y) > 1000
    for each in (train, test):
        assert each.shape == (text.BLOCK,)
        assert torch.equal(each.y[:, :-1], each.x)
        assert torch.equal(each.y[:-1, -1], each.x[1:, 0])
        assert int(each.x.max()) < text.VOCABULARY == CharGPT().vocabulary


def test_its_shapes_tell_its_options() -> None:
    for name in ("char-gpt", "char-gpt(depth=3)", "char-gpt(block=16,vocabulary=50,width=48)"):
        shapes = {key: tuple(each.shape) for key, each in architectures.expected_tensors(name).items()}
        assert architectures.fitting(shapes) == [name]
    assert architectures.expected_theta("char-gpt").tied == 97 * 32


def test_a_token_sees_only_those_before_it() -> None:
    torch.manual_seed(0)
    model = architectures.build("char-gpt").double()
    x = torch.randint(97, (2, 20))
    changed = x.clone()
    changed[:, 12:] = torch.randint(97, (2, 8))
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_its_recipe_learns_and_its_checkpoints_are_analysed(tmp_path: Path) -> None:
    files = training.train("char-gpt", 30, [0, 30], tmp_path)
    first, last = (checkpoints.read(file) for file in files)
    assert last.metrics["test_loss"] < first.metrics["test_loss"] - 0.5
    assert 0 < last.metrics["train_accuracy"] < 1
    settings = training.known("char-gpt").settings.model_copy(
        update={"samples": 4, "k": 3, "hvp_path": "double-backward", "tolerance": 0.1}
    )
    found = analyse(files[1], settings).to_json()
    assert found["parameters"] == 30_624
    assert 0 < found["overlap"][0]["overlap"] < 1
