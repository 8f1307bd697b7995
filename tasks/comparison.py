"""Comparisons: every pair of the analyses that has no values yet gets them, and each as it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import safetensors
from sqlalchemy.orm import Session
from torch import Tensor

from seigh.core.device import pick_device
from seigh.core.lab import store
from seigh.core.lab.artifacts import ArtifactStore, Damaged, Missing
from seigh.core.lab.models import Analysis, Comparison, State
from seigh.core.lab.store import StoreError
from seigh.core.names import IOU, METRICS, Metric
from seigh.core.network import parameters_of
from seigh.core.overlap import largest_first
from seigh.core.overlap.metrics import factor, metrics
from seigh.core.overlap.pairs import StoredVectors, eigenspaces, mask_iou, stored_vectors
from seigh.core.settings import AnalysisSettings
from seigh.core.sharing.blocks import BlockError, Blocks, digest
from seigh.tasks.attempt import Attempt
from seigh.tasks.progress import ClaimLost
from seigh.tasks.submit import send

# Part of the progress bar that finding the masks takes.
_MASKS = 0.05

Values = Mapping[tuple[int, str], float]
Mask = tuple[str, tuple[str, ...], str]


@dataclass(frozen=True)
class _Side:
    """The parts of an analysis that are compared.

    Attributes:
        id: Id of the analysis.
        k: How many eigenvectors it has.
        parameters: D.
        settings: Its own.
        vectors: Key of its eigenvectors.
        sha256: Checksum of their file, where it is known.
        checkpoint: Key of its checkpoint.
        checkpoint_sha256: Checksum of that file.
        filename: What the checkpoint was called.
    """

    id: int
    k: int
    parameters: int
    settings: AnalysisSettings
    vectors: str
    sha256: str | None
    checkpoint: str
    checkpoint_sha256: str
    filename: str

    @property
    def mask(self) -> Mask:
        """Return what the order of its coordinates depends on: the mask."""
        return self.checkpoint, self.settings.parameters, self.settings.precision


def run(attempt: Attempt[Comparison]) -> None:
    """Compare the pairs and end the comparison as finished."""
    from seigh.core.lab import queries  # brings pandas, which no other work needs

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
            analysis.eigenvectors_sha256,
            analysis.checkpoint.key,
            analysis.checkpoint.sha256,
            analysis.checkpoint.filename,
        )
    return found


def _wanted(first: _Side, second: _Side, ks: Sequence[int]) -> set[tuple[int, str]]:
    """Return what a pair can have: masks at every k up to D, eigenspaces where both have k vectors."""
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
        self._whole: set[str] = set()  # files whose checksum is right

    def find_masks(self, sides: Sequence[_Side]) -> None:
        """The masks' coordinates, largest |θ| first, once for all analyses of a checkpoint."""
        once = {side.mask: side for side in sides}
        for done, (mask, side) in enumerate(once.items()):
            self._attempt.lifeline("masks", _MASKS * done / len(once))
            what = f"The file of checkpoint '{side.filename}'"
            try:
                path = self._existing(side.checkpoint, side.checkpoint_sha256, what)
            except Damaged as error:
                raise StoreError(f"{str(error).removesuffix('.')}; submit it again.") from error
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
            with stored_vectors(self._existing(side.vectors, side.sha256, what)) as vectors:
                yield vectors
        except (Damaged, safetensors.SafetensorError) as error:
            raise StoreError(f"{what} is damaged in the artefact store; {self._anew(side)}") from error

    def _anew(self, side: _Side) -> str:
        """Have the eigenvectors of an analysis computed anew, where that can be; the end of a sentence."""
        try:
            self._artifacts.check(side.checkpoint, side.checkpoint_sha256, "The checkpoint")
        except StoreError:
            return "delete the analysis, submit its checkpoint again, and compare the others meanwhile."
        if self._attempt.write(lambda s: store.recompute(s, side.id)):
            send(Analysis, [side.id], self._attempt.env)
        return f"they are computed anew, so retry this comparison when analysis {side.id} has finished."

    def _factor(self, side: _Side, vectors: StoredVectors) -> Tensor:
        """Triangular factor of an analysis's vectors, which all of its pairs need; kept in a file."""
        blocks, name = Blocks(self._attempt.folder), f"factor-{side.id}"
        try:
            tensors, facts = blocks.read(name)
            if digest(tensors, name) == facts["checksum"]:
                return tensors["factor"].to(self._device)
        except BlockError:
            self._attempt.folder.mkdir(parents=True, exist_ok=True)
        reached = max(k for k in self._attempt.work.ks if k <= side.k)
        found = factor(vectors, reached, device=self._device)
        tensors = {"factor": found.cpu().contiguous()}
        blocks.write(name, tensors, {"checksum": digest(tensors, name)})
        return found

    def _existing(self, key: str, sha256: str | None, what: str) -> Path:
        """The file of a key, whose content is compared with its checksum once."""
        try:
            path = self._artifacts.check(key, None if key in self._whole else sha256, what)
        except Missing as error:
            raise StoreError(f"{str(error).removesuffix('.')}; compare the others without it.") from error
        self._whole.add(key)
        return path
