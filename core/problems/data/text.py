"""Text that comes with Python, as characters: the language reference that ``help()`` shows, by topic.

Characters are numbered by a fixed table, so that the vocabulary is the same for every version of Python; the
text itself differs a little between them.
"""

from __future__ import annotations

import importlib
from functools import cache

import torch
from torch import Tensor

from seigh.core.problems.data.dataset import DataError, Dataset

NAME = "python-docs"
BLOCK = 64

# Printable ASCII and the end of a line, and one number for all other characters.
_CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(_CHARACTERS) + 1

_TEST_SHARE = 10  # the last tenth of the text is the test split


@cache
def _text() -> str:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise DataError(
            "This Python lacks the texts of help() (pydoc_data), as minimal installations do; install the "
            "full standard library."
        ) from error
    return "\n\n".join(topics[name] for name in sorted(topics))


@cache
def _tokens() -> Tensor:
    number = {character: place for place, character in enumerate(_CHARACTERS)}
    return torch.tensor([number.get(character, VOCABULARY - 1) for character in _text()])


def load(split: str) -> Dataset:
    """Blocks of 64 characters; labels are the characters and the one after each block: (N, 65).

    Args:
        split: ``train`` is the first nine tenths of the text, ``test`` the rest.

    Raises:
        DataError: The text is not there.
    """
    tokens = _tokens()
    end = len(tokens) - len(tokens) // _TEST_SHARE
    part = tokens[:end] if split == "train" else tokens[end:]
    number = (len(part) - 1) // BLOCK
    x = part[: number * BLOCK].view(number, BLOCK)
    return Dataset(NAME, x, torch.cat([x, part[BLOCK : number * BLOCK + 1 : BLOCK, None]], dim=1))
