"""Every kind of file in the table: what safe loading reads is read, and the rest refused with its cause."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from seigh.core.problems.checkpoints import Checkpoint, CheckpointError, read
from tests.core.problems import kinds
from tests.core.problems.kinds import KINDS, Kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
@pytest.mark.filterwarnings("ignore")
def test_a_kind_of_file(kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path)
    while kinds.LATE:
        sys.modules.pop(kinds.LATE.pop())
    assert is_safe(path) == kind.safe
    if kind.refused:
        with pytest.raises(CheckpointError) as refusal:
            read(path, entry=kind.entry)
        assert kind.said in str(refusal.value)
        assert str(refusal.value).endswith(".")
        return
    found = read(path, entry=kind.entry)
    assert_same(found, kind)
    assert (found.step, found.epoch, found.guess) == (kind.step, kind.epoch, kind.guess)
    assert (found.offered, found.undecided) == (kind.offered, kind.undecided)
    assert kind.said in " ".join(found.notes)


def is_safe(path: Path) -> bool:
    """Whether PyTorch's safe loading reads a file."""
    if path.suffix == ".safetensors":
        return True
    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # it raises whatever there is
        return False
    return True


def assert_same(found: Checkpoint, kind: Kind) -> None:
    expected = kind.expected() if kind.expected else kinds.state()
    names = {name for name in expected if name in found.state or not name.endswith("num_batches_tracked")}
    assert found.state.keys() == names | kind.beside
    for name in names:
        assert torch.equal(found.state[name].double(), expected[name].double()), name


def test_the_table_is_long_enough() -> None:
    names = [kind.what for kind in KINDS]
    assert len(names) == len(set(names))
    assert len(names) >= 150
