"""A saved result of an analysis, as a child reads it: a safetensors file whose metadata are the result.

The format is described in docs/analyse.md. Nothing in it is a program; the result is JSON, whose parts are
compared with what an analysis writes before anybody else sees them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from seigh.core.reading.checkpoints import in_safetensors, once
from seigh.core.reading.packing import handed_back
from seigh.core.reading.task import Task
from seigh.core.reading.words import MIB, Refusal, shown
from seigh.core.results.schema import (
    ENDS,
    LAYERS,
    MAGNITUDES,
    METRICS,
    NUMBERS,
    OVERLAP,
    PARTS,
    POINTS,
    STAGES,
    Table,
)

FORMAT = "seigh result 1"

# Bytes of the result without its eigenvectors; one of k = 1,500 with six curves takes a million.
_LARGEST = 16 * MIB

_KEYS = (
    *(
        "parameters",
        "hvps",
        "eigenvalues",
        "residuals",
        "overlap",
        "resolved_k",
        "scree_lower",
        "scree_upper",
    ),
    *("seconds", "checkpoint_sha256", "data_sha256", "settings", "environment", "record"),
)
_LONGEST_K = 100_000
_LONGEST_PROFILE = 1_000_000
_MOST_NAMED = 100
_DEEPEST = 12

# The share of an overlap that its stated error is at most where it is resolved, with room for rounding.
_RESOLVED = 0.01 * (1 + 1e-6)

_TENSORS = ("eigenvalues", "eigenvectors")

# What pages look into: the kind of each fact. Its name ends in "?" where it may be missing, and in "~" where
# it may be null. A list or a mapping has the kind of its entries, named "*" where any name will do.
_SIZES = {"columns": "whole", "batch_size": "whole"}
_ESTIMATE = {"estimate": "number", "lower~": "number", "upper~": "number"}
_RECORD: Mapping[str, Any] = {
    "loss?~": {
        "name": "text",
        "label_smoothing": "number",
        "weight_decay": "number",
        "penalty?~": "number",
        "class_weights?~": ["number"],
        "ignore_index?~": "whole",
        "penalties?~": {"*": "number"},
    },
    "theta?~": {"total": "whole", "trainable": "whole", "frozen": "whole", "tied": "whole"},
    "data?": {"indices": "any", "synthetic": "flag", "samples": "whole"},
    "hvp?": {
        **{"path": "text", "out_of_memory": "any"} | _SIZES,
        "measured": [
            {"path": "text", "seconds_per_product~": "number", "reason~": "text", "keep?": "flag"} | _SIZES
        ],
    },
    "basis?~": {
        "kept_in": "text",
        "columns": "whole",
        "resumed": "whole",
        "block?": "whole",
        "products?": "whole",
        "restarts?~": "whole",
        "tolerance_met?~": "flag",
    },
    "norm?~": _ESTIMATE,
    "missed_norm?~": _ESTIMATE,
    "probability?~": "number",
    "certificate?~": [
        {"name": "text", "value?~": "number", "tolerance?~": "number", "passed": "flag", "sentence": "text"}
    ],
    "completeness?~": {
        "products?~": "whole",
        "bound?~": "number",
        "probability?~": "number",
        "largest_outside?~": "number",
        "sentence?~": "text",
    },
    "extrapolated?~": ["number"],
    "rank?~": "whole",
    "notes?~": ["text"],
    "masks?": {"*": {"note?": "text", "tied?": ["whole"]}},
    "without_influence?": {"*": "whole"},
    "curves_failed?": {"*": "text"},
    "remarks?": {"*": "text"},
    "eigenvectors_lost?": "text",
    "step?~": "step",
}


def read(task: Task) -> dict[str, Any]:
    """The result and its tensors, refused unless they are what they should be."""
    try:
        length = int.from_bytes(task.whole[:8], "little")
        if length > task.size - 8:
            raise ValueError("the header is longer than the file")
        if length > 2 * _LARGEST:
            raise Refusal(f"'{task.name}' says far more than a result does; save it with Result.save.")
        header = json.loads(bytes(task.whole[8 : 8 + length]), object_pairs_hook=once)
        about = header.pop("__metadata__", {})
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise Refusal(
                f"'{task.name}' is no saved result of an analysis; bring what Result.save or 'seigh analyze "
                "--save' has written."
            )
        text = about["result"]
        if len(text) > _LARGEST:
            raise Refusal(f"'{task.name}' says far more than a result does; save it with Result.save.")
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=once)
        tensors = in_safetensors(header, 8 + length, task)
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # arbitrary bytes
        raise Refusal(f"The result '{task.name}' is damaged or incomplete; save or copy it again.") from error
    try:
        check(document)
        k, dimension = len(document["eigenvalues"]), document["parameters"]
        if set(tensors) - set(_TENSORS):
            raise Wrong("holds other tensors than eigenvalues and eigenvectors")
        for name, shape in (("eigenvalues", (k,)), ("eigenvectors", (k, dimension))):
            if name not in tensors:
                continue
            if tuple(tensors[name].shape) != shape:
                raise Wrong(f"has {name} of another shape than the result says")
            if tensors[name].dtype != {"eigenvalues": "float64", "eigenvectors": "float32"}[name]:
                raise Wrong(f"has {name} in another format")
    except Wrong as error:
        raise Refusal(f"'{task.name}' {error}, so it is no result of an analysis; save it again.") from error
    written = handed_back(tensors, task.source, task.target, task.limits.output, task.name, as_stored=True)
    return {**written, "result": document}


class Wrong(ValueError):
    """What a document has that no result has; the message goes on from the file's name."""


