"""The queues, and the rule that decides which of them a worker serves.

Most work runs anywhere and waits in one queue that all workers share. Work that was submitted for a kind of
device waits in a queue of its own, which only workers on such a device serve.
"""

from __future__ import annotations

from types import MappingProxyType

from seigh.core.names import Place

# Names in the broker, by where work may run.
QUEUES: MappingProxyType[Place, str] = MappingProxyType(
    {"any": "seigh", "cpu": "seigh.cpu", "gpu": "seigh.gpu"}
)


def places_of(device: str) -> tuple[Place, ...]:
    """Where work for a worker on a device of this kind, ``cpu`` or ``cuda``, may be asked to run."""
    return ("cpu", "any") if device == "cpu" else ("gpu", "any")
