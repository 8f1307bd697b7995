"""The order of names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seigh.core.order import in_order


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["b", "run 10", "run 9", "run 010", "Run 2", "2 runs", "run", "run 1b", "run 1a", ""]
    assert in_order(names) == [
        "", "2 runs", "b", "run", "run 1a", "run 1b", "Run 2", "run 9", "run 010", "run 10",
    ]  # fmt: skip


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_names_have_one_order(names: list[str]) -> None:
    found = in_order(names)
    assert sorted(found) == sorted(names)
    assert in_order(reversed(found)) == found
