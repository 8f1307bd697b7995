"""Streamlit with the dashboard, whose log lines are ours: ``python -m app.serve <Streamlit's options>``."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

import streamlit.cli_util
import streamlit.logger
from streamlit.web import cli

from core import logs
from core.settings import Settings

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Run the dashboard until a signal ends it."""
    logs.configure(Settings().log)
    _leave_lines_to_us()
    cli.main(["run", str(Path(__file__).with_name("main.py")), *arguments])


def _leave_lines_to_us() -> None:
    """Streamlit and the server below it give each of their loggers a handler with a format of its own; they
    are to have none."""

    def hand_on(its: logging.Logger) -> None:
        if (handler := getattr(its, "streamlit_console_handler", None)) is not None:
            its.removeHandler(handler)
        its.propagate = True

    streamlit.cli_util.print_to_cli = lambda message="", **_: logger.info("%s", message.strip())
    streamlit.logger.setup_formatter = hand_on
    streamlit.logger.update_formatter()
    with suppress(ImportError):  # older versions serve with Tornado
        from uvicorn.config import LOGGING_CONFIG

        LOGGING_CONFIG["handlers"] = {}
        LOGGING_CONFIG["loggers"] = {"uvicorn": {"level": "INFO"}, "uvicorn.access": {"level": "WARNING"}}


if __name__ == "__main__":
    main(sys.argv[1:])
