"""New analysis: checkpoints and settings in, queued analyses out; what cannot work is said before Start."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import streamlit as st
from pydantic import ValidationError
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from seigh.app import analysis_form as form
from seigh.app import exported, identity, uploads
from seigh.app.common import asked_in_url, counted, database, keep_in_url, plain, settings, size
from seigh.app.costs import costs
from seigh.app.navigation import link
from seigh.app.rows import DataSet, StoredCheckpoint, rows_of
from seigh.app.uploads import Brought, Part, UploadFolder
from seigh.core import preparation
from seigh.core.errors import UserError
from seigh.core.lab import queries, workers
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.names import NO_SPLIT, Place, Priority
from seigh.core.problems import architectures, data, huggingface, masks
from seigh.core.problems.checkpoints import Match, Position
from seigh.core.problems.data import DataError
from seigh.core.problems.spec import Spec, Value, parse
from seigh.core.settings import AnalysisSettings, SettingsError, refusal
from seigh.tasks.submit import Declared, Upload, submit

OWN_FILE = "a file of my own …"
RANDOM = "random data …"
FITS = " – fits "  # between an architecture and how many files fit it

# Files of weights, and the sentences about others, that stay while the page is left.
FILES = "new_brought"
# Which weights are taken of files that hold several.
ENTRY = "new_entry"


def page() -> None:
    st.title("New analysis")
    identity.current().check_work()
    with st.container(border=True):
        st.header("Checkpoints", anchor=False)
        files = choose_weights(brought())
        readable = uploads.in_order([file for file in files if file.refusal is None])
        table = edited_table(readable)
        below_table = st.container()
        left, right = st.columns(2)
        with left:
            model = form.model_name("new")
        with right:
            in_use = [file for file in readable if file.id in table]
            architecture, problems = choose_architecture(in_use)
        exported.ways(in_use, kept, (emptied("graph"), lambda upload: empty("graph", upload)))
        match = choose_match(in_use, architecture)
        used = [
            file
            for file in readable
            if file.id in table and architecture and not file.misfit(architecture, match)
        ]
        say_what_is_left_out(files, table, architecture, match)
        with below_table:
            guesses = unconfirmed(readable, used, table)
    with st.container(border=True):
        st.header("Data", anchor=False)
        dataset, missing_data = choose_data(architecture)
        problems += missing_data
    with st.container(border=True):
        st.header("Settings", anchor=False)
        chosen, wrong = choose_settings(architecture, None if missing_data else dataset)
        asked = {"entry": st.session_state.get(ENTRY) or "", "match": match}
        chosen = [each.model_copy(update=asked) for each in chosen]
        chosen, of_masks = with_own_masks(chosen)
        problems += wrong + of_masks + earlier_steps(chosen, used, table, model)
        left, right = st.columns(2)
        with left:
            user = form.user_name()
            priority = form.priority("new")
        with right:
            place = choose_place()
    with st.container(border=True):
        st.header("Cost", anchor=False)
        problems += costs(chosen, len(used), "new")
    problems = missing_files(used, table) + guesses + form.missing_names(model, user) + problems
    start(used, table, chosen, problems, model=model, place=place, priority=priority)


def report_last_submission() -> bool:
    """Say what Start has done, where one has pressed it; whether it has done something."""
    submission = st.session_state.pop("new_submission", None)
    if submission is None:
        return False
    new = len(submission.analysis_ids) - len(submission.reused_ids)
    reused = len(submission.reused_ids)
    st.success(
        f"{counted(new, 'analysis is', 'analyses are')} queued."
        + (f" {counted(reused, 'was', 'were')} there already and left as before." if reused else ""),
        icon=":material/check_circle:",
    )
    if submission.warning:
        st.warning(plain(submission.warning), icon=":material/warning:")
    link("runs", "Watch them in Runs", icon=":material/list:")
    return True


# --- Checkpoints ------------------------------------------------------------------------------------------


def brought() -> list[Brought]:
    """The checkpoints brought so far; what lies in the uploader joins them, and the uploader is emptied.

    So they outlast a visit to another page, and the files are on the disk and not in the server's memory.
    """
    files: list[Brought] = st.session_state.setdefault(FILES, [])
    uploaded = st.file_uploader(
        "Checkpoints of one model, as many training steps as you like",
        type=list(uploads.TYPES),
        accept_multiple_files=True,
        key=f"new_files_{emptied('files')}",
        max_upload_size=settings().max_upload_mb,
        help="State dicts and the dictionaries that trainers save (.pt, .pth, .ckpt, .bin) or .safetensors, "
        "also in several files with their .index.json. They are read as tensors: nothing in them is run. "
        "The config.json of a transformers model says its architecture.",
    )
    if sentence := st.session_state.pop("new_config_refused", None):
        st.error(f"**Left out.** {plain(sentence)}", icon=":material/block:")
    if uploaded:
        weights = [upload for upload in uploaded if not take_configuration(upload)]
        with st.spinner(f"Reading {counted(len(weights), 'file', 'files')} …"):
            new = uploads.read([kept(upload) for upload in weights], folder())
        st.session_state[FILES] = joined(files, new)
        empty("files", uploaded)
    stored(files)
    if exported.BROUGHT in st.session_state:  # and what fits it is known anew
        files = st.session_state[FILES] = uploads.fitted(files)
    if files:
        st.button("Remove all files", icon=":material/delete:", key="new_clear", on_click=forget_files)
    return files


def take_configuration(upload: Any) -> bool:
    """Whether an upload is the configuration of a ``transformers`` model, which is then the architecture."""
    if PurePath(upload.name).name.lower() != huggingface.FILE:
        return False
    try:
        found = architectures.canonical(huggingface.from_json(bytes(upload.getbuffer()), upload.name))
        st.session_state["new_architecture"] = found
    except SettingsError as error:
        st.session_state["new_config_refused"] = str(error)
    return True


def choose_weights(files: list[Brought]) -> list[Brought]:
    """The files with those of their weights that somebody chooses, where a file holds several."""
    offered = list(dict.fromkeys(name for file in files for name in file.offered))
    if chosen := st.session_state.get(ENTRY):
        offered = list(dict.fromkeys([*offered, chosen]))
    if not offered:
        return files
    usual = next((file.outline.entry for file in files if file.outline and file.outline.offered), "")
    doubt = any(file.outline and file.outline.undecided for file in files)
    labels = {"": "choose …" if doubt else f"{usual or 'the whole file'} (proposed)"}
    chosen = st.selectbox(
        "Weights",
        ["", *(name for name in offered if doubt or name != usual)],
        key=ENTRY,
        format_func=lambda name: labels.get(name, name),
        help="Entries of the files that contain weights, or the prefixes of their names. A note below each "
        "file says which are taken.",
        persist_state="session",
    )
    with st.spinner("Reading …"):
        again = [uploads.choose(file, chosen or "") for file in files]
    st.session_state[FILES] = again
    return again


def choose_match(files: Sequence[Brought], architecture: str | None) -> Match:
    """By what tensors are matched; by order and shape only where somebody has looked at the pairs."""
    misfits = [file for file in files if architecture and file.outline and file.misfit(architecture)]
    pairs = misfits[0].pairs(architecture) if misfits and architecture else []
    if not pairs or any(file.fitting for file in misfits):
        return "names"
    with st.container(border=True):
        st.markdown(
            f":material/help: The tensors of {plain(misfits[0].name)} have other names than those of "
            f"{plain(architecture or '')}, and the same shapes in the same order. That proves nothing: look "
            "at the pairs."
        )
        with st.expander(f"{len(pairs):,} pairs", icon=":material/compare_arrows:"):
            st.dataframe(
                pd.DataFrame(
                    {
                        "in the file": [pair.theirs for pair in pairs],
                        "in the architecture": [pair.ours for pair in pairs],
                        "shape": ["×".join(map(str, pair.shape)) for pair in pairs],
                    }
                ),
                hide_index=True,
            )
        key = "new_match_" + hashlib.sha256(f"{misfits[0].id} {architecture}".encode()).hexdigest()[:16]
        if st.checkbox("These pairs are the same tensors", key=key, persist_state="session"):
            return "order"
    return "names"


def stored(files: Sequence[Brought]) -> None:
    """Take checkpoints of a model that the lab has already, as if somebody had brought them again."""
    for sentence in st.session_state.pop("new_again", ()):
        st.info(plain(sentence), icon=":material/content_copy:")
    for sentence in st.session_state.pop("new_stored_missing", ()):
        st.error(plain(sentence), icon=":material/block:")
    asked = [int(each) for each in asked_in_url("new_analysis").get("checkpoint", []) if each.isdecimal()]
    if asked:
        take_asked(asked)
    with database()() as s:
        models = queries.models(s)
    names = models.loc[models["checkpoints"] > 0, "name"].tolist()
    if not names:
        return
    with st.expander("Checkpoints that are in the lab already", icon=":material/inventory_2:"):
        name = st.selectbox(
            "Of the model", names, index=None, key="new_stored_model", placeholder="Choose a model"
        )
        if name is None:
            return
        with database()() as s:
            there = rows_of(queries.checkpoints(s, name), StoredCheckpoint)
        label = {each.step: f"{each.step:,}{analysed(each.analyses)}" for each in there}
        steps = st.multiselect(
            "Training steps", list(label), format_func=label.__getitem__, key=f"new_stored_steps_{name}",
            placeholder="All of them",
        )  # fmt: skip
        wanted = [each for each in there if not steps or each.step in steps]
        if st.button(
            f"Take {counted(len(wanted), 'checkpoint', 'checkpoints')}", key="new_stored",
            icon=":material/add:",
        ):  # fmt: skip
            take(files, name, wanted)


def take_asked(asked: Sequence[int]) -> None:
    """Take the checkpoints that the address names, those of one model, and leave the address bare."""
    with database()() as s:
        found = queries.stored_checkpoints(s, asked)
    keep_in_url("new_analysis", {})
    said = []
    if len(gone := set(asked) - set(found["id"])):
        said.append(f"{counted(len(gone), 'checkpoint is', 'checkpoints are')} no longer there.")
    models = list(dict.fromkeys(found["model"]))
    if len(models) > 1:
        said.append(
            f"Only one model can be analysed at a time: these are the checkpoints of {models[0]}; start "
            f"{', '.join(models[1:])} separately."
        )
    if not models:
        st.session_state["new_stored_missing"] = said
        st.rerun()
    forget_files()
    take((), models[0], rows_of(found[found["model"] == models[0]], StoredCheckpoint), said)


def analysed(analyses: int) -> str:
    return f" ({counted(analyses, 'analysis', 'analyses')})" if analyses else ""


def take(
    files: Sequence[Brought], model: str, wanted: Sequence[StoredCheckpoint], said: Sequence[str] = ()
) -> None:
    """Add stored checkpoints to the files, with their steps, choose their model, and say what is ``said``."""
    artifacts = ArtifactStore(settings().artifact_folder)
    parts, steps, missing = [], {}, list(said)
    for each in wanted:
        try:
            path = artifacts.check(each.key, each.sha256, f"The file of checkpoint '{each.filename}'")
        except UserError as error:
            missing.append(str(error))
            continue
        part = room_for(each.filename)
        shutil.copyfile(path, part.path)  # a copy, as it is removed when somebody removes all files
        parts.append(part)
        steps[part.id] = each.step
    with st.spinner(f"Reading {counted(len(parts), 'file', 'files')} …"):
        st.session_state[FILES] = joined(files, uploads.read(parts, folder()))
    st.session_state.setdefault("new_steps", {}).update(steps)
    if not files or not st.session_state.get("new_model"):
        st.session_state["new_model"] = model
    st.session_state["new_stored_missing"] = missing
    st.rerun()


def joined(files: Sequence[Brought], new: Sequence[Brought]) -> list[Brought]:
    """All of them, the same content once; a file again is no longer the one that was refused."""
    again = {file.name for file in new}
    found = [file for file in files if file.refusal is None or file.name not in again]
    hashes = {file.outline.sha256 for file in found if file.outline}
    for file in new:
        if file.outline is None or file.outline.sha256 not in hashes:
            found.append(file)
            hashes |= {file.outline.sha256} if file.outline else set()
        else:
            same = next(each.name for each in found if each.outline and is_same(each, file))
            st.session_state.setdefault("new_again", []).append(
                f"{file.name} is there already: it has the same content as {same}, so it is not added."
                if same != file.name
                else f"{file.name} is there already, with the same content."
            )
    return found


def is_same(one: Brought, other: Brought) -> bool:
    """Whether two files have the same content."""
    return bool(one.outline and other.outline and one.outline.sha256 == other.outline.sha256)


def forget_files() -> None:
    for file in st.session_state.pop(FILES, []):
        file.path.unlink(missing_ok=True)


def folder() -> Path:
    """Where files lie that somebody has brought; it goes when the session ends."""
    if "new_folder" not in st.session_state:
        st.session_state["new_folder"] = UploadFolder()
    found: UploadFolder = st.session_state["new_folder"]
    return found.path


def kept(upload: Any) -> Part:
    """The upload as a file of its own name."""
    part = room_for(upload.name)
    part.path.write_bytes(upload.getbuffer())
    return part


def room_for(name: str) -> Part:
    """A file to be, of this name or what is left of it, in a folder whose name the browser has no part in."""
    number = uuid.uuid4().hex
    name = PurePath(name.replace("\0", "")).name
    if name in ("", ".", ".."):
        name = "file"
    path = folder() / number / "upload" / name
    path.parent.mkdir(parents=True)
    return Part(number, name, path)


def emptied(uploader: str) -> int:
    """How many times an uploader has been emptied: another key makes it a new one."""
    return int(st.session_state.setdefault(f"new_{uploader}_round", 0))


def empty(uploader: str, uploaded: Sequence[Any]) -> None:
    """Empty an uploader, and let go of what the server holds in memory of it."""
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        for upload in uploaded:
            context.uploaded_file_mgr.remove_file(context.session_id, upload.file_id)
    st.session_state[f"new_{uploader}_round"] += 1
    st.rerun()


def edited_table(files: Sequence[Brought]) -> dict[str, int | None]:
    """The training step by id of every file that is in use: proposed, until it is edited here."""
    if not files:
        return {}
    remembered: dict[str, tuple[bool, int | None]] = st.session_state.setdefault("new_table", {})
    proposed = uploads.proposed_steps(files)
    key = "new_table_" + hashlib.sha256("".join(file.id for file in files).encode()).hexdigest()[:16]
    # The editor keeps edits apart from its data, which must not change under them while the page is shown.
    if key not in st.session_state:
        st.session_state[f"{key}_data"] = [
            (remembered.get(f.id, (True, None))[0], edited_step(f, proposed[f.id])) for f in files
        ]
    before = st.session_state[f"{key}_data"]
    table = pd.DataFrame(
        {
            "use": [use for use, _ in before],
            "file": [file.name for file in files],
            "step": pd.array([step for _, step in before], dtype="Int64"),
            "proposed": [source_of(file, proposed[file.id]) for file in files],
            "D": [f"{architectures.parameter_count(f.fitting[0]):,}" if f.fitting else "?" for f in files],
            "fits": [", ".join(file.fitting) or "none" for file in files],
        }
    )
    edited = st.data_editor(
        table,
        key=key,
        hide_index=True,
        disabled=["file", "proposed", "D", "fits"],
        column_config={
            "use": st.column_config.CheckboxColumn(width="small", help="Clear to leave the file out."),
            "step": st.column_config.NumberColumn(
                "training step", min_value=0, max_value=2**31 - 1, step=1, help="Click to edit."
            ),
            "proposed": st.column_config.TextColumn(
                "step known from", help="Where the proposed step comes from; a guess has to be confirmed."
            ),
            "D": st.column_config.TextColumn(help="Number of parameters."),
            "fits": st.column_config.TextColumn(help="Architectures with these tensors."),
        },
    )
    edits: dict[str, int | None] = st.session_state.setdefault("new_steps", {})
    for file, use, cell in zip(files, edited["use"], edited["step"], strict=True):
        step = None if pd.isna(cell) else int(cell)
        remembered[file.id] = bool(use), step
        if step == proposed[file.id].step:
            edits.pop(file.id, None)
        else:
            edits[file.id] = step
    say_steps(proposed)
    for about, note in uploads.shared_notes(files):
        st.caption(f":material/info: **{plain(about)}**: {plain(note)}")
    return {file.id: remembered[file.id][1] for file in files if remembered[file.id][0]}


def edited_step(file: Brought, proposed: Position) -> int | None:
    """The step that somebody put in for a file, else the proposed one, which other files may change."""
    edits: dict[str, int | None] = st.session_state.get("new_steps", {})
    return edits.get(file.id, proposed.step)


def source_of(file: Brought, proposed: Position) -> str:
    """Where a proposed step comes from, in a few words."""
    match proposed.source:
        case "told":
            return "the file or its name"
        case "epoch":
            return "the epoch"
        case "converted":
            return f"epoch {file.epoch:,}"
        case "guess":
            return "a guess from the name"
    return "not known" if file.epoch is None else f"not known; epoch {file.epoch:,}"


def say_steps(proposed: Mapping[str, Position]) -> None:
    """Say where epochs stand in for steps or were converted to them."""
    sources = {each.source for each in proposed.values()}
    if "epoch" in sources:
        st.info(
            "The files tell their epochs and no training steps, so the epochs stand in the column of steps; "
            "put in the steps if you know them.",
            icon=":material/info:",
        )
    if "converted" in sources:
        st.info(
            "Some files tell their epoch only. Their steps follow from it at the rate of the files that tell "
            "both.",
            icon=":material/info:",
        )


def unconfirmed(
    files: Sequence[Brought], used: Sequence[Brought], steps: Mapping[str, int | None]
) -> list[str]:
    """Ask about guessed steps of the files in use; that this has not been confirmed, if so."""
    proposed = uploads.proposed_steps(files)
    guessed = [
        file for file in used
        if proposed[file.id].source == "guess" and steps[file.id] == proposed[file.id].step
    ]  # fmt: skip
    if not guessed:
        return []
    numbers = [f"{steps[file.id]:,}" for file in guessed]
    if len(guessed) == 1:
        what = f"The training step {numbers[0]} of {plain(guessed[0].name)} is a guess from the number at the"
        rest = "end of its name, which does not say what it counts. Change it in the table, or confirm it."
        answer = "This is the training step"
    else:
        shown = f"{', '.join(numbers[:5])}, …" if len(numbers) > 6 else ", ".join(numbers)
        what = (
            f"The training steps {shown} are guesses from the numbers at the end of the files' names, which"
        )
        rest = "do not say what they count. Change them in the table, or confirm them."
        answer = "These are the training steps"
    asked = "new_guess_" + hashlib.sha256("".join(file.id for file in guessed).encode()).hexdigest()[:16]
    with st.container(border=True):
        st.markdown(f":material/help: {what} {rest}")
        if st.checkbox(answer, key=asked, persist_state="session"):
            return []
    names = guessed[0].name if len(guessed) == 1 else f"{guessed[0].name} and {len(guessed) - 1} more"
    return [f"Confirm or change the guessed training {'step' if len(guessed) == 1 else 'steps'} of {names}."]


def choose_architecture(files: Sequence[Brought]) -> tuple[str | None, list[str]]:
    """The architecture with its options, at first the one that most files fit; and what is wrong with it."""
    votes = [spec for file in files for spec in file.fitting]
    proposals = sorted(dict.fromkeys(votes), key=votes.count, reverse=True)
    proposals = proposals or list(dict.fromkeys(spec for file in files for spec in file.by_order))
    new = st.session_state.pop(exported.BROUGHT, None)
    if new is not None:
        proposals = [new, *(spec for spec in proposals if spec != new)]
        st.session_state["new_proposed"] = None
        st.session_state["new_architecture"] = new
    if files and proposals and st.session_state.get("new_proposed") != proposals[0]:
        st.session_state["new_proposed"] = st.session_state["new_architecture"] = proposals[0]
    if "new_architecture" in st.session_state:
        # The browser sends the label, which more files have changed meanwhile.
        st.session_state["new_architecture"] = st.session_state["new_architecture"].partition(FITS)[0]
    kept = [st.session_state["new_architecture"]] if "new_architecture" in st.session_state else []
    name = st.selectbox(
        "Architecture",
        list(dict.fromkeys([*proposals, *kept, *architectures.names()])),
        key="new_architecture",
        format_func=lambda spec: (
            f"{spec}{FITS}{votes.count(spec)} of {len(files)}" if spec in votes else spec
        ),
        help="Type to search. Those that your files fit come first, then the paper's, plug-ins' and "
        "torchvision's by their names there.",
        persist_state="session",
    ).partition(FITS)[0]
    try:
        spec = with_options(name)
    except SettingsError as error:
        return None, [str(error)]
    form.say_theta(spec)
    return spec, []


def with_options(name: str) -> str:
    """An architecture with the options of its fields, which begin with those in its name.

    Raises:
        SettingsError: If it cannot be built with them.
    """
    about, given = architectures.describe(name), dict(parse(name).options)
    if not about.options:
        return architectures.canonical(name)
    with st.expander("Options", icon=":material/straighten:", expanded=bool(given)):
        st.caption(plain(about.line))
        values = {
            option: option_field(
                f"new_option_{name}_{option}", option, each.help, given.get(option, each.default)
            )
            for option, each in about.options.items()
        }
    return architectures.canonical(str(Spec(about.name, tuple(values.items()))))


def option_field(key: str, label: str, help_text: str, value: Value) -> Value:
    """A field for an option of the type of its value."""
    common: Any = {"key": key, "help": help_text, "persist_state": "session"}
    match value:
        case bool():
            return st.toggle(label, value=value, **common)
        case int():
            return int(st.number_input(label, min_value=1, max_value=10**6, value=value, **common))
        case float():
            return float(st.number_input(label, min_value=0.0, value=value, step=0.05, format="%g", **common))
    return str(st.text_input(label, value=value, max_chars=100, **common))


def say_what_is_left_out(
    files: Sequence[Brought], table: Mapping[str, object], architecture: str | None, match: Match
) -> None:
    """One sentence for each file that cannot be used; of those that fit no architecture, one is said "
    "elsewhere."""
    used = [file for file in files if file.refusal is None and file.id in table]
    unknown = exported.fits_nothing(used) and architecture == architectures.names()[0]
    for file in files:
        sentence = file.refusal
        if sentence is None and architecture and file.id in table and not unknown:
            sentence = file.misfit(architecture, match)
        if sentence:
            st.error(f"**Left out.** {plain(sentence)}", icon=":material/block:")


