"""Every page in a real Chromium, with what the demo has at a reduced cost: its charts, links and files."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pandas as pd
import pytest
from playwright.sync_api import Browser, Download, Locator, Page, expect

from seigh.core.lab import queries, store
from seigh.core.lab.models import State
from seigh.core.lab.session import sessions
from seigh.core.names import METRICS
from seigh.core.problems import training
from seigh.core.settings import SPLITS, AnalysisSettings, Settings
from seigh.tasks import submit
from tests.browser import keyboard
from tests.browser.conftest import go, look_at, settled
from tests.conftest import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.stack]

MODEL = "digits MLP"
STEPS = (0, 15, 30)
K = 36
COMPARED = 35  # ρ = 0.005
TENSORS = 12
POINTS = len(STEPS) * len(SPLITS)

# Every page and its address; the last analysis is that of the last step.
PAGES = {
    "overview": "",
    "runs": "runs",
    "analyses": "analyses",
    "analyses-groups": "analyses?by=model&by=split",
    "model": "model",
    "data": "data",
    "result": "result",
    "result-tour": "result?tour=2",
    "compare": "compare",
    "compare-spectrum": "compare?view=spectrum",
    "compare-means": "compare?view=overlap&over=split&panel=model&baseline_model=digits+MLP",
    "compare-scatter": "compare?view=scatter",
    "stabilisation": "stabilisation?k=35",
    "metrics": "metrics",
    "metrics-random": "metrics?view=random&d=1000&k=10",
    "accuracy": "accuracy?d=100&r=5&k=5&outer=20&inner=40",
    "new_analysis": "new_analysis",
    "train": "train",
}


@pytest.fixture(scope="module")
def study(lab: Settings, url: str, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Analyses of ``STEPS`` on both splits, compared with each other: their ids, by step and split."""
    files = training.train("digits-mlp", STEPS[-1], list(STEPS), tmp_path_factory.mktemp("checkpoints"))
    settings = [
        AnalysisSettings(architecture="tanh-mlp", data="digits", split=split, samples=100, k=K)
        for split in SPLITS
    ]
    uploads = [submit.Upload(file, file.name) for file in files]
    found = submit.submit(uploads, model_name=MODEL, settings=settings, user="ada", env=lab)
    wait_until(lambda: finished(lab, "analysis") == POINTS, 120, "all are analysed")
    with sessions(lab.database)() as s:
        analyses = queries.comparable(s).sort_values(["step", "split"], ascending=[True, False])
    assert sorted(analyses["analysis_id"]) == sorted(found.analysis_ids)
    for _, rows in analyses.groupby("split"):
        submit.compare(rows["analysis_id"].tolist(), [COMPARED], user="ada", env=lab)
    wait_until(lambda: finished(lab, "comparison") == len(SPLITS), 60, "all are compared")
    return analyses["analysis_id"].tolist()


def finished(lab: Settings, kind: str) -> int:
    with sessions(lab.database)() as s:
        runs = queries.runs(s)
    return int(((runs["kind"] == kind) & (runs["state"] == State.finished)).sum())


def drawn(page: Page, key: str) -> Locator:
    """The drawing of a chart by its key."""
    return page.locator(f".st-key-figure_{key} [data-testid=stVegaLiteChart] svg").first


def expect_marks(page: Page, key: str, **numbers: int) -> None:
    """That a chart has so many marks of each kind: ``symbol``, ``line``, ``rect``, …"""
    for kind, number in numbers.items():
        expect(drawn(page, key).locator(f"g.mark-{kind}.role-mark path")).to_have_count(number)


def test_overview_has_a_card_for_each_of_the_latest_results(page: Page, url: str, study: list[int]) -> None:
    page.goto(url)
    expect(page.locator("[class*=st-key-latest_]")).to_have_count(6)
    expect(page.get_by_test_id("stMetricChart")).to_have_count(6)
    settled(page)
    page.get_by_role("link", name="Open").first.click()
    expect(page).to_have_url(re.compile(r"/result\?analysis=\d+"))


