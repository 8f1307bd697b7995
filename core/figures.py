"""A figure with everything that is said about it. What draws it is imported only when it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A chart, its data and its words: pages, reports and downloads show the same object.

    All words are plain text without marks of a language such as Markdown.

    Attributes:
        title: What is drawn, with its size k if it has one.
        how: How to read it: sentences, the first of which begins in lower case.
        alt: The chart in a sentence, for those who cannot see it.
        table: What is drawn, tidy: a pandas data frame, or what ``pandas.DataFrame`` takes, such as a mapping
            from column to values. The downloads have it.
        draw: Makes an Altair chart from the table, a data frame.
        columns: What each column of the table means, with its unit; columns of queries need no words.
        symbols: What the symbols in title and axes mean.
        of: Which line or analysis it is of, where several figures of the same kind stand side by side.
        file: The name of its downloads without suffix; made of title and ``of`` if empty.
    """

    title: str
    how: str
    alt: str
    table: Any
    draw: Callable[[Any], Any]
    columns: Mapping[str, str] = field(default_factory=dict)
    symbols: str = ""
    of: str = ""
    file: str = ""

    @property
    def heading(self) -> str:
        """The title, and what the figure is of: unique among figures that stand side by side."""
        return f"{self.title}: {self.of}" if self.of else self.title


# A figure of one analysis, of the object that ``seigh analyze --json`` writes; None where that object has
# nothing to draw, as one of an earlier version may.
OfResult = Callable[[Mapping[str, Any]], Figure | None]
