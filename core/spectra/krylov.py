"""Block Krylov subspace with Rayleigh–Ritz: the most accurate eigenpairs per Hessian-vector product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from core.spectra.basis import Basis, Storage
from core.spectra.eigenpairs import Eigenpairs, by_magnitude, form
from core.spectra.operators import Operator, SpectrumError, check_square, multiply
from core.spectra.orthogonal import gram, inner, resolution, subtract
from core.spectra.residuals import residuals

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

# Share of the basis that the coarser pairs do without: with one round less the two can agree by accident.
_LEFT_OUT = 0.15

# A pass that leaves this share of each squared length has cancelled nothing.
_KEPT = 0.5
_MOST_PASSES = 5

# Squared lengths of a block that differ from 1 by no more units of rounding error are left as they are.
_ORTHONORMAL = 8.0

# Pairs whose residual is measured by a product of its own: the recurrence cannot see rounding errors.
CHECKS = 8


def default_block(k: int, dimension: int, *, cheap: bool = False) -> int:
    """Block size b for k wanted pairs: k/24 in multiples of 4, within bounds.

    Args:
        k: Number of wanted pairs.
        dimension: D.
        cheap: Whether a product costs less than making its result orthogonal to the basis.
    """
    smallest = _SMALLEST_BLOCK
    if dimension >= _LONG:
        smallest = _SMALLEST_CHEAP_BLOCK if cheap else _SMALLEST_LONG_BLOCK
    return min(_LARGEST_BLOCK, max(smallest, 4 * round(k / 96)))


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
    enough: Callable[[Eigenpairs], bool] | None = None,
    seed: int = 0,
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Eigenpairs:
    """The k eigenpairs of largest |λ| of a symmetric operator, from products in rounds of ``block``.

    The basis Q holds blocks X, HX, H²X, …, each made orthogonal to the ones that it is coupled to by the
    recurrence and then to all earlier ones, until nothing is left to cancel (block Lanczos with full
    reorthogonalisation; Golub & Underwood 1977). H Q = Q T + R, with R the part of the last round's products
    outside the basis, so that a Ritz pair T y = λ y, v = Q y has the residual ‖Hv − λv‖ = ‖R y‖ in exact
    arithmetic, at no product. What rounding adds is measured on ``CHECKS`` pairs spread over the k, by one
    more product for each, and the largest is added to all.

    When the basis is full and more products are wanted, it is replaced by its leading Ritz vectors and the
    next block (thick restart; Wu & Simon 2000), which keeps H Q = Q T + R: memory stays bounded for any
    number of rounds.

    Args:
        operator: Symmetric, D × D.
        k: Number of wanted pairs, at most D.
        block: b, products per round; ``default_block`` when not given, less where few columns fit.
        columns: m, the most vectors in the basis, at most D; as many as ``products`` or the storage holds
            when not given.
        products: The iteration ends after this many; ``most_products`` when not given.
        tolerance: It ends sooner once the residuals of all k pairs are at most ``tolerance`` · |λ₁|; a few
            units of rounding error when not given.
        further: Pairs beyond the k wanted ones that are returned as well, as far as they have come.
        enough: Asked about the pairs when the run would end; if they are not enough, it goes on for a while,
            up to twice as many products, and asks again. Their residuals lack what rounding adds. Not asked
            with a ``tolerance``.
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
        operator, k, block, columns, products, tolerance, further, enough, seed, storage or Storage()
    )
    if run.resumed and resumed is not None:
        resumed(run.resumed)
    return run.run(resumed)


