"""The lines that the app and the workers log: for people, or one JSON object each (``SEIGH_LOG=json``).

Every line that is written while a piece of work runs says which: fields ``kind`` and ``id``, or in text a
prefix such as ``analysis 7:``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from urllib.parse import unquote

from pythonjsonlogger.json import JsonFormatter

from seigh.core.names import LogFormat

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# Celery says of each message what it asks for; ours ask for a kind of work and an id.
_ARGUMENTS = re.compile(r"[(\[]\s*'(\w+)',\s*(\d+)\s*[)\]]")

# User and password in an address, up to the last "@" before it ends.
_CREDENTIALS = re.compile(r"(\w://)[^\s'\"<>]*@")
_PASSWORD = re.compile(r"[\w+]+://[^:/@]*:(.*)@")

_work: ContextVar[tuple[str, int] | None] = ContextVar("work", default=None)


def redact(text: str) -> str:
    """``text`` without the passwords of this installation, and without any in an address."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub(r"\1***@", text)


def _secrets() -> list[str]:
    """The passwords in the variables of this process, in all forms in which they may be written."""
    given = [os.environ.get("PGPASSWORD", ""), os.environ.get("REDISCLI_AUTH", "")]
    for name in ("SEIGH_REDIS_URL", "SEIGH_DATABASE_URL"):
        if found := _PASSWORD.match(os.environ.get(name, "")):
            given += [found[1], unquote(found[1])]
    forms = {form for each in given for form in (each, repr(each)[1:-1], json.dumps(each)[1:-1])}
    # A word that short would be blotted out everywhere, and protects nothing.
    return sorted((form for form in forms if len(form) >= 4), key=len, reverse=True)


@contextmanager
def about(kind: str, number: int) -> Iterator[None]:
    """Attach kind and number of a piece of work to all that this thread logs within the block."""
    token = _work.set((kind, number))
    try:
        yield
    finally:
        _work.reset(token)


def configure(form: LogFormat, level: int | str = logging.INFO) -> None:
    """Send what all loggers of this process say to standard error, warnings of libraries included.

    Args:
        form: ``text`` for people, ``json`` for what collects logs.
        level: The least severe level that is shown.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_work)
    handler.setFormatter(_Json() if form == "json" else _Text(_TEXT))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)


def _add_work(record: logging.LogRecord) -> bool:
    """Give the record the fields ``kind`` and ``id`` of the work that it is about, if it has none."""
    if not hasattr(record, "kind"):
        work = _work.get() or _asked_for(record)
        if work is not None:
            record.kind, record.id = work
    return True


def _asked_for(record: logging.LogRecord) -> tuple[str, int] | None:
    facts = getattr(record, "data", None)
    if not isinstance(facts, Mapping):
        return None
    found = _ARGUMENTS.search(str(facts.get("args", "")))
    return (found[1], int(found[2])) if found else None


class Redacted(logging.Formatter):
    """Lines, tracebacks included, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Text(Redacted):
    def formatMessage(self, record: logging.LogRecord) -> str:
        if hasattr(record, "kind"):
            prefix = f"{record.kind} {record.id}: "  # type: ignore[attr-defined]
            if not record.message.startswith(prefix):
                record.message = prefix + record.message
        return super().formatMessage(record)


class _Json(JsonFormatter):
    """``time``, ``level``, ``logger``, ``message``, ``process``, and what else a line brings."""

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message", "process"],
            rename_fields={"levelname": "level", "name": "logger"},
            # What Celery adds: the whole message, again.
            reserved_attrs=[*logging.LogRecord("", 0, "", 0, "", None, None).__dict__, "data"],
            json_ensure_ascii=False,
        )

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        super().add_fields(log_data, record, message_dict)
