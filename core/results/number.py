"""Single numbers of packed curves and quantities, which the database reads by itself: it sorts by them.

What is packed are rows of little-endian fp64 (``seigh.core.results.packed``). Nothing here needs NumPy, which
a process that only opens the database does without.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Double, Integer, case, cast, func, literal, null
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

_SIZE = 8  # bytes of a number

NAME = "number_at"
"""The SQL function that SQLite is given, which calls ``read`` (``seigh.core.lab.session``)."""


def read(packed: bytes | None, place: int | None) -> float | None:
    """The number at a place of packed ones, from 0; None where it is unknown, or where there are fewer."""
    if packed is None or place is None or not 0 <= place < len(packed) // _SIZE:
        return None
    value: float = struct.unpack_from("<d", packed, _SIZE * place)[0]
    return value if math.isfinite(value) else None


class _NumberAt(GenericFunction[Any]):
    type = Double()
    name = NAME
    inherit_cache = True


def number_at(packed: Any, place: Any) -> ColumnElement[Any]:
    """``read`` in SQL, of a column of bytes and a place, which may be a column, too."""
    return _NumberAt(packed, place)


@compiles(_NumberAt, "postgresql")
def _from_bits(element: Any, compiler: Any, **options: Any) -> str:
    """PostgreSQL has no cast from bytes to a number: it is put together from sign, exponent and fraction."""
    packed, place = element.clauses
    start = cast(place, BigInteger) * _SIZE
    octets = [
        cast(func.get_byte(packed, cast(start + number, Integer)), BigInteger) for number in range(_SIZE)
    ]
    exponent = octets[7].op("&")(127) * 16 + octets[6].op(">>")(literal(4, Integer))
    fraction: Any = octets[6].op("&")(15)
    for octet in reversed(octets[:6]):
        fraction = fraction * 256 + octet
    share = cast(fraction, Double) / literal(2.0**52, Double)
    two = literal(2.0, Double)
    magnitude = case(
        (exponent == 0, share * func.power(two, -1022)), else_=(1 + share) * func.power(two, exponent - 1023)
    )
    value = case(
        (func.length(packed) < start + _SIZE, null()),
        (exponent == 2047, null()),
        (octets[7] >= 128, -magnitude),
        else_=magnitude,
    )
    rendered: str = compiler.process(value, **options)
    return rendered
