"""Files of tokens, as a child reads them: sequences of unequal length become rows, padded with −1.

- ``.npy``: (N, T) integers, or one long stream of them; ``.npz`` with ``input_ids`` and perhaps ``labels``.
- ``.bin``: a stream of unsigned integers without a header, as nanoGPT and OLMo write it, or with llm.c's.
- ``.jsonl``, ``.parquet``, and ``.arrow`` as ``save_to_disk`` writes it: rows with ``input_ids``, and perhaps
  ``attention_mask`` and ``labels`` or ``label``.
- ``.zip``: what lies in several files (``corpora``).

Labels are those at the positions themselves, as Hugging Face has them; of a stream there is one more, the
token after the block. Without labels the tokens are their own. −100 has no loss.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seigh.core.reading.packing import described, write_converted
from seigh.core.reading.task import Task
from seigh.core.reading.words import Refusal

PADDING, IGNORED = -1, -100

DTYPES = ("uint16", "uint32", "int32", "int64", "uint8")

# llm.c writes 256 numbers of 32 bits before the tokens: this one, a version, and how many tokens follow.
_LLM_C = 20240520
_LLM_C_HEADER = 1024

_LARGEST_TOKEN = 2**31 - 1
_LONGEST_HEADER = 10_000
_Numbers = np.ndarray[Any, Any]


def read(task: Task) -> dict[str, Any]:
    """Tokens x (N, T) and labels y, (N, T), (N, T + 1) or (N,), both int64."""
    suffix = task.name.lower().rpartition(".")[2]
    try:
        match suffix:
            case "npy":
                x, y = _npy(task)
            case "npz":
                x, y = _npz(task)
            case "bin":
                x, y = _bin(task)
            case "zip":
                from seigh.core.reading import corpora  # which is made of what is here

                x, y = corpora.read(task)
            case _:
                x, y = in_rows(task, rows_of(suffix, task, task.whole))
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # arbitrary bytes
        raise Refusal(
            f"The file of tokens '{task.name}' is damaged or incomplete; save or upload it again."
        ) from error
    return checked(task, x, y)


def checked(task: Task, x: _Numbers, y: _Numbers) -> dict[str, Any]:
    """Write tokens and labels, refused unless they are some."""
    for what, each in (("tokens", x), ("labels", y)):
        if each.size and not IGNORED <= int(each.min()) <= int(each.max()) <= _LARGEST_TOKEN:
            raise Refusal(
                f"The {what} of '{task.name}' are from {int(each.min()):,} to {int(each.max()):,}, which no "
                "vocabulary has; check the type of the numbers (dtype)."
            )
    if not x.size:
        raise Refusal(f"'{task.name}' holds no tokens.")
    if not bool((x >= 0).any(axis=1).all()):
        raise Refusal(f"'{task.name}' has a row without a token; remove it.")
    if y.ndim == 1 and int(y.min()) < 0:
        raise Refusal(f"'{task.name}' has the label {int(y.min())} for a sequence; labels count from 0.")
    write_converted(np.ascontiguousarray(y), "int64", task.target)
    write_converted(np.ascontiguousarray(x), "int64", task.target)
    return described([("int64", y.shape), ("int64", x.shape)], {"y": 0, "x": 1})


# --- Streams and arrays -----------------------------------------------------------------------------------


def _bin(task: Task) -> tuple[_Numbers, _Numbers]:
    dtype = task.options.get("dtype")
    if dtype not in DTYPES:
        raise Refusal(
            f"'{task.name}' is a stream of numbers that does not say how it is to be read; say the type of a "
            "token and the length of a block: "
            f"{task.name}(block=1024,dtype=uint16)."
        )
    whole = task.whole
    if len(whole) >= _LLM_C_HEADER and int.from_bytes(whole[:4], "little") == _LLM_C:
        whole = whole[_LLM_C_HEADER:]
    kind = np.dtype(dtype).newbyteorder("<")
    if len(whole) % kind.itemsize:
        raise Refusal(
            f"'{task.name}' is no stream of {dtype}: it has {len(whole):,} bytes; choose another dtype."
        )
    return blocks(task, np.frombuffer(whole, kind))


def blocks(task: Task, stream: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Blocks of a stream side by side, each with the token after it as the last label."""
    length = task.options.get("block")
    if not isinstance(length, int):
        raise Refusal(
            f"'{task.name}' is one stream of tokens; say the length of a block: {task.name}(block=1024)."
        )
    number = (len(stream) - 1) // length
    if number < 1:
        raise Refusal(
            f"'{task.name}' has {len(stream):,} tokens, fewer than a block of {length:,} and the token after "
            "it; choose a smaller block."
        )
    check_size(task, (number, 2 * length + 1))
    x = stream[: number * length].reshape(number, length).astype(np.int64)
    y = np.concatenate([x, stream[length : number * length + 1 : length, None].astype(np.int64)], axis=1)
    return x, y


def _npy(task: Task) -> tuple[_Numbers, _Numbers]:
    array = _array(task, task.whole)
    return blocks(task, array) if array.ndim == 1 else _own(task, array)


def _npz(task: Task) -> tuple[_Numbers, _Numbers]:
    with zipfile.ZipFile(task.file) as archive:
        held = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
        found = {}
        for name in ("input_ids", "attention_mask", "labels"):
            if name in held:
                if held[name].file_size > task.options["largest"]:
                    raise too_large(task)
                found[name] = _array(task, memoryview(archive.read(held[name])))
    if "input_ids" not in found:
        raise Refusal(f"'{task.name}' has no input_ids; save the tokens under this name.")
    x, y = _own(task, found["input_ids"])
    if "attention_mask" in found:
        x = np.where(found["attention_mask"] != 0, x, PADDING)
        y = np.where(found["attention_mask"] != 0, y, IGNORED)
    return x, _array_of_labels(task, found["labels"], x) if "labels" in found else y


