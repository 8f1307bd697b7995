"""Changes of the lab's database: uploads, the queue, and the states of its work.

Every function works in the transaction of the session it is given; the caller commits::

    with sessions(url).begin() as s:
        store.request_cancel(s, Analysis, 7)

An attempt at a piece of work (an analysis, a training, a comparison) owns it through a claim, a random token.
Whatever a worker writes is conditional on its claim, so an attempt that was given up for dead, or a message
delivered twice, can change nothing. Who is dead is not read off a clock: see ``seigh.core.lab.watch``.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, and_, case, func, insert, literal, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from seigh.core.errors import UserError
from seigh.core.lab.clock import present
from seigh.core.lab.models import (
    UNDER_WAY,
    Analysis,
    AnalysisTag,
    Base,
    Checkpoint,
    Comparison,
    Eigenvalue,
    Environment,
    FurtherCurve,
    LayerShare,
    MagnitudeBin,
    Mask,
    Model,
    ModelTag,
    Observation,
    OverlapPoint,
    PairValue,
    StageTiming,
    State,
    SubspaceMetric,
    Training,
    UTCDateTime,
    Work,
)
from seigh.core.lab.naming import split_of
from seigh.core.names import Place, Priority
from seigh.core.results.packed import pack
from seigh.core.results.result import Outcome
from seigh.core.results.schema import ENDS, NUMBERS, POINTS
from seigh.core.settings import BY_STEP, AnalysisSettings, TrainingSettings

Row = TypeVar("Row", bound=Base)
W = TypeVar("W", bound=Work)
Floats = NDArray[np.floating[Any]]
Sign = tuple[str | None, datetime | None]  # a claim, and when its owner was last heard of

# The tables of what an analysis has found.
RESULTS = (
    *(Eigenvalue, OverlapPoint, FurtherCurve, Observation, LayerShare, MagnitudeBin, SubspaceMetric),
    StageTiming,
)

# Any constant of our own: the lock that claims compete for in PostgreSQL where they count each other.
_CLAIM_LOCK = 0x5E16_4002

_LARGEST_STEP = 2**31 - 1  # the column is a 32-bit integer
_LONGEST_TAG, _LONGEST_NOTE = 60, 10_000  # characters


class StoreError(UserError):
    """Something that cannot be stored, changed or read; the message is one sentence for the user."""


def check_unneeded(waiting: int, what: str) -> None:
    """Refuse to remove what ``waiting`` analyses that are under way need.

    Raises:
        StoreError: If there are any.
    """
    if waiting:
        raise StoreError(needed_by(waiting, what))


def needed_by(waiting: int, what: str) -> str:
    """Why something cannot be removed that so many analyses under way need."""
    if waiting == 1:
        return f"An analysis that waits or runs needs {what}; cancel it first, or let it finish."
    return f"{waiting:,} analyses that wait or run need {what}; cancel them first, or let them finish."


class Standing(enum.Enum):
    """The answer to a worker's report about its work."""

    owned = "owned"  # carry on
    cancel_requested = "cancel requested"  # stop, and say so with ``cancelled``
    lost = "lost"  # the claim is gone: another attempt owns the work, or nobody wants it any more


# --- What was uploaded ------------------------------------------------------------------------------------


def wrong_name(name: str) -> str | None:
    """Why this cannot be the name of a model, if it cannot."""
    if len(name) <= 200 and name.isprintable():
        return None
    return "A model's name has at most 200 characters and all of them are printable; choose a shorter one."


def add_model(s: Session, name: str, architecture: str) -> Model:
    """The model of this name, made if there is none.

    Raises:
        StoreError: If the name cannot be one, or belongs to a model of another architecture.
    """
    name = name.strip()
    if not name:
        raise StoreError("The model has no name; give it one.")
    if wrong := wrong_name(name):
        raise StoreError(wrong)
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
        size: Bytes of the file; 0 of weights that only a result computed elsewhere tells of.
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
    if size and not checkpoint.is_stored:  # only results that were computed elsewhere told of it so far
        checkpoint.filename, checkpoint.size = PurePath(filename).name[-255:], size
        checkpoint.parameters = parameters
        for name, value in metrics.items():
            setattr(checkpoint, name, _finite(value))
    return checkpoint


def rename_model(s: Session, model_id: int, name: str) -> None:
    """Give a model another name; what the lab has of it stays.

    Raises:
        StoreError: If the name cannot be one, or is taken, or the model is gone.
    """
    model, name = _model(s, model_id), name.strip()
    if not name:
        raise StoreError("The model has no name; give it one.")
    if wrong := wrong_name(name):
        raise StoreError(wrong)
    taken = s.scalars(select(Model.id).where(Model.name == name, Model.id != model_id)).one_or_none()
    if taken is not None:
        raise StoreError(f"There is a model '{name}' already; choose another name.")
    model.name = name
    s.flush()


def describe_model(s: Session, model_id: int, note: str) -> None:
    """Write down what people are to know about a model.

    Raises:
        StoreError: If the note is too long, or the model is gone.
    """
    if len(note) > _LONGEST_NOTE:
        raise StoreError(f"A note has at most {_LONGEST_NOTE:,} characters; shorten it.")
    _model(s, model_id).note = note.strip()


def archive_model(s: Session, model_id: int, archived: bool) -> None:
    """Put a model away, so that pages no longer offer it, or take it back; nothing of it is lost.

    Raises:
        StoreError: If it is gone.
    """
    _model(s, model_id).archived = archived


