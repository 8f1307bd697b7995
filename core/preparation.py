"""Whether an analysis can work, before anything is computed or kept: the one place that decides.

Command line, forms, queue and workers ask it, so that all of them refuse the same, with the same sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from seigh.core import curves
from seigh.core.checksum import sha256_of
from seigh.core.names import EARLIER, OF_EARLIER
from seigh.core.network import past_of
from seigh.core.overlap.observables import Past
from seigh.core.problems import architectures, data, graphs, losses, masks
from seigh.core.settings import BY_STEP, AnalysisSettings, Settings, SettingsError, named_file


def named(settings: AnalysisSettings) -> AnalysisSettings:
    """The settings with the name of an exported network in place of its file's path; others as they are.

    Raises:
        SettingsError: The file holds no network that can be an architecture.
    """
    if not graphs.is_file(settings.architecture):
        return settings
    return settings.model_copy(update={"architecture": architectures.canonical(settings.architecture)})


def check(settings: AnalysisSettings, env: Settings | None = None) -> int:
    """Refuse settings that cannot work for their architecture, whatever the checkpoint and the data are.

    Args:
        settings: Settings of an analysis.
        env: With what this installation allows; anything where it is not given.

    Returns:
        D, the number of parameters that the settings choose.

    Raises:
        SettingsError: There is no such architecture, parameter, method, loss or curve, or the sizes do not
            go together.
    """
    parameters = architectures.parameter_count(settings.architecture, settings.parameters)
    settings.check(parameters)
    losses.build(settings)
    losses.check_penalty(settings, architectures.trainable(settings.architecture))
    curves.check(settings)
    if env is not None and env.max_k is not None and settings.k > env.max_k:
        raise SettingsError(
            f"k = {settings.k:,} is more than this installation allows, {env.max_k:,}; choose a smaller k, "
            "or raise SEIGH_MAX_K."
        )
    return parameters


def sizes(settings: Sequence[AnalysisSettings], env: Settings | None = None) -> list[int]:
    """N of the subset that each of these settings asks for; every data set is read once.

    Args:
        settings: All of one architecture.
        env: Where the data are.

    Raises:
        DataError: The data are missing, malformed, too few, or do not fit the architecture.
        SettingsError: There is no such architecture.
    """
    if not settings:
        return []
    model = architectures.build(settings[0].architecture)
    read = {}
    for name, split in dict.fromkeys((each.data, each.split) for each in settings):
        dataset = data.load(name, split, env=env or Settings())
        for each in [each for each in settings if (each.data, each.split) == (name, split)]:
            data.check_matches(dataset, model, each)
            index = data.subset_index(dataset, each.subset, each.samples, each.seed, each.listed)
            read[each] = len(index)
    return [read[each] for each in settings]


@dataclass(frozen=True)
class Others:
    """What settings name beside checkpoint and data, read.

    Attributes:
        settings: These settings, which name every file by its hash, ``sha256:<digest>``.
        scores: Of the user's own masks by their names, each (D,) fp64 in the order of θ.
        past: Earlier checkpoints, as ``initial`` and ``previous``.
        files: Where each file lies, by its hash.
        notes: What was done to make a mask fit, a sentence each, by the name of the mask.
    """

    settings: AnalysisSettings
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    past: Mapping[str, Past] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def others(
    settings: AnalysisSettings, env: Settings | None = None, *, checkpoints: Sequence[str] = ()
) -> Others:
    """Read the files beside checkpoint and data that settings name.

    Args:
        settings: Settings of an analysis. Choices made on queueing are not read.
        env: Where the artefact store is.
        checkpoints: Hashes of the checkpoints that are to be analysed.

    Raises:
        MaskError, CheckpointError: A file is missing, damaged, or does not fit the architecture.
        SettingsError: An earlier checkpoint is not named, or is the one that is analysed.
    """
    env = env or Settings()
    scores: dict[str, Tensor] = {}
    past: dict[str, Past] = {}
    stored: dict[str, str] = {}
    files: dict[str, Path] = {}
    notes: dict[str, str] = {}
    for setting, names in curves.of_earlier(settings).items():
        file = getattr(settings, setting)
        of_plugins_alone = OF_EARLIER.keys().isdisjoint(names)
        if not file and of_plugins_alone:  # their results say why they are missing
            continue
        if not file:
            raise SettingsError(
                f"{names[0]} needs {EARLIER[setting]}; name its file with --{setting}, or leave the curve "
                "out."
            )
        if file == BY_STEP:
            continue
        path = masks.located(file, env)
        sha256 = sha256_of(path)
        if sha256 in checkpoints:
            raise SettingsError(
                f"{setting} names the checkpoint that is analysed ('{path.name}'), from which nothing has "
                "moved; name an earlier one, or leave this checkpoint out."
            )
        past[setting] = past_of(path, settings)
        stored[file] = f"sha256:{sha256}"
        files[sha256] = path
    for entries, pruned in ((settings.masks, False), (settings.pruned, True)):
        for name, file in map(named_file, entries):
            path = masks.located(file, env)
            own = masks.read(path, settings, pruned=pruned, env=env)
            scores[name] = own.scores
            stored[file] = f"sha256:{own.sha256}"
            files[own.sha256] = path
            if own.note:
                notes[name] = own.note
    return Others(settings.with_files(stored), scores, past, files, notes)


def by_step(settings: AnalysisSettings) -> AnalysisSettings:
    """These settings for the queue: earlier checkpoints that nobody has named are steps of the model."""
    needed = curves.of_earlier(settings)
    missing = {setting: BY_STEP for setting in needed if not getattr(settings, setting)}
    return settings.model_copy(update=missing)


def say_earlier_steps(
    settings: Sequence[AnalysisSettings], steps: Sequence[int], analysed: Sequence[int]
) -> list[str]:
    """Which steps stand for the earlier checkpoints that these settings leave to the model, in sentences.

    Args:
        settings: Settings of analyses, as ``by_step`` gives them.
        steps: Steps of all checkpoints of the model.
        analysed: The steps that are to be analysed.

    Raises:
        SettingsError: None of them has an earlier step.
    """
    first = min(steps)
    said = []
    asked = {
        name: setting
        for each in settings
        for setting, names in curves.of_earlier(each).items()
        for name in names
        if getattr(each, setting) == BY_STEP
    }
    for curve, setting in asked.items():
        if not any(step > first for step in analysed):
            raise SettingsError(
                f"{curve} compares with an earlier step, and step {first:,} is the model's first; add an "
                "earlier checkpoint, or leave the curve out."
            )
        what = f"step {first:,}" if setting == "initial" else "the step before"
        left_out = f"; of step {first:,} itself it is left out" if first in analysed else ""
        said.append(f"{curve} compares each step with {what}{left_out}.")
    return said
