"""Results that were computed elsewhere, brought into the lab."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seigh.core import curves
from seigh.core.access import Actor, acting
from seigh.core.analysis import Result
from seigh.core.lab import actions, store
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.keys import eigenvectors_key
from seigh.core.lab.session import sessions
from seigh.core.problems import training
from seigh.core.results import published
from seigh.core.settings import AnalysisSettings, Settings, SettingsError


@dataclass(frozen=True)
class Saved:
    """A saved result as somebody brings it.

    Attributes:
        path: Where the file lies, under whatever name.
        name: Its original name.
        step: Training step of the weights; None to take the one that the result says.
    """

    path: Path
    name: str
    step: int | None = None


@dataclass(frozen=True)
class Imported:
    """The outcome of an import of results.

    Attributes:
        analysis_ids: One for each file, in their order.
        reused_ids: The ids that were here before.
    """

    analysis_ids: list[int]
    reused_ids: list[int]


def import_results(
    files: Sequence[Saved], *, model_name: str, user: str | Actor, env: Settings | None = None
) -> Imported:
    """Add saved results to the lab as finished analyses of one model; all of them or none.

    The same result is added once, however often it comes.

    Args:
        files: What ``Result.save`` has written.
        model_name: The model that they are of; made if there is none of that name.
        user: Who brings them; a mere name is somebody at the command line.
        env: Where database and artefacts are; from ``SEIGH_*`` when not given.

    Raises:
        ResultError, SettingsError, StoreError: If one of them cannot be used; then none is added.
    """
    env, actor = env or Settings(), acting(user)
    actor.check_work()
    if not files:
        raise SettingsError("There is nothing to import; give at least one saved result.")
    results = [Result.load(file.path, name=file.name) for file in files]
    steps = [_step(file, result) for file, result in zip(files, results, strict=True)]
    artifacts = ArtifactStore(env.artifact_folder, env.artifacts_quota)
    artifacts.check_room(sum(result.eigenvectors.nbytes for result in results))
    ids: list[int] = []
    reused: list[int] = []
    kept: list[str] = []
    try:
        with sessions(env.database).begin() as s:
            for file, step, result in zip(files, steps, results, strict=True):
                analysis, added = store.add_imported(
                    s,
                    result,
                    model_name=model_name,
                    settings=result.settings,
                    checkpoint_sha256=result.checkpoint_sha256,
                    step=step,
                    filename=file.name,
                    user=actor.name,
                    words=_words(result),
                )
                ids.append(analysis.id)
                if not added:
                    reused.append(analysis.id)
                    continue
                actions.imported(s, actor, analysis.id)
                if len(result.eigenvectors):
                    key = eigenvectors_key(analysis.id, secrets.token_hex(16))
                    kept.append(key)
                    arrays: dict[str, Any] = {"eigenvectors": result.eigenvectors}
                    arrays |= {"eigenvalues": result.eigenvalues}
                    about = {
                        "checkpoint_sha256": result.checkpoint_sha256,
                        "settings": result.settings.model_dump_json(),
                    }
                    analysis.eigenvectors_sha256 = artifacts.put_arrays(key, arrays, about)
                    analysis.eigenvectors = key
    except BaseException:
        for key in kept:
            artifacts.delete(key)
        raise
    return Imported(ids, reused)


def import_logs(
    folder: Path,
    *,
    model_name: str,
    user: str | Actor,
    env: Settings | None = None,
    dimension: int | None = None,
) -> tuple[Imported, list[str]]:
    """Add the curves that the paper's authors published to the lab, as finished analyses of one model.

    The same result is added once, however often it comes. The network is one of the paper's four, told by its
    number of parameters (``seigh.core.results.published.TABLE_1``).

    Args:
        folder: Folder of the log files, or one file.
        model_name: The model that they are of; made if there is none of that name.
        user: Who brings them; a mere name is somebody at the command line.
        env: Where the database is; from ``SEIGH_*`` when not given.
        dimension: D, where no file says it.

    Returns:
        What became of them, by step and split; and a sentence about each line or file that is left out.

    Raises:
        PublishedError, StoreError: If there is no result among them, or none that can be of this model; then
            none is added.
    """
    env, actor = env or Settings(), acting(user)
    actor.check_work()
    found, left_out = published.read(folder, parameters=dimension)
    ids: list[int] = []
    reused: list[int] = []
    with sessions(env.database).begin() as s:
        for each in found:
            settings = _published_settings(each)
            analysis, added = store.add_imported(
                s,
                each.outcome,
                model_name=model_name,
                settings=settings,
                checkpoint_sha256=_published_weights(each),
                step=each.step,
                filename=each.file,
                user=actor.name,
                words={},
            )
            ids.append(analysis.id)
            if added:
                actions.imported(s, actor, analysis.id)
            else:
                reused.append(analysis.id)
    return Imported(ids, reused), left_out


def _published_settings(result: published.Published) -> AnalysisSettings:
    """Return the settings of a published result, as the paper's Table 1 states them.

    Raises:
        PublishedError: It is of none of the paper's networks.
    """
    dimension = result.outcome.parameters
    if dimension not in published.TABLE_1:
        known = ", ".join(f"{number:,} ({row.problem})" for number, row in published.TABLE_1.items())
        raise published.PublishedError(
            f"A network of {dimension:,} parameters is none of the paper's, which have {known}; give the "
            "right number with --dimension."
        )
    row = published.TABLE_1[dimension]
    problem = training.problems()[row.problem]
    outer = len(result.outcome.eigenvalues)
    return AnalysisSettings(
        architecture=problem.architecture,
        data=problem.data,
        split=result.split,
        subset="first-per-class",
        samples=row.samples,
        k=len(result.outcome.overlap),
        method="seigh",
        outer=outer,
        inner=row.inner if outer == row.outer else None,
    )


def _published_weights(result: published.Published) -> str:
    """Return a stand-in for the hash of weights that nobody has: the same for both splits of a step."""
    said = f"published: {result.outcome.parameters} parameters at step {result.step}"
    return hashlib.sha256(said.encode()).hexdigest()


def _step(file: Saved, result: Result) -> int:
    step = file.step if file.step is not None else result.record.get("step")
    if not isinstance(step, int):
        raise SettingsError(
            f"The result '{file.name}' does not say at which training step its weights are; give the step."
        )
    return step


def _words(result: Result) -> dict[str, dict[str, Any]]:
    """Return the words of each curve, profile and quantity; unknown ones go by their name."""
    known = {**curves.available(), **curves.of_own_masks(result.settings)}
    unknown = "An observable of a plug-in that is not installed here."
    return {
        name: known[name].words() if name in known else {"title": name, "note": unknown}
        for name in (*result.curves, *result.profiles, *result.quantities)
    }
