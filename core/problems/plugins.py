"""What Python packages beside this one add: a lab's own architectures and sources of them, data sets, losses,
problems, curves, masks, methods and figures.

A package declares an entry point in the group ``seigh.problems``, a function that takes a ``Registry``::

    # pyproject.toml of the package
    [project.entry-points."seigh.problems"]
    ours = "our_lab.seigh:register"

    # our_lab/seigh.py
    def register(registry):
        registry.architecture("our-net", OurNet, options={"width": 64}, takes=(3, 32, 32))

Whoever runs the server installs such packages; nothing that is uploaded is ever imported.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from torch import nn

from seigh.core.figures import OfResult
from seigh.core.methods import BUILT_IN, Method
from seigh.core.observables import BUILT_IN as OBSERVABLES
from seigh.core.overlap.masks.built_in import MASKS
from seigh.core.overlap.observables import Observable, ScoredMask
from seigh.core.plugged import GROUP
from seigh.core.problems import paper, zoo
from seigh.core.problems.sources import Source
from seigh.core.problems.spec import Value

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)

_log = logging.getLogger(__name__)

# The shape of one sample, or what gives it for the values of all options.
Takes = tuple[int, ...] | Callable[[Mapping[str, Value]], tuple[int, ...]]


@dataclass(frozen=True)
class PluggedArchitecture:
    """An architecture that a package has registered.

    Attributes:
        build: ``build(**options) -> nn.Module``.
        options: Default by option.
        takes: Shape of one sample; None if the package does not say.
        package: Who registered it.
    """

    build: Callable[..., nn.Module]
    options: Mapping[str, Value]
    takes: Takes | None
    package: str


@dataclass
class Registry:
    """Everything that packages have registered, by name.

    Attributes:
        package: Whose entry point fills it at the moment.
        architectures: Networks.
        sources: Collections of networks.
        datasets: ``load(split)`` of each data set.
        losses: ``build() -> nn.Module`` of each loss, the mean over the samples of a batch.
        problems: Recipes of training, ``seigh.core.problems.training.Problem``.
        curves: Curves of an eigenspace, those of masks among them.
        methods: Methods that find eigenpairs.
        figures: Figures of one analysis, each a function of its result.
    """

    package: str = ""
    architectures: dict[str, PluggedArchitecture] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    datasets: dict[str, Callable[..., Any]] = field(default_factory=dict)
    losses: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)
    problems: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Observable] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)
    figures: dict[str, OfResult] = field(default_factory=dict)

    def architecture(
        self,
        name: str,
        build: Callable[..., nn.Module],
        *,
        options: Mapping[str, Value] | None = None,
        takes: Takes | None = None,
    ) -> None:
        """Register a network.

        Args:
            name: What people choose.
            build: ``build(**options) -> nn.Module``; its output in eval mode is one tensor (N, outputs).
            options: Default by option; the defaults of ``build``'s own arguments when not given.
            takes: Shape of one sample without the batch, or a function of the options that gives it.
        """
        chosen = _defaults(build) if options is None else dict(options)
        plugged = PluggedArchitecture(build, MappingProxyType(chosen), takes, self.package)
        _add(self.architectures, name, plugged)

    def source(self, source: Source) -> None:
        """Register a collection of networks, which are called ``<name of the source>/…``."""
        _add(self.sources, source.name, source)

    def data(self, name: str, load: Callable[..., Any]) -> None:
        """Register a data set; ``load(split)`` gives what ``seigh.core.problems.data`` says of plug-ins."""
        _add(self.datasets, name, load)

    def loss(self, name: str, build: Callable[[], nn.Module]) -> None:
        """Register a loss: ``build()(outputs, y) -> scalar``, the mean over samples, twice differentiable."""
        _add(self.losses, name, build)

    def problem(self, name: str, problem: Any) -> None:
        """Register a recipe of training."""
        _add(self.problems, name, problem)

    def curve(self, observable: Observable) -> None:
        """Register an observable: a curve of an eigenspace, a number for each k, a profile, or a quantity."""
        _add(self.curves, observable.name, observable)

    def mask(self, mask: ScoredMask) -> None:
        """Register a mask, whose overlap with the eigenspaces is the curve ``overlap-<name>``."""
        self.curve(mask.observable())

    def method(self, method: Method) -> None:
        """Register a method; of what it returns, only the subspace is taken."""
        _add(self.methods, method.name, replace(method, plugged=True, ritz=False, options=frozenset()))

    def figure(self, name: str, of: OfResult) -> None:
        """Register a figure of one analysis, which the page Result, reports and downloads then have.

        Args:
            name: Name of the figure, and of its files.
            of: Of a result, the object that ``seigh analyze --json`` writes, its ``Figure``; None where there
                is nothing to draw.
        """
        _add(self.figures, name, of)


def _add(registered: dict[str, Any], name: str, value: Any) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' is no name; use letters, digits, dots, hyphens and underscores.")
    if name in registered:
        raise ValueError(f"'{name}' is registered already; choose another name.")
    registered[name] = value


def _defaults(build: Callable[..., nn.Module]) -> dict[str, Value]:
    """The arguments of ``build`` that have a plain value as their default."""
    given = {name: each.default for name, each in inspect.signature(build).parameters.items()}
    return {name: value for name, value in given.items() if isinstance(value, (bool, int, float, str))}


@cache
def registry() -> Registry:
    """Everything that the installed packages register; read once per process.

    A package that fails is logged and left out, all of it.
    """
    whole = Registry()
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            _merge(whole, _filled(entry))
        except (Exception, SystemExit):  # another package's code may fail in every way there is
            _log.exception("The plug-in '%s' (%s) is left out, because it fails.", entry.name, entry.value)
    return whole


def _filled(entry: EntryPoint) -> Registry:
    package = entry.dist.name if entry.dist is not None else entry.name
    own = Registry(package=package)
    entry.load()(own)
    return own


def _merge(whole: Registry, own: Registry) -> None:
    from seigh.core.problems import losses  # which asks this module

    here = {
        "losses": {*losses.BUILT_IN},
        "curves": {*OBSERVABLES, *(mask.observable().name for mask in MASKS)},
        "methods": {*BUILT_IN},
        "sources": {"graph", "hf", "timm"},
    }
    if own.architectures:
        here["architectures"] = {*paper.NETWORKS, "char-gpt", *zoo.torchvision_names()}
    kinds = ("architectures", "sources", "datasets", "losses", "problems", "curves", "methods", "figures")
    for kind in kinds:
        for name in getattr(own, kind).keys() & (getattr(whole, kind).keys() | here.get(kind, set())):
            raise ValueError(f"'{name}' is here already; choose another name.")
    for kind in kinds:
        getattr(whole, kind).update(getattr(own, kind))
