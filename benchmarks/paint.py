"""How long the dashboard's pages take in a real browser: to the first paint, a title, and the last chart; and
how long they take to answer to what people do on them.

    python -m benchmarks.paint --home .seigh                # with the data of a lab, such as the demo's
    python -m benchmarks.paint --analyses 200 --k 1500      # with made-up results, as a large lab has them
    python -m benchmarks.paint --analyses 1000 --models 20 --k 200

Each page is opened twice in a new browser window, first with nothing in its cache, then, "again", with
Streamlit's scripts there; the times are the browser's own, from the start of the navigation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from seigh.app.cli import launch
from seigh.core.lab import store
from seigh.core.lab.models import Analysis
from seigh.core.lab.session import migrate, sessions
from seigh.core.names import METRICS
from seigh.core.results.result import Outcome, Stage
from seigh.core.settings import AnalysisSettings, Settings
from tests.browser import chromium

PAGES = (
    "",
    "runs",
    "analyses",
    "analyses?q=tag:baseline",
    "result",
    "compare",
    "compare?view=spectrum",
    "compare?view=scatter",
    "stabilisation",
    "metrics",
    "data",
    "new_analysis",
    "train",
)
PORT = 8710
SPLITS = ("train", "test")
PARAMETERS = 895_210
REST_MS = 1000

# Times in ms since the start of the navigation: when there was a title, and when a chart changed last.
_WATCH = """
window.seen = {title: null, drawn: null, charts: 0};
for (const kind of ['pointerup', 'keydown'])
    addEventListener(kind, () => { window.acted = performance.now(); }, true);
new MutationObserver(changes => {
    const main = document.querySelector('[data-testid=stMain]');
    if (!main) return;
    const now = performance.now();
    window.changed = now;
    if (seen.title === null && main.querySelector('h1')) seen.title = now;
    const charts = main.querySelectorAll('[data-testid=stVegaLiteChart] svg').length;
    if (charts !== seen.charts) { seen.charts = charts; seen.drawn = now; }
}).observe(document, {childList: true, subtree: true});
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, help="SEIGH_HOME of a lab that has results")
    parser.add_argument("--analyses", type=int, default=200, help="how many to make up without a home")
    parser.add_argument("--models", type=int, default=10, help="of how many models they are")
    parser.add_argument("--k", type=int, default=1500, help="their eigenpairs")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        home = chosen.home or Path(folder)
        if chosen.home is None:
            fill(Settings(home=home), chosen.analyses, chosen.k, chosen.models)
        with dashboard(home) as url, window() as browser:
            measure(browser, url, 1)  # the server's own imports and caches
            print(f"{'':28}{'paint':>8}{'title':>8}{'drawn':>8}{'again: paint':>14}{'title':>8}{'drawn':>8}")
            for page, ms in measure(browser, url, chosen.repeats).items():
                print(f"{page or 'overview':28}" + "{:8.0f}{:8.0f}{:8.0f}{:14.0f}{:8.0f}{:8.0f}".format(*ms))
            print("From an action to the last change of the page, ms")
            for action, taken in interactions(browser, url, chosen.repeats).items():
                print(f"{action:36}{taken:8.0f}")


def measure(browser: Browser, url: str, repeats: int) -> dict[str, list[float]]:
    """Of every page the least times in ms of ``visit``."""
    found = {}
    for page in PAGES:
        visits = [visit(browser, f"{url}/{page}") for _ in range(repeats)]
        found[page] = [min(times) for times in zip(*visits, strict=True)]
    return found


def visit(browser: Browser, address: str) -> list[float]:
    """Open a page in a new window, and again: ms to the first contentful paint, to the title and to the last
    chart (or the title) of both times."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.add_init_script(_WATCH)
    times: list[float] = []
    for _ in range(2):
        tab.goto(address)
        settle(tab)
        seen = tab.evaluate("seen")
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        times += [paint, seen["title"], seen["drawn"] or seen["title"]]
    context.close()
    return times


def settle(tab: Page) -> None:
    """Wait until the script has run to its end and every chart is drawn, and a little more; pages that read
    themselves anew never rest for long."""
    tab.wait_for_selector("[data-testid=stMain] h1", timeout=60_000)
    ended = "document.querySelector('[data-test-script-state=notRunning]')"
    drawn = (
        "[...document.querySelectorAll('[data-testid=stVegaLiteChart]')].every(e => e.querySelector('svg'))"
    )
    tab.wait_for_function(f"() => {ended} && {drawn}", timeout=120_000)
    tab.wait_for_timeout(REST_MS)


def press(tab: Page) -> None:
    """Move the first slider of a page by one."""
    tab.get_by_test_id("stMain").get_by_role("slider").first.focus()
    tab.keyboard.press("ArrowLeft")


def click(role: Literal["button", "radio"], name: str) -> Callable[[Page], None]:
    """An action that clicks the first button, or choice, of a name in the page itself."""
    return lambda tab: tab.get_by_test_id("stMain").get_by_role(role, name=name).first.click()


def pick(label: str, option: str) -> Callable[[Page], None]:
    """An action that takes one more option in a field, written as one finds it."""

    def act(tab: Page) -> None:
        field = tab.get_by_test_id("stMain").get_by_role("combobox", name=label).first
        field.click()
        field.fill(option)
        tab.get_by_role("option").first.click()
        tab.keyboard.press("Escape")  # the list of a field for several stays open

    return act


# What people do on a page, by what it is called: the page and the action.
ACTIONS: Mapping[str, tuple[str, Callable[[Page], None]]] = {
    "compare: another k": ("compare", press),
    "compare: one split less": ("compare", click("button", "train")),
    "compare: one model more": ("compare", pick("Models", "model 2")),
    "compare: the spectrum": ("compare", click("radio", "Spectrum")),
    "compare: the scatter": ("compare", click("radio", "Scatter")),
    "compare: a preset of the scatter": ("compare?view=scatter", click("button", "Time against D")),
    "metrics: another k": ("metrics", press),
    "metrics: one model more": ("metrics", pick("Models", "model 2")),
    "analyses: a tag": ("analyses", pick("Tag", "baseline")),
    "analyses: a step": ("analyses", pick("Step", "1000")),
    "result: another k": ("result", press),
    "result: another analysis": ("result", pick("Analysis", "model 3")),
}


def interactions(browser: Browser, url: str, repeats: int) -> dict[str, float]:
    """Time every action: the least ms from it to the last change of the page, each in a new window."""
    return {
        name: min(acted(browser, f"{url}/{page}", act) for _ in range(repeats))
        for name, (page, act) in ACTIONS.items()
    }


def acted(browser: Browser, address: str, act: Callable[[Page], None]) -> float:
    """Open a page and act on it: ms from the last event of the action to the last change of the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.add_init_script(_WATCH)
    tab.goto(address)
    settle(tab)
    act(tab)
    tab.wait_for_timeout(300)
    settle(tab)
    taken: float = tab.evaluate("window.changed - window.acted")
    context.close()
    return max(taken, 0.0)


