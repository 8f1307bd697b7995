"""New analysis: checkpoints and settings in, queued analyses out; what cannot work is said before Start."""

from __future__ import annotations

import getpass
import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import streamlit as st
from pydantic import ValidationError

from app.common import counted, database, plain, settings, size
from core.analysis import cost
from core.names import KINDS, PATHS, TEST_MATRICES
from core.problems import architectures, checkpoints, data
from core.problems.checkpoints import CheckpointError
from core.problems.data import DataError
from core.results import queries
from core.results.store import StoreError
from core.settings import (
    METHODS,
    PRECISIONS,
    SPLITS,
    AnalysisSettings,
    SettingsError,
    refusal,
)
from tasks.submit import Upload, submit

METHOD_NOTES = {
    "krylov": "Block Krylov with Rayleigh–Ritz: the most accurate at equal cost; the usual choice.",
    "seigh": "The paper's sketched eigendecomposition: independent HVPs, 2·n_O of them by default.",
    "ssvd": "The sketched SVD that SEIGH came from: twice the HVPs, for comparison.",
    "exact": "Dense eigendecomposition in float64: the truth, for D ≤ 20,000.",
}
CURVATURE_NOTES = {
    "hessian": "Of the loss: the matrix of all its second derivatives.",
    "ggn": "Generalised Gauss–Newton matrix: the part of the Hessian without negative eigenvalues.",
}
OWN_FILE = "a file of my own …"


@dataclass(frozen=True)
class ReadFile:
    """An uploaded checkpoint: why it cannot be used at all, or why not with some architectures."""

    id: str
    name: str
    path: Path
    step: int | None = None
    refusal: str | None = None
    misfits: dict[str, str] | None = None  # sentence by architecture

    @property
    def fitting(self) -> list[str]:
        return [name for name in architectures.ARCHITECTURES if name not in (self.misfits or {})]


def page() -> None:
    st.title("New analysis")
    report_last_submission()
    with st.container(border=True):
        st.subheader("Checkpoints")
        files = uploaded_checkpoints()
        readable = [file for file in files if file.refusal is None]
        steps = edited_steps(readable)
        architecture = choose_architecture(readable)
        used = [file for file in readable if architecture in file.fitting]
        say_what_is_left_out(files, architecture)
    with st.container(border=True):
        st.subheader("Settings")
        chosen, problems = choose_settings(architecture)
    with st.container(border=True):
        st.subheader("Cost")
        problems += costs(chosen, architecture, len(used))
    model, user = st.session_state.get("new_model"), st.session_state["new_user"]
    problems = missing(used, steps, model, user) + problems
    start(used, steps, chosen, problems)


def report_last_submission() -> None:
    """What Start has done, on top of the empty form that follows it."""
    submission = st.session_state.pop("new_submission", None)
    if submission is None:
        return
    new = len(submission.analysis_ids) - len(submission.reused_ids)
    reused = len(submission.reused_ids)
    st.success(
        f"{counted(new, 'analysis is', 'analyses are')} queued."
        + (f" {counted(reused, 'was', 'were')} there already and left as before." if reused else ""),
        icon=":material/check_circle:",
    )
    if submission.warning:
        st.warning(plain(submission.warning), icon=":material/warning:")
    st.page_link("views/runs.py", label="Watch them in Runs", icon=":material/list:")


# --- Checkpoints ------------------------------------------------------------------------------------------


def uploaded_checkpoints() -> list[ReadFile]:
    """The files in the uploader, each read once."""
    round_ = st.session_state.setdefault("new_round", 0)  # a new key empties the uploader
    uploads = st.file_uploader(
        "Checkpoints of one model, as many training steps as you like",
        type=[suffix.removeprefix(".") for suffix in checkpoints.SUFFIXES],
        accept_multiple_files=True,
        key=f"new_files_{round_}",
        max_upload_size=settings().max_upload_mb,
        help="State dicts (.pt, .pth) or .safetensors, read as tensors only: nothing in them is run.",
    )
    known: dict[str, ReadFile] = st.session_state.setdefault("new_read", {})
    for upload in uploads:
        if upload.file_id not in known:
            with st.spinner(f"Reading {upload.name} …"):
                known[upload.file_id] = read(upload)
    return [known[upload.file_id] for upload in uploads]


