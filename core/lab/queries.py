"""Queries of the pages and the exports: each function answers one question with a tidy table.

The session is a reading one: ``with sessions(url)() as s``. Columns have the same types whether or not there
are rows: times are aware and in UTC, unknown numbers are NaN (unknown whole ones, where some are, <NA>),
unknown texts None.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Double, Row, Select, case, cast, distinct, func, select, tuple_
from sqlalchemy.orm import Session, aliased

from seigh.core import version
from seigh.core.lab import naming
from seigh.core.lab.keys import checkpoint_key
from seigh.core.lab.models import (
    UNDER_WAY,
    WORK,
    Analysis,
    Checkpoint,
    Comparison,
    DataFile,
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
    Worker,
)
from seigh.core.lab.pace import Remaining, remaining
from seigh.core.lab.store import StoreError
from seigh.core.lab.workers import is_alive
from seigh.core.names import IOU, LARGEST, mask_called
from seigh.core.order import natural
from seigh.core.results.masks import Mask as StoredMask
from seigh.core.results.masks import chance_iou, iou, iou_at, of_record
from seigh.core.results.packed import at, unpack
from seigh.core.results.packed import curve as unpacked_curve
from seigh.core.results.result import Outcome, Stage
from seigh.core.results.schema import ENDS, LAYERS, MAGNITUDES, METRICS, PARTS, POINTS, SPECTRUM, STAGES
from seigh.core.settings import MARK

MASKS: tuple[str, ...] = tuple(Mask)

_TIME = "datetime64[us, UTC]"

# What a column of a frame is: its type there, and what it is in SQL. A statement labels what it selects with
# the columns' names, and a frame takes it by these names, so that no order matters.
_Columns = dict[str, tuple[Any, Any]]

# How long all stages of an analysis took together.
SECONDS = select(func.sum(StageTiming.seconds)).where(StageTiming.analysis_id == Analysis.id)

# The columns that say which analysis a row is of, and what it was.
_KNOWN: _Columns = {
    "analysis_id": (int, Analysis.id),
    "model_id": (int, Model.id),
    "model": (object, Model.name),
    "architecture": (object, Model.architecture),
    "step": (int, Checkpoint.step),
    "split": (object, Analysis.split),
    "curvature": (object, Analysis.curvature),
    # The patterns in its settings, as one text.
    "subset": (object, Analysis.settings["parameters"]),
    "parameters": (int, Analysis.parameters),
    "method": (object, Analysis.method),
    "k": (int, Analysis.k),
    "samples": (int, Analysis.samples),
    # Which samples it is of (``AnalysisSettings.subset``).
    "sampling": (object, Analysis.settings["subset"]),
    "seed": (int, Analysis.seed),
    # What the data are called: a file that somebody has brought by its name, with its options.
    "data": (object, naming.name_of()),
    "data_sha256": (object, Analysis.data_sha256),
    # The file of a result that was computed elsewhere.
    "imported": (object, Analysis.imported),
    "finished_at": (_TIME, Analysis.finished_at),
    "resolved_k": (float, Analysis.resolved_k),
    "test_accuracy": (float, Checkpoint.test_accuracy),
}


def _known_columns(*names: str) -> _Columns:
    return {name: _KNOWN[name] for name in names}


def _of(table: Any, types: Mapping[str, Any]) -> _Columns:
    """The columns of these types that are called in a frame as in a table."""
    return {name: (kind, getattr(table, name)) for name, kind in types.items()}


def _select(columns: _Columns) -> Select[Any]:
    return select(*(what.label(name) for name, (_, what) in columns.items()))


def _of_analyses(columns: _Columns) -> Select[Any]:
    """Columns of analyses, their checkpoints and models."""
    return _select(columns).join(Analysis.checkpoint).join(Checkpoint.model)


def _results(columns: _Columns, table: Any) -> Select[Any]:
    """Columns of finished analyses and of a table of what was found of them, in a readable order."""
    return (
        _select(columns)
        .select_from(table)
        .join(Analysis, Analysis.id == table.analysis_id)
        .join(Analysis.checkpoint)
        .join(Checkpoint.model)
        .where(Analysis.state == State.finished)
        .order_by(Model.name, Checkpoint.step, Analysis.split, Analysis.id)
    )


def models(s: Session) -> pd.DataFrame:
    """All models by name: id, name, architecture, parameters (of the whole model), checkpoints and analyses
    (counts), archived."""
    columns: _Columns = {
        "id": (int, Model.id),
        "name": (object, Model.name),
        "architecture": (object, Model.architecture),
        "parameters": (int, func.coalesce(func.max(Checkpoint.parameters), 0)),
        "checkpoints": (int, func.count(distinct(Checkpoint.id))),
        "analyses": (int, func.count(distinct(Analysis.id))),
        "archived": (bool, Model.archived),
    }
    statement = (
        _select(columns).outerjoin(Model.checkpoints).outerjoin(Checkpoint.analyses).group_by(Model.id)
    )
    found = _frame(s, statement, columns)
    return found.sort_values("name", key=lambda names: names.map(natural), ignore_index=True)


def checkpoints(s: Session, model: str) -> pd.DataFrame:
    """The checkpoints of a model whose files are here, by step: step, filename, sha256, key (of the file in
    the artefact store), analyses (count)."""
    columns: _Columns = {
        "step": (int, Checkpoint.step),
        "filename": (object, Checkpoint.filename),
        "sha256": (object, Checkpoint.sha256),
        "analyses": (int, func.count(Analysis.id)),
    }
    statement = (
        _select(columns)
        .join(Checkpoint.model)
        .outerjoin(Checkpoint.analyses)
        .where(Model.name == model, Checkpoint.size > 0)
        .group_by(Checkpoint.id)
        .order_by(Checkpoint.step)
    )
    frame = _frame(s, statement, columns)
    keys = [
        checkpoint_key(sha256, name) for sha256, name in zip(frame["sha256"], frame["filename"], strict=True)
    ]
    return frame.assign(key=pd.Series(keys, frame.index, object))


@dataclass(frozen=True)
class ModelDetail:
    """A model with what people have said of it."""

    id: int
    name: str
    architecture: str
    created_at: datetime
    note: str
    archived: bool
    tags: tuple[str, ...]


def model(s: Session, model_id: int) -> ModelDetail | None:
    """One model, or None if there is none of this id."""
    row = s.get(Model, model_id)
    if row is None:
        return None
    tags = s.scalars(select(ModelTag.name).where(ModelTag.model_id == model_id).order_by(ModelTag.name)).all()
    return ModelDetail(
        row.id, row.name, row.architecture, row.created_at, row.note, row.archived, tuple(tags)
    )


def recorded_checkpoints(s: Session, model_id: int) -> pd.DataFrame:
    """The checkpoints of a model by step: id, step, filename, sha256, key, size (bytes), parameters,
    train_loss, train_accuracy, test_loss, test_accuracy (NaN where not recorded), uploaded_by, uploaded_at,
    analyses (count of all) and settings (the finished ones in words, each kind once)."""
    columns: _Columns = {
        **_of(Checkpoint, {"id": int, "step": int, "filename": object, "sha256": object, "size": int}),
        "parameters": (int, Checkpoint.parameters),
        **_of(
            Checkpoint, dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"), float)
        ),
        **_of(Checkpoint, {"uploaded_by": object, "uploaded_at": _TIME}),
    }
    statement = _select(columns).where(Checkpoint.model_id == model_id).order_by(Checkpoint.step)
    frame = _frame(s, statement, columns)
    analyses = s.execute(
        select(
            Analysis.checkpoint_id, Analysis.state, Analysis.split, Analysis.method, Analysis.k,
            Analysis.samples,
        )
        .join(Analysis.checkpoint)
        .where(Checkpoint.model_id == model_id)
        .order_by(Analysis.split, Analysis.method, Analysis.k, Analysis.samples)
    ).all()  # fmt: skip
    counts: dict[int, int] = {}
    words: dict[int, dict[str, None]] = {}
    for number, state, split, method, k, samples in analyses:
        counts[number] = counts.get(number, 0) + 1
        if state is State.finished:
            words.setdefault(number, {})[f"{split} {method} k = {k:,}, N = {samples:,}"] = None
    keys = [
        checkpoint_key(sha256, name) for sha256, name in zip(frame["sha256"], frame["filename"], strict=True)
    ]
    return frame.assign(
        key=pd.Series(keys, frame.index, object),
        analyses=pd.Series([counts.get(each, 0) for each in frame["id"]], frame.index, int),
        settings=pd.Series(
            ["; ".join(words.get(each, {})) or "–" for each in frame["id"]], frame.index, object
        ),
    )


def stored_checkpoints(s: Session, ids: Sequence[int]) -> pd.DataFrame:
    """These checkpoints by model and step: id, model, and the columns of ``checkpoints``."""
    names = s.execute(
        select(Checkpoint.id, Model.name, Checkpoint.step)
        .join(Checkpoint.model)
        .where(Checkpoint.id.in_(ids))
        .order_by(Model.name, Checkpoint.step)
    ).all()
    frames = []
    for model in dict.fromkeys(row.name for row in names):
        steps = {row.step: row.id for row in names if row.name == model}
        found = checkpoints(s, model)
        found = found[found["step"].isin(list(steps))]
        frames.append(found.assign(id=found["step"].map(steps), model=model))
    return pd.concat(frames, ignore_index=True) if frames else checkpoints(s, "").assign(id=[], model=[])


def data_sets(s: Session) -> pd.DataFrame:
    """The data that the lab has brought files of, or analyses: by what they are called.

    Columns: name, data (as settings name it, without options of tokens), sha256 (of a file, else None), split
    (that was declared of a file, else None), filename, size (bytes; 0 of a file that has been deleted, <NA>
    of what is no file or of one from before files had names), uploaded_by, uploaded_at, analyses and models
    (counts), under_way (how many of the analyses wait or run).
    """
    files = {each.sha256: each for each in s.scalars(select(DataFile))}
    used: dict[str, list[Row[str, str, int, State, int]]] = {MARK + sha256: [] for sha256 in files}
    by = Analysis.data, Analysis.split, Checkpoint.model_id, Analysis.state
    counts = select(*by, func.count(Analysis.id).label("number")).join(Analysis.checkpoint)
    for group in s.execute(counts.group_by(*by).order_by(func.min(Analysis.id))):
        digest = naming.digest_of(group.data)
        used.setdefault(group.data if digest is None else MARK + digest, []).append(group)
    rows = []
    for data, groups in used.items():
        digest = naming.digest_of(data)
        file = files.get(digest or "")
        rows.append(
            {
                "name": file.name if file else naming.nameless(digest) if digest else data,
                "data": data,
                "sha256": digest,
                "split": file.split if file else groups[0].split if digest else None,
                "filename": file.filename if file else None,
                "size": file.size if file else None,
                "uploaded_by": file.uploaded_by if file else None,
                "uploaded_at": file.uploaded_at if file else None,
                "analyses": sum(each.number for each in groups),
                "models": len({each.model_id for each in groups}),
                "under_way": sum(each.number for each in groups if each.state in UNDER_WAY),
            }
        )
    types: dict[str, Any] = dict.fromkeys(("name", "data", "sha256", "split", "filename"), object)
    types |= {"size": "Int64", "uploaded_by": object, "uploaded_at": _TIME}
    types |= dict.fromkeys(("analyses", "models", "under_way"), int)
    frame = pd.DataFrame(rows, columns=[*types]).astype(types)
    return frame.sort_values("name", ignore_index=True)


def data_file(s: Session, sha256: str) -> str:
    """The name of the file of some data; made of its hash where it is from before files had names."""
    file = s.get(DataFile, sha256)
    return file.filename if file is not None else f"own-data-{sha256[:8]}.npz"


def models_of_data(s: Session, data: str) -> pd.DataFrame:
    """The models that have analyses of data, as ``data_sets`` names them: model_id, model, analyses, finished
    (counts)."""
    columns: _Columns = {
        "model_id": (int, Model.id),
        "model": (object, Model.name),
        "analyses": (int, func.count(Analysis.id)),
        "finished": (int, func.sum(case((Analysis.state == State.finished, 1), else_=0))),
    }
    digest = naming.digest_of(data)
    statement = (
        _of_analyses(columns)
        .select_from(Analysis)
        .where(naming.of_file(digest) if digest else Analysis.data == data)
        .group_by(Model.id)
        .order_by(Model.name)
    )
    return _frame(s, statement, columns)


def readings_of_data(s: Session, data: str) -> list[str]:
    """The ways in which settings name a data file: with each of the options that tokens were read with."""
    of = naming.of_file(naming.digest_of(data) or "")
    return sorted(s.scalars(select(Analysis.data).where(of).distinct()))


def checkpoints_of(s: Session, analysis_ids: Sequence[int]) -> list[int]:
    """The ids of the checkpoints that these analyses are of."""
    statement = select(Analysis.checkpoint_id).where(Analysis.id.in_(analysis_ids)).distinct()
    return sorted(s.scalars(statement))


# --- Runs -------------------------------------------------------------------------------------------------

# What all kinds of work have.
_WORK: dict[str, Any] = {
    "state": object,
    "stage": object,
    "progress": float,
    "message": object,
    "submitted_by": object,
    "submitted_at": _TIME,
    "started_at": _TIME,
    "heartbeat_at": _TIME,
    "finished_at": _TIME,
    "attempts": int,
    "worker": object,
    "cancel_requested": bool,
    "priority": object,
    "expected_seconds": float,
    "expected_spread": float,
    "progress_at": _TIME,
}

_ANALYSIS: _Columns = {
    "id": (int, Analysis.id),
    **_known_columns(
        *("model", "architecture", "step", "split", "curvature", "subset", "parameters", "method", "k"),
        *("samples", "sampling", "seed", "data", "imported"),
    ),
    "hvps": (float, Analysis.hvps),
    **_of(Analysis, _WORK),
}

_TRAINING: _Columns = {
    "id": (int, Training.id),
    "model": (object, Model.name),
    "architecture": (object, Model.architecture),
    "problem": (object, Training.problem),
    "steps": (int, Training.steps),
    "steps_done": ("Int64", Training.steps_done),
    "seed": (int, Training.settings["seed"].as_integer()),
    **_of(Training, _WORK),
    "model_id": (int, Training.model_id),
    "settings": (object, Training.settings),
    "analyses": (object, Training.analyses),
}

_COMPARISON: _Columns = {
    "id": (int, Comparison.id),
    "analysis_ids": (object, Comparison.analyses),
    "ks": (object, Comparison.ks),
    **_of(Comparison, _WORK),
}

# Of all kinds: what only some have is unknown for the others.
_RUN: dict[str, Any] = {
    "kind": object,
    "id": int,
    "model": object,
    "architecture": object,
    "step": "Int64",
    "split": object,
    "curvature": object,
    "subset": object,
    "parameters": "Int64",
    "method": object,
    "k": "Int64",
    "samples": "Int64",
    "sampling": object,
    "seed": "Int64",
    "data": object,
    "imported": object,
    "hvps": float,
    "problem": object,
    "steps": "Int64",
    "steps_done": "Int64",
    "analyses": "Int64",
    "pairs": "Int64",
    "remaining_low": float,
    "remaining_high": float,
    "late": bool,
} | _WORK


def listed_runs(s: Session) -> pd.DataFrame:
    """All work, the newest first, with what lists are narrowed by: kind, id, model, state, submitted_at."""
    short = ("id", "model", "state", "submitted_at")
    frames = {
        "analysis": _frame(s, _of_analyses(few := {name: _ANALYSIS[name] for name in short}), few),
        "training": _frame(
            s, _select(few := {name: _TRAINING[name] for name in short}).join(Training.model), few
        ),
        "comparison": comparisons(s)[list(short)],
    }
    parts = [
        frame.assign(kind=pd.Series([kind] * len(frame), frame.index, object))
        for kind, frame in frames.items()
    ]
    return _newest_first(pd.concat(parts, ignore_index=True))


def _newest_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["submitted_at", "id"], ascending=False, kind="stable", ignore_index=True)


def runs(
    s: Session, only: Mapping[str, Sequence[int]] | None = None, states: Sequence[State] | None = None
) -> pd.DataFrame:
    """All work, the newest first; or that with these ids by kind, or in these states.

    Columns of all kinds: kind ("analysis", "training", "comparison"), id (within its kind), model, state,
    stage, progress (in [0, 1]), remaining_low and remaining_high (seconds that it will go on, as of the last
    sign of life; NaN unless it runs and something tells), late (it takes longer than expected, so nothing
    does), message, submitted_by, submitted_at, started_at, heartbeat_at, finished_at, attempts, worker,
    cancel_requested, priority,
    expected_seconds and expected_spread (that it will take, and the factor by which it may take longer or
    shorter, as known before it began; NaN where unknown), progress_at (when ``progress`` last grew).

    Of an analysis: architecture, step, split, curvature, subset (the patterns of the chosen parameters, ""
    for all), parameters (D), method, k, samples (N), sampling (which samples these are, as the setting
    ``subset`` says), seed, data, imported (the file of a result that was computed elsewhere, else None),
    hvps (NaN before the first). Of a training: architecture, problem, steps,
    steps_done (<NA> before the first), seed, analyses (how many are wanted of each checkpoint). Of a
    comparison: analyses and pairs (counts); its model is all that its analyses are of.
    """
    analyses = _of_analyses(_ANALYSIS)
    if only is not None:
        analyses = analyses.where(Analysis.id.in_(only.get("analysis", ())))
    if states is not None:
        analyses = analyses.where(Analysis.state.in_(states))
    frames = {
        "analysis": _frame(s, analyses, _ANALYSIS),
        "training": trainings(s),
        "comparison": comparisons(s),
    }
    for kind in ("training", "comparison"):
        if only is not None:
            frames[kind] = frames[kind][frames[kind]["id"].isin(list(only.get(kind, ())))]
        if states is not None:
            frames[kind] = frames[kind][frames[kind]["state"].isin(list(states))]
    parts = [_as_runs(kind, frame) for kind, frame in frames.items()]
    return _newest_first(pd.concat(parts, ignore_index=True))


def _as_runs(kind: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Work of one kind with the columns of all kinds."""
    known = frame.assign(kind=kind, **_remaining(frame, even=kind != "analysis"))
    nothing = [None] * len(frame)
    return pd.DataFrame(
        {
            name: known[name].astype(dtype) if name in known else pd.Series(nothing, frame.index, dtype)
            for name, dtype in _RUN.items()
        }
    )