def test_runs_lists_everything(page: Page, url: str, study: list[int]) -> None:
    page.goto(f"{url}/runs")
    expect(page.locator("[class*=st-key-run_]")).to_have_count(POINTS + len(SPLITS))
    expect(page.get_by_text("1 worker", exact=True)).to_be_visible()


def test_result_draws_every_chart(page: Page, url: str, lab: Settings, study: list[int]) -> None:
    page.goto(f"{url}/result?analysis={study[-1]}")
    # Magnitude, best, random and chance; the bands of random masks and of the errors of the largest and best.
    expect_marks(page, "result_overlap", line=4, area=3)
    expect_marks(page, "result_spectrum", symbol=2 * K)  # eigenvalues and residuals
    expect_marks(page, "result_scree", area=1, line=2)
    expect_marks(page, "result_layers", rect=TENSORS, symbol=3 * TENSORS)
    with sessions(lab.database)() as s:
        stages = queries.stages(s, study[-1])
        bins = queries.magnitude_bins(s, study[-1])
    expect_marks(page, "result_stages", rect=len(stages))
    at_k = bins[(bins["k"] == bins["k"].max()) & (bins["largest"] > 0) & (bins["mean"] > 0)]
    expect_marks(page, "result_magnitudes", symbol=len(at_k))
    settled(page)


# Whether all charts are those that were marked, each described by the heading above it, which says this size.
ARE_KEPT = """size => {
    const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')];
    const told = charts.map(
        chart => document.getElementById(chart.getAttribute('aria-describedby'))?.innerText);
    return charts.length > 2 && charts.every(chart => chart.querySelector('svg').kept)
        && told.filter(words => words?.endsWith(size)).length === 2 && told.every(words => words);
}"""


def test_compare_draws_every_view(page: Page, url: str, study: list[int]) -> None:
    page.goto(f"{url}/compare?model={MODEL}&model=gone")
    gone = page.get_by_text("The address asks for model gone")
    expect(gone).to_be_visible()
    for key in ("compare_overlap", "compare_ratio"):
        expect_marks(page, key, symbol=POINTS, line=len(SPLITS))
    for panel in range(len(SPLITS)):
        expect_marks(page, f"compare_panel_{panel}", line=len(STEPS) + 1)  # and chance
    expect(page).to_have_url(re.compile(f"k={K}"))
    settled(page)
    page.evaluate(
        "document.querySelectorAll('[data-testid=stVegaLiteChart] svg').forEach(e => e.kept = true)"
    )
    page.get_by_test_id("stMain").get_by_role("slider").first.focus()
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(re.compile(f"k={K - 1}"))
    expect(gone).to_be_hidden()
    settled(page)
    assert page.evaluate(ARE_KEPT, f"k = {K - 1}")
    look_at_view(page, "Spectrum")
    for key in ("compare_lambda", "compare_accuracy", "compare_loss"):
        expect_marks(page, key, symbol=POINTS)
    look_at_view(page, "Scatter")
    expect_marks(page, "compare_scatter", symbol=len(SPLITS))
    settled(page)


# The words of all marks of a chart that is drawn and seen; of others, that they are waited for.
WORDS = """key => {
    const chart = document.querySelector(`.st-key-figure_${key} [data-testid=stVegaLiteChart]`);
    const svg = chart.querySelector('svg');
    if (chart.ariaBusy || !svg || getComputedStyle(svg).visibility === 'hidden')
        return ['waits', chart.clientHeight > 300];
    return [...svg.querySelectorAll('.role-mark [aria-label]')].map(each => each.ariaLabel);
}"""


