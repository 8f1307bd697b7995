"""Model: one training run, its checkpoints with their metrics and analyses, and what to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from seigh.app import identity
from seigh.app.common import (
    address_is_read,
    ago,
    asked_in_url,
    choose_one,
    counted,
    database,
    keep_in_url,
    nothing_yet,
    plain,
    said,
    settings,
    size,
    whole_number,
    without_archived,
)
from seigh.app.digits import number
from seigh.app.navigation import link
from seigh.core.lab import actions, listing, queries
from seigh.core.lab.listing import Query
from seigh.core.lab.queries import ModelDetail

METRICS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
MOST_PIXELS = 640  # of the table's height


def page() -> None:
    st.title("Model")
    with database()() as s:
        models = queries.models(s)
    if models.empty:
        nothing_yet("**No model yet.** The checkpoints that somebody brings, or a training, make one.")
        return
    asked = asked_in_url("model")
    models, put_away = without_archived(models, "model", asked, st.session_state.get("model_id"))
    names: dict[int, str] = dict(zip(models["id"].tolist(), models["name"], strict=True))
    wanted = whole_number(asked, "id")
    chosen = choose_one(
        "Model", list(names), "model_id", wanted, in_address="id" in asked,
        placeholder="The address asks for a model that is not there", format_func=names.__getitem__,
    )  # fmt: skip
    if chosen is None:
        address_is_read("model")
        st.info("There is no such model; it may have been deleted. Choose another one.")
        return
    keep_in_url("model", {"id": [str(chosen)]} | put_away)
    with database()() as s:
        detail = queries.model(s, chosen)
        checkpoints = queries.recorded_checkpoints(s, chosen)
    if detail is None:
        st.info("This model has been deleted meanwhile; choose another one.")
        return
    about(detail, checkpoints)
    table(detail, checkpoints)
    if identity.current().role.may_work:
        change(detail)


def about(detail: ModelDetail, checkpoints: pd.DataFrame) -> None:
    """What it is: name, tags, architecture, and how it came about."""
    badges = "".join(f" :gray-badge[:material/sell: {plain(tag)}]" for tag in detail.tags)
    put_away = " :orange-badge[:material/archive: archived]" if detail.archived else ""
    st.markdown(f"**{plain(detail.name)}**{put_away}{badges}")
    parts = [plain(detail.architecture)]
    if len(checkpoints):
        parts.append(f"{int(checkpoints['parameters'].max()):,} parameters")
    parts.append(counted(len(checkpoints), "checkpoint", "checkpoints"))
    parts.append(counted(int(checkpoints["analyses"].sum()), "analysis", "analyses"))
    parts.append(f"first seen {ago(detail.created_at)}")
    st.caption(" · ".join(parts))
    if detail.note:
        st.markdown(plain(detail.note).replace("\n", "  \n"))
    away = {"archived": "1"} if detail.archived else {}
    with st.container(horizontal=True):
        link("analyses", "Its analyses", icon=":material/table:", query={"model": detail.name} | away)
        link(
            "compare", "Compare its steps", icon=":material/stacked_line_chart:", query={"model": detail.name}
        )


def table(detail: ModelDetail, checkpoints: pd.DataFrame) -> None:
    """Its checkpoints; chosen ones can be analysed again or downloaded."""
    st.header("Checkpoints", anchor=False)
    if checkpoints.empty:
        st.caption("None yet: a training that waits or runs will record them.")
        return
    shown = pd.DataFrame({"step": checkpoints["step"]})
    for name in METRICS:
        if checkpoints[name].notna().any():
            shown[name.replace("_", " ")] = checkpoints[name]
    shown["analysed"] = checkpoints["settings"]
    shown["file"] = checkpoints["filename"]
    shown["size"] = [size(each) for each in checkpoints["size"]]
    shown["brought by"] = checkpoints["uploaded_by"]
    shown["brought"] = checkpoints["uploaded_at"]
    styled = shown.style.format(lambda value: f"{value:,}", subset=["step"])
    for name in shown.columns.intersection([each.replace("_", " ") for each in METRICS]):
        styled = styled.format(percent if name.endswith("accuracy") else loss, subset=[name])
    event: Any = st.dataframe(
        styled, hide_index=True, key=f"model_checkpoints_{detail.id}", on_select="rerun",
        selection_mode="multi-row", height=min(MOST_PIXELS, 38 + 35 * len(shown)),
        column_config={
            "analysed": st.column_config.Column(help="Finished ones: split, method, k and N of each kind."),
            "brought": st.column_config.DatetimeColumn(),
        },
    )  # fmt: skip
    st.caption("Loss and accuracy are as the checkpoint or its training recorded them, on all of the split.")
    places = [place for place in event.selection.rows if place < len(checkpoints)]
    picked = checkpoints.iloc[places] if places else checkpoints
    ids, steps = picked["id"].tolist(), picked["step"].tolist()
    what = counted(len(places), "checkpoint", "checkpoints") if places else "all checkpoints"
    with st.container(horizontal=True, vertical_alignment="center"):
        if identity.current().role.may_work:
            link(
                "new_analysis", f"Analyse {what} with other settings", icon=":material/replay:",
                query={"checkpoint": [str(each) for each in ids]},
            )  # fmt: skip
        if places:
            link(
                "analyses", f"Analyses of {what}", icon=":material/table:",
                query={"model": detail.name, "step": [str(each) for each in steps]},
            )  # fmt: skip
        if len(places) == 1:
            download(picked.iloc[0])
    if not places:
        st.caption("Choose checkpoints at their left to take some of them, or one to download it.")


def percent(value: Any) -> str:
    return "–" if pd.isna(value) else f"{value:.2%}"


def loss(value: Any) -> str:
    return number(float(value))


def download(checkpoint: pd.Series[Any]) -> None:
    """The file as it was brought; read when somebody wants it, and only if it is still the same."""
    key, sha256, filename = (str(checkpoint[name]) for name in ("key", "sha256", "filename"))

    def content() -> bytes:
        from seigh.core.lab.artifacts import ArtifactStore  # brings torch, which the page does not need

        store = ArtifactStore(settings().artifact_folder)
        return store.check(key, sha256, f"The file of checkpoint '{filename}'").read_bytes()

    if not (settings().artifact_folder / key).is_file():
        st.caption("Its file is no longer in the artefact store.")
        return
    st.download_button(
        "Download", content, filename, "application/octet-stream", key="model_download", on_click="ignore",
        icon=":material/download:",
    )  # fmt: skip


# --- Changes ----------------------------------------------------------------------------------------------


def change(detail: ModelDetail) -> None:
    """Name, note and tags; put it away, or delete it."""
    st.header("Name, note and tags", anchor=False)
    with database()() as s:
        known = listing.choices(s, Query(archived=True), "tag")
    with st.form(f"model_form_{detail.id}"):
        name = st.text_input("Name", value=detail.name, max_chars=200, key=f"model_name_{detail.id}")
        note = st.text_area(
            "Note", value=detail.note, max_chars=10_000, key=f"model_note_{detail.id}",
            placeholder="What others should know: where it comes from, how it was trained",
        )  # fmt: skip
        tags = st.multiselect(
            "Tags", sorted({*known, *detail.tags}), default=list(detail.tags), accept_new_options=True,
            key=f"model_tags_{detail.id}", placeholder="a new tag, or a known one",
            help="Its analyses are found by them: tag:baseline in the search of Analyses.",
        )  # fmt: skip
        if st.form_submit_button("Save", type="primary"):
            save(detail, str(name), str(note or ""), tags)
    with st.container(horizontal=True):
        st.button(
            "Take it back" if detail.archived else "Archive", key="model_archive",
            icon=":material/unarchive:" if detail.archived else ":material/archive:",
            on_click=archive, args=(detail.id, not detail.archived),
            help="An archived model stays unchanged, but pages offer it only to those who ask for it.",
        )  # fmt: skip
        with st.popover("Delete", icon=":material/delete:", key="model_delete"):
            st.markdown(
                f"Delete {plain(detail.name)} with all its checkpoints, analyses, eigenvectors and "
                "trainings? This cannot be undone."
            )
            st.button(
                "Yes, delete it", key="really_model_delete", type="primary", on_click=delete,
                args=(detail.id,),
            )  # fmt: skip


def save(detail: ModelDetail, name: str, note: str, tags: Sequence[str]) -> None:
    """Write down what has changed."""
    actor = identity.current()
    with database().begin() as s:
        if name.strip() != detail.name:
            actions.rename_model(s, actor, detail.id, name)
        if note.strip() != detail.note:
            actions.describe_model(s, actor, detail.id, note)
        if list(tags) != list(detail.tags):
            actions.tag_model(s, actor, detail.id, tags)
    st.rerun()


def archive(number: int, archived: bool) -> None:
    def write() -> None:
        with database().begin() as s:
            actions.archive_model(s, identity.current(), number, archived)

    said(write)


def delete(number: int) -> None:
    from seigh.tasks import submit  # brings torch, which the page does not need

    said(lambda: submit.delete_model(number, settings(), user=identity.current()))
    st.session_state.pop("model_id", None)
    st.query_params.clear()
