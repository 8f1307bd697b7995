"""Result: one analysis, its overlap curve, its spectrum, and everything that produced them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import streamlit as st

from seigh.app import figures, identity, tour
from seigh.app.charts import model_color
from seigh.app.checks import checks, ties_at
from seigh.app.cli.options import command_line
from seigh.app.common import (
    address_is_read,
    ago,
    asked_in_url,
    database,
    duration,
    first_of,
    guarded,
    is_synthetic,
    keep_in_url,
    left,
    matrix,
    nothing_yet,
    plain,
    samples_of,
    settings,
    size,
    whole_matrix,
    whole_number,
    without_archived,
)
from seigh.app.digits import interval, number, plus_minus, value_of, within
from seigh.app.frame import explain, show
from seigh.app.navigation import link
from seigh.app.panels import nearest
from seigh.app.rows import Analysis, OverlapPoint, Quantity, rows_of
from seigh.core.errors import UserError
from seigh.core.figures import Figure
from seigh.core.lab import actions, queries
from seigh.core.lab.models import Mask, State
from seigh.core.lab.naming import digest_of
from seigh.core.lab.queries import AnalysisDetail
from seigh.core.names import mask_called
from seigh.core.plugged import any_plugins
from seigh.core.problems.masks import written
from seigh.core.settings import MARK, AnalysisSettings

RANDOM_DATA = (
    "This analysis is of random data, for trials: its numbers say nothing about a network that has learned "
    "something."
)

SIZED = (1, 4)  # stops of the tour whose parts are of one k, which is chosen above them

MOST_LISTED = 500  # characters of given indices that are shown
MOST_TITLES = 4  # of what a section has, on its label


def page() -> None:
    st.title("Result")
    with database()() as s:
        finished = queries.comparable(s)
    asked = asked_in_url("result")
    looked_at = st.session_state.get("result_analysis")
    offered, put_away = without_archived(finished, "result", asked, looked_at)
    number = choose_analysis(offered, whole_number(asked, "analysis"))
    if number is None:
        nothing_yet(
            "**No result yet.** A finished analysis is shown here; the first one is a few clicks away."
        )
        return
    with database()() as s:
        detail = queries.analysis(s, number)
    if detail is None:
        address_is_read("result")
        st.info(f"There is no analysis {number}; it may have been deleted.")
        link("runs", "See all runs", icon=":material/list:")
        return
    if detail.state != State.finished:
        keep_in_url("result", {"analysis": [str(number)]})
        unfinished(number)
        return
    of = finished.set_index("analysis_id")
    tour.asked(asked)
    with st.container(horizontal=True, vertical_alignment="center"):
        link(
            "model", f"Model {plain(detail.model)}", icon=":material/deployed_code:",
            query={"id": str(of["model_id"][number])},
        )  # fmt: skip
        if tour.stop() is None:
            tour.offer()
    k = results(detail, model_color(int(of["model_id"][number])), asked)
    stop = {} if tour.stop() is None else {"tour": [str(tour.stop())]}
    keep_in_url("result", {"analysis": [str(number)], "k": [str(k)]} | stop | put_away)


def choose_analysis(finished: pd.DataFrame, asked: int | None) -> int | None:
    """The analysis of the address or of this session, else the latest; it can be chosen from all finished."""
    options = sorted(finished["analysis_id"].tolist(), reverse=True)
    number = asked or st.session_state.get("result_analysis")
    if number is None:
        if not options:
            return None
        number = options[0]
    names = {
        row.analysis_id: f"{row.model} · step {row.step:,} · {matrix(row)} · {row.method}, k = {row.k:,}, "
        f"{samples_of(row)}, seed {row.seed}{', synthetic data' if is_synthetic(row) else ''}"
        f"{', computed elsewhere' if row.imported else ''} "
        f"· #{row.analysis_id}"
        for row in rows_of(finished, Analysis)
    }
    if number not in names:
        options.insert(0, number)
    st.session_state["result_analysis"] = number
    chosen: int = st.selectbox(
        "Analysis",
        options,
        key="result_analysis",
        format_func=lambda option: names.get(option, f"analysis {option}"),
        persist_state="session",
    )
    return chosen


@st.fragment(run_every=2)
@guarded
def unfinished(number: int) -> None:
    """How far it is, until it is finished and the page can show it."""
    with database()() as s:
        detail = queries.analysis(s, number)
    if detail is None or detail.state == State.finished:
        st.rerun()
    st.markdown(f"**{plain(detail.model)}** · step {detail.step:,} · {plain(matrix(detail))}")
    if detail.state == State.failed:
        st.error(plain(detail.message or "The analysis failed."), icon=":material/error:")
    elif detail.state == State.cancelled:
        st.info("This analysis was cancelled; Runs can start it again.")
    else:
        st.progress(detail.progress, text=f"{detail.stage or detail.state}{left(detail)}")
        st.caption("The result appears here as soon as it is there.")
    link("runs", "See all runs", icon=":material/list:")


def results(detail: AnalysisDetail, color: str, asked: dict[str, list[str]]) -> int:
    """The page of a finished analysis; the k of its header."""
    with database()() as s:
        curves = queries.overlap_curves(s, [detail.id])
        spectrum = queries.spectrum(s, detail.id)
    if detail.record.get("data", {}).get("synthetic"):
        st.warning(RANDOM_DATA, icon=":material/casino:")
    if detail.imported is not None:
        st.info(
            f"Computed elsewhere, and imported from {plain(detail.imported)} by "
            f"{plain(detail.submitted_by)}: this lab has checked its form, and not its "
            "numbers. Its environment is below.",
            icon=":material/move_to_inbox:",
        )
    at = tour.stop()
    if at is not None:
        tour.box(at)
    k = header(detail, curves, spectrum, asked) if at in (None, *SIZED) else size_of(detail, asked)
    if at in (None, 2):
        overlap(detail, curves, color)
    if at in (None, 3):
        eigenvalues(detail, spectrum)
    if at in (None, 4):
        structure(detail, color, k)
    if at is None:
        further(detail, color)
        masks(detail, color, k)
        plugged(detail)
    if at in (None, 5):
        provenance(detail)
    return k


def size_of(detail: AnalysisDetail, asked: dict[str, list[str]]) -> int:
    """The k of the address or of this session, as far as there is one of this analysis."""
    return min(whole_number(asked, "k") or st.session_state.get("result_k", detail.k), detail.k)


def overlap(detail: AnalysisDetail, curves: pd.DataFrame, color: str) -> None:
    """Overlap against k, beside chance, random and best masks."""
    log_key = f"result_log_overlap_{detail.id}"
    st.session_state.setdefault(log_key, figures.best_over_largest(curves) > figures.DEMANDS_LOG)
    with st.container(horizontal=True):
        log_k = st.toggle("Log k axis", key="result_log_k", persist_state="session")
        log_overlap = st.toggle("Log overlap axis", key=log_key, persist_state="session")
    figure = figures.overlap_of_masks(
        curves,
        color,
        resolved_k=detail.resolved_k,
        log_k=log_k,
        log_overlap=log_overlap,
        file=f"{name_of(detail)}-overlap",
    )
    show(figure, "result_overlap")


def eigenvalues(detail: AnalysisDetail, spectrum: pd.DataFrame) -> None:
    """The spectrum with its residuals, and what it misses."""
    show(figures.spectrum(spectrum, file=f"{name_of(detail)}-spectrum"), "result_spectrum")
    if spectrum["scree_upper"].notna().any():
        show(figures.missed(spectrum, file=f"{name_of(detail)}-scree"), "result_scree")


def structure(detail: AnalysisDetail, color: str, k: int) -> None:
    """Where the eigenspace, the mask and their overlap lie, at the told size nearest to k."""
    with database()() as s:
        layers = queries.layer_shares(s, detail.id)
        bins = queries.magnitude_bins(s, detail.id)
    if layers.empty:
        st.header("Where it lies", anchor=False)
        st.caption(
            "Layers and magnitudes are not among what was imported."
            if detail.imported is not None
            else "This analysis is from before layers and magnitudes were told; delete it in Runs and start "
            "it again to have them."
        )
        return
    layers = nearest(layers, k)
    at = int(layers["k"].iloc[0])
    show(figures.layers(layers, file=f"{name_of(detail)}-layers-k{at}"), "result_layers")
    if not bins.empty:
        bins = nearest(bins, k)
        file = f"{name_of(detail)}-magnitudes-k{int(bins['k'].iloc[0])}"
        show(figures.magnitudes(bins, detail.parameters, color, file=file), "result_magnitudes")


def further(detail: AnalysisDetail, color: str) -> None:
    """What else was asked for: quantities, and profiles and curves in sections that load when opened."""
    with database()() as s:
        numbers = queries.quantities(s, [detail.id])
        profiles = queries.observation_names(s, [detail.id], "profile")
        curves = queries.curve_names(s, [detail.id])
    failed: dict[str, str] = detail.record.get("curves_failed", {})
    remarks: dict[str, str] = detail.record.get("remarks", {})
    if numbers.empty and not (profiles or curves or failed):
        return
    st.header("Observables", anchor=False)
    for name, sentence in failed.items():
        st.warning(plain(f"{name}: {sentence}"), icon=":material/error:")
    if len(numbers):
        quantities(numbers, remarks)
    names = {"result_profiles": ("Profiles", profiles), "result_curves": ("Curves over k", curves)}
    for key, (label, titles) in names.items():
        if not titles:
            continue
        section = st.expander(
            f"{label}: {plain(first_of(list(titles.values()), MOST_TITLES))}",
            icon=":material/timeline:",
            key=f"{key}_{detail.id}",
            on_change="rerun",
        )
        if not section.open:
            continue
        with section:
            for name, figure in drawn(detail, color, key, remarks):
                show(figure, f"{key}_{name}", panel=True)
                explain(figure)


def drawn(
    detail: AnalysisDetail, color: str, key: str, remarks: dict[str, str]
) -> Iterator[tuple[str, Figure]]:
    """The figures of a section, by the names of what they show."""
    log_k = bool(st.session_state.get("result_log_k"))
    with database()() as s:
        of_profiles = key == "result_profiles"
        found = queries.profiles(s, [detail.id]) if of_profiles else queries.curves(s, [detail.id])
    for name, rows in found.groupby("observable" if of_profiles else "curve"):
        said = {"remark": remarks.get(str(name), ""), "file": f"{name_of(detail)}-{name}"}
        if of_profiles:
            yield str(name), figures.profile(rows, color, **said)
        else:
            yield str(name), figures.further_curve(rows, color, log_k=log_k, **said)


def quantities(numbers: pd.DataFrame, remarks: dict[str, str]) -> None:
    """Each quantity with its error or interval, what it is compared with, and how to read it."""
    rows, told = [], []
    for row in rows_of(numbers, Quantity):
        title = plain(f"{row.title}{f' ({row.unit})' if row.unit else ''}")
        how = plain(" ".join(filter(None, (row.note, remarks.get(row.observable, "")))))
        known = "" if pd.isna(row.reference) else f"{row.reference_title}: {number(row.reference)}"
        told.append(f"**{title}:** {how}")
        rows.append(
            {
                "quantity": title,
                "value": plain(within(row.value, row.lower, row.upper)),
                "between": plain(interval(row.lower, row.upper)),
                "beside": plain(known),
            }
        )
    found = pd.DataFrame(rows)
    if not found["beside"].any():
        found = found.drop(columns="beside")
    st.table(found, border="horizontal", hide_index=True)
    with st.expander("How to read these numbers", icon=":material/help:"):
        for each in told:
            st.caption(each)


def masks(detail: AnalysisDetail, color: str, k: int) -> None:
    """How alike two of the masks are, and any of them as a file, where further ones were asked for."""
    with database()() as s:
        names = queries.mask_names(s, [detail.id])
    if len(names) < 2:
        return
    left, right, file = st.columns(3, vertical_alignment="bottom")
    first = left.selectbox("Mask", names, key="result_mask", format_func=mask_called)
    others = [name for name in names if name != first]
    second = right.selectbox("And the mask", others, key="result_other_mask", format_func=mask_called)
    with database()() as s:
        found = queries.mask_iou(s, {(first, second): {detail.id: detail.id}})[first, second]
    figure = figures.masks_in_common(
        found, color, log_k=bool(st.session_state.get("result_log_k")), file=f"{name_of(detail)}-iou"
    )
    with file:
        st.download_button(
            f"Mask {plain(mask_called(first))}, k = {k:,}",
            lambda: mask_file(detail.id, first, k),
            file_name=f"{name_of(detail)}-mask-{first}-k{k}.safetensors",
            key="result_mask_file",
            on_click="ignore",
            icon=":material/download:",
            help="Zeros and ones by the names of the parameters, as torch.nn.utils.prune.custom_from_mask "
            "takes them.",
        )
    for sentence in said_of_masks(detail.record):
        st.caption(f":material/info: {plain(sentence)}")
    show(figure, "result_masks")


def mask_file(number: int, name: str, k: int) -> bytes:
    """A mask of an analysis as a file."""
    with database()() as s:
        return written(queries.export_result(s, number), name, k)


def said_of_masks(record: dict[str, Any]) -> list[str]:
    """What was done to the user's masks, and how many places ties leave open."""
    said = []
    for name, told in record.get("masks", {}).items():
        if "note" in told:
            said.append(told["note"])
        if any(told.get("tied", [])):
            sizes = sum(each > 0 for each in told["tied"])
            said.append(
                f"Mask {mask_called(name)}: at {sizes:,} of {len(told['tied']):,} sizes weights of equal "
                f"score compete for its places, up to {max(told['tied']):,}; overlaps are the mean over all "
                "choices."
            )
    return said


