"""Accounts, and the browsers that people have signed in with.

Every function works in the transaction of the session it is given; the caller commits. Passwords are kept as
Argon2's hashes, the tokens of browsers as SHA-256: they are random, so nobody guesses one from its hash.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from seigh.core.access import Actor, Role
from seigh.core.errors import UserError
from seigh.core.lab import audit
from seigh.core.lab.clock import present
from seigh.core.lab.models import Account, Audit, SignIn

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST = 10  # characters of a password
_LONGEST = 1000

REFUSED = "sign-in refused"
# So many are refused within this time before nobody is asked for a password any more.
_WINDOW = timedelta(minutes=15)
_PER_ACCOUNT = 10
_PER_ADDRESS = 30
# Any constant of our own: the lock that attempts compete for in PostgreSQL, as they count each other.
_ATTEMPT_LOCK = 0x5E16_4003


class AccountError(UserError):
    """An account that cannot be made, changed or used; the message is one sentence for the user."""


class TooManyAttempts(AccountError):
    """Nobody is asked for a password for a while."""


# --- Accounts ---------------------------------------------------------------------------------------------


def add(s: Session, actor: Actor, name: str, role: Role, password: str) -> Account:
    """A new account.

    Raises:
        AccountError: If the name is taken or cannot be one, or the password is too short.
    """
    return _add(s, actor, Account(name=_checked_name(name), role=role, password=_hash(password)))


def known_elsewhere(s: Session, issuer: str, person: str, name: str, role: Role) -> Account:
    """The account of somebody whom somebody else signs in, made when they come for the first time.

    Args:
        s: A writing session.
        issuer: Who says so.
        person: What the issuer calls them, for ever.
        name: What they are called, which may change there and does not here.
        role: Role of a new account.

    Raises:
        AccountError: If the name of a new one is taken, or cannot be one.
    """
    subject = hashlib.sha256(f"{issuer}\n{person}".encode()).hexdigest()
    found = s.scalars(select(Account).where(Account.subject == subject)).one_or_none()
    if found is not None:
        return found
    name = _checked_name(name)
    return _add(s, Actor(name, role, "first sign-in"), Account(name=name, role=role, subject=subject))


def named_elsewhere(s: Session, name: str, role: Role) -> Account:
    """The account of somebody whom a proxy names, made when they come for the first time.

    Raises:
        AccountError: If the name cannot be one.
    """
    name = _checked_name(name)
    found = s.scalars(select(Account).where(Account.name == name)).one_or_none()
    return found or _add(s, Actor(name, role, "first sign-in"), Account(name=name, role=role))


def _add(s: Session, actor: Actor, account: Account) -> Account:
    try:
        with s.begin_nested():
            account.created_at = present(s)
            s.add(account)
    except IntegrityError as error:
        raise AccountError(f"There is an account '{account.name}' already; choose another name.") from error
    audit.record(s, actor, f"added as {account.role}", "account", account.id, account.name)
    return account


def find(s: Session, name: str) -> Account:
    """The account of this name.

    Raises:
        AccountError: If there is none.
    """
    account = s.scalars(select(Account).where(Account.name == name)).one_or_none()
    if account is None:
        raise AccountError(f"There is no account '{name}'; 'seigh user list' names all.")
    return account


def every(s: Session) -> Sequence[Account]:
    """All accounts by name."""
    return s.scalars(select(Account).order_by(Account.name)).all()


def exist(s: Session) -> bool:
    """Whether somebody can sign in."""
    return s.scalar(select(Account.id).where(Account.disabled.is_(False)).limit(1)) is not None


def set_role(s: Session, actor: Actor, name: str, role: Role) -> None:
    """Give an account another role.

    Raises:
        AccountError: If there is none of this name, or it is the last admin's.
    """
    account = find(s, name)
    if role is not Role.admin:
        _check_other_admins(s, account)
    account.role = role
    audit.record(s, actor, f"made {role}", "account", account.id, name)


def set_password(s: Session, actor: Actor, name: str, password: str) -> None:
    """Give an account another password; whoever is signed in with the old one no longer is.

    Raises:
        AccountError: If there is none of this name, or the password is too short.
    """
    account = find(s, name)
    account.password = _hash(password)
    _revoke(s, account)
    audit.record(s, actor, "password changed", "account", account.id, name)


def set_disabled(s: Session, actor: Actor, name: str, disabled: bool) -> None:
    """Shut an account out, at once, or let it in again.

    Raises:
        AccountError: If there is none of this name, or it is the last admin's.
    """
    account = find(s, name)
    if disabled:
        _check_other_admins(s, account)
        _revoke(s, account)
    account.disabled = disabled
    audit.record(s, actor, "disabled" if disabled else "enabled", "account", account.id, name)


def revoke(s: Session, actor: Actor, name: str) -> None:
    """End all sign-ins of an account.

    Raises:
        AccountError: If there is none of this name.
    """
    account = find(s, name)
    _revoke(s, account)
    audit.record(s, actor, "signed out everywhere", "account", account.id, name)


def _revoke(s: Session, account: Account) -> None:
    s.execute(update(SignIn).where(SignIn.account_id == account.id).values(revoked=True))


def _check_other_admins(s: Session, account: Account) -> None:
    others = select(Account.id).where(
        Account.role == Role.admin, Account.disabled.is_(False), Account.id != account.id
    )
    if account.role is Role.admin and not account.disabled and s.scalar(others.limit(1)) is None:
        raise AccountError(f"{account.name} is the last admin; make somebody else one first.")


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise AccountError("The name of an account has 1 to 100 characters, all of them printable.")
    return name


# --- Passwords --------------------------------------------------------------------------------------------


@functools.cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


@functools.cache
def _nobodys() -> str:
    """The hash of a password that nobody knows: to look it up takes as long as somebody's."""
    return _hasher().hash(secrets.token_urlsafe())


