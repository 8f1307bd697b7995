"""The rules by which a block Krylov run ends, on their own: no matrix, no basis."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from seigh.core.spectra import SpectrumError, stopping
from seigh.core.spectra.sizes import Sizes, plan
from seigh.core.spectra.stopping import Fresh, Stopping

D = 1000
OPTIONS = {
    "block": 4,
    "columns": None,
    "products": None,
    "room": None,
    "tolerance": None,
    "asks": False,
    "complete": True,
}


def sizes(k: int = 20, **changes: int | float | bool | None) -> Sizes:
    return plan(k, D, **(OPTIONS | changes))


def rule(planned: Sizes, *, patient: bool = False, asks: bool = False) -> Stopping:
    return Stopping(planned, tolerance=1e-6, patient=patient, asks=asks)


def test_a_basis_holds_all_products_where_there_is_room_and_restarts_where_there_is_not() -> None:
    whole = sizes()
    assert (whole.products, whole.capacity, whole.restarts) == (148, 148, False)
    assert whole.total == 148 + 4 * 8 + 6 * 4 * 8  # the first fresh block, and six more
    assert sizes(complete=False).total == 148
    small = sizes(room=60)
    assert (small.products, small.capacity, small.total) == (2 * 148, 60, 60)
    assert small.restarts
    assert small.kept == 40  # half of what is left beside k
    assert sizes(asks=True).most == 2 * sizes(asks=True).products
    assert sizes(tolerance=1e-3).products == 10 * 148
    assert sizes(tolerance=1e-3).capacity == 2 * 148


@pytest.mark.parametrize("room", range(22, 70))
def test_k_pairs_and_two_blocks_fit_a_restarted_basis_and_a_restart_frees_whole_blocks(room: int) -> None:
    planned = sizes(room=room, block=16)
    assert planned.k <= planned.kept < planned.capacity == room
    assert planned.k + 2 * planned.block <= room
    assert (planned.capacity - planned.kept) % planned.block == 0


def test_a_basis_without_room_for_k_pairs_is_refused_with_what_it_needs() -> None:
    with pytest.raises(SpectrumError, match=r"21 vectors of D = 1,000 fit .* needs 22 at least"):
        sizes(room=21)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        sizes(block=0)


def test_pairs_have_converged_once_every_residual_is_small_against_the_largest_eigenvalue() -> None:
    values = torch.tensor([-100.0, 10.0, 1.0], dtype=torch.float64)
    assert stopping.converged(values, torch.tensor([1e-4, 1e-4, 1e-4]).double(), 1e-6)
    assert not stopping.converged(values, torch.tensor([0.0, 0.0, 1.01e-4]).double(), 1e-6)
    # An eigenvalue of residual r is off by r² / gap: 8 r² against a thousandth of λ².
    edge = (1e-3 / 8) ** 0.5
    assert stopping.loose(values, values.abs() * edge * 0.99).tolist() == [False] * 3
    assert stopping.loose(values, values.abs() * edge * 1.01).tolist() == [True] * 3


@pytest.mark.parametrize("k", [20, 120])
def test_only_what_comes_before_the_first_unconverged_pair_counts_where_there_are_many(k: int) -> None:
    values = torch.linspace(10, 1, k, dtype=torch.float64)
    residuals = torch.zeros(k, dtype=torch.float64)
    many = k >= 100
    # A pair from a fresh block that has not converged, behind one of the first block that has not either.
    residuals[[5, 8]] = 5
    new = torch.arange(k) == 8
    before = new.clone()
    assert stopping.unconverged_from_fresh(values, residuals, new) is not many
    assert torch.equal(new, before)
    assert stopping.unconverged_from_fresh(values, residuals, torch.arange(k) == 5)
    assert not stopping.unconverged_from_fresh(values, residuals, torch.arange(k) == 6)  # that one has

    # Outside there is less than pair 5, which ends what counts of many, and more than the last one.
    outside = float(values[5]) * 0.99
    assert stopping.nothing_missed(values, residuals, outside, torch.float64) is many
    assert not stopping.nothing_missed(values, residuals, float(values[4]), torch.float64)
    assert stopping.nothing_missed(values, residuals, 0.998 * float(values[-1]), torch.float64)


def test_what_lies_outside_is_nothing_below_the_rounding_error_of_the_products() -> None:
    values = torch.tensor([1.0, 0.0], dtype=torch.float64)
    residuals = torch.zeros(2, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        noise = 16 * torch.finfo(dtype).eps
        assert stopping.nothing_missed(values, residuals, 0.9 * noise, dtype)
        assert not stopping.nothing_missed(values, residuals, 1.1 * noise, dtype)


def test_a_run_asks_later_the_further_its_error_is_from_what_it_may_be() -> None:
    spent = 1000
    later = [
        stopping.asked_again_after(spent, excess, 4) - spent for excess in (0.5, 1.01, 2, 4, 1e3, math.inf)
    ]
    assert later == [25, 25, 60, 120, 170, 170]
    assert stopping.asked_again_after(10, 1.5, 4) == 14  # a block at least
    assert stopping.asked_again_after(spent, math.nan, 4) == spent + 170


def test_a_run_is_asked_at_the_earliest_for_a_fifth_more_than_k_and_then_when_it_is_due() -> None:
    asking = rule(sizes(100, asks=True), asks=True)
    assert not asking.is_due(116, 116, broken_down=False)
    assert asking.checked == 0
    assert asking.is_due(120, 120, broken_down=False)
    assert asking.checked == 120
    assert not asking.answered(4.0, 120, 120)
    assert (asking.asked, asking.ask_at) == ([120], 120 + 14)
    assert not asking.is_due(132, 132, broken_down=False)
    assert asking.is_due(134, 134, broken_down=False)
    assert not asking.is_due(134, 134, broken_down=True)  # a pair may turn up late: 228 products
    assert asking.answered(1.0, 136, 136)


def test_residuals_are_looked_at_as_often_as_it_costs_little() -> None:
    bounded = rule(sizes())
    assert not bounded.is_due(24, 24, broken_down=False)  # k and two blocks
    assert bounded.is_due(28, 28, broken_down=False)
    assert not bounded.is_due(32, 32, broken_down=False)  # 4 · D is less than 10 · 32²
    assert bounded.is_due(40, 44, broken_down=False)
    patient = rule(sizes(tolerance=1e-6), patient=True)
    patient.checked = 400
    assert not patient.is_due(200, 436, broken_down=False)
    assert patient.is_due(200, 440, broken_down=False)


def test_a_run_ends_with_its_products_its_space_or_a_full_basis_that_has_too_few_left_to_restart() -> None:
    whole = rule(sizes())
    assert not whole.must_end(144, 144)
    assert whole.must_end(148, 148)
    assert whole.must_end(D, 100)
    assert whole.width(144, 146) == 2
    small = rule(sizes(room=60))
    assert not small.is_full(56)
    assert small.is_full(60)
    assert not small.must_end(60, 60)
    assert small.must_end(60, small.products - 3)
    assert small.must_end(56, small.products - 3) is False  # there is room without a restart


def test_a_run_whose_pairs_are_not_enough_is_lengthened_to_twice_its_products() -> None:
    planned = sizes(asks=True)
    asking = rule(planned, asks=True)
    size = planned.products
    steps = 0
    while asking.can_lengthen(size, size):
        asking.lengthen(size, size)
        assert size < asking.products <= planned.most
        size, steps = asking.products, steps + 1
    assert size > 1.75 * planned.products
    assert 4 <= steps <= 8
    assert not asking.restarts
    assert not rule(planned).can_lengthen(10, 10)
    # A basis that cannot hold more is restarted instead, and one that cannot be restarted ends.
    full = replace(planned, capacity=planned.products, kept=planned.products - 8)
    asking = rule(full, asks=True)
    assert asking.can_lengthen(full.products, full.products)
    asking.lengthen(full.products, full.products)
    assert asking.restarts
    assert not rule(replace(full, kept=full.capacity), asks=True).can_lengthen(full.products, full.products)


def test_the_coarser_pairs_come_from_a_seventh_less_or_from_where_the_run_was_asked() -> None:
    assert stopping.coarser_size(20, 100, 5, []) == 85
    assert stopping.coarser_size(20, 100, 5, [60, 82, 88, 95]) == 88
    assert stopping.coarser_size(20, 100, 50, []) == 50  # a block at least
    assert stopping.coarser_size(20, 24, 4, []) == 20  # but k
    assert stopping.coarser_size(20, 10, 4, []) == 10
    alike = torch.tensor([3.0, -2.0, 1.99, -1.985, 1.9]).double()
    assert [stopping.count_alike(alike, k) for k in (1, 2, 4, 9)] == [1, 4, 4, 5]


def test_fresh_blocks_end_with_their_room_and_their_rounds() -> None:
    fresh = Fresh()
    fresh.begin(100, 4, 8)
    assert (fresh.begun, fresh.products, fresh.rounds_in(104), fresh.rounds_in(106)) == (True, 32, 1, 2)
    assert fresh.can_deepen(100 + 4 * 31)
    assert not fresh.can_deepen(100 + 4 * 32)
    planned = replace(sizes(), total=120, kept=90, capacity=100, limit=200)
    assert stopping.fits_first(118, planned)
    assert not stopping.fits_first(118, replace(planned, kept=116))
    assert stopping.fits_another(100, 180, planned)
    assert not stopping.fits_another(100, 181, planned)
    assert stopping.fits_another(118, 100, planned)  # after a restart
    assert not stopping.fits_another(118, 100, replace(planned, kept=101))
    assert stopping.must_compress(101, 4, planned)
    assert not stopping.must_compress(100, 4, planned)
    assert stopping.fitting(100, 4, 8, planned) == (4, 5)
    assert stopping.fitting(110, 4, 8, planned) == (2, 5)
    assert stopping.fitting(117, 4, 8, planned) == (1, 3)
