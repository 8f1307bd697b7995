"""How much memory the dashboard's server takes while people look at one page after the other.

    python -m benchmarks.memory --analyses 1000 --models 20 --k 200 --pages 600

Pages and what is chosen on them are drawn at random, always the same; every tenth is opened in a new session.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg

from benchmarks.paint import dashboard, fill
from seigh.core.settings import Settings
from tests.gate.conftest import Server

SESSION = 10  # pages
TOLD = 20  # after so many pages
PAGES = (
    *["compare"] * 4,
    "metrics",
    "metrics",
    "result",
    "result",
    "analyses",
    "runs",
    "",
    "stabilisation",
    "data",
)
VIEWS = ("overlap", "overlap", "spectrum", "scatter", "curves", "masks")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--analyses", type=int, default=1000, help="how many to make up")
    parser.add_argument("--models", type=int, default=20, help="of how many models they are")
    parser.add_argument("--k", type=int, default=200, help="their eigenpairs")
    parser.add_argument("--pages", type=int, default=600, help="how many to open")
    chosen = parser.parse_args(arguments)
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        env = Settings(home=Path(folder))
        fill(env, chosen.analyses, chosen.k, chosen.models)
        with dashboard(env.root) as url:
            server = Server(urlsplit(url).port or 0, env, Path(folder))
            for start in range(0, chosen.pages, SESSION):
                with server.page() as tab:
                    for _ in range(SESSION):
                        tab.send(message(draw, chosen.analyses, chosen.models, chosen.k))
                        tab.until("script_finished", 120)
                if (start + SESSION) % TOLD == 0:
                    print(f"{start + SESSION:6} pages {resident() / 2**20:8.0f} MiB", flush=True)


def message(draw: random.Random, analyses: int, models: int, k: int) -> BackMsg:
    """What a browser sends that opens a page, or chooses something else on it."""
    page, query = draw.choice(PAGES), list[tuple[str, object]]()
    if page in ("compare", "metrics"):
        some = draw.sample(range(1, models + 1), draw.randint(1, min(8, models)))
        query += [*(("model", f"model {number}") for number in some), ("k", draw.randint(1, k))]
    if page == "compare":
        query.append(("view", draw.choice(VIEWS)))
    if page == "result":
        query += [("analysis", draw.randint(1, analyses)), ("k", draw.randint(1, k))]
    found = BackMsg()
    found.rerun_script.page_name = page
    found.rerun_script.query_string = urlencode(query)
    return found


def resident() -> int:
    """Bytes that the server, the one process that this one has begun, has in memory."""
    (server,) = psutil.Process().children()
    return int(server.memory_info().rss)


if __name__ == "__main__":
    main()