def trainings(s: Session) -> pd.DataFrame:
    """All trainings, the newest first.

    Columns: id, model, architecture, problem, steps, steps_done (<NA> before the first), seed, those of
    ``runs`` from state on, model_id, record (the steps to record, a list), recorded (how many of them are
    checkpoints of the model by now) and analyses (how many are wanted of each).
    """
    statement = (
        _select(_TRAINING).join(Training.model).order_by(Training.submitted_at.desc(), Training.id.desc())
    )
    frame = _frame(s, statement, _TRAINING)
    steps: dict[int, set[int]] = {}
    checkpoints = select(Checkpoint.model_id, Checkpoint.step).where(
        Checkpoint.model_id.in_(select(Training.model_id))
    )
    for model_id, step in s.execute(checkpoints):
        steps.setdefault(model_id, set()).add(step)
    record = [settings["record"] for settings in frame.pop("settings")]
    recorded = [len(steps.get(i, set()) & set(r)) for i, r in zip(frame["model_id"], record, strict=True)]
    return frame.assign(
        record=pd.Series(record, dtype=object),
        recorded=pd.Series(recorded, dtype=int),
        analyses=pd.Series([len(each) for each in frame["analyses"]], dtype=int),
    )


def comparisons(s: Session) -> pd.DataFrame:
    """All comparisons, the newest first.

    Columns: id, analysis_ids and ks (lists), those of ``runs`` from state on, model (the names of all models
    that the analyses are of), analyses (count) and pairs (count of two different ones).
    """
    statement = _select(_COMPARISON).order_by(Comparison.submitted_at.desc(), Comparison.id.desc())
    frame = _frame(s, statement, _COMPARISON)
    ids = list(frame["analysis_ids"])
    wanted = {number for each in ids for number in each}
    names: dict[int, str] = dict(
        s.execute(
            select(Analysis.id, Model.name)
            .join(Analysis.checkpoint)
            .join(Checkpoint.model)
            .where(Analysis.id.in_(wanted))
        ).all()
    )
    models = [", ".join(sorted({names[n] for n in each if n in names})) for each in ids]
    counts = pd.Series([len(each) for each in ids], dtype=int)
    return frame.assign(
        model=pd.Series(models, dtype=object),
        analyses=counts,
        pairs=counts * (counts - 1) // 2,
    )


