"""The pages in a real Chromium, on the real stack."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from core.problems import architectures, training
from core.results import queries
from core.results.models import State
from core.results.session import sessions
from core.settings import AnalysisSettings, Settings
from tasks.submit import Upload, submit
from tests.conftest import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.stack]

K = 30
STEPS = (0, 20)


def test_from_uploaded_checkpoints_to_charts(
    page: Page, browser: Browser, url: str, lab: Settings, tmp_path: Path, screenshots: Path
) -> None:
    """Upload, start, wait, look at the result and compare: the way of a first user."""
    files = training.train("digits-mlp", STEPS[-1], list(STEPS), tmp_path)

    page.goto(url)
    expect(page.get_by_role("heading", name="New analysis")).to_be_visible()  # as there is nothing to see yet
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    page.locator("input[type=file]").first.set_input_files(files)
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()  # the files are read, in a run of their own
    fill(page, "Model name", "digits")
    fill(page, "N, samples", "100")
    fill(page, "k, eigenpairs", str(K))
    page.get_by_role("button", name="Start 2 analyses").click()
    expect(page.get_by_text("2 analyses are queued.")).to_be_visible()

    page.get_by_role("link", name="Watch them in Runs").click()
    expect(page.get_by_role("link", name="Open")).to_have_count(2, timeout=60_000)
    page.get_by_role("link", name="Open").first.click()

    overlap = chart(page, "Overlap of the magnitude mask")
    expect(overlap.locator("g.mark-line.role-mark path")).to_have_count(4)  # magnitude, best, random, chance
    expect(overlap.locator("g.mark-area.role-mark path")).to_have_count(2)  # random masks, stated error
    expect(overlap.locator("g.mark-rect.role-mark path")).to_have_count(0)  # everything is resolved
    expect(chart(page, "Share of the squared").locator("g.mark-area.role-mark path")).to_have_count(1)
    spectrum = chart(page, "Magnitudes of the")
    expect(spectrum.locator("g.mark-symbol.role-mark path")).to_have_count(2 * K)  # eigenvalues and residuals
    number = int(re.search(r"analysis=(\d+)", page.url)[1])
    with sessions(lab.database)() as s:
        curve = queries.overlap_curves(s, [number], masks=("magnitude",)).set_index("k")["overlap"]
    expect(page.get_by_test_id("stMetricValue").nth(1)).to_have_text(f"{curve[K]:.3g}")
    with page.expect_download() as download:
        page.get_by_role("button", name="Overlap (CSV)").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 1 + 3 * K

    page.get_by_role("link", name="Compare").click()
    for start in ("Overlap of the magnitude mask", "The same overlap divided"):
        expect(chart(page, start).locator("g.mark-symbol.role-mark path")).to_have_count(len(STEPS))
    expect(chart(page, "Overlap against k").locator("g.mark-line.role-mark path")).to_have_count(
        len(STEPS) + 1
    )
    expect(page).to_have_url(re.compile(f"k={K}"))
    assert_clean(page)

    page.goto(page.url.replace(f"k={K}", "k=7").replace(f"&step={STEPS[0]}", ""))
    expect(page.get_by_role("heading", name="Overlap over training, k = 7")).to_be_visible()
    expect(chart(page, "Overlap against k").locator("g.mark-line.role-mark path")).to_have_count(2)

    unresolved = analysed(lab, files[0], method="seigh")
    page.goto(f"{url}/result?analysis={unresolved}")
    overlap = chart(page, "Overlap of the magnitude mask")
    expect(overlap.locator("g.mark-rect.role-mark path")).to_have_count(1)
    expect(overlap.get_by_text("resolved to 1 %")).to_be_visible()
    expect(page.get_by_text(f"at k = {K} the stated error is")).to_be_visible()
    band = overlap.locator("g.mark-area.role-mark path").last.bounding_box()
    assert band["height"] > 20  # px: the error of a sketch without oversampling is large
    expect(page.get_by_test_id("stCode")).to_contain_text(re.compile("^seigh analyze .* --method seigh$"))
    page.get_by_role("tab", name="Numerics").click()
    expect(page.get_by_role("cell", name="‖H‖ (Frobenius)", exact=True)).to_be_visible()
    assert_clean(page)

    pages = {"new_analysis": "", "runs": "", "result": f"?analysis={unresolved}", "compare": ""}
    for scheme, width in (("light", 1280), ("dark", 390)):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        tab = context.new_page()
        for name, query in pages.items():
            tab.goto(f"{url}/{name}{query}")
            look_at(tab, width, has_charts=name in ("result", "compare"))
            tab.screenshot(path=screenshots / f"{name}-{scheme}-{width}.png")
            tab.set_viewport_size({"width": width, "height": 900})
        context.close()


def test_unusable_files_get_one_sentence_each_and_nothing_is_run_or_queued(
    page: Page, url: str, lab: Settings, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    weights = io.BytesIO()
    torch.save(architectures.build("tanh-mlp").state_dict(), weights)
    torch.save({"weight": Malicious(marker)}, tmp_path / "malicious.pt")
    (tmp_path / "truncated.pt").write_bytes(weights.getvalue()[: weights.tell() // 2])
    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "other.pt")
    (tmp_path / "empty.pt").touch()
    with sessions(lab.database)() as s:
        before = len(queries.runs(s))

    page.goto(f"{url}/new_analysis")
    names = ["malicious.pt", "truncated.pt", "other.pt", "empty.pt"]
    page.locator("input[type=file]").first.set_input_files([tmp_path / name for name in names])

    sentences = page.get_by_role("alert").filter(has_text="Left out.")
    expect(sentences).to_have_count(4)
    for name in names:
        expect(sentences.filter(has_text=name)).to_have_count(1)
    fill(page, "Model name", "malformed")
    expect(page.get_by_text("Add at least one checkpoint")).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    assert_clean(page)
    assert not marker.exists()
    with sessions(lab.database)() as s:
        assert len(queries.runs(s)) == before
        assert "malformed" not in set(queries.models(s)["name"])
    assert not list((lab.artifact_folder / "checkpoints").glob("*malicious*"))


class Malicious:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def analysed(lab: Settings, file: Path, **changes: Any) -> int:
    """The number of a finished analysis of a checkpoint of the model that was uploaded first."""
    settings = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=100, k=K, **changes)
    upload = Upload(file, file.name)
    (number,) = submit([upload], model_name="digits", settings=[settings], user="ada", env=lab).analysis_ids

    def finished() -> bool:
        with sessions(lab.database)() as s:
            return queries.analysis(s, number).state == State.finished

    wait_until(finished, 60, f"analysis {number} is finished")
    return number


def fill(page: Page, label: str, text: str) -> None:
    box = page.locator("input").and_(page.get_by_label(label))
    box.fill(text)
    box.press("Enter")
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)  # a run that begins meanwhile may reset it


def chart(page: Page, description: str) -> Any:
    """The chart whose text alternative starts so."""
    return page.locator(f'[data-testid="stVegaLiteChart"][aria-label^="{description}"] svg')


def assert_clean(page: Page) -> None:
    """No traceback and no exception box."""
    assert "Traceback" not in page.inner_text("body")
    assert page.get_by_test_id("stException").count() == 0


def look_at(page: Page, width: int, *, has_charts: bool) -> None:
    """See that nothing sticks out on the right, and stretch the window over the whole page."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    if has_charts:
        expect(page.locator("[data-testid=stVegaLiteChart] svg g.mark-line path").last).to_be_attached()
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)  # the script has run to its end
    assert_clean(page)
    sticking_out = page.evaluate(
        """() => [...document.querySelectorAll('[data-testid=stVegaLiteChart] svg g, [data-testid=stMain]')]
            .filter(element => element.getBoundingClientRect().right > window.innerWidth + 1
                || (element.tagName === 'MAIN' && element.scrollWidth > element.clientWidth + 1))
            .map(element => element.textContent.slice(0, 60))"""
    )
    assert sticking_out == []
    height = page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(height, 6000)})
    page.wait_for_timeout(300)
