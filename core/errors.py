"""The errors that are told to people as they are."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or else its kind, to be put in brackets."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


class UserError(ValueError):
    """Something that its user can put right; the message is one sentence: what is wrong, and what to do.

    Every edge shows it as it is: the command line, the pages, a run's message. All other exceptions are
    faults of this program, whose text is for its log.

    Attributes:
        exit_code: With what a command ends that meets it: 2 where what was asked for cannot work, 1 where it
            failed.
    """

    exit_code = 2
