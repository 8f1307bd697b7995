"""The side that asks: hands a file to a child, waits, and takes the numbers that come back.

The warm process that forks the children is started when it is first needed, once for each process, and again
whenever it is gone. Any thread may ask; several files are read at a time.
"""

from __future__ import annotations

import atexit
import itertools
import json
import math
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from seigh.core import processes
from seigh.core.device import machine_memory
from seigh.core.errors import UserError
from seigh.core.reading import messages
from seigh.core.reading.packing import DTYPES
from seigh.core.reading.words import MIB, MOST_TENSORS, Limits
from seigh.core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal[
    "checkpoint",
    "shard",
    "optimizer",
    "data",
    "scores",
    "tokens",
    "graph",
    "result",
    "moments",
    "state",
    "metadata",
    "pieces",
    "zero",
    "members",
]

# A child takes so much for itself, and for a file as large as itself so much more. Numbers are not in it:
# they go from the file to the file of numbers without being in memory together.
_LEAST_MEMORY = 512 * MIB
_MEMORY_OF_FILE = 4

# Tensors may share numbers, or repeat them, and half precision becomes single: what is handed back may be
# larger than the file.
_LEAST_OUTPUT = 256 * MIB
_OUTPUT_OF_FILE = 4

_BYTES_OF_SECOND = 4 * MIB  # a child gets a second of CPU time more for each
_UNPACKED_IN_SECOND = 256 * MIB
_PATIENCE = 1.9  # seconds by the clock for one of CPU time: disks, and other processes
_STARTING = 60.0  # seconds until the warm process has been imported and has forked a child

_LARGEST_ANSWER = 24 * MIB

# Tensors that are made in one call of torch, during which no other thread runs.
_AT_ONCE = 1000

# The warm process needs these, and none of what else is in our environment: no addresses, no passwords.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class Refused(UserError):
    """A file that was not read; the message is one sentence for the person who brought it."""


@dataclass(frozen=True)
class Answer:
    """What a child has found in a file.

    Attributes:
        facts: Plain values.
        tensors: By name, on the CPU; their memory is a map of an unnamed file, so that numbers nobody looks
            at take none. Names of one tensor have the same object.
    """

    facts: Mapping[str, Any]
    tensors: dict[str, Tensor]


