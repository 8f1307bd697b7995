"""Analyses: from a checkpoint and settings to rows and a file of eigenvectors."""

from __future__ import annotations

from dataclasses import asdict

import core.analysis
from core.results import store
from core.results.artifacts import ArtifactStore
from core.results.keys import eigenvectors_key
from core.results.models import Analysis, Checkpoint
from core.results.store import StoreError
from core.settings import AnalysisSettings
from tasks import parts
from tasks.attempt import Attempt
from tasks.parts import Conductor
from tasks.progress import ClaimLost, heed


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


def _result(attempt: Attempt[Analysis], conductor: Conductor) -> core.analysis.Result:
    checkpoint = attempt.read(lambda s: s.get(Checkpoint, attempt.work.checkpoint_id))
    if checkpoint is None:  # deleted, and the analysis with it
        raise ClaimLost
    path = _artifacts(attempt).path(checkpoint.key)
    if not path.is_file():
        raise StoreError(
            f"The file of checkpoint '{checkpoint.filename}' is no longer in the artefact store; "
            "submit it again."
        )

    resumed = 0

    def progress(at: core.analysis.Progress) -> None:
        nonlocal resumed
        if at.resumed > resumed:
            resumed = at.resumed
            attempt.log.info("goes on after %d products", resumed)
        attempt.lifeline(at.stage + conductor.about, at.fraction, hvps=at.hvps)

    result = core.analysis.analyse(
        path,
        AnalysisSettings.model_validate(attempt.work.settings),
        name=checkpoint.filename,
        environment=attempt.env,
        scratch=attempt.folder,
        progress=progress,
        before=conductor.before,
        hire=conductor.hire,
    )
    if result.checkpoint_sha256 != checkpoint.sha256:
        raise StoreError(
            f"The file of checkpoint '{checkpoint.filename}' is damaged in the artefact store; "
            f"remove {checkpoint.key} there and submit it again."
        )
    return result


def _keep(attempt: Attempt[Analysis], result: core.analysis.Result) -> None:
    """Write the results; all of them or, if the claim is lost, none.

    Eigenvectors that have no room any more are given up, and the record says so: numbers are hours of work.
    """
    number, token = attempt.work.id, attempt.token
    key = eigenvectors_key(number, token)
    heed(attempt.write(lambda s: store.reserve_eigenvectors(s, number, token, key)))
    lost = _lost(attempt, key, result)
    kept = attempt.write(
        lambda s: store.finish(
            s,
            number,
            token,
            eigenvalues=result.eigenvalues,
            residuals=result.residuals,
            scree_lower=result.scree_lower,
            scree_upper=result.scree_upper,
            overlap=result.overlap,
            overlap_error=result.overlap_error,
            resolved_k=result.resolved_k,
            random_mean=result.random_mean,
            random_std=result.random_std,
            best=result.best,
            layers=result.layers.rows(),
            magnitudes=result.magnitudes.rows(),
            metrics=[asdict(each) for each in result.metrics],
            stages=[(stage.name, stage.seconds, stage.hvps) for stage in result.stages],
            hvps=result.hvps,
            data_sha256=result.data_sha256,
            environment=result.environment,
            record=result.record | ({"eigenvectors_lost": lost} if lost else {}),
            eigenvectors=None if lost else key,
        ),
    )
    if not kept:
        _artifacts(attempt).delete(key)
        raise ClaimLost


def _lost(attempt: Attempt[Analysis], key: str, result: core.analysis.Result) -> str | None:
    """Store the eigenvectors; if they have no room, the sentence that says so."""
    try:
        _artifacts(attempt).put_arrays(
            key,
            {"eigenvectors": result.eigenvectors, "eigenvalues": result.eigenvalues},
            {"checkpoint_sha256": result.checkpoint_sha256, "settings": result.settings.model_dump_json()},
        )
    except StoreError as error:
        attempt.log.warning("the eigenvectors are not kept: %s", error)
        return str(error)
    return None