def _array(task: Task, content: memoryview) -> _Numbers:
    file = io.BytesIO(content[: _LONGEST_HEADER + 12])
    version = np.lib.format.read_magic(file)
    one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, fortran, dtype = (one if version[0] == 1 else two)(file)
    if dtype.kind not in "iu" or len(shape) not in (1, 2):
        raise Refusal(
            f"'{task.name}' holds {dtype.name} of {len(shape)} axes; save tokens as integers of shape (N, T)."
        )
    check_size(task, shape)
    numbers = np.frombuffer(content[file.tell() :], dtype, count=math.prod(shape))
    return numbers.reshape(shape, order="F" if fortran else "C")


def _own(task: Task, tokens: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Tokens that are their own labels; those below 0 are padding."""
    if tokens.ndim != 2:
        raise Refusal(f"The tokens of '{task.name}' have shape {tokens.shape}; expected is (N, T).")
    x = np.where(tokens >= 0, tokens.astype(np.int64), PADDING)
    return x, np.where(x >= 0, x, IGNORED)


def _array_of_labels(task: Task, labels: _Numbers, x: _Numbers) -> _Numbers:
    if len(labels) != len(x) or (labels.ndim == 2 and labels.shape != x.shape):
        raise Refusal(
            f"'{task.name}' has input_ids of shape {x.shape} and labels of shape {labels.shape}; save "
            "as many of each."
        )
    return labels.astype(np.int64)


# --- Rows -------------------------------------------------------------------------------------------------

ROWS = ("jsonl", "parquet", "arrow")
_COLUMNS = ("input_ids", "attention_mask", "labels", "label")


def rows_of(
    suffix: str, task: Task, content: memoryview, columns: Sequence[str] = _COLUMNS
) -> list[dict[str, Any]]:
    """The rows of a file, by its suffix, one of ``ROWS``; of a table only some columns."""
    match suffix:
        case "jsonl":
            return _jsonl(task, content)
        case "parquet":
            return _parquet(task, content, columns)
        case "arrow":
            return _arrow(task, content, columns)
    raise ValueError(f"no rows in .{suffix}")


def _jsonl(task: Task, content: memoryview) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise Refusal(
                f"Line {number:,} of '{task.name}' is no object with input_ids; write one on each line."
            )
        rows.append(row)
    return rows


def _parquet(task: Task, content: memoryview, columns: Sequence[str]) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(content)))
    wanted = [name for name in columns if name in file.schema_arrow.names]
    return _listed(task, file.read(columns=wanted, use_threads=False))


def _arrow(task: Task, content: memoryview, columns: Sequence[str]) -> list[dict[str, Any]]:
    import pyarrow as pa

    buffer = pa.py_buffer(content)
    is_file = bytes(content[:6]) == b"ARROW1"
    opened = pa.ipc.open_file(buffer) if is_file else pa.ipc.open_stream(buffer)
    return _listed(task, opened.read_all().select([name for name in columns if name in opened.schema.names]))


def _listed(task: Task, table: Any) -> list[dict[str, Any]]:
    if table.nbytes > task.options["largest"]:
        raise too_large(task)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def in_rows(task: Task, rows: Sequence[Mapping[str, Any]]) -> tuple[_Numbers, _Numbers]:
    """Rows of unequal length as arrays."""
    if not rows:
        raise Refusal(f"'{task.name}' holds no rows.")
    for number, row in enumerate(rows, 1):
        tokens = row.get("input_ids")
        if not isinstance(tokens, list) or not tokens or not _all_whole(tokens):
            raise Refusal(
                f"Row {number:,} of '{task.name}' has no input_ids, a list of token numbers; save them so."
            )
    longest = max(len(row["input_ids"]) for row in rows)
    check_size(task, (len(rows), 2 * longest))
    x = np.full((len(rows), longest), PADDING, np.int64)
    y = np.full((len(rows), longest), IGNORED, np.int64)
    single: list[int] = []
    for number, row in enumerate(rows):
        tokens = row["input_ids"]
        mask = row.get("attention_mask")
        labels = row.get("labels", row.get("label"))
        if isinstance(labels, int) and not isinstance(labels, bool):
            single.append(labels)
            labels = None
        for what, each in (("attention_mask", mask), ("labels", labels)):
            if each is not None and (
                not isinstance(each, list) or len(each) != len(tokens) or not _all_whole(each)
            ):
                raise Refusal(
                    f"Row {number + 1:,} of '{task.name}' has {what} that do not go with its "
                    f"{len(tokens):,} input_ids; save one for each."
                )
        here = np.ones(len(tokens), bool) if mask is None else np.array(mask) != 0
        x[number, : len(tokens)] = np.where(here, tokens, PADDING)
        y[number, : len(tokens)] = np.where(here, tokens if labels is None else labels, IGNORED)
    if single and len(single) != len(rows):
        raise Refusal(f"Some rows of '{task.name}' have a label, and some have not; give each one.")
    return x, np.array(single, np.int64) if single else y


def _all_whole(values: Iterable[Any]) -> bool:
    return all(type(each) is int and abs(each) <= _LARGEST_TOKEN for each in values)


def check_size(task: Task, shape: Sequence[int]) -> None:
    if 8 * math.prod(shape) > task.options["largest"]:
        raise too_large(task)


def too_large(task: Task) -> Refusal:
    return Refusal(
        f"The tokens of '{task.name}' take more than {task.options['largest'] // 2**30} GiB; keep only those "
        "that the analysis needs."
    )
