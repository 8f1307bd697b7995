"""Comparisons as a worker runs them, in this process, against scipy on the eigenvectors that were stored."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy.linalg import subspace_angles
from scipy.stats import hypergeom
from sqlalchemy import func, select, update

from seigh.core.lab import queries, store
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import Analysis, Comparison, PairValue, State
from seigh.core.lab.session import sessions
from seigh.core.names import METRICS
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks import comparison as module
from seigh.tasks import work
from seigh.tasks.submit import Upload, compare, submit

Make = Callable[..., Upload]


def analysed(home: Settings, files: Sequence[Upload], **changes: object) -> list[int]:
    """Ids of finished analyses."""
    chosen = {"architecture": "tanh-mlp", "data": "digits", "samples": 50, "k": 10} | changes
    settings = [AnalysisSettings.model_validate(chosen)]
    ids = submit(files, model_name="mlp", settings=settings, user="ada", env=home).analysis_ids
    for number in ids:
        work.run("analysis", number)
    return ids


def compared(home: Settings, ids: Sequence[int], ks: Sequence[int]) -> Comparison:
    number, _ = compare(ids, ks, user="ada", env=home)
    work.run("comparison", number)
    with sessions(home.database)() as s:
        found = s.get(Comparison, number)
        assert found is not None
        return found


def vectors(home: Settings, number: int) -> np.ndarray:
    with sessions(home.database)() as s:
        key = s.scalars(select(Analysis.eigenvectors).where(Analysis.id == number)).one()
    assert key is not None
    return load_file(ArtifactStore(home.artifact_folder).path(key))["eigenvectors"].astype(np.float64)


def test_all_pairs_at_every_k(home: Settings, checkpoint: Make) -> None:
    files = [checkpoint(step=100 * seed, seed=seed) for seed in (1, 2, 3)]
    ids = analysed(home, files)
    done = compared(home, ids, [3, 10, 700])
    assert (done.state, done.message, done.progress) == (State.finished, None, 1.0)
    with sessions(home.database)() as s:
        frame = queries.pair_values(s, ids)
    assert len(frame) == 9 * (2 * len(METRICS) + 3)  # both orders; at k = 700 masks alone
    at = frame.set_index(["first_id", "second_id", "k", "measure"])["value"]
    weights = [_theta(file.path) for file in files]
    masks = [np.argsort(-np.abs(theta), kind="stable") for theta in weights]
    for i, first in enumerate(ids):
        for j, second in enumerate(ids):
            for k in (3, 10):
                truth = subspace_angles(vectors(home, first)[:k].T, vectors(home, second)[:k].T)
                assert at[first, second, k, "geodesic"] == pytest.approx(np.linalg.norm(truth), abs=1e-6)
                assert at[first, second, k, "overlap"] == pytest.approx(np.mean(np.cos(truth) ** 2), abs=1e-9)
            for k in (3, 10, 700):
                one, other = set(masks[i][:k]), set(masks[j][:k])
                assert at[first, second, k, "iou"] == pytest.approx(len(one & other) / len(one | other))
    chance = frame[(frame["k"] == 700) & (frame["measure"] == "iou")]["chance"]
    by_chance = hypergeom(7030, 700, 700).expect(lambda common: common / (1400 - common))
    assert chance.to_numpy() == pytest.approx(by_chance)
    likeness = frame[frame["first_id"] == frame["second_id"]]["normalised"]
    assert likeness.to_numpy() == pytest.approx(1)


def _theta(path: Path) -> np.ndarray:
    import torch

    return torch.cat([each.flatten() for each in torch.load(path).values()]).numpy()


def test_what_is_known_is_not_computed_again(
    home: Settings, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = analysed(home, [checkpoint(step=100 * seed, seed=seed) for seed in (1, 2, 3)])
    compared(home, ids[:2], [5])
    asked: list[Sequence[int]] = []
    real = module.eigenspaces

    def eigenspaces(*args: object, **more: object) -> object:
        asked.append(args[2])  # type: ignore[arg-type]
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "eigenspaces", eigenspaces)
    compared(home, ids, [5, 8])
    assert sorted(map(tuple, asked)) == [(5, 8), (5, 8), (8,)]
    with sessions(home.database)() as s:
        pairs = 6
        assert s.scalar(select(func.count()).select_from(PairValue)) == pairs * 2 * (1 + len(METRICS))


def test_analyses_of_unequal_k_and_the_same_checkpoint(home: Settings, checkpoint: Make) -> None:
    file = checkpoint()
    ids = analysed(home, [file]) + analysed(home, [file], k=4, split="train")
    compared(home, ids, [4, 10])
    with sessions(home.database)() as s:
        frame = queries.pair_values(s, ids)
    between = frame[(frame["first_id"] == ids[0]) & (frame["second_id"] == ids[1])]
    assert set(between[between["measure"] != "iou"]["k"]) == {4}
    assert between[between["measure"] == "iou"]["value"].tolist() == [1.0, 1.0]


def test_a_missing_or_damaged_file_is_a_sentence(home: Settings, checkpoint: Make) -> None:
    ids = analysed(home, [checkpoint(step=100 * seed, seed=seed) for seed in (1, 2)])
    with sessions(home.database)() as s:
        key = s.scalars(select(Analysis.eigenvectors).where(Analysis.id == ids[0])).one()
    path = ArtifactStore(home.artifact_folder).path(str(key))
    whole = path.read_bytes()
    path.write_bytes(b"rubbish")
    change_row(home, ids[0], eigenvectors_sha256=None)  # of an older version
    failed = compared(home, ids, [5])
    assert failed.state is State.failed
    assert "damaged" in str(failed.message)
    change_row(home, ids[0], state=State.finished)
    path.unlink()
    again = compared(home, ids, [5])
    assert f"The file of the eigenvectors of analysis {ids[0]} is no longer" in str(again.message)
    path.write_bytes(whole)
    assert compared(home, ids, [5]).state is State.finished


def change_row(home: Settings, number: int, **values: object) -> None:
    with sessions(home.database).begin() as s:
        s.execute(update(Analysis).where(Analysis.id == number).values(**values))


def test_damaged_eigenvectors_give_no_number_and_are_computed_anew(home: Settings, checkpoint: Make) -> None:
    ids = analysed(home, [checkpoint(step=100 * seed, seed=seed) for seed in (1, 2)])
    with sessions(home.database)() as s:
        key, sha256 = s.execute(
            select(Analysis.eigenvectors, Analysis.eigenvectors_sha256).where(Analysis.id == ids[0])
        ).one()
        spectrum = queries.spectrum(s, ids[0])
    path = ArtifactStore(home.artifact_folder).path(key)
    content = bytearray(path.read_bytes())
    assert sha256 == hashlib.sha256(content).hexdigest()
    content[-704 * 4 :] = bytes(704 * 4)  # it is still a file that can be read
    path.write_bytes(content)
    failed = compared(home, ids, [5])
    assert str(failed.message) == (
        f"The file of the eigenvectors of analysis {ids[0]} is damaged in the artefact store; they are "
        f"computed anew, so retry this comparison when analysis {ids[0]} has finished."
    )
    with sessions(home.database)() as s:
        assert (
            s.scalar(
                select(func.count()).select_from(PairValue).where(PairValue.first_id != PairValue.second_id)
            )
            == 0
        )
        assert s.get_one(Analysis, ids[0]).state is State.queued
    work.run("analysis", ids[0])
    assert compared(home, ids, [5]).state is State.finished
    with sessions(home.database)() as s:
        pd.testing.assert_frame_equal(queries.spectrum(s, ids[0]), spectrum)
        # Another path of products may have been chosen, so the file is the same up to rounding alone.
        again = s.get_one(Analysis, ids[0])
        file = ArtifactStore(home.artifact_folder).path(str(again.eigenvectors))
        assert again.eigenvectors_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(list((home.artifact_folder / "eigenvectors").iterdir())) == 2


def test_a_damaged_checkpoint_gives_no_number_and_is_mended_by_submitting_it(
    home: Settings, checkpoint: Make
) -> None:
    file = checkpoint()
    (number,) = analysed(home, [file])
    with sessions(home.database)() as s:
        path = ArtifactStore(home.artifact_folder).path(s.get_one(Analysis, number).checkpoint.key)
    whole = path.read_bytes()
    path.write_bytes(whole[:10_000] + bytes(40) + whole[10_040:])
    failed = compared(home, [number, *analysed(home, [checkpoint(step=7, seed=7)])], [5])
    assert str(failed.message).endswith("is damaged in the artefact store; submit it again.")
    (again,) = submit(
        [file],
        model_name="mlp",
        settings=[AnalysisSettings(architecture="tanh-mlp", data="digits", samples=50, k=10)],
        user="ada",
        env=home,
    ).analysis_ids
    assert again == number
    assert path.read_bytes() == whole


def test_a_lost_claim_writes_nothing(home: Settings, checkpoint: Make) -> None:
    ids = analysed(home, [checkpoint(step=100 * seed, seed=seed) for seed in (1, 2)])
    number, _ = compare(ids, [5], user="ada", env=home)
    with sessions(home.database).begin() as s:
        assert not store.record_pair(s, number, uuid.uuid4().hex, *ids, {(5, "iou"): 0.5})
        assert s.scalar(select(func.count()).select_from(PairValue)) == 0


def test_steps_of_one_model_and_settings_are_a_set(home: Settings, checkpoint: Make) -> None:
    files = [checkpoint(step=100 * seed, seed=seed) for seed in (2, 1)]
    test = analysed(home, files)
    train = analysed(home, files, split="train")
    analysed(home, files[:1], k=4)  # has no other step
    with sessions(home.database)() as s:
        frame = queries.stabilisation_sets(s)
        nothing = queries.stabilisation_sets(s, [99])
    assert frame["analysis_id"].tolist() == [*test[::-1], *train[::-1]]
    assert frame["set_id"].tolist() == [min(test)] * 2 + [min(train)] * 2
    assert frame["step"].tolist() == [100, 200, 100, 200]
    assert nothing.empty
    # Each step has its own checkpoint before it, and the first has none.
    with sessions(home.database).begin() as s:
        for number, file in ((train[1], ""), (train[0], "sha256:" + "a" * 64)):
            row = s.get_one(Analysis, number)
            curves = ["overlap-update", "trace"] if file else ["trace"]
            row.settings = row.settings | {"previous": file, "curves": curves}
            row.settings_key = f"{number:064x}"
    with sessions(home.database)() as s:
        again = queries.stabilisation_sets(s)
    assert again[["set_id", "analysis_id"]].equals(frame[["set_id", "analysis_id"]])
    # Beside these, a set of equal settings stays one.
    later = analysed(home, files, split="train", curves=["participation"])
    with sessions(home.database)() as s:
        last = queries.stabilisation_sets(s)
    assert last["set_id"].tolist() == [*frame["set_id"], *[min(later)] * 2]
    assert list(nothing.columns) == list(frame.columns)