@contextmanager
def dashboard(home: Path) -> Iterator[str]:
    """The app alone, on this home."""
    port = launch.free_port(PORT)
    command = launch.dashboard_command(port)
    process = subprocess.Popen(
        command,
        env=os.environ | {"SEIGH_HOME": str(home.resolve())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://{launch.HOST}:{port}/_stcore/health")
        yield f"http://{launch.HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("The dashboard does not start.")


@contextmanager
def window() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.find(), args=["--no-sandbox"])
        yield browser
        browser.close()


# --- Made-up results --------------------------------------------------------------------------------------


def fill(settings: Settings, analyses: int, k: int, models: int = 10) -> None:
    """So many finished analyses of k eigenpairs each, of models with as many steps and two splits."""
    steps = max(1, analyses // (len(SPLITS) * models))
    migrate(settings.database)
    maker = sessions(settings.database)
    for number in range(analyses):
        line, step = divmod(number, steps)
        model, split = divmod(line, len(SPLITS))
        chosen = AnalysisSettings(architecture="3c3d", data="cifar-10", split=SPLITS[split], k=k, samples=500)
        with maker.begin() as s:
            checkpoint = store.add_checkpoint(
                s,
                store.add_model(s, f"model {model + 1}", "3c3d"),
                step=1000 * step,
                sha256=f"{model * steps + step:064x}",
                filename=f"step_{step}.safetensors",
                size=4 * PARAMETERS,
                parameters=PARAMETERS,
                metrics={"test_accuracy": step / steps, "test_loss": 1 / (step + 1)},
                user="benchmark",
            )
            s.flush()
            analysis, _ = store.queue_analysis(s, checkpoint, chosen, "benchmark", parameters=PARAMETERS)
            s.flush()
            store.claim(s, Analysis, analysis.id, "made-up", "nobody")
            store.finish(s, analysis.id, "made-up", results(k, seed=number), eigenvectors=f"{number}")
            if number % 7 == 0:
                store.tag_analyses(s, [analysis.id], ["baseline"])


def results(k: int, seed: int) -> Outcome:
    """What an analysis could have found."""
    draw = np.random.default_rng(seed)
    size = np.arange(1, k + 1)
    chance = size / PARAMETERS
    ratio = 2 + 0.2 * draw.standard_normal(k).cumsum() / np.sqrt(size)
    values = 10 / size * np.where(draw.random(k) < 0.4, -1, 1)
    tensors = [f"layer{i}.{kind}" for i in range(6) for kind in ("weight", "bias")]
    at = sorted({each for each in (1, 10, 100) if each < k} | {k})
    return Outcome(
        parameters=PARAMETERS,
        eigenvalues=values,
        residuals=1e-5 * size,
        scree_lower=0.9 / size,
        scree_upper=1.0 / size,
        overlap=np.clip(ratio * chance, 0, 1),
        overlap_error=0.005 * chance,
        resolved_k=k,
        random_mean=chance,
        random_std=0.05 * chance,
        best=np.clip(50 * chance, 0, 1),
        layers=[
            {"k": each, "position": i, "name": name, "parameters": PARAMETERS // 12}
            | dict.fromkeys(("eigenspace", "mask", "overlap"), 1 / 12)
            for each in at
            for i, name in enumerate(tensors)
        ],
        metrics=[
            {"k": each, "metric": metric, "value": 0.5, "error": None, "random_mean": 0.6, "random_std": 0.1}
            for each in at
            for metric in METRICS
        ],
        stages=[Stage("load", 1.0, 0), Stage("eigenpairs", 100.0, 2 * k)],
        hvps=2 * k,
        data_sha256="d" * 64,
        environment={},
        record={},
    )


if __name__ == "__main__":
    main()