def plugged(detail: AnalysisDetail) -> None:
    """The figures of plug-ins, and why one of them is not there."""
    if not any_plugins():
        return
    with database()() as s:
        result = queries.export_result(s, detail.id)
    found, failed = figures.of_plugins(result, file=name_of(detail))
    for name, figure in found:
        show(figure, f"result_plugged_{name}")
    for sentence in failed:
        st.warning(plain(sentence), icon=":material/error:")


def header(
    detail: AnalysisDetail, curves: pd.DataFrame, spectrum: pd.DataFrame, asked: dict[str, list[str]]
) -> int:
    """The numbers one looks for first, at a k that can be chosen."""
    k = size_of(detail, asked)
    if detail.k > 1:
        st.session_state["result_k"] = k
        k = st.slider("k, size of eigenspace and mask", 1, detail.k, key="result_k", persist_state="session")
    at_k = curves[curves["k"] == k]
    (found,) = rows_of(at_k[at_k["mask"] == Mask.magnitude], OverlapPoint)
    (random,) = rows_of(at_k[at_k["mask"] == Mask.random], OverlapPoint)
    with st.container(horizontal=True):
        leading, residual = float(spectrum["value"].iloc[0]), float(spectrum["residual"].iloc[0])
        card(
            "Eigenvalue λ₁",
            value_of(leading, residual),
            "The eigenvalue of largest |λ|; within ± its residual there is an eigenvalue of the matrix.",
            " · ".join(part for part in (plus_minus(residual), whole_matrix(detail)) if part),
        )
        card(
            "Overlap",
            value_of(found.overlap, found.error, 3),
            figures.OVERLAP_SYMBOLS,
            ", ".join(part for part in (plus_minus(found.error), f"k = {k:,}") if part),
        )
        relative = None if found.error is None else found.error / found.chance
        card(
            "Ratio to chance",
            f"{value_of(found.ratio, relative, 3)} ×",
            f"Overlap divided by chance k/D, k = {k:,} and D = {detail.parameters:,}.",
            ", ".join(part for part in (plus_minus(relative), f"chance {number(found.chance, 3)}") if part),
        )
        card(
            "Random masks",
            value_of(random.overlap, random.std, 3),
            "Mean ± standard deviation over masks of k weights drawn at random.",
            plus_minus(random.std),
        )
        if "test_accuracy" in detail.metrics:
            card(
                "Test accuracy",
                f"{detail.metrics['test_accuracy']:.2%}",
                "As the checkpoint records it.",
                f"step {detail.step:,}",
            )
    words = [ties_at(k, found)]
    if detail.resolved_k is not None and k > detail.resolved_k:
        relative = None if found.error is None or not found.overlap else found.error / found.overlap
        words.append(unresolved(k, detail.resolved_k, relative))
    if said := " ".join(each for each in words if each):
        st.info(said, icon=":material/blur_on:")
    return k


