"""Shared parts of the pages: the database, words for numbers and times, and the handling of failures."""

from __future__ import annotations

import functools
import gc
import getpass
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import pandas as pd
import streamlit as st
from sqlalchemy import make_url
from sqlalchemy.orm import Session, sessionmaker

from seigh.app.charts import MOST_COLORS
from seigh.app.charts.overlap import RANDOM_DATA
from seigh.app.navigation import link
from seigh.app.rows import (
    AnalysisRun,
    ComparisonRun,
    HasMatrix,
    HasParameters,
    HasRemaining,
    HasSamples,
    Run,
    TrainingRun,
)
from seigh.core.errors import UserError
from seigh.core.lab import incidents
from seigh.core.lab.models import State
from seigh.core.lab.session import FAULTS, in_words, migrate, sessions
from seigh.core.names import NO_SPLIT
from seigh.core.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_LEAST_FREE = 16 * 2**20  # bytes; below, writing to the database will soon fail


@st.cache_resource(show_spinner=False)
def settings() -> Settings:
    """This installation's configuration."""
    return Settings()


@st.cache_resource(show_spinner="Opening the database …")
def database() -> sessionmaker[Session]:
    """The lab's database, brought to the present schema once per process.

    ``database()()`` reads, ``database().begin()`` writes.
    """
    migrate(settings().database)
    return sessions(settings().database)


@functools.cache
def keep_modules() -> None:
    """Tell the garbage collector, once a page has run, that what it has imported stays: to look through it
    takes a tenth of a second, in which no page is answered."""
    gc.collect()
    gc.freeze()


def guarded(body: Callable[P, None]) -> Callable[P, None]:
    """Show one sentence where ``body``, a page or a fragment, fails; the log gets the traceback."""

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with sentence_for_errors():
            body(*args, **kwargs)

    return run


@contextmanager
def sentence_for_errors() -> Iterator[None]:
    """Turn an exception into a sentence on the page: its own if it was written for the user."""
    try:
        yield
    except UserError as error:
        st.error(plain(str(error)), icon=":material/error:")
    except FAULTS as error:
        logger.exception("The database cannot be used")
        st.error(plain(in_words(error)), icon=":material/error:")
    except OSError as error:
        logger.exception("A file cannot be used")
        st.error(
            plain(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}."),
            icon=":material/error:",
        )
    except Exception:
        logger.exception("A page failed")
        st.error(
            "Something went wrong on this page; reload it, and if that does not help, see the app's log.",
            icon=":material/error:",
        )


def said(write: Callable[[], None]) -> None:
    """Make a change, and say why where it cannot be made."""
    try:
        write()
    except UserError as error:
        st.toast(plain(str(error)), icon=":material/info:")


def show_incidents(s: Session) -> None:
    """Say what is wrong with the installation itself, as far as anybody has noticed."""
    free = _free_for_database()
    if free is not None and free < _LEAST_FREE:
        st.warning(
            f"The disk of the database has only {size(free)} left; free some space. Until then, work that "
            "cannot be stored is tried again.",
            icon=":material/hard_drive:",
        )
    for incident in incidents.recent(s):
        when = f"{counted(incident.times, 'time', 'times')}, the last one {ago(incident.last_at)}"
        st.warning(f"{plain(incident.message)} ({when})", icon=":material/report:")


def _free_for_database() -> int | None:
    """Bytes that the disk of the database has left, where it is a file of this machine."""
    file = make_url(settings().database).database
    if not settings().database.startswith("sqlite") or file is None:
        return None
    with suppress(OSError):
        return shutil.disk_usage(Path(file).parent).free
    return None


def asked_in_url(page: str) -> dict[str, list[str]]:
    """The selection that the address asks of ``page``; empty if the page itself wrote it there."""
    asked = {name: st.query_params.get_all(name) for name in st.query_params}
    return {} if asked == st.session_state.get(f"{page}_url") else asked


def whole_number(asked: dict[str, list[str]], name: str) -> int | None:
    """The whole number that the address gives for ``name``; None if it gives none, or an absurd one."""
    text = asked.get(name, [""])[0]
    return int(text) if text.isdecimal() and len(text) < 10 else None


def keep_in_url(page: str, selection: dict[str, list[str]]) -> None:
    """Write what ``page`` shows into the address, so that a copied link shows a colleague the same."""
    selection = {name: values for name, values in selection.items() if values}  # an address has no empty ones
    if selection != {name: st.query_params.get_all(name) for name in st.query_params}:
        st.query_params.from_dict(selection)
    st.session_state[f"{page}_url"] = selection


def address_is_read(page: str) -> None:
    """Leave the address of ``page`` as it is, although not all that it asks for can be shown: what is chosen
    on the page counts from now on."""
    st.session_state[f"{page}_url"] = {name: st.query_params.get_all(name) for name in st.query_params}


