"""What New analysis offers for networks of one's own: a graph of ``torch.export``, or a plug-in to begin "
"with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import streamlit as st

from seigh.app import identity
from seigh.app.common import counted, database, plain, said, settings
from seigh.app.uploads import Brought, Part
from seigh.core.errors import UserError
from seigh.core.lab import exported
from seigh.core.problems import graphs, stub
from seigh.core.problems.checkpoints import Checkpoint
from seigh.tasks.submit import bring_graph, delete_graph

# The architecture that has just been brought, which the form is to choose.
BROUGHT = "new_graph_brought"
_REFUSAL = "new_graph_refusal"
_DELETED = "new_graph_deleted"
_SHOWN = 4

LINES = 'import seigh\nseigh.export(model, samples[:2], "{name}.pt2")'


def fits_nothing(files: Sequence[Brought]) -> bool:
    """Whether there are files, and no architecture fits any of them."""
    return bool(files) and not any(file.fitting for file in files)


def ways(
    files: Sequence[Brought], keep: Callable[[Any], Part], uploader: tuple[int, Callable[[Any], None]]
) -> None:
    """Bring the graph of a network; where no architecture fits the files, say so and show all ways on.

    Args:
        files: The files that can be read and are in use.
        keep: Puts an upload into a file.
        uploader: How often the uploader has been emptied, and what empties it.
    """
    alone = fits_nothing(files)
    if alone:
        _say_nothing_fits(files)
    with st.expander(
        "A network of my own", icon=":material/upload_file:", expanded=alone or _REFUSAL in st.session_state
    ):
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePath(files[0].name).stem).strip("-")[:40] if files else ""
        st.markdown(
            "**Export it** where its code is, with `pip install` of this package, and upload the file:"
        )
        st.code(LINES.format(name=name or "net"), language="python")
        st.caption(
            "`samples` are inputs as the network takes them, (N, …). The file holds the network's "
            "operations and no code and no weights; it is checked to give the module's outputs and "
            "curvature. Files of `torch.export.save` (torch 2.9 or later) are read, too. The network stays "
            "in the lab, for all runs of it."
        )
        round_number, empty = uploader
        upload = st.file_uploader(
            "Exported network",
            type=["pt2"],
            key=f"new_graph_{round_number}",
            max_upload_size=settings().max_upload_mb,
            help="Its operations are read by name from a list of allowed ones: nothing in the file is run.",
        )
        if upload is not None:
            _bring(keep(upload))
            empty([upload])
        if refusal := st.session_state.get(_REFUSAL):
            st.error(plain(refusal), icon=":material/block:")
        if alone and (outline := files[0].outline):
            _offer_stub(outline, name)
        _offer_deletion()


def _say_nothing_fits(files: Sequence[Brought]) -> None:
    outline = files[0].outline
    tensors = [] if outline is None else list(outline.state.items())
    some = ", ".join(
        f"{name} ({'×'.join(map(str, each.shape)) or 'a number'})" for name, each in tensors[:_SHOWN]
    )
    more = f" and {len(tensors) - _SHOWN:,} more" if len(tensors) > _SHOWN else ""
    what = (
        files[0].name if len(files) == 1 else f"any of the {counted(len(files), 'checkpoint', 'checkpoints')}"
    )
    by_order = list(dict.fromkeys(spec for file in files for spec in file.by_order))
    proposal = (
        f" By their order and shapes alone they could be those of {plain(', '.join(by_order))}, which is "
        "proposed: look at the pairs below."
        if by_order
        else ""
    )
    st.warning(
        f"No known architecture fits {plain(what)}. The tensors are {plain(some)}{more}.{proposal} Bring the "
        "network below, or install a plug-in that has it.",
        icon=":material/help:",
    )


def _bring(part: Part) -> None:
    """Keep a graph in the lab, or remember why not."""
    st.session_state.pop(_REFUSAL, None)
    try:
        with st.spinner("Reading the network, and computing it once in a process of its own …"):
            st.session_state[BROUGHT] = bring_graph(
                part.path, part.name, user=identity.current(), env=settings()
            )
    except UserError as error:
        st.session_state[_REFUSAL] = str(error)
    finally:
        part.path.unlink(missing_ok=True)


def _offer_stub(outline: Checkpoint, name: str) -> None:
    st.markdown(
        "**Or write a plug-in.** This one has all tensors of the checkpoint, and waits for a forward pass:"
    )
    tensors = {each: (tuple(t.shape), not t.is_floating_point()) for each, t in outline.state.items()}
    st.download_button(
        "Download a plug-in to begin with",
        stub.package(tensors, name),
        file_name=f"{name or 'network'}-plugin.zip",
        mime="application/zip",
        icon=":material/download:",
        key="new_stub",
        on_click="ignore",
    )


def _offer_deletion() -> None:
    """Let an exported network be chosen and deleted, once it is said what depends on it."""
    if sentence := st.session_state.pop(_DELETED, None):
        st.info(plain(sentence), icon=":material/delete:")
    there = graphs.names()
    if not there:
        return
    chosen = st.selectbox(
        "Networks in the lab",
        there,
        index=None,
        placeholder="Choose one to delete it",
        key="new_graph_chosen",
    )
    if chosen is None:
        return
    with database()() as s:
        found = exported.uses(s, chosen)
    if found.models:
        names = [*found.models.values()]
        listed = ", ".join(names[:_SHOWN]) + (
            f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        )
        depends = (
            f"It is the architecture of {listed}, with {counted(found.analyses, 'analysis', 'analyses')}. "
            "Their results stay; their checkpoints can be analysed again only once its file is brought again."
        )
    else:
        depends = "No model has it as its architecture."
    st.markdown(f"Delete {plain(chosen)}? {plain(depends)}")
    st.button(
        "Yes, delete it", icon=":material/delete:", key="new_graph_delete", on_click=_delete, args=(chosen,)
    )


def _delete(name: str) -> None:
    def write() -> None:
        delete_graph(name, settings(), user=identity.current())
        st.session_state[_DELETED] = f"{name} is deleted."
        if st.session_state.get("new_architecture") == name:
            del st.session_state["new_architecture"]

    st.session_state.pop("new_graph_chosen", None)
    said(write)
