"""Turn an exception of PyTorch, or of a network's own code, into one sentence."""

from __future__ import annotations

import re
import traceback
from itertools import dropwhile, takewhile
from pathlib import Path

import torch

# Names of operations as PyTorch's refusals to differentiate have them.
_OPERATION = (
    re.compile(r"derivative for '?(?:aten::)?([\w.]+?)'? is not implemented"),
    re.compile(r"forward AD with (?:aten::)?([\w.]+) that does not"),
    re.compile(r"Function (\w+?)(?:Backward)?(?:\d*)Error"),
    re.compile(r"has an operation \((\w+)\) that cannot be differentiated twice"),
)

# The operation whose derivative is NaN, as PyTorch's detection of anomalies says it.
_NOT_A_NUMBER = re.compile(r"Function '(\w+?)(?:Backward\d*)?' returned nan values")

# What to write in place of operations without a second derivative, by what their names begin with.
_INSTEAD = {
    "embedding_bag": "write it as F.embedding(ids, weight).mean(1), or sum(1)",
    "scaled_dot_product": "leave the kernel of attention to PyTorch, or choose SDPBackend.MATH",
    "cudnn_rnn": "compute it with torch.backends.cudnn.flags(enabled=False)",
    "cdist": "write it as (x[:, None] - y).square().sum(-1).sqrt()",
    "pdist": "write it as the square roots of sums of squares",
}


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


def instead(name: str) -> str:
    """What to do about an operation without a second derivative.

    >>> instead("cdist")
    'write it as (x[:, None] - y).square().sum(-1).sqrt()'
    >>> instead("Mine")
    'write it by elementary operations'
    """
    found = next((way for start, way in _INSTEAD.items() if name.lstrip("_").startswith(start)), None)
    return found or "write it by elementary operations"


def not_a_number(text: str) -> str | None:
    """The operation whose derivative is NaN, if an exception's text names one.

    >>> not_a_number("Function 'LinalgVectorNormBackward0' returned nan values in its 0th output.")
    'LinalgVectorNorm'
    """
    match = _NOT_A_NUMBER.search(text)
    return None if match is None else match[1]


def known(error: BaseException) -> str | None:
    """What to do about an exception that a network's way of computing is known to cause; None for others."""
    text = str(error)
    if "use_reentrant" in text and "checkpoint" in text:
        return (
            "The network computes parts again with torch.utils.checkpoint and use_reentrant=True, which "
            "gives no second derivatives; set use_reentrant=False."
        )
    if "more than 1 value per channel when training" in text:
        return (
            "The network mixes the samples of a batch in eval mode, by a BatchNorm that stays in training "
            "mode, so that the loss is no mean over samples; let it use its running statistics."
        )
    return None


_TORCH, _CORE = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])


def place(error: BaseException) -> str | None:
    """Where in a network's code an exception was raised: ``file.py, line 12``; None if in PyTorch or here."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((_TORCH, _CORE, "<"))]
    if not own or own[-1] is frames[0]:  # whoever asked
        return None
    return _line(own[-1])


def here() -> str | None:
    """The line of a network's code that runs now, called from here; None if there is none but PyTorch's."""
    frames = iter(reversed(traceback.extract_stack()))
    inside = dropwhile(lambda frame: frame.filename.startswith(_CORE), frames)
    for frame in takewhile(lambda frame: not frame.filename.startswith(_CORE), inside):
        if not frame.filename.startswith((_TORCH, "<")):
            return _line(frame)
    return None


def _line(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}, line {frame.lineno}"