def workers(s: Session) -> pd.DataFrame:
    """The workers by name, those that died within the last hour too.

    Columns: name (as in the column ``worker`` of ``runs``), host, pid, device ("cpu" or "cuda"), device_name,
    memory (bytes of the device), torch (its version), threads, concurrency, queues (text), started_at,
    heartbeat_at, alive (heard of lately), work (what it runs now, such as "analysis 7"; "" if nothing).
    """
    types = {
        "name": object,
        "host": object,
        "pid": int,
        "device": object,
        "device_name": object,
        "memory": int,
        "torch": object,
        "threads": int,
        "concurrency": int,
        "queues": object,
        "started_at": _TIME,
        "heartbeat_at": _TIME,
    }
    columns = _of(Worker, types) | {"alive": (bool, is_alive(s))}
    frame = _frame(s, _select(columns).order_by(Worker.name), columns)
    running: dict[str | None, list[str]] = {}
    for name, kind in WORK.items():
        for worker, number in s.execute(
            select(kind.worker, kind.id).where(kind.state == State.running).order_by(kind.id)
        ):
            running.setdefault(worker, []).append(f"{name} {number}")
    return frame.assign(
        queues=pd.Series([", ".join(each) for each in frame["queues"]], frame.index, object),
        work=pd.Series([", ".join(running.get(name, [])) for name in frame["name"]], frame.index, object),
    )


_OF_REMAINING = ("started_at", "progress_at", "heartbeat_at", "expected_seconds", "expected_spread")


def _remaining(frame: pd.DataFrame, *, even: bool) -> dict[str, pd.Series[Any]]:
    """The columns that say how long work will go on; ``even`` as for ``remaining``."""
    found: list[Remaining | None] = [None] * len(frame)
    for place in np.flatnonzero((frame["state"] == State.running).to_numpy()):
        row = frame.iloc[int(place)]
        known = {name: None if pd.isna(row[name]) else row[name] for name in _OF_REMAINING}
        found[place] = remaining(
            progress=float(row["progress"]),
            started_at=known["started_at"],
            progress_at=known["progress_at"],
            heartbeat_at=known["heartbeat_at"],
            seconds=known["expected_seconds"],
            spread=known["expected_spread"],
            even=even,
        )
    return {
        "remaining_low": pd.Series([each.low if each else None for each in found], frame.index, float),
        "remaining_high": pd.Series([each.high if each else None for each in found], frame.index, float),
        "late": pd.Series([bool(each and each.late) for each in found], frame.index, bool),
    }


@dataclass(frozen=True)
class AnalysisDetail:
    """One analysis with everything about it that is not a curve.

    The fields up to ``progress_at`` are an analysis's columns of ``runs``; what is NaN there
    is None here. ``seconds`` adds up the stages.
    """

    id: int
    model: str
    architecture: str
    step: int
    split: str
    curvature: str
    subset: str
    parameters: int
    method: str
    k: int
    samples: int
    sampling: str
    seed: int
    data: str
    imported: str | None
    state: str
    stage: str | None
    progress: float
    remaining_low: float | None
    remaining_high: float | None
    late: bool
    message: str | None
    submitted_by: str
    submitted_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    attempts: int
    hvps: int | None
    worker: str | None
    cancel_requested: bool
    priority: str
    expected_seconds: float | None
    expected_spread: float | None
    progress_at: datetime | None

    checkpoint_sha256: str
    filename: str
    metrics: dict[str, float]  # those of train/test loss/accuracy that the checkpoint recorded
    settings: dict[str, Any]
    environment: dict[str, Any]
    record: dict[str, Any]
    data_sha256: str | None
    stages: pd.DataFrame  # stage, seconds, hvps
    seconds: float
    resolved_k: int | None  # up to there every overlap is known to 1 %; None where errors are not
    eigenvectors: str | None  # key in the artefact store; None unless finished
    pinned: bool  # its eigenvectors are kept for good


def analysis(s: Session, analysis_id: int) -> AnalysisDetail | None:
    """One analysis, or None if there is none of this id."""
    frame = _frame(s, _of_analyses(_ANALYSIS).where(Analysis.id == analysis_id), _ANALYSIS)
    row = s.get(Analysis, analysis_id)
    if row is None or frame.empty:
        return None
    left = {name: column.iloc[0] for name, column in _remaining(frame, even=False).items()}
    elsewhere = ("model", "architecture", "step", "subset", "sampling", "data")
    run = {name: getattr(row, name) for name in _ANALYSIS if name not in elsewhere}
    checkpoint = row.checkpoint
    recorded = {
        name: getattr(checkpoint, name)
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    }
    timings = stages(s, analysis_id)
    return AnalysisDetail(
        **(run | {"state": row.state.value}),
        model=checkpoint.model.name,
        architecture=checkpoint.model.architecture,
        step=checkpoint.step,
        subset=frame["subset"].iloc[0],
        sampling=frame["sampling"].iloc[0],
        data=frame["data"].iloc[0],
        remaining_low=None if np.isnan(left["remaining_low"]) else float(left["remaining_low"]),
        remaining_high=None if np.isnan(left["remaining_high"]) else float(left["remaining_high"]),
        late=bool(left["late"]),
        checkpoint_sha256=checkpoint.sha256,
        filename=checkpoint.filename,
        metrics={name: value for name, value in recorded.items() if value is not None},
        settings=row.settings,
        environment=row.environment.details if row.environment else {},
        record=row.record or {},
        data_sha256=row.data_sha256,
        stages=timings,
        seconds=float(timings["seconds"].sum()),
        resolved_k=row.resolved_k,
        eigenvectors=row.eigenvectors if row.state is State.finished else None,
        pinned=row.pinned,
    )


