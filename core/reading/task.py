"""One file that a child is asked to read."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO

from seigh.core.reading.words import Limits


@dataclass(frozen=True)
class Task:
    """The task of the process that reads a file.

    Attributes:
        source: Descriptor of the open file.
        target: Descriptor of the file of numbers to write.
        name: The file's name, for errors.
        limits: What may be taken.
        options: What else the kind of file takes; plain JSON.
    """

    source: int
    target: int
    name: str
    limits: Limits
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def file(self) -> BinaryIO:
        """The file itself."""
        return os.fdopen(os.dup(self.source), "rb")

    @cached_property
    def whole(self) -> memoryview:
        """All bytes of the file, as a map of it; it must not be empty."""
        return memoryview(mmap.mmap(self.source, 0, access=mmap.ACCESS_READ))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.source).st_size

    def numbers(self) -> memoryview:
        """Return the bytes written to the file of numbers so far."""
        if not os.fstat(self.target).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(self.target, 0, access=mmap.ACCESS_READ))


class Digest:
    """The SHA-256 of bytes, computed beside what else is done with them."""

    def __init__(self, data: memoryview) -> None:
        self._found = ""
        self._thread = threading.Thread(target=self._compute, args=(data,), daemon=True)
        self._thread.start()

    def _compute(self, data: memoryview) -> None:
        self._found = hashlib.sha256(data).hexdigest()

    def hexdigest(self) -> str:
        """Hex digits; waits for them."""
        self._thread.join()
        return self._found