# --- Data -------------------------------------------------------------------------------------------------


def choose_data(architecture: str | None) -> tuple[str | None, list[str]]:
    """The data set, as settings name it, and what is missing of it."""
    with database()() as s:
        there = {each.name: each for each in rows_of(queries.data_sets(s), DataSet) if each.size}
    options = [*data.names(), *there, RANDOM, OWN_FILE]
    if st.session_state.get("new_data") not in options:  # it may have been renamed or deleted
        st.session_state.pop("new_data", None)
    if asked := st.session_state.pop("new_data_asked", None):
        st.session_state["new_data"] = asked if asked in options else options[0]
    left, right = st.columns(2)
    with left:
        source = st.selectbox(
            "Data set", options, key="new_data", persist_state="session",
            help="Data files that are in the lab already stand here by their names.",
        )  # fmt: skip
    with right:
        if source == OWN_FILE:
            path = own_data()
            if path is None:
                return None, ["Upload the data file."]
            return as_tokens(path, path)
        if source in there:
            return stored_data(there[source])
        name = random_data(architecture) if source == RANDOM else source
    try:
        about = data.describe(name, env=settings())
    except DataError as error:
        return None, [str(error)]
    form.say_data(about)
    return data.canonical(name), form.absent(about)


def own_data() -> str | None:
    """Path of the uploaded data file, if there is one."""
    path: Path | None = st.session_state.get("new_data_file")
    if path is not None and path.is_file():
        st.markdown(f"**{plain(path.name)}**, {size(path.stat().st_size)}")
        st.button("Another file", icon=":material/swap_horiz:", key="new_other_data", on_click=forget_data)
        st.text_input(
            "Name of the data", value=path.name[-200:], max_chars=200,
            key=f"new_data_name_{path.parent.parent.name}",
            help="What pages call them. The lab keeps the file, and offers it here from then on.",
            persist_state="session",
        )  # fmt: skip
        st.selectbox(
            "These samples are", form.SPLIT_WORDS, index=2, key="new_data_split",
            format_func=form.SPLIT_WORDS.__getitem__, persist_state="session",
            help="Pages call the matrix so: train Hessian, test Hessian, or Hessian alone.",
        )  # fmt: skip
        return str(path)
    uploaded = st.file_uploader(
        "Data file",
        type=[each.removeprefix(".") for each in (*data.FILE_SUFFIXES, *data.HALF_SUFFIXES, ".json")],
        accept_multiple_files=True,
        key=f"new_data_file_{emptied('data')}",
        max_upload_size=settings().max_upload_mb,
        help="x (N, …) floating-point samples as in training and y (N,) integer labels, or tokens: rows of "
        "input_ids (.jsonl, .parquet, .arrow, .npy), or one stream of them (.bin, .npy). Bring together what "
        "belongs together: .idx and .bin of Megatron, a .txt and its tokenizer.json, the files of "
        "save_to_disk. It has no splits.",
    )
    if sentence := st.session_state.pop("new_data_refused", None):
        st.error(plain(sentence), icon=":material/block:")
    if uploaded:
        take_data([kept(each).path for each in uploaded])
        empty("data", uploaded)
    return None


