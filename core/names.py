"""Names of choices that both the settings of an analysis and the code that computes it know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

Kind = Literal["hessian", "ggn"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PathName = Literal["double-backward", "linearize", "curvlinops"]
PATHS: tuple[PathName, ...] = get_args(PathName)

# Precisions of products that are coarser than those of the weights and vectors.
Reduced = Literal["tf32", "bfloat16"]
REDUCED: tuple[Reduced, ...] = get_args(Reduced)

TestMatrixName = Literal["ssrft", "gaussian", "rademacher"]
TEST_MATRICES: tuple[TestMatrixName, ...] = get_args(TestMatrixName)

# Which samples of a data set a Hessian is taken on (``seigh.core.problems.data.subsets``).
SubsetName = Literal["balanced", "all", "first-per-class", "random", "indices"]
SUBSETS: tuple[SubsetName, ...] = get_args(SubsetName)

# Grassmannian metrics of the paper; all but the overlap are distances.
Metric = Literal[
    "geodesic", "chordal_2", "chordal_f", "projection_2", "projection_f", "fubini_study", "overlap"
]
METRICS: tuple[Metric, ...] = get_args(Metric)

# The largest value of each distance, of orthogonal subspaces of dimension k, is the first number times k to
# the power of the second.
LARGEST: Mapping[str, tuple[float, float]] = {
    "geodesic": (math.pi / 2, 0.5),
    "chordal_2": (math.sqrt(2), 0.0),
    "chordal_f": (math.sqrt(2), 0.5),
    "projection_2": (1.0, 0.0),
    "projection_f": (1.0, 0.5),
    "fubini_study": (math.pi / 2, 0.0),
}

# Built-in curves that are compared with an earlier checkpoint, by the setting that names it (``Observable``):
# they are left out at a model's first step.
OF_EARLIER: Mapping[str, str] = {
    "overlap-movement": "initial",
    "overlap-update": "previous",
    "update-share": "previous",
    "loss-between": "previous",
    "loss-from-initial": "initial",
}

# The settings that name earlier checkpoints, and what to call these.
EARLIER: Mapping[str, str] = {"initial": "the initial checkpoint", "previous": "the checkpoint before"}

# Of two checkpoints' masks: the share of the coordinates in either that are in both.
IOU = "iou"

# What people read for masks that every analysis has, by the names of these in tables, curves and addresses.
MASKS_CALLED: Mapping[str, str] = {"magnitude": "largest |θ|", "best": "best mask"}


def mask_called(name: str) -> str:
    """What people read for a mask; further ones are called by their names."""
    return MASKS_CALLED.get(name, name)


# What stands in the place of a split for data that are of none.
NO_SPLIT = "no split"

# k/D at which the paper looks at the stabilisation of masks and eigenspaces.
SPARSITIES: tuple[float, ...] = (0.005, 0.01, 0.05, 0.2)

# What the lines of a log are for: people, or programs that collect them.
LogFormat = Literal["text", "json"]

# When a worker lets others take part in an analysis; no part of its numbers.
Share = Literal["auto", "always", "never"]

# Where a piece of work is to run; no part of its numbers.
Place = Literal["any", "cpu", "gpu"]
PLACES: tuple[Place, ...] = get_args(Place)

# How soon queued work is to be begun beside other work (``seigh.core.lab.turns``); no part of its numbers.
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

# Tables that can be exported (``seigh.core.lab.tables``).
TableName = Literal[
    "overlap",
    "analyses",
    "curves",
    "eigenvalues",
    "layers",
    "magnitudes",
    "masks",
    "metrics",
    "pairs",
    "profiles",
    "quantities",
    "stages",
    "training",
]
