"""When a block Krylov run ends, goes on or looks further: from sizes, Ritz values and residuals alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seigh.core.spectra.sizes import FRESH, FRESH_ROUNDS, MANY, Sizes, default_products

# Residuals of all wanted pairs below this many units of rounding error of |λ₁| cannot be improved upon.
_ROUNDING = 16

# A run whose pairs are not enough goes on for an eighth of its products.
_LENGTHENED = 8

# A run that asks whether its pairs are enough asks first at this many times k, and then when the error may
# have fallen far enough, if it halves with every such share of the products; but after as many at least and
# at most: being asked costs an eigendecomposition of the projected matrix.
_FIRST_ASKED = 1.2
_HALVED, _ASKED_LEAST, _ASKED_MOST = 0.06, 0.025, 0.17

# Share of the basis that the coarser pairs do without: with one round less the two can agree by accident.
# Where pairs of about that size were asked about before, they are taken.
_LEFT_OUT, _LEFT_OUT_LEAST, _LEFT_OUT_MOST = 0.15, 0.1, 0.2

# A fresh block that has found a leading pair grows until that has converged, to this many times its rounds.
_DEEPEST = 4

# A Krylov space of a fresh block with fewer rounds than this sees too little to be worth its products.
_FEWEST_ROUNDS = 5

# What lies outside belongs to the leading pairs from this share of |λ_k| on.
_BELONGS = 1 - 1e-3

# A Ritz value of residual r is off by up to so many times r² / |λ|. Where that is this share of itself at
# most, the pair has converged.
_OFF, _TIGHT = 8.0, 1e-3

# Pairs beyond k whose |λ| is at least this share of |λ_k| are returned as well, however many they are.
_ALIKE = 0.99


def usual_tolerance(dtype: torch.dtype) -> float:
    """Residuals below this share of |λ₁| are rounding error in ``dtype``."""
    return _ROUNDING * torch.finfo(dtype).eps


def converged(values: Tensor, residuals: Tensor, tolerance: float) -> bool:
    """Whether the residuals of all pairs are at most ``tolerance`` · |λ₁|.

    Args:
        values: Ritz values by descending magnitude, (k,).
        residuals: ‖Hv − λv‖ of each, (k,).
        tolerance: Relative to |λ₁|.
    """
    return bool((residuals <= tolerance * values[0].abs()).all())


def loose(values: Tensor, residuals: Tensor) -> Tensor:
    """Whether each Ritz value is off by more than a thousandth of itself, by r² / |λ|: (k,) bool."""
    return _OFF * residuals.square() > _TIGHT * values.square()


def unconverged_from_fresh(values: Tensor, residuals: Tensor, new: Tensor) -> bool:
    """Whether a leading pair that came out of a fresh block has yet to converge.

    Args:
        values: The k leading Ritz values, by descending magnitude.
        residuals: Of each, (k,).
        new: Whether each lies for the most part in fresh blocks, (k,) bool.
    """
    open_ones = loose(values, residuals)
    # Of many pairs, those behind the first one of the first block that has not converged are in part
    # outside: a vector from outside that is a better one tells nothing new.
    late = open_ones & ~new
    if len(values) >= MANY and bool(late.any()):
        new = new.clone()
        new[int(late.nonzero()[0]) :] = False
    return bool((new & open_ones).any())


def nothing_missed(values: Tensor, residuals: Tensor, largest: float, dtype: torch.dtype) -> bool:
    """Whether what a fresh block found outside belongs to none of the leading pairs.

    Of many pairs, to none of those that have converged: the others lie outside in part, with an eigenvalue
    like their own, and their residuals say so.

    Args:
        values: The k leading Ritz values, by descending magnitude.
        residuals: Of each, (k,).
        largest: The largest |eigenvalue| that the fresh block found outside the basis.
        dtype: Precision of the products; less than their rounding error is nothing.
    """
    magnitudes = values.abs()
    open_ones = loose(values, residuals)
    counted = len(values)
    if counted >= MANY and bool(open_ones.any()):
        counted = int(open_ones.nonzero()[0])
    noise = float(magnitudes[0]) * usual_tolerance(dtype)
    least = float(magnitudes[counted - 1]) if counted else math.inf
    return largest < max(_BELONGS * least, noise)


def asked_again_after(spent: int, excess: float, block: int) -> int:
    """Products after which the error may have fallen to what it may be.

    Args:
        spent: Products made so far.
        excess: How many times as large the error is as it may be.
        block: Products per round.
    """
    share = _HALVED * math.log2(excess) if excess > 1 and math.isfinite(excess) else 0.0
    share = min(max(share, _ASKED_LEAST), _ASKED_MOST) if math.isfinite(excess) else _ASKED_MOST
    return spent + max(block, int(share * spent))


def coarser_size(k: int, size: int, block: int, asked: Iterable[int]) -> int:
    """Size of the smaller basis whose pairs the result is compared with.

    Args:
        k: Number of wanted pairs.
        size: Of the basis, without fresh blocks.
        block: Products per round.
        asked: Sizes of the basis whose pairs were asked about; one of these where there is a fitting one.
    """
    fewer = max(min(k, size), size - max(1, round(_LEFT_OUT * size / block)) * block)
    known = [
        each
        for each in asked
        if k < each <= size - block and _LEFT_OUT_LEAST <= 1 - each / size <= _LEFT_OUT_MOST
    ]
    return max(known, default=fewer)


def count_alike(values: Tensor, k: int) -> int:
    """How many Ritz values are as large as number k or hardly smaller: none is left out by chance."""
    magnitudes = values.abs()
    return int((magnitudes >= _ALIKE * magnitudes[min(k, len(magnitudes)) - 1]).sum())


@dataclass
class Stopping:
    """When the iteration ends: it has a number of products, looks at its residuals now and then, and may ask.

    Attributes:
        sizes: Of the run.
        tolerance: Residuals that end it, relative to |λ₁|.
        patient: Whether it goes on until the tolerance is met.
        asks: Whether it asks if its pairs are enough, and goes on if they are not.
        products: Products after which it ends.
        restarts: Whether the basis is restarted when it is full.
        checked: Products after which the residuals were looked at last.
        ask_at: Products after which the pairs are asked about next.
        asked: Sizes of the basis whose pairs were asked about since the last restart.
    """

    sizes: Sizes
    tolerance: float
    patient: bool
    asks: bool
    products: int = 0
    restarts: bool = False
    checked: int = 0
    ask_at: int = 0
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.products = self.products or self.sizes.products
        self.restarts = self.restarts or self.sizes.restarts

    def is_full(self, size: int) -> bool:
        """Whether the basis has to be restarted before it takes another block."""
        return self.restarts and size + self.sizes.block > self.sizes.capacity

    def width(self, size: int, spent: int) -> int:
        """Vectors of the next block, in a basis of ``size``."""
        return min(self.sizes.block, self.products - spent, self.sizes.capacity - size)

    def must_end(self, size: int, spent: int) -> bool:
        """Whether there is no room or no product left for another block."""
        left = self.products - spent
        return size == self.sizes.dimension or left <= 0 or (self.is_full(size) and left < self.sizes.block)

    def is_due(self, size: int, spent: int, *, broken_down: bool) -> bool:
        """Whether the residuals are to be looked at now; if so, this is noted.

        Args:
            size: Of the basis.
            spent: Products made so far.
            broken_down: Whether a block had to be filled up with random vectors.
        """
        sizes = self.sizes
        # A pair may turn up late: where the first block had no part of it, or when the basis broke down.
        least = sizes.k + 2 * sizes.block
        if broken_down:
            least = default_products(sizes.k, sizes.dimension, sizes.block)
        if self.asks:
            due = spent >= max(int(_FIRST_ASKED * sizes.k), self.ask_at)
        else:
            # Not more often than it is small against the cost of the rounds, where those are bounded.
            since = spent - self.checked
            due = since * sizes.dimension >= 10 * size**2 or (self.patient and since * 10 >= self.checked)
        if spent < least or not due:
            return False
        self.checked = spent
        return True

    def answered(self, excess: float, size: int, spent: int) -> bool:
        """Note that the pairs were asked about, and the answer; whether they are enough."""
        self.asked.append(size)
        self.ask_at = asked_again_after(spent, excess, self.sizes.block)
        return excess <= 1

    def can_lengthen(self, size: int, spent: int) -> bool:
        """Whether the run may make more products than planned."""
        more, sizes = self._more(), self.sizes
        room = size + more <= sizes.capacity or sizes.kept < sizes.capacity
        return self.asks and spent + more <= sizes.most and room and size != sizes.dimension

    def lengthen(self, size: int, spent: int) -> None:
        """Plan more products, with restarts where the basis does not hold them."""
        more = self._more()
        self.products = spent + more
        self.restarts = self.restarts or size + more > self.sizes.capacity

    def _more(self) -> int:
        return -(-self.products // (_LENGTHENED * self.sizes.block)) * self.sizes.block


@dataclass
class Fresh:
    """The fresh block that looks for missed pairs, as far as it has grown.

    Attributes:
        begun: Whether there is one.
        main: Size of the basis before the first one.
        start: Size of the basis before this one.
        width: Its vectors.
        rounds: Blocks that its Krylov space is to have, itself included.
        products: Products planned for all fresh blocks so far.
        largest: The largest |eigenvalue| that it has found outside.
        bound: As of ``Completeness``.
    """

    begun: bool = False
    main: int = 0
    start: int = 0
    width: int = 0
    rounds: int = 0
    products: int = 0
    largest: float = 0.0
    bound: float = math.inf

    def begin(self, start: int, width: int, rounds: int) -> None:
        """Another one begins."""
        self.begun, self.start, self.width, self.rounds = True, start, width, rounds
        self.products += width * rounds

    def rounds_in(self, size: int) -> int:
        """Blocks that its Krylov space has in a basis of this size."""
        return -(-(size - self.start) // self.width)

    def can_deepen(self, size: int) -> bool:
        """Whether it may have more rounds than planned, to let a pair that it has found converge."""
        return self.rounds_in(size) < _DEEPEST * FRESH_ROUNDS


def fits_first(size: int, sizes: Sizes) -> bool:
    """Whether there is room for a first fresh block in a basis of ``size``, or in a restarted one."""
    return min(size, sizes.kept) + _FEWEST_ROUNDS <= sizes.total


def fits_another(size: int, spent: int, sizes: Sizes) -> bool:
    """Whether there are room and products for another fresh block."""
    more = max(sizes.block, FRESH) * _FEWEST_ROUNDS
    return (size + more <= sizes.total or sizes.kept + more <= sizes.total) and spent + more <= sizes.limit


def must_compress(size: int, width: int, sizes: Sizes) -> bool:
    """Whether the basis has to be restarted to make room for a fresh block of ``width``."""
    return size + width * _FEWEST_ROUNDS > sizes.total and sizes.kept < size


def fitting(size: int, width: int, rounds: int, sizes: Sizes) -> tuple[int, int]:
    """Width and rounds of a fresh block, reduced to the room that a basis of ``size`` leaves."""
    width = max(1, min(width, (sizes.total - size) // _FEWEST_ROUNDS))
    return width, min(rounds, (sizes.total - size) // width)
