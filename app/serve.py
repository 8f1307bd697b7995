"""The dashboard's server, whose log lines are ours: ``python -m app.serve --host HOST --port PORT``."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from contextlib import suppress
from typing import Any

import streamlit.cli_util
import streamlit.logger
from streamlit.web.server.starlette import starlette_server

from seigh.app.gate import dashboard
from seigh.core import logs, private
from seigh.core.settings import Settings, SettingsError

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Run the dashboard until a signal ends it."""
    parser = argparse.ArgumentParser(prog="seigh.app.serve")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--behind-proxy", action="store_true")
    chosen = parser.parse_args(arguments)
    env = Settings()
    private.begin(env)
    logs.configure(env.log)
    _leave_lines_to_us()
    # Else uvicorn would believe every local program who its client is; the gate knows whom to believe.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    try:
        app = dashboard.application(env, chosen.host, chosen.behind_proxy)
    except SettingsError as error:
        sys.exit(str(error))
    _send_at_once()
    app.run(config=dashboard.options(env, chosen.host, chosen.port))


def _leave_lines_to_us() -> None:
    """Streamlit and the server below it give each of their loggers a handler with a format of its own; they
    are to have none."""

    def hand_on(logger: logging.Logger) -> None:
        if (handler := getattr(logger, "streamlit_console_handler", None)) is not None:
            logger.removeHandler(handler)
        logger.propagate = True

    streamlit.cli_util.print_to_cli = lambda message="", **_: logger.info("%s", message.strip())
    streamlit.logger.setup_formatter = hand_on
    streamlit.logger.update_formatter()
    with suppress(ImportError):  # older versions serve with Tornado
        from uvicorn.config import LOGGING_CONFIG

        LOGGING_CONFIG["handlers"] = {}
        LOGGING_CONFIG["loggers"] = {"uvicorn": {"level": "INFO"}, "uvicorn.access": {"level": "WARNING"}}


def _send_at_once() -> None:
    """Streamlit's sockets hold back a second message until the first is confirmed, for which a browser takes
    40 ms: for each of a hundred scripts, whose heads and contents are two messages."""
    bind = starlette_server._bind_socket

    def bound(*arguments: Any, **options: Any) -> socket.socket:
        found = bind(*arguments, **options)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and of all connections to it
        return found

    starlette_server._bind_socket = bound


if __name__ == "__main__":
    main(sys.argv[1:])
