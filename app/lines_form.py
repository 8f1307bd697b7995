"""How the lines of *Compare* look: colour, dash and panel by any setting or fact, means, and a baseline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import streamlit as st

from seigh.app import charts, figures
from seigh.app.common import database, first_of, of_different_colors, plain, say_what_is_gone
from seigh.app.figures import label_of
from seigh.app.lines import (
    OWN,
    USUAL,
    Arrangement,
    at_shared_places,
    averaged,
    baselines,
    heights,
    in_lines,
    points_of,
    relative,
    told,
    whole_curves,
)
from seigh.core.figures import Figure
from seigh.core.lab import listing
from seigh.core.lab.listing import Column, Query, is_observable
from seigh.core.lab.models import State
from seigh.core.order import in_order

# Columns of the listing that are found rather than set, or that ``OWN`` has.
_FOUND = frozenset(
    {"id", "state", "model", "architecture", "step", "split", "curvature", "data", "N", "samples", "D"}
    | {"method", "k", "seed", "mask", "overlap", "overlap_error", "ratio", "ratio_error", "chance", "lambda"}
    | {"lambda_error", "resolved_k", "seconds", "eigenpair_seconds", "hvps", "submitted", "finished"}
    | {"attempts", "message", "test_accuracy", "train_accuracy", "test_loss", "train_loss"}
)
_PLACES = {
    "color": ("Colour", "all that differs", "Lines with the same value have the same colour."),
    "dash": ("Dash", "split", f"Up to {charts.MOST_DASHES} values have a dash each."),
    "panel": ("Panel", "one for all", "A chart for each value, side by side on the same axes."),
}


@dataclass(frozen=True)
class Lines:
    """The chosen analyses as lines.

    Attributes:
        chosen: ``lines.in_lines`` with point (``lines.points_of``), one analysis for each point.
        arrangement: What decides about them.
        in_url: As it stands in the address.
        baseline: What the pinned baseline is called; None without one.
        base_of: The series that is the baseline of each.
        others: Further analyses of these points, which differ from the chosen ones in numerical settings or
            in what they were asked for.
    """

    chosen: pd.DataFrame
    arrangement: Arrangement
    in_url: dict[str, list[str]]
    baseline: str | None = None
    base_of: Mapping[str, str] = field(default_factory=dict)
    others: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["analysis_id", "point"]))

    @property
    def every(self) -> list[int]:
        """The ids of all analyses of the points, also of those that are not chosen."""
        hidden = self.others[self.others["point"].isin(self.chosen["point"])]
        return [*self.chosen["analysis_id"].tolist(), *hidden["analysis_id"].tolist()]

    def having(self, ids: Collection[int]) -> pd.DataFrame:
        """The chosen analyses; in place of one that is not among ``ids``, which have what is looked for, the
        other one of its point that is: of several that with the largest k, then the latest.

        Returns:
            A row for each point, in the order of ``chosen``.
        """
        wanted = set(ids)
        without = self.chosen.loc[~self.chosen["analysis_id"].isin(wanted), "point"]
        found = self.others[self.others["analysis_id"].isin(wanted) & self.others["point"].isin(without)]
        if found.empty:
            return self.chosen
        found = found.sort_values(["k", "analysis_id"]).drop_duplicates("point", keep="last")
        rows = pd.concat([self.chosen[~self.chosen["point"].isin(found["point"])], found])
        return rows.set_index("point", drop=False).loc[self.chosen["point"]].reset_index(drop=True)

    @property
    def colors(self) -> dict[str, str]:
        """Colour of every group."""
        return charts.group_colors(self.chosen)

    @property
    def colors_of_models(self) -> dict[str, str]:
        """Colour of every model, for what is recorded of it: that of its lines where groups are models."""
        if self.arrangement.color or "model" in self.arrangement.over:
            return charts.group_colors(self.chosen.assign(group=self.chosen["model"]))
        return self.colors

    def of_different_colors(self) -> pd.DataFrame:
        """As many of the analyses as have colours of their own; which are left out is said."""
        return of_different_colors(self.chosen)

    def saying_whose(self, figure: Figure, shown: Collection[int]) -> Figure:
        """The figure whose words name the analyses that it has points of, where other charts have another
        one of the same point.

        Args:
            figure: A chart of these lines.
            shown: The ids of the analyses that it has points of.
        """
        others = sorted(set(shown) - set(self.chosen["analysis_id"]))
        if not others:
            return figure
        whose = (
            f"Here {first_of([f'#{each}' for each in others])} {'stands' if len(others) == 1 else 'stand'} "
            "for the analyses of the same checkpoints and data that other charts show, which have not been "
            "asked for this."
        )
        return replace(figure, how=f"{figure.how} {whose}")

    def means(self, points: pd.DataFrame) -> pd.DataFrame:
        """The points, or where lines are means, one for each line and step; how many they are of is said."""
        found = self.means_of_points(points)
        self.say(found)
        return found

    def means_of_points(self, points: pd.DataFrame) -> pd.DataFrame:
        """The points, or where lines are means, one for each line and step."""
        return averaged(points) if self.arrangement.over and len(points) else points

    def means_of_curves(self, curves: pd.DataFrame) -> pd.DataFrame:
        """The curves, or their means, as far as all curves of a line and step reach."""
        return whole_curves(averaged(curves)) if self.arrangement.over and len(curves) else curves

    def means_of_profiles(self, profiles: pd.DataFrame) -> pd.DataFrame:
        """The profiles, or their means at the places of all that come together."""
        if not self.arrangement.over or profiles.empty:
            return profiles
        return whole_curves(averaged(at_shared_places(profiles)))

    def say(self, found: pd.DataFrame, errors: str = "Thin bars") -> None:
        """Say what means are of, on the page; see ``said``."""
        if sentence := self.said(found, errors):
            st.caption(plain(sentence))

    def said(self, found: pd.DataFrame, errors: str = "Thin bars") -> str:
        """What means are of, and how they are drawn; empty where lines are no means.

        Args:
            found: A table of means.
            errors: What shows their stated errors.
        """
        if not self.arrangement.over or found.empty:
            return ""
        counts, over = found["n"], [self.arrangement.labels[each] for each in self.arrangement.over]
        of = f"{counts.min():,}" if counts.nunique() == 1 else f"{counts.min():,} to {counts.max():,}"
        alone = " A point of a single analysis has no spread." if (counts == 1).any() else ""
        return (
            f"Means over {', '.join(over)}, n = {of}. "
            f"Pale: ± one standard deviation (n − 1). {errors}: the mean of the stated errors, which bounds "
            f"that of the mean.{alone}"
        )

    def beside_baseline(
        self, points: pd.DataFrame, measure: str, what: str
    ) -> tuple[dict[str, Figure], list[str]]:
        """Figures of the difference and the ratio to the pinned baseline, and sentences about what has
        neither; both empty without a baseline.

        Args:
            points: A point of each line at each step, with LINE.
            measure: The column that is compared.
            what: What that is.
        """
        if self.baseline is None:
            return {}, []
        there = set(points["series"])
        base_of = {line: base for line, base in self.base_of.items() if {line, base} <= there}
        if not base_of:
            return {}, [f"The baseline {self.baseline} has no {what}."]
        found = relative(heights(points, measure), base_of)
        drawn = {
            kind: figures.relative_to_baseline(table, self.colors, what, self.baseline, ratio=ratio)
            for kind, ratio, table in (
                ("difference", False, found.differences),
                ("quotient", True, found.ratios),
            )
            if len(table)
        }
        without = {
            "Neither, as the baseline has no line that differs in its model alone": sorted(
                there - base_of.keys()
            ),
            "Neither, as the baseline has no value at that step": found.unmatched,
            "Neither, as its stated error or that of the baseline is not known": found.unknown,
            "No ratio, as the baseline is zero within its stated error": found.unresolved,
        }
        return drawn, [f"{why}: {first_of(names)}." for why, names in without.items() if names]


def lines_of(analyses: pd.DataFrame, arrangement: Arrangement = USUAL) -> Lines:
    """The analyses as lines, without a baseline.

    Args:
        analyses: ``queries.comparable``, and the further columns of the arrangement as texts.
        arrangement: Which columns decide.
    """
    every = in_lines(analyses, arrangement).assign(point=points_of(analyses, arrangement))
    chosen = charts.distinct_lines(every, arrangement.further)
    others = every[~every["analysis_id"].isin(chosen["analysis_id"])]
    return Lines(chosen, arrangement, {}, others=others)


def choose_lines(analyses: pd.DataFrame, asked: dict[str, list[str]]) -> Lines:
    """What the address or the user says of colour, dash, panel, means and baseline, and the lines of it."""
    state = st.session_state
    if asked:
        state["compare_over"] = list(asked.get("over", []))
        for place in _PLACES:
            state[f"compare_{place}"] = asked.get(place, [None])[0]
    open_now = any(name in asked for name in (*_PLACES, "over", "baseline", "baseline_model"))
    with st.expander("Colours, panels, means and a baseline", icon=":material/palette:", expanded=open_now):
        with database()() as s:
            further = {
                name: each
                for name, each in listing.known(s, Query()).items()
                if name not in _FOUND and each.kind != "time" and not is_observable(name)
            }
        labels = {name: label for name, (_, label) in OWN.items()} | {"tag": "tags"}
        labels |= {name: label_of(each) for name, each in further.items()}
        wanted = [*asked.get("over", []), *(asked[place][0] for place in _PLACES if asked.get(place))]
        say_what_is_gone([name for name in wanted if name != "none"], list(labels), "column")
        state["compare_over"] = [each for each in state.get("compare_over", []) if each in labels]
        chosen = {}
        with st.container(horizontal=True, vertical_alignment="bottom"):
            for place, (label, usual, about) in _PLACES.items():
                options = list(labels)
                if state.get(f"compare_{place}") not in options:
                    state[f"compare_{place}"] = None
                chosen[place] = st.selectbox(
                    label, options, key=f"compare_{place}", format_func=labels.__getitem__, help=about,
                    index=None, placeholder=usual, persist_state="session", width=190,
                )  # fmt: skip
            over = st.multiselect(
                "Mean over", list(labels), key="compare_over", format_func=labels.__getitem__,
                placeholder="every analysis by itself", persist_state="session", width=260,
                help="Analyses that differ in nothing else become one line, with the standard deviation: "
                "seeds, for example, or models that differ in their seed. Architectures and sizes are not "
                "mixed, unless they are chosen here, too.",
            )  # fmt: skip
        arrangement = arranged(chosen, over, labels)
        analyses = with_columns(analyses, arrangement, further)
        lines = lines_of(analyses, arrangement)
        dashes = lines.chosen["dash"].nunique()
        if dashes > charts.MOST_DASHES:
            st.warning(
                f"{labels[chosen['dash'] or 'split']} has {dashes} values, and no more than "
                f"{charts.MOST_DASHES} dashes can be told apart; choose another column for the dash.",
                icon=":material/line_style:",
            )
            lines = lines_of(analyses, replace(arrangement, dash="split"))
        in_url = {place: [value] for place, value in chosen.items() if value}
        in_url |= {"over": list(over)} if over else {}
        return with_baseline(replace(lines, in_url=in_url), asked)


def arranged(chosen: Mapping[str, str | None], over: Sequence[str], labels: Mapping[str, str]) -> Arrangement:
    """The arrangement of these choices, whose columns are those of ``queries.comparable``."""
    column = {name: OWN[name][0] if name in OWN else name for name in labels}
    places = {place: column[value] for place, value in chosen.items() if value}
    return replace(
        USUAL,
        **places,
        over=tuple(column[each] for each in over if column[each] not in places.values()),
        labels={column[name]: label for name, label in labels.items()},
    )


def with_columns(
    analyses: pd.DataFrame, arrangement: Arrangement, further: Mapping[str, Column]
) -> pd.DataFrame:
    """The analyses with the columns of the arrangement that only the listing has, as texts."""
    wanted = [name for name in arrangement.named if name in further]
    if not wanted and "tag" not in arrangement.named:
        return analyses
    query = Query(where={"state": [State.finished]}, archived=True)
    with database()() as s:
        rows = listing.rows(s, query, wanted).rows.set_index("id")
    found = {name: rows[name].map(told) for name in wanted} | {"tag": rows["tags"].map(told)}
    return analyses.assign(
        **{name: analyses["analysis_id"].map(values).fillna("–") for name, values in found.items()}
    )


def with_baseline(lines: Lines, asked: dict[str, list[str]]) -> Lines:
    """The lines with the baseline that somebody pins: a model, or one line, which an address names by one of
    its analyses."""
    chosen = lines.chosen
    series = in_order(chosen["series"].unique())
    models = in_order(chosen["model"].unique()) if "model" not in lines.arrangement.over else []
    options = {f"model {name}": name for name in models} if len(models) > 1 else {}
    first = chosen.sort_values("analysis_id").drop_duplicates("series").set_index("series")["analysis_id"]
    of_analysis = dict(zip(chosen["analysis_id"].astype(str), chosen["series"], strict=True))
    names = [*options, *series] if len(series) > 1 else []
    state = st.session_state
    if asked:
        wanted = asked.get("baseline", [""])[0]
        model = asked.get("baseline_model", [""])[0]
        state["compare_baseline"] = of_analysis.get(wanted) or (f"model {model}" if model else None)
        say_what_is_gone([wanted] if wanted and wanted not in of_analysis else [], [], "analysis")
        say_what_is_gone([model] if model else [], models, "model")
    if state.get("compare_baseline") not in names:
        state["compare_baseline"] = None
    if not names:
        return lines
    pinned = st.selectbox(
        "Baseline", names, key="compare_baseline", index=None, placeholder="none", persist_state="session",
        help="Adds the difference and the ratio to it at the same step; where it has one step only, to "
        "that. A model is compared with lines that differ from its own in the model alone.",
        width=400,
    )  # fmt: skip
    if pinned is None:
        return lines
    if pinned in options:
        return replace(
            lines,
            baseline=options[pinned],
            base_of=baselines(chosen, model=options[pinned]),
            in_url=lines.in_url | {"baseline_model": [options[pinned]]},
        )
    return replace(
        lines,
        baseline=pinned,
        base_of=baselines(chosen, series=pinned),
        in_url=lines.in_url | {"baseline": [str(first[pinned])]},
    )
