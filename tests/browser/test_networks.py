"""Networks of every kind from their files, or their training, to an analysis, in a real Chromium."""

from __future__ import annotations

import io
import json
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page, TimeoutError, expect
from safetensors.torch import save_file

from seigh.app.digits import value_of
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures, data
from seigh.core.settings import Settings
from tests.browser.conftest import settled
from tests.browser.test_dashboard import CHECKPOINTS, chart, fill, upload
from tests.core.problems import token_networks
from tests.core.problems.graphs.test_networks import dense
from tests.core.problems.test_stub import network_of
from tests.exported import AttentionCnn, exported

pytestmark = [pytest.mark.browser, pytest.mark.stack, pytest.mark.timeout(600)]


def analyse(page: Page, model: str, number: int = 1) -> None:
    """Press Start, which has to be possible (else the page's own words say why it is not), and wait in Runs
    until so many analyses of the model are finished."""
    wanted = "1 analysis" if number == 1 else f"{number} analyses"
    button = page.get_by_role("button", name=f"Start {wanted}")
    said = page.get_by_test_id("stAlert").all_inner_texts()
    expect(button, f"it can be started; the page says {said}").to_be_enabled(timeout=120_000)
    button.click()
    queued = f"{wanted} {'is' if number == 1 else 'are'} queued."
    expect(page.get_by_text(queued)).to_be_visible(timeout=120_000)
    page.get_by_role("link", name="Watch them in Runs").click()
    expect(finished(page, model)).to_have_count(number, timeout=300_000)


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


def finished(page: Page, model: str) -> Locator:
    """The links to the results, and to the training, of a model on the page Runs."""
    rows = page.locator("[class*=st-key-run_]").filter(has_text=model)
    return rows.get_by_role("link", name="Open")


def new_analysis(page: Page, url: str) -> None:
    page.goto(f"{url}/new_analysis")
    expect(page.get_by_role("heading", name="New analysis")).to_be_visible(timeout=120_000)
    settled(page)


def test_a_network_of_torchvision_is_recognised_and_analysed_on_uploaded_data(
    page: Page, url: str, lab: Settings, tmp_path: Path
) -> None:
    """That all of them can be, and larger ones, tests without a browser see."""
    k, n, spec = 10, 10, "mobilenet_v3_small(num_classes=10)"
    x = np.random.default_rng(0).standard_normal((40, 3, 32, 32), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(40) % 10)
    torch.manual_seed(0)
    file = tmp_path / "step_000000.pth"
    torch.save({"model": architectures.build(spec).state_dict(), "epoch": 0}, file)
    new_analysis(page, url)
    upload(page, CHECKPOINTS, file)
    expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=120_000)
    expect(page.get_by_label("Architecture", exact=True)).to_have_value(f"{spec} – fits 1 of 1")
    fill(page, "Model name", "mobile")
    choose(page, "Data set", "a file of my own …")
    upload(page, "Data file", tmp_path / "mine.npz")
    # Its name is there as soon as it is chosen; it is the data set once there is a way to choose another.
    expect(page.get_by_role("button", name="Another file")).to_be_visible(timeout=120_000)
    fill(page, "N, samples", str(n))
    fill(page, "k, eigenpairs", str(k))
    page.get_by_role("radiogroup", name="Method").get_by_text("seigh", exact=True).click()
    page.get_by_text("Advanced").click()
    fill(page, "Parameters", "features.12.*, classifier.3.*")
    choose(page, "Path of the products", "double-backward")
    choose(page, "Test matrices", "gaussian")
    expect(page.get_by_text(re.compile("^D = 66,698"))).not_to_have_count(0)
    settled(page)
    analyse(page, "mobile")
    with sessions(lab.database)() as s:
        ((number, parameters),) = queries.runs(s).query("model == 'mobile'")[["id", "parameters"]].to_numpy()
        curve = queries.overlap_curves(s, [number], masks=("magnitude",))
    assert (parameters, len(curve)) == (66_698, k)
    last = curve.iloc[-1]
    assert last["overlap"] < 0.01
    page.goto(f"{url}/result?analysis={number}")
    expect(chart(page, "result_overlap")).to_be_visible()
    settled(page)
    shown = page.get_by_test_id("stMetricValue").nth(1)
    expect(shown).to_have_text(value_of(last["overlap"], last["error"], 3))


