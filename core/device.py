"""Which device computes, what it is, and how much memory it has.

A process that has asked CUDA anything cannot fork children that use it. The main process of a worker, which
does fork, therefore asks a process of its own: ``describe_apart``. Torch is imported where it is needed: what
starts a worker on a CPU gets by without.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seigh.core import processes
from seigh.core.settings import SettingsError

if TYPE_CHECKING:
    import torch

_CGROUP = Path("/sys/fs/cgroup")
# Where the drivers of GPUs are reached: NVIDIA's, AMD's, and either's from within Windows.
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))

_SECONDS = 120.0  # to import torch from a cold disk and to wake a driver


def pick_device(name: str) -> torch.device:
    """The device ``name``; ``auto`` is the first GPU where there is one, else the CPU.

    Raises:
        SettingsError: If there is no such device, or torch cannot use it here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"The device '{name}' cannot be used here; set SEIGH_DEVICE to auto, cpu, cuda or cuda:1."
        ) from error
    return torch.device(name)


@dataclass(frozen=True)
class Device:
    """What is known of a device.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        name: What its maker calls it.
        memory: Bytes in all; of the machine or container for a CPU.
        uuid: UUID of a GPU, whatever its number; None for a CPU.
    """

    kind: str
    name: str
    memory: int
    uuid: str | None = None


def describe(name: str) -> Device:
    """The facts about the device ``name``, as for ``pick_device``."""
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return Device("cpu", _processor(), machine_memory())
    import torch

    device = pick_device(name)
    if device.type != "cuda":
        return Device(device.type, _processor(), machine_memory())
    properties = torch.cuda.get_device_properties(device)
    return Device("cuda", properties.name, properties.total_memory, str(properties.uuid))


def describe_apart(name: str) -> Device:
    """The same, without this process asking CUDA anything.

    Raises:
        SettingsError: As ``pick_device``, or if the device does not answer in time.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return describe(name)
    try:
        run = subprocess.run(
            processes.ours("seigh.core.device", name),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SettingsError(f"The device '{name}' does not answer; see to its driver.") from error
    if run.returncode != 0:
        last = run.stderr.strip().rpartition("\n")[2]
        raise SettingsError(last or f"The device '{name}' cannot be asked what it is.")
    return Device(**json.loads(run.stdout))


def available_memory(device: torch.device) -> int:
    """Bytes that this process may count on: of a GPU, without what other processes have of it; of the
    machine, what it or its container has in all."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device)
    return machine_memory()


def free_memory(device: torch.device) -> int:
    """Bytes of the device, or of the machine or container, that are free at this moment."""
    if device.type == "cuda":
        return available_memory(device)
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with suppress(OSError, ValueError):
        # What the kernel keeps in memory until somebody needs the room counts as free.
        free = max(free, _entry(Path("/proc/meminfo"), "MemAvailable:") * 1024)
    with suppress(OSError, ValueError):  # "max", or no such file
        limit = int((_CGROUP / "memory.max").read_text())
        held = int((_CGROUP / "memory.current").read_text())
        free = min(free, limit - held + _entry(_CGROUP / "memory.stat", "inactive_file"))
    return max(0, free)


def _may_have_gpu() -> bool:
    return sys.platform != "linux" or any(driver.exists() for driver in _DRIVERS)


def machine_memory() -> int:
    """Bytes that the machine, or the container, has in all."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max", or no such file
        memory = min(memory, int((_CGROUP / "memory.max").read_text()))
    return memory


def _entry(file: Path, name: str) -> int:
    """The number beside ``name`` in a file of names and numbers."""
    for line in file.read_text().splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    raise ValueError(f"{file} has no {name}")


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _main(name: str) -> None:
    try:
        print(json.dumps(asdict(describe(name))))
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(sys.argv[1])
