"""Panels that a page and the report draw alike: pairs of analyses, size and name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd
from sqlalchemy.orm import Session

from seigh.app import charts
from seigh.app.figures import Panel
from seigh.app.lines import LINE
from seigh.app.lines_form import Lines
from seigh.core.lab import queries
from seigh.core.lab.models import Mask
from seigh.core.names import IOU, MASKS_CALLED, mask_called
from seigh.core.results.masks import Mask as StoredMask

StoredMasks = Mapping[int, Mapping[str, StoredMask]]

MASKS_MEASURE = "IoU of masks"


def heatmaps_found(values: pd.DataFrame, sets: pd.DataFrame) -> Iterator[Panel]:
    """The heatmaps that there are values for: of the masks, which sets of the same parameters share, and of
    each set's eigenspaces."""
    masks = values[values["measure"] == IOU]
    for subset, rows in sets.groupby("subset"):
        # Of the first of them whose masks have been compared.
        for number, each in rows.groupby("set_id"):
            if len(pairs := within(masks, each)):
                title = "Masks" if sets["subset"].nunique() == 1 else f"Masks of {subset}"
                yield Panel(title, f"masks_{number}", MASKS_MEASURE, pairs)
                break
    overlaps = values[values["measure"] == "overlap"]
    for number, rows in sets.groupby("set_id"):
        if len(pairs := within(overlaps, rows)):
            title = f"Eigenspaces, {rows['series'].iloc[0]}"
            yield Panel(title, f"eigenspaces_{number}", "overlap of eigenspaces", pairs)


def heatmaps_of_masks(s: Session, sets: pd.DataFrame, names: Sequence[str], k: int) -> Iterator[Panel]:
    """The heatmaps of further masks at one size, of each set of analyses that has them.

    There is one for all sets where these have the same masks, as of scores that do not depend on the data.

    Args:
        s: A reading session.
        sets: ``queries.stabilisation_sets`` with series.
        names: Of the masks.
        k: Their size.
    """
    of_sets = {
        (number, rows["series"].iloc[0]): queries.mask_pairs(s, rows["analysis_id"].tolist(), names, k)
        for number, rows in sets.groupby("set_id")
    }
    for name in names:
        found = {of: each[name] for of, each in of_sets.items() if each[name]["first_id"].nunique() > 1}
        told = [each.drop(columns=["first_id", "second_id"]) for each in found.values()]
        is_same = len(told) > 1 and all(each.equals(told[0]) for each in told[1:])
        for (number, series), values in found.items():
            title = f"Mask {mask_called(name)}" + ("" if is_same else f", {series}")
            yield Panel(title, f"mask_{name}_{number}", MASKS_MEASURE, values)
            if is_same:
                break


def further_masks(s: Session, ids: Sequence[int]) -> list[str]:
    """Names of the masks of these analyses beside that of the largest |θ|, which comparisons have."""
    return [name for name in queries.mask_names(s, ids) if name != Mask.magnitude]


