"""A network in a file goes to the artefacts with what is submitted, and is there for all processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seigh.core.access import AccessError, Actor, Role
from seigh.core.lab import exported, whole
from seigh.core.lab.models import Analysis, State
from seigh.core.lab.session import sessions
from seigh.core.lab.store import StoreError
from seigh.core.problems import architectures, checkpoints
from seigh.core.problems.graphs import files
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from seigh.tasks.submit import Upload, bring_graph, delete_graph, submit
from tests.exported import AttentionCnn, honest


def test_the_file_is_kept_found_again_and_deleted_unless_work_needs_it(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_taken", {})
    torch.manual_seed(0)
    torch.save(AttentionCnn().state_dict(), tmp_path / "step_10.pt")
    (tmp_path / "Net.pt2").write_bytes(honest())
    ada, bob = (Actor(name, Role.member) for name in ("ada", "bob"))
    settings = AnalysisSettings(architecture=str(tmp_path / "Net.pt2"), data="digits", samples=20, k=3)
    done = submit(
        [Upload(tmp_path / "step_10.pt", "step_10.pt")],
        model_name="mine", settings=[settings], user=ada, env=home,
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
    with sessions(home.database)() as s:
        found = exported.uses(s, name)
    assert ([*found.models.values()], found.analyses, found.waiting) == (["mine"], 1, 1)
    with pytest.raises(AccessError):
        delete_graph(name, home, user=bob)
    with pytest.raises(StoreError, match="An analysis that waits or runs needs"):
        delete_graph(name, home, user=ada)
    with sessions(home.database).begin() as s:
        s.get_one(Analysis, done.analysis_ids[0]).state = State.finished
    delete_graph(name, home, user=ada)  # though it is damaged
    assert name not in architectures.names()
    assert not [*(home.artifact_folder / "graphs").iterdir()]
    with pytest.raises(SettingsError, match="no exported network"):
        delete_graph(name, home, user=ada)
