"""How often the stated errors hold: random operators and small networks, every method, both precisions.

``python -m benchmarks.coverage`` runs the nightly length; README.md says what is counted. The truth is a
dense float64 eigendecomposition by LAPACK.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from json import loads as json_of
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks import report
from benchmarks.networks import NETWORKS, small
from seigh.core.analysis import eigenspace, missed
from seigh.core.curvature import CurvatureOperator
from seigh.core.methods import BUILT_IN
from seigh.core.overlap import largest_first
from seigh.core.settings import AnalysisSettings, SettingsError
from seigh.core.spectra import Operator, Shifted, SpectrumError

# Eigenvalues closer than this share of |λ₁| count as equal: V_k is then any basis of what they span.
TIE = 4e-14

# An overlap is claimed where its stated error is at most this share of it.
CLAIM = 0.01

PRECISIONS = ("float32", "float64")

# Rounding that intervals for norms, which are statistical, do not cover.
_ROUNDED = 1e-6


@dataclass(frozen=True)
class Matrix:
    """A symmetric operator whose eigenpairs are known, and a mask.

    Attributes:
        kind: What it is an example of.
        seed: Which example.
        dense: H without the penalty of weight decay, (D, D) fp64; what float32 rounds is rounded already.
        order: (n,), the mask's coordinates.
        weight_decay: λ of the penalty; the matrix in question is H + λI.
    """

    kind: str
    seed: int
    dense: Tensor
    order: Tensor
    weight_decay: float = 0.0

    @property
    def penalised(self) -> Tensor:
        """H + λI."""
        return self.dense + self.weight_decay * torch.eye(len(self.dense), dtype=torch.float64)


def _between(g: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def _pick(g: torch.Generator, *choices: Any) -> Any:
    return choices[int(torch.randint(len(choices), (), generator=g))]


def _power(i: Tensor, _: int, g: torch.Generator) -> Tensor:
    return i ** -_between(g, 0.5, 3) * _jitter(i, g)


def _exponential(i: Tensor, _: int, g: torch.Generator) -> Tensor:
    return torch.exp(-i / _between(g, 4, 80)) * _jitter(i, g)


def _network(i: Tensor, _: int, g: torch.Generator) -> Tensor:
    """Some outliers above a bulk that decays, part of it negative."""
    bulk = i ** -_between(g, 0.8, 1.6) * _jitter(i, g) * _between(g, 0.01, 0.3)
    bulk[:8] += 0.5 + 2 * _uniform(i, g)[:8]
    return torch.where((_uniform(i, g) < _between(g, 0.1, 0.5)) & (i > 8), -bulk / 2, bulk)


def _semicircle(i: Tensor, _: int, g: torch.Generator) -> Tensor:
    """Flat: the spectrum of a Gaussian random matrix."""
    random = torch.randn(len(i), len(i), generator=g, dtype=torch.float64)
    return torch.linalg.eigvalsh(random + random.T)


def _indefinite(i: Tensor, _: int, g: torch.Generator) -> Tensor:
    signs = torch.where(_uniform(i, g) < 0.5, -1.0, 1.0)
    return i ** -_between(g, 0.5, 2.5) * _jitter(i, g) * signs


def _multiple(i: Tensor, k: int, g: torch.Generator) -> Tensor:
    """Every eigenvalue, or only the top, or only some further down, several times; often more than a
    block.
    """
    copies = _pick(g, 2, 3, 5, 9, 12, 20)
    group = (i - 1) // copies
    match _pick(g, "all", "top", "middle"):
        case "top":
            group = torch.where(i <= copies, 0.0, i - copies)
        case "middle":
            start = _pick(g, k // 4 + 1, k // 2 + 1)
            group = torch.where(
                i < start, i - start, torch.where(i < start + copies, 0.0, i - start - copies + 1)
            )
            group = group + start
    return torch.exp(-group / _between(g, 3, 40))


def _paired(i: Tensor, _: int, g: torch.Generator) -> Tensor:
    """Pairs ±λ."""
    return ((i + 1) // 2) ** -_between(g, 0.5, 2) * torch.where(i % 2 == 0, -1.0, 1.0)


def _bulk_edge(i: Tensor, k: int, g: torch.Generator) -> Tensor:
    """Fewer or more eigenvalues than k above a bulk that begins at a sharp edge."""
    above = _pick(g, k // 2, k - 1, k, k + 3)
    bulk = torch.sort(_uniform(i, g), descending=True).values * _pick(g, 1e-3, 1e-2, 0.1)
    outliers = torch.exp(-i / _between(g, 10, 60))
    return torch.where(i <= above, outliers + bulk.max(), bulk) * torch.where(_uniform(i, g) < 0.2, -1.0, 1.0)


def _cluster(i: Tensor, k: int, g: torch.Generator) -> Tensor:
    """A cluster of close eigenvalues around number k, or clusters everywhere."""
    width = _pick(g, 2, 4, 8)
    apart = 10 ** _between(g, -8, -2) * torch.randn(len(i), generator=g, dtype=torch.float64)
    if _pick(g, True, False):
        return torch.exp(-((i - 1) // width) / _between(g, 3, 30)) * (1 + apart)
    values = torch.exp(-i / _between(g, 10, 60)) * _jitter(i, g)
    values = values[values.argsort(descending=True)]
    near = (i - k).abs() <= width // 2
    return torch.where(near, values[k - 1] * (1 + apart), values)


def _low_rank(i: Tensor, k: int, g: torch.Generator) -> Tensor:
    rank = max(1, _pick(g, k // 3, k - 1, k, k + 5, 2 * k))
    return torch.where(i <= rank, torch.exp(-i / _between(g, 4, 80)) * _jitter(i, g), 0.0)


def _graded(i: Tensor, k: int, g: torch.Generator) -> Tensor:
    """Many decades within the first k, so that the last ones meet the rounding errors of the first."""
    return 10 ** (-_between(g, 4, 14) * i / (1.5 * k)) * torch.where(_uniform(i, g) < 0.3, -1.0, 1.0)


def _shifted(i: Tensor, k: int, g: torch.Generator) -> Tensor:
    """λI + low rank, or a decaying spectrum with weight decay; the shift is set in ``draw``."""
    decay = torch.exp(-i / _between(g, 4, 60)) * _jitter(i, g)
    rank = max(1, _pick(g, k // 2, k + 5, 4 * k, len(i)))
    return torch.where(i <= rank, decay * torch.where(_uniform(i, g) < 0.2, -1.0, 1.0), 0.0)


KINDS: MappingProxyType[str, Callable[[Tensor, int, torch.Generator], Tensor]] = MappingProxyType(
    {
        "power law": _power,
        "exponential": _exponential,
        "network-like": _network,
        "flat": _semicircle,
        "indefinite": _indefinite,
        "multiplicities": _multiple,
        "± pairs": _paired,
        "bulk edge": _bulk_edge,
        "cluster at k": _cluster,
        "low rank": _low_rank,
        "graded": _graded,
        "λI + low rank": _shifted,
    }
)


def _jitter(i: Tensor, g: torch.Generator) -> Tensor:
    return 1 + 0.3 * _uniform(i, g)


def _uniform(i: Tensor, g: torch.Generator) -> Tensor:
    return torch.rand(len(i), generator=g, dtype=torch.float64)


def draw(kind: str, seed: int, size: int = 400) -> Matrix:
    """A random operator of a kind with D = ``size``: spectrum, scale, eigenvectors, mask and n are drawn."""
    g = torch.Generator().manual_seed(1000 * list(KINDS).index(kind) + 100_000 * size + seed)
    n = min(_pick(g, 1, 3, 5, 10, 20, 40, 60, 110), size // 3)
    i = torch.arange(1, size + 1, dtype=torch.float64)
    scale = 10.0 ** _pick(g, -3, 0, 2)
    values = KINDS[kind](i, n, g) * scale
    vectors, _ = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))
    if _pick(g, True, False):  # localised
        sparse = torch.rand(size, size, generator=g, dtype=torch.float64) < 0.01
        skew = torch.randn(size, size, generator=g, dtype=torch.float64) * sparse
        vectors, _ = torch.linalg.qr(torch.linalg.matrix_exp(skew - skew.T))
        vectors = vectors[torch.randperm(size, generator=g)]
    dense = (vectors * values) @ vectors.T
    # A network's weights are in float32, and both precisions analyse the same ones.
    dense = ((dense + dense.T) / 2).float().double()
    theta = torch.randn(size, generator=g, dtype=torch.float64)
    if _pick(g, True, False):  # aligned with the eigenvectors
        theta *= vectors[:, values.abs().argsort(descending=True)[:n]].norm(dim=1)
    decay = _between(g, 0.0, 0.3) * scale if kind == "λI + low rank" else 0.0
    return Matrix(kind, seed, dense, largest_first(theta, n), decay)


def admissible(matrix: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """λ by descending |λ|, and the least and the greatest overlap of every V_k that the matrix admits."""
    values, vectors = torch.linalg.eigh(matrix)
    by_size = values.abs().argsort(descending=True, stable=True)
    values, vectors = values[by_size], vectors[:, by_size]
    n = len(order)
    sizes, rows = values.abs(), vectors[order]
    least, greatest = torch.empty(n, dtype=torch.float64), torch.empty(n, dtype=torch.float64)
    tie = TIE * float(sizes[0])
    for k in range(1, n + 1):
        sure = int((sizes > sizes[k - 1] + tie).sum())
        tied = rows[:k, sure : int((sizes >= sizes[k - 1] - tie).sum())]
        masses = torch.linalg.eigvalsh(tied.T @ tied) if tied.shape[1] > 1 else tied.square().sum(0)
        mass = rows[:k, :sure].square().sum()
        least[k - 1] = (mass + masses[: k - sure].sum()) / k
        greatest[k - 1] = (mass + masses.flip(0)[: k - sure].sum()) / k
    return values, least, greatest


@dataclass
class Tally:
    """What was counted over the runs of one kind and method.

    Attributes:
        runs: Runs.
        refused: Runs that ended in a sentence: a sketch of lower rank than k.
        exceptions: Runs that ended in anything else.
        sizes: Overlaps that were stated.
        claimed: Overlaps claimed to 1 %.
        wrong: Those of them that are farther from the truth.
        curves: Runs with an overlap curve.
        covered: Curves that lie within their stated error at every k.
        norms, missed, scree: Runs in which ‖H‖_F, ‖H − Ĥ‖_F and the whole scree curve lie in their intervals.
        eigenvalues: Runs in which every λ has an eigenvalue within its residual.
        products: Products spent.
        wanted: Sum of the k.
        notes: What went wrong, a line each.
    """

    runs: int = 0
    refused: int = 0
    exceptions: int = 0
    sizes: int = 0
    claimed: int = 0
    wrong: int = 0
    curves: int = 0
    covered: int = 0
    norms: int = 0
    missed: int = 0
    scree: int = 0
    eigenvalues: int = 0
    products: int = 0
    wanted: int = 0
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        mine, theirs = vars(self), vars(other)
        return Tally(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Case:
    """An operator in two precisions with its dense matrix, and a mask.

    Attributes:
        label: What it is called in notes.
        operator: In the precision of the run, without the penalty of weight decay.
        reference: In float64.
        dense: H with the penalty, (D, D) fp64.
        order: (n,), the mask's coordinates.
        settings: Of an analysis of it.
    """

    label: str
    operator: Operator
    reference: Operator
    dense: Tensor
    order: Tensor
    settings: AnalysisSettings


def case_of_matrix(matrix: Matrix, method: str, precision: str) -> Case:
    """A random operator as a case."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    settings = AnalysisSettings(
        architecture="",
        data="",
        method=method,
        precision=precision,
        k=len(matrix.order),
        seed=matrix.seed,
        weight_decay=matrix.weight_decay,
    )
    label = f"{matrix.kind} {matrix.seed} {method} {precision}"
    operator = matrix.dense.to(dtype)
    return Case(label, operator, matrix.dense, matrix.penalised, matrix.order, settings)