def stages(s: Session, analysis_id: int) -> pd.DataFrame:
    """Return the stages of an analysis in order: stage, seconds, hvps."""
    columns = _of(StageTiming, STAGES.types)
    statement = _select(columns).where(StageTiming.analysis_id == analysis_id).order_by(StageTiming.position)
    return _frame(s, statement, columns)


def timings(s: Session, architecture: str, subset: Sequence[str] = ()) -> pd.DataFrame:
    """How long finished analyses of an architecture took: analysis_id, samples, k, method, curvature,
    precision, device (as in the environment, ``cpu (x86_64)``), hvps, seconds (of all stages).

    Left out are those that were computed elsewhere, interrupted or shared by several workers, whose times are
    not of one piece, and those of other parameters than ``subset`` names (none: all).
    """
    columns: _Columns = {
        **_known_columns("analysis_id", "samples", "k", "method", "curvature"),
        "precision": (object, Analysis.settings["precision"]),
        "device": (object, Environment.details["device"]),
        "hvps": (int, Analysis.hvps),
        "seconds": (float, SECONDS.scalar_subquery()),
        "shared": (object, Analysis.record["shared"]),
        "patterns": (object, Analysis.settings["parameters"]),
    }
    statement = (
        _select(columns)
        .join(Analysis.environment)
        .where(
            Analysis.imported.is_(None),
            Analysis.state == State.finished,
            Analysis.attempts == 1,
            Analysis.hvps > 0,
            Analysis.settings["architecture"].as_string() == architecture,
        )
        .order_by(Analysis.id)
    )
    found = _frame(s, statement, columns)
    alone = [
        not shared and list(patterns or ()) == list(subset)
        for shared, patterns in zip(found.pop("shared"), found.pop("patterns"), strict=True)
    ]
    return found[pd.Series(alone, found.index, bool)].dropna(subset="seconds")


def seconds_per_step(s: Session, problem: str) -> float | None:
    """Return seconds per step of the last uninterrupted training of a problem; None if there is none."""
    statement = (
        select(Training.started_at, Training.finished_at, Training.steps)
        .where(
            Training.problem == problem,
            Training.state == State.finished,
            Training.attempts == 1,
            Training.steps > 0,
            Training.started_at.is_not(None),
            Training.finished_at.is_not(None),
        )
        .order_by(Training.id.desc())
        .limit(1)
    )
    for begun, ended, steps in s.execute(statement):
        if begun is not None and ended is not None:
            return max(0.0, float((ended - begun).total_seconds())) / steps
    return None


def versions(s: Session) -> dict[int, str]:
    """Return the version of the code behind each finished analysis, in words, by id; "" where unknown."""
    rows = s.execute(
        select(Analysis.id, Environment.details)
        .join(Analysis.environment)
        .where(Analysis.state == State.finished)
    )
    return {number: version.in_words(details) for number, details in rows}


# --- Results ----------------------------------------------------------------------------------------------


def spectrum(s: Session, analysis_id: int) -> pd.DataFrame:
    """Eigenvalues by descending |λ|: position (from 1), value, magnitude (|λ|), sign ("positive" or
    "negative"), residual (‖Hv − λv‖₂), and scree_lower and scree_upper, between which the share of ‖H‖²_F
    lies that a matrix of this rank misses, with 95 % probability at all ranks together. The last three are
    NaN where unknown."""
    columns = _of(Eigenvalue, SPECTRUM.types)
    statement = _select(columns).where(Eigenvalue.analysis_id == analysis_id).order_by(Eigenvalue.position)
    frame = _frame(s, statement, columns)
    frame.insert(2, "magnitude", frame["value"].abs())
    signs = np.where(frame["value"] < 0, "negative", "positive")
    frame.insert(3, "sign", pd.Series(signs, index=frame.index, dtype=object))
    return frame


_chance = cast(OverlapPoint.k, Double) / Analysis.parameters

_POINT: _Columns = {
    **_known_columns("analysis_id", "model", "step", "split", "curvature", "method", "seed", "samples"),
    **_of(OverlapPoint, {"mask": object, "k": int}),
    **_of(OverlapPoint, dict.fromkeys(("overlap", "std"), float)),
    "std_error": (float, case((OverlapPoint.mask == Mask.random, OverlapPoint.error))),
    "error": (float, case((OverlapPoint.mask != Mask.random, OverlapPoint.error))),
    **_of(OverlapPoint, dict.fromkeys(("least", "greatest", "tied"), float)),
    "chance": (float, _chance),
    "ratio": (float, OverlapPoint.overlap / _chance),
}


def _points(columns: _Columns) -> Select[Any]:
    """The points of ``_POINT`` and more, of finished analyses, in a readable order."""
    return _results(columns, OverlapPoint).order_by(OverlapPoint.mask, OverlapPoint.k)


def overlap_curves(
    s: Session, ids: Sequence[int], masks: Sequence[str] = MASKS, most: int | None = None
) -> pd.DataFrame:
    """Overlap as a function of k for these analyses, one row per analysis, mask and k.

    Columns: analysis_id, model, step, split, curvature, method, seed, samples, mask ("magnitude", "random",
    "best"), k, overlap, std (of the overlap over random masks, else NaN), std_error (how far that may be from
    its value for the true eigenspace), error (how far the overlap of the magnitude or the best mask may be
    from the true one), least and greatest (of the magnitude mask over all choices among equal magnitudes, of
    which ``overlap`` is the mean), tied (how many equal magnitudes compete for places in the mask, 0 if none
    do), chance (k/D), ratio (overlap / chance). What is unknown, or of another mask, is NaN.

    With ``most``, only so many values of k evenly spaced, as many spaced as on a log axis, and the largest of
    every analysis: what a screen resolves of hundreds of long curves.
    """
    statement = _points(_POINT).where(Analysis.id.in_(ids), OverlapPoint.mask.in_(_masks(masks)))
    if most is not None:
        statement = statement.where(OverlapPoint.k.in_(_spaced(s, ids, most)))
    return _frame(s, statement, _POINT)


def _spaced(s: Session, ids: Sequence[int], most: int) -> list[int]:
    """Whole numbers from 1 to the largest k of these analyses, as ``overlap_curves`` says."""
    largest = s.scalars(select(Analysis.k).where(Analysis.id.in_(ids)).distinct()).all()
    last = max(largest, default=1)
    spaced = [np.rint(space(1, last, most)) for space in (np.linspace, np.geomspace)]
    return sorted({int(k) for k in np.concatenate([*spaced, largest])})


def overlap_by_step(
    s: Session,
    k: int | None = None,
    *,
    rho: float | None = None,
    ids: Sequence[int] | None = None,
    masks: Sequence[str] = (Mask.magnitude,),
) -> pd.DataFrame:
    """Overlap at one k, or at one sparsity ρ = k/D, over the training steps, of the finished analyses that
    reach it.

    The columns of ``overlap_curves``, and parameters (D), test_accuracy (in [0, 1], NaN where unknown) and
    lambda_max (the eigenvalue of largest magnitude). At a sparsity, k is ρ·D to the nearest whole number, at
    least 1. None for ``ids`` lets everything pass.
    """
    if (k is None) == (rho is None):
        raise ValueError("either k or rho is needed")
    largest = aliased(Eigenvalue)
    columns = _POINT | _known_columns("parameters", "test_accuracy") | {"lambda_max": (float, largest.value)}
    statement = (
        _points(columns)
        .join(largest, (largest.analysis_id == Analysis.id) & (largest.position == 1))
        .where(OverlapPoint.mask.in_(_masks(masks)))
    )
    if rho is None:
        statement = statement.where(OverlapPoint.k == k)
    else:
        pairs = [(size, at_sparsity(rho, size)) for size in s.scalars(select(Analysis.parameters).distinct())]
        statement = statement.where(tuple_(Analysis.parameters, OverlapPoint.k).in_(pairs))
    if ids is not None:
        statement = statement.where(Analysis.id.in_(ids))
    return _frame(s, statement, columns)


def at_sparsity(rho: float, parameters: int) -> int:
    """The k of a sparsity ρ = k/D: ρ·D to the nearest whole number, at least 1."""
    return max(1, round(rho * parameters))


def eigenvalues(s: Session, ids: Sequence[int], most: int | None = None) -> pd.DataFrame:
    """Eigenvalues of many finished analyses: analysis_id, model, step, split, position (from 1, by descending
    |λ|), value, magnitude (|λ|), residual (‖Hv − λv‖₂, NaN where unknown).

    With ``most``, only so many positions are given, chosen as ``overlap_curves`` chooses values of k.
    """
    columns: _Columns = {
        **_known_columns("analysis_id", "model", "step", "split"),
        "position": (int, Eigenvalue.position),
        "value": (float, Eigenvalue.value),
        "magnitude": (float, func.abs(Eigenvalue.value)),
        "residual": (float, Eigenvalue.residual),
    }
    statement = _results(columns, Eigenvalue).where(Analysis.id.in_(ids)).order_by(Eigenvalue.position)
    if most is not None:
        statement = statement.where(Eigenvalue.position.in_(_spaced(s, ids, most)))
    return _frame(s, statement, columns)


