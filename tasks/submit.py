"""From uploaded files to queued analyses: everything is checked before anything is kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session

from core.problems import architectures, checkpoints, data
from core.problems.checkpoints import CheckpointError
from core.results import store
from core.results.artifacts import ArtifactStore
from core.results.session import sessions
from core.settings import AnalysisSettings, Settings, SettingsError
from tasks.analysis import analyse
from tasks.celery_app import app

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """A checkpoint file as a user brings it.

    Attributes:
        path: Where it lies, under whatever name.
        name: Its original name.
        step: The training step it was saved at; None to take it from the file or its name.
    """

    path: Path
    name: str
    step: int | None = None


@dataclass(frozen=True)
class Submission:
    """What became of a submission.

    Attributes:
        analysis_ids: One per file and settings, files first, in the given order.
        reused_ids: Those of them that existed before and are left as they are.
        warning: A sentence for the user if the workers could not be told yet; the analyses are queued all
            the same.
    """

    analysis_ids: list[int]
    reused_ids: list[int]
    warning: str | None = None


@dataclass(frozen=True)
class _Checked:
    """What is kept of a checkpoint when it has been read; not its weights: there may be many."""

    upload: Upload
    step: int
    sha256: str
    size: int
    metrics: dict[str, float]


def submit(
    files: Sequence[Upload],
    *,
    model_name: str,
    settings: Sequence[AnalysisSettings],
    user: str,
    env: Settings | None = None,
) -> Submission:
    """Queue an analysis of every file with each of the settings; all of them or none.

    Args:
        files: Checkpoints of one model.
        model_name: The model they belong to; made if there is none of that name.
        settings: All of one architecture. A path in ``data`` is replaced by the hash of the file, which
            goes to the artefact store.
        user: Who submits.
        env: Where database, artefacts and broker are; from ``SEIGH_*`` when not given.

    Raises:
        CheckpointError, DataError, SettingsError, StoreError: If anything cannot work; then nothing has been
            stored or queued.
    """
    env = env or Settings()
    if not files or not settings:
        raise SettingsError("There is nothing to submit; give at least one checkpoint and one split.")
    architecture = settings[0].architecture
    if any(each.architecture != architecture for each in settings):
        raise SettingsError("The checkpoints of a model have one architecture; submit each model by itself.")
    parameters = {each: architectures.parameter_count(architecture, each.parameters) for each in settings}
    for each, number in parameters.items():
        each.check(number)
    checked = [_check(file, architecture) for file in files]
    data_files = {each.data: sha256 for each in settings if (sha256 := _hash_of_file(each.data))}
    _check_data(settings, architecture, env)
    stored = {_with_stored_data(each, data_files): number for each, number in parameters.items()}

    def add_rows(s: Session) -> dict[int, bool]:
        model = store.add_model(s, model_name, architecture)
        queued: dict[int, bool] = {}
        for file in checked:
            checkpoint = store.add_checkpoint(
                s,
                model,
                step=file.step,
                sha256=file.sha256,
                filename=file.upload.name,
                size=file.size,
                parameters=architectures.parameter_count(architecture),
                metrics=file.metrics,
                user=user,
            )
            for each, number in stored.items():
                analysis, created = store.queue_analysis(s, checkpoint, each, user, parameters=number)
                queued[analysis.id] = created or queued.get(analysis.id, False)
        return queued

    maker = sessions(env.database)
    # The database may refuse a name or a step; it is asked before any file is kept.
    with maker() as s, s.begin() as rehearsal:
        add_rows(s)
        rehearsal.rollback()
    artifacts = ArtifactStore(env.artifact_folder)
    for file in checked:
        artifacts.put_file("checkpoints", file.upload.path, file.sha256, Path(file.upload.name).suffix)
    for path, sha256 in data_files.items():
        artifacts.put_file("data", Path(path), sha256, Path(path).suffix)
    with maker.begin() as s:
        queued = add_rows(s)
    # Not before the commit: a worker could be faster.
    warning = send([number for number, created in queued.items() if created], env)
    return Submission(list(queued), [number for number, created in queued.items() if not created], warning)


def retry(analysis_id: int, env: Settings | None = None) -> str | None:
    """Queue a failed or cancelled analysis again; the answer is the warning of a ``Submission``.

    Raises:
        StoreError: If it is in another state, or gone.
    """
    env = env or Settings()
    with sessions(env.database).begin() as s:
        store.retry(s, analysis_id)
    return send([analysis_id], env)


def send(analysis_ids: Sequence[int], env: Settings) -> str | None:
    """Tell the workers about queued analyses; a sentence for the user if that did not succeed.

    Nothing is lost then: the workers look for forgotten analyses themselves (``tasks.recovery``).
    """
    try:
        with app.connection_for_write(env.redis) as connection:
            producer = app.amqp.Producer(connection)
            for number in analysis_ids:
                analyse.apply_async((number,), producer=producer)
    except OperationalError as error:
        logger.warning("the broker at %s does not answer: %s", env.redis, error)
        return "The queue's Redis does not answer; the analyses wait until it and a worker run again."
    return None


def _check(upload: Upload, architecture: str) -> _Checked:
    checkpoint = checkpoints.read(upload.path, upload.name)
    checkpoints.check_fits(checkpoint, architecture)
    step = checkpoint.step if upload.step is None else upload.step
    if step is None:
        raise CheckpointError(
            f"Neither the name of '{upload.name}' nor its content tells the training step; "
            "give it, or name the file like step_000100.pt."
        )
    return _Checked(upload, step, checkpoint.sha256, checkpoint.size, checkpoint.metrics)


def _check_data(settings: Sequence[AnalysisSettings], architecture: str, env: Settings) -> None:
    """Draw every subset that the settings ask for, once."""
    model = architectures.build(architecture)
    for name, split in {(each.data, each.split): None for each in settings}:
        dataset = data.load(name, split, env=env)
        data.check_matches(dataset, model)
        for each in settings:
            if (each.data, each.split) == (name, split):
                data.balanced_index(dataset, each.samples, each.seed)


def _hash_of_file(name: str) -> str | None:
    """SHA-256 of the data file ``name``; None for a data set, or what is in the artefact store already."""
    if not data.is_file(name):
        return None
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_stored_data(settings: AnalysisSettings, data_files: dict[str, str]) -> AnalysisSettings:
    if settings.data not in data_files:
        return settings
    return settings.model_copy(update={"data": f"sha256:{data_files[settings.data]}"})
