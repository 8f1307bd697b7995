"""Checkpoints as files: read without trusting them, and checked against an architecture.

No file is parsed in this process: a child with limits reads it and hands back numbers
(``seigh.core.reading``). Nothing in a file is ever executed.
"""

from seigh.core.problems.checkpoints.beside import FILES as BESIDE
from seigh.core.problems.checkpoints.beside import keep as keep_beside
from seigh.core.problems.checkpoints.checkpoint import Checkpoint, CheckpointError
from seigh.core.problems.checkpoints.files import (
    INDEX_SUFFIX,
    NAMED_BY_FOLDER,
    SUFFIXES,
    merge,
    merged_name,
    named_files,
    read,
)
from seigh.core.problems.checkpoints.fit import (
    Match,
    Pair,
    check_fits,
    compare_outputs,
    fitting_architectures,
    fitting_by_order,
    load_into,
    named,
    pairs,
    parts,
)
from seigh.core.problems.checkpoints.folders import (
    ARCHIVE,
    Bundle,
    gather,
    in_archive,
    is_one_of_several,
    nothing_in,
    whole,
)
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
    "ARCHIVE",
    "BESIDE",
    "INDEX_SUFFIX",
    "METRICS",
    "NAMED_BY_FOLDER",
    "SUFFIXES",
    "Bundle",
    "Checkpoint",
    "CheckpointError",
    "Match",
    "NameFacts",
    "Pair",
    "Position",
    "Source",
    "check_fits",
    "compare_outputs",
    "fitting_architectures",
    "fitting_by_order",
    "gather",
    "guesses_agree",
    "in_archive",
    "is_one_of_several",
    "keep_beside",
    "load_into",
    "merge",
    "merged_name",
    "named",
    "named_files",
    "notes",
    "nothing_in",
    "pairs",
    "parts",
    "positions",
    "read",
    "read_name",
    "settled",
    "unknown",
    "whole",
]