def check(document: Any) -> None:
    """Compare a document with what an analysis writes.

    Raises:
        Wrong: It is another thing.
    """
    _depth(document, 0)
    _is(isinstance(document, dict), "holds no result")
    for key in _KEYS:
        _is(key in document, f"has no {key}")
    dimension, k = document["parameters"], len(_list(document, "eigenvalues"))
    _is(_whole(dimension, 1, 2**31 - 1) and 1 <= k <= min(dimension, _LONGEST_K), "has no sensible k and D")
    _is(_whole(document["hvps"], 0, 2**31 - 1), "has no number of products")
    _is(document["resolved_k"] is None or _whole(document["resolved_k"], 0, k), "has no sensible resolved_k")
    _numbers(document["eigenvalues"], "eigenvalues", k, known=True)
    sizes = [abs(each) for each in document["eigenvalues"]]
    _is(all(a >= b * (1 - 1e-6) for a, b in pairwise(sizes)), "has unsorted eigenvalues")
    for name in ("residuals", "scree_lower", "scree_upper"):
        _numbers(document[name], name, k, least=0)
    rows = _table(document["overlap"], OVERLAP, "overlap")
    _is([row["k"] for row in rows] == list(range(1, k + 1)), "has an overlap of other k than 1 … K")
    for row in rows:
        _is(abs(row["chance"] - row["k"] / dimension) < 1e-9, "has another chance level than k/D")
        for name in ("overlap", "least", "greatest", "random_mean", "best", "random_std"):
            _is(row[name] is None or -1e-6 <= row[name] <= 1 + 1e-6, f"has {name} outside of [0, 1]")
        for name in ("error", "random_std_error", "best_error"):
            _is(row[name] is None or row[name] >= 0, f"has a negative {name}")
        _ascending([row[name] for name in ("least", "overlap", "greatest", "best")], "overlaps")
    for row in rows[: document["resolved_k"] or 0]:
        claimed = row["error"] is None or row["error"] <= _RESOLVED * row["overlap"]
        _is(claimed, "has a resolved_k that its own errors do not bear out")
    for ends in zip(document["scree_lower"], document["scree_upper"], strict=True):
        _ascending(ends, "scree bounds")
    for name, table in (("layers", LAYERS), ("magnitudes", MAGNITUDES), ("metrics", METRICS)):
        found = _table(document.get(name, []), table, name)
        _is(all(1 <= row["k"] <= k for row in found), f"has {name} at other k")
        unique = {tuple(row[key] for key in table.keys) for row in found}
        _is(len(unique) == len(found), f"has {name} twice")
    _table(document.get("stages", []), STAGES, "stages")
    _is(len(document.get("stages", [])) <= 100, "has far too many stages")
    # Up to 0.1.0 curves had an error alone.
    curves = document.get("curves", {})
    _columns(
        {
            name: {**dict.fromkeys(ENDS), **each} if isinstance(each, dict) else each
            for name, each in _named(curves, "curve").items()
        },
        "curve",
        PARTS + ENDS,
        k,
    )
    profiles, quantities = document.get("profiles", {}), document.get("quantities", {})
    _columns(profiles, "profile", POINTS, None)
    _quantities(quantities)
    _is(not profiles.keys() & quantities.keys(), "has an observable twice")
    for name in ("checkpoint_sha256", "data_sha256"):
        _is(_is_hash(document[name]), f"has no {name}")
    for name in ("seconds", "settings", "environment", "record"):
        _is(isinstance(document[name], dict), f"has no {name}")
    for value in document["environment"].values():
        _is(isinstance(value, str | int) and len(str(value)) <= 500, "has an environment that is none")
    _is(len(document["environment"]) <= 50, "has an environment that is none")
    _record(document["record"])


def _record(record: dict[str, Any]) -> None:
    if record.get("basis") == {}:  # of a method without one
        record = {name: each for name, each in record.items() if name != "basis"}
    _facts(record, _RECORD, "record")
    known = record.get("probability") is not None
    _is(known or not (record.get("norm") or record.get("missed_norm")), "has intervals without a probability")


