"""The ``seigh`` command and what it operates: the stack, its services, accounts, health, metrics."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``seigh``, with the arguments of this process when none are given."""
    from seigh.app.cli import command

    command.main(arguments)
