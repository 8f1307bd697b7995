"""Files of tokens as their writers write them: what is read from them, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from seigh.core.problems import data
from seigh.core.problems.data import DataError, tokens

ROWS: list[dict[str, Any]] = [
    {"input_ids": [5, 1, 2], "labels": [-100, 1, 2]},
    {"input_ids": [7]},
    {"input_ids": [3, 4, 0, 0], "attention_mask": [1, 1, 0, 0]},
]
X = [[5, 1, 2, -1], [7, -1, -1, -1], [3, 4, -1, -1]]
Y = [[-100, 1, 2, -100], [7, -100, -100, -100], [3, 4, -100, -100]]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows in the format of the path's suffix."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        return str(path)
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return str(path)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_rows_of_unequal_length(suffix: str, tmp_path: Path) -> None:
    # A table has every column for every row.
    same = ROWS if suffix == ".jsonl" else [{"labels": None, "attention_mask": None} | row for row in ROWS]
    found = data.load(written(tmp_path / f"rows{suffix}", same), "test")
    assert found.x.tolist() == X
    assert found.y.tolist() == Y
    assert found.x.dtype == torch.int64
    one_each = [{"input_ids": row["input_ids"], "label": number} for number, row in enumerate(ROWS)]
    found = data.load(written(tmp_path / f"classes{suffix}", one_each), "test")
    assert found.y.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_stream_becomes_blocks_with_the_token_after_each(dtype: str, tmp_path: Path) -> None:
    stream = np.arange(300, 315).astype(dtype)
    stream.tofile(tmp_path / "train.bin")
    name = f"{tmp_path}/train.bin( dtype={dtype},block=4)"
    assert data.canonical(name) == f"{tmp_path}/train.bin(block=4,dtype={dtype})"
    assert data.is_file(name)
    found = data.load(name, "train")
    assert found.x.tolist() == [[300, 301, 302, 303], [304, 305, 306, 307], [308, 309, 310, 311]]
    assert found.y.tolist() == [[*row, row[-1] + 1] for row in found.x.tolist()]
    np.save(tmp_path / "stream.npy", stream)
    again = data.load(f"{tmp_path}/stream.npy(block=4)", "train")
    assert torch.equal(again.x, found.x)
    assert torch.equal(again.y, found.y)
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, 15
    (tmp_path / "llmc.bin").write_bytes(header.tobytes() + stream.tobytes())
    assert torch.equal(data.load(f"{tmp_path}/llmc.bin(block=4,dtype={dtype})", "train").x, found.x)


def test_arrays(tmp_path: Path) -> None:
    x = np.array([[1, 2, 3], [4, 5, -1]])
    np.save(tmp_path / "rows.npy", x.astype(np.int32))
    found = data.load(f"{tmp_path}/rows.npy", "test")
    assert found.x.tolist() == x.tolist()
    assert found.y.tolist() == [[1, 2, 3], [4, 5, -100]]
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    np.savez(tmp_path / "named.npz", input_ids=x, attention_mask=mask, labels=np.array([0, 1]))
    found = data.load(f"{tmp_path}/named.npz", "test")
    assert found.x.tolist() == [[1, 2, 3], [4, -1, -1]]
    assert found.y.tolist() == [0, 1]
    np.savez(tmp_path / "xy.npz", x=x, y=np.where(x > 0, x, -100))
    assert data.load(f"{tmp_path}/xy.npz", "test").y.tolist() == [[1, 2, 3], [4, 5, -100]]
    save_file({"x": x, "y": np.array([1, 0])}, tmp_path / "xy.safetensors")
    assert data.load(f"{tmp_path}/xy.safetensors", "test").x.tolist() == x.tolist()


def test_how_a_stream_is_read_is_part_of_its_name(tmp_path: Path) -> None:
    np.arange(40, dtype=np.uint16).tofile(tmp_path / "a.bin")
    two, four = (data.load(f"{tmp_path}/a.bin(block={b},dtype=uint16)", "test") for b in (2, 4))
    assert two.shape == (2,)
    assert four.shape == (4,)
    assert tokens.split("sha256:12(block=4,dtype=uint16)") == ("sha256:12", {"block": 4, "dtype": "uint16"})


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"\1\0\2\0\3\0", "", "does not say how it is to be read"),
        (b"\1\0\2\0\3\0", "(dtype=uint16)", "length of a block"),
        (b"\1\0\2\0\3\0", "(block=3,dtype=uint16)", "fewer than a block"),
        (b"\1\0\2\0\3", "(block=1,dtype=uint16)", "no stream of uint16"),
        (b"\1\0\2\0", "(block=1,dtype=float16)", "no type"),
        (b"\1\0\2\0", "(block=0,dtype=uint16)", "1 to"),
        (b"\1\0\2\0", "(block=1,block=2)", "not understood"),
        (b"\xff" * 8, "(block=1,dtype=uint32)", "no vocabulary"),
    ],
)
def test_streams_that_are_none_are_refused(content: bytes, options: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataError, match=words):
        data.load(f"{tmp_path}/a.bin{options}", "test")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"text": "words"}],
        [{"input_ids": []}],
        [{"input_ids": [1.5]}],
        [{"input_ids": [2**40]}],
        [{"input_ids": [1, 2], "labels": [1]}],
        [{"input_ids": [1], "label": 0}, {"input_ids": [1]}],
        [{"input_ids": [1], "attention_mask": [0]}],
        [{"input_ids": [1], "label": -3}],
    ],
)
def test_rows_that_are_none_are_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        data.load(written(tmp_path / "rows.jsonl", rows) if rows else str(_blank(tmp_path)), "test")


def _blank(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n\n")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet", ".arrow"])
def test_damaged_files_are_refused(suffix: str, tmp_path: Path) -> None:
    good = tmp_path / f"good{suffix}"
    if suffix == ".npy":
        np.save(good, np.arange(40).reshape(8, 5))
    else:
        written(good, ROWS[:1] * 20)
    content = good.read_bytes()
    generator = np.random.default_rng(0)
    bad = tmp_path / f"bad{suffix}"
    for _ in range(6):
        spoilt = bytearray(content[: generator.integers(1, len(content))])
        spoilt[generator.integers(len(spoilt))] ^= 255
        bad.write_bytes(spoilt)
        with suppress(DataError):
            data.load(str(bad), "test")