def recorded_metrics(s: Session, names: Sequence[str]) -> pd.DataFrame:
    """Loss and accuracy that the checkpoints of these models recorded: model, step, split, metric ("loss" or
    "accuracy"), value; what was not recorded has no row."""
    kinds = [(split, metric) for metric in ("accuracy", "loss") for split in ("test", "train")]
    statement = (
        select(
            Model.name,
            Checkpoint.step,
            *(getattr(Checkpoint, f"{split}_{metric}") for split, metric in kinds),
        )
        .join(Checkpoint.model)
        .where(Model.name.in_(names))
        .order_by(Model.name, Checkpoint.step)
    )
    rows = [
        (model, step, *kind, value)
        for model, step, *values in s.execute(statement)
        for kind, value in zip(kinds, values, strict=True)
        if value is not None
    ]
    frame = pd.DataFrame(rows, columns=["model", "step", "split", "metric", "value"])
    return frame.astype({"model": object, "step": int, "split": object, "metric": object, "value": float})


def latest_results(s: Session, number: int) -> pd.DataFrame:
    """The analyses that finished last, newest first: analysis_id, model_id, model, step, split, curvature,
    parameters (D), k, samples, sampling (as in ``runs``), data, finished_at, resolved_k (NaN: unknown),
    lambda_max, and of the magnitude mask at k: overlap, error (NaN: unknown), ratio (to chance)."""
    largest = aliased(Eigenvalue)
    chance = cast(Analysis.k, Double) / Analysis.parameters
    columns: _Columns = {
        **_known_columns("analysis_id", "model_id", "model", "step", "split", "curvature", "parameters", "k"),
        **_known_columns("samples", "sampling", "data", "finished_at", "resolved_k"),
        "lambda_max": (float, largest.value),
        "overlap": (float, OverlapPoint.overlap),
        "error": (float, OverlapPoint.error),
        "ratio": (float, OverlapPoint.overlap / chance),
    }
    statement = (
        _of_analyses(columns)
        .join(largest, (largest.analysis_id == Analysis.id) & (largest.position == 1))
        .join(
            OverlapPoint,
            (OverlapPoint.analysis_id == Analysis.id)
            & (OverlapPoint.mask == Mask.magnitude)
            & (OverlapPoint.k == Analysis.k),
        )
        .where(Analysis.state == State.finished)
        .order_by(Analysis.finished_at.desc(), Analysis.id.desc())
        .limit(number)
    )
    return _frame(s, statement, columns)


def comparable(s: Session) -> pd.DataFrame:
    """The finished analyses, by model, step and split: analysis_id, model_id, model, architecture, archived
    (whether the model is put away), step, split, curvature, subset (as in ``runs``), loss (with what else
    decides it, if anything), parameters (D), method, k, samples, sampling (as in ``runs``; of given indices,
    with the start of the hash of their content), seed, data, imported (as in ``runs``), resolved_k (NaN:
    unknown)."""
    columns: _Columns = {
        **_known_columns("analysis_id", "model_id", "model", "architecture", "step", "split", "curvature"),
        **_known_columns("subset"),
        "archived": (bool, Model.archived),
        **{name: (object, Analysis.settings[name]) for name in _LOSS},
        **_known_columns("parameters", "method", "k", "samples", "sampling", "data_sha256", "seed", "data"),
        **_known_columns("imported", "resolved_k"),
    }
    statement = (
        _of_analyses(columns)
        .where(Analysis.state == State.finished)
        .order_by(Model.name, Checkpoint.step, Analysis.split, Analysis.id)
    )
    frame = _frame(s, statement, columns)
    parts = zip(*[frame["loss"], *(frame.pop(name) for name in _LOSS[1:])], strict=True)
    hashes = frame.pop("data_sha256").fillna("").str.slice(0, 8)
    return frame.assign(
        loss=pd.Series([_loss(*each) for each in parts], frame.index, object),
        sampling=frame["sampling"].where(frame["sampling"] != "indices", "indices " + hashes),
    )


# The settings that decide the loss.
_LOSS = ("loss", "label_smoothing", "class_weights", "ignore_index", "weight_decay", "penalty")


# Characters of class weights that are told.
_LONG = 40


def _loss(
    name: str | None,
    smoothing: float | None,
    weights: str | None,
    ignored: int | None,
    decay: float | None,
    penalty: list[str] | None,
) -> str:
    """A loss in words; settings from before there was a choice have none of them."""
    parts = [name or "cross-entropy"]
    parts += [f"label smoothing {smoothing:g}"] if smoothing else []
    parts += [f"class weights {_short(weights)}"] if weights else []
    parts += [f"label {ignored:.0f} ignored"] if ignored is not None and ignored == ignored else []
    parts += [f"weight decay {decay:g}"] if decay else []
    parts += [f"weight decay of {' and '.join(penalty)}"] if penalty else []
    return ", ".join(parts)


def _short(weights: str) -> str:
    """Weights as a text that no others have: of many the first ones, and the start of the hash of all."""
    if len(weights) <= _LONG:
        return weights
    return f"{weights[:_LONG]} … ({hashlib.sha256(weights.encode()).hexdigest()[:8]})"


# --- Where an overlap lies, and pairs ---------------------------------------------------------------------


def layer_shares(s: Session, analysis_id: int) -> pd.DataFrame:
    """Return each parameter tensor's share in V_k, mask and overlap, at some k (the last is the largest).

    Columns: k, position (from 0, in the model's order), name, parameters, and the shares eigenspace, mask and
    overlap (NaN where there is none at all), which sum to 1 at every k. No rows: the analysis is older than
    these numbers, and has to be deleted and run again to have them.
    """
    return _structure(s, LayerShare, analysis_id, LAYERS.types, LayerShare.position)


def magnitude_bins(s: Session, analysis_id: int) -> pd.DataFrame:
    """The mass ‖row of V_k‖² / k of coordinates of about the same |θ|, at some k; its mean of all is 1/D.

    Columns: k, position (from 0, that of the largest |θ|), count (of coordinates), largest and smallest
    (|θ|), and mean, low, median and high (10 %, 50 % and 90 % quantiles) of the mass. No rows: as in
    ``layer_shares``.
    """
    return _structure(s, MagnitudeBin, analysis_id, MAGNITUDES.types, MagnitudeBin.position)


def _structure(
    s: Session, table: Any, analysis_id: int, types: Mapping[str, Any], within: Any
) -> pd.DataFrame:
    columns = _of(table, types)
    statement = _select(columns).where(table.analysis_id == analysis_id).order_by(table.k, within)
    return _frame(s, statement, columns)


_METRIC: _Columns = _of(SubspaceMetric, METRICS.types)

# Which analysis a row of the tables below is of.
_WHICH: _Columns = _known_columns(
    "analysis_id", "model", "step", "split", "curvature", "method", "seed", "parameters"
)
_CURVE: _Columns = _WHICH | {
    "curve": (object, FurtherCurve.name),
    "title": (object, FurtherCurve.title),
    "note": (object, FurtherCurve.note),
}


def curves(s: Session, ids: Sequence[int], names: Sequence[str] | None = None) -> pd.DataFrame:
    """The further curves of these finished analyses, or those of these names; one row per analysis, curve, k.

    Columns: analysis_id, model, step, split, curvature, method, seed, parameters (D), curve (its name), title
    (of its axis), note (how to read it), k, value, error (how far it may be from that of the true
    eigenspace), chance (of an eigenspace unrelated to the parameters), and lower and upper (between what it
    lies); NaN where unknown.
    """
    frames = []
    statement = _curve_statement(ids, names, FurtherCurve.points, FurtherCurve.ends)
    for row in s.execute(statement).mappings():
        numbers = unpacked_curve(row["points"], row["ends"])
        ks = np.arange(1, len(numbers["value"]) + 1)
        frames.append(pd.DataFrame({name: row[name] for name in _CURVE} | {"k": ks} | numbers))
    if not frames:
        return pd.DataFrame(columns=[*_CURVE, "k", *PARTS, *ENDS])
    return pd.concat(frames, ignore_index=True)


