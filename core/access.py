"""Who may do what."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from seigh.core.errors import UserError


class Role(enum.StrEnum):
    """What somebody may do: a reader looks; a member also uploads, analyses, and cancels or deletes what is
    theirs; an admin does the rest, and keeps the accounts."""

    reader = "reader"
    member = "member"
    admin = "admin"

    @property
    def may_work(self) -> bool:
        """Whether it allows to upload and analyse."""
        return self is not Role.reader


class AccessError(UserError):
    """Something that somebody may not do; the message is one sentence for them."""


@dataclass(frozen=True)
class Actor:
    """Somebody who does something.

    Attributes:
        name: As it stands beside what they did.
        role: What they may do.
        address: Where they sit: an address of the network, or a word.
    """

    name: str
    role: Role
    address: str = ""

    def may_change(self, owner: str) -> bool:
        """Whether they may change what ``owner`` has made."""
        return self.role is Role.admin or (self.role.may_work and self.name == owner)

    def check_work(self) -> None:
        """Raise ``AccessError`` unless they may upload and analyse."""
        if not self.role.may_work:
            raise AccessError(
                f"{self.name} may look at results and change nothing; ask an admin for the role of a member."
            )

    def check_change(self, owner: str, what: str) -> None:
        """Raise ``AccessError`` unless they may change ``what``, which ``owner`` has made."""
        self.check_work()
        if not self.may_change(owner):
            raise AccessError(f"{what} is by {owner}; only {owner} and admins may change it.")

    def check_admin(self) -> None:
        """Raise ``AccessError`` unless they may keep the accounts."""
        if self.role is not Role.admin:
            raise AccessError("Only admins keep the accounts; ask one.")


# Whoever can start our commands can read and write the database anyway.
OPERATOR = Actor("operator", Role.admin, "command line")


def acting(user: str | Actor) -> Actor:
    """Who does something; a mere name is somebody at the command line."""
    return user if isinstance(user, Actor) else Actor(user, Role.admin, OPERATOR.address)
