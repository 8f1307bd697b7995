from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

# Blocks of 16 MiB, 512 MiB together: taken, filled, freed, and taken again.
SCRIPT = """
import ctypes
import resource
from seigh.core.allocator import freed_memory_kept

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(2**24) for _ in range(32)]
    for block in blocks:
        libc.memset(block, 1, 2**24)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

faults(), faults()
without = faults()
with freed_memory_kept():
    faults()
    kept = faults()
    held = resident()
print(without, kept, held - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's")
def test_freed_memory_is_not_taken_anew_page_by_page_and_is_given_back_in_the_end() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    without, kept, given_back = map(int, run.stdout.split())
    pages = 512 * 2**20 // resource.getpagesize()
    assert without > pages // 2
    assert kept < pages // 100
    assert given_back > 256 * 2**20


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE.is_file() or "[never]" in HUGE.read_text(), reason="the system has no transparent huge pages"
)
def test_long_vectors_lie_in_huge_pages() -> None:
    script = (
        "import seigh.core, torch; x = torch.ones(2**26); "
        "print(*[line.split()[1] for line in open('/proc/self/smaps_rollup') if 'AnonHuge' in line])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 2**17  # KiB, of 2¹⁸
