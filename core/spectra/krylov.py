"""Block Krylov subspace with Rayleigh–Ritz, and a look for what a space from one block has missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from seigh.core.linalg.orthogonal import gram, inner, resolution, subtract
from seigh.core.linalg.tiles import form
from seigh.core.spectra.basis import Basis, Storage
from seigh.core.spectra.completeness import PROBABILITY, Completeness, bound_outside
from seigh.core.spectra.eigenpairs import Eigenpairs, by_magnitude
from seigh.core.spectra.operators import Operator, SpectrumError, check_square, multiply, typed
from seigh.core.spectra.residuals import with_rounding

# Smaller blocks are more accurate per product; larger ones are faster by the vector where products of many
# vectors are, and read the basis less often, which is what counts once a vector exceeds the caches.
_SMALLEST_BLOCK, _LARGEST_BLOCK = 4, 16
_LONG, _SMALLEST_LONG_BLOCK = 2**20, 8
_SMALLEST_CHEAP_BLOCK = 16

# Residuals of all wanted pairs below this many units of rounding error of |λ₁| cannot be improved upon.
_ROUNDING = 16

# How many times the usual number of products a run may take that goes on until it meets a tolerance, and
# one that must restart because its basis does not fit.
_PATIENCE = 10
_RESTARTED = 2

# A run whose pairs are not enough goes on for an eighth of its products, up to so many times as many.
_LENGTHENED = 8
_EXTENDED = 2

# A run that asks whether its pairs are enough asks first at this many times k, and then when the error may
# have fallen far enough, if it halves with every such share of the products; but after as many at least and
# at most: being asked costs an eigendecomposition of the projected matrix.
_FIRST_ASKED = 1.2
_HALVED, _ASKED_LEAST, _ASKED_MOST = 0.06, 0.025, 0.17

# Share of the basis that the coarser pairs do without: with one round less the two can agree by accident.
# Where pairs of about that size were asked about before, they are taken.
_LEFT_OUT, _LEFT_OUT_LEAST, _LEFT_OUT_MOST = 0.15, 0.1, 0.2

# Fresh random vectors that look for missed pairs, and how many products each of them spans. Where there are
# many pairs, one vector is enough; where there are few, several are worth their price.
_MANY = 100
_FRESH, _FRESH_ROUNDS = 4, 8

# Further fresh blocks, wider ones, for which there is room in the basis; room for long vectors is dear.
_SPARE, _SPARE_LONG = 6, 2

# Where pairs are missing, so many times the products may be spent until they are found.
_COMPLETED = 3

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

# A unit row of which this many units of rounding error are left was a combination of others.
_NOTHING = 1.0

# A pass that leaves this share of each squared length has cancelled nothing.
_KEPT = 0.5
_MOST_PASSES = 5

# Squared lengths of a block that differ from 1 by no more units of rounding error are left as they are.
_ORTHONORMAL = 8.0


def default_block(k: int, dimension: int, *, cheap: bool = False) -> int:
    """Block size b for k wanted pairs: k/60 in multiples of 2, within bounds.

    Args:
        k: Number of wanted pairs.
        dimension: D.
        cheap: Whether a product costs less than making its result orthogonal to the basis.
    """
    smallest = _SMALLEST_BLOCK
    if dimension >= _LONG:
        smallest = _SMALLEST_CHEAP_BLOCK if cheap else _SMALLEST_LONG_BLOCK
    return min(_LARGEST_BLOCK, max(smallest, 2 * round(k / 120)))


def default_products(k: int, dimension: int, block: int, *, cautious: bool = True) -> int:
    """Products for k wanted pairs, in whole blocks, at most D.

    Args:
        k: Number of wanted pairs.
        dimension: D.
        block: b.
        cautious: 1.75·k and k + 128 at least: few pairs need more room each, as the flat spectrum of an
            untrained network separates slowly. Otherwise what a trained network takes, 1.5·k + 64 and no more
            than 2.2·k + 24, for a run that goes on if that was not enough.
    """
    hopeful = min(3 * k // 2 + 64, 11 * k // 5 + 24)
    wanted = max(-(-7 * k // 4), k + 128) if cautious else hopeful
    return min(dimension, -(-wanted // block) * block)


def most_products(
    k: int, dimension: int, block: int, columns: int | None, tolerance: float | None, *, asks: bool
) -> int:
    """Products after which a run ends whether or not its residuals meet the tolerance.

    Args:
        k: Number of wanted pairs.
        dimension: D.
        block: b.
        columns: Vectors that the storage holds; None for any number.
        tolerance: The one asked for; None for the usual accuracy.
        asks: Whether the run goes on if its pairs are not enough.
    """
    usual = default_products(k, dimension, block, cautious=not asks or tolerance is not None)
    if tolerance is not None:
        return _PATIENCE * usual
    return usual if asks or columns is None or columns >= usual else _RESTARTED * usual


def block_krylov(
    operator: Operator,
    k: int,
    *,
    block: int | None = None,
    columns: int | None = None,
    products: int | None = None,
    tolerance: float | None = None,
    further: int = 0,
    enough: Callable[[Eigenpairs], float] | None = None,
    complete: bool = True,
    reference: Operator | None = None,
    seed: int = 0,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Eigenpairs:
    """The k eigenpairs of largest |λ| of a symmetric operator, from products in rounds of ``block``.

    The basis Q holds blocks X, HX, H²X, …, each made orthogonal to the ones that it is coupled to by the
    recurrence and then to all earlier ones, until nothing is left to cancel (block Lanczos with full
    reorthogonalisation; Golub & Underwood 1977). H Q = Q T + R, with R the part of the last round's products
    outside the basis, so that a Ritz pair T y = λ y, v = Q y has the residual ‖Hv − λv‖ = ‖R y‖ in exact
    arithmetic, at no product. What rounding adds is measured on a few pairs (``residuals.with_rounding``).

    When the basis is full and more products are wanted, it is replaced by its leading Ritz vectors and the
    next block (thick restart; Wu & Simon 2000), which keeps H Q = Q T + R: memory stays bounded for any
    number of rounds.

    A space that grows from b vectors holds at most b eigenvectors of each eigenvalue, and its residuals say
    nothing of further ones. So at the end the Krylov space of a fresh random block, orthogonal to the basis,
    is looked into. It is added to the basis if k is small, or if it holds a pair that belongs to the k
    leading ones; then another fresh block follows, until one finds nothing or several times the products
    are spent
    (``seigh.core.spectra.completeness``).

    Args:
        operator: Symmetric, D × D.
        k: Number of wanted pairs, at most D.
        block: b, products per round; ``default_block`` when not given, less where few columns fit.
        columns: m, the most vectors in the basis, at most D; as many as ``products`` or the storage holds
            when not given. Where the run needs no restart, fresh vectors come on top.
        products: The iteration ends after this many, and fresh blocks follow; ``most_products`` when not
            given.
        tolerance: It ends sooner once the residuals of all k pairs are at most ``tolerance`` · |λ₁|; a few
            units of rounding error when not given.
        further: Pairs beyond the k wanted ones that are returned as well, as far as they have come, and more
            where these cannot be told apart from number k.
        enough: Asked about the pairs now and then, how many times as large their error is as it may be: the
            run ends once that is at most 1. If it is more when the run would end, it goes on for a while, up
            to twice as many products. The pairs' residuals lack what rounding adds. Not asked with a
            ``tolerance``.
        complete: Whether fresh blocks look for what was missed.
        reference: The same operator in higher precision, for the pairs that are checked: products in float32
            have errors that are the same every time, and so show in no residual that is measured with them.
        seed: Seeds the first block, drawn on the CPU so that it does not depend on the device.
        storage: Where the basis lives; in memory without a limit when not given.
        resumed: Told how many products an earlier process has made, if the run goes on from them.

    Returns:
        k + ``further`` eigenpairs with residuals, or as many as the basis gives, and ``coarser`` ones from
        the basis without its last columns.

    Raises:
        ValueError: Not 1 ≤ k ≤ columns ≤ D, or block < 1.
        SpectrumError: A product is not finite, or the storage is too small for k pairs.
    """
    run = _BlockKrylov(
        typed(operator),
        k,
        block=block,
        columns=columns,
        products=products,
        tolerance=tolerance,
        further=further,
        enough=enough,
        complete=complete,
        reference=reference,
        seed=seed,
        storage=storage or Storage(),
    )
    if run.resumed and resumed is not None:
        resumed(run.resumed)
    return run.run(resumed)


@dataclass
class _Open:
    """Products of a block whose part R outside the basis was not followed.

    Attributes:
        tail: (b, m): R is multiplied with ``tail @ y`` for coefficients y in the basis's first m vectors.
        gram: (b, b), RᵀR less what later vectors of the basis have of it.
        whole: (b, b), RᵀR when the block was left open.
        at: The block's place in the basis, where it is still there as it was.
    """

    tail: Tensor
    gram: Tensor
    whole: Tensor
    at: slice | None

    def lengths(self, rotation: Tensor) -> Tensor:
        """‖R tail y‖ for each column y of ``rotation``."""
        return _lengths(self.tail @ rotation[: self.tail.shape[1]], self.gram)


class _BlockKrylov:
    """One run: the basis Q, T = QᵀHQ, and the last block, whose products are yet to be made."""

    def __init__(
        self,
        operator: Operator,
        k: int,
        *,
        block: int | None,
        columns: int | None,
        products: int | None,
        tolerance: float | None,
        further: int,
        enough: Callable[[Eigenpairs], float] | None,
        complete: bool,
        reference: Operator | None,
        seed: int,
        storage: Storage,
    ) -> None:
        dimension = operator.shape[0]
        room = storage.columns(dimension, operator.dtype)
        fitting = room
        check_square(operator, k, dimension if columns is None else columns)
        if block is not None and block < 1:
            raise ValueError(f"The block size must be at least 1; got {block}.")
        if columns is not None:
            fitting = columns if fitting is None else min(fitting, columns)
        block = default_block(k, dimension) if block is None else block
        usual = most_products(k, dimension, block, fitting, tolerance, asks=enough is not None)
        if products is None:
            products = usual if columns is None else columns
        self.products = products
        self._enough, self._most = enough, self.products if enough is None else _EXTENDED * self.products
        wanted = min(dimension, self._most if columns is None else self.products)
        if (
            tolerance is not None
        ):  # it may take very many products; restarts are cheaper than room for them all
            wanted = min(wanted, _EXTENDED * default_products(k, dimension, block))
        capacity = wanted if fitting is None else min(wanted, fitting)
        self.block = min(block, capacity)
        if capacity < min(dimension, self.products):  # k pairs must stay, and two blocks come
            self.block = min(self.block, (capacity - k) // 2)
            if self.block < 1:
                raise SpectrumError(
                    f"{capacity:,} vectors of D = {dimension:,} fit into the memory for the basis, and "
                    f"k = {k:,} needs {k + 2:,} at least; allow more memory, or choose a smaller k."
                )
        self.operator, self.k, self.capacity, self.further = operator, k, capacity, further
        self.restarts = capacity < min(dimension, self.products)
        # Half of the room beyond k goes to further Ritz vectors: dropping them loses what was learnt.
        kept_free = (capacity - k) // 2
        self.kept = capacity - kept_free // self.block * self.block
        rounding = _ROUNDING * torch.finfo(operator.dtype).eps
        self.tolerance = rounding if tolerance is None else tolerance
        self._patient = tolerance is not None
        self._complete, self._reference = complete, reference
        # Fresh blocks have room of their own where there is any.
        width, rounds = fresh_size(k)
        bounded = columns is not None and self.restarts
        blocks = _SPARE if dimension < _LONG else _SPARE_LONG
        spare = width * rounds + blocks * max(self.block, _FRESH) * _FRESH_ROUNDS
        self._total = min(dimension, capacity + (spare if complete and not bounded else 0))
        if room is not None:
            self._total = max(capacity, min(self._total, room))
        self._limit = _COMPLETED * self.products + spare  # of all products
        self.facts = {
            "dimension": dimension,
            "dtype": str(operator.dtype),
            "k": k,
            "block": self.block,
            "capacity": capacity,
            "total": self._total,
            "complete": complete,
            "seed": seed,
        }
        self.generator = torch.Generator().manual_seed(seed)
        self.basis = storage.basis(self._total, dimension, operator.dtype, operator.device)
        self.projected = torch.zeros(self._total, self._total, dtype=torch.float64, device=operator.device)
        self.last = slice(0, 0)
        self.spent = 0
        self.broken_down = False
        self._checked = self._ask_at = 0
        self._asked: list[int] = []  # sizes of the basis whose pairs were asked about
        self._left_open: list[_Open] = []
        self._decomposed: dict[int, tuple[Tensor, Tensor]] = {}
        self._restarted = 0
        self._last_gram: Tensor | None = None  # of the last products' part outside the basis, at the end
        # The fresh block that grows: where it begins in the basis, its width, and how many rounds it has.
        self._fresh = _Fresh()
        self._asymmetry = 0.0
        self._storage = storage
        self.resumed = self._resume()

    def run(self, resumed: Callable[[int], None] | None) -> Eigenpairs:
        if not self.resumed:
            self._append(_fresh(self.basis, 0, self.block, self.generator), None)
        while self._last_gram is None:
            images, scale = self._products()
            small = gram(images)
            if self._grows(small):
                self._extend(images, small, scale)
            elif self._looks_further(small):
                self._begin_fresh(small)
            else:
                self._last_gram = small
            self._save()
        return self._checked_pairs(self._last_gram, resumed)

    def _products(self) -> tuple[Tensor, float]:
        """H @ the last block less what T knows of it along the basis, (b, D), and the products' length."""
        block = self.basis.rows[self.last].to(self.operator.device)
        images = multiply(self.operator, block.T).T.contiguous()
        self.spent += len(block)
        scale = float(torch.linalg.vector_norm(images, dim=1).max())
        if self._fresh.begun:
            self._project(images)
            return images, scale
        known = self.projected[self.last, : self.last.start]
        own = inner(images, block)
        # Only neighbouring blocks, or all after a restart; the rest of T is zero up to rounding.
        coupled = known.abs().amax(0).nonzero().flatten()
        first = int(coupled[0]) if len(coupled) else self.last.start
        parts = torch.cat([known[:, first:], own], dim=1)
        subtract(images, parts, self.basis.rows[first : self.last.stop].to(images.device))
        self._put_own(own)
        return images, scale

    def _project(self, images: Tensor) -> None:
        """Take the whole basis's part out of a fresh block's products, which are coupled to all of it."""
        parts = self.basis.remove(images, self.last.stop)
        before = slice(0, self.last.start)
        self.projected[self.last, before] = parts[:, before]
        self.projected[before, self.last] = parts[:, before].T
        self._put_own(parts[:, self.last])
        for each in self._left_open:
            if each.at is not None:
                coupling = parts[:, each.at]
                each.gram = each.gram - coupling.T @ coupling

    def _put_own(self, own: Tensor) -> None:
        self.projected[self.last, self.last] = (own + own.T) / 2
        self._asymmetry = max(self._asymmetry, float((own - own.T).abs().max()) / 2)

    def _grows(self, small: Tensor) -> bool:
        """Whether the Krylov space, or that of the fresh block, is to have another block."""
        fresh = self._fresh
        if not fresh.begun:
            return not self._finished(small) or self._goes_on(small)
        if self.last.stop + fresh.width > self._total:
            return False
        rounds = fresh.rounds_in(self.last.stop)
        if rounds < fresh.rounds:
            return True
        return (
            rounds < _DEEPEST * _FRESH_ROUNDS and self.spent < self._limit and self._found_unconverged(small)
        )

    def _found_unconverged(self, small: Tensor) -> bool:
        """Whether a leading pair that came out of a fresh block has yet to converge."""
        values, rotation = self._ritz(self.last.stop, self.k)
        new = rotation[self._fresh.main :].square().sum(0) > 0.5
        loose = self._loose(values, rotation, small)
        # Of many pairs, those behind the first one of the first block that has not converged are in part
        # outside: a vector from outside that is a better one tells nothing new.
        late = loose & ~new
        if self.k >= _MANY and bool(late.any()):
            new[int(late.nonzero()[0]) :] = False
        return bool((new & loose).any())

    def _loose(self, values: Tensor, rotation: Tensor, small: Tensor) -> Tensor:
        """Whether each of the leading Ritz pairs has yet to converge."""
        return _OFF * self._recurred(rotation, small).square() > _TIGHT * values.square()

    def _finished(self, small: Tensor) -> bool:
        size, dimension = self.last.stop, self.operator.shape[0]
        left = self.products - self.spent
        if size == dimension or left <= 0 or (self._is_full() and left < self.block):
            return True
        # A pair may turn up late: where the first block had no part of it, or when the basis broke down.
        least = (
            default_products(self.k, dimension, self.block) if self.broken_down else self.k + 2 * self.block
        )
        if self._asks:
            if self.spent < max(least, int(_FIRST_ASKED * self.k), self._ask_at):
                return False
            self._checked = self.spent
            return self._converged(small) or self._is_enough(small)
        # Not more often than it is small against what the rounds themselves cost, where those are bounded.
        since = self.spent - self._checked
        due = since * dimension >= 10 * size**2 or (self._patient and since * 10 >= self._checked)
        if self.spent < least or not due:
            return False
        self._checked = self.spent
        return self._converged(small)

    @property
    def _asks(self) -> bool:
        return self._enough is not None and not self._patient

    def _is_enough(self, small: Tensor) -> bool:
        if self._enough is None:
            return False
        excess = float(self._enough(self._pairs(small)))
        self._asked.append(self.last.stop)
        share = _HALVED * math.log2(excess) if excess > 1 and math.isfinite(excess) else 0.0
        share = min(max(share, _ASKED_LEAST), _ASKED_MOST) if math.isfinite(excess) else _ASKED_MOST
        self._ask_at = self.spent + max(self.block, int(share * self.spent))
        return excess <= 1

    def _converged(self, small: Tensor) -> bool:
        values, rotation = self._ritz(self.last.stop, self.k)
        return bool((self._recurred(rotation, small) <= self.tolerance * values[0].abs()).all())

    def _goes_on(self, small: Tensor) -> bool:
        """Whether the run shall make more products than planned; then it does."""
        more = -(-self.products // (_LENGTHENED * self.block)) * self.block
        grows = self.last.stop + more <= self.capacity
        could = self.spent + more <= self._most and (grows or self.kept < self.capacity)
        if not self._asks or not could or self.last.stop == self.operator.shape[0]:
            return False
        # A narrower last block has left part of the products out, and the recurrence cannot go on from it.
        if self._left_open or self._converged(small):
            return False
        if self._checked == self.spent or self._is_enough(small):  # just asked, and it is enough
            return False
        self.products = self.spent + more
        self.restarts = self.restarts or not grows
        return True

    def _is_full(self) -> bool:
        return self.restarts and self.last.stop + self.block > self.capacity

    def _looks_further(self, small: Tensor) -> bool:
        """Whether a fresh block is to look for what the basis has missed."""
        dimension = self.operator.shape[0]
        if not self._complete or self.last.stop == dimension:
            return False
        if not self._fresh.begun:
            return min(self.last.stop, self.kept) + _FEWEST_ROUNDS <= self._total
        self._note_outside()
        more = max(self.block, _FRESH) * _FEWEST_ROUNDS
        fits = self.last.stop + more <= self._total or self.kept + more <= self._total
        return not self._is_complete(small) and fits and self.spent + more <= self._limit

    def _begin_fresh(self, small: Tensor) -> None:
        """Leave the last block's products open and append a fresh random block."""
        size = self.last.stop
        again = self._fresh.begun
        width, rounds = fresh_size(self.k)
        if again:  # something was missed: look at more at a time
            width, rounds = max(self.block, _FRESH), _FRESH_ROUNDS
        else:
            self._fresh.main = size
        tail = torch.zeros(len(small), size, dtype=torch.float64, device=small.device)
        tail[:, self.last] = torch.eye(len(small), dtype=torch.float64, device=small.device)
        self._left_open.append(_Open(tail, small, small.clone(), self.last))
        if size + width * _FEWEST_ROUNDS > self._total and self.kept < size:
            self._compress()
            size = self.last.stop
        width = max(1, min(width, (self._total - size) // _FEWEST_ROUNDS))
        rounds = min(rounds, (self._total - size) // width)
        self._fresh.begin(size, width, rounds)
        for each in self._left_open:
            each.whole = each.gram.clone()
        self._append(_fresh(self.basis, size, width, self.generator), None)

    def _compress(self) -> None:
        """Keep the leading Ritz vectors only, with what was left open."""
        size = self.last.stop
        for each in self._left_open:
            padded = each.tail.new_zeros(len(each.tail), size)
            padded[:, : each.tail.shape[1]] = each.tail
            each.tail = padded @ self._ritz(size, self.kept)[1]
            each.at = None
        self._restart()
        self._fresh.main = min(self._fresh.main, self.kept)

    def _note_outside(self) -> None:
        """What the fresh block that has grown says about the eigenvalues outside the basis before it."""
        fresh, size = self._fresh, self.last.stop
        values, rotation = self._ritz(fresh.start, fresh.start)
        count = len(self._left_open)
        coupling = [
            (each.tail @ rotation[: each.tail.shape[1]], count * each.whole)
            for each in self._left_open
            if each.tail.shape[1] <= fresh.start
        ]
        outside = self.projected[fresh.start : size, fresh.start : size]
        fresh.largest, fresh.bound = bound_outside(
            values,
            self.k,
            coupling,
            outside,
            dimension=self.operator.shape[0] - fresh.start,
            rounds=fresh.rounds_in(size),
            width=fresh.width,
        )

    def _is_complete(self, small: Tensor) -> bool:
        """Whether the last fresh block found nothing that belongs to the leading pairs.

        Of many pairs, only to those that have converged: the others lie outside in part, with an eigenvalue
        like their own, and their residuals say so.
        """
        values, rotation = self._ritz(self.last.stop, self.k)
        magnitudes = values.abs()
        loose = self._loose(values, rotation, small)
        converged = int(loose.nonzero()[0]) if self.k >= _MANY and bool(loose.any()) else self.k
        noise = float(magnitudes[0]) * _ROUNDING * torch.finfo(self.operator.dtype).eps
        least = float(magnitudes[converged - 1]) if converged else math.inf
        return self._fresh.largest < max(_BELONGS * least, noise)

    def _ritz(self, size: int, count: int) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T's leading block by |λ|, and its eigenvectors, for the ``count`` first."""
        if size not in self._decomposed:
            self._decomposed[size] = by_magnitude(*torch.linalg.eigh(self.projected[:size, :size]))
        values, rotation = self._decomposed[size]
        return values[:count], rotation[:, :count]

    def _recurred(self, rotation: Tensor, small: Tensor) -> Tensor:
        """‖R y‖ of Ritz vectors y: (n,)."""
        lengths = _lengths(rotation[self.last], small)
        for each in self._left_open:
            lengths = lengths + each.lengths(rotation)
        return lengths

    def _pairs(self, small: Tensor) -> Eigenpairs:
        """The Ritz pairs, and those of a smaller basis; their residuals lack what rounding adds.

        Of many pairs, a fresh block that found nothing is left out: it would add ones that have hardly
        converged.
        """
        size, count = self.last.stop, self.k + self.further
        apart = self._fresh.begun and self.k >= _MANY and self._is_complete(small)
        whole = self._fresh.start if apart else size
        main = self._fresh.main if self._fresh.begun else size
        fewer = max(min(self.k, main), main - max(1, round(_LEFT_OUT * main / self.block)) * self.block)
        known = [
            each
            for each in self._asked
            if self.k < each <= main - self.block and _LEFT_OUT_LEAST <= 1 - each / main <= _LEFT_OUT_MOST
        ]
        fewer = max(known, default=fewer)
        if self.further:
            magnitudes = self._ritz(whole, whole)[0].abs()
            count = max(count, int((magnitudes >= _ALIKE * magnitudes[min(self.k, whole) - 1]).sum()))
        found = []
        for part in (whole, fewer):
            values, rotation = self._ritz(part, count)
            outside = self.projected[part:size, :part] @ rotation
            padded = torch.cat([rotation, torch.zeros_like(outside)])
            lengths = torch.hypot(outside.norm(dim=0), self._recurred(padded, small))
            found.append(Eigenpairs(self.basis.rows[:part], rotation, values, lengths, self.spent))
        # Short of vectors that a restart has chosen, a basis is not what the run had before.
        meant = not self._restarted or fewer >= self.kept
        return replace(
            found[0],
            coarser=found[1] if meant else None,
            outside=self._fresh.largest if self._fresh.begun else None,
        )

    def _checked_pairs(self, small: Tensor, resumed: Callable[[int], None] | None) -> Eigenpairs:
        """The Ritz pairs with residuals as measured products say, and how they were computed."""
        pairs = self._pairs(small)
        assert pairs.residuals is not None
        pairs = with_rounding(
            self.operator,
            self._reference,
            pairs,
            pairs.residuals,
            self.k,
            storage=self._storage,
            resumed=resumed,
        )
        assert pairs.rounding is not None
        record = {
            "block": self.block,
            "columns": self.capacity,
            "restarts": self._restarted,
            "products": self.spent,
            "kept_in": self.basis.kept_in,
            "resumed": self.resumed,
            "tolerance_met": self._converged(small) if self._patient else None,
            "rounding": float(pairs.rounding[: self.k].max()),
            "asymmetry": self._asymmetry,
        }
        return replace(pairs, record=record, completeness=self._completeness(pairs, small))

    def _completeness(self, pairs: Eigenpairs, small: Tensor) -> Completeness | None:
        fresh = self._fresh
        if not fresh.begun:
            return None
        new = pairs.coefficients[fresh.main :, : self.k].square().sum(0)
        return Completeness(
            products=self.last.stop - fresh.main if not self._restarted else fresh.products,
            missed=int((new > 0.5).sum()),
            largest_outside=fresh.largest,
            bound=fresh.bound,
            probability=PROBABILITY,
            complete=self._is_complete(small),
        )

    def _extend(self, images: Tensor, small: Tensor, scale: float) -> None:
        """Append the next block: what the products have outside the basis, orthonormal."""
        fresh = self._fresh
        tail = self._restart() if self._is_full() and not fresh.begun else None
        size = self.last.stop
        if fresh.begun:
            width = min(fresh.width, self._total - size)
        else:
            width = min(self.block, self.products - self.spent, self.capacity - size)
        squared, directions = torch.linalg.eigh(small)
        lengths = squared.clamp_min(0).sqrt().flip(0)
        directions = directions.flip(1)
        # Directions below the rounding error of the products are noise.
        noise = max(
            torch.finfo(images.dtype).eps * size**0.5 * scale, resolution(images.dtype) * float(lengths[0])
        )
        rank = min(width, int((lengths > noise).sum()))
        coupling = torch.zeros(width, len(images), dtype=torch.float64, device=images.device)
        new = self.basis.place(size, rank)
        if rank:
            rows = form(images, directions[:, :rank] / lengths[:rank], new)
            new = _orthonormal(rows, self.basis, size, self.generator)
            coupling[:rank] = inner(new, images)
        if width < len(images):
            # What a narrower last block leaves out of these products stays in the residuals.
            left = small - coupling.T @ coupling
            at = torch.zeros(len(images), size, dtype=torch.float64, device=images.device)
            at[:, self.last] = torch.eye(len(images), dtype=torch.float64, device=images.device)
            self._left_open.append(_Open(at, left, left.clone(), self.last))
        if rank < width:
            # The Krylov space is (numerically) invariant in these directions: go on from random ones, which
            # the products so far say nothing about.
            self.broken_down = True
            new = torch.cat([new, _fresh(self.basis, size, width - rank, self.generator, new)])
        self._append(new, coupling if tail is None else coupling @ tail)

    def _restart(self) -> Tensor:
        """Keep the leading Ritz vectors only; the parts of the last block along them.

        The next block is made orthogonal to those that are kept: along the others the products have nothing.
        """
        values, rotation = self._ritz(self.last.stop, self.kept)
        self.basis.rotate(rotation)
        self._restarted += 1
        self.projected.zero_()
        self.projected.diagonal()[: self.kept] = values
        tail = rotation[self.last]
        self.last = slice(0, self.kept)
        self._decomposed.clear()
        self._asked.clear()
        return tail

    def _append(self, new: Tensor, coupling: Tensor | None) -> None:
        size = self.last.stop
        self._decomposed = {known: pairs for known, pairs in self._decomposed.items() if known <= size}
        part = slice(size, size + len(new))
        self.basis.put(size, new)
        if coupling is not None:
            self.projected[part, self.last] = coupling
            self.projected[self.last, part] = coupling.T
        self.last = part

    def _save(self) -> None:
        if not self.basis.survives:
            return
        saved = _Saved(
            start=self.last.start,
            stop=self.last.stop,
            spent=self.spent,
            products=self.products,
            broken_down=self.broken_down,
            restarts=self.restarts,
            checked=self._checked,
            ask_at=self._ask_at,
            restarted=self._restarted,
            left_open=len(self._left_open),
            asymmetry=self._asymmetry,
        )
        state = {
            "projected": self.projected[: self.last.stop, : self.last.stop],
            "asked": torch.tensor(self._asked, dtype=torch.int64),
            "generator": self.generator.get_state(),
            **_tensors("run", saved),
            **_tensors("fresh", self._fresh),
        }
        for number, each in enumerate(self._left_open):
            at = (-1, -1) if each.at is None else (each.at.start, each.at.stop)
            state |= {
                f"open-{number}-tail": each.tail,
                f"open-{number}-gram": each.gram,
                f"open-{number}-whole": each.whole,
                f"open-{number}-at": torch.tensor(at),
            }
        if self._last_gram is not None:
            state["last_gram"] = self._last_gram
        self.basis.save(state, self.facts)

    def _resume(self) -> int:
        """Go on where an earlier process was; the products that it has made, 0 if there was none."""
        state = self.basis.load(self.facts)
        if state is None or "run-spent" not in state:  # that of an earlier release has other names
            return 0
        saved = _Saved(**_values(_Saved, "run", state))
        self._fresh = _Fresh(**_values(_Fresh, "fresh", state))
        for number in range(saved.left_open):
            tail, gramian, whole = (state[f"open-{number}-{name}"] for name in ("tail", "gram", "whole"))
            first, after = state[f"open-{number}-at"].tolist()
            self._left_open.append(_Open(tail, gramian, whole, slice(first, after) if first >= 0 else None))
        self._last_gram, self._asked = state.get("last_gram"), state["asked"].tolist()
        self.last, self.spent = slice(saved.start, saved.stop), saved.spent
        self.broken_down = saved.broken_down
        self._checked, self._ask_at, self._restarted = saved.checked, saved.ask_at, saved.restarted
        self._asymmetry = saved.asymmetry
        self.products = max(self.products, saved.products)
        self.restarts = self.restarts or saved.restarts
        self.projected[: saved.stop, : saved.stop] = state["projected"]
        self.generator.set_state(state["generator"].cpu())
        return self.spent


@dataclass
class _Saved:
    """Where a run was when its state was saved.

    Attributes:
        start: Where the last block begins in the basis.
        stop: Where it ends.
        spent: Products made.
        products: Products after which the iteration ends.
        broken_down: Whether a block had to be filled up with random vectors.
        restarts: Whether the basis is replaced when it is full.
        checked: Products after which the residuals were looked at last.
        ask_at: Products after which the pairs are asked about next.
        restarted: How many times the basis was replaced.
        left_open: How many blocks have products that were not followed.
        asymmetry: Largest entry of (XᵀHX − XᵀHᵀX)/2 of all blocks X.
    """

    start: int = 0
    stop: int = 0
    spent: int = 0
    products: int = 0
    broken_down: bool = False
    restarts: bool = False
    checked: int = 0
    ask_at: int = 0
    restarted: int = 0
    left_open: int = 0
    asymmetry: float = 0.0


def _tensors(prefix: str, state: _Saved | _Fresh) -> dict[str, Tensor]:
    """Each field as a tensor under its own name, numbers in fp64."""
    kinds = {bool: torch.bool, int: torch.int64, float: torch.float64}
    return {
        f"{prefix}-{name}": torch.tensor(value, dtype=kinds[type(value)])
        for name, value in vars(state).items()
    }


def _values(kind: type[_Saved | _Fresh], prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields that ``_tensors`` has written."""
    return {each.name: tensors[f"{prefix}-{each.name}"].item() for each in fields(kind)}


@dataclass
class _Fresh:
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
        self.begun, self.start, self.width, self.rounds = True, start, width, rounds
        self.products += width * rounds

    def rounds_in(self, size: int) -> int:
        """Blocks that its Krylov space has in a basis of this size."""
        return -(-(size - self.start) // self.width)


def fresh_size(k: int) -> tuple[int, int]:
    """Width and rounds of the fresh block that looks for what k pairs have missed."""
    if k < _MANY:
        return _FRESH, _FRESH_ROUNDS
    return 1, _FRESH_ROUNDS


def _lengths(tail: Tensor, gramian: Tensor) -> Tensor:
    """‖R y‖ for each column y of ``tail``, from RᵀR."""
    return (tail * (gramian @ tail)).sum(0).clamp_min(0).sqrt()


def _random(basis: Basis, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random rows of about unit length: (count, D)."""
    dimension = basis.rows.shape[1]
    # Uniform numbers are drawn faster than normal ones, and any spread over all coordinates will do.
    random = torch.rand(count, dimension, generator=generator, dtype=torch.float32).sub_(0.5)
    return random.mul_((12 / dimension) ** 0.5).to(basis.device, basis.rows.dtype)


def _fresh(
    basis: Basis, size: int, count: int, generator: torch.Generator, new: Tensor | None = None
) -> Tensor:
    """``count`` random orthonormal vectors orthogonal to the basis and to ``new``: (count, D)."""
    return _orthonormal(_random(basis, count, generator), basis, size, generator, new)


def _orthonormal(
    rows: Tensor, basis: Basis, size: int, generator: torch.Generator, beside: Tensor | None = None
) -> Tensor:
    """Rows made orthogonal to the basis, to ``beside`` and to each other, each staying close to itself.

    A direction of which nothing but rounding errors is left is replaced by a random one.
    """
    for _ in range(_MOST_PASSES):
        basis.remove(rows, size)
        if beside is not None and len(beside):
            subtract(rows, inner(rows, beside), beside)
        squared, vectors = torch.linalg.eigh(inner(rows, rows))
        lost = squared <= (_NOTHING * torch.finfo(rows.dtype).eps) ** 2
        if bool(lost.any()):
            kept = form(
                rows, (vectors / torch.where(lost, 1.0, squared.clamp_min(0).sqrt()))[:, ~lost], rows.clone()
            )
            rows[: len(kept)] = kept[: len(kept)]
            rows[len(kept) :] = _random(basis, len(rows) - len(kept), generator)
            continue
        if float((squared - 1).abs().max()) > _ORTHONORMAL * torch.finfo(rows.dtype).eps:
            rows = form(rows, (vectors / squared.sqrt()) @ vectors.T, rows)
        # Nothing was lost to cancellation, so what is left along the basis is rounding ("twice is enough").
        if squared[0] > _KEPT * squared[-1] and squared[0] > _KEPT:
            break
    return rows