def unresolved(k: int, resolved_k: int, relative: float | None) -> str:
    """That not all overlaps up to this k are known to 1 %, and how well the last one is."""
    if resolved_k:
        until = f"Every overlap up to k = {resolved_k:,} is resolved to 1 %, not every one beyond"
    else:
        until = "Not even the first overlap is resolved to 1 %"
    error = "unknown" if relative is None else f"{number(100 * relative, 2)} % of the overlap"
    return f"{until}; at k = {k:,} the stated error is {error}."


def card(label: str, value: str, explanation: str, beside: str) -> None:
    """A number with what belongs to it; the card is as wide as they are."""
    st.metric(
        label, value, beside, help=plain(explanation), delta_color="off", delta_arrow="off", border=True,
        width="content",
    )  # fmt: skip


def provenance(detail: AnalysisDetail) -> None:
    """What went in, where it ran, and how long each part took."""
    st.header("How it was made", anchor=False)
    ended = ago(detail.finished_at) if detail.finished_at else ""
    if detail.imported is None:
        where = (
            f"Submitted by {plain(detail.submitted_by)}, finished {ended} on {plain(detail.worker or '?')}"
        )
    else:
        device = plain(str(detail.environment.get("device", "an unknown device")))
        where = f"Computed elsewhere on {device}, imported by {plain(detail.submitted_by)} {ended}"
    took = f": {detail.hvps:,} Hessian-vector products in {duration(detail.seconds)}" if detail.hvps else ""
    st.caption(f"{where}{took}.")
    inputs = {
        "model": detail.model,
        "training step": f"{detail.step:,}",
        "parameters D": f"{detail.parameters:,}",
    }
    is_published = "published" in detail.record  # curves alone: nobody knows the weights' file
    if not is_published:
        inputs |= {
            "checkpoint file": detail.filename,
            "checkpoint SHA-256": detail.checkpoint_sha256[:16] + " …",
        }
    if detail.data_sha256:
        inputs["data subset SHA-256"] = detail.data_sha256[:16] + " …"
    metrics = {name: number(value) for name, value in detail.metrics.items()}
    chosen = detail.settings | {"parameters": detail.subset or "all", "samples": samples_of(detail)}
    chosen |= {"data": detail.data, "split": detail.split}
    listed = str(chosen.pop("indices", ""))
    long = len(listed) > MOST_LISTED
    if listed:
        chosen["indices"] = f"{listed[:MOST_LISTED]} …" if long else listed
    with st.container(horizontal=True):
        st.download_button(
            "Everything (JSON)",
            lambda: as_json(detail.id),
            file_name=f"{name_of(detail)}.json",
            mime="application/json",
            on_click="ignore",
            icon=":material/download:",
            help="What `seigh analyze --json` writes.",
        )
    eigenvectors(detail)
    if len(detail.stages):
        stages = figures.stages(detail.stages, memory_fact(detail), file=f"{name_of(detail)}-stages")
        show(stages, "result_stages", panel=True)
        explain(stages)
    chosen_tab, numerics, environment = st.tabs(["Settings", "Numerics", "Environment"])
    with chosen_tab:
        if not is_published and not detail.settings["data"].startswith("memory:"):
            same_on_the_command_line(detail, listed if long else "")
        st.table(two_columns(inputs | metrics | chosen), border="horizontal", hide_index=True)
    with numerics:
        how_it_was_checked(detail)
        st.table(two_columns(numerical_facts(detail.record)), border="horizontal", hide_index=True)
        if measured := detail.record.get("hvp", {}).get("measured"):
            st.caption("How long one product took by each path, from which the fastest was chosen:")
            st.table(measurements(measured), border="horizontal", hide_index=True)
    with environment:
        st.table(two_columns(detail.environment), border="horizontal", hide_index=True)


