"""Computations cut into parts and put together, against the same ones in one piece."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seigh.core.sharing import blocks, crew
from seigh.core.sharing.blocks import BlockError, Blocks
from seigh.core.sharing.crew import Part, SharedOperator, SharedStorage, perform, width
from seigh.core.spectra import block_krylov, eigenpairs_of, seigh, sketched, ssvd
from tests.core.spectra.matrices import hessian_like
from tests.core.spectra.test_krylov import Counted

SIZE = 150


class Crew:
    """Performs parts in the opposite order, each from its JSON, by an operator of its own."""

    least = 2

    def __init__(self, folder: Path, matrix: Tensor) -> None:
        for name in (crew.KEPT, crew.EXCHANGED):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.blocks = Blocks(folder)
        self.matrix = matrix
        self.kinds: list[str] = []

    def run(self, parts: Sequence[Part], perform_here: Callable[[Part], Tensor]) -> Iterator[Tensor]:
        self.kinds += [part.kind for part in parts]
        others = [Part.from_json(part.to_json()) for part in parts[1:]]
        here = perform_here(parts[0])
        with ThreadPoolExecutor(3) as pool:
            results = list(
                pool.map(lambda part: perform(part, Blocks(self.blocks.folder), self.matrix), others[::-1])
            )
        yield from [here, *results[::-1]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, blocks and passes of the size of these matrices."""
    for module in (blocks, crew):
        monkeypatch.setattr(module, "SLICE", 40)
    monkeypatch.setattr(crew, "_BUSY", 2)
    monkeypatch.setattr(sketched, "CHUNK_BYTES", 0)
    monkeypatch.setattr(sketched, "BLOCK", 8)


def shared(
    folder: Path, matrix: Any, dense: Tensor, memory: int | None = None
) -> tuple[Crew, SharedOperator, SharedStorage]:
    hands = Crew(folder / "shared", dense)
    storage = SharedStorage(memory, folder / "own", hands, matrix, worth=0)
    return hands, SharedOperator(matrix, hands, 2), storage


def restarted(operator: Any, **more: Any) -> Any:
    return block_krylov(operator, 12, block=4, columns=40, products=200, **more)


METHODS = {
    "krylov": lambda operator, **more: block_krylov(operator, 12, block=4, products=80, **more),
    "restarted": restarted,
    "seigh": lambda operator, **more: seigh(operator, 20, 80, **more),
    "ssvd": lambda operator, **more: eigenpairs_of(ssvd(operator, 20, 80, **more)),
}


# Every method with and without memory, and either of them in both formats.
@pytest.mark.parametrize(
    ("method", "memory", "dtype"),
    [
        (method, memory, (torch.float32, torch.float64)[(i + j) % 2])
        for i, method in enumerate(METHODS)
        for j, memory in enumerate((None, 0))
    ],
)
def test_shared_computations_give_the_numbers_of_one_process(
    method: str, memory: int | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    matrix = hessian_like(SIZE, 0)[0].to(dtype)
    alone = METHODS[method](matrix)
    hands, operator, storage = shared(tmp_path, matrix, matrix, memory)
    together = METHODS[method](operator, storage=storage)
    scale = float(alone.values[0].abs())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(together.values, alone.values, rtol=0, atol=50 * eps * scale)
    assert together.hvps == alone.hvps
    expected = {"krylov": {"product"}, "restarted": {"product", "form"}}
    assert set(hands.kinds) == expected.get(method, {"product", "gram", "form"})
    vectors = together.basis.double() if method != "krylov" else together.vectors().T.double()
    gramian = vectors @ vectors.T
    assert float((gramian - torch.eye(len(gramian), dtype=torch.float64)).abs().max()) < 500 * eps


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("method", METHODS)
def test_another_process_goes_on_from_the_shared_folder_alone(
    method: str, memory: int | None, tmp_path: Path
) -> None:
    matrix = hessian_like(SIZE, 0)[0].float()
    _, operator, storage = shared(tmp_path / "whole", matrix, matrix, memory)
    whole = METHODS[method](operator, storage=storage)
    _, operator, storage = shared(tmp_path / "parts", matrix, matrix, memory)
    storage = replace(storage, folder=tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        METHODS[method](Counted(operator, 60), storage=storage)

    counts: list[int] = []
    _, operator, storage = shared(tmp_path / "parts", matrix, matrix, memory)
    storage = replace(storage, folder=tmp_path / "second")  # of another machine
    resumed = METHODS[method](operator, storage=storage, resumed=counts.append)
    assert 40 <= counts[0] <= 60
    assert torch.equal(resumed.values, whole.values)
    assert torch.equal(resumed.vectors(), whole.vectors())
    # Nothing is left there but what the last state needs.
    _, described = storage.crew.blocks.read("kept/state")
    names = {path.name for path in (tmp_path / "parts" / "shared" / "kept").iterdir()}
    kept = {name for name in names if name != "state" and not name.startswith("noted-")}
    assert all(name in described["about"] for name in kept)


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "state"])
def test_what_is_damaged_is_not_gone_on_from(damage: str, tmp_path: Path) -> None:
    matrix = hessian_like(SIZE, 0)[0].float()
    _, operator, storage = shared(tmp_path, matrix, matrix)
    with pytest.raises(KeyboardInterrupt):
        METHODS["krylov"](Counted(operator, 60), storage=storage)
    kept = tmp_path / "shared" / "kept"
    file = kept / "state" if damage == "state" else sorted(kept.glob("basis-*"))[3]
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[-3] ^= 1
        file.write_bytes(content[:-40] if damage == "cut" else content)
    counts: list[int] = []
    again = METHODS["krylov"](operator, storage=storage, resumed=counts.append)
    assert counts == []
    _, operator, storage = shared(tmp_path / "anew", matrix, matrix)
    assert torch.equal(again.values, METHODS["krylov"](operator, storage=storage).values)


def test_blocks_come_back_whole_by_slices_or_not_at_all(tmp_path: Path) -> None:
    store = Blocks(tmp_path)
    rows = torch.randn(3, 100)
    block = store.put("rows", rows.T.contiguous().T)
    assert torch.equal(store.get(block), rows)
    assert torch.equal(store.slices([block, block], 2), torch.cat([rows[:, 80:]] * 2))
    assert store.put("rows", rows) == block  # one content, one name
    other = store.put("rows", rows + 1)
    assert [path.name for path in tmp_path.iterdir()].count(block.name) == 1
    with pytest.raises(BlockError):
        store.get(block._replace(name=other.name))
    with pytest.raises(BlockError):
        store.put("nowhere/rows", rows)
    (tmp_path / "kept").mkdir()
    blocks_kept = [store.put("kept/rows", rows + i) for i in range(3)]
    store.keep("kept/", [blocks_kept[1].name])
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [
        blocks_kept[1].name.removeprefix("kept/")
    ]


@pytest.mark.parametrize(
    ("block", "columns", "expected"),
    [(16, 1, 2), (16, 4, 4), (16, 16, 8), (4, 1, 1), (4, 4, 2), (32, 3, 6), (1, 1, 1), (5, 8, 3)],
)
def test_a_part_is_whole_calls_and_no_block_one_part(block: int, columns: int, expected: int) -> None:
    assert width(block, columns) == expected