def _facts(given: Any, kind: Any, name: str) -> None:
    """Compare facts with their kind as ``_RECORD`` has it."""
    wrong = f"has a record whose {name} is none"
    match kind:
        case "any":
            return
        case [entry]:
            _is(isinstance(given, list), wrong)
            for each in given:
                _facts(each, entry, name)
        case {"*": entry}:
            _is(isinstance(given, dict), wrong)
            for each in given.values():
                _facts(each, entry, name)
        case Mapping():
            _is(isinstance(given, dict), wrong)
            for key, of in kind.items():
                part = key.rstrip("?~")
                if part not in given:
                    _is("?" in key, f"has no whole {name}")
                elif given[part] is None:
                    _is("~" in key, f"has a record whose {part} is none")
                else:
                    _facts(given[part], of, part if name == "record" else name)
        case _:
            _is(_KINDS[kind](given), wrong)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "number": lambda value: _number(value),
    "whole": lambda value: _whole(value, -(2**53), 2**53),
    "step": lambda value: _whole(value, 0, 2**31 - 1),
    "flag": lambda value: type(value) is bool,
    "text": lambda value: type(value) is str,
}


def _named(given: Any, what: str) -> dict[str, Any]:
    _is(isinstance(given, dict) and len(given) <= _MOST_NAMED, f"has no {what} by name")
    _is(all(0 < len(name) <= 64 and name.isprintable() for name in given), f"has a {what} without a name")
    return dict(given)


def _columns(given: Any, what: str, parts: Sequence[str], length: int | None) -> None:
    """Numbers under names, each part of which is a list as long as its value, or of a given length."""
    for name, columns in _named(given, what).items():
        _is(isinstance(columns, dict) and set(parts) == columns.keys(), f"has a {what} that is none")
        value = columns["value"]
        _is(isinstance(value, list) and len(value) <= _LONGEST_PROFILE, f"has a {what} that is none")
        for part, values in columns.items():
            if values is not None or part == "value":
                _numbers(values, f"the {what} {shown(name)}", len(value) if length is None else length)
        for ends in zip(columns["lower"] or (), columns["upper"] or (), strict=False):
            _ascending(ends, f"ends of the {what} {shown(name)}")


def _quantities(given: Any) -> None:
    for name, told in _named(given, "quantity").items():
        _is(isinstance(told, dict) and {*NUMBERS, "unit"} == told.keys(), "has a quantity that is none")
        _numbers([told["value"]], f"the quantity {shown(name)}", 1, known=True)
        _numbers([told[part] for part in NUMBERS], f"the quantity {shown(name)}", len(NUMBERS))
        _ascending((told["lower"], told["upper"]), f"ends of the quantity {shown(name)}")
        unit = told["unit"]
        _is(isinstance(unit, str) and len(unit) <= 64 and unit.isprintable(), "has a quantity without a unit")


def _table(rows: Any, table: Table, name: str) -> list[dict[str, Any]]:
    _is(isinstance(rows, list) and len(rows) <= 1_000_000, f"has no {name}")
    optional = {column.name for column in table.columns if not column.known}  # earlier releases lack some
    for row in rows:
        _is(
            isinstance(row, dict) and set(table.names) - optional <= row.keys() <= set(table.names),
            f"has {name} with other columns",
        )
    rows = [dict.fromkeys(table.names) | row for row in rows]
    for row in rows:
        for column in table.columns:
            value = row[column.name]
            if value is None:
                _is(not column.known, f"has {name} without {column.name}")
            elif column.kind == "text":
                _is(
                    isinstance(value, str) and 0 < len(value) <= 64 + 236 * (name == "layers"),
                    f"has no {name}",
                )
                _is(value.isprintable(), f"has {name} with names that are none")
            else:
                whole = column.kind == "int"
                _is(_whole(value, 0, 2**62) if whole else _number(value), f"has {name} without {column.name}")
    return list(rows)


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    _is(isinstance(document[name], list), f"has no {name}")
    return list(document[name])


def _numbers(values: Any, name: str, length: int, *, known: bool = False, least: float = -math.inf) -> None:
    _is(isinstance(values, list) and len(values) == length, f"has {name} of another length")
    fits: Callable[[Any], bool] = lambda v: _number(v) and v >= least  # noqa: E731
    _is(all(fits(each) or (each is None and not known) for each in values), f"has {name} that are no numbers")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _depth(value: Any, depth: int) -> None:
    _is(depth <= _DEEPEST, "is nested far too deeply")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        if isinstance(each, dict | list):
            _depth(each, depth + 1)


def _ascending(values: Iterable[float | None], what: str) -> None:
    """Compare numbers, of which some may not be known, that an analysis gives in this order."""
    known = [each for each in values if each is not None]
    rounding = 1e-6 * max((abs(each) for each in known), default=0.0)
    _is(all(a <= b + rounding for a, b in pairwise(known)), f"has {what} in another order")


def _is(right: bool, wrong: str) -> None:
    if not right:
        raise Wrong(wrong)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
