"""Where architectures come from: the paper's, torchvision's, timm's, and those of plug-ins.

A source is one ``Source``. Libraries are imported when a source is first asked for something that it alone
knows, as that takes seconds which a network of another source need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from seigh.core.problems.spec import Spec, Value

Shape = tuple[int, ...]


def _of_that_name(source: str) -> Callable[[str], str]:
    return lambda name: f"{source}'s {name.removeprefix(f'{source}/')}."


@dataclass(frozen=True)
class Source:
    """A collection of architectures.

    Attributes:
        name: Name of the source. A plug-in's architectures are called ``<name>/…``, as timm's are.
        names: Names of all its architectures.
        build: ``build(name, options)``, a freshly initialised model; options that are not given have their
            default.
        options: Gives default by option for a name; some may be no options, unless all are certain.
        takes: ``takes(name, options)``, the shape of one sample for the values of all options; None where
            the source does not say.
        line: Describes a name in a line; the source's name and its own when not given.
        certain: ``certain(name, option)``, whether this is known to be an option, so that it need not be
            tried. All are when not given.
        candidates: Of shapes by tensor name, which architectures a checkpoint of such tensors may be of; all
            of them when not given.
        canonical: Of a spec whose architecture there is, the one way to write it, for sources whose options
            follow rules of their own; raises ``SettingsError`` for options that there are not.
        on_meta: Whether its constructors compute with no tensor, so that they work without memory.
    """

    name: str
    names: Callable[[], Sequence[str]]
    build: Callable[[str, Mapping[str, Value]], nn.Module]
    options: Callable[[str], Mapping[str, Value]] = lambda _: {}
    takes: Callable[[str, Mapping[str, Value]], Shape | None] | None = None
    line: Callable[[str], str] | None = None
    certain: Callable[[str, str], bool] | None = None
    candidates: Callable[[Mapping[str, Sequence[int]]], Iterable[str]] | None = None
    on_meta: bool = False
    canonical: Callable[[Spec], Spec] | None = None

    def described(self, name: str) -> str:
        """Describe an architecture in a line."""
        return _of_that_name(self.name)(name) if self.line is None else self.line(name)

    def shape(self, name: str, options: Mapping[str, Value]) -> Shape | None:
        """The shape of one sample."""
        return None if self.takes is None else self.takes(name, options)

    def is_certain(self, name: str, option: str) -> bool:
        """Whether this is known to be an option."""
        return self.certain is None or self.certain(name, option)

    def possible(self, shapes: Mapping[str, Sequence[int]]) -> Iterable[str]:
        """Return the architectures that may fit a checkpoint with tensors of these shapes."""
        return self.names() if self.candidates is None else self.candidates(shapes)
