"""Checkpoints as files: read without trusting them, and checked against an architecture.

Nothing in a file is ever executed: PyTorch files go through ``torch.load(weights_only=True)``, and not
before their pickles have been walked (``pickles``) and their archive looked through (``archives``). What a
file claims about its sizes is checked before memory is given to it, so that a small file cannot ask for a
large amount. What people wrap around a state dict is taken off in ``contents``.
"""

from core.problems.checkpoints.checkpoint import METRICS, Checkpoint, CheckpointError
from core.problems.checkpoints.contents import step_from_name
from core.problems.checkpoints.files import INDEX_SUFFIX, SUFFIXES, merge, merged_name, named_files, read
from core.problems.checkpoints.fit import check_fits, fitting_architectures, load_into

__all__ = [
    "INDEX_SUFFIX",
    "METRICS",
    "SUFFIXES",
    "Checkpoint",
    "CheckpointError",
    "check_fits",
    "fitting_architectures",
    "load_into",
    "merge",
    "merged_name",
    "named_files",
    "read",
    "step_from_name",
]
