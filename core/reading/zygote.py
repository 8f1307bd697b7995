"""The warm process that forks a child for every file: ``python -m core.reading.zygote DESCRIPTOR``.

It stays without threads, does nothing but fork and wait, and ends when the process that started it does, or
after some minutes without a file. Messages come over a socket (``messages``).
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from errno import EDQUOT, EFBIG, ENOMEM, ENOSPC
from typing import Any

from seigh.core.reading import (
    arrays,
    checkpoints,
    confinement,
    graphs,
    messages,
    moments,
    results,
    scores,
    sharded,
    tokens,
)
from seigh.core.reading.task import Task
from seigh.core.reading.words import MIB, Limits, Refusal

_IDLE_SECONDS = 600.0

# What a child is asked for.
_KINDS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "checkpoint": checkpoints.read,
    "shard": checkpoints.read_shard,
    "optimizer": checkpoints.read_optimizer,
    "data": arrays.read,
    "scores": scores.read,
    "tokens": tokens.read,
    "graph": graphs.read,
    "metadata": sharded.read_metadata,
    "pieces": sharded.read_pieces,
    "zero": sharded.read_zero,
    "members": sharded.read_members,
    "result": results.read,
    "moments": moments.read,
}
# Asked for by ``seigh doctor``: what a child is kept from.
STATE = "state"


def main(descriptor: int) -> None:
    """Serve until the socket is closed."""
    control = socket.socket(fileno=descriptor)
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, tuple[int, int]] = {}  # by process: the number of the request, and who is told
    gc.collect()
    gc.freeze()  # so that children do not copy what they never change
    try:
        asked = control.fileno()
        while running or select.select([asked, woken], [], [], _IDLE_SECONDS)[0]:
            ready, _, _ = select.select([asked, woken], [], [])
            if woken in ready:
                with suppress(BlockingIOError):
                    os.read(woken, 4096)
            _reap(running)
            if asked in ready:
                received = messages.receive(control)
                if received is None:
                    return
                _answer(*received, running, (asked, woken, wakes))
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _answer(
    request: dict[str, Any], given: list[int], running: dict[int, tuple[int, int]], ours: tuple[int, ...]
) -> None:
    """Fork a child for a file, or end the one that takes too long."""
    if "end" in request:
        for process, (number, _) in running.items():
            if number == request["end"]:
                os.kill(process, signal.SIGKILL)  # not reaped yet, so the number is still its own
        return
    *files, told = given
    parent = os.getpid()
    process = os.fork()
    if not process:
        try:
            for each in (*ours, told, *(each for _, each in running.values())):
                os.close(each)
            _child(request, files, parent)
        except MemoryError:  # there was none left to say so
            os._exit(messages.NO_MEMORY)
        finally:
            os._exit(1)
    running[process] = request["number"], told
    with suppress(BrokenPipeError):
        os.write(told, messages.STARTED)
    for each in files:
        os.close(each)


def _reap(running: dict[int, tuple[int, int]]) -> None:
    """Tell how children have ended."""
    for process in list(running):
        ended, status = os.waitpid(process, os.WNOHANG)
        if not ended:
            continue
        _, told = running.pop(process)
        with suppress(BrokenPipeError):
            os.write(told, json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
        os.close(told)


def _child(request: dict[str, Any], files: list[int], parent: int) -> None:
    """Read one file, write the answer, and end."""
    source, target, answer = files
    gc.disable()  # nothing lives long here
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGXCPU, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    confinement.die_with_parent(parent)
    for each in (target, answer):  # where another attempt may have begun
        os.ftruncate(each, 0)
        os.lseek(each, 0, os.SEEK_SET)
    limits = Limits(**request["limits"])
    confined = confinement.confine(limits)
    if request["kind"] == STATE:
        found: dict[str, Any] = {"confined": confined, **_tried()}
    else:
        task = Task(source, target, request["name"], limits, request["options"])
        found = _read(_KINDS[request["kind"]], task)
    with os.fdopen(answer, "wb") as file:
        file.write(json.dumps(found).encode())
    os._exit(0)


def _read(read: Callable[[Task], dict[str, Any]], task: Task) -> dict[str, Any]:
    """What a file holds, or why not: a sentence, or which limit was met."""
    reserve = b""
    try:
        reserve = bytes(4 * MIB)
        return read(task)
    except Refusal as refusal:
        return {"refusal": str(refusal)}
    except MemoryError:
        del reserve  # the answer takes some, too
        return {"limit": "memory"}
    except OSError as error:
        if error.errno == EFBIG:
            return {"limit": "output"}
        if error.errno in (ENOSPC, EDQUOT):
            return {"limit": "room"}
        return {"limit": "memory" if error.errno == ENOMEM else "damaged"}
    except Exception:  # arbitrary bytes
        return {"limit": "memory" if confinement.is_full() else "damaged"}


def _tried() -> dict[str, bool]:
    """Whether a child can reach the network, and take a lot of memory."""
    reached = {"network": True, "memory": True}
    try:
        socket.socket().close()
    except OSError:
        reached["network"] = False
    try:
        bytearray(1024 * MIB)
    except MemoryError:
        reached["memory"] = False
    return reached


if __name__ == "__main__":
    main(int(sys.argv[1]))
