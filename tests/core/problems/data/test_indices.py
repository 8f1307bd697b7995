"""Indices of samples: as text, in files, and in the settings of an analysis."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from seigh.core import ranges
from seigh.core.problems.data import DataError, read_indices
from seigh.core.settings import AnalysisSettings, SettingsError, refusal


def settings(**changes: object) -> AnalysisSettings:
    return AnalysisSettings(**({"architecture": "tanh-mlp", "data": "digits"} | changes))


# --- Text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ("0-3,7", [0, 1, 2, 3, 7]),
        ("5", [5]),
        (" 3 , 1;2 ", [3, 1, 2]),
        ("4\n8\n\n15\n", [4, 8, 15]),
        ("2 - 4", [2, 3, 4]),
        ("", []),
    ],
)
def test_texts_list_numbers_and_ranges(given: str, numbers: list[int]) -> None:
    assert ranges.parse(given) == numbers


@pytest.mark.parametrize("given", ["a", "1.5", "-3", "3-", "9-2", "0-999999999999", "1e3", "0x10"])
def test_other_texts_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"no index|ends before|more than"):
        ranges.parse(given)


@pytest.mark.parametrize("seed", range(20))
def test_texts_give_back_what_they_were_made_of(seed: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = np.flatnonzero(generator.random(300) < generator.random()).tolist()
    assert ranges.parse(ranges.text(numbers)) == numbers


# --- Files ------------------------------------------------------------------------------------------------

NUMBERS = (7, 0, 105)

WRITERS: dict[str, Callable[[Path], object]] = {
    "lines.txt": lambda path: path.write_text("7\n0\n105\n"),
    "commas.csv": lambda path: path.write_text("7,0,105"),
    "list.json": lambda path: path.write_text("[7, 0, 105]"),
    "result.json": lambda path: path.write_text(json.dumps({"record": {"data": {"indices": [7, 0, 105]}}})),
    "results.json": lambda path: path.write_text(
        json.dumps([{"record": {"data": {"indices": [7, 0, 105]}}}])
    ),
    "array.npy": lambda path: np.save(path, np.array(NUMBERS)),
    "small.npy": lambda path: np.save(path, np.array(NUMBERS, dtype=np.uint8)),
    "arrays.npz": lambda path: np.savez(path, index=np.array(NUMBERS)),
}
BAD: dict[str, Callable[[Path], object]] = {
    "words.txt": lambda path: path.write_text("seven"),
    "floats.npy": lambda path: np.save(path, np.array([1.0])),
    "matrix.npy": lambda path: np.save(path, np.zeros((2, 2), dtype=int)),
    "two.npz": lambda path: np.savez(path, a=np.arange(2), b=np.arange(2)),
    "objects.npy": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    "broken.npz": lambda path: path.write_bytes(b"PK\3\4"),
    "other.json": lambda path: path.write_text('{"a": 1}'),
    "text.json": lambda path: path.write_text('["1"]'),
    "binary.txt": lambda path: path.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_indices_are_read(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert read_indices(str(tmp_path / name)) == NUMBERS


@pytest.mark.parametrize("name", [*BAD, "missing.txt"])
def test_other_files_get_a_sentence(name: str, tmp_path: Path) -> None:
    if name in BAD:
        BAD[name](tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}'.*\.$"):
        read_indices(str(tmp_path / name))


def test_a_text_that_is_no_file_is_read_as_indices() -> None:
    assert read_indices("0-2,9") == (0, 1, 2, 9)
    with pytest.raises(DataError, match="'some' is no index"):
        read_indices("some")


# --- Settings ---------------------------------------------------------------------------------------------


def test_settings_from_before_there_was_a_choice_keep_their_key() -> None:
    # As the code without subsets computed it.
    assert settings(samples=40, k=7).model_dump_json(exclude_defaults=True) == (
        '{"architecture":"tanh-mlp","data":"digits","samples":40,"k":7}'
    )
    assert settings(subset="balanced").key == settings().key == settings(samples=500, indices=[]).key
    assert "subset" not in settings().model_dump()


@pytest.mark.parametrize(
    "changes",
    [
        {"subset": "all"},
        {"subset": "random", "samples": 12},
        {"subset": "first-per-class"},
        {"subset": "indices", "indices": [5, 3, 4]},
        {"indices": "3-5"},
        {},
    ],
)
def test_stored_settings_are_read_back(changes: dict[str, object]) -> None:
    chosen = settings(**changes)
    assert AnalysisSettings.model_validate(chosen.model_dump(mode="json")) == chosen
    assert AnalysisSettings.model_validate_json(chosen.model_dump_json(exclude_defaults=True)) == chosen


def test_indices_are_the_same_however_they_are_given() -> None:
    ways = [
        settings(indices=[5, 3, 4]),
        settings(indices=(3, 4, 5)),
        settings(subset="indices", indices="5 3-4"),
        settings(subset="indices", indices="3-5", samples=3),
    ]
    assert len(set(ways)) == len({each.key for each in ways}) == 1
    assert (ways[0].subset, ways[0].n_samples, ways[0].indices) == ("indices", 3, "3-5")
    assert ways[0].listed == [3, 4, 5]


def test_every_subset_is_an_analysis_of_its_own() -> None:
    several = [
        settings(), settings(subset="all"), settings(subset="random"), settings(subset="first-per-class"),
        settings(indices="0-499"), settings(indices="1-500"),
    ]  # fmt: skip
    assert len({each.key for each in several}) == len(several)


def test_the_number_of_all_samples_is_not_known_before_they_are_counted() -> None:
    chosen = settings(subset="all")
    assert chosen.samples is None
    with pytest.raises(SettingsError, match="N is the number of all samples"):
        _ = chosen.n_samples
    assert chosen.model_copy(update={"samples": 540}).n_samples == 540


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"subset": "indices"}, "the subset indices has none"),
        ({"subset": "random", "indices": [1]}, "indices belong to the subset indices"),
        ({"indices": [1, 2], "samples": 3}, "N = 3 is not the number of indices, 2"),
        ({"indices": [1, 1]}, "the indices name sample 1 twice"),
        ({"indices": "0-3,2"}, "the indices name sample 2 twice"),
        ({"indices": [-1]}, "whole numbers, 0 or more"),
        ({"indices": [1.5]}, "whole numbers, 0 or more"),
        ({"indices": "x"}, "'x' is no index"),
        ({"indices": range(100_001)}, "more than 100,000 indices"),
        ({"subset": "some"}, "subset: Input should be"),
        ({"subset": "random", "samples": 0}, "samples: Input should be greater"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        settings(**changes)
    assert sentence in refusal(error.value)
