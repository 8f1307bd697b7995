"""Block Krylov subspace with Rayleigh–Ritz, and a look for what a space from one block has missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from seigh.core.spectra import stopping
from seigh.core.spectra.basis import Storage
from seigh.core.spectra.completeness import PROBABILITY, Completeness, bound_outside
from seigh.core.spectra.eigenpairs import Eigenpairs
from seigh.core.spectra.operators import Operator, check_square, typed
from seigh.core.spectra.recurrence import Recurrence
from seigh.core.spectra.residuals import with_rounding
from seigh.core.spectra.saved import Saved, from_tensors, to_tensors
from seigh.core.spectra.sizes import FRESH, FRESH_ROUNDS, MANY, fresh_size, plan
from seigh.core.spectra.stopping import Fresh, Stopping


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
        block: b, products per round; ``sizes.default_block`` when not given, less where few columns fit.
        columns: m, the most vectors in the basis, at most D; as many as ``products`` or the storage holds
            when not given. Where the run needs no restart, fresh vectors come on top.
        products: The iteration ends after this many, and fresh blocks follow; ``sizes.most_products``
            when not given.
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
    run = _Run(
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


class _Run:
    """One run: what the recurrence has found, what the stopping rule makes of it, and the state on disk."""

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
        check_square(operator, k, dimension if columns is None else columns)
        self.sizes = plan(
            k,
            dimension,
            block=block,
            columns=columns,
            products=products,
            room=room,
            tolerance=tolerance,
            asks=enough is not None,
            complete=complete,
        )
        self.k, self.further = k, further
        self.stopping = Stopping(
            self.sizes,
            tolerance=stopping.usual_tolerance(operator.dtype) if tolerance is None else tolerance,
            patient=tolerance is not None,
            asks=enough is not None and tolerance is None,
        )
        self.fresh = Fresh()
        self._enough, self._complete, self._reference, self._storage = enough, complete, reference, storage
        # What another run must have in common with this one to go on from its state.
        self.facts = {
            "dimension": dimension,
            "dtype": str(operator.dtype),
            "k": k,
            "block": self.sizes.block,
            "capacity": self.sizes.capacity,
            "total": self.sizes.total,
            "complete": complete,
            "seed": seed,
        }
        basis = storage.basis(self.sizes.total, dimension, operator.dtype, operator.device)
        self.recurrence = Recurrence(operator, basis, seed)
        self.ended = False
        self.resumed = self._resume()

    def run(self, resumed: Callable[[int], None] | None) -> Eigenpairs:
        recurrence = self.recurrence
        if not self.resumed:
            recurrence.begin(self.sizes.block)
        while not self.ended:
            recurrence.multiply(coupled_to_all=self.fresh.begun)
            if self._grows():
                self._extend()
            elif self._looks_further():
                self._begin_fresh()
            else:
                self.ended = True
            self._save()
        return self._checked_pairs(resumed)

    def _grows(self) -> bool:
        """Whether the Krylov space, or that of the fresh block, is to have another block."""
        fresh, size, spent = self.fresh, self.recurrence.size, self.recurrence.spent
        if not fresh.begun:
            return not self._finished() or self._goes_on()
        if size + fresh.width > self.sizes.total:
            return False
        if fresh.rounds_in(size) < fresh.rounds:
            return True
        if not fresh.can_deepen(size) or spent >= self.sizes.limit:
            return False
        values, rotation = self.recurrence.ritz(size, self.k)
        new = rotation[fresh.main :].square().sum(0) > 0.5
        return stopping.unconverged_from_fresh(values, self.recurrence.residuals(rotation), new)

    def _finished(self) -> bool:
        """Whether the products are spent, or the pairs are good enough already."""
        rule, size, spent = self.stopping, self.recurrence.size, self.recurrence.spent
        if rule.must_end(size, spent):
            return True
        if not rule.is_due(size, spent, broken_down=self.recurrence.broken_down):
            return False
        return self._converged() or (rule.asks and self._is_enough())

    def _goes_on(self) -> bool:
        """Whether the run shall make more products than planned; then it does."""
        rule, size, spent = self.stopping, self.recurrence.size, self.recurrence.spent
        # A narrower last block has left part of the products out, and the recurrence cannot go on from it.
        if not rule.can_lengthen(size, spent) or self.recurrence.left_open or self._converged():
            return False
        if rule.checked == spent or self._is_enough():  # just asked, and it is enough
            return False
        rule.lengthen(size, spent)
        return True

    def _leading(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The k leading Ritz values and their residuals."""
        values, rotation = self.recurrence.ritz(self.recurrence.size, self.k)
        return values, self.recurrence.residuals(rotation)

    def _converged(self) -> bool:
        return stopping.converged(*self._leading(), self.stopping.tolerance)

    def _is_enough(self) -> bool:
        if self._enough is None:
            return False
        excess = float(self._enough(self._pairs()))
        return self.stopping.answered(excess, self.recurrence.size, self.recurrence.spent)

    def _extend(self) -> None:
        """Append the next block, to a restarted basis where it is full."""
        fresh, rule, recurrence = self.fresh, self.stopping, self.recurrence
        if fresh.begun:
            recurrence.extend(min(fresh.width, self.sizes.total - recurrence.size))
            return
        tail = None
        if rule.is_full(recurrence.size):
            tail = recurrence.restart(self.sizes.kept)
            rule.asked.clear()
        recurrence.extend(rule.width(recurrence.size, recurrence.spent), tail)

    def _looks_further(self) -> bool:
        """Whether a fresh block is to look for what the basis has missed."""
        size, spent = self.recurrence.size, self.recurrence.spent
        if not self._complete or size == self.sizes.dimension:
            return False
        if not self.fresh.begun:
            return stopping.fits_first(size, self.sizes)
        self._note_outside()
        return not self._is_complete() and stopping.fits_another(size, spent, self.sizes)

    def _begin_fresh(self) -> None:
        """Leave the last block's products open and append a fresh random block."""
        recurrence, fresh = self.recurrence, self.fresh
        width, rounds = fresh_size(self.k)
        if fresh.begun:  # something was missed: look at more at a time
            width, rounds = max(self.sizes.block, FRESH), FRESH_ROUNDS
        else:
            fresh.main = recurrence.size
        recurrence.leave_open()
        if stopping.must_compress(recurrence.size, width, self.sizes):
            recurrence.compress(self.sizes.kept)
            self.stopping.asked.clear()
            fresh.main = min(fresh.main, self.sizes.kept)
        width, rounds = stopping.fitting(recurrence.size, width, rounds, self.sizes)
        fresh.begin(recurrence.size, width, rounds)
        recurrence.begin(width)

    def _note_outside(self) -> None:
        """What the fresh block that has grown says about the eigenvalues outside the basis before it."""
        fresh, size = self.fresh, self.recurrence.size
        fresh.largest, fresh.bound = bound_outside(
            self.recurrence.ritz(fresh.start, fresh.start)[0],
            self.k,
            self.recurrence.couplings(fresh.start),
            self.recurrence.projected[fresh.start : size, fresh.start : size],
            dimension=self.sizes.dimension - fresh.start,
            rounds=fresh.rounds_in(size),
            width=fresh.width,
        )

    def _is_complete(self) -> bool:
        """Whether the last fresh block found nothing that belongs to the leading pairs."""
        return stopping.nothing_missed(*self._leading(), self.fresh.largest, self.recurrence.operator.dtype)

    def _pairs(self) -> Eigenpairs:
        """The Ritz pairs, and those of a smaller basis; their residuals lack what rounding adds.

        Of many pairs, a fresh block that found nothing is left out: it would add ones that have hardly
        converged.
        """
        fresh, recurrence = self.fresh, self.recurrence
        size, count = recurrence.size, self.k + self.further
        apart = fresh.begun and self.k >= MANY and self._is_complete()
        whole = fresh.start if apart else size
        main = fresh.main if fresh.begun else size
        fewer = stopping.coarser_size(self.k, main, self.sizes.block, self.stopping.asked)
        if self.further:
            count = max(count, stopping.count_alike(recurrence.ritz(whole, whole)[0], self.k))
        pairs, coarser = recurrence.pairs(whole, count), recurrence.pairs(fewer, count)
        # Short of vectors that a restart has chosen, a basis is not what the run had before.
        meant = not recurrence.restarted or fewer >= self.sizes.kept
        return replace(
            pairs, coarser=coarser if meant else None, outside=fresh.largest if fresh.begun else None
        )

    def _checked_pairs(self, resumed: Callable[[int], None] | None) -> Eigenpairs:
        """The Ritz pairs with residuals as measured products say, and how they were computed."""
        recurrence, pairs = self.recurrence, self._pairs()
        assert pairs.residuals is not None
        pairs = with_rounding(
            recurrence.operator,
            self._reference,
            pairs,
            pairs.residuals,
            self.k,
            storage=self._storage,
            resumed=resumed,
        )
        assert pairs.rounding is not None
        record = {
            "block": self.sizes.block,
            "columns": self.sizes.capacity,
            "restarts": recurrence.restarted,
            "products": recurrence.spent,
            "kept_in": recurrence.basis.kept_in,
            "resumed": self.resumed,
            "tolerance_met": self._converged() if self.stopping.patient else None,
            "rounding": float(pairs.rounding[: self.k].max()),
            "asymmetry": recurrence.asymmetry,
        }
        return replace(pairs, record=record, completeness=self._completeness(pairs))

    def _completeness(self, pairs: Eigenpairs) -> Completeness | None:
        fresh, recurrence = self.fresh, self.recurrence
        if not fresh.begun:
            return None
        new = pairs.coefficients[fresh.main :, : self.k].square().sum(0)
        return Completeness(
            products=fresh.products if recurrence.restarted else recurrence.size - fresh.main,
            missed=int((new > 0.5).sum()),
            largest_outside=fresh.largest,
            bound=fresh.bound,
            probability=PROBABILITY,
            complete=self._is_complete(),
        )

    def _save(self) -> None:
        recurrence, rule = self.recurrence, self.stopping
        if not recurrence.basis.survives:
            return
        saved = Saved(
            start=recurrence.last.start,
            stop=recurrence.last.stop,
            spent=recurrence.spent,
            products=rule.products,
            broken_down=recurrence.broken_down,
            restarts=rule.restarts,
            checked=rule.checked,
            ask_at=rule.ask_at,
            restarted=recurrence.restarted,
            left_open=recurrence.left_open,
            asymmetry=recurrence.asymmetry,
        )
        state = {
            "asked": torch.tensor(rule.asked, dtype=torch.int64),
            **recurrence.state(),
            **to_tensors("run", saved),
            **to_tensors("fresh", self.fresh),
        }
        if self.ended:
            state["last_gram"] = recurrence.outside
        recurrence.basis.save(state, self.facts)

    def _resume(self) -> int:
        """Go on where an earlier process was; the products that it has made, 0 if there was none."""
        recurrence, rule = self.recurrence, self.stopping
        state = recurrence.basis.load(self.facts)
        if state is None or "run-spent" not in state:  # a state of a very old release has other names
            return 0
        saved = from_tensors(Saved, "run", state)
        self.fresh = from_tensors(Fresh, "fresh", state)
        recurrence.restore(state, slice(saved.start, saved.stop), saved.left_open)
        recurrence.spent, recurrence.broken_down = saved.spent, saved.broken_down
        recurrence.restarted, recurrence.asymmetry = saved.restarted, saved.asymmetry
        if "last_gram" in state:
            recurrence.outside, self.ended = state["last_gram"], True
        rule.asked, rule.checked, rule.ask_at = state["asked"].tolist(), saved.checked, saved.ask_at
        rule.products = max(rule.products, saved.products)
        rule.restarts = rule.restarts or saved.restarts
        return saved.spent
