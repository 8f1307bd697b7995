"""Recognise torch's errors of exhausted memory, and say what to do."""

from __future__ import annotations

from typing import NamedTuple

import torch

# Torch has no exception of its own for the CPU.
_ON_CPU = "DefaultCPUAllocator: can't allocate memory"


class Layout(NamedTuple):
    """How the work of one product is divided.

    Attributes:
        columns: How many vectors are multiplied at once.
        batch_size: Samples per batch of data.
        keep: Whether what a path prepares is kept for every batch of data.
    """

    columns: int
    batch_size: int
    keep: bool

    def smaller(self) -> Layout | None:
        """With half the columns, else half the samples and graphs not kept; None if nothing can be halved."""
        if self.columns > 1:
            return self._replace(columns=self.columns // 2)
        if self.batch_size > 1:
            return self._replace(batch_size=-(-self.batch_size // 2), keep=False)
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's or the machine's memory is too small."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _ON_CPU in str(error)
