"""A network that the lab has never seen: from torch.export to its analysis, and a plug-in to begin with."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.problems import data
from seigh.core.settings import Settings
from tests.browser.conftest import settled
from tests.browser.test_dashboard import CHECKPOINTS, fill, upload
from tests.browser.test_problems import choose, start
from tests.core.problems.graphs.test_networks import dense
from tests.core.problems.test_stub import network_of
from tests.exported import AttentionCnn, exported

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.timeout(900)]

K, N, STEPS = 4, 20, (0, 100)


def test_from_an_unknown_network_to_its_analysis(page: Page, url: str, lab: Settings, tmp_path: Path) -> None:
    nets, files = {}, []
    for step in STEPS:
        torch.manual_seed(step)
        nets[step] = AttentionCnn().eval()
        files.append(tmp_path / f"step_{step}.pt")
        torch.save(nets[step].state_dict(), files[-1])
    (tmp_path / "attention-cnn.pt2").write_bytes(exported(nets[0], torch.randn(2, 1, 16, 16)))
    (tmp_path / "other.pt2").write_bytes(b"PK\x03\x04 no archive")

    page.goto(f"{url}/new_analysis")
    expect(page.get_by_role("heading", name="New analysis")).to_be_visible(timeout=120_000)
    settled(page)
    upload(page, CHECKPOINTS, *files)
    # It is said once what is wrong, and not once for each file that they do not fit tanh-mlp.
    nothing = page.get_by_text("No known architecture fits any of the 2 checkpoints.")
    expect(nothing).to_have_count(1, timeout=120_000)
    expect(page.get_by_text("conv.weight (4×1×5×5)")).to_be_visible()
    settled(page)
    expect(page.get_by_text("do not fit tanh-mlp")).to_have_count(0)
    expect(page.get_by_text("seigh.export(model")).to_be_visible()

    with page.expect_download() as download:
        page.get_by_role("button", name="Download a plug-in to begin with").click()
    packed = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    source = next(packed.read(name).decode() for name in packed.namelist() if name.endswith(".py"))
    shapes = {name: each.shape for name, each in network_of(source).state_dict().items()}
    assert shapes == {name: each.shape for name, each in nets[0].state_dict().items()}

    upload(page, "Exported network", tmp_path / "other.pt2")
    expect(page.get_by_text("'other.pt2' is damaged")).to_be_visible(timeout=120_000)
    upload(page, "Exported network", tmp_path / "attention-cnn.pt2")
    architecture = page.get_by_label("Architecture", exact=True).last  # one that goes may still be there
    expect(architecture).to_have_value(
        re.compile(r"graph/attention-cnn-[0-9a-f]{16} – fits 2 of 2"), timeout=180_000
    )
    expect(nothing).to_have_count(0)
    settled(page)
    fill(page, "Model name", "attention")
    fill(page, "N, samples", str(N))
    fill(page, "k, eigenpairs", str(K))
    page.get_by_text("Advanced").click()
    choose(page, "Precision", "float64")
    settled(page)
    start(page, "2 analyses", "it can be started")
    expect(page.get_by_text("2 analyses are queued.")).to_be_visible(timeout=120_000)
    page.get_by_role("link", name="Watch them in Runs").click()
    expect(page.get_by_role("link", name="Open")).to_have_count(2, timeout=300_000)

    with sessions(lab.database)() as s:
        runs = queries.runs(s)
        found = {run.step: queries.spectrum(s, run.id)["value"].to_numpy()[:K] for run in runs.itertuples()}
    for step, net in nets.items():
        subset = data.fitting_subset("digits", "test", N, 0, net.float())
        values = torch.linalg.eigvalsh(dense(net, subset.x, subset.y))
        truth = values[values.abs().argsort(descending=True)][:K]
        torch.testing.assert_close(torch.as_tensor(found[step]), truth, rtol=1e-5, atol=0)