def say_what_is_gone(asked: Sequence[str] | None, there: Sequence[str], what: str) -> bool:
    """Say which of the things that an address asks for are not there; whether there are any."""
    gone = [name for name in asked or () if name not in there]
    if gone:
        one = len(gone) == 1
        st.warning(
            f"The address asks for {what if one else what + 's'} {named(gone)}, which "
            f"{'is' if one else 'are'} not there: deleted, renamed, or of another lab.",
            icon=":material/search_off:",
        )
    return bool(gone)


def named(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence, the first of them if there are many."""
    return first_of([f"**{plain(name)}**" for name in names], most)


def first_of(names: Sequence[str], most: int = 6) -> str:
    """``named`` for a plain text."""
    shown = ", ".join(names[:most])
    return f"{shown} and {counted(len(names) - most, 'other', 'others')}" if len(names) > most else shown


def choose_one(
    label: str,
    options: Sequence[T],
    key: str,
    asked: T | None,
    *,
    in_address: bool,
    placeholder: str,
    format_func: Callable[[T], str] = str,
) -> T | None:
    """One of several things; None where the address asks for one that is gone, until another one is chosen.

    Args:
        label: Label of the choice.
        options: What there is, the first of which is shown at first.
        key: Key of the choice in the session.
        asked: What the address asks for, if that can be read.
        in_address: Whether it asks for anything here.
        placeholder: What stands there while nothing is chosen.
        format_func: What each is called.
    """
    wanted = asked or st.session_state.get(key, options[0])
    if wanted is not None and wanted not in options:
        wanted = None if in_address else options[0]
    st.session_state[key] = wanted
    return st.selectbox(
        label,
        options,
        format_func=format_func,
        key=key,
        persist_state="session",
        placeholder=placeholder,
    )


# What an address names a model or an analysis by, and the column that has it.
_NAMED_BY = {
    "model": "model", "analysis": "analysis_id", "first": "analysis_id", "second": "analysis_id",
    "set": "set_id", "id": "id",
}  # fmt: skip


def without_archived(
    found: pd.DataFrame, page: str, asked: Mapping[str, Sequence[str]], looked_at: int | None = None
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """What models that are not archived have, and what of the others the address names; all of it where
    somebody asks for that.

    Args:
        found: Models, or analyses by their models, with the column archived.
        page: Name of the page.
        asked: What the address asks for, as in ``asked_in_url``.
        looked_at: Number of the one that this session looks at, which stays.

    Returns:
        The rows that are offered, and what the address says of it.
    """
    archived = found["archived"].astype(bool)
    if not archived.any():
        return found, {}
    state, key = st.session_state, f"{page}_archived"
    named = pd.Series(False, found.index)
    for name, column in _NAMED_BY.items():
        if column in found and asked.get(name):
            named |= found[column].astype(str).isin(list(asked[name]))
    rows = "analysis_id" if "analysis_id" in found else "id"
    if asked:
        state[key] = "archived" in asked
        state[f"{key}_named"] = found.loc[named & archived, rows].tolist()
    shown = st.checkbox("With models that are archived", key=key, persist_state="session")
    if shown:
        return found, {"archived": ["1"]}
    kept = [*state.get(f"{key}_named", []), looked_at]
    return found[~archived | found[rows].isin(kept)], {}


FEW_MODELS = 6  # compared before anybody asks for others


def say_few_are_shown(chosen: Sequence[str], models: Sequence[str]) -> None:
    """Say that these are the first of more models, if nobody has chosen others."""
    if list(chosen) == list(models[:FEW_MODELS]) != list(models):
        st.caption(f"{FEW_MODELS} of {len(models)} models are shown at first; choose those to compare.")


def of_different_colors(chosen: pd.DataFrame) -> pd.DataFrame:
    """As many of the analyses as have colours of their own; which are left out is said."""
    groups = list(dict.fromkeys(chosen.sort_values(["model_id", "group"])["group"]))
    if len(groups) <= MOST_COLORS:
        return chosen
    st.warning(
        f"No more than {MOST_COLORS} lines can be told apart by colour; left out: "
        f"{named(groups[MOST_COLORS:], most=20)}. Choose fewer models or settings to see them.",
        icon=":material/palette:",
    )
    return chosen[chosen["group"].isin(groups[:MOST_COLORS])]


def nothing_yet(message: str, more: Callable[[], None] | None = None) -> None:
    """Show what to do next where there is nothing yet; ``more`` adds another way on."""
    with st.container(border=True):
        st.markdown(message)
        link("new_analysis", "Start an analysis", icon=":material/add_circle:")
        if more is None:
            link("overview", "Or try it on real digits, on Overview", icon=":material/home:")
        else:
            more()


# GitHub's Markdown makes links of what looks like an address, after it has taken the escapes away.
_ADDRESS = re.compile(
    r"(?<=http:)(?=//)|(?<=https:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto:)|(?<=xmpp:)", re.I
)
_NOTHING = "\N{WORD JOINER}"  # without width, and where no line is broken


def plain(text: str) -> str:
    """``text`` as Markdown that shows it as it is: no marks, no links."""
    return "".join(
        f"\\{character}" if character in "\\`*_{}[]()<>#+-!|~$:" else character
        for character in _ADDRESS.sub(_NOTHING, text)
    )


def heading(text: str) -> str:
    """``text`` as ``plain`` for a heading, where no line ends within bars, as of |θ|."""
    return plain(re.sub(r"\|(?=[^\s|]+\|)", "|\u2060", text))


def matrix(analysis: HasParameters) -> str:
    """Name the matrix of an analysis, such as ``train GGN of fc.*``."""
    of = f" of {analysis.subset}" if analysis.subset else ""
    return f"{whole_matrix(analysis)}{of}"


def whole_matrix(analysis: HasMatrix) -> str:
    """Name the matrix of an analysis without its parameters, where there is no room: ``train GGN``.

    Of data without a split it is the matrix alone.
    """
    name = {"hessian": "Hessian", "ggn": "GGN"}[analysis.curvature]
    return name if analysis.split == NO_SPLIT else f"{analysis.split} {name}"


def samples_of(analysis: HasSamples) -> str:
    """How many samples an analysis is of, and which: ``N = 500``, ``all 540 test samples``.

    Class-balanced subsets, which are the usual ones, have no further words.
    """
    number = f"{analysis.samples:,}"
    match analysis.sampling.split()[0]:
        case "all":
            return f"all {number} {'' if analysis.split == NO_SPLIT else f'{analysis.split} '}samples"
        case "first-per-class":
            return f"N = {number}, the first of each class"
        case "random":
            return f"N = {number} at random, not balanced"
        case "indices":
            return f"N = {number} chosen by index"
    return f"N = {number}"


def is_synthetic(analysis: HasSamples) -> bool:
    """Whether an analysis is of random data, whose results are no findings."""
    return analysis.data.startswith(RANDOM_DATA)


def synthetic_badge(analysis: HasSamples) -> str:
    """The mark of an analysis of random data; empty for others."""
    return " :orange-badge[synthetic]" if is_synthetic(analysis) else ""


def warn_of_random_data(analyses: pd.DataFrame) -> None:
    """Say which of the analyses that a page compares are of random data, if any."""
    if names := sorted({name for name in analyses["data"] if name.startswith(RANDOM_DATA)}):
        st.warning(
            f"Some of what is shown is of random data, for trials, and no finding: {plain(', '.join(names))}",
            icon=":material/casino:",
        )


# The mark of a result that was computed elsewhere.
ELSEWHERE = ":violet-badge[computed elsewhere]"


def title_of(run: Run) -> str:
    """Say what a piece of work does, to stand beside its model."""
    match run:
        case AnalysisRun():
            elsewhere = "" if run.imported is None else f" {ELSEWHERE}"
            return f"step {run.step:,} · {plain(matrix(run))}{synthetic_badge(run)}{elsewhere}"
        case TrainingRun():
            done = "" if run.steps_done is None else f"{run.steps_done:,} of "
            return f"training {plain(run.problem)} · {done}{run.steps:,} steps"
        case ComparisonRun():
            return f"comparison of {counted(run.analyses, 'analysis', 'analyses')}"


def typed_name() -> str:
    """Who sits at this machine: as they called themselves, else the owner of the embedded stack."""
    if named := st.session_state.get("new_user", "").strip():
        return str(named)
    if settings().embedded_redis:
        with suppress(KeyError, OSError):  # a container's user may have no name
            return getpass.getuser()
    return "somebody"


def counted(number: int, one: str, many: str) -> str:
    """A number and what it counts: ``1 analysis``, ``2 analyses``."""
    return f"{number:,} {one if number == 1 else many}"


def duration(seconds: float) -> str:
    """A length of time as people say it: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 days``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400:,} days"


