"""Data sets by name, a user's own files, random data, and subsets of all of them."""

from seigh.core.problems.data.catalogue import Description, canonical, describe, is_file, load, names
from seigh.core.problems.data.dataset import DataError, Dataset, Samples
from seigh.core.problems.data.files import SUFFIXES as FILE_SUFFIXES
from seigh.core.problems.data.indices import read_indices
from seigh.core.problems.data.subsets import (
    IN_MEMORY,
    Subset,
    balanced_index,
    check_matches,
    content_hash,
    first_index,
    fitting_index,
    fitting_subset,
    random_index,
    subset_index,
)
from seigh.core.problems.data.synthetic import EXAMPLE as RANDOM_EXAMPLE
from seigh.core.problems.data.tokens import STREAMS as STREAM_SUFFIXES
from seigh.core.problems.data.tokens import joined as with_options
from seigh.core.problems.data.tokens import split as options_of
from seigh.core.reading.tokens import DTYPES as TOKEN_DTYPES

__all__ = [
    "FILE_SUFFIXES",
    "IN_MEMORY",
    "RANDOM_EXAMPLE",
    "STREAM_SUFFIXES",
    "TOKEN_DTYPES",
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
    "first_index",
    "fitting_index",
    "fitting_subset",
    "is_file",
    "load",
    "names",
    "options_of",
    "random_index",
    "read_indices",
    "subset_index",
    "with_options",
]
