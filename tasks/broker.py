"""The queue's Redis, as Celery sees it, except that no message can end a worker.

Celery takes for granted that what it finds in a queue is one of its messages. Whatever else is there (text,
JSON of another form, a task that is none of ours, other arguments) would end the worker, come back, and end
the next one. Here it is taken out of the queue, and said; work is not lost by that, as the database has it.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from queue import Empty
from typing import Any

import kombu.transport
import kombu.transport.redis
from redis.exceptions import DataError

logger = logging.getLogger(__name__)

# The arguments of each task.
_TASKS: Mapping[str, tuple[type, ...]] = {"seigh.run": (str, int), "seigh.part": (int, str)}

# What a message that is none raises, wherever in Celery somebody looks into it.
_MALFORMED = (TypeError, ValueError, LookupError, AttributeError, DataError)

_SHOWN = 200  # characters of a message, in the log

# The queues in which something was found; the next sweep tells the database, and so the page.
found: deque[str] = deque(maxlen=1000)


def refusal(message: object) -> str | None:
    """Why something from a queue is not one of our messages, as the end of a sentence; None if it is one."""
    if not isinstance(message, dict):
        return "it is no message"
    properties, headers = message.get("properties"), message.get("headers")
    if not isinstance(properties, dict) or not isinstance(headers, dict):
        return "it is no message"
    info = properties.get("delivery_info")
    if not (
        isinstance(properties.get("delivery_tag"), str)
        and isinstance(info, dict)
        and all(isinstance(info.get(name), str) for name in ("exchange", "routing_key"))
    ):
        return "it does not say where it was delivered"
    task = headers.get("task")
    if not isinstance(task, str) or task not in _TASKS or not isinstance(headers.get("id"), str):
        return "it asks for a task that is none of ours"
    arguments = _arguments(message.get("body"), properties.get("body_encoding"))
    wanted = _TASKS[task]
    if task == "seigh.run" and arguments and arguments[0] not in ("analysis", "training", "comparison"):
        return "there is no such kind of work"
    if len(arguments) != len(wanted) or not all(
        type(each) is kind for each, kind in zip(arguments, wanted, strict=True)
    ):
        return "the arguments of its task are others than ours"
    return None


def _arguments(body: object, encoding: object) -> Sequence[Any]:
    try:
        text = base64.b64decode(str(body)) if encoding == "base64" else str(body)
        arguments = json.loads(text)[0]
    except (ValueError, LookupError, TypeError, binascii.Error):
        return ()
    return arguments if isinstance(arguments, list) else ()


class Channel(kombu.transport.redis.Channel):
    """Reads messages; what is not even JSON is set aside."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # its types do not tell of it
        except ValueError as error:
            set_aside(getattr(error, "doc", getattr(error, "object", "")), "a queue", "it is not JSON")
            return True

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002  # that of Redis has none
        try:
            return super()._get(queue)
        except ValueError as error:
            set_aside(getattr(error, "doc", getattr(error, "object", "")), queue, "it is not JSON")
            raise Empty from error


class Transport(kombu.transport.redis.Transport):
    """Hands messages over; what is none of ours is set aside."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        reason = refusal(message)
        if reason is None:
            try:
                super()._deliver(message, queue)
                return
            except _MALFORMED:
                logger.debug("the message could not be handed over", exc_info=True)
                reason = "it cannot be read"
                self._forget(message["properties"]["delivery_tag"])
        set_aside(message, queue or "no queue", reason)

    def _forget(self, tag: str) -> None:
        """Take a message that was half handed over out of those that would be delivered again."""
        for channel in self.channels or ():
            if tag in (channel.qos._delivered or ()):
                channel.basic_reject(tag, requeue=False)


def set_aside(message: object, queue: str, reason: str) -> None:
    """Say that a message is not used, and why."""
    text = message if isinstance(message, str) else repr(message)
    logger.error("a message in %s is set aside, as %s: %.*s", queue, reason, _SHOWN, text)
    found.append(queue)


def install() -> None:
    """Let every connection to a Redis of this process be one of these."""
    for scheme in ("redis", "rediss"):
        kombu.transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
