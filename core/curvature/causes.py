"""Turn an exception of PyTorch, or of a network's own code, into one sentence."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch

# Names of operations as PyTorch's refusals to differentiate have them.
_OPERATION = (
    re.compile(r"derivative for '?(?:aten::)?([\w.]+?)'? is not implemented"),
    re.compile(r"forward AD with (?:aten::)?([\w.]+) that does not"),
    re.compile(r"Function (\w+?)(?:Backward)?(?:\d*)Error"),
)


def reason(error: BaseException) -> str:
    """The first line of an exception, with its kind where that alone says what happened.

    >>> reason(KeyError("width")), reason(ValueError("too wide."))
    ("KeyError: 'width'", 'too wide')
    """
    line = f"{error}".strip().partition("\n")[0].rstrip(". ")[:300]
    if not line:
        return type(error).__name__
    plain = type(error) in (RuntimeError, ValueError, AssertionError)
    return line if plain else f"{type(error).__name__}: {line}"


def operation(text: str) -> str | None:
    """The operation that cannot be differentiated, if an exception's text names one.

    >>> operation("derivative for aten::hardsigmoid_backward is not implemented")
    'hardsigmoid'
    """
    for pattern in _OPERATION:
        if match := pattern.search(text):
            return match[1].strip("_").removesuffix("_interface").removesuffix("_backward")
    return None


def place(error: BaseException) -> str | None:
    """Where in a network's code an exception was raised: ``file.py, line 12``; None if in PyTorch or here."""
    others = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*others, "<"))]
    if not own or own[-1] is frames[0]:  # whoever asked
        return None
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