def curves_at(s: Session, ids: Sequence[int], name: str, k: int) -> pd.DataFrame:
    """One further curve of these finished analyses at one k, of those that have it; columns as ``curves``."""
    statement = _curve_statement(ids, [name], at(FurtherCurve.points, k), at(FurtherCurve.ends, k, ENDS))
    rows = [row for row in s.execute(statement).mappings() if row["points"]]  # the others end before k
    frame = pd.DataFrame([[row[name] for name in _CURVE] for row in rows], columns=list(_CURVE))
    numbers = [unpacked_curve(row["points"], row["ends"]) for row in rows]
    return frame.assign(k=k, **{part: [float(each[part][0]) for each in numbers] for part in PARTS + ENDS})


def curve_names(s: Session, ids: Sequence[int]) -> dict[str, str]:
    """Title by name of the further curves that some of these analyses have, in the order of their names."""
    statement = select(FurtherCurve.name, FurtherCurve.title).where(FurtherCurve.analysis_id.in_(ids))
    return {row.name: row.title for row in s.execute(statement.distinct().order_by(FurtherCurve.name))}


def _curve_statement(ids: Sequence[int], names: Sequence[str] | None, points: Any, ends: Any) -> Select[Any]:
    columns = _CURVE | {"points": (object, points), "ends": (object, ends)}
    statement = _results(columns, FurtherCurve).where(Analysis.id.in_(ids)).order_by(FurtherCurve.name)
    return statement if names is None else statement.where(FurtherCurve.name.in_(names))


def masks(s: Session, ids: Sequence[int]) -> pd.DataFrame:
    """The masks of these finished analyses, of those that were asked for further ones, by analysis and k.

    Columns: analysis_id, mask (its name), k, coordinate (the weight, counted in θ from 0, that the mask of
    size k has and that of size k − 1 has not), tied (how many coordinates of equal score compete at k) and
    open (how many of the k coordinates may be others, as scores tie or are estimated).
    """
    frames = [
        pd.DataFrame(
            {
                "analysis_id": number,
                "mask": name,
                "k": np.arange(1, len(each.coordinates) + 1),
                "coordinate": each.coordinates,
                "tied": each.tied,
                "open": each.open,
            }
        )
        for number, masks in stored_masks(s, ids).items()
        for name, each in masks.items()
    ]
    columns = ["analysis_id", "mask", "k", "coordinate", "tied", "open"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def mask_names(s: Session, ids: Sequence[int]) -> list[str]:
    """Names of the masks that some of these analyses have, that of the largest |θ| first."""
    return names_of_masks(stored_masks(s, ids))


def names_of_masks(stored: Mapping[int, Mapping[str, StoredMask]]) -> list[str]:
    """The same of ``stored_masks``."""
    found = {name for masks in stored.values() for name in masks}
    return sorted(found, key=lambda name: (name != Mask.magnitude, name))


def mask_iou(
    s: Session,
    beside: Mapping[tuple[str, str], Mapping[int, int]],
    masks: Mapping[int, Mapping[str, StoredMask]] | None = None,
    k_of: Callable[[int], int] | None = None,
) -> dict[tuple[str, str], pd.DataFrame]:
    """Intersection over union of pairs of masks of finished analyses, for every k or at one.

    Args:
        s: A reading session.
        beside: By the names of both masks, and the id of the analysis whose mask is the first: the id of the
            one whose mask is the second. That is the same analysis, or another one of the same parameters,
            such as one of the step before.
        masks: ``stored_masks`` of all these; None: they are read.
        k_of: The one size that is wanted, of a model of so many parameters; None: every size.

    Returns:
        A table for each pair of names, of the analyses that have the first mask where the other one has the
        second and the same D. Columns as ``curves``: ``error`` is how far the IoU may be off as scores tie or
        are estimated, ``chance`` its mean over two random masks.
    """
    ids = {number for pairs in beside.values() for pair in pairs.items() for number in pair}
    known = stored_masks(s, ids) if masks is None else masks
    statement = (
        _of_analyses(_WHICH)
        .where(Analysis.state == State.finished, Analysis.id.in_(ids))
        .order_by(Model.name, Checkpoint.step, Analysis.split, Analysis.id)
    )
    rows = {row["analysis_id"]: row for row in s.execute(statement).mappings()}
    sizes = {number: row["parameters"] for number, row in rows.items()}
    found = {}
    for (first, second), others in beside.items():
        frames = []
        for number in (each for each in rows if each in others):
            other = others[number]
            one, another = (
                known.get(each, {}).get(name) for each, name in ((number, first), (other, second))
            )
            if one is None or another is None or sizes[number] != sizes[other]:
                continue
            if k_of is None:
                value, error, chance = iou(one, another, sizes[number])
                ks = np.arange(1, len(value) + 1)
            else:
                ks = np.array([k_of(sizes[number])])
                at_k = iou_at(one, another, int(ks[0]), sizes[number])
                if at_k is None:
                    continue
                value, error = (np.array([each]) for each in at_k)
                chance = np.array([chance_iou(int(ks[0]), sizes[number])])
            words = {
                "curve": f"iou-{first}-{second}",
                "title": f"IoU of the masks {mask_called(first)} and {mask_called(second)}",
                "note": "the share of the weights in either mask that are in both. At chance, the masks know "
                "nothing of each other.",
            }
            numbers = {"k": ks, "value": value, "error": error, "chance": chance}
            numbers |= {"lower": np.maximum(value - error, 0), "upper": np.minimum(value + error, 1)}
            frames.append(pd.DataFrame({name: rows[number][name] for name in _WHICH} | words | numbers))
        found[first, second] = (
            pd.concat(frames, ignore_index=True)
            if frames
            else pd.DataFrame(columns=[*_CURVE, "k", *PARTS, *ENDS])
        )
    return found


def stored_masks(s: Session, ids: Collection[int]) -> dict[int, dict[str, StoredMask]]:
    """The masks of each of these finished analyses by name, without the rest of their records."""
    statement = select(Analysis.id, Analysis.record["masks"]).where(
        Analysis.state == State.finished, Analysis.id.in_(ids)
    )
    return {number: of_record({"masks": told or {}}) for number, told in s.execute(statement).tuples()}


# What is said of a profile or quantity, in columns of these names.
_SAID = {"title": "title", "note": "note", "unit": "unit", "x_title": "x", "line_title": "line"}
_SAID |= {"reference_title": "reference", "log": "log"}
_OBSERVATION: _Columns = _WHICH | {
    "observable": (object, Observation.name),
    "words": (object, Observation.words),
    "points": (object, Observation.points),
}


def profiles(s: Session, ids: Sequence[int], names: Sequence[str] | None = None) -> pd.DataFrame:
    """The profiles of these finished analyses, or those of these names; one row per analysis, profile, point.

    Columns: analysis_id, model, step, split, curvature, method, seed, parameters (D), observable (its name),
    title (of its axis), note (how to read it), unit, x_title, line_title and reference_title (what x, the
    number of a line and the reference are), log (whether values are drawn on a logarithmic axis), and line,
    x, value, lower, upper and reference, NaN where unknown; and name, that of the parameter tensor whose
    number x is, empty where x is another thing.
    """
    found = _observations(s, ids, "profile", names)
    by_tensor = (found["x_title"] == "tensor") | (found["line_title"] == "tensor")
    if not by_tensor.any():
        return found.assign(name="")
    number = found["x"].where(found["x_title"] == "tensor", found["line"]).where(by_tensor, 1)
    told = select(LayerShare.analysis_id, LayerShare.position, LayerShare.name).distinct()
    rows = s.execute(
        told.where(LayerShare.analysis_id.in_(found.loc[by_tensor, "analysis_id"].unique().tolist()))
    )
    called = {(row.analysis_id, row.position): row.name for row in rows}
    keys = zip(found["analysis_id"], number.astype(int) - 1, by_tensor, strict=True)
    return found.assign(name=[called.get((a, x), str(x + 1)) if tensor else "" for a, x, tensor in keys])


def quantities(s: Session, ids: Sequence[int], names: Sequence[str] | None = None) -> pd.DataFrame:
    """The quantities of these finished analyses, or those of these names; one row per analysis and quantity.

    Columns as ``profiles``, without line and x.
    """
    found = _observations(s, ids, "quantity", names)
    return found.drop(columns=["x", "line", "x_title", "line_title", "log"])


_ONCE = (
    "It was measured once, on the machine that did it; the same work may take longer beside other work, and "
    "analyses that were interrupted or shared by several workers have none."
)

# What an analysis cost, by name: what it is, its unit, and how to read it.
RUNTIMES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "seconds": ("time of an analysis", "s", "the seconds of all its stages together. " + _ONCE),
        "seconds-eigenpairs": (
            "time of the eigenpairs",
            "s",
            "the seconds of the stage that finds the eigenpairs, without residuals, masks and observables. "
            + _ONCE,
        ),
        "products": (
            "Hessian-vector products",
            "",
            "how many an analysis made in all, those of its error estimate and its observables with them: "
            "its cost on any machine.",
        ),
    }
)


