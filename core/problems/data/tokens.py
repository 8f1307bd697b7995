"""Files of tokens by name: ``corpus.bin(block=256,dtype=uint16)``, ``rows.jsonl``.

A child with limits reads them (``seigh.core.reading.tokens``). What a stream does not say itself, the length
of a block and the type of a token, follows its name in parentheses, and so does a text's tokenizer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from seigh.core.problems.data.dataset import DataError
from seigh.core.reading.tokens import DTYPES

SUFFIXES = (".npy", ".bin", ".jsonl", ".parquet", ".arrow", ".zip")

# Of which one must be told how long a block is, and perhaps of which type a token is.
STREAMS = (".bin", ".npy", ".zip")

# Which need another file: an index its tokens, and a text its tokenizer (``corpora``).
HALVES = (".idx", ".txt")

_WITH_OPTIONS = re.compile(r"(.+)\(([^()]*)\)\s*", re.DOTALL)
_OPTION = re.compile(r"\s*(block|dtype|tokenizer)\s*=\s*([^=]*?)\s*")
_LONGEST_BLOCK = 2**20


def split(name: str) -> tuple[str, dict[str, Any]]:
    """What a name is of, and how it is to be read.

    >>> split("corpus.bin(dtype=uint16, block=256)")
    ('corpus.bin', {'block': 256, 'dtype': 'uint16'})
    >>> split("digits"), split("random(3x4,classes=2)")
    (('digits', {}), ('random(3x4,classes=2)', {}))

    Raises:
        DataError: The options are none.
    """
    found = _WITH_OPTIONS.fullmatch(name)
    if found is None or not (found[1].startswith("sha256:") or is_meant(found[1]) or Path(found[1]).is_dir()):
        return name, {}
    options: dict[str, Any] = {}
    for part in found[2].split(","):
        option = _OPTION.fullmatch(part)
        if option is None or option[1] in options:
            raise DataError(
                f"'{found[2][:80]}' of the data '{found[1][-80:]}' is not understood; write block=256, "
                "dtype=uint16 and tokenizer=FILE, with commas between."
            )
        options[option[1]] = option[2]
    if "block" in options:
        block = options["block"]
        if not block.isdecimal() or not 1 <= int(block) <= _LONGEST_BLOCK:
            raise DataError(
                f"A block has 1 to {_LONGEST_BLOCK:,} tokens, not {block[:40]}; choose another length."
            )
        options["block"] = int(block)
    if options.get("dtype", DTYPES[0]) not in DTYPES:
        raise DataError(
            f"There is no type '{options['dtype'][:40]}' of tokens; choose one of {', '.join(DTYPES)}."
        )
    return found[1], dict(sorted(options.items()))


def joined(base: str, options: dict[str, Any]) -> str:
    """The one way to write both.

    >>> joined(*split("corpus.bin(dtype=uint16, block=256)"))
    'corpus.bin(block=256,dtype=uint16)'
    """
    written = ",".join(f"{key}={value}" for key, value in sorted(options.items()))
    return f"{base}({written})" if written else base


def is_meant(name: str) -> bool:
    """Whether a path is that of a file of tokens, by its suffix."""
    return Path(name).suffix.lower() in (*SUFFIXES, *HALVES)
