"""What becomes of altered files that are read by the thousand: counted and printed."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

HANG = 10.0  # seconds


@dataclass
class Outcome:
    """What became of files.

    Attributes:
        refused: Files that got a sentence when they were read.
        accepted: Files that were read.
        crashes: What was raised instead of a sentence, by file number.
        hangs: Files that took more than ``HANG`` seconds.
        different: Accepted files that gave something else the second time.
        slowest: Seconds of the slowest.
        sentences: The sentences without their names and numbers, and how often each was said.
    """

    refused: int = 0
    accepted: int = 0
    crashes: dict[int, str] = field(default_factory=dict)
    hangs: list[int] = field(default_factory=list)
    different: list[int] = field(default_factory=list)
    slowest: float = 0
    sentences: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return not (self.crashes or self.hangs or self.different)

    def said(self, sentence: str) -> None:
        """Count a sentence; what is none counts as a crash."""
        if not sentence.endswith(".") or "\n" in sentence or len(sentence) > 600:
            self.crashes[-len(self.crashes) - 1] = f"no sentence: {sentence!r}"
        self.sentences[re.sub(r"\d[\d,.]*", "N", re.sub(r"'[^']*'", "…", sentence))[:110]] += 1

    def took(self, number: int, seconds: float) -> None:
        """Note how long a file took."""
        self.slowest = max(self.slowest, seconds)
        if seconds > HANG:
            self.hangs.append(number)

    def lines(self) -> Iterator[str]:
        """What is printed."""
        yield f"refused {self.refused}, accepted {self.accepted}"
        yield f"crashes {len(self.crashes)} {list(self.crashes.items())[:5] or ''}"
        yield f"hangs over {HANG:.0f} s {len(self.hangs)}; slowest {self.slowest:.1f} s"
        yield f"different when read again {len(self.different)} {self.different[:5] or ''}"


def main(description: str | None, files: int, run: Callable[[int, int], Outcome]) -> None:
    """Run a benchmark from the command line, print its outcome, and end with 1 unless that is good.

    Args:
        description: Of the command.
        files: How many, unless ``--files`` says something else.
        run: Reads as many files, made from a seed.
    """
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--files", type=int, default=files)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--sentences", action="store_true", help="Print what was said, too.")
    given = options.parse_args()
    started = time.monotonic()
    outcome = run(given.files, given.seed)
    print(f"{given.files} files, seed {given.seed}, {time.monotonic() - started:.0f} s")
    for line in outcome.lines():
        print(line)
    if given.sentences:
        for sentence, count in outcome.sentences.most_common():
            print(f"{count:6} {sentence}")
    sys.exit(not outcome.good)
