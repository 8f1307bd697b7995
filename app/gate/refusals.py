"""Refusals of the gate."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose


class Refusal(Exception):
    """A request that goes no further; the message is one sentence for whoever sent it.

    Attributes:
        status: The status of the HTTP answer.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with it; a WebSocket is closed before it is open, which a browser sees as 403."""
        if scope["type"] == "websocket":
            await WebSocketClose(code=1008)(scope, receive, send)
            return
        answer = PlainTextResponse(f"{self}\n", self.status, headers={"connection": "close"})
        await answer(scope, receive, send)
