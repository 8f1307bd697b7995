"""Streamlit's script for charts, with ``app/turns.js``: charts in the window are drawn before the others.

Streamlit draws all charts of a page in one go, and nothing that a page can ask for changes that. Its script
is taken as it is where it has not the two places that are changed here, as another version of it may; then
all charts are drawn at once.
"""

from __future__ import annotations

import re
from pathlib import Path

TURNS = Path(__file__).resolve().parents[1] / "turns.js"

# Where a chart is made, as by vega-embed, in an element.
_MADE = re.compile(r"(\{vgSpec:\w+,view:\w+,finalize:\w+\}=await )(\w+)\((\w+),(\w+),(\w+)\)")
# Where a chart that is there takes other data. It is told at once which data it has: else, where others come
# before it is drawn, and are those of before, it would keep those between.
_CHANGED = re.compile(
    r"(updateView:\(0,\w+\.useCallback\)\(async\((?P<data>\w+),(?P<sets>\w+)\)=>(?P<view>\w+)\.current===null\|\|\w+\?null:)"
    r"\((?P<take>\w+\((?P=view)\.current,(?P=data),(?P=sets)\)),"
    r"(?P<run>await (?P=view)\.current\.resize\(\)\.runAsync\(\)),"
    r"(?P<known>\w+\.current=(?P=data),\w+\.current=(?P=sets)),(?P=view)\.current\)"
)


def concerns(name: str) -> bool:
    """Whether a file of Streamlit's, by its path, is that script."""
    return re.fullmatch(r"js/ArrowVegaLiteChart\..*\.js", name) is not None


def in_turn(script: str) -> str:
    """The script with turns; as it is, where it has other places than those that are known."""
    with_new, made = _MADE.subn(r"\1seighInTurn(\3,\4,()=>\2(\3,\4,\5))", script)
    with_both, changed = _CHANGED.subn(
        r"\1seighInTurn(\g<view>.current.container(),null,async()=>\g<view>.current===null?null:"
        r"(\g<take>,\g<known>,\g<run>,\g<view>.current))",
        with_new,
    )
    return f"{with_both}\n{TURNS.read_text(encoding='utf-8')}" if made == changed == 1 else script
