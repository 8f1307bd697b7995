"""Numbers as people read them: in the digits that their error allows, an exponent only where it helps."""

from __future__ import annotations

import math
import re
import sys
from typing import Literal

_MOST_DIGITS = 12  # significant ones, however small the error is
_ROUNDING = 1e-6  # of a digit, by which a quotient of floats may be off
_EVEN = 1e-6  # share by which the distances to both ends may differ that are the same in all digits shown
_EXACT = 1e15  # below, every whole number is one of float64
_PLAIN = (1e-4, 1e9)  # magnitudes outside have an exponent


def number(value: float | None, digits: int = 4) -> str:
    """A number in so many significant digits: ``10,720``, ``0.00294``, ``6e-5``; integers keep all of theirs.

    Args:
        value: Unknown (None or NaN) is a dash.
        digits: Significant digits.
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if isinstance(value, int):
        return f"{value:,}"
    return _at(value, _place(value) - digits + 1, trim=True)


def counted_or_measured(value: float) -> float:
    """A number of a column that may hold counts: a whole one as an int, which keeps all of its digits."""
    return int(value) if float(value).is_integer() and abs(value) < _EXACT else value


def with_error(value: float | None, error: float | None, digits: int = 4) -> str:
    """A number and its error, both to the place that the error allows: ``0.002134 ± 7e-6``.

    Args:
        value: As in ``number``.
        error: How far it may be off; where unknown (None or NaN), ``digits`` of the value are shown alone.
        digits: Significant digits where the error is unknown or 0.
    """
    if (said := plus_minus(error)) and value is not None:
        return f"{value_of(value, error, digits)} {said}"
    return number(value, digits)


def value_of(value: float | None, error: float | None, digits: int = 4) -> str:
    """A number to the place that its error allows, alone; see ``with_error``."""
    if value is None or error is None or not math.isfinite(value) or not math.isfinite(error) or error <= 0:
        return number(value, digits)
    _, place = _rounded(error)
    if value == 0 or place > _place(value):  # nothing of it is known
        return number(value, 1)
    return _at(value, max(place, _place(value) - _MOST_DIGITS + 1), trim=False)


def interval(lower: float | None, upper: float | None, digits: int = 4) -> str:
    """Two ends, ``0.3225 and 0.3226``: to the same place, that of the second digit of their difference, and
    rounded outwards, so that nothing lies between the true ends that is not between these.

    Args:
        lower: The lower end; unknown (None or NaN) as in ``number``.
        upper: The upper end.
        digits: Significant digits of an end where there is no such place, as of ends that are equal.
    """
    if lower is None or upper is None or math.isnan(lower) or math.isnan(upper):
        return "not known"
    place = _place_between(lower, upper)
    if place is None:
        return f"{number(lower, digits)} and {number(upper, digits)}"
    return f"{_outwards(lower, place, -1)} and {_outwards(upper, place, 1)}"


def within(value: float | None, lower: float | None, upper: float | None, digits: int = 4) -> str:
    """A value to the place to which ``interval`` tells the ends of its interval."""
    if value is None or math.isnan(value) or lower is None or upper is None:
        return number(value, digits)
    place = _place_between(lower, upper)
    if place is None or value == 0 or place > _place(value):
        return number(value, digits if place is None else 1)
    return _at(value, place, trim=False)


def with_ends(value: float | None, lower: float | None, upper: float | None, digits: int = 4) -> str:
    """A number and between what it lies: as ``with_error`` where the ends are as far to both sides, else with
    both of them, ``0.041, between 0 and 0.055``."""
    if value is None or lower is None or upper is None or math.isnan(lower) or math.isnan(upper):
        return number(value, digits)
    below, above = value - lower, upper - value
    if abs(above - below) <= _EVEN * max(abs(above), abs(below)) + 4 * sys.float_info.epsilon * abs(value):
        return with_error(value, max(above, below), digits)
    return f"{within(value, lower, upper, digits)}, between {interval(lower, upper, digits)}"


def _place_between(lower: float, upper: float) -> int | None:
    """The power of ten of the second digit of the difference of two ends; None where they are equal or one
    is infinite or unknown."""
    width = upper - lower
    if not (math.isfinite(width) and width > 0):
        return None
    return max(_place(width) - 1, _place(max(abs(lower), abs(upper))) - _MOST_DIGITS + 1)


def _outwards(end: float, place: int, side: Literal[-1, 1]) -> str:
    """An end rounded to a power of ten, downwards (−1) or upwards (1)."""
    told = side * math.ceil(side * end / 10.0**place - _ROUNDING) * 10.0**place
    if told == 0 and end != 0:  # its sign matters
        return _outwards(end, _place(end), side)
    return _at(told, place, trim=False) if told else "0"


def plus_minus(error: float | None) -> str:
    """``± 7e-6``: an error in one significant digit, two from 1.1 to 1.9, rounded up; empty if unknown."""
    if error is None or math.isnan(error):
        return ""
    return f"± {number(_rounded(error)[0], 2)}"


def _rounded(error: float) -> tuple[float, int]:
    """An error as it is told, and the power of ten of its last digit: upwards, but for what is within a
    hundredth of the digit below."""
    if error <= 0 or not math.isfinite(error):
        return error, 0
    for digits in (1, 2):
        place = _place(error) - digits + 1
        told = math.ceil(error / 10.0**place - 0.01)
        if digits == 2 or told == 1 or told > 2:
            break
    while told % 10 == 0:
        told, place = told // 10, place + 1
    return float(f"{told}e{place}"), place


def _place(value: float) -> int:
    """The power of ten of the first digit."""
    return int(f"{abs(value):.12e}".partition("e")[2])


def _at(value: float, place: int, *, trim: bool) -> str:
    """A number rounded to a power of ten."""
    first = _place(value)
    digits = max(first - place, 0)
    if not _PLAIN[0] <= abs(value) < _PLAIN[1]:
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        if trim and "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    if place >= 0:
        return f"{round(value, -min(place, 0)):,.0f}"
    text = f"{value:,.{-place}f}"
    return re.sub(r"\.?0+$", "", text) if trim and "." in text else text
