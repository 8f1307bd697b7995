"""The way of a first user, and what becomes of unusable files, in a real Chromium on the real stack."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from seigh.app.cli import launch
from seigh.app.digits import value_of
from seigh.core.lab import queries
from seigh.core.lab.models import State
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures, training
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.submit import Upload, submit
from tests.browser.conftest import settled
from tests.conftest import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.stack]

K = 30


@pytest.fixture(scope="module")
def url(lab: Settings) -> Iterator[str]:
    """Address of the dashboard of the stack, as a user starts it."""
    with launch.stack(lab, port=8600) as stack:
        yield stack.url


CHECKPOINTS = "Checkpoints of one model, as many training steps as you like"


def test_from_uploaded_checkpoints_to_a_result(page: Page, url: str, lab: Settings, tmp_path: Path) -> None:
    """An empty lab, upload, start, wait, look at the result: the way of a first user."""
    files = training.train("digits-mlp", 20, [0, 20], tmp_path)

    page.goto(url)
    expect(page.get_by_text("This lab is empty.")).to_be_visible()
    page.get_by_role("link", name="Start an analysis").click()
    expect(page.get_by_role("heading", name="New analysis")).to_be_visible(timeout=90_000)  # loads PyTorch
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    upload(page, CHECKPOINTS, *files)
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()  # the files are read, in a run of their own
    fill(page, "Model name", "digits")
    fill(page, "N, samples", "100")
    fill(page, "k, eigenpairs", str(K))
    expect(page.get_by_text("A rough range")).to_be_visible()  # as nothing has been timed yet
    page.get_by_role("button", name="Start 2 analyses").click()
    expect(page.get_by_text("2 analyses are queued.")).to_be_visible()

    page.get_by_role("link", name="Watch them in Runs").click()
    expect(page.get_by_role("link", name="Open")).to_have_count(2)
    page.get_by_role("link", name="Open").first.click()
    expect(page).to_have_url(re.compile(r"analysis=\d+"))
    overlap = chart(page, "result_overlap")
    expect(overlap).to_be_visible()
    expect(overlap.locator("g.mark-rect.role-mark path")).to_have_count(0)  # everything is resolved
    number = int(re.search(r"analysis=(\d+)", page.url)[1])
    with sessions(lab.database)() as s:
        at_k = queries.overlap_curves(s, [number], masks=("magnitude",)).set_index("k").loc[K]
    shown = value_of(at_k["overlap"], at_k["error"], 3)
    expect(page.get_by_test_id("stMetricValue").nth(1)).to_have_text(shown)
    settled(page)

    unresolved = analysed(lab, files[0], method="seigh")
    page.goto(f"{url}/result?analysis={unresolved}")
    overlap = chart(page, "result_overlap")
    expect(overlap.locator("g.mark-rect.role-mark path")).to_have_count(1)
    expect(overlap.get_by_text("resolved to 1 %")).to_be_visible()
    expect(page.get_by_text(f"at k = {K} the stated error is")).to_be_visible()
    band = overlap.locator("g.mark-area.role-mark path").last.bounding_box()
    assert band["height"] > 20  # px: the error of a sketch without oversampling is large
    expect(page.get_by_test_id("stCode")).to_contain_text(re.compile("^seigh analyze .* --method seigh$"))
    page.get_by_role("tab", name="Numerics").click()
    expect(page.get_by_role("cell", name="‖H‖ (Frobenius)", exact=True)).to_be_visible()


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
    upload(page, CHECKPOINTS, *(tmp_path / name for name in names))

    sentences = page.get_by_role("alert").filter(has_text="Left out.")
    expect(sentences).to_have_count(3)
    for name in ("malicious.pt", "truncated.pt", "empty.pt"):
        expect(sentences.filter(has_text=name)).to_have_count(1)
    # What is read and fits nothing has a way on.
    expect(page.get_by_role("alert").filter(has_text="No known architecture fits other.pt")).to_have_count(1)
    fill(page, "Model name", "malformed")
    expect(page.get_by_text("Add at least one checkpoint")).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    settled(page)
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
    box = page.locator("input").and_(page.get_by_label(label, exact=True))
    for _ in range(3):  # a run that begins meanwhile may reset it
        settled(page)
        box.fill(text)
        box.press("Enter")
        expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
        settled(page)
        if box.input_value() == text:
            break
    expect(box).to_have_value(text)


def upload(page: Page, label: str, *files: Path) -> None:
    """Give files to the uploader of that name, once it is there: another may be there before."""
    page.get_by_role("region", name=label).locator("input[type=file]").set_input_files(files)


def chart(page: Page, key: str) -> Locator:
    """The drawing of a chart by its key."""
    return page.locator(f".st-key-figure_{key} [data-testid=stVegaLiteChart] svg").first