def tag_model(s: Session, model_id: int, names: Sequence[str]) -> None:
    """Put these tags, and no others, on a model.

    Raises:
        StoreError: If a name cannot be a tag, or the model is gone.
    """
    _model(s, model_id)
    wanted = tag_names(names)
    s.execute(sql_delete(ModelTag).where(ModelTag.model_id == model_id))
    _insert(s, ModelTag, [{"model_id": model_id, "name": name} for name in wanted])


def tag_analyses(s: Session, numbers: Sequence[int], add: Sequence[str], remove: Sequence[str] = ()) -> None:
    """Put tags on analyses, and take others away; those that are gone are passed over.

    Raises:
        StoreError: If a name cannot be a tag.
    """
    there = set(s.scalars(select(Analysis.id).where(Analysis.id.in_(numbers))))
    gone = [*tag_names(remove), *(wanted := tag_names(add))]
    s.execute(sql_delete(AnalysisTag).where(AnalysisTag.analysis_id.in_(there), AnalysisTag.name.in_(gone)))
    rows = [{"analysis_id": number, "name": name} for number in sorted(there) for name in wanted]
    _insert(s, AnalysisTag, rows)


def tag_names(names: Sequence[str]) -> list[str]:
    """Tags as they are stored: without blanks around them, each once.

    Raises:
        StoreError: If one of them cannot be a tag.
    """
    wanted = list(dict.fromkeys(name.strip() for name in names))
    for name in wanted:
        if not name or len(name) > _LONGEST_TAG or not name.isprintable() or "," in name:
            raise StoreError(
                f"A tag has 1 to {_LONGEST_TAG} printable characters and no comma; '{name[:80]}' is none, so "
                "choose another one."
            )
    return wanted


def _model(s: Session, model_id: int) -> Model:
    model = s.get(Model, model_id, with_for_update=True, populate_existing=True)
    if model is None:
        raise StoreError(f"Model {model_id} no longer exists; reload the page.")
    return model


def delete_model(s: Session, model_id: int) -> list[str]:
    """Remove a model with its checkpoints, their analyses and its trainings; workers at them stop.

    Returns the keys of the files that nothing refers to any more, to be deleted after the commit.

    Raises:
        StoreError: If it is gone already.
    """
    model = _model(s, model_id)
    checkpoints = list(model.checkpoints)
    files = {key for each in checkpoints for analysis in each.analyses if (key := analysis.eigenvectors)}
    hashes = {each.sha256 for each in checkpoints}
    others = s.scalars(
        select(Checkpoint).where(Checkpoint.sha256.in_(hashes), Checkpoint.model_id != model_id)
    )
    files |= {each.key for each in checkpoints} - {each.key for each in others}
    s.delete(model)
    s.flush()
    return sorted(files)


@dataclass(frozen=True)
class Expected:
    """The time that work will take: seconds, and the factor by which it may take longer or shorter."""

    seconds: float
    spread: float


def _told(expected: Expected | None) -> dict[str, float | None]:
    """The columns of it."""
    if expected is None:
        return {"expected_seconds": None, "expected_spread": None}
    return {"expected_seconds": expected.seconds, "expected_spread": expected.spread}


# --- The queue --------------------------------------------------------------------------------------------


def steps_of(s: Session, model_id: int) -> dict[int, str]:
    """The hashes of a model's checkpoints by their steps."""
    rows = s.execute(select(Checkpoint.step, Checkpoint.sha256).where(Checkpoint.model_id == model_id))
    return {row.step: row.sha256 for row in rows}


def queue_analysis(
    s: Session,
    checkpoint: Checkpoint,
    settings: AnalysisSettings,
    user: str,
    *,
    parameters: int,
    place: Place = "any",
    priority: Priority = "normal",
    expected: Expected | None = None,
) -> tuple[Analysis, bool]:
    """The analysis of a checkpoint with these settings, and whether this call has put it in the queue.

    Settings that leave earlier checkpoints to the steps of the model name them from here on.

    There is at most one. If it exists it is left alone, unless it failed or was cancelled: then it is
    queued again. ``parameters`` is D, the number of those that the settings choose; ``place``, where it is to
    run; ``priority`` and ``expected``, the time that it will take, decide about its turn.
    """
    if BY_STEP in (settings.initial, settings.previous):
        settings = settings.among(steps_of(s, checkpoint.model_id), checkpoint.step)
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
            split=split_of(s, settings),
            curvature=settings.curvature,
            method=settings.method,
            samples=settings.n_samples,
            k=settings.k,
            seed=settings.seed,
            parameters=parameters,
            place=place,
            priority=priority,
            **_told(expected),
            submitted_by=user[:100],
            submitted_at=present(s),
        ),
    )
    if not added and _revive(s, Analysis, analysis.id, user):
        analysis.place, analysis.priority = place, priority
        for name, value in _told(expected).items():
            setattr(analysis, name, value)
        added = True
    return analysis, added


