"""Comparisons: every pair of the analyses that has no values yet gets them, and each as it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import safetensors
from safetensors.torch import load_file, save_file
from sqlalchemy.orm import Session
from torch import Tensor

from core.device import pick_device
from core.names import IOU, METRICS, Metric
from core.network import parameters_of
from core.overlap import largest_first
from core.overlap.metrics import factor, metrics
from core.overlap.pairs import StoredVectors, eigenspaces, mask_iou, stored_vectors
from core.results import queries, store
from core.results.artifacts import ArtifactStore
from core.results.models import Analysis, Comparison, State
from core.results.store import StoreError
from core.settings import AnalysisSettings
from tasks.attempt import Attempt
from tasks.progress import ClaimLost

# Part of the progress bar that finding the masks takes.
_MASKS = 0.05

Values = Mapping[tuple[int, str], float]
Mask = tuple[str, tuple[str, ...], str]


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
    def mask(self) -> Mask:
        """What the order of its coordinates depends on."""
        return self.checkpoint, self.settings.parameters, self.settings.precision


def run(attempt: Attempt[Comparison]) -> None:
    """Compare the pairs and end the comparison as finished."""
    sides = attempt.read(lambda s: _sides(s, attempt.work.analyses))
    known = attempt.read(lambda s: queries.known_pairs(s, attempt.work.analyses))
    missing = {
        (sides[first], sides[second]): wanted
        for first, second in combinations_with_replacement(sorted(sides), 2)
        if (
            wanted := _wanted(sides[first], sides[second], attempt.work.ks)
            - known.get((first, second), set())
        )
    }
    comparer = _Comparer(attempt)
    comparer.find_masks([side for pair in missing for side in pair])
    for done, (pair, wanted) in enumerate(missing.items()):
        _keep(attempt, pair, comparer.values(pair, wanted, (done, len(missing))))
    if not attempt.write(lambda s: store.finished(s, Comparison, attempt.work.id, attempt.token)):
        raise ClaimLost


def _sides(s: Session, ids: Sequence[int]) -> dict[int, _Side]:
    found = {}
    for number in ids:
        analysis = s.get(Analysis, number)
        if analysis is None or analysis.state is not State.finished or analysis.eigenvectors is None:
            raise StoreError(f"Analysis {number} is not there any more; compare the others without it.")
        found[number] = _Side(
            number,
            analysis.k,
            analysis.parameters,
            AnalysisSettings.model_validate(analysis.settings),
            analysis.eigenvectors,
            analysis.checkpoint.key,
            analysis.checkpoint.filename,
        )
    return found


def _wanted(first: _Side, second: _Side, ks: Sequence[int]) -> set[tuple[int, str]]:
    """What can be known of a pair: of masks at every k up to D, of eigenspaces where both have k vectors."""
    masks = {(k, IOU) for k in ks if k <= first.parameters}
    return masks | {(k, metric) for k in ks if k <= min(first.k, second.k) for metric in METRICS}


def _keep(attempt: Attempt[Comparison], pair: tuple[_Side, _Side], values: Values) -> None:
    first, second = (side.id for side in pair)
    kept = attempt.write(
        lambda s: store.record_pair(s, attempt.work.id, attempt.token, first, second, values)
    )
    if not kept:
        raise ClaimLost


class _Comparer:
    """Computes the values of pairs. Of the eigenvectors, only blocks are in memory."""

    def __init__(self, attempt: Attempt[Comparison]) -> None:
        self._attempt = attempt
        self._artifacts = ArtifactStore(attempt.env.artifact_folder)
        self._device = str(pick_device(attempt.env.device))
        self._orders: dict[Mask, Tensor] = {}

    def find_masks(self, sides: Sequence[_Side]) -> None:
        """The masks' coordinates, largest |θ| first, once for all analyses of a checkpoint."""
        once = {side.mask: side for side in sides}
        for done, (mask, side) in enumerate(once.items()):
            self._attempt.lifeline("masks", _MASKS * done / len(once))
            path = self._existing(side.checkpoint, f"The file of checkpoint '{side.filename}'")
            theta = parameters_of(path, side.settings, side.filename)
            self._orders[mask] = largest_first(theta, max(self._attempt.work.ks)).clone()

    def values(
        self, pair: tuple[_Side, _Side], wanted: Set[tuple[int, str]], place: tuple[int, int]
    ) -> Values:
        """The wanted values of a pair, which is that of so many that ``place`` says."""

        def progress(part: float) -> None:
            done, pairs = place
            self._attempt.lifeline("pairs", _MASKS + (1 - _MASKS) * (done + part) / pairs)

        progress(0.0)
        first, second = (self._orders[side.mask] for side in pair)
        shares = mask_iou(first, second, sorted({k for k, name in wanted if name == IOU}))
        spaces = self._eigenspaces(pair, sorted({k for k, name in wanted if name != IOU}), progress)
        found: dict[tuple[int, str], float] = {(k, IOU): value for k, value in shares.items()}
        found |= {(k, metric): value for k, each in spaces.items() for metric, value in each.items()}
        return {wish: found[wish] for wish in wanted}

    def _eigenspaces(
        self, pair: tuple[_Side, _Side], ks: Sequence[int], progress: Callable[[float], None]
    ) -> dict[int, dict[Metric, float]]:
        first, second = pair
        if first.id == second.id:
            return {k: metrics(np.zeros(k)) for k in ks}
        if not ks:
            return {}
        with self._vectors(first) as one, self._vectors(second) as other:
            factors = self._factor(first, one), self._factor(second, other)
            return eigenspaces(one, other, ks, factors=factors, device=self._device, progress=progress)

    @contextmanager
    def _vectors(self, side: _Side) -> Iterator[StoredVectors]:
        what = f"The file of the eigenvectors of analysis {side.id}"
        try:
            with stored_vectors(self._existing(side.vectors, what)) as vectors:
                yield vectors
        except safetensors.SafetensorError as error:
            raise StoreError(
                f"{what} is damaged in the artefact store; delete the analysis and run it again."
            ) from error

    def _factor(self, side: _Side, vectors: StoredVectors) -> Tensor:
        """That of an analysis's vectors, which all of its pairs need; kept in a file."""
        file = self._attempt.folder / f"factor-{side.id}.safetensors"
        if not file.exists():
            self._attempt.folder.mkdir(parents=True, exist_ok=True)
            reached = max(k for k in self._attempt.work.ks if k <= side.k)
            found = factor(vectors, reached, device=self._device).cpu().contiguous()
            temporary = file.with_suffix(".tmp")
            save_file({"factor": found}, temporary)
            temporary.replace(file)
        return load_file(file)["factor"].to(self._device)

    def _existing(self, key: str, what: str) -> Path:
        path = self._artifacts.path(key)
        if not path.is_file():
            raise StoreError(f"{what} is no longer in the artefact store; compare the others without it.")
        return path