def test_a_chart_outside_the_window_waits_and_never_shows_old_numbers(
    page: Page, url: str, study: list[int]
) -> None:
    # The browser never has time, so that charts outside the window are drawn only when they come into it.
    page.add_init_script("window.requestIdleCallback = () => {}")
    page.set_viewport_size({"width": 390, "height": 700})
    page.goto(f"{url}/compare?model={MODEL}&k={K}")
    chart = page.locator(".st-key-figure_compare_ratio [data-testid=stVegaLiteChart]")
    last = page.locator(".st-key-figure_compare_panel_1 [data-testid=stVegaLiteChart]")
    expect(last).to_have_attribute("aria-busy", "true")
    assert page.evaluate(WORDS, "compare_ratio") == ["waits", True]
    chart.scroll_into_view_if_needed()
    expect(chart).not_to_have_attribute("aria-busy", "true")
    before = page.evaluate(WORDS, "compare_ratio")
    assert len(before) > POINTS
    page.get_by_test_id("stMain").get_by_role("slider").first.focus()
    for key, k in (("ArrowLeft", K - 1), ("ArrowRight", K), ("ArrowLeft", K - 1)):
        page.keyboard.press(key)
        expect(chart).to_have_attribute("aria-busy", "true")
        # Of keys that are pressed while the script runs, Streamlit's slider may lose one.
        expect(page.get_by_role("heading", name=f"Ratio to chance over training, k = {k}")).to_be_attached()
        expect(page).to_have_url(re.compile(f"k={k}"))
        expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
    assert page.evaluate(WORDS, "compare_ratio") == ["waits", True]
    chart.scroll_into_view_if_needed()
    expect(chart).not_to_have_attribute("aria-busy", "true")
    after = page.evaluate(WORDS, "compare_ratio")
    page.goto(page.url)
    expect(chart).to_have_attribute("aria-busy", "true")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    expect(chart).not_to_have_attribute("aria-busy", "true")
    expect(drawn(page, "compare_panel_1")).to_be_visible()
    assert before != after == page.evaluate(WORDS, "compare_ratio")


def test_an_analysis_is_found_by_tag_step_and_n_in_three_actions(
    page: Page, url: str, lab: Settings, study: list[int]
) -> None:
    with sessions(lab.database).begin() as s:
        store.tag_analyses(s, study[:3], ["baseline"])
    page.goto(f"{url}/analyses")
    for label, option, left in (("Tag", "baseline", 3), ("Step", str(STEPS[0]), 2), ("N", "100", 2)):
        settled(page)
        field = page.get_by_role("combobox", name=label, exact=True)
        field.click()
        field.fill(option)
        page.get_by_role("option", name=option, exact=True).click()
        page.keyboard.press("Escape")
        expect(page.get_by_text(f"{left} analyses.", exact=True)).to_be_visible()
    expect(page).to_have_url(re.compile("tag=baseline&step=0&N=100"))
    settled(page)


def test_a_point_of_the_scatter_opens_its_result(page: Page, url: str, study: list[int]) -> None:
    page.goto(f"{url}/compare?view=scatter&x=step&y=overlap&steps=all&split=test")
    expect_marks(page, "compare_scatter", symbol=len(STEPS))
    settled(page)
    drawn(page, "compare_scatter").locator("g.mark-symbol.role-mark path").first.click()
    expect(page).to_have_url(re.compile(r"/result\?analysis=\d+"))


def look_at_view(page: Page, name: str) -> None:
    settled(page)  # a run that begins meanwhile may reset the choice
    page.get_by_role("radio", name=name).click()


def test_heatmaps_have_a_cell_for_every_pair(page: Page, url: str, study: list[int]) -> None:
    page.goto(f"{url}/stabilisation?k={COMPARED}")
    charts = page.locator("[class*=st-key-figure_stabilisation_] [data-testid=stVegaLiteChart] svg")
    expect(charts).to_have_count(1 + len(SPLITS))
    for chart in charts.all():
        expect(chart.locator("g.mark-rect.role-mark path")).to_have_count(len(STEPS) ** 2)
    settled(page)