def case_of_network(name: str, seed: int, method: str, precision: str) -> Case:
    """A small network, trained for 0, 30 or 200 steps, as a case."""
    made = small(name, seed, (0, 30, 200)[seed % 3])
    g = torch.Generator().manual_seed(seed)
    n = min(_pick(g, 3, 10, 25, 60), len(made.theta) // 4)
    loss = nn.CrossEntropyLoss()
    reference = CurvatureOperator(made.model, loss, made.x, made.y)
    operator = reference
    if precision == "float32":
        rounded = small(name, seed, (0, 30, 200)[seed % 3]).model.float()
        operator = CurvatureOperator(rounded, loss, made.x.float(), made.y)
    settings = AnalysisSettings(architecture="", data="", method=method, precision=precision, k=n, seed=seed)
    label = f"{name} {seed} {method} {precision}"
    return Case(label, operator, reference, made.dense, largest_first(made.theta, n), settings)


def judge(case: Case) -> Tally:
    """One run held against the truth."""
    n, settings = case.settings.k, case.settings
    try:
        found = eigenspace(case.operator, settings, case.order, reference=case.reference)
        pairs = replace(found.pairs, residuals=found.residuals).top(n)
        estimate, scree = missed(Shifted(case.operator, settings.weight_decay), pairs, settings)
    except (SpectrumError, SettingsError):
        return Tally(runs=1, refused=1)
    except Exception as error:
        return Tally(runs=1, exceptions=1, notes=[f"{case.label}: {error!r}"[:300]])
    values, least, greatest = admissible(case.dense, case.order)
    overlap, stated = found.overlap, found.overlap_error
    off = torch.maximum(overlap - least, greatest - overlap)
    claimed = stated <= CLAIM * overlap
    wrong = claimed & (off > CLAIM * overlap + 1e-12)
    outside = off > stated + 1e-12
    notes = []
    for what, where in (("claimed to 1 % but wrong", wrong), ("outside", outside)):
        if bool(where.any()):
            k = int((off * where / stated.clamp_min(1e-300)).argmax())
            notes.append(
                f"{case.label}: {what} at {int(where.sum())} of {n} sizes, most at k = {k + 1}: "
                f"{overlap[k]:.4g} ± {stated[k]:.2g} is off by {off[k]:.2g}"
            )
    squares = values.square()
    total = float(squares.sum())
    vectors = pairs.vectors().double()
    left = float((case.dense - (vectors * pairs.values) @ vectors.T).norm())
    norm, share = math.sqrt(total), (squares.sum() - squares.cumsum(0)[:n]) / max(total, 1e-300)
    bounds = estimate.interval()
    within = (scree.lower <= share + _ROUNDED) & (share <= scree.upper + _ROUNDED)
    distance = (pairs.values[:, None] - values[None]).abs().amin(1)
    bound = found.residuals[:n] + 1e-12 * values[0].abs()
    return Tally(
        runs=1,
        sizes=n,
        claimed=int(claimed.sum()),
        wrong=int(wrong.sum()),
        curves=1,
        covered=int(not outside.any()),
        norms=int(bounds.norm.lower * (1 - _ROUNDED) <= norm <= bounds.norm.upper * (1 + _ROUNDED)),
        missed=int(bounds.error.lower - _ROUNDED * norm <= left <= bounds.error.upper + _ROUNDED * norm),
        scree=int(bool(within.all())),
        eigenvalues=int(bool((distance <= bound).all())),
        products=found.hvps + settings.error_tests,
        wanted=n,
        notes=notes,
    )


def _job(job: tuple[str, int, str, str, int]) -> tuple[tuple[str, str, str], Tally]:
    kind, seed, method, precision, size = job
    torch.set_num_threads(1)
    if kind in NETWORKS:
        case = case_of_network(kind, seed, method, precision)
        return ("networks", method, precision), judge(case)
    return (kind, method, precision), judge(case_of_matrix(draw(kind, seed, size), method, precision))


def coverage(
    kinds: Iterable[str],
    networks: Iterable[str],
    seeds: range,
    methods: Iterable[str],
    precisions: Iterable[str],
    *,
    size: int,
    network_seeds: range,
    processes: int,
) -> dict[tuple[str, str, str], Tally]:
    """The tallies by kind, method and precision; all networks are one kind."""
    found: dict[tuple[str, str, str], Tally] = {}
    cases = [(kind, seed) for kind in kinds for seed in seeds]
    cases += [(name, seed) for name in networks for seed in network_seeds]
    jobs = [
        (name, seed, method, precision, size)
        for name, seed in cases
        for method in methods
        for precision in precisions
    ]
    results: Iterator[Any] = map(_job, jobs)
    pool = None
    if processes > 1:
        pool = get_context("spawn").Pool(processes)
        results = pool.imap_unordered(_job, jobs, chunksize=8)
    for key, tally in results:
        found[key] = found.get(key, Tally()) + tally
    if pool is not None:
        pool.close()
        pool.join()
    return found


def table(found: dict[tuple[str, str, str], Tally]) -> list[str]:
    """The tallies of both precisions together, as the rows of a Markdown table."""
    merged: dict[tuple[str, str], Tally] = {}
    for (kind, method, _), tally in found.items():
        for key in ((method, kind), (method, "all")):
            merged[key] = merged.get(key, Tally()) + tally
    rows = [
        "| method | operators | runs (refused) | sizes claimed | of them wrong | curves within "
        "| ‖H‖ | ‖H − Ĥ‖ | scree | λ | products / k |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(merged, key=lambda key: (key[0], key[1] == "all"))
    for method, kind in order:
        t = merged[method, kind]
        curves = max(t.curves, 1)
        shares = (t.covered, t.norms, t.missed, t.scree, t.eigenvalues)
        rows.append(
            f"| {method} | {kind} | {t.runs} ({t.refused}) | {t.claimed / max(t.sizes, 1):.1%} | "
            f"{t.wrong / max(t.claimed, 1):.3%} | "
            + " | ".join(f"{share / curves:.1%}" for share in shares)
            + f" | {t.products / max(t.wanted, 1):.2f} |"
        )
    return rows


def read(files: Iterable[Path]) -> dict[tuple[str, str, str], Tally]:
    """The tallies of runs with different seeds, as their files have them, added up."""
    found: dict[tuple[str, str, str], Tally] = {}
    for file in files:
        for row in json_of(file.read_text())["tallies"]:
            key = (row.pop("kind"), row.pop("method"), row.pop("precision"))
            found[key] = found.get(key, Tally()) + Tally(**row)
    return found


def main(
    seeds: Annotated[int, typer.Option(help="Operators of each kind.")] = 300,
    size: Annotated[int, typer.Option(help="D of the random operators.")] = 400,
    method: Annotated[list[str] | None, typer.Option(help="Methods; all when not given.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Kinds; all when not given.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Precisions; both when not given.")] = None,
    networks: Annotated[int, typer.Option(help="Seeds of each small network.")] = 3,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    processes: Annotated[int, typer.Option(help="Cases at a time, each with one thread.")] = 2,
    notes: Annotated[int, typer.Option(help="How many failures to tell in detail.")] = 20,
    json: Annotated[Path | None, typer.Option(help="A file for all numbers.")] = None,
    together: Annotated[
        list[Path] | None, typer.Option(help="Run nothing: the table of these files of --json together.")
    ] = None,
) -> None:
    """How often the stated errors hold."""
    if together:
        print("\n".join(table(read(together))))
        return
    start = time.perf_counter()
    found = coverage(
        KINDS if kind is None else kind,
        NETWORKS,
        range(first, first + seeds),
        BUILT_IN if method is None else method,
        PRECISIONS if precision is None else precision,
        size=size,
        network_seeds=range(first, first + networks),
        processes=processes,
    )
    print("\n".join(table(found)))
    for note in [note for tally in found.values() for note in tally.notes][:notes]:
        print(note)
    exceptions = sum(tally.exceptions for tally in found.values())
    print(f"{exceptions} exceptions; {time.perf_counter() - start:.0f} s")
    rows = [
        dict(zip(("kind", "method", "precision"), key, strict=True)) | asdict(tally)
        for key, tally in found.items()
    ]
    report.write(json, {"machine": report.machine(), "tallies": rows})


if __name__ == "__main__":
    typer.run(main)
