"""Data sets by name, a user's own files, random data, and class-balanced subsets of all of them."""

from core.problems.data.catalogue import Description, canonical, describe, is_file, load, names
from core.problems.data.dataset import DataError, Dataset, Samples
from core.problems.data.files import SUFFIXES as FILE_SUFFIXES
from core.problems.data.subsets import (
    Subset,
    balanced_index,
    check_matches,
    content_hash,
    fitting_index,
    fitting_subset,
)
from core.problems.data.synthetic import EXAMPLE as RANDOM_EXAMPLE

__all__ = [
    "FILE_SUFFIXES",
    "RANDOM_EXAMPLE",
    "DataError",
    "Dataset",
    "Description",
    "Samples",
    "Subset",
    "balanced_index",
    "canonical",
    "check_matches",
    "content_hash",
    "describe",
    "fitting_index",
    "fitting_subset",
    "is_file",
    "load",
    "names",
]