def queue_training(
    s: Session,
    model: Model,
    settings: TrainingSettings,
    analyses: Mapping[AnalysisSettings, int],
    user: str,
    *,
    priority: Priority = "normal",
    expected: Expected | None = None,
    expected_each: Mapping[AnalysisSettings, Expected | None] = MappingProxyType({}),
) -> tuple[Training, bool, list[int]]:
    """The training of a model, and whether this call has put it in the queue.

    There is at most one with these settings. If it exists it is left alone, unless it failed or was
    cancelled: then it is queued again. Either way ``analyses`` (with D, the number of parameters that each
    chooses) will be queued for its checkpoints as they are recorded, besides those asked for earlier; for
    the checkpoints that are recorded already they are queued now, and their ids end the answer.

    ``priority`` is that of the training and of its analyses; ``expected`` is the time that the
    training will take, and ``expected_each`` that of each of the analyses, as far as they are known.

    Raises:
        StoreError: If the model has, or will have from another training, a checkpoint at a step to record.
    """
    s.refresh(model, with_for_update=True)  # one at a time, else two trainings could take the same steps
    key = _key(model.id, settings.key)
    training, added = _get_or_add(
        s,
        Training,
        Training.key == key,
        new=lambda: Training(
            model_id=model.id,
            problem=settings.problem,
            settings=settings.model_dump(mode="json"),
            key=key,
            analyses=[],
            steps=settings.steps,
            priority=priority,
            **_told(expected),
            submitted_by=user[:100],
            submitted_at=present(s),
        ),
    )
    if added:
        _check_steps_are_free(s, training, settings)
    else:
        added = _revive(s, Training, training.id, user)
    training = _locked(s, Training, training.id)
    if added:
        training.priority = priority
    wanted = _analyses(training)
    more = {
        each: Wanted(number, expected_each.get(each))
        for each, number in analyses.items()
        if each not in wanted
    }
    training.analyses = [
        {"settings": each.model_dump(mode="json"), "parameters": its.parameters}
        | ({} if its.expected is None else {"expected": [its.expected.seconds, its.expected.spread]})
        for each, its in (wanted | more).items()
    ]
    recorded = s.scalars(
        select(Checkpoint)
        .where(Checkpoint.model_id == training.model_id, Checkpoint.step.in_(settings.record))
        .order_by(Checkpoint.step)
    ).all()
    return training, added, _queue_all(s, recorded, more, user, priority)


@dataclass(frozen=True)
class Wanted:
    """An analysis that is wanted of each checkpoint: D, and the time that it will take, if that is known."""

    parameters: int
    expected: Expected | None


def _check_steps_are_free(s: Session, training: Training, settings: TrainingSettings) -> None:
    there = select(Checkpoint.step).where(Checkpoint.model_id == training.model_id)
    taken = set(s.scalars(there)) & set(settings.record)
    if taken:
        raise StoreError(
            f"The model '{training.model.name}' already has a checkpoint at step {min(taken):,}, which this "
            "training would record too; choose another model name."
        )
    others = s.scalars(
        select(Training).where(Training.model_id == training.model_id, Training.id != training.id)
    )
    for other in others:
        if set(settings.record) & set(other.settings["record"]):
            raise StoreError(
                f"Training {other.id} records the same steps of the model '{training.model.name}'; "
                "choose another model name, or delete that training first."
            )


def _analyses(training: Training) -> dict[AnalysisSettings, Wanted]:
    """The analyses to queue for each of a training's checkpoints."""
    return {
        AnalysisSettings.model_validate(each["settings"]): Wanted(
            each["parameters"], Expected(*each["expected"]) if each.get("expected") else None
        )
        for each in training.analyses
    }


def _queue_all(
    s: Session,
    checkpoints: Sequence[Checkpoint],
    analyses: Mapping[AnalysisSettings, Wanted],
    user: str,
    priority: Priority,
) -> list[int]:
    """Ids of those that this call has put in the queue."""
    queued = []
    for checkpoint in checkpoints:
        for settings, its in analyses.items():
            analysis, added = queue_analysis(
                s,
                checkpoint,
                settings,
                user,
                parameters=its.parameters,
                priority=priority,
                expected=its.expected,
            )
            if added:
                queued.append(analysis.id)
    return queued


def queue_comparison(
    s: Session,
    analysis_ids: Sequence[int],
    ks: Sequence[int],
    user: str,
    *,
    expected: Expected | None = None,
) -> tuple[Comparison, bool]:
    """The comparison of all pairs of analyses at these k, and whether this call has put it in the queue.

    There is at most one. If it exists it is left alone, unless it failed or was cancelled: then it is
    queued again. ``expected`` is the time that it will take, if that is known.

    Raises:
        StoreError: If one of the analyses is not finished or has no eigenvectors any more, or they have not
            the same parameters.
    """
    ids, sizes = sorted(set(analysis_ids)), sorted(set(ks))
    _check_comparable(s, ids, sizes)
    key = _key(ids, sizes)
    comparison, added = _get_or_add(
        s,
        Comparison,
        Comparison.key == key,
        new=lambda: Comparison(
            analyses=ids,
            ks=sizes,
            key=key,
            **_told(expected),
            submitted_by=user[:100],
            submitted_at=present(s),
        ),
    )
    added = added or _revive(s, Comparison, comparison.id, user)
    if added:
        _check_eigenvectors(s, ids)
    return comparison, added


def _check_eigenvectors(s: Session, ids: Sequence[int]) -> None:
    gone = select(Analysis.id).where(Analysis.id.in_(ids), Analysis.eigenvectors.is_(None))
    if (number := s.scalars(gone.order_by(Analysis.id).limit(1)).one_or_none()) is not None:
        raise StoreError(
            f"The eigenvectors of analysis {number} are no longer kept; delete it and run it again, "
            "or compare the others."
        )


