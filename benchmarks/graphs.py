"""Altered files of exported networks by the thousand: ``python -m benchmarks.graphs --files 3000``.

Each is read as an upload is, and what is accepted is computed as the lab would. Prints how many were refused
and accepted, whether anything was executed, crashed or hung, how long the slowest took, and whether a second
reading of what was accepted gave the same outputs. Ends with 1 unless all is as it should be.
"""

from __future__ import annotations

import faulthandler
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.outcome import Outcome, main
from seigh.core.problems.graphs.files import read
from seigh.core.problems.graphs.network import ExportedNetwork
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.problems.graphs.trial import refusal_of
from tests import exported

EXECUTED = Path("/tmp/seigh-executed")


@dataclass
class Figures(Outcome):
    """What became of exported networks.

    Attributes:
        tried: Files that got a sentence when they were computed, not when they were read.
    """

    tried: int = 0

    @property
    def good(self) -> bool:
        return super().good and not EXECUTED.exists()

    def lines(self) -> Iterator[str]:
        yield f"executed {EXECUTED.exists()}; refused when computed {self.tried}"
        yield from super().lines()


def examine(made: Iterable[bytes]) -> Figures:
    """Read and compute files, and again those that are accepted."""
    figures = Figures()
    EXECUTED.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="seigh-graphs-") as folder:
        path = Path(folder) / "net.pt2"
        for number, content in enumerate(made):
            path.write_bytes(content)
            started = time.monotonic()
            try:
                program = read(path).program
                said = refusal_of(program)
            except Unfit as refusal:
                figures.refused += 1
                figures.said(str(refusal))
                continue
            except Exception as error:  # what this looks for
                figures.crashes[number] = repr(error)
                continue
            finally:
                figures.took(number, time.monotonic() - started)
            if said is not None:
                figures.tried += 1
                figures.said(said)
                continue
            figures.accepted += 1
            if not torch.equal(_outputs(program), _outputs(read(path).program)):
                figures.different.append(number)
    return figures


def _outputs(program: Any) -> Tensor:
    """What a network gives for fixed weights and samples."""
    torch.manual_seed(0)
    net = ExportedNetwork(program).eval()
    x = torch.ones((2, *program.sample), dtype=program.dtype)
    with torch.no_grad():
        found = net(x)
    first: Tensor = found if isinstance(found, Tensor) else next(iter(found))
    return first.nan_to_num()


if __name__ == "__main__":
    faulthandler.enable()  # a crash of torch's own code ends this process
    main(__doc__, 3000, lambda files, seed: examine(exported.files(files, seed)))
