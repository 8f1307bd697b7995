"""Comparisons: every pair of the analyses that has no values yet gets them, and each as it is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import safetensors
from safetensors.torch import load_file, save_file
from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor

from core.analysis import parameters_of
from core.device import pick_device
from core.names import IOU, METRICS
from core.overlap import largest_first
from core.overlap.metrics import factor, metrics
from core.overlap.pairs import eigenspaces, mask_iou, stored_vectors
from core.results import queries, store
from core.results.artifacts import ArtifactStore
from core.results.models import Analysis, Checkpoint, Comparison, State
from core.results.store import StoreError
from core.settings import AnalysisSettings
from tasks.attempt import Attempt
from tasks.progress import ClaimLost

# Part of the progress bar that finding the masks takes.
_MASKS = 0.05

Values = Mapping[tuple[int, str], float]


@dataclass(frozen=True)
class _Side:
    """What of an analysis is compared.

    Attributes:
        id: Of the analysis.
        k: How many eigenvectors it has.
        parameters: D.
        settings: Its own.
        vectors: Key of its eigenvectors.
        checkpoint: Key of its checkpoint.
        filename: What the checkpoint was called.
    """

    id: int
    k: int
    parameters: int
    settings: AnalysisSettings
    vectors: str
    checkpoint: str
    filename: str

    @property
    def mask(self) -> tuple[str, tuple[str, ...], str]:
        """What the order of its coordinates depends on."""
        return self.checkpoint, self.settings.parameters, self.settings.precision


def run(attempt: Attempt[Comparison]) -> None:
    """Compare the pairs and end the comparison as finished."""
    sides = attempt.read(lambda s: _sides(s, attempt.work.analyses))
    known = attempt.read(lambda s: queries.known_pairs(s, attempt.work.analyses))
    missing = {
        pair: wanted
        for pair in combinations_with_replacement(sorted(sides), 2)
        if (wanted := _wanted(*(sides[n] for n in pair), attempt.work.ks) - known.get(pair, set()))
    }
    orders = _orders(attempt, [sides[n] for n in sorted({n for pair in missing for n in pair})])
    for done, ((first, second), wanted) in enumerate(missing.items()):
        values = _compare(attempt, sides[first], sides[second], wanted, orders, (done, len(missing)))
        if not attempt.write(
            lambda s, pair=(first, second), found=values: store.record_pair(  # type: ignore[misc]
                s, attempt.work.id, attempt.token, *pair, found
            )
        ):
            raise ClaimLost
    if not attempt.write(lambda s: store.finished(s, Comparison, attempt.work.id, attempt.token)):
        raise ClaimLost


def _sides(s: Session, ids: Sequence[int]) -> dict[int, _Side]:
    found = {}
    for number in ids:
        analysis = s.get(Analysis, number)
        if analysis is None or analysis.state is not State.finished or analysis.eigenvectors is None:
            raise StoreError(
                f"Analysis {number} has no eigenvectors any more; compare the others without it."
            )
        checkpoint = s.scalars(select(Checkpoint).where(Checkpoint.id == analysis.checkpoint_id)).one()
        found[number] = _Side(
            number,
            analysis.k,
            analysis.parameters,
            AnalysisSettings.model_validate(analysis.settings),
            analysis.eigenvectors,
            checkpoint.key,
            checkpoint.filename,
        )
    return found


def _wanted(first: _Side, second: _Side, ks: Sequence[int]) -> set[tuple[int, str]]:
    """What can be known of a pair: of masks at every k up to D, of eigenspaces where both have k vectors."""
    masks = {(k, IOU) for k in ks if k <= min(first.parameters, second.parameters)}
    return masks | {(k, metric) for k in ks if k <= min(first.k, second.k) for metric in METRICS}


def _orders(attempt: Attempt[Comparison], sides: Sequence[_Side]) -> Mapping[object, Tensor]:
    """The masks' coordinates, largest |θ| first, once for all analyses of a checkpoint."""
    artifacts = ArtifactStore(attempt.env.artifact_folder)
    orders: dict[object, Tensor] = {}
    for done, side in enumerate(sides):
        attempt.lifeline("masks", _MASKS * done / len(sides))
        if side.mask not in orders:
            path = _existing(artifacts, side.checkpoint, f"The file of checkpoint '{side.filename}'")
            theta = parameters_of(path, side.settings, side.filename)
            orders[side.mask] = largest_first(theta, max(attempt.work.ks)).clone()
    return orders


def _compare(
    attempt: Attempt[Comparison],
    first: _Side,
    second: _Side,
    wanted: set[tuple[int, str]],
    orders: Mapping[object, Tensor],
    place: tuple[int, int],
) -> Values:
    """The wanted values of a pair, the one of so many that ``place`` says."""

    def progress(part: float) -> None:
        done, pairs = place
        attempt.lifeline("pairs", _MASKS + (1 - _MASKS) * (done + part) / pairs)

    progress(0.0)
    shares = mask_iou(orders[first.mask], orders[second.mask], sorted({k for k, name in wanted if name == IOU}))
    values: dict[tuple[int, str], float] = {(k, IOU): value for k, value in shares.items()}
    ks = sorted({k for k, name in wanted if name != IOU})
    if first.id == second.id:
        found = {k: metrics(np.zeros(k)) for k in ks}
    elif ks:
        device = str(pick_device(attempt.env.device))
        artifacts = ArtifactStore(attempt.env.artifact_folder)
        with ExitStack() as files:
            factors, vectors = [], []
            for side in (first, second):
                path = _existing(artifacts, side.vectors, f"The eigenvectors of analysis {side.id}")
                vectors.append(files.enter_context(stored_vectors(path)))
                factors.append(_factor(attempt, side, vectors[-1], device))
            found = eigenspaces(*vectors, ks, factors=(factors[0], factors[1]), device=device, progress=progress)
    else:
        found = {}
    values |= {(k, name): value for k, each in found.items() for name, value in each.items()}
    return {wish: values[wish] for wish in wanted}
