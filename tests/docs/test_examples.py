"""The examples of the pages do what the pages say."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from seigh import AnalysisSettings, Result
from seigh.app import figures
from seigh.core.problems import architectures, training
from seigh.core.settings import Settings
from tests.docs.pages import DOCS, README, blocks, commands, follow, rows, run
from tests.plugging import forget


@pytest.fixture(autouse=True)
def folder(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_an_own_run_is_analysed_as_the_page_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"state_dict": architectures.build("tanh-mlp").state_dict()}
    for name in ("a.pt", "b.pt"):  # of the page's example of steps
        torch.save(state, folder / name)
    names = follow(DOCS / "analyse.md")
    assert "vit_b_16" in (printed := capsys.readouterr().out)
    assert "Overlap at k = 50" in printed
    results, again = names["results"], names["again"]
    assert isinstance(results, dict)
    assert list(results) == ["step_000000", "step_000100", "step_000300"]
    assert isinstance(again, list)
    assert [each.to_json() for each in again] == [each.to_json() for each in results.values()]
    stored = json.loads((folder / "out.json").read_text())
    assert [len(each["overlap"]) for each in stored] == [50, 50, 50]
    keys = {key for each in stored for key in each}
    told = {word for row in rows(DOCS / "analyse.md") for word in row[0].replace("`", "").split(", ")}
    assert keys <= told
    assert isinstance(names["vectors"], torch.Tensor)


def test_a_plug_in_is_written_as_the_page_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(DOCS / "plugins.md")
    page = dict(found[::-1])  # the first of each language
    further = [text for language, text in found if language == "python"][1:]
    project = tomllib.loads(page["toml"])["project"]
    ((group, entries),) = project["entry-points"].items()
    site = folder / "site"  # as an installer leaves a package
    information = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir(parents=True)
    (site / "our_lab.py").write_text(page["python"])
    modules = ("our_curves", "our_questions", "our_kinds", "our_method", "our_zoo", "our_figures")
    for module, text in zip(modules, further, strict=True):
        (site / f"{module}.py").write_text(text)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [f"{name} = {value}" for name, value in entries.items()]
    lines += [f"{module} = {module}:register" for module in modules]
    (information / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    monkeypatch.syspath_prepend(str(site))
    forget()
    try:
        for words in commands(page["sh"]):
            run(words)
        asked = [
            "--curves",
            "last-layer",
            "--curves",
            "overlap-smallest",
            "--curves",
            "bends",
            "--curves",
            "overlap-slopes",
            "--curves",
            "gaps",
            "--curves",
            "condition",
            "--json",
            "curves.json",
        ]
        asked += ["--method", "power"]
        run([*words, *asked])
        assert architectures.build("zoo/net-8")[1].out_features == 8  # type: ignore[union-attr, index]
        results = json.loads((folder / "curves.json").read_text())
        found_figures = [figures.of_plugins(result) for result in results]
    finally:
        monkeypatch.undo()
        for module in ("our_lab", *modules):
            sys.modules.pop(module, None)
        forget()
    printed = capsys.readouterr().out
    assert "our-net" in printed
    assert printed.count("Overlap at k = 10") == 3
    for each in results:
        assert each["curves"].keys() == {"last-layer", "overlap-smallest", "bends", "overlap-slopes"}
        assert each["settings"]["method"] == "power"
        np.testing.assert_allclose(each["curves"]["bends"]["value"], each["eigenvalues"], rtol=1e-3)
        sizes = np.abs(each["eigenvalues"])
        np.testing.assert_allclose(each["profiles"]["gaps"]["value"], sizes[:-1] / sizes[1:], rtol=1e-6)
        condition = each["quantities"]["condition"]
        assert condition["lower"] <= sizes[0] / sizes[-1] <= condition["upper"]
    for ((name, figure),), failed in found_figures:
        assert (name, failed) == ("decay", [])
        assert figures.table_of(figure)["relative"].iloc[0] == 1


def test_the_readme_analyses_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = training.train("digits-mlp", 100, [100], folder / "run")
    shutil.copy(file, folder / "step_001000.safetensors")
    (example,) = [text for language, text in blocks(README) if language == "python"]
    names: dict[str, object] = {}
    exec(example, names)
    assert "±" in capsys.readouterr().out
    assert isinstance(names["result"], Result)
    assert isinstance(names["settings"], AnalysisSettings)
