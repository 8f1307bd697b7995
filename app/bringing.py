"""The part of Runs where results that were computed elsewhere are brought into the lab."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from seigh.app import identity
from seigh.app.common import counted, plain, sentence_for_errors, settings
from seigh.tasks.importing import Saved, import_results

_SAID = "import_said"


def bring_results() -> None:
    """Upload saved results, which become finished analyses of a model."""
    if not identity.current().role.may_work:
        return
    with st.expander("Import a result computed elsewhere", icon=":material/move_to_inbox:"):
        st.caption(
            "What `Result.save` or `seigh analyze --save` has written. It is shown like others, and marked."
        )
        files = st.file_uploader(
            "Saved results", type=["safetensors"], accept_multiple_files=True, key="import_files"
        )
        left, right = st.columns(2)
        model = left.text_input(
            "Model name", max_chars=200, key="import_model", help="The training run of the weights."
        ).strip()
        step = right.number_input(
            "Training step", min_value=0, max_value=2**31 - 1, value=None, step=1, key="import_step",
            placeholder="as the result says", help="Step of the weights, if the result does not contain it.",
        )  # fmt: skip
        if st.button("Import", key="import_start", disabled=not files or not model):
            with sentence_for_errors(), tempfile.TemporaryDirectory(prefix="seigh-import-") as folder:
                saved = []
                for number, file in enumerate(files):
                    path = Path(folder) / f"{number}.safetensors"
                    path.write_bytes(file.getbuffer())
                    saved.append(Saved(path, file.name, None if step is None else int(step)))
                done = import_results(saved, model_name=model, user=identity.current(), env=settings())
                new = len(done.analysis_ids) - len(done.reused_ids)
                known = f", {len(done.reused_ids)} here already" if done.reused_ids else ""
                st.session_state[_SAID] = f"{counted(new, 'result', 'results')} imported{known}."
        if said := st.session_state.pop(_SAID, None):
            st.success(plain(said), icon=":material/check_circle:")
