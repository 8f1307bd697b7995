"""Whether this worker's device can take work at this moment; asked before any is claimed."""

from __future__ import annotations

from seigh.core.device import free_memory, pick_device
from seigh.core.settings import SettingsError

# Free bytes of the device without which nothing is begun: less would end the first small analysis, and then
# every other one that waits.
_LEAST = {"cpu": 2**27, "cuda": 2**30}


def reason_to_wait(device: str) -> str | None:
    """Why no work should be begun on the device ``device`` now, as a sentence; None if it can."""
    try:
        picked = pick_device(device)
        free = free_memory(picked)
    except (SettingsError, RuntimeError) as error:  # RuntimeError: whatever CUDA says when a GPU is lost
        return str(error).partition("\n")[0]
    if free < _LEAST[picked.type]:
        return f"The device '{device}' has only {free / 2**20:.0f} MiB of free memory."
    return None