def same_on_the_command_line(detail: AnalysisDetail, listed: str) -> None:
    """The command that makes the same analysis; with ``listed``, indices that are too long, in a file."""
    st.caption(
        "The same analysis on the command line, without a server"
        + (", with the file that Everything (JSON) gives, for its indices:" if listed else ":")
    )
    wanted = AnalysisSettings.model_validate(detail.settings)
    digest = digest_of(wanted.data)
    if digest is not None:
        with database()() as s:
            filename = queries.data_file(s, digest)
        wanted = wanted.model_copy(update={"data": wanted.data.replace(f"sha256:{digest}", filename)})
    line = command_line(wanted, detail.filename, f"{name_of(detail)}.json" if listed else None)
    st.code(line, language="sh", wrap_lines=True)
    if digest is not None:
        st.caption(
            f"{plain(filename)} is the file with the SHA-256 `{digest}`; in this lab's own folder "
            f"`--data sha256:…` with these digits names it, too."
        )
        how_read = detail.settings["data"].removeprefix(f"{MARK}{digest}")  # which the page Data leaves out
        name = detail.data.removesuffix(how_read)
        link("data", f"Data {plain(name)}", icon=":material/database:", query={"data": name})


def how_it_was_checked(detail: AnalysisDetail) -> None:
    """The checks of the matrix and of the eigenpairs that the record tells of."""
    found = checks(detail.record)
    if found.empty:
        st.caption("The version that made this analysis did not check the matrix and its products.")
        return
    st.caption("How this was checked:")
    limits = found["limit"].map(lambda limit: "" if limit == "–" else f", limit {limit}")
    shown = pd.DataFrame(
        {
            "check": "**" + found["check"].map(plain) + "**  \n" + found["what it means"].map(plain),
            # Numbers are not to break at the sign of their exponent.
            "found": (found["found"] + limits).str.replace("e-", "e\N{NON-BREAKING HYPHEN}").map(plain),
            "passed": found["passed"],
        }
    )
    st.table(shown, border="horizontal", hide_index=True)
    st.caption("All other facts about the numbers:")