def take_data(files: Sequence[Path]) -> None:
    """Keep what was brought as data in one file, or remember why it is none."""
    target = room_for("data").path
    try:
        found = data.together(files, target.parent)
    except DataError as error:
        st.session_state["new_data_refused"] = str(error)
        found = None
    for each in files:
        if each != found:
            each.unlink(missing_ok=True)
    if found is not None:
        st.session_state["new_data_file"] = found


def declared() -> Declared:
    """What somebody says of the data file that has been uploaded."""
    path: Path | None = st.session_state.get("new_data_file")
    if path is None or st.session_state.get("new_data") != OWN_FILE:
        return Declared()
    name = st.session_state.get(f"new_data_name_{path.parent.parent.name}", "")
    return Declared(str(name).strip(), st.session_state.get("new_data_split"))


def stored_data(file: DataSet) -> tuple[str | None, list[str]]:
    """A data file that the lab has already, as settings name it."""
    said = "no split" if file.split == NO_SPLIT else f"{file.split} data"
    link("data", f"In the lab already: {said}", icon=":material/database:", query={"data": file.name})
    return as_tokens(file.data, file.filename or "")


def as_tokens(name: str, filename: str) -> tuple[str | None, list[str]]:
    """A data file as settings name it, with how it is to be read if it is a stream of tokens."""
    suffix = PurePath(filename).suffix.lower()
    if suffix not in data.STREAM_SUFFIXES:
        return name, []
    options: dict[str, Any] = {}
    length = st.number_input(
        "Block, tokens", min_value=1, max_value=2**20, value=None, key="new_block", persist_state="session",
        placeholder="of one long stream",
        help="Tokens of a sample. Not needed for rows of tokens; Megatron's documents are rows without it.",
    )  # fmt: skip
    if length is not None:
        options["block"] = int(length)
    if suffix == ".bin":
        options["dtype"] = st.selectbox(
            "Type of a token", data.TOKEN_DTYPES, key="new_dtype", persist_state="session",
            help="nanoGPT and llm.c write uint16; OLMo uint16 or uint32, by the size of its vocabulary.",
        )  # fmt: skip
        if length is None:
            return None, ["Say how many tokens a block has."]
    return data.with_options(name, options), []


