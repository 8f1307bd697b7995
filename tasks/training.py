"""Trainings: checkpoints become the model's, and their analyses are queued, as they are recorded."""

from __future__ import annotations

from pathlib import Path

from seigh.core.lab import store
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import Analysis, Training
from seigh.core.problems import architectures, checkpoints, training
from seigh.core.settings import TrainingSettings
from seigh.tasks.attempt import Attempt
from seigh.tasks.progress import ClaimLost
from seigh.tasks.submit import send


def run(attempt: Attempt[Training]) -> None:
    """Train, from where an earlier attempt was killed if one was, and end the training as finished."""
    settings = TrainingSettings.model_validate(attempt.work.settings)
    architecture = training.problems()[settings.problem].architecture
    parameters = architectures.parameter_count(architecture)

    def progress(done: int, steps: int) -> None:
        attempt.lifeline("training", done / steps if steps else 1.0, steps_done=done)

    training.train(
        settings.problem,
        settings.steps,
        settings.record,
        attempt.folder,
        seed=settings.seed,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        progress=progress,
        recorded=lambda file: _keep(attempt, file, parameters),
        env=attempt.env,
    )
    ended = attempt.write(
        lambda s: store.finished(s, Training, attempt.work.id, attempt.token, steps_done=settings.steps)
    )
    if not ended:
        raise ClaimLost


def _keep(attempt: Attempt[Training], file: Path, parameters: int) -> None:
    """Make a recorded file a checkpoint of the model, and queue its analyses; once, if it is kept again."""
    checkpoint = checkpoints.read(file)
    if checkpoint.step is None:
        raise AssertionError(f"{file.name} was recorded without its step")
    step = checkpoint.step
    suffix = file.suffix
    artifacts = ArtifactStore(attempt.env.artifact_folder, attempt.env.artifacts_quota)
    artifacts.put_file("checkpoints", file, checkpoint.sha256, suffix)
    queued = attempt.write(
        lambda s: store.record_checkpoint(
            s,
            attempt.work.id,
            attempt.token,
            step=step,
            sha256=checkpoint.sha256,
            filename=file.name,
            size=checkpoint.size,
            parameters=parameters,
            metrics=checkpoint.metrics,
        )
    )
    if queued is None:
        raise ClaimLost
    attempt.log.info("recorded step %d; queued analyses: %s", step, queued)
    # Not before the commit: another worker could be faster. Without a message the sweep finds them.
    send(Analysis, queued, attempt.env)