def runtimes(s: Session, ids: Sequence[int], name: str) -> pd.DataFrame:
    """One of ``RUNTIMES`` of these finished analyses, of those that have it; columns as ``quantities``.

    It is measured, so both ends of its interval are the value. Analyses that were interrupted or shared by
    several workers have no seconds, as theirs are not of one piece.
    """
    title, unit, note = RUNTIMES[name]
    seconds = SECONDS
    if name == "seconds-eigenpairs":
        seconds = seconds.where(StageTiming.stage == "eigenpairs")
    columns = _WHICH | {
        "value": (float, Analysis.hvps if name == "products" else seconds.scalar_subquery()),
        "attempts": (int, Analysis.attempts),
        "shared": (object, Analysis.record["shared"]),
    }
    statement = _of_analyses(columns).where(Analysis.state == State.finished, Analysis.id.in_(ids))
    found = _frame(s, statement.order_by(Model.name, Checkpoint.step, Analysis.split, Analysis.id), columns)
    alone = (found.pop("attempts") <= 1) & ~found.pop("shared").map(bool).astype(bool)
    found = found[(alone | (name == "products")) & found["value"].notna()].reset_index(drop=True)
    words = {"title": title, "note": note, "unit": unit, "reference_title": ""}
    return found.assign(
        observable=name, **words, lower=found["value"], upper=found["value"], reference=np.nan
    )


def _observations(s: Session, ids: Sequence[int], kind: str, names: Sequence[str] | None) -> pd.DataFrame:
    statement = _results(_OBSERVATION, Observation).where(Analysis.id.in_(ids), Observation.kind == kind)
    statement = statement.order_by(Observation.name)
    if names is not None:
        statement = statement.where(Observation.name.in_(names))
    which = [*_WHICH, "observable"]
    frames = [
        pd.DataFrame(
            {name: row[name] for name in which}
            | {column: row["words"].get(word, "") for column, word in _SAID.items()}
            | unpack(row["points"], POINTS)
        )
        for row in s.execute(statement).mappings()
    ]
    if not frames:
        return pd.DataFrame(columns=[*which, *_SAID, *POINTS])
    return pd.concat(frames, ignore_index=True)


def with_observable(s: Session, ids: Sequence[int], name: str) -> list[int]:
    """Those of these analyses that have a curve, profile or quantity of this name."""
    found: list[int] = []
    for table in (FurtherCurve, Observation):
        statement = select(table.analysis_id).where(table.analysis_id.in_(ids), table.name == name)
        found += s.scalars(statement)
    return sorted(found)


def observation_names(s: Session, ids: Sequence[int], kind: str) -> dict[str, str]:
    """Title by name of the profiles or quantities of these analyses, in the order of their names."""
    statement = select(Observation.name, Observation.title)
    statement = statement.where(Observation.analysis_id.in_(ids), Observation.kind == kind)
    return {row.name: row.title for row in s.execute(statement.distinct().order_by(Observation.name))}


def subspace_metrics(s: Session, ids: Sequence[int]) -> pd.DataFrame:
    """Every Grassmannian metric between mask and eigenspace of these finished analyses, at some k.

    Columns: analysis_id, model, step, split, curvature, method, seed, parameters (D), k, metric, value, error
    (how far it may be from that of the true eigenspace; NaN where unknown), random_mean and random_std (over
    random subspaces), and of the likeness in [0, 1] (1 for equal subspaces, 0 for orthogonal ones, as the
    paper plots it): normalised, normalised_error, normalised_random_mean, normalised_random_std.
    """
    columns = _WHICH | _METRIC
    statement = _results(columns, SubspaceMetric).where(Analysis.id.in_(ids))
    frame = _frame(s, statement.order_by(SubspaceMetric.k, SubspaceMetric.metric), columns)
    largest = _largest(frame["metric"], frame["k"])
    return frame.assign(
        normalised=_likeness(frame["metric"], frame["value"], largest),
        normalised_error=frame["error"] / largest,
        normalised_random_mean=_likeness(frame["metric"], frame["random_mean"], largest),
        normalised_random_std=frame["random_std"] / largest,
    )


def pair_values(
    s: Session, ids: Sequence[int], ks: Sequence[int] | None = None, measures: Sequence[str] | None = None
) -> pd.DataFrame:
    """How alike pairs of these analyses are, in both orders, as far as comparisons have found it.

    Columns: first_id, second_id, first_step, second_step, parameters (D), k, measure (a Grassmannian metric
    of both eigenspaces, or "iou" of both magnitude masks), value, normalised (the likeness in [0, 1]: of
    distances as in ``subspace_metrics``, else the value), chance (of the overlap k/D; of the IoU the mean
    over two random masks; else NaN). None as a filter lets
    everything pass.
    """
    first, second = aliased(Analysis), aliased(Analysis)
    step, other_step = aliased(Checkpoint), aliased(Checkpoint)
    columns: _Columns = {
        **_of(PairValue, {"first_id": int, "second_id": int}),
        "first_step": (int, step.step),
        "second_step": (int, other_step.step),
        "parameters": (int, first.parameters),
        **_of(PairValue, {"k": int, "measure": object, "value": float}),
    }
    statement = (
        _select(columns)
        .join(first, first.id == PairValue.first_id)
        .join(second, second.id == PairValue.second_id)
        .join(step, step.id == first.checkpoint_id)
        .join(other_step, other_step.id == second.checkpoint_id)
        .where(PairValue.first_id.in_(ids), PairValue.second_id.in_(ids))
        .order_by(PairValue.first_id, PairValue.second_id, PairValue.k, PairValue.measure)
    )
    if ks is not None:
        statement = statement.where(PairValue.k.in_(ks))
    if measures is not None:
        statement = statement.where(PairValue.measure.in_(measures))
    frame = _frame(s, statement, columns)
    ends = {"first_id": "second_id", "first_step": "second_step"}
    turned = ends | {there: here for here, there in ends.items()}
    others = frame[frame["first_id"] != frame["second_id"]].rename(columns=turned)
    frame = pd.concat([frame, others[list(columns)]], ignore_index=True)
    sizes = zip(frame["k"].tolist(), frame["parameters"].tolist(), strict=True)
    of_masks = pd.Series([chance_iou(*each) for each in sizes], frame.index, float)
    share = frame["k"] / frame["parameters"]
    chance = of_masks.where(frame["measure"] == IOU, share.where(frame["measure"] == "overlap"))
    likeness = _likeness(frame["measure"], frame["value"], _largest(frame["measure"], frame["k"]))
    return frame.assign(normalised=likeness, chance=chance)


def mask_pairs(s: Session, ids: Sequence[int], names: Sequence[str], k: int) -> dict[str, pd.DataFrame]:
    """How alike each of these masks of pairs of these analyses is at one size, in both orders, by its name.

    Needs no comparison, as results keep the weights of their further masks up to their own k. Columns as
    ``pair_values``, with the measure "iou", and error: how far the IoU may be off as scores tie or are
    estimated. Only analyses that have a mask are in its table.
    """
    columns: _Columns = {
        "analysis_id": (int, Analysis.id),
        "step": (int, Checkpoint.step),
        "parameters": (int, Analysis.parameters),
    }
    statement = _of_analyses(columns).where(Analysis.state == State.finished, Analysis.id.in_(ids))
    known = stored_masks(s, ids)
    found: dict[str, list[tuple[int, int, int, StoredMask]]] = {name: [] for name in names}
    for row in s.execute(statement.order_by(Analysis.id)).mappings():
        masks = known[row["analysis_id"]]
        for name, of_name in found.items():
            if name in masks:
                of_name.append((row["analysis_id"], row["step"], row["parameters"], masks[name]))
    return {name: _alike(of_name, k) for name, of_name in found.items()}


def _alike(found: Sequence[tuple[int, int, int, StoredMask]], k: int) -> pd.DataFrame:
    """``mask_pairs`` of one mask: analysis, step and D of each, and the mask."""
    rows = []
    for first_id, first_step, parameters, first in found:
        for second_id, second_step, others, second in found:
            alike = iou_at(first, second, k, parameters) if others == parameters else None
            if alike is None:
                continue
            value, error = alike if first_id != second_id else (1.0, 0.0)
            ids_and_steps = (first_id, second_id, first_step, second_step)
            rows.append((*ids_and_steps, parameters, k, IOU, value, value, chance_iou(k, parameters), error))
    names = ("first_id", "second_id", "first_step", "second_step", "parameters", "k", "measure")
    return pd.DataFrame(rows, columns=[*names, "value", "normalised", "chance", "error"])


def known_pairs(s: Session, ids: Sequence[int]) -> dict[tuple[int, int], set[tuple[int, str]]]:
    """Return the known values, as (k, measure), of each pair of these analyses (smaller id first)."""
    known: dict[tuple[int, int], set[tuple[int, str]]] = {}
    statement = select(PairValue.first_id, PairValue.second_id, PairValue.k, PairValue.measure).where(
        PairValue.first_id.in_(ids), PairValue.second_id.in_(ids)
    )
    for first, second, k, measure in s.execute(statement):
        known.setdefault((first, second), set()).add((k, measure))
    return known


