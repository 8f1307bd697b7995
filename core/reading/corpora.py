"""Tokens that lie in several files, which come as one ``.zip`` archive, as a child reads them.

- ``.idx`` and ``.bin``: an indexed data set of Megatron-LM (``megatron/core/datasets/indexed_dataset.py``).
  Its documents become rows or, with the length of a block, one stream, as in its training.
- ``.txt`` or rows with ``text``, and ``tokenizer.json``: text with a tokenizer of the ``tokenizers`` library.
- Several files of rows, as ``save_to_disk`` writes large sets, in their order.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from seigh.core.reading.archives import directory_bytes
from seigh.core.reading.task import Task
from seigh.core.reading.tokens import ROWS, blocks, check_size, in_rows, rows_of, too_large
from seigh.core.reading.words import LARGEST_STRUCTURE, Refusal, shown

TOKENIZER = "tokenizer.json"
# Of ``save_to_disk``: which files there are, and in what order.
STATE = "state.json"

_MOST_MEMBERS = 10_000
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_Numbers = np.ndarray[Any, Any]


def read(task: Task) -> tuple[_Numbers, _Numbers]:
    """Tokens (N, T) and labels of the files in an archive.

    Raises:
        Refusal: They are none, or do not belong together.
    """
    held = _members(task)
    kinds: dict[str, list[str]] = {}
    for name in held:
        kinds.setdefault(PurePosixPath(name).suffix.lower().removeprefix("."), []).append(name)
    if "idx" in kinds:
        return _indexed(task, held, kinds)
    tokenizer = next((name for name in held if PurePosixPath(name).name == TOKENIZER), None)
    if "txt" in kinds:
        if tokenizer is None:
            raise Refusal(
                f"'{task.name}' holds text and no {TOKENIZER}; give the one that the model was trained with."
            )
        if len(kinds["txt"]) > 1:
            raise Refusal(f"'{task.name}' holds several texts; give one.")
        return _text(task, held[kinds["txt"][0]], _Tokenizer(task, held[tokenizer]))
    if rows := [kind for kind in ROWS if kind in kinds]:
        if len(rows) > 1:
            raise Refusal(f"'{task.name}' holds files of rows in several formats; give those of one.")
        return _shards(task, held, kinds[rows[0]], tokenizer)
    raise Refusal(
        f"'{task.name}' holds no data; give .idx and .bin of Megatron, a .txt with its {TOKENIZER}, or files "
        "of rows (.jsonl, .parquet, .arrow)."
    )


def _members(task: Task) -> dict[str, memoryview]:
    """The files in the archive that are of use here, by their names."""
    size = directory_bytes(task.file)
    if size is None or size > LARGEST_STRUCTURE:
        raise Refusal(f"'{task.name}' is a damaged archive; make or upload it again.")
    wanted = (*(f".{kind}" for kind in ROWS), ".idx", ".bin", ".txt")
    held: dict[str, memoryview] = {}
    with zipfile.ZipFile(task.file) as archive:
        entries = [
            each
            for each in archive.infolist()
            if each.filename.lower().endswith(wanted)
            or PurePosixPath(each.filename).name in (TOKENIZER, STATE)
        ]
        if len(entries) > _MOST_MEMBERS or sum(each.file_size for each in entries) > task.options["largest"]:
            raise too_large(task)
        for entry in entries:
            if entry.flag_bits & 1 or entry.compress_type not in _COMPRESSIONS:
                raise Refusal(
                    f"'{shown(entry.filename)}' in '{task.name}' is encrypted, or compressed in an unusual "
                    "way; make the archive with plain zip."
                )
            held[entry.filename] = memoryview(archive.read(entry))
    return held


# --- Megatron ---------------------------------------------------------------------------------------------

_MAGIC = b"MMIDIDX\x00\x00"
_OLDER_MAGIC = b"TNTIDX\x00\x00"
_HEADER = len(_MAGIC) + 8 + 1 + 8 + 8
# The numbers of types in an index; floating-point ones are no tokens.
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def _indexed(
    task: Task, held: Mapping[str, memoryview], kinds: Mapping[str, list[str]]
) -> tuple[_Numbers, _Numbers]:
    (index, *more), tokens = kinds["idx"], kinds.get("bin", [])
    if more or len(tokens) != 1:
        raise Refusal(
            f"'{task.name}' holds {len(kinds['idx'])} .idx and {len(tokens)} .bin files; give one of each, "
            "of one data set."
        )
    found = documents(task, held[index], held[tokens[0]])
    if "block" in task.options:
        return blocks(task, np.concatenate(found) if found else np.zeros(0, np.int64))
    longest = max((len(each) for each in found), default=0)
    if not longest:
        raise Refusal(f"'{task.name}' holds no tokens.")
    if 16 * len(found) * longest > task.options["largest"]:
        raise Refusal(
            f"'{task.name}' has {len(found):,} documents of up to {longest:,} tokens, which are too many as "
            f"rows; say the length of a block, as in training: {task.name}(block=1024)."
        )
    x = np.full((len(found), longest), -1, np.int64)
    for row, document in zip(x, found, strict=True):
        row[: len(document)] = document
    return x, np.where(x >= 0, x, -100)


def documents(task: Task, index: memoryview, content: memoryview) -> list[_Numbers]:
    """The tokens of each document that has some, in the order of the index.

    Args:
        task: For its name.
        index: The ``.idx`` file: magic, version and type; lengths (int32) and places (int64, bytes) of the
            sequences; and the numbers of the sequences at which documents begin and end (int64).
        content: The ``.bin`` file.

    Raises:
        Refusal: The files are none, or do not belong together.
    """
    start = bytes(index[:_HEADER])
    if start.startswith(_OLDER_MAGIC):
        raise Refusal(
            f"The index in '{task.name}' is of Megatron's older format (TNTIDX); write it with an "
            "IndexedDatasetBuilder of today (MMIDIDX)."
        )
    if len(start) < _HEADER or not start.startswith(_MAGIC) or int.from_bytes(start[9:17], "little") != 1:
        raise Refusal(f"The .idx file in '{task.name}' is no index of Megatron's; give the one of its .bin.")
    kind = _TYPES.get(start[17])
    if kind is None:
        raise Refusal(f"The numbers in '{task.name}' are floating-point, and no tokens.")
    sequences = int.from_bytes(start[18:26], "little")
    bounds = int.from_bytes(start[26:34], "little")
    length = _HEADER + 12 * sequences + 8 * bounds
    unfit = Refusal(
        f"The .idx and .bin in '{task.name}' do not belong together, or are damaged; give both as they were "
        "written."
    )
    if len(index) == length + sequences and sequences:
        raise Refusal(f"'{task.name}' has sequences of several modes; only text can be analysed.")
    if len(index) != length:
        raise unfit
    lengths = np.frombuffer(index, "<i4", sequences, _HEADER).astype(np.int64)
    places = np.frombuffer(index, "<i8", sequences, _HEADER + 4 * sequences)
    ends = np.frombuffer(index, "<i8", bounds, _HEADER + 12 * sequences)
    size = np.dtype(kind).itemsize
    if (
        bool((lengths < 0).any() or (places < 0).any() or (places % size).any())
        or bool((places > len(content) - size * lengths).any())
        or len(content) != size * int(lengths.sum())
        or bounds < 1
        or int(ends[0]) != 0
        or int(ends[-1]) != sequences
        or bool((np.diff(ends) < 0).any())
    ):
        raise unfit
    tokens = np.frombuffer(content, kind)
    check_size(task, (len(tokens),))
    pieces = [
        tokens[place : place + count].astype(np.int64)
        for place, count in zip((places // size).tolist(), lengths.tolist(), strict=True)
    ]
    whole = [np.concatenate(pieces[first:end]) for first, end in pairwise(ends.tolist()) if first < end]
    return [each for each in whole if len(each)]


# --- Text -------------------------------------------------------------------------------------------------


class _Tokenizer:
    """A tokenizer from its ``tokenizer.json``, which holds tables and rules, and no code."""

    def __init__(self, task: Task, content: memoryview) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads of its own
        try:
            import tokenizers
        except ImportError:
            raise Refusal(
                "Text needs the library tokenizers, which the extra 'hf' brings: pip install 'seigh-lab[hf]'."
            ) from None
        try:
            self._made = tokenizers.Tokenizer.from_buffer(bytes(content))
            # They may be set in the file, and would cut sequences without a word.
            self._made.no_truncation()
            self._made.no_padding()
        except MemoryError:
            raise
        except BaseException as error:  # a panic of its own is no Exception
            raise Refusal(
                f"The {TOKENIZER} in '{task.name}' cannot be read; give the one that tokenizer.save or "
                "save_pretrained has written."
            ) from error

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """The tokens of a text, with those that the tokenizer puts around it if ``special``."""
        found: list[int] = self._made.encode(text, add_special_tokens=special).ids
        return found


def _text(task: Task, content: memoryview, tokenizer: _Tokenizer) -> tuple[_Numbers, _Numbers]:
    """One text as a stream of tokens, without what would be put at its ends."""
    try:
        text = bytes(content).decode()
    except UnicodeDecodeError as error:
        raise Refusal(f"The text in '{task.name}' is not UTF-8; save it so.") from error
    return blocks(task, np.array(tokenizer.tokens(text, special=False), np.int64))


# --- Rows in several files --------------------------------------------------------------------------------


def _shards(
    task: Task, held: Mapping[str, memoryview], names: list[str], tokenizer: str | None
) -> tuple[_Numbers, _Numbers]:
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    if len(folders) > 1:
        listed = ", ".join(shown(PurePosixPath(each).name) for each in folders[:5])
        raise Refusal(f"'{task.name}' holds several sets of rows ({listed}); give one of them.")
    ordered = _in_order(task, held, names)
    made = None if tokenizer is None else _Tokenizer(task, held[tokenizer])
    columns = ("input_ids", "attention_mask", "labels", "label", *(() if made is None else ("text",)))
    rows = []
    for name in ordered:
        kind = PurePosixPath(name).suffix.lower().removeprefix(".")
        rows += rows_of(kind, task, held[name], columns)
    if made is not None:
        rows = [_with_tokens(row, made) for row in rows]
    return in_rows(task, rows)


def _with_tokens(row: Mapping[str, Any], tokenizer: _Tokenizer) -> dict[str, Any]:
    """A row whose text, if it has one and no tokens, has become tokens."""
    if "input_ids" in row or not isinstance(row.get("text"), str):
        return dict(row)
    return {**row, "input_ids": tokenizer.tokens(row["text"], special=True)}


def _in_order(task: Task, held: Mapping[str, memoryview], names: list[str]) -> list[str]:
    """The files in the order that ``state.json`` says, else in that of the numbers in their names."""
    state = next((held[name] for name in held if PurePosixPath(name).name == STATE), None)
    if state is None:
        parts = {name: re.split(r"(\d+)", name) for name in names}
        return sorted(names, key=lambda name: [(int(p), "") if p.isdigit() else (0, p) for p in parts[name]])
    about = json.loads(bytes(state))
    if about.get("_indices_data_files"):
        raise Refusal(
            f"The rows in '{task.name}' are a selection (flatten_indices); save the set with save_to_disk of "
            "a newer version of datasets."
        )
    by_name = {PurePosixPath(name).name: name for name in names}
    wanted = [each["filename"] for each in about["_data_files"]]
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise Refusal(f"'{task.name}' lacks '{shown(missing[0])}', which its {STATE} names; give all files.")
    return [by_name[name] for name in wanted]
