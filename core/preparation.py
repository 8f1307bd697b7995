"""Whether an analysis can work, before anything is computed or kept: the one place that decides.

Command line, forms, queue and workers ask it, so that all of them refuse the same, with the same sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

from seigh.core import curves
from seigh.core.problems import architectures, data, losses
from seigh.core.settings import AnalysisSettings, Settings, SettingsError


def check(settings: AnalysisSettings, env: Settings | None = None) -> int:
    """Refuse settings that cannot work for their architecture, whatever the checkpoint and the data are.

    Args:
        settings: Of an analysis.
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
    curves.check(settings.curves)
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
