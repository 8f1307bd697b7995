"""Analyses: from a checkpoint and settings to rows and a file of eigenvectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from seigh.core import analysis, curves, preparation
from seigh.core.lab import store
from seigh.core.lab.artifacts import ArtifactStore, Damaged, Missing
from seigh.core.lab.keys import eigenvectors_key
from seigh.core.lab.models import Analysis, Checkpoint
from seigh.core.lab.store import StoreError
from seigh.core.settings import AnalysisSettings
from seigh.tasks import expected, parts
from seigh.tasks.attempt import Attempt
from seigh.tasks.parts import Conductor
from seigh.tasks.progress import ClaimLost, heed


def run(attempt: Attempt[Analysis]) -> None:
    """Analyse and write the results, with which the analysis is finished."""
    artifacts = _artifacts(attempt)
    if attempt.work.eigenvectors:  # of an attempt that has died over them
        artifacts.delete(attempt.work.eigenvectors)
    artifacts.check_room(4 * attempt.work.k * attempt.work.parameters)  # before the work, not after it
    parts.forget()
    with Conductor(attempt) as conductor:
        _keep(attempt, _result(attempt, conductor))


def _artifacts(attempt: Attempt[Analysis]) -> ArtifactStore:
    return ArtifactStore(attempt.env.artifact_folder, attempt.env.artifacts_quota)


def _result(attempt: Attempt[Analysis], conductor: Conductor) -> analysis.Result:
    checkpoint = attempt.read(lambda s: s.get(Checkpoint, attempt.work.checkpoint_id))
    if checkpoint is None:  # deleted, and the analysis with it
        raise ClaimLost
    path = checkpoint_file(_artifacts(attempt), checkpoint)
    # An earlier version has left the checkpoint before of some curves to the worker.
    settings = preparation.by_step(AnalysisSettings.model_validate(attempt.work.settings))
    steps = attempt.read(lambda s: store.steps_of(s, checkpoint.model_id))
    settings = settings.among(steps, checkpoint.step)
    pace = attempt.read(lambda s: expected.pace(s, settings, attempt.work.parameters, attempt.env))
    resumed = 0

    def progress(at: analysis.Progress) -> None:
        nonlocal resumed
        done = at.fraction if pace is None else pace(at.stage, at.hvps, at.fraction)
        if at.resumed > resumed:
            resumed = at.resumed
            attempt.log.info("goes on after %d products", resumed)
        attempt.lifeline(at.stage + conductor.about, done, hvps=at.hvps)

    result = analysis.analyse(
        path,
        settings,
        name=checkpoint.filename,
        environment=attempt.env,
        scratch=attempt.folder,
        progress=progress,
        before=conductor.before,
        hire=conductor.hire,
    )
    if result.checkpoint_sha256 != checkpoint.sha256:  # it changed in between
        checkpoint_file(_artifacts(attempt), checkpoint)
        raise ClaimLost
    return result


def checkpoint_file(artifacts: ArtifactStore, checkpoint: Checkpoint) -> Path:
    """The file of a checkpoint, if it is the one that was submitted.

    Raises:
        StoreError: If it is not.
    """
    try:
        return artifacts.check(
            checkpoint.key, checkpoint.sha256, f"The file of checkpoint '{checkpoint.filename}'"
        )
    except (Missing, Damaged) as error:
        raise StoreError(f"{str(error).removesuffix('.')}; submit it again.") from error


def _keep(attempt: Attempt[Analysis], result: analysis.Result) -> None:
    """Write the results; all of them or, if the claim is lost, none.

    Eigenvectors that have no room any more are given up, and the record says so: numbers are hours of work.
    """
    number, token = attempt.work.id, attempt.token
    key = eigenvectors_key(number, token)
    heed(attempt.write(lambda s: store.reserve_eigenvectors(s, number, token, key)))
    sha256, lost = _store_eigenvectors(attempt, key, result)
    found = replace(result, record={**result.record, "eigenvectors_lost": lost}) if lost else result
    kept = attempt.write(
        lambda s: store.finish(
            s,
            number,
            token,
            found,
            eigenvectors=None if lost else key,
            eigenvectors_sha256=sha256,
            words=_words(result.settings),
        ),
    )
    if not kept:
        _artifacts(attempt).delete(key)
        raise ClaimLost


def _words(settings: AnalysisSettings) -> dict[str, dict[str, Any]]:
    """Return the words that go with each curve, profile and quantity wherever it is shown."""
    return {name: each.words() for name, each in curves.asked(settings).items()}


def _store_eigenvectors(
    attempt: Attempt[Analysis], key: str, result: analysis.Result
) -> tuple[str | None, str | None]:
    """Store the eigenvectors: the checksum of their file, or the sentence that says why they have no room."""
    try:
        sha256 = _artifacts(attempt).put_arrays(
            key,
            {"eigenvectors": result.eigenvectors, "eigenvalues": result.eigenvalues},
            {"checkpoint_sha256": result.checkpoint_sha256, "settings": result.settings.model_dump_json()},
        )
    except StoreError as error:
        attempt.log.warning("the eigenvectors are not kept: %s", error)
        return None, str(error)
    return sha256, None