def forget_data() -> None:
    if path := st.session_state.pop("new_data_file", None):
        path.unlink(missing_ok=True)


def random_data(architecture: str | None) -> str:
    """The random data that somebody wants; proposed are those of the size that the architecture takes."""
    proposed = random_proposal(architecture) if architecture else data.RANDOM_EXAMPLE
    return str(
        st.text_input(
            "Random data", value=proposed, max_chars=100, key=f"new_random_{proposed}",
            help="The shape of a sample, and the number of classes.", persist_state="session",
        )
    )  # fmt: skip


def random_proposal(architecture: str) -> str:
    about, options = architectures.describe(architecture), dict(parse(architecture).options)
    if about.takes is None:
        return data.RANDOM_EXAMPLE
    usual = about.options.get("num_classes")
    classes = options.get("num_classes", usual.default if usual else 10)
    return f"random({'x'.join(map(str, about.takes))},classes={classes})"


# --- Settings and start -----------------------------------------------------------------------------------


def choose_settings(
    architecture: str | None, dataset: str | None
) -> tuple[list[AnalysisSettings], list[str]]:
    if architecture is None:
        st.caption("Known when the architecture is.")
        return [], []
    return form.analysis_settings("new", architecture, dataset)


def with_own_masks(chosen: Sequence[AnalysisSettings]) -> tuple[list[AnalysisSettings], list[str]]:
    """The settings with the masks that somebody has brought, and what is wrong with these."""
    brought_masks: list[Part] = st.session_state.setdefault("new_masks", [])
    with st.expander("Masks of my own", icon=":material/layers:", expanded=bool(brought_masks)):
        upload = st.file_uploader(
            "Scores, zeros and ones, or pruned checkpoints",
            type=[suffix.removeprefix(".") for suffix in masks.SUFFIXES],
            accept_multiple_files=True,
            key=f"new_masks_file_{emptied('masks')}",
            max_upload_size=settings().max_upload_mb,
            help="Scores, or zeros and ones, under the names of the parameters. Masks in a checkpoint by "
            "torch.nn.utils.prune are recognised. Each overlap is a further curve, named after its file.",
        )
        if upload:
            brought_masks += [kept(each) for each in upload]
            empty("masks", upload)
        kinds = {
            part.id: st.toggle(
                f"{plain(part.name)} is a pruned checkpoint: take its non-zeros", key=f"new_pruned_{part.id}",
                persist_state="session",
            )
            for part in brought_masks
        }  # fmt: skip
        if brought_masks:
            st.button(
                "Remove these masks", icon=":material/delete:", key="new_clear_masks", on_click=forget_masks
            )
    own = {
        setting: tuple(str(part.path) for part in brought_masks if kinds[part.id] is pruned)
        for setting, pruned in (("masks", False), ("pruned", True))
    }
    if not brought_masks or not chosen:
        return list(chosen), []
    try:
        complete = [AnalysisSettings.model_validate(each.model_dump() | own) for each in chosen]
        preparation.check(complete[0])
    except ValidationError as error:
        return list(chosen), [refusal(error)]
    except UserError as error:
        return list(chosen), [str(error)]
    first = complete[0]
    notes, problem = masks_fit(own["masks"], own["pruned"], first.architecture, first.parameters)
    for note in notes:
        st.caption(f":material/info: {plain(note)}")
    return complete, [problem] if problem else []


