"""Commands that list what there is to choose from: architectures, data sets, problems."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seigh.app.cli.operations import environment
from seigh.core.settings import SettingsError

catalogue = typer.Typer()

# Into a file or a pipe, tables are as wide as they need to be.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


@catalogue.command()
def architectures(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Part of a name to search for; or, for all details, a whole name, perhaps with options, or "
            "the .pt2 file of an exported network."
        ),
    ] = "",
) -> None:
    """List the architectures, or show the options of one, the shape of its samples and its D."""
    from seigh.core.problems import architectures as known

    names = known.names()
    if "(" in pattern or pattern in names or pattern.lower().endswith(".pt2"):
        _describe(pattern)
        return
    found = [name for name in names if pattern.lower() in name.lower()]
    if not found:
        raise SettingsError(f"No architecture has '{pattern}' in its name; 'seigh architectures' lists all.")
    for name in found:
        print(name)


def _describe(text: str) -> None:
    """All there is to know about one architecture."""
    from seigh.core.problems import architectures as known

    spec = known.canonical(text)
    about, theta = known.describe(spec), known.expected_theta(spec)
    out.print(f"[bold]{escape(spec)}[/]: {escape(about.line)}")
    words = f"D = {theta.trainable:,}"
    words += f"; {theta.tied:,} that are tied to others count once" if theta.tied else ""
    words += f"; {theta.frozen:,} that are frozen are left out" if theta.frozen else ""
    out.print(f"{words}.")
    if about.takes is not None:
        out.print(f"Samples: {_shape(about.takes)}.")
    table = _table("option", "default", "meaning")
    for name, option in about.options.items():
        default = str(option.default)
        table.add_row(name, default.lower() if isinstance(option.default, bool) else default, option.help)
    if about.options:
        out.print(table)


@catalogue.command()
def datasets() -> None:
    """List the data sets, and how to get the missing ones."""
    from seigh.core.problems import data

    env = environment()
    found = [data.describe(name, env=env) for name in data.names()]
    table = _table("data set", "sample", "classes", "what it is", "files")
    for each in found:
        sample = "" if each.shape is None else _shape(each.shape)
        files = "missing" if each.missing else "there" if each.files else ""
        table.add_row(each.name, sample, str(each.classes or ""), escape(each.about), files)
    out.print(table)
    for each in found:
        if each.missing:
            out.print(f"{each.name}: {escape(str(each.missing[0]))} is missing. {escape(each.how)}")
    out.print(f"For trials there are random data, as {data.RANDOM_EXAMPLE}; or name a file of your own, with")
    out.print(f"x and y ({' or '.join(data.FILE_SUFFIXES)}).")


@catalogue.command()
def curves() -> None:
    """List the observables and masks for --curves."""
    from seigh.core.curves import available

    table = _table("name", "kind", "what it is", "meaning")
    for each in available().values():
        table.add_row(each.name, each.kind, escape(each.title), escape(each.note))
    out.print(table)


@catalogue.command()
def problems() -> None:
    """List the problems that can be trained: learning rate, batch, steps, and steps between checkpoints."""
    from seigh.core.problems import data, training

    env = environment()
    table = _table("problem", "architecture", "data", "rate", "batch", "steps", "every")
    for name, recipe in training.problems().items():
        missing = " (missing)" if data.describe(recipe.data, env=env).missing else ""
        numbers = (
            f"{recipe.learning_rate:.4g}",
            f"{recipe.batch:,}",
            f"{recipe.steps:,}",
            f"{recipe.every:,}",
        )
        table.add_row(name, escape(recipe.architecture), escape(recipe.data) + missing, *numbers)
    out.print(table)


def _table(*names: str) -> Table:
    """An empty table; of what is too wide for a terminal, words are wrapped and no names are cut."""
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=name not in ("what it is", "meaning", "data"))
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
