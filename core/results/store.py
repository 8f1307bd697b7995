"""What changes the lab's database: uploads, the queue, and the life of an analysis.

Every function works in the transaction of the session it is given; the caller commits::

    with sessions(url).begin() as s:
        store.request_cancel(s, 7)

An attempt at an analysis owns it through a claim, a random token. Whatever a worker writes is conditional on
its claim, so an attempt that was given up for dead, or a message delivered twice, can change nothing.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.results.models import (
    Analysis,
    Base,
    Checkpoint,
    Eigenvalue,
    Environment,
    LayerShare,
    MagnitudeBin,
    Mask,
    Model,
    OverlapPoint,
    StageTiming,
    State,
    SubspaceMetric,
    UTCDateTime,
    now,
)
from core.settings import AnalysisSettings

Row = TypeVar("Row", bound=Base)
Floats = NDArray[np.floating[Any]]

_LARGEST_STEP = 2**31 - 1  # the column is a 32-bit integer


class StoreError(ValueError):
    """Something that cannot be stored, changed or read; the message is one sentence for the user."""


class Standing(enum.Enum):
    """What a worker learns when it reports about its analysis."""

    owned = "owned"  # carry on
    cancel_requested = "cancel requested"  # stop, and say so with ``cancelled``
    lost = "lost"  # the claim is gone: another attempt owns the analysis, or nobody wants it any more


# --- What was uploaded ------------------------------------------------------------------------------------


def add_model(s: Session, name: str, architecture: str) -> Model:
    """The model of this name, made if there is none.

    Raises:
        StoreError: If the name cannot be one, or belongs to a model of another architecture.
    """
    name = name.strip()
    if not name:
        raise StoreError("The model has no name; give it one.")
    if len(name) > 200 or not name.isprintable():
        raise StoreError("A model's name has at most 200 characters and all of them are printable.")
    model, _ = _get_or_add(
        s, Model, Model.name == name, new=lambda: Model(name=name, architecture=architecture)
    )
    if model.architecture != architecture:
        raise StoreError(
            f"The model '{name}' has the architecture {model.architecture}, not {architecture}; "
            "choose another model name."
        )
    return model


def add_checkpoint(
    s: Session,
    model: Model,
    *,
    step: int,
    sha256: str,
    filename: str,
    size: int,
    parameters: int,
    metrics: Mapping[str, float],
    user: str,
) -> Checkpoint:
    """The checkpoint of ``model`` at a training step, added if it is new.

    Args:
        s: A writing session.
        model: What it is a checkpoint of.
        step: Training step, ≥ 0.
        sha256: Hash of the file, which lies in the artefact store.
        filename: The file's original name.
        size: Bytes of the file.
        parameters: How many the whole model has.
        metrics: Any of train_loss, train_accuracy, test_loss and test_accuracy.
        user: Who brought it.

    Raises:
        StoreError: If the model has other weights at that step.
    """
    if not 0 <= step <= _LARGEST_STEP:
        raise StoreError(
            f"The training step of '{filename}' is {step}; choose one from 0 to {_LARGEST_STEP:,}."
        )
    checkpoint, _ = _get_or_add(
        s,
        Checkpoint,
        Checkpoint.model_id == model.id,
        Checkpoint.step == step,
        new=lambda: Checkpoint(
            model_id=model.id,
            step=step,
            sha256=sha256,
            filename=PurePath(filename).name[-255:],
            size=size,
            parameters=parameters,
            train_loss=_finite(metrics.get("train_loss")),
            train_accuracy=_finite(metrics.get("train_accuracy")),
            test_loss=_finite(metrics.get("test_loss")),
            test_accuracy=_finite(metrics.get("test_accuracy")),
            uploaded_by=user[:100],
        ),
    )
    if checkpoint.sha256 != sha256:
        raise StoreError(
            f"The model '{model.name}' already has other weights at step {step:,} ('{checkpoint.filename}'); "
            f"give '{filename}' another step or another model name."
        )
    return checkpoint


# --- The queue --------------------------------------------------------------------------------------------


def queue_analysis(
    s: Session, checkpoint: Checkpoint, settings: AnalysisSettings, user: str, *, parameters: int
) -> tuple[Analysis, bool]:
    """The analysis of a checkpoint with these settings, and whether this call has put it in the queue.

    There is at most one. If it exists it is left alone, unless it failed or was cancelled: then it is
    queued again. ``parameters`` is D, the number of those that the settings choose.
    """
    analysis, added = _get_or_add(
        s,
        Analysis,
        Analysis.checkpoint_id == checkpoint.id,
        Analysis.settings_key == settings.key,
        new=lambda: Analysis(
            checkpoint_id=checkpoint.id,
            settings=settings.model_dump(mode="json"),
            settings_key=settings.key,
            data=settings.data,
            split=settings.split,
            curvature=settings.curvature,
            method=settings.method,
            samples=settings.samples,
            k=settings.k,
            seed=settings.seed,
            parameters=parameters,
            submitted_by=user[:100],
            submitted_at=_time(s),
        ),
    )
    if not added and _locked(s, analysis.id).state in (State.failed, State.cancelled):
        retry(s, analysis.id)
        analysis.submitted_by = user[:100]
        added = True
    return analysis, added


def retry(s: Session, analysis_id: int) -> None:
    """Queue a failed or cancelled analysis again.

    Raises:
        StoreError: If it is in another state, or gone.
    """
    analysis = _locked(s, analysis_id)
    if analysis.state not in (State.failed, State.cancelled):
        raise StoreError(
            f"Analysis {analysis_id} is {analysis.state}; only a failed or cancelled one can be retried."
        )
    _requeue(analysis)
    analysis.attempts = 0
    analysis.submitted_at = _time(s)


def request_cancel(s: Session, analysis_id: int) -> None:
    """Cancel a queued analysis at once, and a running one as soon as its worker hears of it.

    Raises:
        StoreError: If it has ended already, or is gone.
    """
    analysis = _locked(s, analysis_id)
    if analysis.state is State.queued:
        _end(s, analysis, State.cancelled)
    elif analysis.state is State.running:
        analysis.cancel_requested = True
    else:
        raise StoreError(f"Analysis {analysis_id} is already {analysis.state}; there is nothing to cancel.")


def delete_analysis(s: Session, analysis_id: int) -> str | None:
    """Remove an analysis and its results; a worker that is at it loses its claim and stops.

    Returns the key of its eigenvectors, if it has any: a file to be deleted after the commit.

    Raises:
        StoreError: If it is gone already.
    """
    analysis = _locked(s, analysis_id)
    s.delete(analysis)
    s.flush()
    return analysis.eigenvectors


# --- An attempt, from its claim to its end ----------------------------------------------------------------


def claim(s: Session, analysis_id: int, token: str, worker: str, stale_after: timedelta) -> Analysis | None:
    """Make the attempt ``token`` the owner of an analysis and count the attempt.

    Returns None, and changes nothing, unless the analysis is queued, or running without a sign of life for
    ``stale_after``. If the one returned has ``eigenvectors``, an earlier attempt has died over them, and
    their file is to be deleted.
    """
    time = _time(s)
    claimed = s.execute(
        update(Analysis)
        .where(
            Analysis.id == analysis_id,
            or_(
                Analysis.state == State.queued,
                and_(Analysis.state == State.running, Analysis.heartbeat_at < time - stale_after),
            ),
            Analysis.cancel_requested.is_(False),
        )
        .values(
            state=State.running,
            claim=token,
            worker=worker[:255],
            attempts=Analysis.attempts + 1,
            stage=None,
            progress=0.0,
            hvps=None,
            message=None,
            started_at=time,
            heartbeat_at=time,
            finished_at=None,
        )
        .returning(Analysis.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    return None if claimed is None else s.get(Analysis, analysis_id, populate_existing=True)


def report(s: Session, analysis_id: int, token: str, *, stage: str, progress: float, hvps: int) -> Standing:
    """Record how far an attempt has come, and that it is alive.

    Args:
        s: A writing session.
        analysis_id: The analysis.
        token: The attempt's claim.
        stage: What it is at.
        progress: The part that is done, in [0, 1].
        hvps: Hessian-vector products done.
    """
    return _beat(s, analysis_id, token, stage=stage[:64], progress=min(max(progress, 0.0), 1.0), hvps=hvps)


def heartbeat(s: Session, analysis_id: int, token: str) -> Standing:
    """Record that an attempt is alive."""
    return _beat(s, analysis_id, token)


def _beat(s: Session, analysis_id: int, token: str, **values: object) -> Standing:
    cancel_requested = s.execute(
        update(Analysis)
        .where(Analysis.id == analysis_id, Analysis.state == State.running, Analysis.claim == token)
        .values(heartbeat_at=_time(s), **values)
        .returning(Analysis.cancel_requested)
        .execution_options(synchronize_session=False)
    ).scalar()
    if cancel_requested is None:
        return Standing.lost
    return Standing.cancel_requested if cancel_requested else Standing.owned


def reserve_eigenvectors(s: Session, analysis_id: int, token: str, key: str) -> Standing:
    """Record the key of an attempt's eigenvectors before their file is written.

    Should the attempt die between the two, the next one (or a deletion) knows which file to remove.
    """
    return _beat(s, analysis_id, token, eigenvectors=key)


def finish(
    s: Session,
    analysis_id: int,
    token: str,
    *,
    eigenvalues: Floats,
    residuals: Floats | None,
    scree_lower: Floats | None,
    scree_upper: Floats | None,
    overlap: Floats,
    overlap_error: Floats | None,
    resolved_k: int | None,
    random_mean: Floats,
    random_std: Floats,
    best: Floats,
    layers: Sequence[Mapping[str, Any]] = (),
    magnitudes: Sequence[Mapping[str, Any]] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
    stages: Sequence[tuple[str, float, int]],
    hvps: int,
    data_sha256: str,
    environment: Mapping[str, Any],
    record: Mapping[str, Any],
    eigenvectors: str | None,
) -> bool:
    """Write the results of an attempt and end its analysis, unless its claim is gone.

    Args:
        s: A writing session.
        analysis_id: The analysis.
        token: The attempt's claim.
        eigenvalues: (k,), by descending |λ|.
        residuals: (k,), ‖Hv − λv‖₂ for each of them.
        scree_lower: (k,), lower bounds of the share of ‖H‖²_F that a matrix of rank 1 … k misses.
        scree_upper: (k,), upper bounds of it.
        overlap: (k,), of the magnitude mask with the eigenspaces of dimension 1 … k.
        overlap_error: (k,), how far each of them may be from the true one.
        resolved_k: Up to there every overlap is known to 1 %.
        random_mean: (k,), mean over the random masks.
        random_std: (k,), their standard deviation.
        best: (k,), overlap of the best mask.
        layers: Rows of ``LayerShare``, as its columns.
        magnitudes: Rows of ``MagnitudeBin``.
        metrics: Rows of ``SubspaceMetric``.
        stages: Name, seconds and HVPs of each stage, in order.
        hvps: Hessian-vector products in all.
        data_sha256: Hash of the data subset.
        environment: Software and hardware; JSON.
        record: Facts beside the above; JSON.
        eigenvectors: Key of their file in the artefact store.

    What may be None is not known; so are single residuals, bounds and errors, or facts, that are not finite.

    Returns:
        Whether these are now the analysis's results. Repeating a call whose outcome was not heard is safe.

    Raises:
        StoreError: If eigenvalues or overlaps are not finite.
    """
    analysis = s.get(Analysis, analysis_id, with_for_update=True, populate_existing=True)
    if analysis is None or analysis.claim != token:
        return False
    if analysis.state is not State.running:
        return analysis.state is State.finished
    curves = {Mask.magnitude: overlap, Mask.random: random_mean, Mask.best: best}
    if not all(np.isfinite(numbers).all() for numbers in (eigenvalues, random_std, *curves.values())):
        raise StoreError(
            "The eigenvalues or overlaps came out as NaN or infinite; "
            "the weights or the data are too large for this precision, so try float64."
        )

    analysis.hvps = hvps
    analysis.resolved_k = resolved_k
    analysis.data_sha256 = data_sha256
    analysis.record = _json(record)
    analysis.eigenvectors = eigenvectors
    analysis.environment_id = _environment(s, environment).id
    analysis.progress, analysis.cancel_requested = 1.0, False
    _end(s, analysis, State.finished)

    columns = {"residual": residuals, "scree_lower": scree_lower, "scree_upper": scree_upper}
    _insert(
        s,
        Eigenvalue,
        _rows({"value": eigenvalues} | columns, "position", analysis_id=analysis_id),
    )
    for mask, curve in curves.items():
        std = random_std if mask is Mask.random else None
        error = overlap_error if mask is Mask.magnitude else None
        _insert(
            s,
            OverlapPoint,
            _rows({"overlap": curve, "std": std, "error": error}, "k", analysis_id=analysis_id, mask=mask),
        )
    for table, rows in ((LayerShare, layers), (MagnitudeBin, magnitudes), (SubspaceMetric, metrics)):
        _insert(s, table, [{"analysis_id": analysis_id, **_json(row)} for row in rows])
    _insert(
        s,
        StageTiming,
        [
            {"analysis_id": analysis_id, "position": i, "stage": stage[:64], "seconds": seconds, "hvps": n}
            for i, (stage, seconds, n) in enumerate(stages)
        ],
    )
    return True


def fail(s: Session, analysis_id: int, token: str, message: str) -> bool:
    """End an attempt's analysis as failed, with one sentence for the user; False if its claim is gone."""
    return _end_attempt(s, analysis_id, token, State.failed, message)