class _BlockKrylov:
    """One run: the basis Q, T = QᵀHQ, and the last block, whose products are yet to be made."""

    def __init__(
        self,
        operator: Operator,
        k: int,
        block: int | None,
        columns: int | None,
        products: int | None,
        tolerance: float | None,
        further: int,
        enough: Callable[[Eigenpairs], bool] | None,
        seed: int,
        storage: Storage,
    ) -> None:
        dimension = operator.shape[0]
        fitting = storage.columns(dimension, operator.dtype)
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
        room = (capacity - k) // 2
        self.kept = capacity - room // self.block * self.block
        rounding = _ROUNDING * torch.finfo(operator.dtype).eps
        self.tolerance = rounding if tolerance is None else tolerance
        self._patient = tolerance is not None
        self.facts = {
            "dimension": dimension,
            "dtype": str(operator.dtype),
            "k": k,
            "block": self.block,
            "capacity": capacity,
            "seed": seed,
        }
        self.generator = torch.Generator().manual_seed(seed)
        self.basis = storage.basis(capacity, dimension, operator.dtype, operator.device)
        self.projected = torch.zeros(capacity, capacity, dtype=torch.float64, device=operator.device)
        self.last = slice(0, 0)
        self.spent = 0
        self.broken_down = False
        self._checked = 0
        self._dropped = (slice(0, 0), self.projected[:0, :0])
        self._decomposed: dict[int, tuple[Tensor, Tensor]] = {}
        self._restarted = 0
        self._last_gram: Tensor | None = None  # of the last products' part outside the basis, at the end
        self._storage = storage
        self.resumed = self._resume()

    def run(self, resumed: Callable[[int], None] | None) -> Eigenpairs:
        if not self.resumed:
            self._append(_fresh(self.basis, 0, self.block, self.generator), None)
        while self._last_gram is None:
            images, scale = self._products()
            small = gram(images)
            if self._finished(small) and not self._goes_on(small):
                self._last_gram = small
            else:
                self._extend(images, small, scale)
            self._save()
        return self._checked_pairs(self._last_gram, resumed)

    def _products(self) -> tuple[Tensor, float]:
        """H @ the last block less what T knows of it along the basis, (b, D), and the products' length."""
        block = self.basis.rows[self.last].to(self.operator.device)
        images = multiply(self.operator, block.T).T.contiguous()
        self.spent += len(block)
        scale = float(torch.linalg.vector_norm(images, dim=1).max())
        known = self.projected[self.last, : self.last.start]
        own = inner(images, block)
        # Only neighbouring blocks, or all after a restart; the rest of T is zero up to rounding.
        coupled = known.abs().amax(0).nonzero().flatten()
        first = int(coupled[0]) if len(coupled) else self.last.start
        parts = torch.cat([known[:, first:], own], dim=1)
        subtract(images, parts, self.basis.rows[first : self.last.stop].to(images.device))
        self.projected[self.last, self.last] = (own + own.T) / 2
        return images, scale

    def _finished(self, small: Tensor) -> bool:
        size, dimension = self.last.stop, self.operator.shape[0]
        left = self.products - self.spent
        if size == dimension or left <= 0 or (self._is_full() and left < self.block):
            return True
        # A pair may turn up late: where the first block had no part of it, or when the basis broke down.
        least = (
            default_products(self.k, dimension, self.block) if self.broken_down else self.k + 2 * self.block
        )
        # Not more often than it is small against what the rounds themselves cost, where those are bounded.
        since = self.spent - self._checked
        due = since * dimension >= 10 * size**2 or (self._patient and since * 10 >= self._checked)
        if self.spent < least or not due:
            return False
        self._checked = self.spent
        return self._converged(small)

    def _converged(self, small: Tensor) -> bool:
        values, rotation = self._ritz(self.last.stop, self.k)
        return bool((self._recurred(rotation, small) <= self.tolerance * values[0].abs()).all())

    def _goes_on(self, small: Tensor) -> bool:
        """Whether the run shall make more products than planned; then it does."""
        more = -(-self.products // (_LENGTHENED * self.block)) * self.block
        grows = self.last.stop + more <= self.capacity
        could = self.spent + more <= self._most and (grows or self.kept < self.capacity)
        if self._enough is None or self._patient or not could or self.last.stop == self.operator.shape[0]:
            return False
        # A narrower last block has left part of the products out, and the recurrence cannot go on from it.
        if self._dropped[0].stop or self._converged(small) or self._enough(self._pairs(small)):
            return False
        self.products = self.spent + more
        self.restarts = self.restarts or not grows
        return True

    def _is_full(self) -> bool:
        return self.restarts and self.last.stop + self.block > self.capacity

    def _ritz(self, size: int, count: int) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T's leading block by |λ|, and its eigenvectors, for the ``count`` first."""
        if size not in self._decomposed:
            self._decomposed[size] = by_magnitude(*torch.linalg.eigh(self.projected[:size, :size]))
        values, rotation = self._decomposed[size]
        return values[:count], rotation[:, :count]

    def _recurred(self, rotation: Tensor, small: Tensor) -> Tensor:
        """‖R y‖ of Ritz vectors y: (n,)."""
        return _lengths(rotation[self.last], small) + _lengths(rotation[self._dropped[0]], self._dropped[1])

    def _pairs(self, small: Tensor) -> Eigenpairs:
        """The Ritz pairs, and those of a smaller basis; their residuals lack what rounding adds."""
        size, count = self.last.stop, self.k + self.further
        fewer = max(min(self.k, size), size - max(1, round(_LEFT_OUT * size / self.block)) * self.block)
        found = []
        for part in (size, fewer):
            values, rotation = self._ritz(part, count)
            outside = self.projected[part:size, :part] @ rotation
            padded = torch.cat([rotation, torch.zeros_like(outside)])
            lengths = torch.hypot(outside.norm(dim=0), self._recurred(padded, small))
            found.append(Eigenpairs(self.basis.rows[:part], rotation, values, lengths, self.spent))
        # Short of vectors that a restart has chosen, a basis is not what the run had before.
        meant = not self._restarted or fewer >= self.kept
        return replace(found[0], coarser=found[1] if meant else None)

    def _checked_pairs(self, small: Tensor, resumed: Callable[[int], None] | None) -> Eigenpairs:
        """The Ritz pairs with residuals as measured products say, and how they were computed."""
        pairs = self._pairs(small)
        assert pairs.residuals is not None
        checked = torch.linspace(0, self.k - 1, min(CHECKS, self.k), device=pairs.values.device).long()
        measured = residuals(self.operator, pairs, checked, storage=self._storage, resumed=resumed)
        rounding = (measured - pairs.residuals[checked]).clamp_min(0).max()
        record = {
            "block": self.block,
            "columns": self.capacity,
            "restarts": self._restarted,
            "products": self.spent,
            "kept_in": self.basis.kept_in,
            "resumed": self.resumed,
            "tolerance_met": self._converged(small) if self._patient else None,
        }
        hvps = self.spent + len(checked)
        return replace(pairs, residuals=pairs.residuals + rounding, hvps=hvps, record=record)

    def _extend(self, images: Tensor, small: Tensor, scale: float) -> None:
        """Append the next block: what the products have outside the basis, orthonormal."""
        tail = self._restart() if self._is_full() else None
        size = self.last.stop
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
            new = _orthonormal(form(images, directions[:, :rank] / lengths[:rank], new), self.basis, size)
            coupling[:rank] = inner(new, images)
        if width < len(images):
            # What a narrower last block leaves out of these products stays in the residuals.
            self._dropped = (self.last, small - coupling.T @ coupling)
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
        return tail

    def _append(self, new: Tensor, coupling: Tensor | None) -> None:
        self._decomposed.clear()
        size = self.last.stop
        part = slice(size, size + len(new))
        self.basis.put(size, new)
        if coupling is not None:
            self.projected[part, self.last] = coupling
            self.projected[self.last, part] = coupling.T
        self.last = part

    def _save(self) -> None:
        counts = [
            self.last.start,
            self.last.stop,
            self.spent,
            self.products,
            self.broken_down,
            self.restarts,
            self._checked,
            self._restarted,
        ]
        dropped, gramian = self._dropped
        state = {
            "projected": self.projected[: self.last.stop, : self.last.stop],
            "counts": torch.tensor([*counts, dropped.start, dropped.stop]),
            "dropped": gramian,
            "generator": self.generator.get_state(),
        }
        if self._last_gram is not None:
            state["last_gram"] = self._last_gram
        self.basis.save(state, self.facts)

    def _resume(self) -> int:
        """Go on where an earlier process was; the products that it has made, 0 if there was none."""
        state = self.basis.load(self.facts)
        if state is None:
            return 0
        start, stop, self.spent, products, broken_down, restarts, *more = state["counts"].tolist()
        self._checked, self._restarted, first, after = more
        self._dropped = slice(first, after), state["dropped"]
        self._last_gram = state.get("last_gram")
        self.last, self.broken_down = slice(start, stop), bool(broken_down)
        self.products, self.restarts = max(self.products, products), self.restarts or bool(restarts)
        self.projected[:stop, :stop] = state["projected"]
        self.generator.set_state(state["generator"].cpu())
        return self.spent


def _lengths(tail: Tensor, gramian: Tensor) -> Tensor:
    """‖R y‖ for each column y of ``tail``, from RᵀR."""
    return (tail * (gramian @ tail)).sum(0).clamp_min(0).sqrt()


def _fresh(
    basis: Basis, size: int, count: int, generator: torch.Generator, new: Tensor | None = None
) -> Tensor:
    """``count`` random orthonormal vectors orthogonal to the basis and to ``new``: (count, D)."""
    dimension = basis.rows.shape[1]
    # Uniform numbers are drawn faster than normal ones, and any spread over all coordinates will do.
    random = torch.rand(count, dimension, generator=generator, dtype=torch.float32).sub_(0.5)
    rows = random.mul_((12 / dimension) ** 0.5).to(basis.device, basis.rows.dtype)
    return _orthonormal(rows, basis, size, new)


def _orthonormal(rows: Tensor, basis: Basis, size: int, beside: Tensor | None = None) -> Tensor:
    """Rows made orthogonal to the basis, to ``beside`` and to each other, each staying close to itself."""
    for _ in range(_MOST_PASSES):
        rows = basis.remove(rows, size)
        if beside is not None and len(beside):
            subtract(rows, inner(rows, beside), beside)
        squared, vectors = torch.linalg.eigh(inner(rows, rows))
        squared = squared.clamp_min(torch.finfo(torch.float64).tiny)
        if float((squared - 1).abs().max()) > _ORTHONORMAL * torch.finfo(rows.dtype).eps:
            rows = form(rows, (vectors / squared.sqrt()) @ vectors.T, rows)
        # Nothing was lost to cancellation, so what is left along the basis is rounding ("twice is enough").
        if squared[0] > _KEPT * squared[-1] and squared[0] > _KEPT:
            break
    return rows
