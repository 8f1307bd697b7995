"""Checkpoints of torchvision's networks, recognised and analysed on uploaded data, in a real Chromium."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, TimeoutError, expect

from seigh.app.digits import value_of
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures
from seigh.core.settings import Settings
from tests.browser.conftest import settled
from tests.browser.test_dashboard import CHECKPOINTS, chart, fill, upload

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.timeout(600)]

K, N = 10, 10

# Parameters that make up θ, and D. That all of them can, and larger networks, tests without a browser see.
NETWORKS = {"mobilenet_v3_small(num_classes=10)": ("features.12.*, classifier.3.*", 66_698)}


def test_networks_of_torchvision_are_recognised_and_analysed_on_uploaded_data(
    page: Page, url: str, lab: Settings, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40, 3, 32, 32), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(40) % 10)
    for number, (spec, (patterns, parameters)) in enumerate(NETWORKS.items()):
        torch.manual_seed(number)
        file = tmp_path / f"step_{100 * number:06d}.pth"
        torch.save({"model": architectures.build(spec).state_dict(), "epoch": number}, file)
        page.goto(f"{url}/new_analysis")
        expect(page.get_by_role("heading", name="New analysis")).to_be_visible(timeout=120_000)
        settled(page)
        upload(page, CHECKPOINTS, file)
        expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=120_000)
        expect(page.get_by_label("Architecture", exact=True)).to_have_value(f"{spec} – fits 1 of 1")
        file.unlink()  # they are large
        fill(page, "Model name", spec)
        choose(page, "Data set", "a file of my own …")
        upload(page, "Data file", tmp_path / "mine.npz")
        # Its name is there as soon as it is chosen; it is the data set once there is a way to choose another.
        expect(page.get_by_role("button", name="Another file")).to_be_visible(timeout=120_000)
        fill(page, "N, samples", str(N))
        fill(page, "k, eigenpairs", str(K))
        page.get_by_role("radiogroup", name="Method").get_by_text("seigh", exact=True).click()
        page.get_by_text("Advanced").click()
        fill(page, "Parameters", patterns)
        choose(page, "Path of the products", "double-backward")
        choose(page, "Test matrices", "gaussian")
        expect(page.get_by_text(re.compile(f"^D = {parameters:,}"))).not_to_have_count(0)
        settled(page)
        start(page, "1 analysis", f"{spec} can be started")
        expect(page.get_by_text("1 analysis is queued.")).to_be_visible(timeout=120_000)

    page.get_by_role("link", name="Watch them in Runs").click()
    expect(page.get_by_role("link", name="Open")).to_have_count(len(NETWORKS), timeout=300_000)
    with sessions(lab.database)() as s:
        runs = queries.runs(s)
    assert set(runs["model"]) == set(NETWORKS)
    for run in runs.itertuples():
        assert run.parameters == NETWORKS[run.model][1]
        page.goto(f"{url}/result?analysis={run.id}")
        expect(chart(page, "result_overlap")).to_be_visible()
        settled(page)
        with sessions(lab.database)() as s:
            curve = queries.overlap_curves(s, [run.id], masks=("magnitude",))
        assert len(curve) == K
        shown = page.get_by_test_id("stMetricValue").nth(1)
        last = curve.iloc[-1]
        assert last["overlap"] < 0.01
        expect(shown).to_have_text(value_of(last["overlap"], last["error"], 3))


def start(page: Page, analyses: str, claim: str) -> None:
    """Press Start, which has to be possible; else the page's own words say why it is not."""
    button = page.get_by_role("button", name=f"Start {analyses}")
    said = page.get_by_test_id("stAlert").all_inner_texts()
    expect(button, f"{claim}; the page says {said}").to_be_enabled(timeout=120_000)
    button.click()


def choose(page: Page, label: str, option: str) -> None:
    """Choose in a list by typing, as people do in a long one; a run that ends meanwhile closes it."""
    box = page.get_by_role("combobox", name=label, exact=True)
    for _ in range(5):
        settled(page)
        box.click()
        box.fill(option)
        with suppress(TimeoutError):
            page.get_by_role("option", name=option, exact=True).click(timeout=3000)
            break
    expect(box).to_have_value(option)
    settled(page)


def test_a_training_is_started_on_its_page_and_its_checkpoints_are_analysed(
    page: Page, url: str, lab: Settings
) -> None:
    page.goto(f"{url}/train")
    expect(page.get_by_role("heading", name="Train", exact=True)).to_be_visible(timeout=120_000)
    settled(page)
    choose(page, "Problem", "digits-mlp")
    fill(page, "Steps", "30")
    # The field of the other number of steps stays until the script ends.
    expect(page.locator("input[aria-label='Record at steps'][value='0, 30']")).to_have_count(1)
    settled(page)
    expect(page.get_by_label("Record at steps", exact=True)).to_have_value("0, 30")
    fill(page, "Record at steps", "0, 20, 30")
    fill(page, "Model name", "trained here")
    page.get_by_text("Analyse every checkpoint as it is recorded").click()
    settled(page)
    fill(page, "N, samples", "100")
    fill(page, "k, eigenpairs", str(K))
    page.get_by_role("button", name="Start training, 3 checkpoints, 3 analyses").click()
    expect(page.get_by_text(re.compile(r"^Training \d+ is queued\.$"))).to_be_visible()
    page.get_by_role("link", name="Watch it in Runs").click()
    rows = page.locator("[class*=st-key-run_]").filter(has_text="trained here")
    opened = rows.filter(has=page.get_by_role("link", name="Open"))
    expect(opened).to_have_count(1 + 3, timeout=120_000)  # the training, and what it has recorded
    settled(page)
    with sessions(lab.database)() as s:
        analyses = queries.comparable(s).query("model == 'trained here'")
    assert sorted(analyses["step"]) == [0, 20, 30]
    assert set(analyses["k"]) == {K}
