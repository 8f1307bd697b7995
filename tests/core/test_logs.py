"""Lines as a process really writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

_PROGRAM = """
import logging, sys, threading, warnings
from seigh.core.logs import about, configure

configure(sys.argv[1])
log = logging.getLogger("seigh.tasks.test")
log.debug("not shown")
log.info("before %d", 1)
with about("analysis", 7):
    log.warning("line one\\nline two: λ")
    logging.getLogger("library").info("analysis 7: told already")
    with about("training", 3):
        log.info("within")
    thread = threading.Thread(target=log.info, args=["in a thread of its own"])
    thread.start(); thread.join()
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")
log.info("from celery", extra={"data": {"name": "seigh.run", "args": "('comparison', 12)"}})
log.info("given", extra={"kind": "analysis", "id": 9})
warnings.warn("watch out", stacklevel=1)
log.info("after")
"""


def lines(form: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", _PROGRAM, form], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    return run.stderr.splitlines()


def test_every_line_is_one_json_object_that_names_its_work() -> None:
    found: list[dict[str, Any]] = [json.loads(line) for line in lines("json")]
    about = {each["message"]: (each.get("kind"), each.get("id")) for each in found}
    watch_out = next(message for message in about if "watch out" in message)
    assert about == {
        "before 1": (None, None),
        "line one\nline two: λ": ("analysis", 7),
        "analysis 7: told already": ("analysis", 7),
        "within": ("training", 3),
        "in a thread of its own": (None, None),
        "failed": ("analysis", 7),
        "from celery": ("comparison", 12),
        "given": ("analysis", 9),
        watch_out: (None, None),
        "after": (None, None),
    }
    failed = next(each for each in found if each["message"] == "failed")
    assert "ZeroDivisionError" in failed["exc_info"]
    assert (failed["level"], failed["logger"]) == ("ERROR", "seigh.tasks.test")
    assert datetime.fromisoformat(failed["time"]).tzinfo is not None
    assert isinstance(failed["process"], int)
    assert "data" not in next(each for each in found if each["message"] == "from celery")


@pytest.mark.parametrize(
    "ending",
    [
        "INFO seigh.tasks.test: before 1",
        "WARNING seigh.tasks.test: analysis 7: line one",
        "INFO library: analysis 7: told already",
        "INFO seigh.tasks.test: training 3: within",
        "INFO seigh.tasks.test: comparison 12: from celery",
        "INFO seigh.tasks.test: analysis 9: given",
        "INFO seigh.tasks.test: after",
    ],
)
def test_text_has_a_prefix(ending: str) -> None:
    assert sum(line.endswith(ending) for line in lines("text")) == 1
