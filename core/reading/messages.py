"""Messages to the warm process: JSON with its length in front, and open file descriptors."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

# What the warm process says of a child first; then how it has ended.
STARTED = b"+"

# The exit code of a child that had no memory left to write its answer.
NO_MEMORY = 77

_LENGTH = struct.Struct("<I")
_MOST_DESCRIPTORS = 4


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message.

    Raises:
        OSError: If nobody is there to receive it.
    """
    content = json.dumps(message).encode()
    whole = _LENGTH.pack(len(content)) + content
    sent = socket.send_fds(connection, [whole], descriptors) if descriptors else connection.send(whole)
    connection.sendall(whole[sent:])


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message, and the descriptors that came with it; None if no more will come."""
    start, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, _MOST_DESCRIPTORS)
    if len(start) < _LENGTH.size:
        start += _exactly(connection, _LENGTH.size - len(start)) if start else b""
    if len(start) < _LENGTH.size:
        return None
    content = _exactly(connection, *_LENGTH.unpack(start))
    return (json.loads(content), descriptors) if content else None


def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes; none if the connection ends before."""
    content = b""
    while len(content) < size:
        if not (block := connection.recv(size - len(content))):
            return b""
        content += block
    return content
