"""After how many products an overlap is right, and after how many it could be claimed to be.

``python -m benchmarks.stopping``; README.md says what is compared. A run with blocks of each size goes on to
twice the usual number of products and is asked as often as it may be; what it would have stated then is held
against the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks import report
from benchmarks.coverage import CLAIM
from benchmarks.problems import CACHE, Task, digits_mlp, load
from seigh.core.curvature import CurvatureOperator
from seigh.core.overlap import FURTHER, largest_first, overlap_curve, stated_overlap
from seigh.core.problems.training import train
from seigh.core.settings import SPLITS
from seigh.core.spectra import Eigenpairs, Operator, block_krylov

# An overlap curve is right if it is off by no more than these shares of itself: anywhere, and at the size
# that is shown.
ANYWHERE, SHOWN, SHOWN_AT = 0.005, 0.002, 350

# Residuals of the truth, in |λ₁|, and vectors in its blocks.
_EXACT, _WIDE = 1e-10, 8

# What a run is told that is always asked again at once: its error is a little too large.
_ALMOST = 1 + 1e-9


@dataclass(frozen=True)
class Seen:
    """What a run would have stated after some products.

    Attributes:
        products: Those of the run itself.
        excess: Largest stated error, in units of what is claimed.
        worst: Largest relative error.
        shown: That at the size which is shown.
    """

    products: int
    excess: float
    worst: float
    shown: float

    @property
    def right(self) -> bool:
        return self.worst <= ANYWHERE and self.shown <= SHOWN


def true_overlap(operator: Operator, order: Tensor) -> Tensor:
    """The overlap curve from pairs of a float64 operator with negligible residuals: (k,)."""
    pairs = block_krylov(operator, len(order), block=_WIDE, tolerance=_EXACT)
    return overlap_curve(pairs.top(len(order)).rows(order))


def observe(operator: Operator, order: Tensor, true: Tensor, block: int) -> list[Seen]:
    """What a run with blocks of this size states on its way."""
    seen: list[Seen] = []

    def ask(pairs: Eigenpairs) -> float:
        assert pairs.residuals is not None
        stated = stated_overlap(pairs, order, pairs.residuals)
        off = (stated.overlap - true).abs() / true
        excess = float((stated.error / (CLAIM * stated.overlap)).max())
        shown = float(off[min(SHOWN_AT, len(order)) - 1])
        seen.append(Seen(pairs.hvps, excess, float(off.max()), shown))
        return _ALMOST

    block_krylov(operator, len(order), block=block, further=FURTHER, enough=ask, complete=False)
    return seen


def first_claimed(seen: list[Seen]) -> Seen | None:
    """Where a run that may claim whenever it is asked ends."""
    return next((each for each in seen if each.excess <= 1), None)


def right_from(seen: list[Seen]) -> int | None:
    """The products from which on the curve is right."""
    wrong = [number for number, each in enumerate(seen) if not each.right]
    after = seen[wrong[-1] + 1 :] if wrong else seen
    return after[0].products if after else None


def tasks(steps: list[int], k: int) -> Iterator[Task]:
    """The demo's checkpoints and splits."""
    files = train("digits-mlp", max(steps), steps, CACHE / "stopping")
    for step, file in zip(sorted(steps), files, strict=True):
        for split in SPLITS:
            name = f"{step} {split}"
            yield replace(digits_mlp(CACHE), problem=name, checkpoint=str(file), split=split, k=k)


def main(
    blocks: Annotated[str, typer.Option(help="Block sizes, separated by commas.")] = "1,4,6",
    steps: Annotated[str, typer.Option(help="Training steps, separated by commas.")] = ",".join(
        str(step) for step in range(0, 1001, 100)
    ),
    k: Annotated[int, typer.Option(help="Number of eigenpairs.")] = 355,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Products until the overlap of the digits MLP is right, and until it could be claimed."""
    sizes = [int(each) for each in blocks.split(",")]
    rows, figures = [], {}
    for task in tasks([int(each) for each in steps.split(",")], k):
        exact, rounded = load(task, torch.float64), load(task)
        order = largest_first(rounded.theta, k)
        true = true_overlap(CurvatureOperator(exact.model, exact.loss, exact.x, exact.y), order)
        row = [task.problem]
        for block in sizes:
            operator = CurvatureOperator(rounded.model, rounded.loss, rounded.x, rounded.y)
            seen = observe(operator, order, true, block)
            claimed, right = first_claimed(seen), right_from(seen)
            row += [str(right or "–"), f"{claimed.products} ({claimed.worst:.2%})" if claimed else "–"]
            figures[f"{task.problem} {block}"] = [vars(each) for each in seen]
        rows.append(row)
    columns = [name for b in sizes for name in (f"b = {b}: right from", "claimed at (off by)")]
    report.show(
        f"Products of the run until the overlap is right, and claimed to {CLAIM:.0%}",
        ["checkpoint", *columns],
        rows,
        caption=f"right: off by at most {ANYWHERE:.1%} anywhere and {SHOWN:.1%} at k = {min(SHOWN_AT, k)}.",
    )
    report.write(json_file, {"machine": report.machine(), "seen": figures})


if __name__ == "__main__":
    typer.run(main)
