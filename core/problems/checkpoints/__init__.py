"""Checkpoints as files: read without trusting them, and checked against an architecture.

No file is parsed in this process: a child with limits reads it and hands back numbers
(``seigh.core.reading``). Nothing in a file is ever executed.
"""

from seigh.core.problems.checkpoints.checkpoint import Checkpoint, CheckpointError
from seigh.core.problems.checkpoints.files import (
    INDEX_SUFFIX,
    SUFFIXES,
    merge,
    merged_name,
    named_files,
    read,
)
from seigh.core.problems.checkpoints.fit import check_fits, fitting_architectures, load_into
from seigh.core.problems.checkpoints.names import NameFacts, read_name
from seigh.core.problems.checkpoints.order import (
    Position,
    Source,
    guesses_agree,
    notes,
    positions,
    settled,
    unknown,
)
from seigh.core.reading.words import METRICS

__all__ = [
    "INDEX_SUFFIX",
    "METRICS",
    "SUFFIXES",
    "Checkpoint",
    "CheckpointError",
    "NameFacts",
    "Position",
    "Source",
    "check_fits",
    "fitting_architectures",
    "guesses_agree",
    "load_into",
    "merge",
    "merged_name",
    "named_files",
    "notes",
    "positions",
    "read",
    "read_name",
    "settled",
    "unknown",
]
