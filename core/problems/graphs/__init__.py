"""Networks that people bring as a graph of ``torch.export``: architectures without a line of their code.

A child reads the file (``seigh.core.reading.graphs``); ``operations`` lists what a network may consist of,
``program`` checks that it consists of nothing else, ``network`` is the module, and ``files`` knows where the
files lie. ``export`` writes such a file and certifies it.
"""

from seigh.core.problems.graphs.files import (
    FOLDER,
    SOURCE,
    SUFFIX,
    Graph,
    exists,
    find,
    forget,
    is_file,
    names,
    settled,
    take,
)
from seigh.core.problems.graphs.network import ExportedNetwork
from seigh.core.problems.graphs.operations import Unfit

__all__ = [
    "FOLDER",
    "SOURCE",
    "SUFFIX",
    "ExportedNetwork",
    "Graph",
    "Unfit",
    "exists",
    "find",
    "forget",
    "is_file",
    "names",
    "settled",
    "take",
]
