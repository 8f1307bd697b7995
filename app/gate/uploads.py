"""Admission of uploads: files that a page of the same person asked for, and no more than fit.

Streamlit takes the id of a file from the address that the browser writes to, and keeps what comes in memory.
A page asks the server for such an address first (a widget does, when somebody drops a file), so an id that
the server has not given is not from a page.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seigh.app.gate import pages
from seigh.app.gate.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamlit.runtime import Runtime

PREFIX = "/_stcore/upload_file"
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ADDRESS = re.compile(f"{PREFIX}/(?P<session>{_UUID})/(?P<file>{_UUID})")

_FRAME = 64 * 1024  # bytes around a file in the body of a request
_AT_A_TIME = 8  # uploads that are under way
_PER_MINUTE = 1200  # requests of one person
_SILENCE = 30.0  # seconds without a byte after which an upload is given up
_ISSUED = 100_000  # addresses that are remembered

Receive = Callable[[], Awaitable[Any]]


def concerns(path: str) -> bool:
    """Whether a path is one of uploads, however it is written."""
    return path.lstrip("/").lower().startswith(PREFIX.strip("/"))


@dataclass
class Uploads:
    """Uploads of one server.

    Attributes:
        largest: Bytes that a file may have.
        together: Bytes that all files in memory may have.
    """

    largest: int
    together: int
    _runtime: Runtime | None = None
    _issued: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)
    _under_way: int = 0
    _coming: int = 0  # bytes that uploads under way may still bring
    _times: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def watch(self, runtime: Runtime) -> None:
        """Remember, from now on, which addresses the server gives to pages."""
        self._runtime = runtime
        manager: Any = runtime.uploaded_file_mgr
        give = manager.get_upload_urls

        def remembered(session_id: str, names: Sequence[str]) -> Any:
            found = give(session_id, names)
            for each in found:
                self._issued[session_id, each.file_id] = None
            while len(self._issued) > _ISSUED:
                self._issued.popitem(last=False)
            return found

        manager.get_upload_urls = remembered

    def check(self, scope: Any, owner: str) -> None:
        """Refuse what no page of ``owner`` has asked for.

        Raises:
            Refusal: Says what is wrong.
        """
        found = _ADDRESS.fullmatch(scope["path"])
        raw = scope.get("raw_path") or scope["path"].encode()
        if found is None or raw.split(b"?")[0] != scope["path"].encode():
            raise Refusal(400, "This is no address of an upload.")
        session, file = found["session"], found["file"]
        live = self._runtime is not None and self._runtime.is_active_session(session)
        if not (live and pages.owns(session, owner) and (session, file) in self._issued):
            raise Refusal(403, "No page of yours has asked for this upload; reload the page.")

    @contextmanager
    def room(self, scope: Any, owner: str) -> Iterator[int]:
        """Room for one more upload, as long as it is under way: the bytes that its body may have.

        Raises:
            Refusal: If it is too large, or there are too many.
        """
        self._check_rate(owner)
        length = _length(scope)
        if length > self.largest + _FRAME:
            raise Refusal(413, "The file is larger than this installation allows.")
        if self._under_way >= _AT_A_TIME:
            raise Refusal(429, "Too many files are uploaded at the moment; try again.")
        if self._held() + self._coming + length > self.together:
            raise Refusal(507, "The server holds as many uploads as it can; try again later.")
        self._under_way += 1
        self._coming += length
        try:
            yield length
        finally:
            self._under_way -= 1
            self._coming -= length

    def _held(self) -> int:
        """Bytes of the files in memory."""
        if self._runtime is None:
            return 0
        manager: Any = self._runtime.uploaded_file_mgr
        return int(manager._total_bytes)

    def _check_rate(self, owner: str) -> None:
        now, times = time.monotonic(), self._times[owner]
        while times and times[0] < now - 60:
            times.popleft()
        if len(times) >= _PER_MINUTE:
            raise Refusal(429, "Too many uploads within a minute; wait a little.")
        times.append(now)


def limited(receive: Receive, most: int) -> Receive:
    """``receive`` that ends a body of more than ``most`` bytes, or one that stops coming.

    It does so as if the browser had left, which is what the application has to cope with anyway.
    """
    came = 0

    async def bounded() -> Any:
        nonlocal came
        try:
            message = await asyncio.wait_for(receive(), _SILENCE)
        except TimeoutError:
            return {"type": "http.disconnect"}
        came += len(message.get("body", b""))
        return {"type": "http.disconnect"} if came > most else message

    return bounded


def _length(scope: Any) -> int:
    """The announced length of a body.

    Raises:
        Refusal: If none is, or it is no number.
    """
    found = [value for name, value in scope["headers"] if name == b"content-length"]
    if len(found) != 1 or not re.fullmatch(rb"[0-9]{1,15}", found[0]):
        raise Refusal(411, "An upload says how long it is.")
    return int(found[0])
