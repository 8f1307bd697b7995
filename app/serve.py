"""Streamlit with the dashboard, whose log lines are ours: ``python -m app.serve <Streamlit's options>``."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit.logger
from streamlit.web import cli

from core import logs
from core.settings import Settings


def main(arguments: list[str]) -> None:
    """Run the dashboard until a signal ends it."""
    logs.configure(Settings().log)
    _leave_lines_to_us()
    cli.main(["run", str(Path(__file__).with_name("main.py")), *arguments])


def _leave_lines_to_us() -> None:
    """Streamlit gives each of its loggers a handler with a format of its own; they are to have none."""

    def hand_on(logger: streamlit.logger.logging.Logger) -> None:
        if (handler := getattr(logger, "streamlit_console_handler", None)) is not None:
            logger.removeHandler(handler)
        logger.propagate = True

    streamlit.logger.setup_formatter = hand_on
    streamlit.logger.update_formatter()


if __name__ == "__main__":
    main(sys.argv[1:])
