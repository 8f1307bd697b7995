"""Commands for the accounts of those who sign in to the dashboard."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from seigh.core.access import Actor, Role
from seigh.core.settings import SettingsError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

people = typer.Typer(help="Manage the accounts for signing in to the dashboard.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the account.")]


@people.command()
def add(
    name: Name,
    role: Annotated[
        Role, typer.Option(help="A reader looks, a member also uploads and analyses, an admin does all.")
    ] = Role.member,
) -> None:
    """Create an account; the command asks for the password, or reads it from a pipe."""
    from seigh.core.lab import accounts

    password = _password()
    with _database() as s:
        accounts.add(s, _operator(), name, role, password)
    print(f"{name} can sign in now, as {role}.")


@people.command("list")
def show() -> None:
    """List the accounts."""
    from seigh.core.lab import accounts

    with _database() as s:
        for account in accounts.every(s):
            how = "" if account.password else ", signs in elsewhere"
            print(f"{account.name}: {account.role}{how}{', disabled' if account.disabled else ''}")


@people.command()
def role(name: Name, role: Annotated[Role, typer.Argument(help="reader, member or admin.")]) -> None:
    """Change the role of an account."""
    from seigh.core.lab import accounts

    with _database() as s:
        accounts.set_role(s, _operator(), name, role)


@people.command()
def password(name: Name) -> None:
    """Change the password of an account (asked for, or read from a pipe), which ends its sign-ins."""
    from seigh.core.lab import accounts

    with _database() as s:
        accounts.find(s, name)
    chosen = _password()
    with _database() as s:
        accounts.set_password(s, _operator(), name, chosen)


@people.command()
def disable(name: Name) -> None:
    """Disable an account at once."""
    from seigh.core.lab import accounts

    with _database() as s:
        accounts.set_disabled(s, _operator(), name, True)


@people.command()
def enable(name: Name) -> None:
    """Enable a disabled account again."""
    from seigh.core.lab import accounts

    with _database() as s:
        accounts.set_disabled(s, _operator(), name, False)


@people.command()
def revoke(name: Name) -> None:
    """End all sign-ins of an account."""
    from seigh.core.lab import accounts

    with _database() as s:
        accounts.revoke(s, _operator(), name)


@contextmanager
def _database() -> Iterator[Session]:
    from seigh.app.cli.operations import environment
    from seigh.core.lab.session import migrate, sessions

    env = environment()
    migrate(env.database)
    with sessions(env.database).begin() as s:
        yield s


def _password() -> str:
    """A new password: the first line of what is piped in, or asked for twice."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != first:
        raise SettingsError("The two passwords differ; run the command again.")
    return first


def _operator() -> Actor:
    """Who sits here."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = f"uid {os.getuid()}"
    return Actor(name, Role.admin, "command line")