def read(upload: Any) -> ReadFile:
    """Read an uploaded file safely and see which architectures it fits."""
    name = PurePath(upload.name).name
    path = kept(upload)
    try:
        checkpoint = checkpoints.read(path, name)
    except CheckpointError as error:
        return ReadFile(upload.file_id, name, path, refusal=str(error))
    misfits = {}
    for architecture in architectures.ARCHITECTURES:
        try:
            checkpoints.check_fits(checkpoint, architecture)
        except CheckpointError as error:
            misfits[architecture] = str(error)
    return ReadFile(upload.file_id, name, path, checkpoint.step, misfits=misfits)


def kept(upload: Any) -> Path:
    """The upload as a file of its own name, in a folder that goes when the session ends."""
    if "new_folder" not in st.session_state:
        st.session_state["new_folder"] = tempfile.TemporaryDirectory(prefix="seigh-upload-")
    folder = Path(st.session_state["new_folder"].name) / upload.file_id
    folder.mkdir(exist_ok=True)
    path = folder / PurePath(upload.name).name
    path.write_bytes(upload.getbuffer())
    return path


def edited_steps(files: Sequence[ReadFile]) -> dict[str, int | None]:
    """The training step of every file by its id: found in the file or its name, until edited here."""
    if not files:
        return {}
    remembered: dict[str, int | None] = st.session_state.setdefault("new_steps", {})
    key = "new_table_" + hashlib.sha256("".join(file.id for file in files).encode()).hexdigest()[:16]
    # The editor keeps edits apart from its data, which must therefore not change under them.
    before = st.session_state.setdefault(
        f"{key}_data", [remembered.get(file.id, file.step) for file in files]
    )
    table = pd.DataFrame(
        {
            "file": [file.name for file in files],
            "step": pd.array(before, dtype="Int64"),
            "D": [
                f"{architectures.parameter_count(file.fitting[0]):,}" if file.fitting else "?"
                for file in files
            ],
            "fits": [", ".join(file.fitting) or "none" for file in files],
        }
    )
    edited = st.data_editor(
        table,
        key=key,
        hide_index=True,
        disabled=["file", "D", "fits"],
        column_config={
            "step": st.column_config.NumberColumn(
                "training step", min_value=0, max_value=2**31 - 1, step=1, help="Click to edit."
            ),
            "D": st.column_config.TextColumn(help="Number of parameters."),
            "fits": st.column_config.TextColumn(help="Architectures with these tensors."),
        },
    )
    steps = {
        file.id: None if pd.isna(step) else int(step)
        for file, step in zip(files, edited["step"], strict=True)
    }
    remembered.update(steps)
    return steps


def choose_architecture(files: Sequence[ReadFile]) -> str:
    """Model name and architecture; proposed is the one that most files fit."""
    with database()() as s:
        known = queries.models(s)
    left, right = st.columns(2)
    left.selectbox(
        "Model name",
        known["name"].tolist(),
        index=None,
        key="new_model",
        accept_new_options=True,
        placeholder="Type a new name, or choose a model to add to",
        help="The training run that these checkpoints belong to.",
    )
    names = list(architectures.ARCHITECTURES)
    proposed = max(names, key=lambda name: sum(name in file.fitting for file in files))
    if files and (
        st.session_state.get("new_proposed") != proposed or "new_architecture" not in st.session_state
    ):
        st.session_state["new_proposed"] = st.session_state["new_architecture"] = proposed
    return right.selectbox(
        "Architecture",
        names,
        key="new_architecture",
        format_func=lambda name: f"{name} (D = {architectures.parameter_count(name):,})",
    )


def say_what_is_left_out(files: Sequence[ReadFile], architecture: str) -> None:
    """One sentence for each file that cannot be used."""
    for file in files:
        sentence = file.refusal or (file.misfits or {}).get(architecture)
        if sentence:
            st.error(f"**Left out.** {plain(sentence)}", icon=":material/block:")


# --- Settings ---------------------------------------------------------------------------------------------