def _check_comparable(s: Session, ids: Sequence[int], ks: Sequence[int]) -> None:
    if len(ids) < 2 or not ks:
        raise StoreError("A comparison needs at least two analyses and one k; choose more.")
    found = {each.id: each for each in s.scalars(select(Analysis).where(Analysis.id.in_(ids)))}
    for number in ids:
        analysis = found.get(number)
        if analysis is None:
            raise _gone(Analysis, number)
        if analysis.state is not State.finished:
            raise StoreError(f"Analysis {number} is {analysis.state}; only finished ones can be compared.")
        if not analysis.checkpoint.is_stored:
            raise StoreError(
                f"Analysis {number} was computed elsewhere, and its weights, which the masks are compared "
                "by, are not here; compare the others."
            )
    first, *others = found.values()
    for other in others:
        if _space(other) != _space(first):
            raise StoreError(
                f"The analyses {first.id} and {other.id} are not of the same parameters of one architecture, "
                "so their eigenspaces cannot be compared; choose others."
            )
    if ks[0] < 1 or ks[-1] > first.parameters:
        raise StoreError(
            f"k = {ks[0] if ks[0] < 1 else ks[-1]:,} is no size of a subspace of {first.parameters:,} "
            f"dimensions; choose k from 1 to {first.parameters:,}."
        )


def _space(analysis: Analysis) -> tuple[Any, ...]:
    """Return a key that two analyses share if their eigenvectors have the same coordinates."""
    return (
        analysis.checkpoint.model.architecture,
        analysis.settings.get("parameters", []),
        analysis.parameters,
    )


def retry(s: Session, kind: type[Work], number: int) -> None:
    """Queue failed or cancelled work again.

    Raises:
        StoreError: If it is in another state, or gone.
    """
    work = _locked(s, kind, number)
    if work.state not in (State.failed, State.cancelled):
        raise StoreError(
            f"{_name(kind, number)} is {work.state}; only a failed or cancelled one can be retried."
        )
    _requeue(work)
    work.attempts = 0
    work.submitted_at = present(s)


def recompute(s: Session, analysis_id: int) -> bool:
    """Queue a finished analysis again whose eigenvectors are damaged; whether this call has done so.

    Its numbers stay in the database until the new ones replace them.
    """
    analysis = _locked(s, Analysis, analysis_id)
    if analysis.state is not State.finished or analysis.imported is not None:
        return False
    _requeue(analysis)
    analysis.attempts = 0
    analysis.submitted_at = present(s)
    return True


def _revive(s: Session, kind: type[Work], number: int, user: str) -> bool:
    """Queue work again for a user if it failed or was cancelled; whether that was so."""
    work = _locked(s, kind, number)
    if work.state not in (State.failed, State.cancelled):
        return False
    retry(s, kind, number)
    work.submitted_by = user[:100]
    return True


def request_cancel(s: Session, kind: type[Work], number: int) -> None:
    """Cancel queued work at once, and running work as soon as its worker hears of it.

    Raises:
        StoreError: If it has ended already, or is gone.
    """
    work = _locked(s, kind, number)
    if work.state is State.queued:
        _end(s, work, State.cancelled)
    elif work.state is State.running:
        work.cancel_requested = True
    else:
        raise StoreError(f"{_name(kind, number)} is already {work.state}; there is nothing to cancel.")


def prioritise(s: Session, kind: type[Work], number: int, priority: Priority) -> None:
    """Set how soon queued work is to be begun beside other work (``seigh.core.lab.turns``).

    Raises:
        StoreError: If it is queued no more, or gone.
    """
    work = _locked(s, kind, number)
    if work.state is not State.queued:
        raise StoreError(f"{_name(kind, number)} is {work.state}; only queued work has a priority.")
    work.priority = priority


def delete(s: Session, kind: type[Work], number: int) -> list[str]:
    """Remove a piece of work and its results; a worker that is at it loses its claim and stops.

    The checkpoints of a training stay, as its model does if it has any; so do the values of pairs that a
    comparison found: they go with their analyses.

    Returns the keys of files that nothing refers to any more, to be deleted after the commit.

    Raises:
        StoreError: If it is gone already.
    """
    work = _locked(s, kind, number)
    s.delete(work)
    s.flush()
    if isinstance(work, Training):
        _delete_if_empty(s, work.model_id)
    return [work.eigenvectors] if isinstance(work, Analysis) and work.eigenvectors else []


def pin(s: Session, analysis_id: int, pinned: bool) -> None:
    """Keep an analysis's eigenvectors for good, or no longer.

    Raises:
        StoreError: If it is gone.
    """
    _locked(s, Analysis, analysis_id).pinned = pinned


def expire(s: Session, older_than: timedelta) -> list[str]:
    """Forget the eigenvectors of analyses that finished longer ago than this; all numbers stay.

    Not those that are pinned, nor those that a comparison which is yet to end will read.

    Returns the keys of the files, to be deleted after the commit.
    """
    wanted = s.scalars(select(Comparison.analyses).where(Comparison.state.in_(UNDER_WAY)))
    old = s.scalars(
        select(Analysis)
        .where(
            Analysis.state == State.finished,
            Analysis.finished_at < present(s) - older_than,
            Analysis.eigenvectors.is_not(None),
            Analysis.pinned.is_(False),
            Analysis.id.not_in({number for ids in wanted for number in ids}),
        )
        .with_for_update(skip_locked=True)
    )
    files = []
    for analysis in old:
        assert analysis.eigenvectors is not None
        files.append(analysis.eigenvectors)
        analysis.eigenvectors = None
    return files


