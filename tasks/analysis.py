"""The task: one message, one analysis."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from celery import signals
from celery.utils.log import get_task_logger
from kombu.utils.functional import retry_over_time
from sqlalchemy.orm import Session, sessionmaker

import core.analysis
from core.problems.checkpoints import CheckpointError
from core.problems.data import DataError
from core.results import store
from core.results.artifacts import ArtifactStore, content_key, eigenvectors_key
from core.results.models import Checkpoint
from core.results.session import sessions
from core.results.store import StoreError
from core.settings import AnalysisSettings, Settings, SettingsError
from core.spectra import SpectrumError
from tasks.celery_app import app
from tasks.progress import DATABASE_AWAY, STALE_AFTER, AnalysisLog, Cancelled, ClaimLost, Lifeline, heed
from tasks.scratch import scratch

T = TypeVar("T")

# Their message is a sentence for the user. Anything else is a bug, or trouble of the machine's.
_USER_ERRORS = (CheckpointError, DataError, SettingsError, SpectrumError, StoreError)

# This worker, by its main process. Its children have the name too: they are forked after this line has run.
WORKER = f"{socket.gethostname()}:{os.getpid()}"

# Torch has no exception of its own for this.
_NO_MEMORY_ON_CPU = "DefaultCPUAllocator: can't allocate memory"

_DATABASE_PATIENCE = 60  # seconds

_concurrency = 1


@app.task(name="seigh.analyse")
def analyse(analysis_id: int) -> None:
    """Run a queued analysis and write its results, or why there are none, into the database.

    Does nothing if it is not to be run: ended, deleted, or running elsewhere.
    """
    env = Settings()
    maker = sessions(env.database)
    log = AnalysisLog(get_task_logger(__name__), analysis_id)
    token = uuid.uuid4().hex
    with maker.begin() as s:
        claimed = store.claim(s, analysis_id, token, WORKER, STALE_AFTER)
        if claimed is None:
            log.info("nothing to do: it has ended, was deleted, or is running elsewhere")
            return
        log.info("attempt %d", claimed.attempts)
        settings, checkpoint, left_behind = claimed.settings, claimed.checkpoint, claimed.eigenvectors
        s.expunge(checkpoint)

    with (
        Lifeline(maker, analysis_id, token, log) as lifeline,
        scratch(env.scratch_folder, analysis_id, token) as folder,
    ):
        try:
            if left_behind:
                ArtifactStore(env.artifact_folder).delete(left_behind)
            result = _result(checkpoint, settings, env, folder, lifeline)
            _keep(analysis_id, token, result, env, maker)
            log.info("finished")
        except Cancelled:
            _write(maker, lambda s: store.cancelled(s, analysis_id, token))
            log.info("cancelled")
        except ClaimLost:
            log.warning("given up: it belongs to another attempt, or was deleted")
        except Exception as error:
            message = sentence(error)
            log.error("failed: %s", message, exc_info=not isinstance(error, _USER_ERRORS))
            _write(maker, lambda s: store.fail(s, analysis_id, token, message))


def _result(
    checkpoint: Checkpoint, settings: dict[str, Any], env: Settings, scratch: Path, progress: Lifeline
) -> core.analysis.Result:
    key = content_key("checkpoints", checkpoint.sha256, Path(checkpoint.filename).suffix)
    path = ArtifactStore(env.artifact_folder).path(key)
    if not path.is_file():
        raise StoreError(
            f"The file of checkpoint '{checkpoint.filename}' is no longer in the artefact store; "
            "submit it again."
        )
    result = core.analysis.analyse(
        path,
        AnalysisSettings.model_validate(settings),
        name=checkpoint.filename,
        environment=env,
        scratch=scratch,
        progress=progress,
    )
    if result.checkpoint_sha256 != checkpoint.sha256:
        raise StoreError(
            f"The file of checkpoint '{checkpoint.filename}' is damaged in the artefact store; "
            f"remove {key} there and submit it again."
        )
    return result


def _keep(
    analysis_id: int, token: str, result: core.analysis.Result, env: Settings, maker: sessionmaker[Session]
) -> None:
    """Write the results; all of them or, if the claim is lost, none."""
    artifacts = ArtifactStore(env.artifact_folder)
    key = eigenvectors_key(analysis_id, token)
    heed(_write(maker, lambda s: store.reserve_eigenvectors(s, analysis_id, token, key)))
    artifacts.put_arrays(
        key,
        {"eigenvectors": result.eigenvectors, "eigenvalues": result.eigenvalues},
        {"checkpoint_sha256": result.checkpoint_sha256, "settings": result.settings.model_dump_json()},
    )
    kept = _write(
        maker,
        lambda s: store.finish(
            s,
            analysis_id,
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
            record=result.record,
            eigenvectors=key,
        ),
    )
    if not kept:
        artifacts.delete(key)
        raise ClaimLost


def _write(maker: sessionmaker[Session], change: Callable[[Session], T]) -> T:
    """Make a change in a transaction of its own; again and again for a while if the database is away."""

    def attempt() -> T:
        with maker.begin() as s:
            return change(s)

    done: T = retry_over_time(attempt, DATABASE_AWAY, interval_start=1, timeout=_DATABASE_PATIENCE)
    return done


def sentence(error: Exception) -> str:
    """What to tell the user about an analysis that ended with this exception."""
    if isinstance(error, _USER_ERRORS):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY_ON_CPU in str(error):
        return "The analysis needs more memory than there is; choose a smaller k or N."
    first_line = str(error).strip().partition("\n")[0][:300]
    kind = type(error).__name__
    what = f"{kind}: {first_line}" if first_line else kind
    return f"Unexpected error ({what}); the worker's log has the details."


@signals.celeryd_after_setup.connect  # in the main process, which knows how many children it will fork
def _remember_concurrency(instance: Any, **_: Any) -> None:
    global _concurrency
    _concurrency = instance.concurrency


@signals.worker_process_init.connect  # in each child
def _share_cores(**_: Any) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // _concurrency))
