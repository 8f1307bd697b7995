"""The whole stack, as a user starts it, and a browser on it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from seigh.app.cli.launch import free_port
from seigh.core.lab.session import close
from seigh.core.settings import Settings
from tests.browser import chromium
from tests.serving import installation

expect.set_options(timeout=60_000)  # ms


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An empty home of its own for the stack."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SEIGH_")]:
            if name != "SEIGH_TEST_CHROMIUM":
                patch.delenv(name)
        patch.setenv("SEIGH_HOME", str(tmp_path_factory.mktemp("lab")))
        patch.setenv("SEIGH_DEVICE", "cpu")
        settings = Settings()
        yield settings
        close(settings.database)


@pytest.fixture(scope="module")
def url(lab: Settings) -> Iterator[str]:
    """Address of the dashboard of a running installation."""
    with installation(lab, free_port(20_000 + os.getpid() % 20_000)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium.find()
    if path is None:
        pytest.fail("There is no Chromium; run `make browser`, or set SEIGH_TEST_CHROMIUM to its path.")
    with sync_playwright() as playwright:
        # Emulating a graphics card in a process of its own takes about a quarter of the time of the pages.
        options = ["--no-sandbox", "--disable-gpu", "--in-process-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """What the tabs of a module share: with a cache each, they would load and compile the same scripts."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    yield context
    context.close()


# How often each tab has been told that a run of the script begins. Its elements may not tell: of a short run,
# the page draws the end alone.
_BEGUN: Counter[Page] = Counter()


def _count(tab: Page, frame: str | bytes) -> None:
    assert isinstance(frame, bytes)
    _BEGUN[tab] += ForwardMsg.FromString(frame).HasField("new_session")


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab at laptop size, in which nobody has signed in."""
    tab = context.new_page()
    tab.on("websocket", lambda socket: socket.on("framereceived", partial(_count, tab)))
    yield tab
    tab.close()
    context.clear_cookies()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where the pages' pictures go, for people to look at."""
    folder = Path(__file__).with_name("screenshots")
    folder.mkdir(exist_ok=True)
    return folder


CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
FAULTS = Path(__file__).with_name("faults.js").read_text(encoding="utf-8")


# Whether no script has run and every chart has been drawn for a fifth of a second: what is typed or clicked
# reaches the script, and what the script says the page, only after a while.
QUIET = """() => {
    const app = document.querySelector('[data-testid=stApp]');
    const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')];
    const quiet = app?.dataset.testScriptState === 'notRunning'
        && !document.querySelector('[data-testid=stSkeleton]')
        && charts.every(chart => chart.querySelector('svg') && chart.ariaBusy === null);
    window.quietSince = quiet ? window.quietSince ?? performance.now() : null;
    return quiet && performance.now() - window.quietSince > 200;
}"""


def settled(page: Page) -> None:
    """Wait until the script has run to its end and every chart is drawn; there is no traceback."""
    expect(page.get_by_test_id("stMain").get_by_role("heading", level=1)).to_be_visible()
    page.evaluate("window.quietSince = null")
    page.wait_for_function(QUIET, timeout=60_000)
    words = page.inner_text("body")
    assert "Traceback" not in words
    assert "Something went wrong" not in words
    expect(page.get_by_test_id("stException")).to_have_count(0)


# Goes to another address of the dashboard as the browser's Back does.
GO = """address => {
    history.pushState({}, '', address);
    window.dispatchEvent(new PopStateEvent('popstate', {state: {}}));
}"""


def go(page: Page, address: str) -> None:
    """Go to another address of the dashboard that is open, without loading its scripts again."""
    before = _BEGUN[page]
    page.evaluate(GO, address)
    while _BEGUN[page] == before:
        page.wait_for_timeout(20)
    settled(page)


# The rules of WCAG 2.2, levels A and AA, as axe-core checks them. What meets them is not told in detail: that
# would be megabytes for a page with charts.
WCAG = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    "resultTypes": ["violations"],
}
AXE = Axe().axe_script
VIOLATIONS = """options => axe.run(options).then(found => found.violations.flatMap(
    each => each.nodes.map(node => `${each.id}: ${node.html.slice(0, 200)}`)))"""


def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.2 AA: the rule, and where."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found: list[str] = page.evaluate(VIOLATIONS, WCAG)
    return found


def look_at(page: Page, file: Path) -> None:
    """See that nothing sticks out, is cut, overlaps or is pale, headings come in order and WCAG 2.2 AA
    is met, and keep a picture of the whole page."""
    settled(page)
    width = page.viewport_size["width"]
    height = page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(height, 7000)})
    page.wait_for_timeout(300)
    settled(page)
    page.screenshot(path=file)
    assert page.evaluate(FAULTS) == [], f"see {file}"
    assert page.evaluate(CONTRAST) == [], f"see {file}"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])")
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert violations(page) == [], f"see {file}"
    page.set_viewport_size({"width": width, "height": 900})