def cancelled(s: Session, analysis_id: int, token: str) -> bool:
    """End an attempt's analysis as cancelled; False if its claim is gone."""
    return _end_attempt(s, analysis_id, token, State.cancelled)


def _end_attempt(s: Session, analysis_id: int, token: str, state: State, message: str | None = None) -> bool:
    analysis = s.get(Analysis, analysis_id, with_for_update=True, populate_existing=True)
    if analysis is None or analysis.state is not State.running or analysis.claim != token:
        return False
    _end(s, analysis, state, message)
    return True


# --- When workers die -------------------------------------------------------------------------------------


def requeue_stale(s: Session, stale_after: timedelta, max_attempts: int = 3) -> list[int]:
    """Take back the running analyses that gave no sign of life for ``stale_after``.

    They are queued again (and returned, by id); but cancelled if that was wanted, and failed if it happened
    ``max_attempts`` times: an analysis that takes its worker down must not do so for ever.
    """
    stale = s.scalars(
        select(Analysis)
        .where(Analysis.state == State.running, Analysis.heartbeat_at < _time(s) - stale_after)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    requeued = []
    for analysis in stale:
        if analysis.cancel_requested:
            _end(s, analysis, State.cancelled)
        elif analysis.attempts >= max_attempts:
            times = "once" if analysis.attempts == 1 else f"{analysis.attempts} times"
            _end(
                s,
                analysis,
                State.failed,
                f"The worker stopped {times} while running this analysis, perhaps for want of memory; "
                "choose a smaller k or N, or retry it on a larger machine.",
            )
        else:
            _requeue(analysis)
            requeued.append(analysis.id)
    return requeued


def hand_back(s: Session, worker: str) -> list[int]:
    """Queue again what a worker that is shutting down was running, without counting it as an attempt."""
    running = s.scalars(
        select(Analysis)
        .where(Analysis.state == State.running, Analysis.worker == worker)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    handed_back = []
    for analysis in running:
        if analysis.cancel_requested:
            _end(s, analysis, State.cancelled)
        else:
            _requeue(analysis)
            analysis.attempts -= 1
            handed_back.append(analysis.id)
    return handed_back


def waiting(s: Session, longer_than: timedelta) -> list[int]:
    """Ids of the analyses that were submitted longer ago than this and are still queued, oldest first."""
    return list(
        s.scalars(
            select(Analysis.id)
            .where(Analysis.state == State.queued, Analysis.submitted_at < _time(s) - longer_than)
            .order_by(Analysis.submitted_at, Analysis.id)
        )
    )


def under_way(s: Session, ids: Sequence[int]) -> set[int]:
    """Those of these analyses that run or are still to run."""
    states = (State.queued, State.running)
    return set(s.scalars(select(Analysis.id).where(Analysis.id.in_(ids), Analysis.state.in_(states))))


# --- What the functions above share -----------------------------------------------------------------------


def _get_or_add(
    s: Session, table: type[Row], *where: ColumnElement[bool], new: Callable[[], Row]
) -> tuple[Row, bool]:
    """The row that meets the conditions, or else a new one, and whether it is new."""
    existing = select(table).where(*where)
    if (found := s.scalars(existing).one_or_none()) is not None:
        return found, False
    try:
        with s.begin_nested():
            row = new()
            s.add(row)
        return row, True  # with its id: the end of the savepoint has flushed it
    except IntegrityError:  # somebody else was faster
        return s.scalars(existing).one(), False


def _locked(s: Session, analysis_id: int) -> Analysis:
    analysis = s.get(Analysis, analysis_id, with_for_update=True, populate_existing=True)
    if analysis is None:
        raise StoreError(f"Analysis {analysis_id} no longer exists; reload the list of runs.")
    return analysis


def _requeue(analysis: Analysis) -> None:
    analysis.state = State.queued
    analysis.claim = analysis.worker = analysis.stage = analysis.message = None
    analysis.started_at = analysis.heartbeat_at = analysis.finished_at = analysis.hvps = None
    analysis.progress, analysis.cancel_requested = 0.0, False


def _end(s: Session, analysis: Analysis, state: State, message: str | None = None) -> None:
    analysis.state = state
    analysis.message = message
    analysis.stage = None
    analysis.finished_at = _time(s)
    s.flush()


def _environment(s: Session, details: Mapping[str, Any]) -> Environment:
    fingerprint = hashlib.sha256(json.dumps(dict(details), sort_keys=True).encode()).hexdigest()
    environment, _ = _get_or_add(
        s,
        Environment,
        Environment.fingerprint == fingerprint,
        new=lambda: Environment(fingerprint=fingerprint, details=dict(details)),
    )
    return environment


def _insert(s: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    if rows:
        s.execute(insert(table), rows)


def _rows(columns: Mapping[str, Floats | None], number: str, **same: object) -> list[dict[str, Any]]:
    """A row for each entry of the columns, numbered from 1; None for what is unknown."""
    length = max(len(column) for column in columns.values() if column is not None)
    lists = [[None] * length if column is None else column.tolist() for column in columns.values()]
    return [
        {**same, number: i, **dict(zip(columns, map(_finite, row), strict=True))}
        for i, row in enumerate(zip(*lists, strict=True), start=1)
    ]


def _json(value: Any) -> Any:
    """``value`` with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _time(s: Session) -> datetime:
    """The present by the one clock that all workers share: the database server's, or this machine's."""
    if s.get_bind().dialect.name == "postgresql":
        return s.execute(select(func.clock_timestamp(type_=UTCDateTime))).scalar_one()
    return now()
