"""The owners of page sessions.

Streamlit gives every open page a session and lets a browser that names one come back to it. The gate lets
nobody come back to, or upload to, a session of another sign-in. A page says whose it is when it runs first.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST = 10_000

_owners: OrderedDict[str, str] = OrderedDict()


def belongs(session_id: str, owner: str) -> None:
    """Say whose a session is; ``owner`` is the key of a ``Visitor``."""
    _owners[session_id] = owner
    while len(_owners) > _MOST:
        _owners.popitem(last=False)


def owns(session_id: str, owner: str) -> bool:
    """Whether a session is known to be of this owner."""
    return _owners.get(session_id) == owner