def within(values: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The pairs of two of these analyses."""
    ids = rows["analysis_id"]
    return values[values["first_id"].isin(ids) & values["second_id"].isin(ids)]


def names_of_sets(sets: pd.DataFrame) -> pd.Series[str]:
    """Return the words that tell the sets of one model apart; their number where no shown setting does."""
    names = charts.name_series(sets).str.removeprefix(sets["model"].iloc[0] + " · ")
    ambiguous = sets.groupby(names)["set_id"].transform("nunique") > 1
    return names.where(
        ~ambiguous, names + ", k = " + sets["k"].astype(str) + " · #" + sets["set_id"].astype(str)
    )


def nearest(frame: pd.DataFrame, k: int) -> pd.DataFrame:
    """The rows of the size nearest to k, of those that the frame has."""
    size: int = min(frame["k"].unique(), key=lambda size: abs(size - k))
    return frame[frame["k"] == size]


# Beyond this ratio of their largest overlaps, a panel beside another one is a line at zero.
SHARED_AXIS = 10.0

# How much higher an axis may be for the sake of the errors of what it is of.
FOR_ERRORS = 1.5


def top_of(curves: pd.DataFrame) -> float | None:
    """Where an axis ends that holds the overlaps of all lines, and what ties may make of them; None where the
    lines differ so much that each needs an axis of its own. Errors are within it, too, unless they are so
    large that there would be little room for the overlaps themselves."""
    tops = curves.groupby("series")[["overlap", "greatest"]].max().max(axis=1)
    if tops.max() > SHARED_AXIS * tops.min():
        return None
    top = float(tops.max())
    reached = float((curves["overlap"] + curves["error"].fillna(0)).max())
    return 1.05 * max(top, min(reached, FOR_ERRORS * top))


def having_observable(s: Session, lines: Lines, name: str) -> pd.DataFrame:
    """The chosen analyses of lines, or others of their points that have an observable: ``Lines.having``."""
    return lines.having(queries.with_observable(s, lines.every, name))


def further_points(s: Session, lines: Lines, name: str, k_of: Callable[[int], int]) -> pd.DataFrame:
    """A further curve at the points of lines at one size each, where it is known.

    Args:
        s: A reading session.
        lines: Whose curve it is; of a point any analysis that has it.
        name: Name of the curve.
        k_of: The size of a model of so many parameters.
    """
    having = having_observable(s, lines, name)
    found = [
        queries.curves_at(s, rows["analysis_id"].tolist(), name, k_of(int(str(parameters))))
        for parameters, rows in having.groupby("parameters")
    ]
    return pd.concat(found, ignore_index=True).merge(having[LINE], on="analysis_id")


# Whose the second of two masks is that are compared, by its name in addresses.
BESIDE: Mapping[str, str] = MappingProxyType(
    {
        "same": "the same step",
        "previous": "the step before",
        "first": "the first step",
        "last": "the last step",
    }
)

# What several masks are compared with side by side: that of the largest |θ|, and themselves a step before.
EACH_BESIDE = ("same", "previous")


def at_other_step(
    chosen: pd.DataFrame, which: str, further: Sequence[str] = (), others: pd.DataFrame | None = None
) -> dict[int, int]:
    """The analysis of another step, by that of every step: of those that differ in nothing but the step.

    Args:
        chosen: ``queries.comparable``, one analysis for each point of a line.
        which: A key of ``BESIDE``. An analysis that would be compared with one of its own step, such as the
            first with that of the first step, is left out, unless all are ("same").
        further: Columns that make lines beside ``charts.LINE_COLUMNS``.
        others: Analyses of the same points in the same order, of which the other ones are; None: ``chosen``.
    """
    rows = chosen.assign(other=(chosen if others is None else others)["analysis_id"].to_numpy())
    if which == "same":
        return dict(zip(rows["analysis_id"].tolist(), rows["other"].tolist(), strict=True))
    found: dict[int, int] = {}
    for _, line in rows.groupby([*charts.LINE_COLUMNS, *further], dropna=False):
        line = line.sort_values("step")
        numbers, theirs = line["analysis_id"].tolist(), line["other"].tolist()
        if which == "previous":
            found |= dict(zip(numbers[1:], theirs[:-1], strict=True))
        elif which == "first":
            found |= dict.fromkeys(numbers[1:], theirs[0])
        else:
            found |= dict.fromkeys(numbers[:-1], theirs[-1])
    return found


def masks_of_steps(
    s: Session,
    lines: Lines,
    pairs: Sequence[tuple[str, str]],
    which: str = "same",
    k_of: Callable[[int], int] | None = None,
    stored: StoredMasks | None = None,
) -> dict[tuple[str, str], pd.DataFrame]:
    """The IoU of pairs of masks for every k or at one: ``queries.mask_iou`` with ``LINE``, at the points of
    lines that have both.

    Args:
        s: A reading session.
        lines: Whose masks they are; of a point any analysis that has a mask.
        pairs: The names of both of each.
        which: A key of ``BESIDE``: whose the second one is.
        k_of: As of ``queries.mask_iou``.
        stored: ``queries.stored_masks`` of the analyses of the lines; None: they are read.
    """
    known = queries.stored_masks(s, lines.every) if stored is None else stored
    of = {
        name: lines.having([number for number, masks in known.items() if name in masks])
        for name in {name for pair in pairs for name in pair}
    }
    further = lines.arrangement.further
    beside = {(one, other): at_other_step(of[one], which, further, of[other]) for one, other in pairs}
    found = queries.mask_iou(s, beside, known, k_of)
    if which != "same":
        for one, other in pairs:
            title = f"IoU of the mask {mask_called(one)} and "
            title += "that" if one == other else f"the mask {mask_called(other)}"
            found[one, other] = found[one, other].assign(title=f"{title} of {BESIDE[which]}")
    return {pair: each.merge(of[pair[0]][LINE], on="analysis_id") for pair, each in found.items()}


_OVERLAP = "overlap-"  # with this start the names of curves that are the overlap of a further mask


@dataclass(frozen=True)
class Masks:
    """The masks that some analyses have, and which of them are compared.

    Attributes:
        offered: Names of the masks whose overlap some of the analyses have, and what each is called.
        names: Names of those whose weights are known, so that they can be compared with each other.
        drawn: Names of the masks that are drawn side by side, no more than there are colours.
        pair: The two masks that are compared with each other at every k; None where there are none.
        stored: ``queries.stored_masks`` of the analyses.
        which: A key of ``BESIDE``: whose the second of them is.
    """

    offered: Mapping[str, str]
    names: Sequence[str]
    drawn: Sequence[str]
    pair: tuple[str, str] | None
    stored: StoredMasks
    which: str = "same"

    @property
    def called(self) -> dict[str, str]:
        """What each drawn mask is called, by name."""
        return {name: self.offered[name] for name in self.drawn}

    @property
    def known(self) -> dict[str, str]:
        """The same of those whose weights are known."""
        return {name: called for name, called in self.called.items() if name in self.names}

    @property
    def colors(self) -> dict[str, str]:
        """Colour of each drawn mask, by what it is called."""
        return dict(zip(self.called.values(), charts.MODEL_COLORS, strict=False))


def masks_of(s: Session, ids: Sequence[int]) -> Masks:
    """The masks of these analyses, compared as *Compare* does it before anybody chooses."""
    offered = dict(MASKS_CALLED) | {
        name.removeprefix(_OVERLAP): name.removeprefix(_OVERLAP)
        for name in queries.curve_names(s, ids)
        if name.startswith(_OVERLAP)
    }
    stored = queries.stored_masks(s, ids)
    names = queries.names_of_masks(stored)
    drawn = [name for name in offered if name != "best"][: charts.MOST_COLORS]
    return Masks(offered, names, drawn, (names[0], names[1]) if len(names) > 1 else None, stored)


def overlap_of_each(
    s: Session, lines: Lines, masks: Mapping[str, str], k_of: Callable[[int], int]
) -> pd.DataFrame:
    """The overlap of several masks at one size each over training, as ``further_points``; see ``_by_mask``.

    Args:
        s: A reading session.
        lines: Whose masks they are.
        masks: What each is called, by name.
        k_of: The size of a model of so many parameters.
    """
    frames = {}
    for name, called in masks.items():
        if name in MASKS_CALLED:
            found = _overlap_at(s, lines.chosen, name, k_of)
        else:
            found = further_points(s, lines, _OVERLAP + name, k_of)
        frames[called] = found.assign(curve=_OVERLAP + name)
    return _by_mask(frames, "overlap")


def masks_beside(
    s: Session,
    lines: Lines,
    masks: Mapping[str, str],
    which: str,
    k_of: Callable[[int], int],
    stored: StoredMasks | None = None,
) -> pd.DataFrame:
    """How alike each of several masks is to another one at one size over training, as ``further_points``; see
    ``_by_mask``.

    Args:
        s: A reading session.
        lines: Whose masks they are.
        masks: What each is called, by name.
        which: A key of ``BESIDE``. A mask is compared with the one of the largest |θ| at the same step
            ("same"), else with itself at another step.
        k_of: The size of a model of so many parameters.
        stored: As of ``masks_of_steps``.
    """
    largest = str(Mask.magnitude)
    if which == "same":
        pairs = [(name, largest) for name in masks if name != largest]
    else:
        pairs = [(name, name) for name in masks]
    found = masks_of_steps(s, lines, pairs, which, k_of, stored)
    frames = {masks[name]: each for (name, _), each in found.items()}
    title = "IoU of every mask and "
    title += f"the {mask_called(largest)}" if which == "same" else f"that of {BESIDE[which]}"
    return _by_mask(frames, title)


def at_size(curves: pd.DataFrame, k_of: Callable[[int], int]) -> pd.DataFrame:
    """The rows of curves at one size for each model; ``k_of`` is that of a model of so many parameters."""
    return curves[curves["k"] == curves["parameters"].map(lambda number: k_of(int(number)))]


def _by_mask(frames: Mapping[str, pd.DataFrame], title: str) -> pd.DataFrame:
    """Points of several masks, by what each is called, in one table: lines have the mask for their colour;
    what was a line has a panel, unless panels are arranged."""
    named = [each.assign(group=called) for called, each in frames.items()]
    if not named:
        return pd.DataFrame(columns=[*LINE, "step", "k", "value"])
    found = pd.concat([each for each in named if len(each)] or named[:1], ignore_index=True)
    is_arranged = bool((found["panel"] != "").any())
    return found.assign(
        title=title,
        panel=found["panel"] if is_arranged else found["series"],
        dash=found["dash"] if is_arranged else "",
        series=found["series"] + " · " + found["group"],
    )


def _overlap_at(s: Session, chosen: pd.DataFrame, mask: str, k_of: Callable[[int], int]) -> pd.DataFrame:
    """The overlap of one of the masks that every analysis has, with the columns of ``further_points``."""
    found = [
        queries.overlap_by_step(
            s, k_of(int(str(parameters))), ids=rows["analysis_id"].tolist(), masks=(mask,)
        )
        for parameters, rows in chosen.groupby("parameters")
    ]
    points = pd.concat(found, ignore_index=True).rename(columns={"overlap": "value"})
    points = points.assign(
        lower=(points["value"] - points["error"]).clip(lower=0),
        upper=(points["value"] + points["error"]).clip(upper=1),
    )
    return (
        points[[*_POINT, "value", "error", "chance", "lower", "upper"]]
        .merge(chosen[LINE], on="analysis_id")
        .assign(note="")
    )


# What tells of which analysis a point is.
_POINT = ["analysis_id", "model", "step", "split", "curvature", "method", "seed", "parameters", "k"]


def metrics_near(found: pd.DataFrame, k_of: Callable[[int], int]) -> pd.DataFrame:
    """Keep the rows of ``queries.subspace_metrics`` nearest to one size each, of sizes that most have."""
    parts = [nearest(shared(rows), k_of(int(str(number)))) for number, rows in found.groupby("parameters")]
    return pd.concat(parts, ignore_index=True)


def last_steps(points: pd.DataFrame) -> pd.DataFrame:
    """Each line at its last step; where several analyses of a line have one, all of them."""
    return points[points["step"] == points.groupby("series")["step"].transform("max")]


def shared(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of those sizes k that most analyses, or most pairs of them, have."""
    numbers = frame.groupby("k")["k"].transform("size")
    most: int = numbers.max()
    return frame[numbers == most]
