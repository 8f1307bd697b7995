"""How long the dashboard's pages take in a real browser: to the first paint, a title, the last chart that the
window shows and the last of the page; and how long they take to answer to what people do on them.

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

# When there was a title, in ms since the start of the navigation, and what changed when.
_WATCH = """
window.title = null;
window.changes = [];
for (const kind of ['pointerup', 'keydown'])
    addEventListener(kind, () => { window.acted = performance.now(); }, true);
new MutationObserver(found => {
    const now = performance.now();
    if (title === null && document.querySelector('[data-testid=stMain] h1')) title = now;
    for (const {target, addedNodes} of found)
        for (const each of addedNodes.length ? addedNodes : [target])
            changes.push([now, each.nodeType === Node.ELEMENT_NODE ? each : target]);
}).observe(document, {childList: true, subtree: true, characterData: true,
    attributes: true, attributeFilter: ['d', 'transform', 'style']});
"""

# When what is there in the page itself, or in its charts, changed last: all, or what the window shows now.
_LAST = """([where, inWindow]) => Math.max(...changes.filter(([, each]) => {
    const element = each.nodeType === Node.TEXT_NODE ? each.parentElement : each;
    if (!(element instanceof Element) || !element.isConnected || !element.closest(where)) return false;
    const {top, bottom} = element.getBoundingClientRect();
    return !inWindow || (bottom > 0 && top < innerHeight);
}).map(([time]) => time))"""
_PAGE, _CHARTS = "[data-testid=stMainBlockContainer]", "[data-testid=stVegaLiteChart]"


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
            times = f"{'title':>8}{'seen':>8}{'drawn':>8}"
            print(f"{'':28}{'paint':>8}{times}{'again: paint':>14}{times}")
            for page, ms in measure(browser, url, chosen.repeats).items():
                print(f"{page or 'overview':28}" + ("{:8.0f}" * 4 + "{:14.0f}" + "{:8.0f}" * 3).format(*ms))
            print("From an action to the last change of what the window shows, and of the whole page, ms")
            for action, taken in interactions(browser, url, chosen.repeats).items():
                print(f"{action:36}" + "{:8.0f}{:8.0f}".format(*taken))


def measure(browser: Browser, url: str, repeats: int) -> dict[str, list[float]]:
    """Of every page the least times in ms of ``visit``."""
    found = {}
    for page in PAGES:
        visits = [visit(browser, f"{url}/{page}") for _ in range(repeats)]
        found[page] = [min(times) for times in zip(*visits, strict=True)]
    return found


def visit(browser: Browser, address: str) -> list[float]:
    """Open a page in a new window, and again: ms to the first contentful paint, to the title, to the last
    chart that the window shows, and to the last of the page (or the title) of both times."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.add_init_script(_WATCH)
    times: list[float] = []
    for _ in range(2):
        tab.goto(address)
        settle(tab)
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        title = tab.evaluate("title")
        times += [paint, title, *(max(title, last) for last in last_changes(tab, _CHARTS))]
    context.close()
    return times


def last_changes(tab: Page, where: str) -> list[float]:
    """When what the window shows in these elements changed last, and when anything in them did, in ms since
    the start of the navigation; −∞ if nothing did."""
    return [float(tab.evaluate(_LAST, [where, in_window])) for in_window in (True, False)]


def settle(tab: Page) -> None:
    """Wait until the script has run to its end and every chart is drawn, and a little more; pages that read
    themselves anew never rest for long."""
    tab.wait_for_selector("[data-testid=stMain] h1", timeout=60_000)
    ended = "document.querySelector('[data-test-script-state=notRunning]')"
    drawn = (
        "[...document.querySelectorAll('[data-testid=stVegaLiteChart]')]"
        ".every(e => e.querySelector('svg') && e.ariaBusy === null)"
    )
    # Not at every frame, as it would be without a number: then the browser would prepare each to be drawn.
    tab.wait_for_function(f"() => {ended} && {drawn}", timeout=120_000, polling=50)
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


def interactions(browser: Browser, url: str, repeats: int) -> dict[str, list[float]]:
    """Time every action in new windows: the least ms of ``acted``."""
    found = {}
    for name, (page, act) in ACTIONS.items():
        times = [acted(browser, f"{url}/{page}", act) for _ in range(repeats)]
        found[name] = [min(each) for each in zip(*times, strict=True)]
    return found


def acted(browser: Browser, address: str, act: Callable[[Page], None]) -> list[float]:
    """Open a page and act on it: ms from the last event of the action to the last change of what the window
    shows in the end, and of the whole page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.add_init_script(_WATCH)
    tab.goto(address)
    settle(tab)
    act(tab)
    tab.wait_for_timeout(300)
    settle(tab)
    began = tab.evaluate("acted")
    taken = [max(last - began, 0.0) for last in last_changes(tab, _PAGE)]
    context.close()
    return taken


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
