"""Which device computes."""

from __future__ import annotations

import torch

from core.settings import SettingsError


def pick_device(name: str) -> torch.device:
    """The device ``name``; ``auto`` is the first GPU where there is one, else the CPU.

    Raises:
        SettingsError: If there is no such device, or torch cannot use it here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"The device '{name}' cannot be used here; set SEIGH_DEVICE to auto, cpu, cuda or cuda:1."
        ) from error
    return torch.device(name)
