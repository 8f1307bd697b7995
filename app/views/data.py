"""Data: every data set that the lab has, what it holds, a look at some samples, and where it was used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from torch import Tensor

from seigh.app import analysis_form as form
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
)
from seigh.app.digits import number
from seigh.app.navigation import link
from seigh.app.rows import DataSet, rows_of
from seigh.core.lab import actions, datafiles, queries
from seigh.core.lab.actions import StoredData
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.keys import data_key
from seigh.core.lab.store import needed_by
from seigh.core.names import NO_SPLIT
from seigh.core.order import in_order
from seigh.core.problems import data
from seigh.core.problems.data import DataError, Dataset, Summary
from seigh.core.settings import SPLITS
from seigh.tasks import submit

LOOKED_AT = 12  # samples
MOST_NUMBERS = 64  # of a sample that are shown, where it is no image
MOST_PIXELS = 420  # of a table's height


def page() -> None:
    st.title("Data")
    with database()() as s:
        frame = queries.data_sets(s)
    if frame.empty:
        nothing_yet(
            "**No data yet.** The data set of the first analysis is shown here, and every data file that "
            "somebody brings."
        )
        return
    there = {each.name: each for each in rows_of(frame, DataSet)}
    listed(frame)
    asked = asked_in_url("data")
    chosen = choose_one(
        "Data set", list(there), "data_name", asked.get("data", [None])[0], in_address="data" in asked,
        placeholder="The address asks for data that are not there",
    )  # fmt: skip
    if chosen is None:
        address_is_read("data")
        st.info("There are no such data; they may have been deleted or renamed. Choose others.")
        return
    keep_in_url("data", {"data": [chosen]})
    about(there[chosen])
    contents(there[chosen])
    uses(there[chosen])
    if there[chosen].sha256 is not None:
        file(there[chosen])


def listed(frame: pd.DataFrame) -> None:
    """All of them, one row each."""
    shown = pd.DataFrame(
        {
            "name": frame["name"],
            "what it is": [kind_of(each) for each in rows_of(frame, DataSet)],
            "analyses": frame["analyses"],
            "models": frame["models"],
            "size": [
                "" if pd.isna(each) else size(int(each)) if each else "file deleted" for each in frame["size"]
            ],
            "brought by": frame["uploaded_by"].fillna(""),
            "brought": ["" if pd.isna(each) else f"{each:%d %b %Y}" for each in frame["uploaded_at"]],
        }
    )
    counts = dict.fromkeys(("analyses", "models"), st.column_config.NumberColumn(format="localized"))
    st.dataframe(
        shown,
        hide_index=True,
        key="data_sets",
        column_config=counts,
        height=min(MOST_PIXELS, 38 + 35 * len(shown)),
    )


def kind_of(each: DataSet) -> str:
    if each.sha256 is not None:
        return "own file, no split" if each.split == NO_SPLIT else f"own file, {each.split} data"
    if each.data.startswith("random("):
        return "random numbers, for trials"
    return "data set with train and test split" if each.data in data.names() else "data of a result"


def about(each: DataSet) -> None:
    """What it is called and where it comes from."""
    badge = " :orange-badge[synthetic]" if each.data.startswith("random(") else ""
    st.header(plain(each.name) + badge, anchor=False)
    parts = [kind_of(each)]
    if each.filename:
        parts.append(f"file {plain(each.filename)}")
    if each.size:
        parts.append(size(each.size))
    if each.uploaded_by and each.uploaded_at:
        parts.append(f"brought by {plain(each.uploaded_by)} {ago(each.uploaded_at)}")
    st.caption(" · ".join(parts))
    if each.sha256 is not None:
        st.caption("SHA-256 of the file, which identifies it on any machine:")
        st.code(each.sha256, language=None, wrap_lines=True)


# --- What it holds ----------------------------------------------------------------------------------------


@st.cache_data(max_entries=50, show_spinner="Counting the samples …")
def summary(name: str, split: str, _stamp: object) -> Summary | str:
    """What a data set holds, or why it cannot be read."""
    try:
        return data.summarise(loaded(name, split))
    except DataError as error:
        return str(error)


def loaded(name: str, split: str) -> Dataset:
    return data.load(name, split, env=settings())


def contents(each: DataSet) -> None:
    """Shape, classes and counts, and some samples."""
    st.header("What it holds", anchor=False)
    if each.size == 0:
        st.info(
            "The file has been deleted, so nothing of it can be shown; the numbers of its analyses stay. "
            "Bring it again on New analysis to have it back.",
            icon=":material/delete:",
        )
        return
    name: str | None = each.data
    try:
        if each.sha256 is not None:
            name = with_how_it_is_read(each)
        else:
            known = data.describe(each.data, env=settings())
            form.say_data(known)
            name = None if known.missing else each.data
    except DataError as error:
        st.info(plain(str(error)), icon=":material/info:")
        return
    if name is None:
        return
    split = SPLITS[-1]
    if data.has_splits(name):
        split = st.segmented_control(
            "Split", SPLITS, default=SPLITS[-1], key="data_split", persist_state="session", required=True
        )
    found = summary(name, split, each.size)
    if isinstance(found, str):
        st.warning(plain(found), icon=":material/warning:")
        return
    numbers(found)
    if found.counts:
        table = counts(found)
        st.dataframe(
            table, hide_index=True, key="data_counts", height=min(MOST_PIXELS, 38 + 35 * len(table)),
            column_config={"share": st.column_config.NumberColumn("share, %", format="%.1f")},
        )  # fmt: skip
    st.subheader("Some samples", anchor=False)
    try:
        whole = loaded(name, split)
        index = data.examples(whole, LOOKED_AT)
        samples = whole.take(index)
    except DataError as error:
        st.warning(plain(str(error)), icon=":material/warning:")
        return
    look_at(samples, index, whole, found)


def with_how_it_is_read(each: DataSet) -> str | None:
    """The name of a file with how it is to be read, which a stream of tokens has to be told."""
    suffix = Path(stored_file(each).filename).suffix.lower()
    if suffix not in data.STREAM_SUFFIXES:
        return each.data
    with database()() as s:
        used = queries.readings_of_data(s, each.data)
    if not used:
        if suffix == ".npy":
            return each.data
        st.caption("A stream of tokens: an analysis of it says how long a block is, and then it is shown.")
        return None
    if len(used) == 1:
        return used[0]
    return str(st.selectbox("Read as", used, key="data_reading", persist_state="session"))


def numbers(found: Summary) -> None:
    """N, the shape of a sample, and what the targets are."""
    with st.container(horizontal=True):
        card("Samples N", f"{found.samples:,}")
        card("Shape of a sample", shape_of(found.shape))
        if found.counts:
            card("Classes", f"{found.classes:,}")
            few, many = min(found.counts.values()), max(found.counts.values())
            card("Samples of a class", f"{few:,}" if few == many else f"{few:,} to {many:,}")
        elif found.lowest is not None and found.highest is not None:
            card("Targets", f"{number(found.lowest, 4)} to {number(found.highest, 4)}")
            card("Shape of a target", shape_of(found.target_shape))


def card(label: str, value: str) -> None:
    st.metric(label, value, border=True, width="content")


def shape_of(shape: tuple[int, ...]) -> str:
    return "×".join(f"{each:,}" for each in shape) or "one number"


def counts(found: Summary) -> pd.DataFrame:
    """How many samples each class has."""
    table = pd.DataFrame({"class": list(found.counts), "samples": list(found.counts.values())})
    if found.class_names:
        known = dict(enumerate(found.class_names))
        table.insert(1, "name", [known.get(label, "") for label in found.counts])
    return table.assign(share=100 * table["samples"] / found.samples)


def look_at(samples: Tensor, index: Tensor, whole: Dataset, found: Summary) -> None:
    """Some samples: images as such, tokens by their numbers, everything else as rows of numbers."""
    labels = [target_of(whole, place, found) for place in index.tolist()]
    if found.look == "images":
        with st.container(horizontal=True):
            for sample, label, place in zip(samples, labels, index.tolist(), strict=True):
                st.image(
                    data.as_image(sample).double().numpy(), f"{label}, #{place:,}", width=96, clamp=True
                )  # fmt: skip
        st.caption("From the smallest number of each sample, black, to its largest, white.")
        return
    rows: dict[str, Any] = {"sample": index.tolist(), "target": labels}
    flat = samples.reshape(len(samples), -1)
    if found.look == "tokens":
        rows["tokens"] = [words(each) for each in flat]
    else:
        rows |= {f"x{place}": flat[:, place].tolist() for place in range(min(MOST_NUMBERS, flat.shape[1]))}
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="data_samples")
    if flat.shape[1] > MOST_NUMBERS:
        st.caption(f"The first {MOST_NUMBERS} of the {math.prod(found.shape):,} numbers of a sample.")


def words(tokens: Tensor) -> str:
    some = " ".join(map(str, tokens[:MOST_NUMBERS].tolist()))
    return f"{some} …" if len(tokens) > MOST_NUMBERS else some


def target_of(whole: Dataset, place: int, found: Summary) -> str:
    """The target of a sample in a few characters."""
    target = whole.y[place]
    if target.ndim == 0:
        label = target.item()
        if found.counts:
            name = found.class_names[int(label)] if 0 <= label < len(found.class_names) else ""
            return f"class {label}{f' ({name})' if name else ''}"
        return number(float(label))
    flat = target.flatten()
    some = [f"{each:g}" for each in flat[:8].tolist()]
    return " ".join(some) + (" …" if len(flat) > len(some) else "")


# --- Where it was used, and the file ----------------------------------------------------------------------


def uses(each: DataSet) -> None:
    """The models with analyses of it."""
    st.header("Where it was used", anchor=False)
    if not each.analyses:
        st.caption("Nowhere yet.")
        return
    with database()() as s:
        models = queries.models_of_data(s, each.data)
    words = f"{counted(each.analyses, 'analysis', 'analyses')} of {counted(each.models, 'model', 'models')}."
    st.caption(words)
    search = f'data:"{each.name}"'
    with st.container(horizontal=True):
        link("analyses", "All its analyses", icon=":material/table:", query={"q": search})
        analyses = dict(zip(models["model"], models["analyses"], strict=True))
        for name in in_order(models["model"])[:10]:
            link(
                "analyses", f"{plain(name)}: {analyses[name]:,}", icon=":material/deployed_code:",
                query={"q": search, "model": name},
            )  # fmt: skip
    if len(models) > 10:
        st.caption(f"And {counted(len(models) - 10, 'other model', 'other models')}.")


def file(each: DataSet) -> None:
    """Download, rename and delete the file."""
    st.header("The file", anchor=False)
    if each.size == 0:
        st.caption("It has been deleted; the name stays as long as there are analyses of it.")
        return
    try:
        stored = stored_file(each)
    except DataError as error:
        st.warning(plain(str(error)), icon=":material/warning:")
        return
    with st.container(horizontal=True):
        st.download_button(
            "Download", lambda: content_of(each, stored), stored.filename, "application/octet-stream",
            key="data_download", on_click="ignore", icon=":material/download:",
        )  # fmt: skip
        if not identity.current().role.may_work:
            return
        with st.popover("Delete", icon=":material/delete:", key="data_delete"):
            st.markdown(before_deleting(each))
            st.button(
                "Yes, delete the file", key="really_data_delete", type="primary", on_click=delete,
                args=(stored,), disabled=bool(each.under_way),
            )  # fmt: skip
    with st.form(f"data_form_{each.sha256}"):
        name = st.text_input("Name", value=each.name, max_chars=200, key=f"data_name_{each.sha256}")
        split = st.selectbox(
            "These samples are", datafiles.DECLARED, index=datafiles.DECLARED.index(each.split or NO_SPLIT),
            format_func=form.SPLIT_WORDS.__getitem__, key=f"data_split_{each.sha256}",
            help="Pages call its Hessian so: train Hessian, test Hessian, or Hessian alone.",
        )  # fmt: skip
        if st.form_submit_button("Save", type="primary"):
            with database().begin() as s:
                actions.change_data(s, identity.current(), stored, str(name), str(split), data.names())
            keep_in_url("data", {"data": [str(name).strip()]})
            st.session_state.pop("data_url", None)  # so that the page takes the new name from the address
            st.rerun()


def stored_file(each: DataSet) -> StoredData:
    """The file in the artefact store.

    Raises:
        DataError: If it is not there, or damaged.
    """
    sha256 = each.sha256 or ""
    path = data.stored_file(sha256, settings().artifact_folder)
    return StoredData(sha256, each.filename or f"own-data-{sha256[:8]}{path.suffix}", path.stat().st_size)


def before_deleting(each: DataSet) -> str:
    """What depends on a file."""
    if each.under_way:
        return needed_by(each.under_way, "this file")
    if each.analyses:
        words = counted(each.analyses, "analysis", "analyses")
        of = counted(each.models, "model", "models")
        return (
            f"Delete the file of {plain(each.name)}? {words} of {of} were computed from it. Their numbers "
            "stay; they cannot be computed again, nor others be started, until the file is brought again."
        )
    return f"Delete the file of {plain(each.name)}? Nothing depends on it. This cannot be undone."


def content_of(each: DataSet, stored: StoredData) -> bytes:
    """The file as it was brought; only if it is still the same."""
    store = ArtifactStore(settings().artifact_folder)
    key = data_key(stored.sha256, stored.filename)
    return store.check(key, stored.sha256, f"The data file '{each.name}'").read_bytes()


def delete(stored: StoredData) -> None:
    """Delete the file, or say why that cannot be."""

    def write() -> None:
        submit.delete_data(stored, settings(), user=identity.current())
        st.query_params.clear()
        st.session_state.pop("data_name", None)

    said(write)