# Settings that differ from step to step where observables compare with earlier checkpoints.
_OF_STEP = ("curves", "initial", "previous")


def stabilisation_sets(s: Session, model_ids: Sequence[int] | None = None) -> pd.DataFrame:
    """Analyses whose pairs tell how masks and eigenspaces stabilise: those that differ in the step alone.

    The finished ones with stored eigenvectors, of the same model and settings, where there are at least two.
    Earlier checkpoints that observables compare with are others at every step, and of the first step there
    are none, so that those observables are left out there: neither tells analyses of a set apart.

    Columns: set_id (the smallest analysis_id of the set), and those of ``comparable``. None lets all models
    pass.
    """
    frame = comparable(s)
    stored = select(Analysis.id, Analysis.settings, Analysis.settings_key, Analysis.checkpoint_id).where(
        Analysis.state == State.finished, Analysis.eigenvectors.is_not(None)
    )
    known = {row.id: row for row in s.execute(stored)}
    frame = frame[frame["analysis_id"].isin(list(known))]
    if model_ids is not None:
        frame = frame[frame["model_id"].isin(list(model_ids))]
    bases: dict[str, str] = {}  # releases write the same settings with more or fewer defaults
    for row in known.values():
        told = {name: each for name, each in row.settings.items() if name not in _OF_STEP}
        bases.setdefault(row.settings_key, json.dumps(told, sort_keys=True))
    numbers = frame["analysis_id"]
    base = numbers.map({number: bases[row.settings_key] for number, row in known.items()})
    key = numbers.map({number: row.settings_key for number, row in known.items()})
    # Analyses of equal settings are a set; of those that are alone with theirs, one of each checkpoint.
    alone = key.groupby([frame["model_id"], key]).transform("size") == 1
    checkpoint = numbers.map({number: row.checkpoint_id for number, row in known.items()})
    turn = checkpoint[alone].groupby([frame["model_id"], base, checkpoint]).cumcount().astype(str)
    alike = frame.groupby([frame["model_id"], base, key.where(~alone, turn)])["analysis_id"]
    frame = frame.assign(set_id=alike.transform("min"))[alike.transform("size") >= 2]
    columns = ["set_id", *(name for name in frame.columns if name != "set_id")]
    return frame.sort_values(["set_id", "step", "analysis_id"], ignore_index=True)[columns]


def _largest(metrics: pd.Series[Any], k: pd.Series[int]) -> pd.Series[float]:
    """The largest value of each distance between k-dimensional subspaces; 1 for what is a likeness itself."""
    forms = np.array([LARGEST.get(metric, (1.0, 0.0)) for metric in metrics]).reshape(-1, 2)
    return pd.Series(forms[:, 0] * k.to_numpy(float) ** forms[:, 1], index=metrics.index)


def _likeness(
    metrics: pd.Series[Any], values: pd.Series[float], largest: pd.Series[float]
) -> pd.Series[float]:
    """Values as they are, but distances as 1 − distance / largest distance."""
    return values.where(~metrics.isin(list(LARGEST)), 1 - values / largest)


def records(s: Session, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The record of each of these finished analyses by its id, empty where there is none."""
    statement = select(Analysis.id, Analysis.record).where(
        Analysis.state == State.finished, Analysis.id.in_(ids)
    )
    return {row[0]: row[1] or {} for row in s.execute(statement.order_by(Analysis.id))}


# --- Exports ----------------------------------------------------------------------------------------------


def export_result(s: Session, analysis_id: int) -> dict[str, Any]:
    """A finished analysis as the JSON object that ``seigh analyze --json`` writes, and its model and step.

    Raises:
        StoreError: If it is not finished, or gone.
    """
    detail = analysis(s, analysis_id)
    if detail is None:
        raise StoreError(f"Analysis {analysis_id} no longer exists; reload the list of runs.")
    if detail.state != State.finished:
        raise StoreError(f"Analysis {analysis_id} is {detail.state}; only a finished one has results.")
    eigenvalues = spectrum(s, analysis_id)
    points = overlap_curves(s, [analysis_id])
    by_mask = {mask: points[points["mask"] == mask] for mask in MASKS}
    magnitude, random, best = (by_mask[mask] for mask in (Mask.magnitude, Mask.random, Mask.best))
    timings = detail.stages[["stage", "seconds", "hvps"]].itertuples(index=False, name=None)
    statement = select(FurtherCurve).where(FurtherCurve.analysis_id == analysis_id)
    points = profiles(s, [analysis_id])
    numbers = quantities(s, [analysis_id])
    found = Outcome(
        parameters=detail.parameters,
        hvps=detail.hvps or 0,
        eigenvalues=eigenvalues["value"].to_numpy(),
        residuals=eigenvalues["residual"].to_numpy(),
        scree_lower=eigenvalues["scree_lower"].to_numpy(),
        scree_upper=eigenvalues["scree_upper"].to_numpy(),
        overlap=magnitude["overlap"].to_numpy(),
        overlap_error=magnitude["error"].to_numpy(),
        least=magnitude["least"].to_numpy(),
        greatest=magnitude["greatest"].to_numpy(),
        tied=magnitude["tied"].to_numpy(),
        resolved_k=detail.resolved_k,
        random_mean=random["overlap"].to_numpy(),
        random_std=random["std"].to_numpy(),
        random_std_error=random["std_error"].to_numpy(),
        best=best["overlap"].to_numpy() if len(best) else np.full(len(magnitude), np.nan),
        best_error=best["error"].to_numpy() if len(best) else None,
        layers=_rows(layer_shares(s, analysis_id)),
        magnitudes=_rows(magnitude_bins(s, analysis_id)),
        metrics=_rows(subspace_metrics(s, [analysis_id])),
        curves={
            each.name: unpacked_curve(each.points, each.ends)
            for each in s.scalars(statement.order_by(FurtherCurve.name))
        },
        profiles={
            str(name): {part: rows[part].to_numpy() for part in POINTS}
            for name, rows in points.groupby("observable")
        },
        quantities={row["observable"]: row for row in _rows(numbers)},
        stages=[Stage(*each) for each in timings],
        data_sha256=detail.data_sha256 or "",
        environment=detail.environment,
        record=detail.record,
    )
    document = found.document(detail.checkpoint_sha256, detail.settings)
    return {"model": detail.model, "step": detail.step} | document | {"split": detail.split}


def export_table(s: Session, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Every overlap point of the finished analyses of these models, or of all; one row per point.

    The columns of ``overlap_curves``, and architecture, subset (as in ``runs``), parameters (D), data,
    sampling (as in ``runs``), resolved_k (NaN where unknown) and test_accuracy.

    Raises:
        StoreError: If there is no model of one of the names.
    """
    more = ("architecture", "subset", "parameters", "data", "sampling", "resolved_k", "test_accuracy")
    columns = _POINT | _known_columns(*more)
    statement = _points(columns)
    if names is not None:
        statement = statement.where(Model.name.in_(model_names(s, names)))
    return _frame(s, statement, columns)


def model_names(s: Session, names: Sequence[str] | None = None) -> list[str]:
    """These names of models, or all.

    Raises:
        StoreError: If there is no model of one of the names.
    """
    known = sorted(s.scalars(select(Model.name)))
    if unknown := [name for name in names or () if name not in known]:
        raise StoreError(
            f"There is no model '{unknown[0]}'; there is {', '.join(known) or 'none at all yet'}."
        )
    return known if names is None else list(names)


# --- What the functions above share -----------------------------------------------------------------------


def _masks(masks: Sequence[str]) -> list[Mask]:
    return [Mask(mask) for mask in masks]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, with None for what is unknown: JSON has no NaN."""
    known = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(frame.columns, row, strict=True)) for row in known.to_numpy().tolist()]


def _frame(s: Session, statement: Select[Any], columns: _Columns) -> pd.DataFrame:
    """The rows of a statement, each column by its label, in the order and with the types of ``columns``."""
    found = s.execute(statement)
    labels = list(found.keys())
    values: Sequence[Sequence[Any]] = list(zip(*found, strict=True)) or [()] * len(labels)
    labelled = dict(zip(labels, values, strict=True))
    return pd.DataFrame(
        {
            name: pd.Series(
                list(labelled[name])
                if kind in (int, float)
                else [_plain(value, name) for value in labelled[name]],
                dtype=kind,
            )
            for name, (kind, _) in columns.items()
        }
    )


def _plain(value: Any, name: str) -> Any:
    if name == "subset":  # what was analysed before there were patterns has none
        return ", ".join(value or ())
    if name == "sampling":  # what was analysed before there was a choice is balanced
        return value or "balanced"
    return value.value if isinstance(value, State | Mask) else value