def _delete_if_empty(s: Session, model_id: int) -> None:
    model = s.get_one(Model, model_id, with_for_update=True, populate_existing=True)
    if not model.checkpoints and not model.trainings:
        s.delete(model)
        s.flush()


# --- An attempt, from its claim to its end ----------------------------------------------------------------


def claim(
    s: Session,
    kind: type[W],
    number: int,
    token: str,
    worker: str,
    most_per_user: int | None = None,
) -> W | None:
    """Make the attempt ``token`` the owner of a piece of work and count the attempt.

    Returns None, and changes nothing, unless the work is queued (what a dead worker ran is queued again by
    ``requeue_silent``); nor if it is an analysis of a user of whom ``most_per_user`` run. If an analysis that
    is returned has ``eigenvectors``, an earlier attempt has died over them, and their file is to be deleted.
    """
    if most_per_user is not None and s.get_bind().dialect.name == "postgresql":
        # One after the other, else two could find the same room. SQLite has one writer at a time anyway.
        s.execute(select(func.pg_advisory_xact_lock(_CLAIM_LOCK)))
    time = present(s)
    claimed = s.execute(
        update(kind)
        .where(
            kind.id == number,
            or_(
                kind.state == State.queued,
                # A repeated call whose outcome was not heard.
                and_(kind.state == State.running, kind.claim == token),
            ),
            kind.cancel_requested.is_(False),
            *_has_room(kind, most_per_user),
        )
        .values(
            state=State.running,
            claim=token,
            worker=worker[:255],
            attempts=kind.attempts + 1,
            stage=None,
            progress=0.0,
            message=None,
            started_at=time,
            heartbeat_at=time,
            progress_at=None,
            finished_at=None,
            **dict.fromkeys(kind.counts),
        )
        .returning(kind.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    return None if claimed is None else s.get(kind, number, populate_existing=True)


def _has_room(kind: type[Work], most_per_user: int | None) -> list[ColumnElement[bool]]:
    """The condition that the user of a queued analysis has fewer than so many that run."""
    if most_per_user is None or kind is not Analysis:
        return []
    other = aliased(Analysis)
    running = (
        select(func.count())
        .where(other.state == State.running, other.submitted_by == Analysis.submitted_by)
        .correlate(Analysis)
        .scalar_subquery()
    )
    return [or_(Analysis.state == State.running, running < most_per_user)]


def report(
    s: Session, kind: type[Work], number: int, token: str, *, stage: str, progress: float, **counts: int
) -> Standing:
    """Record how far an attempt has come, and that it is alive.

    Args:
        s: A writing session.
        kind: The kind of work.
        number: Which one of its kind.
        token: The attempt's claim.
        stage: What it is at.
        progress: The part that is done, in [0, 1].
        **counts: What it has done so far, by the columns that ``kind.counts`` names.
    """
    done = min(max(progress, 0.0), 1.0)
    further = case((kind.progress < done, literal(present(s), UTCDateTime)), else_=kind.progress_at)
    return _beat(s, kind, number, token, stage=stage[:64], progress=done, progress_at=further, **counts)


def heartbeat(s: Session, kind: type[Work], number: int, token: str) -> Standing:
    """Record that an attempt is alive."""
    return _beat(s, kind, number, token)


def _beat(s: Session, kind: type[Work], number: int, token: str, **values: object) -> Standing:
    cancel_requested = s.execute(
        update(kind)
        .where(kind.id == number, kind.state == State.running, kind.claim == token)
        .values(heartbeat_at=present(s), **values)
        .returning(kind.cancel_requested)
        .execution_options(synchronize_session=False)
    ).scalar()
    if cancel_requested is None:
        return Standing.lost
    return Standing.cancel_requested if cancel_requested else Standing.owned


def reserve_eigenvectors(s: Session, analysis_id: int, token: str, key: str) -> Standing:
    """Record the key of an attempt's eigenvectors before their file is written.

    Should the attempt die between the two, the next one (or a deletion) knows which file to remove.
    """
    return _beat(s, Analysis, analysis_id, token, eigenvectors=key)


def record_checkpoint(
    s: Session,
    training_id: int,
    token: str,
    *,
    step: int,
    sha256: str,
    filename: str,
    size: int,
    parameters: int,
    metrics: Mapping[str, float],
) -> list[int] | None:
    """Add what an attempt at a training has recorded to its model, and queue the analyses wanted of it.

    Repeating a call is safe: what an earlier one, or an earlier attempt, has added is left alone. The facts
    are those of ``add_checkpoint``.

    Returns:
        The analyses queued by this call, by id; None, with nothing changed, if the claim is gone.

    Raises:
        StoreError: If the model has got other weights at that step.
    """
    training = _attempted(s, Training, training_id, token)
    if training is None or training.state is not State.running:
        return None
    known = s.scalars(
        select(Checkpoint.sha256).where(Checkpoint.model_id == training.model_id, Checkpoint.step == step)
    ).one_or_none()
    if known == sha256:
        return []
    checkpoint = add_checkpoint(
        s,
        training.model,
        step=step,
        sha256=sha256,
        filename=filename,
        size=size,
        parameters=parameters,
        metrics=metrics,
        user=training.submitted_by,
    )
    return _queue_all(s, [checkpoint], _analyses(training), training.submitted_by, training.priority)


def finish(
    s: Session,
    analysis_id: int,
    token: str,
    found: Outcome,
    *,
    eigenvectors: str | None,
    eigenvectors_sha256: str | None = None,
    words: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> bool:
    """Write the results of an attempt and end its analysis, unless its claim is gone.

    Args:
        s: A writing session.
        analysis_id: The analysis.
        token: The attempt's claim.
        found: What the attempt has found.
        eigenvectors: Key of their file in the artefact store.
        eigenvectors_sha256: Checksum of that file.
        words: What is said of each curve, profile and quantity, by its name.

    Returns:
        Whether these are now the analysis's results. Repeating a call whose outcome was not heard is safe.

    Raises:
        StoreError: If eigenvalues or overlaps are not finite.
    """
    analysis = _attempted(s, Analysis, analysis_id, token)
    if analysis is None or analysis.state is not State.running:
        return analysis is not None and analysis.state is State.finished
    _check_finite(found)
    _facts(s, analysis, found)
    analysis.eigenvectors, analysis.eigenvectors_sha256 = eigenvectors, eigenvectors_sha256
    _finish(s, analysis)
    _write(s, analysis_id, found, words)
    return True


def _check_finite(found: Outcome) -> None:
    """Refuse results that are none.

    Raises:
        StoreError: If eigenvalues or overlaps are not finite.
    """
    numbers = (found.eigenvalues, found.overlap, found.random_mean)
    known = [each for each in (found.random_std, found.best) if not np.isnan(each).all()]
    if not all(np.isfinite(each).all() for each in (*numbers, *known)):
        raise StoreError(
            "The eigenvalues or overlaps came out as NaN or infinite; "
            "the weights or the data are too large for this precision, so try float64."
        )


def _facts(s: Session, analysis: Analysis, found: Outcome) -> None:
    """Write what was found into the row of its analysis."""
    analysis.hvps = found.hvps
    analysis.resolved_k = found.resolved_k
    analysis.data_sha256 = found.data_sha256
    analysis.record = _json(found.record)
    analysis.environment_id = _environment(s, found.environment).id


def _write(s: Session, analysis_id: int, found: Outcome, words: Mapping[str, Mapping[str, str]]) -> None:
    """Write the tables of what was found, in place of those of the one before."""
    overlaps = {Mask.magnitude: found.overlap, Mask.random: found.random_mean, Mask.best: found.best}
    for table in RESULTS:
        s.execute(sql_delete(table).where(table.analysis_id == analysis_id))
    columns = {
        "residual": found.residuals,
        "scree_lower": found.scree_lower,
        "scree_upper": found.scree_upper,
    }
    _insert(
        s,
        Eigenvalue,
        _rows({"value": found.eigenvalues} | columns, "position", analysis_id=analysis_id),
    )
    unknown: dict[str, NDArray[Any] | None] = dict.fromkeys(("std", "error", "least", "greatest", "tied"))
    known: dict[Mask, dict[str, NDArray[Any] | None]] = {
        Mask.magnitude: {
            "error": found.overlap_error,
            "least": found.least,
            "greatest": found.greatest,
            "tied": found.tied,
        },
        Mask.random: {"std": found.random_std, "error": found.random_std_error},
        Mask.best: {"error": found.best_error},
    }
    for mask, curve in overlaps.items():
        if np.isnan(curve).all():  # published without it
            continue
        rows = _rows({"overlap": curve} | unknown | known[mask], "k", analysis_id=analysis_id, mask=mask)
        _insert(s, OverlapPoint, rows)
    for name, further in found.curves.items():
        said = {"title": words[name]["title"][:200], "note": words[name]["note"]}
        asymmetric = further.get("lower") is not None and further.get("upper") is not None
        ends = pack(further, ENDS) if asymmetric else None
        row = {"analysis_id": analysis_id, "name": name, **said, "points": pack(further), "ends": ends}
        _insert(s, FurtherCurve, [row])
    observations: dict[str, dict[str, Any]] = {name: {**each} for name, each in found.profiles.items()}
    for name, quantity in found.quantities.items():
        observations[name] = {
            part: [math.nan if quantity[part] is None else quantity[part]] for part in NUMBERS
        }
    for name, columns in observations.items():
        said = {"kind": "quantity" if name in found.quantities else "profile", **_json(words[name])}
        _insert(
            s,
            Observation,
            [
                {
                    "analysis_id": analysis_id,
                    "name": name,
                    "kind": said["kind"],
                    "title": said["title"][:200],
                    "words": said,
                    "points": pack(columns, POINTS),
                }
            ],
        )
    for table, told in (
        (LayerShare, found.layers),
        (MagnitudeBin, found.magnitudes),
        (SubspaceMetric, found.metrics),
    ):
        _insert(s, table, [{"analysis_id": analysis_id, **_json(row)} for row in told])
    _insert(
        s,
        StageTiming,
        [
            {
                "analysis_id": analysis_id,
                "position": i,
                "stage": stage.name[:64],
                "seconds": stage.seconds,
                "hvps": stage.hvps,
            }
            for i, stage in enumerate(found.stages)
        ],
    )


def add_imported(
    s: Session,
    found: Outcome,
    *,
    model_name: str,
    settings: AnalysisSettings,
    checkpoint_sha256: str,
    step: int,
    filename: str,
    user: str,
    words: Mapping[str, Mapping[str, str]],
) -> tuple[Analysis, bool]:
    """The finished analysis of a result that was computed elsewhere, and whether this call has added it.

    It never stands for one that is computed here: that has a ``settings_key`` of another kind.

    Args:
        s: A writing session.
        found: The result.
        model_name: The model that it is of; made if there is none of that name.
        settings: Settings of the result.
        checkpoint_sha256: Hash of its weights.
        step: Their training step.
        filename: Name of the result's file.
        user: Who brings it.
        words: As for ``finish``.

    Raises:
        StoreError: If it cannot be of this model, is no result, or says more than there is room for.
    """
    room = {Model.architecture: settings.architecture, Analysis.data: settings.data}
    if settings.samples is None or any(len(text) > column.type.length for column, text in room.items()):
        raise StoreError(f"The settings of '{filename}' are those of no analysis; save the result again.")
    told = (*found.curves, *found.profiles, *found.quantities)
    if settings.k != len(found.overlap) or any(each not in words for each in told):
        raise StoreError(f"The settings of '{filename}' are of another result; save the result again.")
    _check_finite(found)
    name = PurePath(filename).name[-255:]
    checkpoint = add_checkpoint(
        s,
        add_model(s, model_name, settings.architecture),
        step=step,
        sha256=checkpoint_sha256,
        filename=filename,
        size=0,
        parameters=found.parameters,
        metrics={},
        user=user,
    )
    written = found.document(checkpoint_sha256, settings.model_dump(mode="json"))
    key = _key("imported", _json(written))
    time = present(s)
    analysis, added = _get_or_add(
        s,
        Analysis,
        Analysis.checkpoint_id == checkpoint.id,
        Analysis.settings_key == key,
        new=lambda: Analysis(
            checkpoint_id=checkpoint.id,
            settings=settings.model_dump(mode="json"),
            settings_key=key,
            data=settings.data,
            split=split_of(s, settings),
            curvature=settings.curvature,
            method=settings.method,
            samples=settings.n_samples,
            k=settings.k,
            seed=settings.seed,
            parameters=found.parameters,
            place="any",
            submitted_by=user[:100],
            submitted_at=time,
            started_at=time,
            state=State.finished,
            progress=1.0,
            imported=name,
        ),
    )
    if added:
        _facts(s, analysis, found)
        _end(s, analysis, State.finished)
        _write(s, analysis.id, found, words)
    return analysis, added


def record_pair(
    s: Session,
    comparison_id: int,
    token: str,
    first_id: int,
    second_id: int,
    values: Mapping[tuple[int, str], float],
) -> bool:
    """Write what an attempt at a comparison has found of a pair of analyses, by k and measure.

    What is there already, from another comparison or an earlier attempt, is left alone.

    Returns:
        False, with nothing written, if the claim is gone.

    Raises:
        StoreError: If one of the analyses is gone.
    """
    comparison = _attempted(s, Comparison, comparison_id, token)
    if comparison is None or comparison.state is not State.running:
        return False
    first_id, second_id = sorted((first_id, second_id))
    there = set(s.scalars(select(Analysis.id).where(Analysis.id.in_((first_id, second_id)))))
    for number in (first_id, second_id):
        if number not in there:
            raise _gone(Analysis, number)
    stored = select(PairValue.k, PairValue.measure).where(
        PairValue.first_id == first_id, PairValue.second_id == second_id
    )
    for last in (False, True):
        known = {(k, measure) for k, measure in s.execute(stored)}
        rows = [
            {"first_id": first_id, "second_id": second_id, "k": k, "measure": measure, "value": value}
            for (k, measure), value in values.items()
            if (k, measure) not in known
        ]
        try:
            with s.begin_nested():
                _insert(s, PairValue, rows)
            break
        except IntegrityError:  # another comparison was faster
            if last:
                raise
    return True


def finished(s: Session, kind: type[Work], number: int, token: str, **counts: int) -> bool:
    """End an attempt's work as finished, its results being stored; False if its claim is gone.

    For trainings and comparisons; an analysis ends with its results (``finish``). ``counts`` are as in
    ``report``. Repeating a call whose outcome was not heard is safe.
    """
    work = _attempted(s, kind, number, token)
    if work is None or work.state is not State.running:
        return work is not None and work.state is State.finished
    for name, count in counts.items():
        setattr(work, name, count)
    _finish(s, work)
    return True


def fail(s: Session, kind: type[Work], number: int, token: str, message: str) -> bool:
    """End an attempt's work as failed, with one sentence for the user; False if its claim is gone."""
    return _end_attempt(s, kind, number, token, State.failed, message)


def cancelled(s: Session, kind: type[Work], number: int, token: str) -> bool:
    """End an attempt's work as cancelled; False if its claim is gone."""
    return _end_attempt(s, kind, number, token, State.cancelled)


def _end_attempt(
    s: Session, kind: type[Work], number: int, token: str, state: State, message: str | None = None
) -> bool:
    work = _attempted(s, kind, number, token)
    if work is None or work.state is not State.running:
        return False
    _end(s, work, state, message)
    return True


def set_aside(s: Session, kind: type[Work], number: int, message: str) -> None:
    """End work whose row cannot even be read as failed, with one sentence for the user."""
    s.execute(
        update(kind)
        .where(kind.id == number, kind.state.in_(UNDER_WAY))
        .values(state=State.failed, message=message, claim=None, stage=None, finished_at=present(s))
        .execution_options(synchronize_session=False)
    )


# --- When workers die -------------------------------------------------------------------------------------


def signs_of_life(s: Session, kind: type[Work]) -> dict[int, Sign]:
    """The last sign of life of each running piece of work of a kind, by id.

    Signs say nothing but whether they are equal: a new one means that the attempt is alive.
    """
    rows = s.execute(select(kind.id, kind.claim, kind.heartbeat_at).where(kind.state == State.running))
    return {number: (claim, beat) for number, claim, beat in rows}


def requeue_silent(
    s: Session, kind: type[Work], silent: Mapping[int, Sign], max_attempts: int = 3
) -> list[int]:
    """Take back running work of a kind whose last signs of life, ``silent``, are too old.

    What has shown another sign since then is left alone. The rest is queued again (and returned, by id); but
    cancelled if that was wanted, and failed if it happened ``max_attempts`` times: work that takes its worker
    down must not do so for ever.
    """
    if not silent:
        return []
    found = s.scalars(
        select(kind)
        .where(kind.id.in_(silent), kind.state == State.running)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    requeued = []
    for work in found:
        if (work.claim, work.heartbeat_at) != silent[work.id]:
            continue
        if work.cancel_requested:
            _end(s, work, State.cancelled)
        elif work.attempts >= max_attempts:
            times = "once" if work.attempts == 1 else f"{work.attempts} times"
            _end(
                s,
                work,
                State.failed,
                f"The worker stopped {times} while running this {kind.__tablename__}, perhaps for want of "
                f"memory; {kind.relief}, or retry it on a larger machine.",
            )
        else:
            _requeue(work)
            requeued.append(work.id)
    return requeued


def hand_back(s: Session, kind: type[Work], worker: str) -> list[int]:
    """Queue again what a worker that is shutting down was running, without counting it as an attempt."""
    running = s.scalars(
        select(kind)
        .where(kind.state == State.running, kind.worker == worker)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    return [work.id for work in running if _hand_back(s, work)]


def give_back(s: Session, kind: type[Work], number: int, token: str) -> bool:
    """Queue again what the attempt ``token`` has to leave, without counting it; whether that was done."""
    work = _attempted(s, kind, number, token)
    return work is not None and work.state is State.running and _hand_back(s, work)


def _hand_back(s: Session, work: Work) -> bool:
    """Queue running work again; False if it ends, as somebody has cancelled it."""
    if work.cancel_requested:
        _end(s, work, State.cancelled)
        return False
    _requeue(work)
    work.attempts -= 1
    return True


def waiting(
    s: Session,
    kind: type[Work],
    longer_than: timedelta,
    place: Place = "any",
    most_per_user: int | None = None,
) -> list[int]:
    """Ids of the work of a kind, for a place, that was submitted longer ago than this and is still queued,
    oldest first; without analyses of users of whom ``most_per_user`` run.

    What seems to come from the future was submitted before somebody set the clock back: it counts, too.
    """
    time = present(s)
    return list(
        s.scalars(
            select(kind.id)
            .where(
                kind.state == State.queued,
                or_(kind.submitted_at <= time - longer_than, kind.submitted_at > time + longer_than),
                kind.place == place,
                *_has_room(kind, most_per_user),
            )
            .order_by(kind.submitted_at, kind.id)
        )
    )


def places(s: Session, kind: type[Work], ids: Sequence[int]) -> dict[int, Place]:
    """Where each of these pieces of work is to run."""
    return {row[0]: row[1] for row in s.execute(select(kind.id, kind.place).where(kind.id.in_(ids)))}


def under_way(s: Session, kind: type[Work], ids: Sequence[int]) -> set[int]:
    """Return the ids among these whose work is running or queued."""
    return set(s.scalars(select(kind.id).where(kind.id.in_(ids), kind.state.in_(UNDER_WAY))))


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


def _locked(s: Session, kind: type[W], number: int) -> W:
    work = s.get(kind, number, with_for_update=True, populate_existing=True)
    if work is None:
        raise _gone(kind, number)
    return work


def _attempted(s: Session, kind: type[W], number: int, token: str) -> W | None:
    """The work whose last claim was ``token``, locked; None if there is none such."""
    work = s.get(kind, number, with_for_update=True, populate_existing=True)
    return work if work is not None and work.claim == token else None


def _name(kind: type[Work], number: int) -> str:
    return f"{kind.__tablename__.capitalize()} {number}"


def _gone(kind: type[Work], number: int) -> StoreError:
    return StoreError(f"{_name(kind, number)} no longer exists; reload the list of runs.")


def _requeue(work: Work) -> None:
    work.state = State.queued
    work.claim = work.worker = work.stage = work.message = None
    work.started_at = work.heartbeat_at = work.progress_at = work.finished_at = None
    work.progress, work.cancel_requested = 0.0, False
    for name in work.counts:
        setattr(work, name, None)


def _finish(s: Session, work: Work) -> None:
    work.progress, work.cancel_requested = 1.0, False
    _end(s, work, State.finished)


def _end(s: Session, work: Work, state: State, message: str | None = None) -> None:
    work.state = state
    work.message = message
    work.stage = None
    work.finished_at = present(s)
    s.flush()


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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


def _rows(columns: Mapping[str, NDArray[Any] | None], number: str, **same: object) -> list[dict[str, Any]]:
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
