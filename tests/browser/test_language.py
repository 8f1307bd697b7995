"""Language models in a real Chromium: one trained on the page Train, and one of transformers, uploaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from tests.browser.conftest import settled
from tests.browser.test_dashboard import CHECKPOINTS, chart, fill, upload
from tests.browser.test_problems import choose, start
from tests.core.problems.token_networks import CONFIGS, built, dense, samples

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.timeout(600)]

K = 3


def test_a_model_of_characters_is_trained_analysed_and_compared(
    page: Page, url: str, lab: Settings, screenshots: Path
) -> None:
    page.goto(f"{url}/train")
    expect(page.get_by_role("heading", name="Train", exact=True)).to_be_visible(timeout=120_000)
    settled(page)
    choose(page, "Problem", "char-gpt")
    fill(page, "Steps", "10")
    expect(page.locator("input[aria-label='Record at steps'][value='0, 10']")).to_have_count(1)
    settled(page)
    fill(page, "Model name", "characters")
    page.get_by_text("Analyse every checkpoint as it is recorded").click()
    settled(page)
    fill(page, "N, samples", "4")
    fill(page, "k, eigenpairs", str(K))
    settled(page)
    page.get_by_role("button", name="Start training, 2 checkpoints, 2 analyses").click()
    expect(page.get_by_text(re.compile(r"^Training \d+ is queued\.$"))).to_be_visible()
    page.get_by_role("link", name="Watch it in Runs").click()
    rows = page.locator("[class*=st-key-run_]").filter(has_text="characters")
    opened = rows.filter(has=page.get_by_role("link", name="Open"))
    expect(opened).to_have_count(1 + 2, timeout=300_000)
    with sessions(lab.database)() as s:
        analyses = queries.comparable(s).query("model == 'characters'")
    assert sorted(analyses["step"]) == [0, 10]
    assert set(analyses["k"]) == {K}
    page.goto(f"{url}/compare?model=characters")
    expect(chart(page, "compare_overlap")).to_be_visible(timeout=120_000)
    settled(page)
    page.screenshot(path=screenshots / "characters.png", full_page=True)
    expect(page.get_by_text("characters").first).to_be_visible()


def test_a_transformer_is_uploaded_with_its_configuration_and_analysed(
    page: Page, url: str, lab: Settings, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    model = built("gpt2", tmp_path).float()
    x, y = samples("gpt2")
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["gpt2"]))
    file = tmp_path / "step_5.safetensors"
    save_file({name: each.detach() for name, each in model.named_parameters()}, file)
    np.savez(tmp_path / "rows.npz", x=x.numpy(), y=y.numpy())
    page.goto(f"{url}/new_analysis")
    expect(page.get_by_role("heading", name="New analysis")).to_be_visible(timeout=120_000)
    settled(page)
    upload(page, CHECKPOINTS, tmp_path / "config.json", file)
    expect(page.get_by_label("Architecture", exact=True)).to_have_value(re.compile("^hf/GPT2LMHeadModel"))
    fill(page, "Model name", "transformer")
    choose(page, "Data set", "a file of my own …")
    upload(page, "Data file", tmp_path / "rows.npz")
    expect(page.get_by_role("button", name="Another file")).to_be_visible(timeout=120_000)
    fill(page, "N, samples", str(len(x)))
    fill(page, "k, eigenpairs", str(K))
    settled(page)
    start(page, "1 analysis", "it can be started")
    expect(page.get_by_text("1 analysis is queued.")).to_be_visible(timeout=120_000)
    page.get_by_role("link", name="Watch them in Runs").click()
    run = page.locator("[class*=st-key-run_]").filter(has_text="transformer")
    expect(run.get_by_role("link", name="Open")).to_have_count(1, timeout=300_000)
    with sessions(lab.database)() as s:
        (number,) = queries.comparable(s).query("model == 'transformer'")["analysis_id"]
        found = torch.as_tensor(queries.spectrum(s, number)["value"].to_numpy()[:K])
    values = torch.linalg.eigvalsh(dense(model, "gpt2", x, y, "hessian"))
    torch.testing.assert_close(found, values[values.abs().argsort(descending=True)][:K], rtol=1e-4, atol=0)
