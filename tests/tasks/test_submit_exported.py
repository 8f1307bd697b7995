"""A network in a file goes to the artefacts with what is submitted, and is there for all processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seigh.core.lab import whole
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures, checkpoints
from seigh.core.problems.graphs import files
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from seigh.tasks.submit import Upload, bring_graph, submit
from tests.exported import AttentionCnn, honest


def test_the_file_is_kept_and_found_again(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_taken", {})
    torch.manual_seed(0)
    torch.save(AttentionCnn().state_dict(), tmp_path / "step_10.pt")
    (tmp_path / "Net.pt2").write_bytes(honest())
    settings = AnalysisSettings(architecture=str(tmp_path / "Net.pt2"), data="digits", samples=20, k=3)
    done = submit(
        [Upload(tmp_path / "step_10.pt", "step_10.pt")],
        model_name="mine", settings=[settings], user="ada", env=home,
    )  # fmt: skip
    assert len(done.analysis_ids) == 1
    (stored,) = (home.artifact_folder / "graphs").iterdir()
    digits = stored.name[:16]
    assert stored.name.endswith(".net.pt2")
    # In a process that was never given the file; under another name it is the same.
    monkeypatch.setattr(files, "_taken", {})
    (tmp_path / "Net.pt2").rename(tmp_path / "again.pt2")
    name = f"graph/net-{digits}"
    assert bring_graph(tmp_path / "again.pt2", "again.pt2", user="bob", env=home) == name
    assert len([*(home.artifact_folder / "graphs").iterdir()]) == 1
    assert name in architectures.names()
    assert checkpoints.fitting_architectures(checkpoints.read(tmp_path / "step_10.pt")) == [name]
    with sessions(home.database)() as s:
        assert [*whole.artifacts(s, home.artifact_folder)] == []
        stored.write_bytes(honest() + b" ")
        assert [(flaw.key, flaw.trouble) for flaw in whole.artifacts(s, home.artifact_folder)] == [
            (f"graphs/{stored.name}", "damaged")
        ]
    files._opened.cache_clear()
    with pytest.raises(SettingsError, match="damaged"):
        files.find(name)