def choose_settings(architecture: str) -> tuple[list[AnalysisSettings], list[str]]:
    """Settings for every chosen split, and what is wrong with them."""
    defaults = AnalysisSettings(architecture=architecture, data=data.names()[0])
    left, right = st.columns(2)
    with left:
        source = st.selectbox("Data set", [*data.names(), OWN_FILE], key="new_data")
        dataset = uploaded_data() if source == OWN_FILE else source
        splits = st.pills(
            "Hessian on", SPLITS, selection_mode="multi", default=[defaults.split], key="new_splits",
            help="The split that the loss is taken on; an analysis for each. A file of yours has no splits.",
        )  # fmt: skip
        samples = st.number_input(
            "N, samples", min_value=1, value=defaults.samples, key="new_samples",
            help="Size of the class-balanced subset that the Hessian is taken on.",
        )  # fmt: skip
        k = st.number_input(
            "k, eigenpairs", min_value=1, value=defaults.k, key="new_k",
            help="The overlap is computed for every k from 1 to this one.",
        )  # fmt: skip
        seed = st.number_input(
            "Seed", min_value=0, max_value=2**31 - 1, value=defaults.seed, key="new_seed",
            help="Of the subset, the test matrices and the random masks.",
        )  # fmt: skip
    outer = inner = None
    with right:
        method = st.radio(
            "Method", METHODS, captions=[METHOD_NOTES[name] for name in METHODS], key="new_method"
        )
        if method in ("seigh", "ssvd"):
            columns = st.columns(2)
            outer = columns[0].number_input(
                "n_O",
                min_value=1,
                value=None,
                placeholder="k",
                key="new_outer",
                help="Columns of the outer sketch.",
            )
            inner = columns[1].number_input(
                "n_I",
                min_value=1,
                value=None,
                placeholder="2 · n_O",
                key="new_inner",
                help="Size of the inner sketch.",
            )
        st.text_input(
            "Your name", value=getpass.getuser() if settings().embedded_redis else "", max_chars=100,
            key="new_user", persist_state="session", help="Shown beside your runs.",
        )  # fmt: skip
    more = advanced(architecture, defaults)
    if dataset is None:
        return [], ["Upload the data file."]
    if not splits:
        return [], ["Choose at least one split."]
    same = {"samples": samples, "k": k, "seed": seed, "method": method, "outer": outer, "inner": inner}
    try:
        chosen = [
            AnalysisSettings(architecture=architecture, data=dataset, split=split, **same, **more)
            for split in splits
        ]
    except ValidationError as error:
        return [], [refusal(error)]
    found = [data_problem(dataset, each.split, samples, seed, architecture) for each in chosen]
    return chosen, list(dict.fromkeys(problem for problem in found if problem))


def advanced(architecture: str, defaults: AnalysisSettings) -> dict[str, Any]:
    """Settings that a first analysis can do without, at their defaults until somebody opens them."""
    with st.expander("Advanced", icon=":material/tune:"):
        left, right = st.columns(2)
        with left:
            curvature = st.radio(
                "Curvature", KINDS, captions=[CURVATURE_NOTES[name] for name in KINDS],
                key="new_curvature",
            )  # fmt: skip
            patterns = st.text_input(
                "Parameters", key="new_parameters", placeholder="all of them", max_chars=1000,
                help="Names of the parameters that make up θ, with * for any characters, separated by "
                "commas: layer4.*, fc.weight.",
            )  # fmt: skip
            parameters = tuple(pattern for each in patterns.split(",") if (pattern := each.strip()))
            say_how_many(architecture, parameters)
        with right:
            precision = st.selectbox(
                "Precision", PRECISIONS, key="new_precision",
                help="Of weights, vectors and products. tf32 and bfloat16 are float32 with coarser products, "
                "for GPUs; the residuals say what that costs.",
            )  # fmt: skip
            tolerance = st.number_input(
                "Tolerance", min_value=1e-8, max_value=0.5, value=None, format="%.1e", step=1e-4,
                placeholder="until the overlap is resolved", key="new_tolerance",
                help="krylov goes on until every residual is at most this share of |λ₁|.",
            )  # fmt: skip
            hvp_path = st.selectbox(
                "Path of the products", PATHS, index=None, placeholder="the fastest, by a measurement",
                key="new_hvp_path", help="How Hessian-vector products are computed.",
            )  # fmt: skip
            test_matrix = st.selectbox(
                "Test matrices", TEST_MATRICES, key="new_test_matrix",
                help="Random test matrices of seigh and ssvd; ssrft is the paper's.",
            )  # fmt: skip
    return {
        "curvature": curvature, "parameters": parameters, "precision": precision, "tolerance": tolerance,
        "hvp_path": hvp_path, "test_matrix": test_matrix,
    }  # fmt: skip


