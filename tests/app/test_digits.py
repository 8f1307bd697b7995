from __future__ import annotations

import math
import re

import numpy as np
import pytest

from seigh.app.digits import interval, number, plus_minus, value_of, with_error, within


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (10720.3, None, "10,720"),
        (10720.3, 2.0, "10,720 ± 2"),
        (11_181_642.0, None, "11,181,642"),
        (0.00294, 5.7e-5, "0.00294 ± 6e-5"),
        (0.0021337, 7.11e-6, "0.002134 ± 8e-6"),
        (1.0, 1e-4, "1.0000 ± 0.0001"),
        (0.3, 0.0102, "0.300 ± 0.011"),
        (123.456, 0.96, "123 ± 1"),
        (0.5, 0.6, "0.5 ± 0.6"),
        (-3.2e-12, 4e-12, "-3e-12 ± 4e-12"),
        (-3.2e-12, None, "-3.2e-12"),
        (1e12, 3e9, "1.000e12 ± 3e9"),
        (2.0, 0.0, "2 ± 0"),
        (0.0, 0.1, "0 ± 0.1"),
        (float("nan"), None, "–"),
        (None, None, "–"),
        (1.0, float("nan"), "1"),
        (float("-inf"), None, "−∞"),
        (-0.00294, 6e-5, "-0.00294 ± 6e-5"),
    ],
)
def test_a_number_has_the_digits_that_its_error_allows(
    value: float | None, error: float | None, shown: str
) -> None:
    assert with_error(value, error) == shown


def test_whole_numbers_keep_all_their_digits() -> None:
    assert number(11_181_642) == "11,181,642"
    assert number(-7) == "-7"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_shown_is_right_within_the_error_that_is_shown(seed: int) -> None:
    """The error is never told smaller, but for the hundredth that rounding is allowed, and hardly larger; the
    value is off by at most half a unit of the error's last digit, and no digit stands behind that."""
    rng = np.random.default_rng(seed)
    for _ in range(500):
        value = float(rng.normal() * 10.0 ** rng.integers(-14, 14))
        error = float(abs(value) * 10.0 ** rng.uniform(-9, -0.1))
        told = float(plus_minus(error).removeprefix("± ").replace(",", ""))
        assert 0.985 * error <= told <= 1.5 * error
        shown = float(value_of(value, error).replace(",", ""))
        assert abs(shown - value) <= 0.51 * told
        last = re.sub(r"e.*", "", value_of(value, error)).replace(",", "").partition(".")[2]
        exponent = int(value_of(value, error).partition("e")[2] or 0)
        if last:
            assert 10.0 ** (exponent - len(last)) >= 10.0 ** (math.floor(math.log10(told)) - 1) * 0.99


@pytest.mark.parametrize(
    ("lower", "upper", "said"),
    [
        (0.1, 0.25, "0.10 and 0.25"),
        (0.48, 0.8842, "0.48 and 0.89"),
        (0.29, 0.41, "0.29 and 0.41"),
        (0.32250, 0.32254, "0.322500 and 0.322540"),
        (0.322509, 0.322541, "0.322509 and 0.322541"),
        (2.0, 2.0, "2 and 2"),
        (-1.0, float("inf"), "-1 and ∞"),
        (None, 1.0, "not known"),
        (float("nan"), 1.0, "not known"),
    ],
)
def test_the_ends_of_an_interval_have_the_same_places_and_never_look_the_same_unless_they_are(
    lower: float | None, upper: float | None, said: str
) -> None:
    assert interval(lower, upper) == said


@pytest.mark.parametrize("seed", range(3))
def test_a_told_interval_holds_the_true_one_and_hardly_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(300):
        value = float(rng.normal() * 10.0 ** rng.integers(-9, 9))
        lower, upper = (
            value - abs(value) * 10.0 ** rng.uniform(-8, 1),
            value + abs(value) * rng.uniform(),
        )
        low, high = (float(each.replace(",", "")) for each in interval(lower, upper).split(" and "))
        width, rounding = upper - lower, 1e-11 * max(abs(lower), abs(upper))
        assert lower - 0.11 * width - rounding <= low <= lower + 1e-6 * width + rounding
        assert upper + 0.11 * width + rounding >= high >= upper - 1e-6 * width - rounding
        assert abs(float(within(value, lower, upper).replace(",", "")) - value) <= 0.051 * width + rounding
