"""Data sets by name, a user's own files, random data, and subsets of all of them."""

from seigh.core.problems.data.catalogue import (
    Description,
    canonical,
    describe,
    has_splits,
    is_file,
    load,
    names,
)
from seigh.core.problems.data.corpora import packed, together
from seigh.core.problems.data.dataset import DataError, Dataset, Samples
from seigh.core.problems.data.files import SUFFIXES as FILE_SUFFIXES
from seigh.core.problems.data.files import stored as stored_file
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
from seigh.core.problems.data.summary import Summary, as_image, examples, summarise
from seigh.core.problems.data.synthetic import EXAMPLE as RANDOM_EXAMPLE
from seigh.core.problems.data.tokens import HALVES as HALF_SUFFIXES
from seigh.core.problems.data.tokens import STREAMS as STREAM_SUFFIXES
from seigh.core.problems.data.tokens import joined as with_options
from seigh.core.problems.data.tokens import split as options_of
from seigh.core.reading.tokens import DTYPES as TOKEN_DTYPES

__all__ = [
    "FILE_SUFFIXES",
    "HALF_SUFFIXES",
    "IN_MEMORY",
    "RANDOM_EXAMPLE",
    "STREAM_SUFFIXES",
    "TOKEN_DTYPES",
    "DataError",
    "Dataset",
    "Description",
    "Samples",
    "Subset",
    "Summary",
    "as_image",
    "balanced_index",
    "canonical",
    "check_matches",
    "content_hash",
    "describe",
    "examples",
    "first_index",
    "fitting_index",
    "fitting_subset",
    "has_splits",
    "is_file",
    "load",
    "names",
    "options_of",
    "packed",
    "random_index",
    "read_indices",
    "stored_file",
    "subset_index",
    "summarise",
    "together",
    "with_options",
]