def say_how_many(architecture: str, patterns: Sequence[str]) -> None:
    """D, where patterns choose it; what is wrong with them is said beside Start."""
    with suppress(SettingsError):
        chosen, whole = (architectures.parameter_count(architecture, each) for each in (patterns, ()))
        st.caption(f"D = {chosen:,}" + (f" of {whole:,} parameters." if patterns else ": all parameters."))


def uploaded_data() -> str | None:
    """Path of the uploaded data file, if there is one."""
    upload = st.file_uploader(
        "Data file",
        type=[suffix.removeprefix(".") for suffix in data.FILE_SUFFIXES],
        key="new_data_file",
        max_upload_size=settings().max_upload_mb,
        help="x (N, …) floating-point samples as in training and y (N,) integer labels.",
    )
    if upload is None:
        return None
    known: dict[str, str] = st.session_state.setdefault("new_data_paths", {})
    if upload.file_id not in known:
        known[upload.file_id] = str(kept(upload))
    return known[upload.file_id]


@st.cache_data(max_entries=200, show_spinner="Checking the data …")
def data_problem(dataset: str, split: str, samples: int, seed: int, architecture: str) -> str | None:
    """Why the subset cannot be drawn or fed to the architecture, if it cannot."""
    try:
        data.fitting_index(dataset, split, samples, seed, architectures.build(architecture), env=settings())
    except DataError as error:
        return str(error)
    return None


# --- Cost and start ---------------------------------------------------------------------------------------


def costs(chosen: Sequence[AnalysisSettings], architecture: str, files: int) -> list[str]:
    """What it will take; and the reason if these settings cannot work."""
    if not chosen:
        st.caption("Known when the settings are complete.")
        return []
    try:
        each = cost(chosen[0], architectures.parameter_count(architecture, chosen[0].parameters))
    except SettingsError as error:
        st.caption("None: these settings cannot work.")
        return [str(error)]
    analyses = files * len(chosen)
    with st.container(horizontal=True):
        st.metric("Parameters D", f"{each.parameters:,}", width=148)
        st.metric("Analyses", f"{analyses:,}", width=148, help="Checkpoints × splits.")
        st.metric("HVPs per analysis", f"{each.hvps:,}", width=148, help="Hessian-vector products.")
        st.metric("HVPs in total", f"{analyses * each.hvps:,}", width=148)
        st.metric("Memory of a worker", f"≥ {size(each.memory)}", width=190, help="Basis and eigenvectors.")
    return []


def missing(
    used: Sequence[ReadFile], steps: dict[str, int | None], model: str | None, user: str
) -> list[str]:
    """What is still to be filled in."""
    problems = []
    if not used:
        problems.append("Add at least one checkpoint that fits the architecture.")
    if nameless := [file.name for file in used if steps[file.id] is None]:
        problems.append(f"Give {nameless[0]} its training step in the table.")
    taken: dict[int, str] = {}
    for file in used:
        step = steps[file.id]
        if step is not None and taken.setdefault(step, file.name) != file.name:
            problems.append(
                f"{taken[step]} and {file.name} both have step {step:,}; change one or remove a file."
            )
    if not (model or "").strip():
        problems.append("Give the model a name.")
    if not user.strip():
        problems.append("Enter your name.")
    return problems


def start(
    used: Sequence[ReadFile],
    steps: dict[str, int | None],
    chosen: Sequence[AnalysisSettings],
    problems: Sequence[str],
) -> None:
    """The button, and beside it why it cannot be pressed yet."""
    label = "Start" if problems else f"Start {counted(len(used) * len(chosen), 'analysis', 'analyses')}"
    pressed = st.button(
        label, type="primary", icon=":material/play_arrow:", disabled=bool(problems), key="new_start"
    )
    if problems:
        st.warning("\n".join(f"- {plain(problem)}" for problem in problems))
    if not pressed:
        return
    try:
        with st.spinner("Checking everything once more and queueing …"):
            st.session_state["new_submission"] = submit(
                [Upload(file.path, file.name, steps[file.id]) for file in used],
                model_name=st.session_state["new_model"],
                settings=chosen,
                user=st.session_state["new_user"].strip(),
                env=settings(),
            )
    except (CheckpointError, DataError, SettingsError, StoreError) as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    st.session_state["new_round"] += 1
    st.rerun()


page()
