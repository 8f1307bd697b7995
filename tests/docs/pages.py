"""The pages as text: their code blocks and tables, and what it takes to run them."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from seigh.app.cli import command as cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = (README, ROOT / "SECURITY.md", *sorted(DOCS.glob("*.md")))

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a page, in their order."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def rows(page: Path) -> list[list[str]]:
    """The cells of every row of every table of a page, without headings and rules."""
    found = []
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        heading = number + 1 < len(lines) and lines[number + 1].startswith("|--")
        if line.startswith("| ") and not heading:
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The words of every ``seigh …`` in a shell block, comments left out."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if "seigh" in words:
            yield words[words.index("seigh") + 1 :]


def run(words: list[str]) -> None:
    """Run a ``seigh`` command in this process, with the shell's patterns expanded; it has to succeed."""
    expanded = [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]
    with pytest.raises(SystemExit) as end:
        cli.main(expanded)
    assert not end.value.code, shlex.join(words)


def follow(page: Path) -> dict[str, object]:
    """Do what the shell and Python blocks of a page say, in their order; the names that Python has made."""
    names: dict[str, object] = {"__name__": page.stem}
    for language, text in blocks(page):
        if language == "sh":
            for words in commands(text):
                run(words)
        elif language == "python":
            exec(compile(text, f"{page.name}, Python", "exec"), names)
    return names