@st.cache_data(max_entries=50, show_spinner="Checking the masks …")
def masks_fit(
    own: tuple[str, ...], pruned: tuple[str, ...], architecture: str, parameters: tuple[str, ...]
) -> tuple[list[str], str | None]:
    """What was done to make masks fit, in sentences; and why one does not."""
    asked = AnalysisSettings(
        architecture=architecture, data="", parameters=parameters, masks=own, pruned=pruned
    )
    try:
        return list(preparation.others(asked, settings()).notes.values()), None
    except UserError as error:
        return [], str(error)


def forget_masks() -> None:
    for part in st.session_state.pop("new_masks", []):
        part.path.unlink(missing_ok=True)


def earlier_steps(
    chosen: Sequence[AnalysisSettings],
    used: Sequence[Brought],
    steps: Mapping[str, int | None],
    model: str,
) -> list[str]:
    """Say which earlier steps masks are compared with; why there are none, if so."""
    analysed = [step for file in used if (step := steps[file.id]) is not None]
    if not analysed or not chosen:
        return []
    with database()() as s:
        known = queries.checkpoints(s, model)["step"].tolist() if model else []
    try:
        said = preparation.say_earlier_steps(
            [preparation.by_step(each) for each in chosen], [*known, *analysed], analysed
        )
    except SettingsError as error:
        return [str(error)]
    for sentence in said:
        st.caption(f":material/history: {plain(sentence)}")
    return []