def test_metrics_are_drawn_and_two_analyses_are_compared_on_the_page(
    page: Page, url: str, study: list[int]
) -> None:
    page.goto(f"{url}/metrics")
    for metric in sorted({*METRICS} - {"fubini_study"}):
        expect_marks(page, f"metrics_{metric}", symbol=POINTS)
    expect(page.get_by_text("Not drawn: Fubini–Study.")).to_be_visible()  # all rounding errors
    go(page, f"/metrics?view=pair&first={study[-1]}&second={study[-2]}")
    page.get_by_role("button", name=re.compile("^.*Compare")).click()
    expect(drawn(page, "metrics_pair")).to_be_visible()
    expect(drawn(page, "metrics_pair").locator("g.mark-line.role-mark path")).to_have_count(2 * len(METRICS))
    go(page, "/metrics?view=random&d=1000&k=10")
    expect_marks(page, "metrics_random", line=len(METRICS))


def test_a_link_shows_a_colleague_the_same(page: Page, browser: Browser, url: str, study: list[int]) -> None:
    page.goto(f"{url}/compare?model={MODEL}&split=test&view=overlap&k=7&step=0&step=30")
    expect(page.get_by_role("heading", name="Overlap over training, k = 7")).to_be_visible()
    expect_marks(page, "compare_overlap", symbol=len(STEPS), line=1)
    expect_marks(page, "compare_panel_0", line=2 + 1)
    settled(page)
    colleague = browser.new_page()
    colleague.goto(page.url)
    expect(colleague.get_by_role("heading", name="Overlap over training, k = 7")).to_be_visible()
    expect_marks(colleague, "compare_panel_0", line=2 + 1)
    settled(colleague)
    assert colleague.url == page.url
    colleague.close()


def test_a_chart_and_its_data_are_files(page: Page, url: str, study: list[int]) -> None:
    page.goto(f"{url}/result")
    settled(page)
    files = downloaded(page, "result_overlap", "SVG", "PNG", "PDF", "CSV", "Parquet")
    assert files["PNG"].startswith(b"\x89PNG\r\n")
    assert files["PDF"].startswith(b"%PDF")
    expect_words_and_rows(files)
    for address, key in (("stabilisation?k=35", "stabilisation_masks_"), ("metrics", "metrics_geodesic")):
        go(page, f"/{address}")
        expect_words_and_rows(downloaded(page, key, "SVG", "CSV", "Parquet"))


def downloaded(page: Page, key: str, *formats: str) -> dict[str, bytes]:
    """The first chart of this key, in each of these formats."""
    button = page.locator(f"[class*=st-key-downloads_{key}]").first.locator("button").first
    button.evaluate("button => button.scrollIntoView({block: 'center'})")
    button.click()
    files = {}
    for label in formats:
        with page.expect_download() as download:
            page.get_by_test_id("stPopoverBody").get_by_role("button", name=label, exact=True).click()
        files[label] = content(download.value)
    return files


def expect_words_and_rows(files: dict[str, bytes]) -> None:
    """That the drawing has words and that both tables have the same rows."""
    texts = [element.text for element in ElementTree.fromstring(files["SVG"]).iter() if element.text]
    assert len(texts) > 5
    table = pd.read_parquet(io.BytesIO(files["Parquet"]))
    assert len(table) > 0
    assert pd.read_csv(io.BytesIO(files["CSV"])).shape == table.shape


def content(download: Download) -> bytes:
    return Path(download.path()).read_bytes()


