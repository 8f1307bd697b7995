"""The schema of results: the one list of tables and columns, with types, units and meanings.

JSON, exports, queries and docs/results.md are made from it, and the database's tables are held to it by a
test. A table has a row for each value of its keys; a number that is not known is NULL, NaN or null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """A column of a table of results.

    Attributes:
        name: In the database, JSON, exports and frames.
        kind: Type of its values.
        unit: Unit of numbers; "" where they have none.
        meaning: What it says, without a full stop.
        known: Whether it is known of every row.
    """

    name: str
    kind: Literal["int", "float", "text"]
    unit: str
    meaning: str
    known: bool = True


@dataclass(frozen=True)
class Table:
    """A table of results, of one analysis.

    Attributes:
        name: In exports and JSON.
        sql: In the database.
        keys: The columns that tell its rows apart.
        columns: All columns, the keys first.
    """

    name: str
    sql: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def types(self) -> dict[str, Any]:
        """The type of each column in a frame."""
        return {each.name: {"int": int, "float": float, "text": object}[each.kind] for each in self.columns}

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(each.name for each in self.columns)


_K = Column("k", "int", "", "size of mask and eigenspace, from 1")
_SHARE = "share, in [0, 1]"

SPECTRUM = Table(
    "eigenvalues",
    "eigenvalue",
    ("position",),
    (
        Column("position", "int", "", "rank of the eigenvalue by |λ|, from 1"),
        Column("value", "float", "as the matrix", "eigenvalue λ"),
        Column("residual", "float", "as λ", "‖Hv − λv‖₂, rounding included", known=False),
        Column(
            "scree_lower",
            "float",
            _SHARE,
            "lower bound of the share of ‖H‖²_F beyond the eigenvalues 1 … position",
            known=False,
        ),
        Column("scree_upper", "float", _SHARE, "upper bound of the same share", known=False),
    ),
)

OVERLAP = Table(
    "overlap",
    "overlap_point",
    ("k",),
    (
        _K,
        Column("overlap", "float", _SHARE, "overlap of the mask of largest |θ| with V_k, the mean over ties"),
        Column("error", "float", _SHARE, "stated error of the overlap", known=False),
        Column("least", "float", _SHARE, "least overlap over all ways to break ties", known=False),
        Column("greatest", "float", _SHARE, "greatest overlap over all ways to break ties", known=False),
        Column("chance", "float", _SHARE, "chance level k/D"),
        Column("random_mean", "float", _SHARE, "mean overlap of random masks"),
        Column("random_std", "float", _SHARE, "standard deviation over random masks"),
        Column("random_std_error", "float", _SHARE, "stated error of random_std", known=False),
        Column("best", "float", _SHARE, "overlap of the best mask for V_k"),
        Column("best_error", "float", _SHARE, "stated error of best", known=False),
        Column("tied", "int", "coordinates", "equal |θ| that compete for places in the mask", known=False),
    ),
)

LAYERS = Table(
    "layers",
    "layer_share",
    ("k", "position"),
    (
        _K,
        Column("position", "int", "", "place of the tensor in the model, from 0"),
        Column("name", "text", "", "name of the tensor"),
        Column("parameters", "int", "coordinates", "number of parameters in the tensor"),
        Column("eigenspace", "float", _SHARE, "the tensor's share of the mass of V_k"),
        Column("mask", "float", _SHARE, "the tensor's share of the mask"),
        Column("overlap", "float", _SHARE, "the tensor's share of the overlap", known=False),
    ),
)

MAGNITUDES = Table(
    "magnitudes",
    "magnitude_bin",
    ("k", "position"),
    (
        _K,
        Column("position", "int", "", "number of the bin, from 0 for the largest |θ|"),
        Column("count", "int", "coordinates", "number of weights in the bin"),
        Column("largest", "float", "as θ", "largest |θ| in the bin"),
        Column("smallest", "float", "as θ", "smallest |θ| in the bin"),
        Column("mean", "float", "mass of a coordinate", "mean of ‖row of V_k‖²/k over the bin"),
        Column("low", "float", "mass of a coordinate", "10 % quantile over the bin"),
        Column("median", "float", "mass of a coordinate", "median over the bin"),
        Column("high", "float", "mass of a coordinate", "90 % quantile over the bin"),
    ),
)

METRICS = Table(
    "metrics",
    "subspace_metric",
    ("k", "metric"),
    (
        _K,
        Column("metric", "text", "", "name of the Grassmannian metric"),
        Column("value", "float", "", "metric between mask and V_k"),
        Column("error", "float", "", "stated error of the value", known=False),
        Column("random_mean", "float", "", "mean over random subspaces"),
        Column("random_std", "float", "", "standard deviation over random subspaces"),
    ),
)

STAGES = Table(
    "stages",
    "stage_timing",
    ("stage",),
    (
        Column("stage", "text", "", "name of the stage"),
        Column("seconds", "float", "s", "time that the stage took"),
        Column("hvps", "int", "products", "Hessian-vector products in the stage"),
    ),
)

CURVES = Table(
    "curves",
    "curve",
    ("curve", "k"),
    (
        Column("curve", "text", "", "name of the further curve"),
        _K,
        Column("value", "float", "as the curve", "value at k"),
        Column("error", "float", "as the curve", "stated error of the value", known=False),
        Column("chance", "float", "as the curve", "value for an unrelated eigenspace", known=False),
        Column("lower", "float", "as the curve", "lower end of the interval of the value", known=False),
        Column("upper", "float", "as the curve", "upper end of the interval of the value", known=False),
    ),
)

# What a curve says at each k, and between what its value lies.
PARTS = ("value", "error", "chance")
ENDS = ("lower", "upper")

_OWN = "as the observable"

PROFILES = Table(
    "profiles",
    "observation",
    ("observable", "line", "x"),
    (
        Column("observable", "text", "", "name of the profile"),
        Column("line", "float", "", "number of the line, such as that of an eigenvector", known=False),
        Column("x", "float", "as the profile's axis", "place on the profile's axis"),
        Column("value", "float", _OWN, "value at x"),
        Column("lower", "float", _OWN, "lower end of the error or interval", known=False),
        Column("upper", "float", _OWN, "upper end of the error or interval", known=False),
        Column("reference", "float", _OWN, "reference value", known=False),
    ),
)

# What a profile says of each of its points.
POINTS = tuple(name for name in PROFILES.names if name != "observable")

QUANTITIES = Table(
    "quantities",
    "observation",
    ("observable",),
    (
        Column("observable", "text", "", "name of the quantity"),
        Column("value", "float", _OWN, "value of the quantity"),
        Column("lower", "float", _OWN, "lower end of the error or interval", known=False),
        Column("upper", "float", _OWN, "upper end of the error or interval", known=False),
        Column("reference", "float", _OWN, "reference value", known=False),
        Column("unit", "text", "", "unit of the quantity; empty if it has none"),
    ),
)

# What a quantity says.
NUMBERS = ("value", "lower", "upper", "reference")

TABLES: Mapping[str, Table] = MappingProxyType(
    {
        each.name: each
        for each in (
            *(SPECTRUM, OVERLAP, LAYERS, MAGNITUDES, METRICS, STAGES),
            *(CURVES, PROFILES, QUANTITIES),
        )
    }
)
