"""Restarts, tolerances, storage and resumption of block Krylov, against dense eigendecompositions."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor

from seigh.core.spectra import Eigenpairs, SpectrumError, Storage, basis, block_krylov, residuals, saved
from seigh.core.spectra.residuals import CHECKS
from seigh.core.spectra.sizes import default_block, default_products
from seigh.core.spectra.stopping import Fresh
from tests.core.spectra.matrices import hessian_like, subspace_overlap, symmetric

SIZE = 300
SEEDS = [0, 1, 2]


class Counted:
    """A matrix that counts its products, and stops at one of them if told to."""

    def __init__(self, matrix: Tensor, stop: int | None = None) -> None:
        self.matrix, self.stop, self.products = matrix, stop, 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, block: Tensor) -> Tensor:
        if self.stop is not None and self.products + block.shape[1] > self.stop:
            raise KeyboardInterrupt
        self.products += block.shape[1]
        return self.matrix @ block


def orthogonality(rows: Tensor) -> float:
    rows = rows.double()
    return float((rows @ rows.T - torch.eye(len(rows), dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_restarted_run_finds_the_pairs_in_bounded_memory(seed: int, block: int, dtype: torch.dtype) -> None:
    matrix, values, vectors = hessian_like(SIZE, seed)
    k, columns = 12, 40
    pairs = block_krylov(matrix.to(dtype), k, block=block, columns=columns, products=400, seed=seed)
    assert len(pairs.basis) <= columns
    assert orthogonality(pairs.basis) < 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(pairs.values, values[:k], rtol=1e-6, atol=1e-6)
    assert subspace_overlap(pairs.vectors(), vectors[:, :k]) > 1 - 1e-6
    # Against exact products of the rounded matrix; what rounding may add is allowed for.
    measured = residuals(matrix.to(dtype).double(), pairs)
    rounding = 350 * torch.finfo(dtype).eps * pairs.values.abs()
    assert bool((pairs.residuals >= 0.95 * measured - 1e-12).all())
    assert bool((pairs.residuals <= 1.1 * measured + rounding + 1e-9).all())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_keeps_the_recurrence(seed: int) -> None:
    # Not converged: the residuals claimed after restarts are those that products would measure.
    matrix, _ = symmetric(torch.linspace(1, 2, SIZE), seed)
    pairs = block_krylov(matrix, 20, block=4, columns=40, products=120, complete=False, seed=seed)
    measured = residuals(matrix, pairs)
    assert float(measured.min()) > 1e-6
    torch.testing.assert_close(pairs.residuals, measured, rtol=1e-6, atol=0)


@pytest.mark.parametrize("columns", [None, 60])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_a_run_ends_once_its_residuals_meet_the_tolerance(tolerance: float, columns: int | None) -> None:
    matrix, values, _ = hessian_like(SIZE, 0)
    counted = Counted(matrix)
    run = {"block": 4, "columns": columns, "complete": False}
    pairs = block_krylov(counted, 20, products=2000, tolerance=tolerance, **run)
    assert float(residuals(matrix, pairs).max()) <= 1.01 * tolerance * float(values[0])
    assert pairs.hvps == counted.products < 280
    # It goes on for as long as it has to, not longer: without its last fifth it had not been there.
    earlier = block_krylov(matrix, 20, products=int(0.8 * pairs.hvps), **run)
    assert float(residuals(matrix, earlier).max()) > tolerance * float(values[0])


def test_without_a_tolerance_a_run_ends_early_where_nothing_is_left_to_gain() -> None:
    fast = 10 * torch.exp(-torch.arange(1000).double() / 3)
    counted = Counted(symmetric(fast, 0)[0].float())
    pairs = block_krylov(counted, 8)
    assert counted.products < 100
    torch.testing.assert_close(pairs.values, fast[:8], rtol=1e-5, atol=1e-5)
    slow = Counted(hessian_like(1000, 0)[0].float())
    assert block_krylov(slow, 100, complete=False).hvps == slow.products == 228 + CHECKS


def test_a_tolerance_does_not_reserve_room_for_all_the_products_that_it_may_take(tmp_path: Path) -> None:
    matrix = hessian_like(1000, 0)[0].float()
    pairs = block_krylov(matrix, 5, tolerance=1e-5, storage=Storage(0, tmp_path))
    assert pairs.record["columns"] <= 2 * default_products(5, 1000, default_block(5, 1000)) < 300
    assert sum(file.stat().st_size for file in tmp_path.glob("basis-*")) < 2**20 * 2
    assert pairs.record["tolerance_met"]


@pytest.mark.parametrize("multiplicity", [3, 12])
def test_a_tolerance_does_not_stop_a_run_before_all_copies_of_an_eigenvalue_are_there(
    multiplicity: int,
) -> None:
    values = torch.zeros(200, dtype=torch.float64)
    values[:multiplicity] = 2
    values[multiplicity : multiplicity + 5] = torch.tensor([1.5, -1.2, 1, 0.5, -0.3])
    matrix, vectors = symmetric(values, 0)
    k = multiplicity + 5
    pairs = block_krylov(matrix, k, block=2, tolerance=1e-6)
    order = values.abs().argsort(descending=True, stable=True)[:k]
    torch.testing.assert_close(pairs.values, values[order], rtol=0, atol=1e-8)
    assert subspace_overlap(pairs.vectors(), vectors[:, order]) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("columns", "block"), [(50, 7), (33, 32), (31, 30), (30, 4)])
def test_blocks_that_do_not_divide_the_basis_leave_honest_residuals(columns: int, block: int) -> None:
    matrix, _, _ = hessian_like(SIZE, 0)
    pairs = block_krylov(matrix, 30, block=block, columns=columns, complete=False)
    assert pairs.hvps == columns + CHECKS
    measured = residuals(matrix, pairs)
    assert pairs.residuals is not None
    assert bool((pairs.residuals >= measured * (1 - 1e-6)).all())


@pytest.mark.parametrize("seed", SEEDS)
def test_further_and_coarser_pairs_are_those_of_the_same_run(seed: int) -> None:
    matrix, _, _ = hessian_like(SIZE, seed)
    pairs = block_krylov(matrix, 10, block=5, columns=60, further=6, complete=False, seed=seed)
    assert len(pairs.values) == 16
    torch.testing.assert_close(pairs.residuals, residuals(matrix, pairs), rtol=1e-6, atol=1e-12)
    # 15 % of the columns in whole blocks fewer.
    smaller = block_krylov(matrix, 10, block=5, columns=50, further=6, complete=False, seed=seed)
    assert pairs.coarser is not None
    torch.testing.assert_close(pairs.coarser.values, smaller.values)
    index = torch.arange(SIZE)
    torch.testing.assert_close(pairs.coarser.rows(index).abs(), smaller.rows(index).abs(), atol=1e-6, rtol=0)
    torch.testing.assert_close(pairs.coarser.residuals, residuals(matrix, smaller), rtol=1e-6, atol=1e-12)
    few = block_krylov(matrix, 10, block=5, columns=12, further=6, complete=False)
    assert len(few.values) == len(few.residuals) == 12


@pytest.mark.parametrize("columns", [None, 60])
def test_a_run_goes_on_until_its_pairs_are_enough(columns: int | None) -> None:
    matrix, _, _ = hessian_like(SIZE, 0)
    asked = []

    def excess(pairs: Eigenpairs) -> float:
        asked.append(pairs.hvps)
        return float(pairs.residuals.max()) / 1e-5

    run = {"block": 4, "columns": columns, "complete": False}
    pairs = block_krylov(matrix, 20, products=60, enough=excess, **run)
    assert asked[0] < 60  # and not first when it would end
    assert len(asked) > 1
    assert float(residuals(matrix, pairs).max()) < 1e-5
    assert pairs.hvps == asked[-1] + CHECKS
    # What cannot be enough ends at twice the products, or as soon as there is nothing left to gain.
    matrix, _, _ = hessian_like(2 * SIZE, 0)
    never = block_krylov(matrix, 20, block=4, columns=60, enough=lambda _: math.inf, complete=False)
    assert 112 <= never.record["products"] <= 120
    converged = block_krylov(symmetric(torch.linspace(30, 0, SIZE) ** 9, 0)[0], 3, enough=lambda _: math.inf)
    assert converged.record["products"] < 200


def test_a_run_asks_seldom_and_ends_soon_after_it_has_enough() -> None:
    matrix, _, _ = hessian_like(2 * SIZE, 0)
    asked: list[tuple[int, float]] = []

    def excess(pairs: Eigenpairs) -> float:
        asked.append((pairs.hvps, float(pairs.residuals.max()) / 1e-3))
        return asked[-1][1]

    pairs = block_krylov(matrix, 100, block=4, enough=excess, complete=False)
    assert 2 <= len(asked) <= 8
    assert all(error > 1 for _, error in asked[:-1])
    assert asked[-1][1] <= 1
    # A tenth fewer products had not been enough.
    fewer = block_krylov(matrix, 100, block=4, products=int(0.9 * asked[-1][0]), complete=False)
    assert pairs.hvps == asked[-1][0] + CHECKS
    assert float(fewer.residuals.max()) > 1e-3


RUNS: list[Callable[[], dict[str, Any]]] = [
    lambda: {"columns": 120, "tolerance": 0},
    lambda: {"columns": 40, "products": 150, "tolerance": 0},
    lambda: {"columns": 40, "products": 151, "tolerance": 0},
    lambda: {"columns": 42, "tolerance": 0},
    lambda: {"columns": 36, "enough": lambda _: math.inf},
    lambda: {"products": 100, "complete": False},
    lambda: {"products": 80, "enough": lambda pairs: float(pairs.residuals[:12].max()) / 1e-2},
]


@pytest.mark.parametrize("sizes", RUNS)
def test_out_of_memory_gives_the_numbers_of_memory(
    sizes: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    matrix = hessian_like(SIZE, 0)[0].float()
    here = block_krylov(matrix, 12, block=4, **sizes())
    there = block_krylov(matrix, 12, block=4, storage=Storage(memory=0, folder=tmp_path), **sizes())
    assert any(tmp_path.glob("basis-*"))
    for name in ("values", "residuals"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(there.vectors().abs(), here.vectors().abs(), rtol=0, atol=1e-3)


@pytest.fixture(scope="module", params=RUNS)
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tensor, dict[str, Any], Eigenpairs]:
    """A matrix, the arguments of a run, and what it finds where nothing interrupts it."""
    matrix = hessian_like(SIZE, 1)[0].float()
    run = {"block": 4, "seed": 1, **request.param()}
    storage = Storage(0, tmp_path_factory.mktemp("whole"))
    return matrix, run, block_krylov(matrix, 12, storage=storage, **run)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.75, 0.99])
def test_a_resumed_run_equals_an_uninterrupted_one(
    share: float, uninterrupted: tuple[Tensor, dict[str, Any], Eigenpairs], tmp_path: Path
) -> None:
    matrix, run, whole = uninterrupted
    storage = Storage(0, tmp_path / "parts")
    total = whole.hvps
    first = Counted(matrix, int(share * total))
    with pytest.raises(KeyboardInterrupt):
        block_krylov(first, 12, storage=storage, **run)
    rest, counts = Counted(matrix), []
    resumed = block_krylov(rest, 12, storage=storage, resumed=counts.append, **run)
    assert torch.equal(resumed.values, whole.values)
    assert torch.equal(resumed.residuals, whole.residuals)
    assert torch.equal(resumed.vectors(), whole.vectors())
    assert resumed.hvps == total  # those of the first part included
    assert rest.products == total - first.products  # only what was interrupted is repeated
    assert sum(counts) == first.products

    # Killed at the very end, nothing is.
    nothing = Counted(matrix)
    again = block_krylov(nothing, 12, storage=storage, **run)
    assert (nothing.products, again.hvps) == (0, total)
    assert torch.equal(again.residuals, whole.residuals)


def test_a_run_of_other_settings_does_not_resume(tmp_path: Path) -> None:
    storage = Storage(0, tmp_path)
    first, second = (hessian_like(SIZE, seed)[0] for seed in (0, 1))
    block_krylov(first, 12, storage=storage)
    counted = Counted(second)
    pairs = block_krylov(counted, 12, seed=1, storage=storage)
    assert counted.products == pairs.hvps
    torch.testing.assert_close(pairs.values, block_krylov(second, 12, seed=1).values)


@pytest.mark.parametrize("damage", ["zeros", "nan", "state", "gone"])
def test_a_damaged_file_is_not_resumed_from(damage: str, tmp_path: Path) -> None:
    matrix = hessian_like(SIZE, 0)[0]
    storage = Storage(0, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        block_krylov(Counted(matrix, 60), 12, storage=storage)
    (rows,) = tmp_path.glob("basis-*")
    if damage == "state":
        (tmp_path / "state.safetensors").write_bytes(b"\0" * 100)
    elif damage == "gone":
        rows.unlink()
    else:
        with rows.open("r+b") as file:
            file.seek(8 * SIZE * 10)
            file.write((b"\0" if damage == "zeros" else b"\xff") * 8 * SIZE)
    counted = Counted(matrix)
    pairs = block_krylov(counted, 12, storage=storage)
    assert counted.products == pairs.hvps
    assert torch.equal(pairs.values, block_krylov(matrix, 12).values)


def test_memory_decides_between_all_columns_restarts_and_a_file(tmp_path: Path) -> None:
    matrix = hessian_like(SIZE, 0)[0]
    column = 8 * SIZE
    fresh = 4 * 8  # vectors that look for missed pairs
    assert len(block_krylov(matrix, 12, storage=Storage(1000 * column)).basis) == 140 + fresh
    restarted = block_krylov(matrix, 12, storage=Storage(50 * column))
    assert len(restarted.basis) <= 50
    on_disk = block_krylov(matrix, 12, storage=Storage(50 * column, tmp_path))
    assert len(on_disk.basis) == 140 + fresh
    torch.testing.assert_close(restarted.values, on_disk.values, rtol=1e-5, atol=0)
    with pytest.raises(SpectrumError, match=r"13 vectors of D = 300 fit .* needs 14"):
        block_krylov(matrix, 12, storage=Storage(13 * column))


def test_what_an_attempt_has_written_does_not_change_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=2**20 - sum(file.stat().st_blocks * 512 for file in folder.iterdir()))

    monkeypatch.setattr(basis.shutil, "disk_usage", usage)
    storage = Storage(0, tmp_path)
    before = storage.columns(SIZE, torch.float64)
    with pytest.raises(KeyboardInterrupt):
        block_krylov(Counted(hessian_like(SIZE, 0)[0], 60), 12, storage=storage)
    assert any(tmp_path.glob("basis-*"))
    assert storage.columns(SIZE, torch.float64) == before


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(basis, "_reserve", full)
    with pytest.raises(SpectrumError, match=r"GiB in .* free some space"):
        block_krylov(hessian_like(SIZE, 0)[0], 12, storage=Storage(0, tmp_path))
    assert not list(tmp_path.glob("state*"))


def test_a_file_s_pages_are_given_back(tmp_path: Path) -> None:
    # 10 MB of basis and a budget of nothing: what stays resident is a piece, not the basis.
    size, columns = 25_000, 100
    diagonal = torch.linspace(1, 0, size) ** 40

    class Diagonal(Counted):
        def __matmul__(self, block: Tensor) -> Tensor:
            return diagonal[:, None] * block

    operator = Diagonal(torch.empty(0))
    operator.shape, operator.dtype = (size, size), torch.float32
    block_krylov(operator, 10, block=10, columns=columns, storage=Storage(0, tmp_path), complete=False)

    resident = 0
    mapped = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            mapped = str(tmp_path) in line
        elif mapped and line.startswith("Rss:"):
            resident += int(line.split()[1])
    assert resident * 1024 < size * columns * 4 / 2


def test_the_state_of_a_run_is_saved_by_names_to_the_last_bit() -> None:
    numbers = saved.Saved(3, 7, 40, 60, True, False, 11, 13, 1, 2, asymmetry=1 / 3)
    fresh = Fresh(True, 5, 6, 4, 8, 32, largest=0.1 + 0.2, bound=float("inf"))
    tensors = saved.to_tensors("run", numbers) | saved.to_tensors("fresh", fresh)
    assert saved.from_tensors(saved.Saved, "run", tensors) == numbers
    assert saved.from_tensors(Fresh, "fresh", tensors) == fresh
    assert tensors["run-asymmetry"].dtype == torch.float64


def test_the_names_in_a_state_are_those_that_earlier_versions_have_written(tmp_path: Path) -> None:
    matrix = hessian_like(SIZE, 0)[0]
    block_krylov(matrix, 12, block=5, products=60, storage=Storage(0, tmp_path))
    with safetensors.safe_open(tmp_path / "state.safetensors", "pt") as file:
        names, facts = set(file.keys()), json.loads(file.metadata()["facts"])
    run = "start stop spent products broken_down restarts checked ask_at restarted left_open asymmetry"
    fresh = "begun main start width rounds products largest bound"
    assert names == {
        "asked",
        "generator",
        "last_gram",
        "lengths",
        "projected",
        *(f"run-{name}" for name in run.split()),
        *(f"fresh-{name}" for name in fresh.split()),
        *(f"open-0-{name}" for name in ("at", "gram", "tail", "whole")),
    }
    assert facts == {
        "block": 5,
        "capacity": 60,
        "complete": True,
        "dimension": SIZE,
        "dtype": "torch.float64",
        "k": 12,
        "seed": 0,
        "total": SIZE,
    }
