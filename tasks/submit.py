"""Turn requests of users into queued work: everything is checked before anything is stored."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError
from pydantic import ValidationError
from sqlalchemy.orm import Session

from seigh.core import preparation
from seigh.core.access import OPERATOR, Actor, acting
from seigh.core.checksum import sha256_of
from seigh.core.lab import actions, datafiles, store
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.keys import Kind, checkpoint_key
from seigh.core.lab.models import Analysis, Comparison, Training, Work
from seigh.core.lab.session import sessions
from seigh.core.logs import redact
from seigh.core.names import NO_SPLIT, Place, Priority
from seigh.core.problems import architectures, checkpoints, data, graphs, training
from seigh.core.settings import (
    SPLITS,
    AnalysisSettings,
    Settings,
    SettingsError,
    TrainingSettings,
    refusal,
)
from seigh.tasks import expected
from seigh.tasks.celery_app import TASK, app
from seigh.tasks.queues import QUEUES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """A checkpoint file as a user brings it.

    Attributes:
        path: Where it lies, under whatever name.
        name: Its original name.
        step: The training step it was saved at; None to take it from the file or its name.
        epoch: The epoch, likewise; it orders the files where no step is known.
    """

    path: Path
    name: str
    step: int | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Declared:
    """What somebody says of a data file.

    Attributes:
        name: What it is to be called; as its file when empty.
        split: Of which split of the data it is, one of ``datafiles.DECLARED``; None where nothing is said,
            and only the setting ``split`` may tell.
    """

    name: str = ""
    split: str | None = None


@dataclass(frozen=True)
class Submission:
    """The outcome of a submission.

    Attributes:
        analysis_ids: One per file and settings, files first, in the given order.
        reused_ids: The ids that existed before and are left as they are.
        warning: A sentence for the user if the workers could not be told yet; the analyses are queued all
            the same.
        notes: Sentences for the user: about steps that no file tells, guesses and epochs in their place;
            about the earlier steps that masks compare with; and about masks that lack some parameters.
    """

    analysis_ids: list[int]
    reused_ids: list[int]
    warning: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Checked:
    """The facts of a checkpoint that has been read, without its weights: there may be many files."""

    upload: Upload
    step: int | None
    epoch: int | None
    guess: int | None
    sha256: str
    size: int
    metrics: dict[str, float]
    rate_beside: float | None = None

    @property
    def name(self) -> str:
        return self.upload.name

    def is_in(self, artifacts: ArtifactStore) -> bool:
        """Whether the file is stored already."""
        key = checkpoint_key(self.sha256, self.upload.name)
        return artifacts.path(key).exists()


def submit(
    files: Sequence[Upload],
    *,
    model_name: str,
    settings: Sequence[AnalysisSettings],
    user: str | Actor,
    place: Place = "any",
    priority: Priority = "normal",
    data_file: Declared = Declared(),
    env: Settings | None = None,
) -> Submission:
    """Queue an analysis of every file with each of the settings; all of them or none.

    Args:
        files: Checkpoints of one model.
        model_name: The model they belong to; made if there is none of that name.
        settings: All of one architecture. A path in ``data`` is replaced by the hash of the file, or of an
            archive of several that belong together, which goes to the artefact store.
        user: Who submits; a mere name is somebody at the command line.
        place: Whether to wait for a worker with a GPU, or for one without; no part of the settings.
        priority: How soon the analyses are to be begun beside other work; no part of the settings.
        data_file: What is said of a data file that the settings name by its path, and that is new.
        env: Where database, artefacts and broker are; from ``SEIGH_*`` when not given.

    Raises:
        CheckpointError, DataError, SettingsError, StoreError: If anything cannot work; then nothing has been
            stored or queued.
    """
    env, actor = env or Settings(), acting(user)
    actor.check_work()
    if not files or not settings:
        raise SettingsError("There is nothing to submit; give at least one checkpoint and one split.")
    with _settled(settings) as found:
        return _submit(files, model_name, found, actor, place, priority, data_file, env)


def _submit(
    files: Sequence[Upload],
    model_name: str,
    settings: Sequence[AnalysisSettings],
    actor: Actor,
    place: Place,
    priority: Priority,
    data_file: Declared,
    env: Settings,
) -> Submission:
    """As ``submit``, with settings that are as they are to be stored, but for what files are called."""
    architecture = settings[0].architecture
    if any(each.architecture != architecture for each in settings):
        raise SettingsError("The checkpoints of a model have one architecture; submit each model by itself.")
    checked = [_check(file, settings) for file in files]
    steps, notes = checkpoints.settled(checked)
    wanted, inputs = _check_settings(settings, env, [file.sha256 for file in checked])
    times = _expected(settings, wanted, env)
    said: list[str] = []

    def add_rows(s: Session) -> dict[int, bool]:
        model = store.add_model(s, model_name, architecture)
        _add_data(s, inputs, data_file, actor)
        queued: dict[int, bool] = {}
        rows = [
            store.add_checkpoint(
                s,
                model,
                step=step,
                sha256=file.sha256,
                filename=file.upload.name,
                size=file.size,
                parameters=architectures.parameter_count(architecture),
                metrics=file.metrics,
                user=actor.name,
            )
            for file, step in zip(checked, steps, strict=True)
        ]
        there = store.steps_of(s, model.id)
        said[:] = preparation.say_earlier_steps([*wanted], [*there], [each.step for each in rows])
        for checkpoint, file in zip(rows, checked, strict=True):
            for each, number in wanted.items():
                analysis, created = store.queue_analysis(
                    s,
                    checkpoint,
                    _with_rate(each, file.rate_beside),
                    actor.name,
                    parameters=number,
                    place=place,
                    priority=priority,
                    expected=times[each],
                )
                if created:
                    actions.submitted(s, actor, Analysis, analysis.id)
                queued[analysis.id] = created or queued.get(analysis.id, False)
        return queued

    _rehearse(add_rows, env)
    artifacts = ArtifactStore(env.artifact_folder, env.artifacts_quota)
    new = {file.sha256: file.size for file in checked if not file.is_in(artifacts)}
    artifacts.check_room(sum(new.values()))
    for file in checked:
        artifacts.put_file("checkpoints", file.upload.path, file.sha256, Path(file.upload.name).suffix)
    _store(inputs, env)
    if graphs.exists(architecture):
        _store_graph(graphs.find(architecture), env)
    with sessions(env.database).begin() as s:
        queued = add_rows(s)
    # Not before the commit: a worker could be faster.
    warning = send(Analysis, [number for number, created in queued.items() if created], env)
    reused = [number for number, created in queued.items() if not created]
    return Submission(list(queued), reused, warning, (*notes, *said, *inputs.notes))


def bring_graph(path: Path, name: str, *, user: str | Actor, env: Settings | None = None) -> str:
    """Keep an exported network, which is an architecture of this lab from then on; what it is called.

    Args:
        path: Its ``.pt2`` file.
        name: The file's original name.
        user: Who brings it; a mere name is somebody at the command line.
        env: As in ``submit``.

    Raises:
        SettingsError: The file holds no network that can be an architecture.
        StoreError: It has no room.
    """
    env, actor = env or Settings(), acting(user)
    actor.check_work()
    graph = graphs.take(path, name)
    _store_graph(graph, env)
    return graphs.settled(graph.name) or graph.name


def train(
    problem: str,
    model_name: str,
    steps: int,
    record: Sequence[int],
    seed: int = 0,
    analyses: Sequence[AnalysisSettings] = (),
    batch: int | None = None,
    learning_rate: float | None = None,
    *,
    user: str | Actor,
    priority: Priority = "normal",
    env: Settings | None = None,
) -> tuple[int, str | None]:
    """Queue a training, and with each of its checkpoints, as it is recorded, these analyses of it.

    Asked for again, the same training is not done again, unless it failed or was cancelled; ``analyses`` that
    are new are added to it.

    Args:
        problem: Name of the problem, one of ``training.problems()``.
        model_name: The model that its checkpoints become; made if there is none of that name.
        steps: Number of optimiser steps.
        record: The steps to record, in 0 … ``steps``.
        seed: Seed of the initialisation and the batches.
        analyses: Settings, of the problem's architecture.
        batch: Samples in a batch; the problem's when not given.
        learning_rate: Learning rate of SGD; the problem's when not given.
        user: Who submits; a mere name is somebody at the command line.
        priority: As in ``submit``, of the training and of its analyses.
        env: As in ``submit``.

    Returns:
        The training's id, and the warning of a ``Submission``.

    Raises:
        DataError, SettingsError, StoreError: If anything cannot work; then nothing has been stored or queued.
    """
    env, actor = env or Settings(), acting(user)
    actor.check_work()
    settings = _training_settings(
        problem=problem,
        steps=steps,
        record=tuple(record),
        seed=seed,
        batch=batch,
        learning_rate=learning_rate,
    )
    architecture = _check_problem(settings, env)
    with _settled(analyses) as found:
        return _train(settings, architecture, model_name, found, actor, priority, env)


def _train(
    settings: TrainingSettings,
    architecture: str,
    model_name: str,
    analyses: Sequence[AnalysisSettings],
    actor: Actor,
    priority: Priority,
    env: Settings,
) -> tuple[int, str | None]:
    """As ``train``, with analyses that are as they are to be stored, but for what files are called."""
    problem, record = settings.problem, settings.record
    if other := [each.architecture for each in analyses if each.architecture != architecture]:
        raise SettingsError(
            f"The problem {problem} trains {architecture}; its checkpoints cannot be analysed as {other[0]}."
        )
    wanted, inputs = _check_settings(analyses, env)
    times = _expected(analyses, wanted, env)
    with sessions(env.database)() as s:
        whole = expected.of_training(s, settings, env)

    def add_rows(s: Session) -> tuple[list[int], list[int]]:
        model = store.add_model(s, model_name, architecture)
        _add_data(s, inputs, Declared(), actor)
        there = {*store.steps_of(s, model.id), *record}
        preparation.say_earlier_steps([*wanted], [*there], record)
        row, queued, more = store.queue_training(
            s,
            model,
            settings,
            wanted,
            actor.name,
            priority=priority,
            expected=whole,
            expected_each=times,
        )
        trainings.append(row.id)
        if queued:
            actions.submitted(s, actor, Training, row.id)
        for number in more:
            actions.submitted(s, actor, Analysis, number)
        return [row.id] if queued else [], more

    trainings: list[int] = []
    _rehearse(add_rows, env)
    _store(inputs, env)
    with sessions(env.database).begin() as s:
        queued, more = add_rows(s)
    return trainings[-1], send(Training, queued, env) or send(Analysis, more, env)


def compare(
    analysis_ids: Sequence[int], ks: Sequence[int], *, user: str | Actor, env: Settings | None = None
) -> tuple[int, str | None]:
    """Queue the comparison of all pairs of these analyses, each with itself too, at these k.

    Returns:
        The comparison's id, and the warning of a ``Submission``.

    Raises:
        StoreError: If one of them is not finished, or they have not the same parameters; then nothing has
            been queued.
    """
    env, actor = env or Settings(), acting(user)
    actor.check_work()
    with sessions(env.database).begin() as s:
        time = expected.of_comparison(s, analysis_ids, ks)
        comparison, created = store.queue_comparison(s, analysis_ids, ks, actor.name, expected=time)
        number = comparison.id
        if created:
            actions.submitted(s, actor, Comparison, number)
    return number, send(Comparison, [number] if created else [], env)


def retry(
    kind: type[Work], number: int, env: Settings | None = None, *, user: Actor = OPERATOR
) -> str | None:
    """Queue failed or cancelled work again; the answer is the warning of a ``Submission``.

    Raises:
        AccessError: If ``user`` may not.
        StoreError: If it is in another state, or gone.
    """
    env = env or Settings()
    with sessions(env.database).begin() as s:
        actions.retry(s, user, kind, number)
    return send(kind, [number], env)


def delete(kind: type[Work], number: int, env: Settings | None = None, *, user: Actor = OPERATOR) -> None:
    """Remove a piece of work, its results and their files, as ``store.delete`` says.

    Raises:
        AccessError: If ``user`` may not.
        StoreError: If it is gone already.
    """
    env = env or Settings()
    with sessions(env.database).begin() as s:
        files = actions.delete(s, user, kind, number)
    _remove(files, env)


def delete_data(file: actions.StoredData, env: Settings | None = None, *, user: Actor = OPERATOR) -> None:
    """Remove a data file, as ``datafiles.delete`` says.

    Raises:
        AccessError: If ``user`` may not.
        StoreError: If it is gone already, or work that is under way needs it.
    """
    env = env or Settings()
    with sessions(env.database).begin() as s:
        files = actions.delete_data(s, user, file)
    _remove(files, env)


def delete_graph(name: str, env: Settings | None = None, *, user: Actor = OPERATOR) -> None:
    """Remove an exported network; results of it stay, and its file can be brought again.

    Raises:
        AccessError: If ``user`` may not.
        SettingsError: If there is no such network.
        StoreError: If work that is under way needs it.
    """
    env = env or Settings()
    with sessions(env.database).begin() as s:
        actions.delete_graph(s, user, name)
        files = graphs.forget(name)
    _remove([f"{graphs.FOLDER}/{each.name}" for each in files], env)


def delete_model(model_id: int, env: Settings | None = None, *, user: Actor = OPERATOR) -> None:
    """Remove a model with all that belongs to it, as ``store.delete_model`` says, and the files.

    Raises:
        AccessError: If ``user`` may not.
        StoreError: If it is gone already.
    """
    env = env or Settings()
    with sessions(env.database).begin() as s:
        files = actions.delete_model(s, user, model_id)
    _remove(files, env)


def send(kind: type[Work], numbers: Sequence[int], env: Settings) -> str | None:
    """Tell the workers about queued work; a sentence for the user if that did not succeed.

    Nothing is lost then: the workers look for forgotten work themselves (``seigh.tasks.recovery``).
    """
    if not numbers:
        return None
    with sessions(env.database)() as s:
        places = store.places(s, kind, numbers)
    try:
        with app.connection_for_write(env.redis) as connection:
            producer = app.amqp.Producer(connection)
            for number in numbers:
                # By its name: the task's module imports what runs, and that imports this one.
                app.send_task(
                    TASK,
                    (kind.__tablename__, number),
                    queue=QUEUES[places.get(number, "any")],
                    producer=producer,
                    ignore_result=True,
                )
    except OperationalError as error:
        logger.warning("the broker at %s does not answer: %s", redact(env.redis), redact(str(error)))
        return "The queue's Redis does not answer; what was submitted waits until it and a worker run again."
    return None


def _rehearse(add_rows: Callable[[Session], object], env: Settings) -> None:
    """Ask the database, which may refuse a name or a step, before any file is kept."""
    with sessions(env.database)() as s, s.begin() as rehearsal:
        add_rows(s)
        rehearsal.rollback()


def _add_data(s: Session, inputs: _Inputs, declared: Declared, actor: Actor) -> None:
    """Write down what the data files are called and which split they are."""
    for kind, path, sha256 in inputs.files:
        if kind == "data":
            datafiles.add(
                s,
                sha256,
                filename=path.name,
                size=path.stat().st_size,
                user=actor.name,
                name=declared.name,
                split=declared.split or inputs.splits.get(sha256, NO_SPLIT),
                reserved=data.names(),
            )


def _store(inputs: _Inputs, env: Settings) -> None:
    """Keep the files that analyses are made with."""
    artifacts = ArtifactStore(env.artifact_folder, env.artifacts_quota)
    for kind, path, sha256 in inputs.files:
        artifacts.put_file(kind, path, sha256, path.suffix)


def _store_graph(graph: graphs.Graph, env: Settings) -> None:
    """Keep the file of an exported network, unless it is there."""
    store_of_files = ArtifactStore(env.artifact_folder, env.artifacts_quota)
    if graph.path.is_file() and graph.path.parent != env.artifact_folder / graphs.FOLDER:
        store_of_files.put_file("graphs", graph.path, graph.sha256, graph.suffix)


def _remove(files: Sequence[str], env: Settings) -> None:
    for key in files:
        ArtifactStore(env.artifact_folder).delete(key)


def _check_problem(settings: TrainingSettings, env: Settings) -> str:
    """The architecture of a problem whose data are there and enough."""
    recipe = training.known(settings.problem)
    model = architectures.build(recipe.architecture)
    for split in SPLITS:
        data.check_matches(data.load(recipe.data, split, env=env), model, recipe.settings)
    whole = data.load(recipe.data, "train", env=env)
    training.check(settings.problem, whole, settings.batch, settings.learning_rate)
    return architectures.canonical(recipe.architecture)


def _training_settings(**values: Any) -> TrainingSettings:
    try:
        return TrainingSettings(**values)
    except ValidationError as error:
        raise SettingsError(refusal(error)) from error


@contextmanager
def _settled(settings: Sequence[AnalysisSettings]) -> Iterator[list[AnalysisSettings]]:
    """The settings with their architecture written in the one way, as an analysis's key depends on it; and
    data that lie in several files as one archive, which is there until they are stored."""
    with tempfile.TemporaryDirectory(prefix="seigh-data-") as folder:
        names = {name: data.packed(name, Path(folder)) for name in {each.data for each in settings}}
        yield [
            each.model_copy(
                update={
                    "architecture": architectures.canonical(each.architecture),
                    "data": names[each.data],
                }
            )
            for each in settings
        ]


@dataclass(frozen=True)
class _Inputs:
    """Files beside the checkpoints that analyses are made with.

    Attributes:
        files: Kind, path and hash of those that are to be stored.
        notes: What was done to make them fit, in sentences.
        splits: The split that settings say a data file is of, by its hash: the default says nothing.
    """

    files: list[tuple[Kind, Path, str]]
    notes: list[str]
    splits: Mapping[str, str]


def _check_settings(
    settings: Sequence[AnalysisSettings], env: Settings, analysed: Sequence[str] = ()
) -> tuple[dict[AnalysisSettings, int], _Inputs]:
    """Check analyses of an architecture.

    Args:
        settings: Settings of the analyses.
        env: Where data and artefacts are.
        analysed: Hashes of the checkpoints.

    Returns:
        The settings, with N and with their data and masks named as they will be stored, and D, the number of
        parameters that they choose; and the files to store.
    """
    parameters = {each: preparation.check(each, env) for each in settings}
    sizes = dict(zip(settings, preparation.sizes(settings, env), strict=True))
    data_files = {each.data: sha256 for each in settings if (sha256 := _hash_of_file(each.data))}
    files: dict[tuple[Kind, str], Path] = {
        ("data", sha256): Path(data.options_of(name)[0]) for name, sha256 in data_files.items()
    }
    notes: dict[str, None] = {}
    found: dict[AnalysisSettings, int] = {}
    for each, number in parameters.items():
        complete = _with_stored_data(each.model_copy(update={"samples": sizes[each]}), data_files)
        others = preparation.others(preparation.by_step(complete), env, checkpoints=analysed)
        masks = {file.removeprefix("sha256:") for _, file in others.settings.own_masks}
        for sha256, path in others.files.items():
            files["masks" if sha256 in masks else "checkpoints", sha256] = path
        notes |= dict.fromkeys(others.notes.values())
        found[others.settings] = number
    usual = AnalysisSettings.model_fields["split"].get_default()
    splits = {
        sha256: each.split
        for each in settings
        if each.split != usual and (sha256 := data_files.get(each.data)) is not None
    }
    stored: list[tuple[Kind, Path, str]] = [(kind, path, sha256) for (kind, sha256), path in files.items()]
    return found, _Inputs(stored, [*notes], splits)


def _expected(
    settings: Sequence[AnalysisSettings], wanted: Mapping[AnalysisSettings, int], env: Settings
) -> dict[AnalysisSettings, store.Expected | None]:
    """How long an analysis with each of the settings to be stored is expected to take.

    ``settings`` are the same with the data named as before they are stored: there their shape is read.
    """
    numbers = list(wanted.values())
    distinct = list(dict.fromkeys(settings))
    if len(distinct) != len(numbers):  # two that differ only in how they are written
        return dict.fromkeys(wanted)
    distinct = [
        each.model_copy(update={"samples": stored.samples})
        for each, stored in zip(distinct, wanted, strict=True)
    ]
    with sessions(env.database)() as s:
        return dict(zip(wanted, expected.of_analyses(s, distinct, numbers, env), strict=True))


def _check(upload: Upload, settings: Sequence[AnalysisSettings]) -> _Checked:
    """Read a file as each of the settings, of which there is at least one, has it."""
    for entry, match in dict.fromkeys((each.entry, each.match) for each in settings):
        checkpoint = checkpoints.read(upload.path, upload.name, entry=entry)
        checkpoints.check_fits(checkpoint, settings[0].architecture, match)
    step = checkpoint.step if upload.step is None else upload.step
    epoch = checkpoint.epoch if upload.epoch is None else upload.epoch
    guess = checkpoint.guess if step is None and epoch is None else None
    rate = checkpoint.learning_rate if checkpoint.rate_is_beside else None
    return _Checked(upload, step, epoch, guess, checkpoint.sha256, checkpoint.size, checkpoint.metrics, rate)


def _with_rate(settings: AnalysisSettings, rate: float | None) -> AnalysisSettings:
    """The settings with a learning rate that no stored file will tell, where something may ask for it."""
    if rate is None or settings.learning_rate is not None or not settings.curves:
        return settings
    return settings.model_copy(update={"learning_rate": rate})


def _hash_of_file(name: str) -> str | None:
    """SHA-256 of the data file ``name``; None for a data set, or what is in the artefact store already."""
    if not data.is_file(name):
        return None
    base, _ = data.options_of(name)
    return sha256_of(Path(base))


def _with_stored_data(settings: AnalysisSettings, data_files: dict[str, str]) -> AnalysisSettings:
    sha256 = data_files.get(settings.data)
    _, options = data.options_of(settings.data)
    stored = data.with_options(f"sha256:{sha256}", options) if sha256 else data.canonical(settings.data)
    return settings.model_copy(update={"data": stored})