def between(low: float, high: float) -> str:
    """A range of times, no more exactly than it is known: ``2 to 3 min``, ``40 s to 2 min``."""
    first, last = _roughly(low), _roughly(high)
    if first == last:
        return f"about {last}"
    number, _, unit = first.partition(" ")
    return f"{number if unit == last.partition(' ')[2] else first} to {last}"


def _roughly(seconds: float) -> str:
    """A length of time in one unit and no more than two digits."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count >= 9.5 or unit != "h" else f"{count:.2g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 0.95 else f"{max(seconds, 0.1):.1f} s"


def left(run: HasRemaining) -> str:
    """How long running work will go on, with the sign before it; empty for work that does not run."""
    if run.state != State.running:
        return ""
    if run.late:
        return " · longer than expected"
    if run.remaining_low is None or run.remaining_high is None:
        return " · time left unknown yet: no earlier run like it to tell the time by"
    return f" · {between(run.remaining_low, run.remaining_high)} left"


def ago(moment: datetime) -> str:
    """How long ago a moment was, roughly: ``just now``, ``5 min ago``, ``3 h ago``, or its date."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86_400:
        return f"{seconds // 3600:.0f} h ago"
    return f"{moment:%d %b %Y}"


def size(count: float) -> str:
    """A number of bytes: ``812 KiB``, ``3.4 MiB``, ``11 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