def _hash(password: str) -> str:
    if not SHORTEST <= len(password) <= _LONGEST:
        raise AccountError(f"A password has {SHORTEST} characters at least; choose a longer one.")
    return _hasher().hash(password)


def is_password(hashed: str | None, password: str) -> bool:
    """Whether a password is the one of a hash; None is that of nobody, and takes as long."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return _hasher().verify(hashed or _nobodys(), password[: _LONGEST + 1]) and hashed is not None
    except (Argon2Error, InvalidHashError):
        return False


# --- Sign-ins ---------------------------------------------------------------------------------------------


def attempt(s: Session, name: str, address: str) -> int:
    """Write down that somebody tries to sign in, as one who was refused, unless ``succeeded``.

    Raises:
        TooManyAttempts: If too many were, of this account or from this address.
    """
    if s.get_bind().dialect.name == "postgresql":
        # One after the other, else many could find the same room. SQLite has one writer at a time anyway.
        s.execute(select(func.pg_advisory_xact_lock(_ATTEMPT_LOCK)))
    recent = select(func.count()).where(Audit.what == REFUSED, Audit.at > present(s) - _WINDOW)
    of_account = s.scalar(recent.where(Audit.who == name[:100])) or 0
    of_address = s.scalar(recent.where(Audit.address == address[:64])) or 0
    if of_account >= _PER_ACCOUNT or of_address >= _PER_ADDRESS:
        minutes = int(_WINDOW.total_seconds() // 60)
        raise TooManyAttempts(f"Too many attempts failed; try again in {minutes} minutes.")
    return audit.record(s, Actor(name, Role.reader, address), REFUSED, "account").id


def password_of(s: Session, name: str) -> str | None:
    """The hash of an account's password; None where nobody can sign in with one."""
    account = s.scalars(select(Account).where(Account.name == name)).one_or_none()
    return None if account is None or account.disabled else account.password


def succeeded(s: Session, attempted: int) -> None:
    """Forget an attempt that was not in vain."""
    s.execute(delete_rows(Audit).where(Audit.id == attempted))


def open_sign_in(s: Session, account: Account, address: str, lasts: timedelta) -> str:
    """Let somebody in who has shown who they are: the token for their browser.

    Raises:
        AccountError: If the account is disabled.
    """
    if account.disabled:
        raise AccountError(f"The account '{account.name}' is disabled; ask an admin.")
    time, token = present(s), secrets.token_urlsafe(32)
    s.execute(delete_rows(SignIn).where(SignIn.expires_at < time - timedelta(days=30)))
    row = SignIn(
        account_id=account.id,
        token=_digest(token),
        address=address[:64],
        created_at=time,
        expires_at=time + lasts,
    )
    s.add(row)
    audit.record(s, Actor(account.name, account.role, address), "signed in", "account", account.id)
    return token


def sign_in_of(s: Session, token: str) -> SignIn | None:
    """The sign-in of a browser with this token, with its account, while it holds."""
    return _valid(s, SignIn.token == _digest(token))


def sign_in(s: Session, number: int) -> SignIn | None:
    """The sign-in with this id, likewise."""
    return _valid(s, SignIn.id == number)


def close_sign_in(s: Session, number: int, address: str) -> None:
    """End a sign-in."""
    row = s.get(SignIn, number)
    if row is not None and not row.revoked:
        row.revoked = True
        actor = Actor(row.account.name, row.account.role, address)
        audit.record(s, actor, "signed out", "account", row.account_id)


def sign_ins(s: Session) -> Sequence[SignIn]:
    """Return the sign-ins that are still valid, the newest first."""
    statement = select(SignIn).where(*_holds(s)).options(joinedload(SignIn.account))
    return s.scalars(statement.order_by(SignIn.id.desc())).all()


def _valid(s: Session, which: ColumnElement[bool]) -> SignIn | None:
    statement = select(SignIn).join(Account).where(which, *_holds(s))
    return s.scalars(statement.options(joinedload(SignIn.account))).one_or_none()


def _holds(s: Session) -> tuple[ColumnElement[bool], ...]:
    disabled = select(Account.id).where(Account.disabled.is_(True))
    return SignIn.revoked.is_(False), SignIn.expires_at > present(s), SignIn.account_id.not_in(disabled)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
