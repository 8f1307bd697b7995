"""Masks on Result and Compare, in exports and as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from seigh.app.cli.command import main
from seigh.core.lab import queries
from seigh.core.lab.session import migrate, sessions
from seigh.core.lab.tables import export
from seigh.core.settings import Settings
from tests.core.lab import lab
from tests.opening import forget_caches, open_page

CURVE = {
    "title": "overlap of the largest |∂L/∂θ|",
    "note": "the mask takes the steepest.",
    "value": np.array([0.5, 0.4, 0.3]),
    "error": np.array([0.1, 0.1, 0.1]),
    "chance": np.array([1, 2, 3]) / 7030,
}
RECORD = {
    "masks": {
        "magnitude": {"coordinates": [5, 9, 7000]},
        "gradient": {
            "coordinates": [5, 7000, 1],
            "tied": [0, 4, 4],
            "open": [0, 1, 2],
            "note": "'x' has none.",
        },
    }
}


@pytest.fixture
def study(home: Settings) -> list[int]:
    """Two steps of a model with two masks each."""
    migrate(home.database)
    changes = {"record": RECORD, "curves": {"overlap-gradient": CURVE}}
    with sessions(home.database).begin() as s:
        numbers = [
            lab.finished(s, step=step, curves=("overlap-gradient",), changes=changes) for step in (0, 100)
        ]
    forget_caches()
    return numbers


def test_result_shows_how_alike_masks_are_and_gives_them_as_files(study: list[int], home: Settings) -> None:
    page = open_page("result", analysis=str(study[0]))
    assert not page.exception
    assert "IoU of the masks magnitude and gradient" in [each.value for each in page.header]
    said = " ".join(each.value for each in page.caption)
    assert "'x' has none." in said
    assert "at 2 of 3 sizes weights of equal score compete for its places, up to 4" in said


def test_compare_shows_them_over_training(study: list[int]) -> None:
    page = open_page("compare", view="masks", k="2", mask="gradient", other="magnitude")
    assert not page.exception
    assert any("IoU of the masks gradient and magnitude, k = 2" in each.value for each in page.header)


def test_exports_have_the_weights_of_every_mask(study: list[int], home: Settings) -> None:
    with sessions(home.database)() as s:
        table = export(s, "masks")
        found = queries.mask_iou(s, study, "magnitude", "gradient")
    assert len(table) == 2 * 2 * 3
    gradient = table[(table["analysis_id"] == study[0]) & (table["mask"] == "gradient")]
    assert gradient["coordinate"].tolist() == [5, 7000, 1]
    assert gradient["open"].tolist() == [0, 1, 2]
    assert found[found["step"] == 100]["value"].tolist() == [1.0, pytest.approx(1 / 3), pytest.approx(0.5)]
    assert found["error"].iloc[0] == 0
    assert found["error"].iloc[1] > 0


def test_the_command_line_writes_a_mask(study: list[int], home: Settings, tmp_path: Path) -> None:
    with sessions(home.database)() as s:
        document = queries.export_result(s, study[1])
    results, file = tmp_path / "out.json", tmp_path / "mask.safetensors"
    results.write_text(json.dumps([document]))
    with pytest.raises(SystemExit) as ended:
        main(["mask", str(results), "--name", "gradient", "--k", "2", "--out", str(file)])
    assert ended.value.code == 0
    tensors = load_file(file)
    assert sum(int(each.sum()) for each in tensors.values()) == 2
    assert int(tensors["linear1.weight"].flatten()[5]) == 1
    for wrong in (["--name", "snip", "--k", "2"], ["--name", "gradient", "--k", "9"]):
        with pytest.raises(SystemExit) as ended:
            main(["mask", str(results), *wrong, "--out", str(file)])
        assert ended.value.code == 2
