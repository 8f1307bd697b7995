"""The result of an analysis without its eigenvectors, and the one way to write and read it as JSON.

Knows neither torch nor SQL: analyses, the database and scripts share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seigh.core.errors import UserError
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

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]

# The columns of the table of overlaps that are curves of an outcome, by the names that they have there.
_OF_OVERLAP = {
    "overlap": "overlap",
    "error": "overlap_error",
    "least": "least",
    "greatest": "greatest",
    "random_mean": "random_mean",
    "random_std": "random_std",
    "random_std_error": "random_std_error",
    "best": "best",
    "best_error": "best_error",
    "tied": "tied",
}


class ResultError(UserError):
    """A file of results that is none; the message is one sentence."""


@dataclass(frozen=True)
class Stage:
    """Seconds and Hessian-vector products of one stage."""

    name: str
    seconds: float
    hvps: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an analysis found, apart from its eigenvectors. None, or NaN in an array, is what is not known.

    Attributes:
        parameters: Number of parameters, D.
        hvps: Hessian-vector products spent.
        eigenvalues: (k,), by descending |λ|.
        residuals: (k,), ‖Hv − λv‖₂ of each pair.
        overlap: (k,), of the mask of largest magnitudes with V_k for k = 1 … K; where equal magnitudes leave
            the mask open, the mean over all masks that they admit.
        overlap_error: (k,), stated error of each of them: the numerical one
            (``seigh.core.overlap.stated_overlap``), and how far the least and the greatest overlap of these
            masks are from their mean.
        least: (k,), the least overlap of all masks that equal magnitudes admit.
        greatest: (k,), the greatest.
        tied: (k,), how many equal magnitudes the mask has to choose among; 0 where it has no choice.
        resolved_k: The largest k up to which all stated errors are at most 1 % of the overlap; 0 if none.
        random_mean: (k,), mean overlap of all masks of k coordinates, which is k/D.
        random_std: (k,), its standard deviation over them.
        random_std_error: (k,), how far that may be from the one of the true V_k.
        best: (k,), overlap of the best mask for each V_k.
        best_error: (k,), how far that may be from the one of the true V_k.
        layers: Which tensors the mass of V_k, the mask and their overlap lie in, at some k: rows of
            ``seigh.core.results.schema.LAYERS``.
        magnitudes: The mass of V_k on coordinates of about the same |θ|, at some k: rows of ``MAGNITUDES``.
        metrics: Every Grassmannian metric between mask and V_k, at some k: rows of ``METRICS``.
        curves: Further curves by name: of each (k,) value, error, chance, lower and upper, all but the first
            None where there is none.
        profiles: Profiles by name: of each (n,) for each of ``seigh.core.results.schema.POINTS``, or None.
        quantities: Quantities by name: of each value, lower, upper, reference (None where unknown) and unit.
        scree_lower: (k,), share of ‖H‖²_F that rank 1 … K misses, from below (TYUC §6.5).
        scree_upper: (k,), the same from above.
        stages: In the order they ran.
        data_sha256: Hash of the data subset.
        environment: Software and hardware.
        record: Further facts; JSON.
    """

    parameters: int
    hvps: int
    eigenvalues: Floats
    residuals: Floats | None
    overlap: Floats
    overlap_error: Floats | None
    least: Floats | None = None
    greatest: Floats | None = None
    tied: NDArray[Any] | None = None
    resolved_k: int | None
    random_mean: Floats
    random_std: Floats
    best: Floats
    random_std_error: Floats | None = None
    best_error: Floats | None = None
    layers: Rows = ()
    magnitudes: Rows = ()
    metrics: Rows = ()
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quantities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scree_lower: Floats | None
    scree_upper: Floats | None
    stages: Sequence[Stage]
    data_sha256: str
    environment: dict[str, Any]
    record: dict[str, Any]

    def document(self, checkpoint_sha256: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The object that ``seigh analyze --json`` writes: JSON types, null for what is not known."""
        length = len(self.overlap)
        chance = [k / self.parameters for k in range(1, length + 1)]
        columns: dict[str, Sequence[Any]] = {"k": range(1, length + 1), "chance": chance}
        columns |= {column: _list(getattr(self, name), length) for column, name in _OF_OVERLAP.items()}
        columns["tied"] = [None if each is None else int(each) for each in columns["tied"]]
        return {
            "parameters": self.parameters,
            "hvps": self.hvps,
            "eigenvalues": self.eigenvalues.tolist(),
            "residuals": _list(self.residuals, len(self.eigenvalues)),
            "overlap": [{name: columns[name][k] for name in OVERLAP.names} for k in range(length)],
            "resolved_k": self.resolved_k,
            "scree_lower": _list(self.scree_lower, len(self.eigenvalues)),
            "scree_upper": _list(self.scree_upper, len(self.eigenvalues)),
            "layers": _rows(self.layers, LAYERS),
            "magnitudes": _rows(self.magnitudes, MAGNITUDES),
            "metrics": _rows(self.metrics, METRICS),
            "curves": {name: _written(each, PARTS + ENDS) for name, each in self.curves.items()},
            "profiles": {name: _written(each, POINTS) for name, each in self.profiles.items()},
            "quantities": {
                name: {part: _known(each[part]) for part in (*NUMBERS, "unit")}
                for name, each in self.quantities.items()
            },
            "seconds": {stage.name: stage.seconds for stage in self.stages}
            | {"total": sum(stage.seconds for stage in self.stages)},
            "stages": [
                dict(zip(STAGES.names, (each.name, each.seconds, each.hvps), strict=True))
                for each in self.stages
            ],
            "checkpoint_sha256": checkpoint_sha256,
            "data_sha256": self.data_sha256,
            "settings": dict(settings),
            "environment": dict(self.environment),
            "record": dict(self.record),
        }

    @classmethod
    def _parts(cls, document: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of an outcome that ``document`` has written, of this release or an earlier one.

        Raises:
            ResultError: It is no such object.
        """
        try:
            points: list[Mapping[str, Any]] = document["overlap"]
            found: dict[str, Any] = {
                name: _array([point.get(column) for point in points]) for column, name in _OF_OVERLAP.items()
            }
            found |= {
                name: _array(document[name])
                for name in ("eigenvalues", "residuals", "scree_lower", "scree_upper")
            }
            found |= {
                kind: {
                    name: {part: None if each is None else _array(each) for part, each in columns.items()}
                    for name, columns in document.get(kind, {}).items()
                }
                for kind in ("curves", "profiles")
            }
            found |= {
                "quantities": {
                    name: {part: each[part] for part in (*NUMBERS, "unit")}
                    for name, each in document.get("quantities", {}).items()
                },
                "stages": _stages(document),
            }
            plain = ("parameters", "hvps", "resolved_k", "data_sha256", "environment", "record")
            found |= {name: document[name] for name in plain}
            found |= {name: document.get(name, []) for name in ("layers", "magnitudes", "metrics")}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ResultError(
                "This is no result of an analysis; take an object of the list that 'seigh analyze --json' "
                "writes, or the file Everything (JSON) of a page."
            ) from error
        return found


def _list(values: NDArray[Any] | None, length: int) -> list[Any]:
    """Numbers as JSON has them, None for what is not known."""
    if values is None:
        return [None] * length
    return [each if math.isfinite(each) else None for each in values.tolist()]


def _array(values: Sequence[float | None]) -> Floats:
    """Numbers as ``_list`` writes them, NaN for what is not known."""
    return np.array([math.nan if each is None else each for each in values], dtype=np.float64)


def _rows(rows: Rows, table: Table) -> list[dict[str, Any]]:
    return [{name: _known(row[name]) for name in table.names} for row in rows]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _written(columns: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """The parts of a curve or profile as lists; null for a part of which nothing is known."""
    written: dict[str, Any] = {}
    for part in parts:
        values = columns.get(part)
        known = [] if values is None else _list(np.asarray(values, dtype=np.float64), len(values))
        written[part] = known if any(each is not None for each in known) else None
    return written


def _stages(document: Mapping[str, Any]) -> list[Stage]:
    if "stages" in document:
        return [Stage(*(each[name] for name in STAGES.names)) for each in document["stages"]]
    # Up to 0.1.0 the products of a stage were not written.
    return [Stage(name, each, 0) for name, each in document["seconds"].items() if name != "total"]
