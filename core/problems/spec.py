"""Names with options, such as ``resnet18(num_classes=10)``: how architectures and synthetic data are written.

>>> str(parse(" resnet18( width = 2,num_classes=10 )"))
'resnet18(num_classes=10,width=2)'
>>> parse("random(3x32x32,classes=10)")
Spec(name='random', options=(('classes', 10),), argument='3x32x32')
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from seigh.core.settings import SettingsError

# A value of an option: true and false, numbers, or a word.
Value = bool | int | float | str

# A name, or a class of somebody's own module.
_NAME = r"(?:[A-Za-z0-9][\w./+-]*|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)"
_SPEC = re.compile(rf"\s*({_NAME})\s*(?:\(([^()]*)\)\s*)?", re.ASCII)
_OPTION = re.compile(r"\s*(?:([A-Za-z]\w*)\s*=\s*)?([\w.+-]+)\s*", re.ASCII)

# Characters of a name with its options: a transformer's configuration may differ from the usual in many.
LONGEST = 2000

# Far above any size that is meant, and small enough that arithmetic with it stays harmless.
_LARGEST = 10**9


@dataclass(frozen=True)
class Spec:
    """A name and its options, sorted.

    Attributes:
        name: What is meant, ``resnet18``.
        options: Pairs of an option's name and its value, in alphabetical order.
        argument: A first value without a name, ``3x32x32`` in ``random(3x32x32)``; None if there is none.
    """

    name: str
    options: tuple[tuple[str, Value], ...] = ()
    argument: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(sorted(self.options)))

    def __str__(self) -> str:
        """Return the text that ``parse`` reads, without spaces."""
        words = [] if self.argument is None else [self.argument]
        words += [f"{name}={_text(value)}" for name, value in self.options]
        return f"{self.name}({','.join(words)})" if words else self.name

    def without(self, defaults: Mapping[str, Value]) -> Spec:
        """The same without options that have these values anyway."""
        kept = tuple((n, v) for n, v in self.options if n not in defaults or defaults[n] != v)
        return replace(self, options=kept)


def parse(text: str) -> Spec:
    """The name and options that a text such as ``vit_b_16(image_size=64,num_classes=10)`` stands for.

    Raises:
        SettingsError: It is no name with options in parentheses, or gives an option twice.
    """
    match = _SPEC.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        raise _malformed(text)
    name, inside = match[1], match[2]
    argument: str | None = None
    options: dict[str, Value] = {}
    for position, part in enumerate(inside.split(",") if inside and inside.strip() else ()):
        option = _OPTION.fullmatch(part)
        if option is None or (option[1] is None and position > 0):
            raise _malformed(text)
        if option[1] is None:
            argument = option[2]
        elif option[1] in options:
            raise SettingsError(f"'{text}' gives {option[1]} twice; give every option once.")
        else:
            options[option[1]] = _value(option[2], text)
    return Spec(name, tuple(options.items()), argument)


def _malformed(text: str) -> SettingsError:
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    return SettingsError(
        f"'{shown}' is not understood; write a name, with options in parentheses where needed: "
        "resnet18(num_classes=10)."
    )


def _value(word: str, text: str) -> Value:
    if word in ("true", "True", "false", "False"):
        return word in ("true", "True")
    for kind in (int, float):
        try:
            number = kind(word)
        except ValueError:
            continue
        if not math.isfinite(number) or abs(number) > _LARGEST:
            raise SettingsError(f"{word[:40]} in '{text[:80]}' is no sensible size; choose a smaller number.")
        return number
    return word


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