def choose_place() -> Place:
    """Where the analyses may run, if there are workers of several kinds."""
    with database()() as s:
        devices = {worker.device for worker in workers.alive(s)}
    if len(devices) < 2:
        return "any"
    places: dict[Place, str] = {"any": "on any worker", "cpu": "on a CPU", "gpu": "on a GPU"}
    place: Place = st.selectbox(
        "Runs",
        list(places),
        format_func=places.__getitem__,
        key="new_place",
        persist_state="session",
        help="Results differ in rounding from one kind of device to the other.",
    )
    return place


def missing_files(used: Sequence[Brought], steps: Mapping[str, int | None]) -> list[str]:
    """What is still to be done about the files."""
    problems = []
    if not used:
        problems.append("Add at least one checkpoint that fits the architecture.")
    if nameless := [file for file in used if steps[file.id] is None]:
        first, told = nameless[0], [file.name for file in used if file.step is not None]
        why = ""
        if first.epoch is not None and told:
            why = f": it tells its epoch only, {first.epoch:,}, while {told[0]} tells its step"
        problems.append(f"Give {first.name} its training step in the table{why}.")
    taken: dict[int, str] = {}
    for file in used:
        step = steps[file.id]
        if step is not None and taken.setdefault(step, file.name) != file.name:
            problems.append(
                f"{taken[step]} and {file.name} both have step {step:,}; change one or leave a file out."
            )
    return problems


def start(
    used: Sequence[Brought],
    steps: Mapping[str, int | None],
    chosen: Sequence[AnalysisSettings],
    problems: Sequence[str],
    *,
    model: str,
    place: Place,
    priority: Priority,
) -> None:
    """The button, and beside it why it cannot be pressed yet."""
    label = "Start" if problems else f"Start {counted(len(used) * len(chosen), 'analysis', 'analyses')}"
    pressed = st.button(
        label, type="primary", icon=":material/play_arrow:", disabled=bool(problems), key="new_start"
    )
    if report_last_submission():  # the form is empty after it, and nobody has asked what is missing
        return
    if problems:
        st.warning("\n".join(f"- {plain(problem)}" for problem in problems))
    if not pressed:
        return
    try:
        with st.spinner("Checking everything once more and queueing …"):
            st.session_state["new_submission"] = submit(
                [Upload(file.path, file.name, steps[file.id]) for file in used],
                model_name=model,
                settings=chosen,
                user=identity.current(),
                place=place,
                priority=priority,
                data_file=declared(),
                env=settings(),
            )
    except UserError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    forget_files()
    st.rerun()