def test_a_report_is_one_file_that_draws_its_charts_alone(
    page: Page, browser: Browser, url: str, study: list[int], tmp_path: Path, screenshots: Path
) -> None:
    page.goto(f"{url}/compare")
    settled(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Report of this selection").click()
    file = tmp_path / "report.html"
    download.value.save_as(file)
    context = browser.new_context(offline=True)
    tab = context.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    tab.goto(file.as_uri())
    sections = tab.locator("section")
    expect(tab.locator("section .chart svg.marks")).to_have_count(sections.count())
    over_training = sections.filter(has_text="Overlap over training")
    expect(over_training.locator("g.mark-symbol.role-mark path")).to_have_count(POINTS)
    heatmaps = sections.filter(has_text="All pairs of steps")
    expect(heatmaps.locator("g.mark-rect.role-mark path")).to_have_count((1 + len(SPLITS)) * len(STEPS) ** 2)
    layers = sections.filter(has_text="In which layers")
    expect(layers.locator("g.mark-rect.role-mark path")).to_have_count(len(SPLITS) * TENSORS)
    analyses = tab.get_by_role("heading", name="Analyses").locator("xpath=following-sibling::div[1]")
    expect(analyses.get_by_role("row")).to_have_count(1 + POINTS)
    checked = tab.get_by_role("heading", name="How they were checked").locator(
        "xpath=following-sibling::div[1]"
    )
    expect(checked.get_by_role("row").first).to_contain_text("what it means")
    tab.screenshot(path=screenshots / "report.png", full_page=True)
    assert problems == []
    context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_nothing_sticks_out_is_cut_or_overlaps(
    page: Page, url: str, study: list[int], screenshots: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(url)
    settled(page)
    for name, address in PAGES.items():
        go(page, f"/{address}")
        look_at(page, screenshots / f"{name}-{scheme}-{width}.png")
        background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
        lightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
        assert (lightness < 100) == (scheme == "dark")


def test_journeys_are_possible_by_the_keyboard_alone_and_the_focus_is_seen(
    page: Page, url: str, study: list[int], tmp_path: Path
) -> None:
    (file,) = training.train("digits-mlp", 0, [0], tmp_path)
    page.goto(f"{url}/new_analysis")
    settled(page)
    keyboard.choose(page, "Upload$", file)
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    settled(page)
    for name, text in {"Model name": "by keyboard", "N, samples": "50", "k, eigenpairs": "5"}.items():
        keyboard.fill(page, f"^{name}$", text)
        settled(page)
    keyboard.tab_to(page, "Start 1 analysis")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 analysis is queued.")).to_be_visible()
    settled(page)
    keyboard.tab_to(page, "Watch them in Runs")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    go(page, "/")
    keyboard.tab_to(page, "Open$")
    page.keyboard.press("Enter")
    expect(drawn(page, "result_overlap")).to_be_visible()

    go(page, "/analyses")
    keyboard.tab_to_table(page)
    for key in ("ArrowDown", "Shift+Space"):
        page.keyboard.press(key)
        page.wait_for_timeout(200)  # a table takes one key after the other
    expect(page.get_by_text("Choose rows at their left")).to_have_count(0)
    go(page, "/compare")
    keyboard.tab_to(page, "Overlap$")
    for key in ("ArrowRight", "Space"):
        page.keyboard.press(key)
        page.wait_for_timeout(200)
    expect(page).to_have_url(re.compile("view=spectrum"))


# Every item of the navigation belongs to a list, which a box around each section would keep it from.
PAGES_ARE_IN_LISTS = """() => {
    const items = [...document.querySelectorAll('[data-testid=stSidebarNavItems] li')];
    return items.length > 0 && items.every(item => item.parentElement.getAttribute('role') === 'list');
}"""


def test_back_leaves_a_page_with_one_press_and_icons_have_no_names(
    page: Page, url: str, study: list[int]
) -> None:
    page.goto(url)
    settled(page)
    for name in ("Compare", "Runs"):
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
        settled(page)
    assert "check_circle" not in page.locator("body").aria_snapshot()
    assert page.evaluate(PAGES_ARE_IN_LISTS)
    page.go_back()
    expect(page.get_by_role("heading", name="Compare", level=1)).to_be_visible()
    expect(page).to_have_url(re.compile(r"/compare\?model="))
    settled(page)
    page.go_back()
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
    page.keyboard.press("Tab")
    ring = page.evaluate("getComputedStyle(document.activeElement).outline")
    assert "3px" in ring
    assert "rgb(0, 114, 178)" in ring
