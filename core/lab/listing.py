"""The analyses of the lab as one table: filtered, searched, sorted and grouped by the database.

A column is one of ``columns()``, a setting (``setting.precision``), a fact of the record or the environment
(``fact.norm.estimate``, ``environment.torch``), or an observable (``observable.trace``), which of a curve is
its value at one k. Conditions are the same on all of them.
"""

from __future__ import annotations

import functools
import operator
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import pandas as pd
from sqlalchemy import (
    ColumnElement,
    Double,
    String,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.orm import Session, aliased

from seigh.core.lab import naming
from seigh.core.lab.models import (
    Analysis,
    AnalysisTag,
    Checkpoint,
    Eigenvalue,
    Environment,
    FurtherCurve,
    Mask,
    Model,
    ModelTag,
    Observation,
    OverlapPoint,
    StageTiming,
    State,
)
from seigh.core.lab.queries import SECONDS
from seigh.core.lab.store import StoreError
from seigh.core.results.number import number_at
from seigh.core.results.schema import ENDS, PARTS, POINTS
from seigh.core.settings import AnalysisSettings

Kind = Literal["number", "text", "time"]

OBSERVABLE = "observable"  # what the names of columns of observables begin with, before a dot

_Largest = aliased(Eigenvalue)


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: In addresses, conditions and files.
        label: For people.
        kind: What its values are.
        sql: What it is in the database.
        error: Name of the column that says how far it may be off, if there is one.
        about: What it means, one sentence.
        ends: Names of the columns between which it lies, where these are not the error to both sides.
        of: Name of the column whose error or end this is; empty if it is no such thing.
        at_k: Whether it is of one size k, the one of the query or that of the analysis.
    """

    name: str
    label: str
    kind: Kind
    sql: Any
    error: str | None = None
    about: str = ""
    ends: tuple[str, str] | None = None
    of: str = ""
    at_k: bool = False


@dataclass(frozen=True)
class Query:
    """A query of the table of analyses: filters and order.

    Attributes:
        search: Words that model, data, method, split, a tag or a user has in it, ``#7`` for an analysis by
            its number, and conditions such as ``N=500``, ``step>=1000``, ``tag:baseline``.
        where: Values by the name of a column, any of which passes.
        sort: Name of a column.
        descending: Whether the largest come first. What is unknown comes last either way.
        mask: Whose overlap is told.
        k: Its size, and that of curves; that of each analysis when not given.
        archived: Whether models that are put away are in.
        only: Numbers of analyses, no other of which is asked for; all when not given.
    """

    search: str = ""
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sort: str = "finished"
    descending: bool = True
    mask: Mask = Mask.magnitude
    k: int | None = None
    archived: bool = False
    only: Sequence[int] | None = None


def columns(query: Query) -> dict[str, Column]:
    """The columns that every analysis has, by name."""
    size: Any = Analysis.k if query.k is None else literal(query.k)
    chance = cast(size, Double) / Analysis.parameters
    error = func.coalesce(OverlapPoint.error, OverlapPoint.std)
    of_eigenpairs = SECONDS.where(StageTiming.stage == "eigenpairs")
    settings = Analysis.settings
    found = (
        Column("id", "#", "number", Analysis.id, about="Number of the analysis."),
        Column("state", "state", "text", cast(Analysis.state, String)),
        Column("model", "model", "text", Model.name),
        Column("architecture", "architecture", "text", Model.architecture),
        Column("step", "step", "number", Checkpoint.step, about="Training step of the checkpoint."),
        Column("split", "split", "text", Analysis.split, about="Of the data that the loss is taken on."),
        Column("curvature", "curvature", "text", Analysis.curvature),
        Column("data", "data", "text", naming.name_of(), about="Own files by their names."),
        Column("N", "N", "number", Analysis.samples, about="Number of samples."),
        Column("samples", "samples", "text", func.coalesce(settings["subset"].as_string(), "balanced")),
        Column("D", "D", "number", Analysis.parameters, about="Number of parameters in θ."),
        Column("method", "method", "text", Analysis.method),
        Column("k", "k", "number", Analysis.k, about="Number of eigenpairs."),
        Column("seed", "seed", "number", Analysis.seed),
        Column("mask", "mask", "text", cast(OverlapPoint.mask, String)),
        Column(
            "overlap", "overlap", "number", OverlapPoint.overlap, error="overlap_error", at_k=True,
            about="Of the mask of size k with the top-k eigenspace.",
        ),
        Column("overlap_error", "± of the overlap", "number", error, of="overlap"),
        Column(
            "ratio", "÷ chance", "number", OverlapPoint.overlap / chance, error="ratio_error", at_k=True,
            about="Overlap divided by its chance level k/D.",
        ),
        Column("ratio_error", "± of the ratio", "number", error / chance, of="ratio"),
        Column("chance", "chance", "number", chance, about="k/D.", at_k=True),
        Column(
            "lambda", "λ₁", "number", _Largest.value, error="lambda_error",
            about="The eigenvalue of largest magnitude, with its residual.",
        ),
        Column("lambda_error", "± of λ₁", "number", _Largest.residual, of="lambda"),
        Column(
            "resolved_k", "resolved k", "number", Analysis.resolved_k,
            about="Up to there every overlap is known to 1 %.",
        ),
        Column("test_accuracy", "test accuracy", "number", Checkpoint.test_accuracy),
        Column("train_accuracy", "train accuracy", "number", Checkpoint.train_accuracy),
        Column("test_loss", "test loss", "number", Checkpoint.test_loss),
        Column("train_loss", "train loss", "number", Checkpoint.train_loss),
        Column(
            "seconds", "time, s", "number", SECONDS.correlate(Analysis).scalar_subquery(),
            about="Seconds of all stages.",
        ),
        Column(
            "eigenpair_seconds", "time of the eigenpairs, s", "number",
            of_eigenpairs.correlate(Analysis).scalar_subquery(),
            about="Seconds of the stage that finds the eigenpairs.",
        ),
        Column("hvps", "products", "number", Analysis.hvps, about="Hessian-vector products."),
        Column("user", "by", "text", Analysis.submitted_by),
        Column("submitted", "submitted", "time", Analysis.submitted_at),
        Column("finished", "finished", "time", Analysis.finished_at),
        Column("attempts", "attempts", "number", Analysis.attempts),
        Column("message", "message", "text", Analysis.message, about="Why it failed."),
    )  # fmt: skip
    return {each.name: each for each in found}


_COVERED = frozenset(
    {"architecture", "data", "split", "curvature", "samples", "subset", "k", "method", "seed", "random_masks"}
)
# Other names of columns in conditions.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {"n": "N", "d": "D", "λ": "lambda", "λ1": "lambda", "λ₁": "lambda", "dataset": "data", "time": "seconds"}
)


@functools.cache
def settings_columns() -> dict[str, Column]:
    """The settings of an analysis that have no column of their own above, by name: ``setting.precision``."""
    found = {}
    for name, about in AnalysisSettings.model_fields.items():
        if name in _COVERED:
            continue
        numeric = any(kind in (get_args(about.annotation) or (about.annotation,)) for kind in (int, float))
        stored = Analysis.settings[name]
        value = stored.as_float() if numeric else stored.as_string()
        found[f"setting.{name}"] = Column(
            f"setting.{name}", name.replace("_", " "), "number" if numeric else "text", value
        )
    return found


def facts(s: Session, most: int = 20) -> dict[str, Column]:
    """Return the columns that records and environments of the latest finished analyses offer, by name.

    They are read once in a session.
    """
    if (read := s.info.get("facts")) is not None:
        return dict(read)
    latest = (
        select(Analysis.record, Environment.details)
        .outerjoin(Analysis.environment)
        .where(Analysis.state == State.finished)
        .order_by(Analysis.finished_at.desc())
        .limit(most)
    )
    found: dict[str, Column] = {}
    for record, details in s.execute(latest):
        for prefix, told, stored in (
            ("fact", record, Analysis.record),
            ("environment", details, Environment.details),
        ):
            for path, value in _leaves(told or {}):
                name = ".".join((prefix, *path))
                if name in found and found[name].kind == "number":
                    continue
                at = stored[path]
                number = isinstance(value, int | float) and not isinstance(value, bool)
                found[name] = Column(
                    name,
                    " ".join(path).replace("_", " "),
                    "number" if number else "text",
                    at.as_float() if number else at.as_string(),
                )
    s.info["facts"] = dict(sorted(found.items()))
    return dict(s.info["facts"])


def _leaves(told: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The single values in a record, with the way to each."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in told.items():
        if isinstance(value, Mapping):
            found += _leaves(value, (*above, name))
        elif value is not None and not isinstance(value, list) and re.fullmatch(r"\w+", name):
            found.append(((*above, name), value))
    return found


def observables(s: Session, query: Query) -> dict[str, Column]:
    """Return the columns of the curves and quantities that some analysis has, by name, with their ends.

    Which there are is read once in a session.
    """
    if (titles := s.info.get("observables")) is None:
        curves = select(FurtherCurve.name, FurtherCurve.title)
        quantities = select(Observation.name, Observation.title).where(Observation.kind == "quantity")
        titles = s.info["observables"] = tuple(
            dict(sorted((row.name, row.title) for row in s.execute(each.distinct())))
            for each in (curves, quantities)
        )
    found: list[Column] = []
    for name, title in titles[0].items():
        found += _with_ends(name, title, _parts_of_curve(name, query), at_k=True)
    for name, title in titles[1].items():
        found += _with_ends(name, title, _parts_of_quantity(name), at_k=False)
    return {each.name: each for each in found}


def is_observable(name: str) -> bool:
    """Whether the column of this name is an observable, or an end of one."""
    return name.startswith(f"{OBSERVABLE}.")


def observable_of(name: str) -> str:
    """The observable that the column of this name is of; empty for another column."""
    return name.removeprefix(f"{OBSERVABLE}.") if is_observable(name) else ""


def _with_ends(name: str, title: str, parts: Mapping[str, Any], *, at_k: bool) -> list[Column]:
    """An observable, and between what it lies."""
    own = f"{OBSERVABLE}.{name}"
    ends = {"lower": "lower end", "upper": "upper end"}
    value = Column(
        own, title, "number", parts["value"], at_k=at_k, ends=(f"{own}.lower", f"{own}.upper"),
        about=f"The observable {name}{', at the size k of the overlap' if at_k else ''}.",
    )  # fmt: skip
    return [
        value,
        *(
            Column(f"{own}.{end}", f"{title}, {words}", "number", parts[end], at_k=at_k, of=own)
            for end, words in ends.items()
        ),
    ]


def _parts_of_curve(name: str, query: Query) -> dict[str, Any]:
    """Value and ends of a curve at one k, in SQL."""
    size: Any = Analysis.k if query.k is None else literal(query.k)

    def of(packed: Any, parts: Sequence[str], part: str) -> Any:
        return number_at(packed, (size - 1) * len(parts) + parts.index(part))

    def chosen(value: Any) -> Any:
        statement = select(value).where(FurtherCurve.analysis_id == Analysis.id, FurtherCurve.name == name)
        return statement.correlate(Analysis).scalar_subquery()

    value, error = (of(FurtherCurve.points, PARTS, part) for part in ("value", "error"))
    lower, upper = (
        case((FurtherCurve.ends.is_(None), value + sign * error), else_=of(FurtherCurve.ends, ENDS, end))
        for end, sign in (("lower", -1), ("upper", 1))
    )
    return {"value": chosen(value), "lower": chosen(lower), "upper": chosen(upper)}


def _parts_of_quantity(name: str) -> dict[str, Any]:
    """Value and ends of a quantity, in SQL."""
    return {
        part: select(number_at(Observation.points, POINTS.index(part)))
        .where(
            Observation.analysis_id == Analysis.id,
            Observation.name == name,
            Observation.kind == "quantity",
        )
        .correlate(Analysis)
        .scalar_subquery()
        for part in ("value", "lower", "upper")
    }


def known(s: Session, query: Query) -> dict[str, Column]:
    """All columns by name."""
    return columns(query) | observables(s, query) | settings_columns() | facts(s)


@dataclass(frozen=True)
class Found:
    """Some rows of the table, and how many there are in all."""

    rows: pd.DataFrame
    total: int


def rows(s: Session, query: Query, names: Sequence[str], limit: int | None = None, offset: int = 0) -> Found:
    """The analyses that are asked for: id, tags (a text), and columns by their names, with errors and ends.

    Raises:
        StoreError: If the search cannot be understood, or a column does not exist.
    """
    there = known(s, query)
    chosen = {name: _named(there, name) for name in dict.fromkeys(["id", *names])}
    for each in list(chosen.values()):
        for name in filter(None, (each.error, *(each.ends or ()))):
            chosen.setdefault(name, there[name])
    passed = _passed(query, there)
    order = _named(there, query.sort).sql
    statement = (
        _joined(select(*(each.sql.label(name) for name, each in chosen.items())), query)
        .where(*passed)
        .order_by(order.is_(None), order.desc() if query.descending else order.asc(), Analysis.id.desc())
    )
    if limit is not None:
        statement = statement.limit(limit).offset(offset)
    records = s.execute(statement).all()
    frame = pd.DataFrame(
        {
            name: _series([record[place] for record in records], each.kind)
            for place, (name, each) in enumerate(chosen.items())
        }
    )
    total = s.execute(_joined(select(func.count()), query).where(*passed)).scalar_one()
    tagged = tags(s, frame["id"].astype(int).tolist())
    frame["tags"] = pd.Series([", ".join(tagged.get(int(each), ())) for each in frame["id"]], dtype=object)
    return Found(frame, total)


def ends_of(rows: pd.DataFrame, column: Column) -> tuple[pd.Series[float], pd.Series[float]]:
    """Between what the values of a column lie: its own ends, or its error to both sides; NaN where neither
    is known.

    Args:
        rows: ``rows`` with the column.
        column: Which.
    """
    if column.ends is not None:
        return rows[column.ends[0]], rows[column.ends[1]]
    error = rows[column.error] if column.error else pd.Series(float("nan"), rows.index)
    return rows[column.name] - error, rows[column.name] + error


def ids(s: Session, query: Query) -> list[int]:
    """The numbers of all analyses that are asked for.

    Raises:
        StoreError: As ``rows``.
    """
    statement = _joined(select(Analysis.id), query).where(*_passed(query, known(s, query)))
    return list(s.scalars(statement.order_by(Analysis.id)))


# What groups tell the mean and the spread of.
MEASURED = ("overlap", "ratio", "lambda", "resolved_k", "test_accuracy", "seconds")


def groups(s: Session, query: Query, by: Sequence[str], limit: int = 100) -> Found:
    """Analyses that agree in the columns ``by``, one row a group: these, ``number`` of analyses, and of each
    of ``MEASURED`` the mean, and as ``…_spread`` the standard deviation over the group (NaN of one alone).

    Raises:
        StoreError: As ``rows``.
    """
    there = known(s, query)
    keys = {name: _named(there, name).sql.label(name) for name in dict.fromkeys(by)}
    numbers = {name: cast(there[name].sql, Double).label(name) for name in MEASURED}
    # Two passes, as the difference of the mean square and the squared mean loses all digits.
    of_each = (
        _joined(
            select(
                *(each.label(f"key_{place}") for place, each in enumerate(keys.values())),
                *numbers.values(),
                *(
                    func.avg(each.element)
                    .over(partition_by=[key.element for key in keys.values()])
                    .label(f"{name}_mean")
                    for name, each in numbers.items()
                ),
            ),
            query,
        )
        .where(*_passed(query, there))
        .subquery()
    )
    labels = [of_each.c[f"key_{place}"] for place in range(len(keys))]
    told: list[ColumnElement[Any]] = [func.count().label("number")]
    for name in numbers:
        off = of_each.c[name] - of_each.c[f"{name}_mean"]
        told += [func.avg(of_each.c[name]), func.sum(off * off), func.count(of_each.c[name])]
    statement = select(*labels, *told).group_by(*labels).order_by(*(label.asc() for label in labels))
    total = s.execute(select(func.count()).select_from(statement.order_by(None).subquery())).scalar_one()
    records = s.execute(statement.limit(limit)).all()
    frame = pd.DataFrame(
        {
            name: _series([record[place] for record in records], there[name].kind)
            for place, name in enumerate(keys)
        }
    )
    start = len(keys)
    frame["number"] = pd.Series([record[start] for record in records], dtype=int)
    for place, name in enumerate(numbers):
        mean, squares, count = (start + 1 + 3 * place + part for part in range(3))
        frame[name] = _series([record[mean] for record in records], "number")
        frame[f"{name}_spread"] = pd.Series(
            [
                (record[squares] / (record[count] - 1)) ** 0.5 if record[count] > 1 else None
                for record in records
            ],
            dtype=float,
        )
    return Found(frame, total)


def choices(s: Session, query: Query, name: str, most: int = 500) -> list[str]:
    """The values of a column among all analyses that the rest of the query lets pass, as texts in order.

    Raises:
        StoreError: As ``rows``.
    """
    there = known(s, query)
    others = replace(query, where={each: values for each, values in query.where.items() if each != name})
    if name == "tag":
        passed = _joined(select(Analysis.id, Model.id), others).where(*_passed(others, there)).subquery()
        of_analyses = select(AnalysisTag.name).where(AnalysisTag.analysis_id.in_(select(passed.c[0])))
        of_models = select(ModelTag.name).where(ModelTag.model_id.in_(select(passed.c[1])))
        return sorted(set(s.scalars(of_analyses)) | set(s.scalars(of_models)))
    value = _named(there, name).sql
    statement = _joined(select(value), others).where(*_passed(others, there), value.is_not(None)).distinct()
    return [_text(each) for each in s.scalars(statement.order_by(value).limit(most))]


def tags(s: Session, numbers: Sequence[int]) -> dict[int, list[str]]:
    """The tags of analyses, with those of their models, in the order of the alphabet."""
    found: dict[int, set[str]] = {}
    own = select(AnalysisTag.analysis_id, AnalysisTag.name).where(AnalysisTag.analysis_id.in_(numbers))
    of_model = (
        select(Analysis.id, ModelTag.name)
        .join(Analysis.checkpoint)
        .join(ModelTag, ModelTag.model_id == Checkpoint.model_id)
        .where(Analysis.id.in_(numbers))
    )
    for statement in (own, of_model):
        for number, name in s.execute(statement):
            found.setdefault(number, set()).add(name)
    return {number: sorted(names) for number, names in found.items()}


# --- Conditions -------------------------------------------------------------------------------------------

_CONDITION = re.compile(r"(?P<name>[^\s=<>:!#]+)(?P<sign>>=|<=|!=|=|<|>|:)(?P<value>.*)", re.DOTALL)


def _joined(statement: Any, query: Query) -> Any:
    size: Any = Analysis.k if query.k is None else literal(query.k)
    return (
        statement.select_from(Analysis)
        .join(Checkpoint, Checkpoint.id == Analysis.checkpoint_id)
        .join(Model, Model.id == Checkpoint.model_id)
        .outerjoin(Environment, Environment.id == Analysis.environment_id)
        .outerjoin(_Largest, and_(_Largest.analysis_id == Analysis.id, _Largest.position == 1))
        .outerjoin(
            OverlapPoint,
            and_(
                OverlapPoint.analysis_id == Analysis.id,
                OverlapPoint.mask == query.mask,
                OverlapPoint.k == size,
            ),
        )
    )


def _passed(query: Query, there: Mapping[str, Column]) -> list[ColumnElement[bool]]:
    """The conditions of a query."""
    found: list[ColumnElement[bool]] = [] if query.archived else [Model.archived.is_(False)]
    if query.only is not None:
        found.append(Analysis.id.in_(query.only))
    for name, values in query.where.items():
        if values:
            found.append(or_(*(_condition(there, name, "=", value) for value in values)))
    for word in _words(query.search):
        if word.startswith("#") and word[1:].isdecimal():
            found.append(Analysis.id == _whole(word[1:]))
        elif condition := _CONDITION.fullmatch(word):
            found.append(_condition(there, condition["name"], condition["sign"], condition["value"]))
        else:
            found.append(_mentions(word))
    return found


def _words(search: str) -> list[str]:
    try:
        return shlex.split(search)
    except ValueError:  # a quotation mark that is not closed
        return search.split()


def _mentions(word: str) -> ColumnElement[bool]:
    texts: tuple[Any, ...] = (
        Model.name, Model.architecture, Model.note, naming.name_of(), Analysis.method, Analysis.split,
        Analysis.curvature, Analysis.submitted_by,
    )  # fmt: skip
    return or_(*(_has(each, word) for each in texts), _tagged(lambda name: _has(name, word)))


def _has(text: Any, word: str) -> ColumnElement[bool]:
    found: ColumnElement[bool] = func.lower(text).contains(word.lower(), autoescape=True)
    return found


def _tagged(test: Any) -> ColumnElement[bool]:
    return or_(
        exists().where(AnalysisTag.analysis_id == Analysis.id, test(AnalysisTag.name)),
        exists().where(ModelTag.model_id == Model.id, test(ModelTag.name)),
    )


def _condition(there: Mapping[str, Column], name: str, sign: str, value: str) -> ColumnElement[bool]:
    name = _ALIASES.get(name.lower(), name)
    if name == "tag":
        if sign not in ("=", ":", "!="):
            raise StoreError(f"A tag is the same or another one; write tag:{value or 'baseline'}.")
        same = _tagged(lambda tag: func.lower(tag) == value.lower())
        return ~same if sign == "!=" else same
    column = _named(there, name)
    if column.kind == "number":
        try:
            number = float(value.replace(",", ""))
        except ValueError as error:
            raise StoreError(
                f"'{value}' is no number, which {name} is compared with; write {name}=500."
            ) from error
        at = cast(column.sql, Double)
        return _compared(at, "=" if sign == ":" else sign, number)
    if column.kind == "time":
        text = cast(column.sql, String)
        return text.startswith(value, autoescape=True) if sign in ("=", ":") else _compared(text, sign, value)
    return _has(column.sql, value) if sign == ":" else _compared(column.sql, sign, value)


def _compared(at: Any, sign: str, value: Any) -> ColumnElement[bool]:
    signs: Mapping[str, Callable[[Any, Any], Any]] = {
        "=": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        ">": operator.gt,
        "<=": operator.le,
        ">=": operator.ge,
    }
    compared: ColumnElement[bool] = signs[sign](at, value)
    return compared


def _named(there: Mapping[str, Column], name: str) -> Column:
    if (found := there.get(name)) is not None:
        return found
    if name.startswith(("fact.", "environment.")):
        raise StoreError(f"No recent analysis has the fact '{name}'; choose another column.")
    if is_observable(name):
        raise StoreError(f"No analysis has the observable of the column '{name}'; choose another column.")
    short = ", ".join(each for each in there if "." not in each)
    raise StoreError(f"There is no column '{name}'; there is {short}, and 'tag' in conditions.")


def _whole(digits: str) -> int:
    return min(int(digits[:18]), 2**31 - 1)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _series(values: list[Any], kind: Kind) -> pd.Series[Any]:
    if kind == "number":
        return pd.Series(values, dtype=float)
    if kind == "time":
        return pd.Series(values, dtype="datetime64[us, UTC]")
    return pd.Series(values, dtype=object)