def eigenvectors(detail: AnalysisDetail) -> None:
    """Whether they are there for comparisons, and for how long."""
    if detail.eigenvectors is None:
        reason = plain(detail.record.get("eigenvectors_lost", "Their time is over."))
        told = f"The eigenvectors are not kept; all numbers are. {reason}"
        if detail.imported is not None:
            told = "The eigenvectors were not imported; comparisons of eigenspaces need them."
        st.caption(f":material/info: {told}")
    elif (days := settings().retention_days) is not None:
        key = f"result_pinned_{detail.id}"
        st.session_state[key] = detail.pinned  # somebody else may have changed it
        st.toggle(
            "Keep the eigenvectors for good",
            key=key,
            help=f"Otherwise they are removed {days:g} days after the analysis, and its numbers stay.",
            on_change=pin,
            args=(detail.id, key),
        )


def pin(number: int, key: str) -> None:
    try:
        with database().begin() as s:
            actions.pin(s, identity.current(), number, st.session_state[key])
    except UserError as error:  # somebody has deleted it
        st.toast(plain(str(error)), icon=":material/info:")


def as_json(number: int) -> str:
    """An analysis as ``seigh analyze --json`` writes it."""
    with database()() as s:
        return json.dumps(queries.export_result(s, number), indent=2)