def read(
    kind: Kind,
    path: Path,
    name: str,
    env: Settings | None = None,
    *,
    largest: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Answer:
    """Let a child read a file.

    Args:
        kind: What the file is.
        path: The file; it must not be empty.
        name: What it is called in refusals.
        env: With the limits of this installation; from ``SEIGH_*`` when not given.
        largest: Bytes that an array may take, of data.
        options: What else the kind of file takes; plain JSON.

    Raises:
        Refused: If it cannot be read: damaged, not what it should be, or beyond a limit.
        OSError: If there is no such file.
    """
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        limits = _limits(size, env or Settings(), largest)
        with tempfile.TemporaryFile(prefix="seigh-numbers-") as numbers:
            found = _asked(kind, name, limits, source, numbers, {**(options or {}), "largest": largest})
            about = ("types", "shapes", "names", "which")
            facts = {key: value for key, value in found.items() if key not in about}
            return Answer(facts, _tensors(found, numbers) if "types" in found else {})


def unpack(path: Path, name: str, folder: Path, env: Settings | None = None) -> dict[str, Path]:
    """Let a child take a zip archive apart, and keep its files.

    Args:
        path: The archive.
        name: What it is called in refusals.
        folder: Where to keep them, under numbers: their names are nobody's but the archive's.
        env: As in ``read``.

    Returns:
        The files, by their names in the archive.

    Raises:
        Refused: If it cannot be taken apart.
        OSError: If there is no such file, or no room.
    """
    found: dict[str, Path] = {}
    with path.open("rb") as source, tempfile.TemporaryFile(prefix="seigh-numbers-") as numbers:
        limits = _limits(os.fstat(source.fileno()).st_size, env or Settings(), None)
        members = _asked("members", name, limits, source, numbers, {})["members"]
        numbers.seek(0)
        for number, (member, length) in enumerate(members):
            target = folder / f"{number}"
            with target.open("wb") as file:
                left = int(length)
                while left:
                    block = numbers.read(min(left, MIB))
                    if not block:
                        raise Refused("The process that read the file gave no usable answer; try again.")
                    file.write(block)
                    left -= len(block)
            found[str(member)] = target
    return found


def state() -> dict[str, bool]:
    """What a child on this machine is kept from.

    Returns:
        ``confined``: whether the system filters its calls; ``network`` and ``memory``: whether it could reach
        that, in spite of everything.

    Raises:
        Refused: If no child can be started.
    """
    with tempfile.TemporaryFile() as numbers, open(os.devnull, "rb") as source:
        limits = Limits(_LEAST_MEMORY, 5, MIB)
        return dict(_asked("state", "", limits, source, numbers, {}))


def warm() -> None:
    """Start the warm process, so that the first file need not wait for it."""
    with suppress(Refused):
        _process().alive()


def _limits(size: int, env: Settings, largest: int | None) -> Limits:
    """What the child of a file may take: by the file's size, and never more than the installation allows."""
    most = int(env.reading_memory_gb * 2**30) if env.reading_memory_gb else machine_memory() // 2
    seconds = math.ceil(env.reading_seconds + size / _BYTES_OF_SECOND)
    if largest:  # of compressed arrays the size of the file tells little
        return Limits(most, seconds + largest // _UNPACKED_IN_SECOND, 2 * largest, installation=True)
    wanted, output = _LEAST_MEMORY + _MEMORY_OF_FILE * size, _LEAST_OUTPUT + _OUTPUT_OF_FILE * size
    return Limits(min(wanted, most), seconds, output, installation=most < wanted)


def _asked(
    kind: Kind,
    name: str,
    limits: Limits,
    source: BinaryIO,
    numbers: Any,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The description that a child gives of a file.

    Raises:
        Refused: As ``read``.
    """
    with tempfile.TemporaryFile(prefix="seigh-answer-") as answer:
        files = (source.fileno(), numbers.fileno(), answer.fileno())
        request = {"kind": kind, "name": name, "limits": limits.to_json(), "options": dict(options)}
        code = _process().run(request, files, limits.seconds * _PATIENCE)
        answer.seek(0, os.SEEK_END)
        length = answer.tell()
        if code or not length:
            raise Refused(_ended(name, code, limits))
        if length > _LARGEST_ANSWER:
            raise Refused(f"'{name}' holds too many entries for a state dict; save model.state_dict() alone.")
        answer.seek(0)
        found: dict[str, Any] = json.loads(answer.read())
    if "refusal" in found:
        raise Refused(str(found["refusal"]))
    if "limit" in found:
        raise Refused(_limited(name, str(found["limit"]), limits))
    return found


def _limited(name: str, limit: str, limits: Limits) -> str:
    """The sentence for a limit that a child has met."""
    match limit:
        case "memory":
            of_here = "of this installation; raise SEIGH_READING_MEMORY_GB, or save model.state_dict() alone."
            of_file = "for a file of its size; save model.state_dict() alone."
            return (
                f"'{name}' takes more than {limits.memory / MIB:,.0f} MiB of memory to be read, the limit "
                f"{of_here if limits.installation else of_file}"
            )
        case "time":
            return (
                f"'{name}' takes more than {limits.seconds:,} s to be read, the limit for a file of its "
                "size; save model.state_dict() alone, or raise SEIGH_READING_SECONDS."
            )
        case "output":
            return (
                f"'{name}' unpacks to more than {limits.output / MIB:,.0f} MiB, the limit for a file of its "
                "size; save model.state_dict() alone."
            )
        case "room":
            return (
                f"There is no room to read '{name}' in {tempfile.gettempdir()}; free some, or let TMPDIR "
                "name a larger folder."
            )
    return f"'{name}' is damaged or incomplete and cannot be read; save or upload it again."


def _ended(name: str, code: int, limits: Limits) -> str:
    """The sentence for a child that ended without an answer."""
    if code in (-signal.SIGXCPU, _OVERTIME):
        return _limited(name, "time", limits)
    if code in (-signal.SIGKILL, messages.NO_MEMORY):  # the signal is that of a system without memory
        return _limited(name, "memory", limits)
    return _limited(name, "damaged", limits)


# --- Numbers ----------------------------------------------------------------------------------------------


def _tensors(found: Mapping[str, Any], numbers: Any) -> dict[str, Tensor]:
    """The tensors that a description and a file of numbers make up.

    Raises:
        Refused: If they do not belong together: no child of ours has written them.
    """
    try:
        names, which, shapes, types = (found[each] for each in ("names", "which", "shapes", "types"))
        if len(names) > MOST_TENSORS or len(shapes) > MOST_TENSORS or len(names) != len(which):
            raise ValueError("too many tensors")
        if sum(count for _, count in types) != len(shapes):
            raise ValueError("another number of tensors")
        tensors = _mapped(types, shapes, numbers)
        return {str(name): tensors[number] for name, number in zip(names, which, strict=True)}
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise Refused("The process that read the file gave no usable answer; try again.") from error


def _mapped(types: list[tuple[str, int]], shapes: list[str], numbers: Any) -> list[Tensor]:
    import torch

    total = os.fstat(numbers.fileno()).st_size
    if not total and not shapes:  # a graph without constants, and an empty file cannot be mapped
        return []
    # A private map: whoever changes a tensor changes it for himself.
    content = mmap.mmap(numbers.fileno(), total, access=mmap.ACCESS_COPY)
    tensors: list[Tensor] = []
    place = 0
    for dtype, count in types:
        itemsize = DTYPES[dtype].itemsize
        end = len(tensors) + count
        for first in range(len(tensors), end, _AT_ONCE):
            few = [_shape(each) for each in shapes[first : min(first + _AT_ONCE, end)]]
            sizes = [math.prod(each) for each in few]
            whole = torch.frombuffer(content, dtype=getattr(torch, dtype), count=sum(sizes), offset=place)
            parts = torch.split(whole, sizes)
            tensors += [part.view(shape) for part, shape in zip(parts, few, strict=True)]
            place += sum(sizes) * itemsize
    if place != total:
        raise ValueError("another number of numbers")
    return tensors


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(int, text.split("x"))) if text else ()
    if any(each < 0 for each in shape):
        raise ValueError("no shape")
    return shape


# --- The warm process -------------------------------------------------------------------------------------

_OVERTIME = -256  # in place of the exit code of a child that we ended


class _Zygote:
    """The warm process of this process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        ours, its = socket.socketpair()
        with its:
            self._control = ours
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            # No threads of its own: a process with threads cannot be forked safely.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            # The C library sets 64 MiB or more of addresses aside for each thread, now and then: a child's
            # limit counts addresses, and what a file is told must not depend on it.
            threads["MALLOC_ARENA_MAX"] = "1"
            if sys.platform == "darwin":
                threads |= {"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES", "VECLIB_MAXIMUM_THREADS": "1"}
            self._process = subprocess.Popen(
                processes.ours("seigh.core.reading.zygote", str(its.fileno())),
                env=environment | threads,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is ours to handle
            )

    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def run(self, request: Mapping[str, Any], files: tuple[int, ...], seconds: float) -> int:
        """Let a child do something; its exit code, negative for a signal.

        Raises:
            OSError, EOFError: If the warm process is gone, or goes.
        """
        number = next(self._numbers)
        ending, told = os.pipe()
        with ExitStack() as closing:
            closing.callback(os.close, ending)
            try:
                self._send({**request, "number": number}, (*files, told))
            finally:
                os.close(told)
            if not _readable(ending, _STARTING) or os.read(ending, 1) != messages.STARTED:
                raise EOFError
            overtime = not _readable(ending, seconds)
            if overtime:
                self._send({"end": number})
                _readable(ending, _STARTING)
            content = os.read(ending, 4096)
        if not content:
            raise EOFError
        return _OVERTIME if overtime else int(json.loads(content)["code"])

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        with self._sending:
            messages.send(self._control, message, descriptors)

    def close(self) -> None:
        """Let it end."""
        self._control.close()
        if self.owner == os.getpid():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


def _readable(descriptor: int, seconds: float) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(waiting.poll(max(1, int(1000 * seconds))))


class _Processes:
    """The warm process, started when it is needed: at first, after it ended, and in forked processes."""

    def __init__(self) -> None:
        self._zygote: _Zygote | None = None
        self._starting = threading.Lock()

    def alive(self) -> _Zygote:
        """The warm process.

        Raises:
            Refused: If it cannot be started.
        """
        with self._starting:
            if self._zygote is None or not self._zygote.alive():
                if self._zygote is not None:
                    self._zygote.close()
                try:
                    self._zygote = _Zygote()
                except OSError as error:
                    raise Refused(
                        f"No process can be started to read the file ({error.strerror}); free memory and try "
                        "again."
                    ) from error
            return self._zygote

    def run(self, request: Mapping[str, Any], files: tuple[int, ...], seconds: float) -> int:
        """As that of the warm process, tried once more if it goes meanwhile."""
        for _ in range(2):
            with suppress(OSError, EOFError):
                return self.alive().run(request, files, seconds)
            time.sleep(0.05)  # until its end can be seen
        raise Refused("The process that reads files ended; try again.")

    def close(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None


_of_this_process = _Processes()


def _process() -> _Processes:
    return _of_this_process


def _forget() -> None:
    """In a forked process: nothing of the parent's warm process is ours, a held lock included."""
    global _of_this_process
    before, _of_this_process = _of_this_process, _Processes()
    if before._zygote is not None:
        before._zygote._control.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: _process().close())
