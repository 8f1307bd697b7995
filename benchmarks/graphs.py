"""Altered files of exported networks by the thousand: ``python -m benchmarks.graphs --files 3000``.

Each is read as an upload is, and what is accepted is computed as the lab would. Prints how many were refused
and accepted, whether anything was executed, crashed or hung, how long the slowest took, and whether a second
reading of what was accepted gave the same outputs. Ends with 1 unless all is as it should be.
"""

from __future__ import annotations

import argparse
import faulthandler
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seigh.core.problems.graphs.files import read
from seigh.core.problems.graphs.network import ExportedNetwork
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.problems.graphs.trial import refusal_of
from tests import exported

HANG = 10.0  # seconds
EXECUTED = Path("/tmp/seigh-executed")


@dataclass
class Figures:
    """What became of files.

    Attributes:
        refused: Files that got a sentence when they were read.
        tried: Files that got a sentence when they were computed.
        accepted: The others.
        crashes: What was raised instead of a sentence, by file number.
        hangs: Files that took more than ``HANG`` seconds.
        different: Accepted files that gave something else the second time.
        slowest: Seconds of the slowest.
        sentences: The sentences without their names and numbers, and how often each was said.
    """

    refused: int = 0
    tried: int = 0
    accepted: int = 0
    crashes: dict[int, str] = field(default_factory=dict)
    hangs: list[int] = field(default_factory=list)
    different: list[int] = field(default_factory=list)
    slowest: float = 0
    sentences: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return not (self.crashes or self.hangs or self.different or EXECUTED.exists())


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
                _count(figures, str(refusal))
                continue
            except Exception as error:  # what this looks for
                figures.crashes[number] = repr(error)
                continue
            finally:
                seconds = time.monotonic() - started
                figures.slowest = max(figures.slowest, seconds)
                if seconds > HANG:
                    figures.hangs.append(number)
            if said is not None:
                figures.tried += 1
                _count(figures, said)
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


def _count(figures: Figures, sentence: str) -> None:
    if not sentence.endswith(".") or "\n" in sentence or len(sentence) > 600:
        figures.crashes[-len(figures.crashes) - 1] = f"no sentence: {sentence!r}"
    figures.sentences[re.sub(r"\d[\d,.]*", "N", re.sub(r"'[^']*'", "…", sentence))[:110]] += 1


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=3000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--sentences", action="store_true", help="Print what was said, too.")
    given = options.parse_args()
    faulthandler.enable()  # a crash of torch's own code ends this process
    started = time.monotonic()
    figures = examine(exported.files(given.files, given.seed))
    print(f"{given.files} files, seed {given.seed}, {time.monotonic() - started:.0f} s")
    print(f"refused {figures.refused}, refused when computed {figures.tried}, accepted {figures.accepted}")
    print(
        f"executed {EXECUTED.exists()}; crashes {len(figures.crashes)} "
        f"{list(figures.crashes.items())[:5] or ''}"
    )
    print(f"hangs over {HANG:.0f} s {len(figures.hangs)}; slowest {figures.slowest:.1f} s")
    print(f"different when read again {len(figures.different)} {figures.different[:5] or ''}")
    if given.sentences:
        for sentence, count in figures.sentences.most_common():
            print(f"{count:6} {sentence}")
    sys.exit(not figures.good)


if __name__ == "__main__":
    main()
