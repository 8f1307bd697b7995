"""Settings of the C library that decide what happens to freed memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# From malloc.h; the library reduces what it cannot do to what it can.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

# Bytes of the smallest block that is always taken fresh from the system; the library allows no more.
_LARGEST_KEPT = 32 * 2**20


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is allocated next, as torch has its own do on a GPU.

    By default it gives memory back as soon as 64 MiB at the end of its heap are free, and a product of many
    layers takes and frees more than that several times over: the system then hands it out page by page
    again, cleared, which takes a fifth of the time, and more where several processes do so. Blocks of 32 MiB
    and more are given back all the same. Does nothing where the C library is not GNU's.
    """
    libc = _gnu()
    if libc is not None:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Give what is kept back to the system."""
    libc = _gnu()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory for the length of a ``with`` block."""
    keep_freed_memory()
    try:
        yield
    finally:
        give_back_memory()


def _gnu() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
