from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigh.core.problems import spec
from seigh.core.problems.spec import Spec, parse
from seigh.core.settings import SettingsError

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
VALUES = st.one_of(st.booleans(), st.integers(-(10**9), 10**9), st.floats(-1e9, 1e9), st.just("3x32x32"))


@given(NAMES, st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from([None, "3x32x32"]))
def test_a_spec_written_and_read_is_the_same(name: str, options: dict[str, object], argument: str) -> None:
    given = Spec(name, tuple(options.items()), argument)  # type: ignore[arg-type]
    again = parse(str(given))
    assert again == given
    assert [type(value) for _, value in again.options] == [type(value) for _, value in given.options]
    assert " " not in str(given)


def test_the_order_and_spaces_of_options_do_not_matter() -> None:
    assert parse(" net ( b = 2 , a=true ) ") == parse("net(a=true,b=2)")
    assert parse("net()") == parse("net") == Spec("net")
    assert str(parse("net(b=2,a=1.5)").without({"b": 2, "c": 0})) == "net(a=1.5)"


@pytest.mark.parametrize(
    "text",
    [
        *("", "()", "(a=1)", "net(", "net)", "net(a=1", "net(a=1))", "net(a=)", "net(=1)", "net(a=1,)"),
        *("net(a=1;b=2)", "net(a=[1])", "net(a=1,3x3)", "net(1,2)", "net(a='x')", "net(a=__import__('os'))"),
        *("two nets", "net\x00", "-net", "nét(a=1)", "net(a=b(c=1))", "n" * 2001, "net(a=1)(b=2)"),
    ],
)
def test_what_is_no_spec_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match=r"is not understood; write a name, with options") as refused:
        parse(text)
    assert len(str(refused.value)) < 250


def test_options_given_twice_and_absurd_sizes_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"gives a twice"):
        parse("net(a=1,a=2)")
    for value in ("10000000000", "1e300", "-1e10", "inf", "nan", "9" * 200):
        with pytest.raises(SettingsError, match="no sensible size"):
            parse(f"net(a={value})")


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(spec)
    assert result.attempted > 0
    assert result.failed == 0
