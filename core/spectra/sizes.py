"""Sizes of a block Krylov run: its block, its products, and how many vectors its basis holds."""

from __future__ import annotations

from dataclasses import dataclass

from seigh.core.spectra.operators import SpectrumError

# Smaller blocks are more accurate per product; larger ones are faster by the vector where products of many
# vectors are, and read the basis less often, which is what counts once a vector exceeds the caches.
_SMALLEST_BLOCK, _LARGEST_BLOCK = 4, 16
_LONG, _SMALLEST_LONG_BLOCK = 2**20, 8
_SMALLEST_CHEAP_BLOCK = 16

# How many times the usual number of products a run may take that goes on until it meets a tolerance, and
# one that must restart because its basis does not fit.
_PATIENCE = 10
_RESTARTED = 2

# A run whose pairs are not enough goes on, up to so many times as many products.
_EXTENDED = 2

# From so many wanted pairs on, what lies near number k has hardly converged: rules for fresh blocks differ.
MANY = 100

# Fresh random vectors that look for missed pairs, and how many products each of them spans. Where there are
# many pairs, one vector is enough; where there are few, several are worth their price.
FRESH, FRESH_ROUNDS = 4, 8

# Further fresh blocks, wider ones, for which there is room in the basis; room for long vectors is dear.
_SPARE, _SPARE_LONG = 6, 2

# Where pairs are missing, so many times the products may be spent until they are found.
_COMPLETED = 3


def default_block(k: int, dimension: int, *, cheap: bool = False, held: int | None = None) -> int:
    """Block size b for k wanted pairs: k/60 in multiples of 2, within bounds.

    Args:
        k: Number of wanted pairs.
        dimension: D.
        cheap: Whether a product costs less than making its result orthogonal to the basis.
        held: Vectors that the memory for the basis holds, of which a block and its products are part even
            where the basis is in a file; None for any number.
    """
    smallest = _SMALLEST_BLOCK
    if dimension >= _LONG:
        smallest = _SMALLEST_CHEAP_BLOCK if cheap else _SMALLEST_LONG_BLOCK
    block = min(_LARGEST_BLOCK, max(smallest, 2 * round(k / 120)))
    return block if held is None else min(block, max(_SMALLEST_BLOCK, held // 2))


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


def fresh_size(k: int) -> tuple[int, int]:
    """Width and rounds of the fresh block that looks for what k pairs have missed."""
    if k < MANY:
        return FRESH, FRESH_ROUNDS
    return 1, FRESH_ROUNDS


@dataclass(frozen=True)
class Sizes:
    """Sizes of one run.

    Attributes:
        k: Number of wanted pairs.
        dimension: D.
        block: b, products per round.
        products: Products after which the iteration ends, unless it is lengthened.
        most: Products that it is lengthened to at most.
        capacity: Vectors that the basis holds before it is restarted.
        kept: Ritz vectors that a restart keeps.
        total: ``capacity`` and the room for fresh blocks.
        limit: Most products of the iteration and fresh blocks together.
    """

    k: int
    dimension: int
    block: int
    products: int
    most: int
    capacity: int
    kept: int
    total: int
    limit: int

    @property
    def restarts(self) -> bool:
        """Whether the basis holds less than all planned products."""
        return self.capacity < min(self.dimension, self.products)


def plan(
    k: int,
    dimension: int,
    *,
    block: int | None,
    columns: int | None,
    products: int | None,
    room: int | None,
    tolerance: float | None,
    asks: bool,
    complete: bool,
) -> Sizes:
    """Sizes of a run with the given arguments of ``block_krylov``.

    Args:
        k: Number of wanted pairs.
        dimension: D.
        block: As asked for; None for the default.
        columns: As asked for; None for as many as the products or the storage.
        products: As asked for; None for ``most_products``.
        room: Vectors that the storage holds; None for any number.
        tolerance: As asked for; None for the usual accuracy.
        asks: Whether the run asks if its pairs are enough.
        complete: Whether fresh blocks look for missed pairs.

    Raises:
        ValueError: ``block`` is less than 1.
        SpectrumError: k pairs and two blocks do not fit.
    """
    if block is not None and block < 1:
        raise ValueError(f"The block size must be at least 1; got {block}.")
    fitting = room
    if columns is not None:
        fitting = columns if fitting is None else min(fitting, columns)
    block = default_block(k, dimension) if block is None else block
    if products is None:
        usual = most_products(k, dimension, block, fitting, tolerance, asks=asks)
        products = usual if columns is None else columns
    most = _EXTENDED * products if asks else products
    wanted = min(dimension, most if columns is None else products)
    if tolerance is not None:  # it may take very many products; restarts are cheaper than room for them all
        wanted = min(wanted, _EXTENDED * default_products(k, dimension, block))
    capacity = wanted if fitting is None else min(wanted, fitting)
    block = min(block, capacity)
    restarts = capacity < min(dimension, products)
    if restarts:  # k pairs must stay, and two blocks come
        block = min(block, (capacity - k) // 2)
        if block < 1:
            raise SpectrumError(
                f"{capacity:,} vectors of D = {dimension:,} fit into the memory for the basis, and "
                f"k = {k:,} needs {k + 2:,} at least; allow more memory, or choose a smaller k."
            )
    # Half of the room beyond k goes to further Ritz vectors: dropping them loses what was learnt.
    kept_free = (capacity - k) // 2
    # Fresh blocks have room of their own where there is any.
    width, rounds = fresh_size(k)
    blocks = _SPARE if dimension < _LONG else _SPARE_LONG
    spare = width * rounds + blocks * max(block, FRESH) * FRESH_ROUNDS
    bounded = columns is not None and restarts
    total = min(dimension, capacity + (spare if complete and not bounded else 0))
    if room is not None:
        total = max(capacity, min(total, room))
    return Sizes(
        k=k,
        dimension=dimension,
        block=block,
        products=products,
        most=most,
        capacity=capacity,
        kept=capacity - kept_free // block * block,
        total=total,
        limit=_COMPLETED * products + spare,
    )