def name_of(detail: AnalysisDetail) -> str:
    """The start of the names of an analysis's files."""
    return f"{detail.model}-step{detail.step}-{detail.split}-analysis{detail.id}"


def memory_fact(detail: AnalysisDetail) -> str:
    """The room that the basis took, as a sentence; empty where the record does not tell."""
    basis = detail.record.get("basis")
    if not basis or "columns" not in basis:
        return ""
    wide = 8 if detail.settings.get("precision") == "float64" else 4
    where = "of memory" if basis["kept_in"] == "memory" else "of disk"
    took = size(basis["columns"] * detail.parameters * wide)
    return f" The basis of {basis['columns']:,} vectors took {took} {where}."


def numerical_facts(record: dict[str, Any]) -> dict[str, Any]:
    """The record of an analysis in words."""
    facts = {
        name: number(value) if isinstance(value, float) else value
        for name, value in record.items()
        if not isinstance(value, (dict, list)) and name not in ("probability", "eigenvectors_lost", "rank")
    }
    if isinstance(subset := record.get("subset"), dict):
        told = (f"{name.replace('_', ' ')} {value}" for name, value in subset.items() if _is_brief(value))
        facts["subset"] = ", ".join(told)
    if loss := record.get("loss"):
        facts["loss"] = loss_fact(loss)
    if theta := record.get("theta"):
        facts["θ"] = theta_fact(theta, record.get("without_influence", {}))
    if notes := record.get("notes"):
        facts["checkpoint"] = " ".join(notes)
    if hvp := record.get("hvp"):
        facts["products"] = (
            f"{hvp['path']}, {hvp['columns']:,} vectors and {hvp['batch_size']:,} samples at once"
        )
    if basis := record.get("basis"):
        facts["basis"] = basis_fact(basis)
    for name, label in (("norm", "‖H‖ (Frobenius)"), ("missed_norm", "‖H − Ĥ‖ (Frobenius)")):
        if norm := record.get(name):
            facts[label] = norm_fact(norm, record["probability"])
    return facts


