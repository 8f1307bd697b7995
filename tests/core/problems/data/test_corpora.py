"""Data in several files: Megatron's, text with its tokenizer, shards of ``save_to_disk``; and refusals."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seigh.core.checksum import sha256_of
from seigh.core.problems import data
from seigh.core.problems.data import DataError
from tests.core.problems.data.test_tokens import ROWS, X, Y, written

_CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}

# Three documents: of two sequences, of none, and of one.
DOCUMENTS = [[[11, 12, 13], [14, 15]], [], [[16, 17, 18, 19]]]


def megatron(folder: Path, dtype: str, documents: list[list[list[int]]]) -> Path:
    """An indexed data set as Megatron-LM's ``IndexedDatasetBuilder`` writes it; the path of its index.

    ``_IndexWriter`` of ``megatron/core/datasets/indexed_dataset.py``: magic, version, type, both counts, then
    the lengths, the places in bytes, and the sequences at which documents begin, with the end.
    """
    sequences = [each for document in documents for each in document]
    size = np.dtype(dtype).itemsize
    places, place = [], 0
    for each in sequences:
        places.append(place)
        place += size * len(each)
    bounds = [0, *np.cumsum([len(document) for document in documents]).tolist()]
    with (folder / "corpus.bin").open("wb") as file:
        for each in sequences:
            file.write(np.array(each, dtype).tobytes(order="C"))
    with (folder / "corpus.idx").open("wb") as file:
        file.write(b"MMIDIDX\x00\x00")
        file.write(struct.pack("<Q", 1))
        file.write(struct.pack("<B", _CODES[dtype]))
        file.write(struct.pack("<Q", len(sequences)))
        file.write(struct.pack("<Q", len(bounds)))
        file.write(np.array([len(each) for each in sequences], np.int32).tobytes(order="C"))
        file.write(np.array(places, np.int64).tobytes(order="C"))
        file.write(np.array(bounds, np.int64).tobytes(order="C"))
    return folder / "corpus.idx"


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_documents_of_megatron_are_rows_or_one_stream(dtype: str, tmp_path: Path) -> None:
    index = megatron(tmp_path, dtype, DOCUMENTS)
    rows = data.load(str(index), "train")
    assert rows.x.tolist() == [[11, 12, 13, 14, 15], [16, 17, 18, 19, -1]]
    assert rows.y.tolist() == [[11, 12, 13, 14, 15], [16, 17, 18, 19, -100]]
    stream = data.load(f"{index}(block=4)", "train")  # the next document's first token is the label after one
    assert stream.x.tolist() == [[11, 12, 13, 14], [15, 16, 17, 18]]
    assert stream.y.tolist() == [[11, 12, 13, 14, 15], [15, 16, 17, 18, 19]]


def test_several_files_become_one_archive_which_is_always_the_same(tmp_path: Path) -> None:
    index = megatron(tmp_path, "uint16", DOCUMENTS)
    (tmp_path / "own").mkdir()
    names = [data.packed(f"{index}(block=4)", tmp_path / "own") for _ in range(2)]
    first, second = (Path(data.options_of(name)[0]) for name in names)
    assert first != second
    assert sha256_of(first) == sha256_of(second)
    assert data.load(names[0], "test").x.tolist() == data.load(f"{index}(block=4)", "test").x.tolist()


def _spoil(index: Path, where: int, by: bytes) -> None:
    content = bytearray(index.read_bytes())
    content[where : where + len(by)] = by
    index.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda index: index.with_suffix(".bin").unlink(), r"no '.*corpus\.bin', the tokens of"),
        (lambda index: index.write_bytes(index.read_bytes()[:-1]), "do not belong together"),
        (lambda index: index.write_bytes(b"MMIDIDX"), "no index of Megatron's"),
        (lambda index: index.write_bytes(b"TNTIDX\0\0" + bytes(90)), "older format"),
        (lambda index: index.write_bytes(index.read_bytes() + bytes(3)), "several modes"),
        (lambda index: _spoil(index, 17, b"\7"), "floating-point"),
        (lambda index: _spoil(index, 17, b"\4"), "do not belong together"),
        (lambda index: _spoil(index, 18, b"\xff" * 8), "do not belong together"),
        (lambda index: _spoil(index, 34, struct.pack("<i", -1)), "do not belong together"),
        (lambda index: _spoil(index, 46, struct.pack("<q", 2**62)), "do not belong together"),
        (lambda index: _spoil(index, 78, struct.pack("<q", 9)), "do not belong together"),
        (lambda index: index.with_suffix(".bin").write_bytes(bytes(1000)), "do not belong together"),
    ],
)
def test_what_is_no_index_of_megatron_is_refused(spoil: Any, words: str, tmp_path: Path) -> None:
    index = megatron(tmp_path, "uint16", DOCUMENTS)
    spoil(index)
    with pytest.raises(DataError, match=words) as refused:
        data.load(str(index), "test")
    assert "\n" not in str(refused.value)


# --- Text -------------------------------------------------------------------------------------------------

TEXT = "the cat sat on the mat, and the dog sat on the log.\n" * 8


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level BPE tokenizer as GPT-2's, which cuts and pads, and puts a token in front."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([TEXT], vocab_size=280, min_frequency=2, show_progress=False)
    whole = tokenizers.Tokenizer.from_str(made.to_str())
    whole.add_special_tokens(["<s>"])
    whole.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", whole.token_to_id("<s>"))]
    )
    return whole


def saved(tokenizer: Any, path: Path) -> Path:
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return path


def test_text_becomes_the_tokens_of_its_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT)
    saved(tokenizer, tmp_path / "tokenizer.json")
    stream = tokenizer.encode(TEXT, add_special_tokens=False).ids
    found = data.load(f"{tmp_path}/corpus.txt(block=16)", "test")
    number = (len(stream) - 1) // 16
    assert number > 5
    assert found.x.flatten().tolist() == stream[: 16 * number]
    assert found.y[:, -1].tolist() == stream[16 : 16 * number + 1 : 16]
    (tmp_path / "elsewhere").mkdir()
    other = (tmp_path / "tokenizer.json").rename(tmp_path / "elsewhere" / "gpt-2.json")
    again = data.load(f"{tmp_path}/corpus.txt(tokenizer={other},block=16)", "test")
    assert again.x.equal(found.x)


def test_rows_of_text(tokenizer: Any, tmp_path: Path) -> None:
    texts = ["the cat", "the dog sat"]
    rows = [{"text": text, "label": number} for number, text in enumerate(texts)]
    path = written(tmp_path / "rows.jsonl", rows)
    file = saved(tokenizer, tmp_path / "tokenizer.json")
    found = data.load(f"{path}(tokenizer={file})", "test")
    assert [[token for token in row if token >= 0] for row in found.x.tolist()] == [
        tokenizer.encode(text).ids for text in texts
    ]
    assert found.y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "made", "options", "words"),
    [
        (TEXT.encode(), None, "(block=4)", r"tokenizer=FILE"),
        (TEXT.encode(), b"{}", "(block=4)", "cannot be read"),
        (TEXT.encode(), b"\xff", "(block=4)", "cannot be read"),
        (b"\xff\xfe", b"", "(block=4)", "not UTF-8"),
        (TEXT.encode(), b"", "", "length of a block"),
        (b"the", b"", "(block=400)", "fewer than a block"),
    ],
)
def test_text_that_cannot_be_tokens_is_refused(
    content: bytes, made: bytes | None, options: str, words: str, tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "corpus.txt").write_bytes(content)
    if made is not None:
        (tmp_path / "tokenizer.json").write_bytes(made)
        if not made:
            saved(tokenizer, tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=words):
        data.load(f"{tmp_path}/corpus.txt{options}", "test")


# --- Shards -----------------------------------------------------------------------------------------------


def save_to_disk(folder: Path, shards: list[list[dict[str, Any]]]) -> None:
    """As ``datasets.Dataset.save_to_disk`` writes rows in several files."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        written(folder / name, rows)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train", "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    rows = [{"labels": None, "attention_mask": None} | row for row in ROWS]
    save_to_disk(tmp_path / "mine" / "train", [rows[:2], rows[2:]])
    found = data.load(str(tmp_path / "mine" / "train"), "test")
    assert found.x.tolist() == X
    assert found.y.tolist() == Y
    with pytest.raises(DataError, match="choose one of its splits, train"):
        data.load(str(tmp_path / "mine"), "test")
    (tmp_path / "mine" / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"lacks 'data-00001-of-00002\.arrow'"):
        data.load(str(tmp_path / "mine" / "train"), "test")


def test_archives_that_hold_no_data_are_refused(tmp_path: Path) -> None:
    for name, members, words in (
        ("none", {"a.md": b"hello"}, "holds no data"),
        ("two", {"a/x.jsonl": b"{}", "b/x.jsonl": b"{}"}, "several sets of rows"),
        ("text", {"a.txt": b"hello"}, "no tokenizer.json"),
        ("idx", {"a.idx": b"", "b.idx": b"", "a.bin": b""}, "2 .idx and 1 .bin"),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        with pytest.raises(DataError, match=words):
            data.load(f"{tmp_path}/{name}.zip", "test")
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and nothing else")
    with pytest.raises(DataError, match="damaged"):
        data.load(f"{tmp_path}/bad.zip", "test")