def test_from_an_unknown_network_to_its_analysis(page: Page, url: str, lab: Settings, tmp_path: Path) -> None:
    k, n = 4, 20
    nets, files = {}, []
    for step in (0, 100):
        torch.manual_seed(step)
        nets[step] = AttentionCnn().eval()
        files.append(tmp_path / f"step_{step}.pt")
        torch.save(nets[step].state_dict(), files[-1])
    (tmp_path / "attention-cnn.pt2").write_bytes(exported(nets[0], torch.randn(2, 1, 16, 16)))
    (tmp_path / "other.pt2").write_bytes(b"PK\x03\x04 no archive")

    new_analysis(page, url)
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
    fill(page, "N, samples", str(n))
    fill(page, "k, eigenpairs", str(k))
    page.get_by_text("Advanced").click()
    choose(page, "Precision", "float64")
    settled(page)
    analyse(page, "attention", 2)

    with sessions(lab.database)() as s:
        runs = queries.runs(s).query("model == 'attention'")
        found = {run.step: queries.spectrum(s, run.id)["value"].to_numpy()[:k] for run in runs.itertuples()}
    for step, net in nets.items():
        subset = data.fitting_subset("digits", "test", n, 0, net.float())
        values = torch.linalg.eigvalsh(dense(net, subset.x, subset.y))
        truth = values[values.abs().argsort(descending=True)][:k]
        torch.testing.assert_close(torch.as_tensor(found[step]), truth, rtol=1e-5, atol=0)


def test_a_model_of_characters_is_trained_analysed_and_compared(
    page: Page, url: str, lab: Settings, screenshots: Path
) -> None:
    page.goto(f"{url}/train")
    expect(page.get_by_role("heading", name="Train", exact=True)).to_be_visible(timeout=120_000)
    settled(page)
    choose(page, "Problem", "char-gpt")
    fill(page, "Steps", "10")
    # The field of the other number of steps stays until the script ends.
    expect(page.locator("input[aria-label='Record at steps'][value='0, 10']")).to_have_count(1)
    settled(page)
    expect(page.get_by_label("Record at steps", exact=True)).to_have_value("0, 10")
    fill(page, "Record at steps", "0, 6")
    fill(page, "Model name", "characters")
    page.get_by_text("Analyse every checkpoint as it is recorded").click()
    settled(page)
    fill(page, "N, samples", "4")
    fill(page, "k, eigenpairs", "3")
    settled(page)
    page.get_by_role("button", name="Start training, 2 checkpoints, 2 analyses").click()
    expect(page.get_by_text(re.compile(r"^Training \d+ is queued\.$"))).to_be_visible()
    page.get_by_role("link", name="Watch it in Runs").click()
    # The training, and what it has recorded.
    expect(finished(page, "characters")).to_have_count(1 + 2, timeout=300_000)
    with sessions(lab.database)() as s:
        analyses = queries.comparable(s).query("model == 'characters'")
    assert sorted(analyses["step"]) == [0, 6]
    assert set(analyses["k"]) == {3}
    page.goto(f"{url}/compare?model=characters")
    expect(chart(page, "compare_overlap")).to_be_visible(timeout=120_000)
    settled(page)
    page.screenshot(path=screenshots / "characters.png", full_page=True)
    expect(page.get_by_text("characters").first).to_be_visible()


def test_a_transformer_is_uploaded_with_its_configuration_and_analysed(
    page: Page, url: str, lab: Settings, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    k = 3
    model = token_networks.built("gpt2", tmp_path).float()
    x, y = token_networks.samples("gpt2")
    (tmp_path / "config.json").write_text(json.dumps(token_networks.CONFIGS["gpt2"]))
    file = tmp_path / "step_5.safetensors"
    save_file({name: each.detach() for name, each in model.named_parameters()}, file)
    np.savez(tmp_path / "rows.npz", x=x.numpy(), y=y.numpy())
    new_analysis(page, url)
    upload(page, CHECKPOINTS, tmp_path / "config.json", file)
    expect(page.get_by_label("Architecture", exact=True)).to_have_value(re.compile("^hf/GPT2LMHeadModel"))
    fill(page, "Model name", "transformer")
    choose(page, "Data set", "a file of my own …")
    upload(page, "Data file", tmp_path / "rows.npz")
    expect(page.get_by_role("button", name="Another file")).to_be_visible(timeout=120_000)
    fill(page, "N, samples", str(len(x)))
    fill(page, "k, eigenpairs", str(k))
    settled(page)
    analyse(page, "transformer")
    with sessions(lab.database)() as s:
        (number,) = queries.comparable(s).query("model == 'transformer'")["analysis_id"]
        found = torch.as_tensor(queries.spectrum(s, number)["value"].to_numpy()[:k])
    values = torch.linalg.eigvalsh(token_networks.dense(model, "gpt2", x, y, "hessian"))
    torch.testing.assert_close(found, values[values.abs().argsort(descending=True)][:k], rtol=1e-4, atol=0)