def _is_brief(value: Any) -> bool:
    return value is not None and not isinstance(value, dict | list)


def loss_fact(loss: dict[str, Any]) -> str:
    """Which loss the matrix is of, and whether weight decay is in."""
    words = f"{loss['name']}, the mean over the samples"
    if smoothing := loss["label_smoothing"]:
        words += f", with label smoothing {smoothing:g}"
    if weights := loss.get("class_weights"):
        some = ", ".join(f"{each:g}" for each in weights[:10]) + (", …" if len(weights) > 10 else "")
        words += f", with class weights {some}"
    if (ignored := loss.get("ignore_index")) is not None:
        words += f", without the label {ignored}"
    if penalties := loss.get("penalties"):
        groups = ", ".join(f"{decay:g} for {pattern}" for pattern, decay in penalties.items())
        usual = f"{loss['weight_decay']:g}"
        matrix_part = f"diag(λ) is part of the matrix, with λ = {groups}, else {usual}"
        return f"{words}; weight decay is included: {matrix_part}"
    if decay := loss["weight_decay"]:
        return f"{words}; weight decay is included: λ·I with λ = {decay:g} is part of the matrix"
    return f"{words}; weight decay is not included"


def theta_fact(theta: dict[str, int], idle: dict[str, int]) -> str:
    """How many parameters of the model can make up θ."""
    words = f"{theta['trainable']:,} trainable parameters"
    if tied := theta["tied"]:
        words += f"; {tied:,} that are tied to others count once"
    if frozen := theta["frozen"]:
        words += f"; {frozen:,} that are frozen are left out"
    if idle:
        some = ", ".join(list(idle)[:3]) + (", …" if len(idle) > 3 else "")
        words += f"; the loss does not depend on {sum(idle.values()):,} of them ({some})"
    return words


def basis_fact(basis: dict[str, Any]) -> str:
    """How the basis of a Krylov space, or a sketch, came about; what its method does not know is left out."""
    where = "memory" if basis["kept_in"] == "memory" else "a file"
    parts = [f"room for {basis['columns']:,} vectors in {where}"]
    if basis.keys() >= {"products", "block"}:
        parts.insert(0, f"{basis['products']:,} products in blocks of {basis['block']:,}")
    if restarts := basis.get("restarts"):
        parts.append("restarted once" if restarts == 1 else f"restarted {restarts:,} times")
    if basis["resumed"]:
        parts.append(f"{basis['resumed']:,} products read back from an earlier attempt")
    if (met := basis.get("tolerance_met")) is not None:
        parts.append("tolerance met" if met else "tolerance not met")
    return "; ".join(parts)


def norm_fact(norm: dict[str, float | None], probability: float) -> str:
    """An estimated norm with its interval; an end that is not known is left open."""
    low, high = (None if norm[end] is None else number(norm[end], 3) for end in ("lower", "upper"))
    ends = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    return f"{number(norm['estimate'])} ({ends} with {probability:.0%} probability)"


def measurements(measured: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each path that was measured, or not."""
    rows = [
        {
            "path": each["path"],
            "vectors at once": f"{each['columns']:,}",
            "samples at once": f"{each['batch_size']:,}",
            "time per product": plain(each["reason"] or "")
            if each["seconds_per_product"] is None
            else f"{number(1000 * each['seconds_per_product'], 3)} ms",
        }
        for each in measured
    ]
    return pd.DataFrame(rows)


def two_columns(facts: dict[str, Any]) -> pd.DataFrame:
    told = {
        name: ", ".join(map(str, each)) if isinstance(each, list) else each for name, each in facts.items()
    }
    shown = {name.replace("_", " "): plain(str(value)) for name, value in told.items() if value is not None}
    return pd.DataFrame({"name": shown.keys(), "value": shown.values()})
