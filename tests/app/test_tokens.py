"""A transformer on the page New analysis: weights, configuration and a stream of tokens."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from streamlit.testing.v1 import AppTest

from seigh.app.views.new_analysis import OWN_FILE
from seigh.core.lab import queries, store
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures, data
from seigh.core.settings import Settings
from tests.app.test_new_analysis import texts
from tests.core.problems.data.test_corpora import DOCUMENTS, megatron
from tests.core.problems.token_networks import CONFIGS

pytest.importorskip("transformers")

Open = Callable[..., AppTest]
BINARY = "application/octet-stream"


def test_a_language_model_is_queued_with_its_configuration_and_a_stream(
    open_page: Open, home: Settings
) -> None:
    config = json.dumps(CONFIGS["gpt2"]).encode()
    name = "hf/GPT2LMHeadModel(n_embd=4,n_head=2,n_inner=6,n_layer=1,n_positions=6,vocab_size=11)"
    state = architectures.build(name).state_dict()
    del state["lm_head.weight"]  # as save_pretrained leaves out what is tied
    weights = safetensors.torch.save(state)
    with sessions(home.database).begin() as s:
        store.add_model(s, "mine", name)
    app = open_page("new_analysis")
    app.file_uploader(key="new_files_0").set_value(
        [("config.json", config, BINARY), ("step_7.safetensors", weights, BINARY)]
    )
    app.run()
    assert app.selectbox(key="new_architecture").value == name
    assert f"D = {architectures.parameter_count(name):,}" in texts(app, "caption")
    assert app.selectbox(key="new_loss").value == "next-token"
    assert app.selectbox(key="new_subset").value == "random"
    app.selectbox(key="new_data").select(OWN_FILE).run()
    stream = (np.arange(200) % 11).astype(np.uint16).tobytes()
    app.file_uploader(key="new_data_file_0").set_value([("val.bin", stream, BINARY)])
    app.run()
    assert "Say how many tokens a block has" in texts(app, "warning")
    app.number_input(key="new_block").set_value(8).run()
    assert "does not take the 8 tokens" in texts(app, "warning")
    app.number_input(key="new_block").set_value(5)
    app.number_input(key="new_samples").set_value(20)
    app.number_input(key="new_k").set_value(4)
    app.selectbox(key="new_model").select("mine")
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    assert "1 analysis is queued" in texts(app, "success")
    with sessions(home.database)() as s:
        (number,) = queries.runs(s).query("step == 7")["id"]
        settings = queries.analysis(s, number).settings
    assert settings["architecture"] == name
    assert settings["loss"] == "next-token"
    assert settings["data"].startswith("sha256:")
    assert settings["data"].endswith("(block=5,dtype=uint16)")
    kept = data.load(settings["data"], "test", env=home)
    assert kept.x[0].tolist() == [0, 1, 2, 3, 4]


def test_a_configuration_that_is_none_is_refused_in_a_sentence(open_page: Open) -> None:
    app = open_page("new_analysis")
    spoilt = json.dumps(CONFIGS["gpt2"] | {"auto_map": {"AutoModel": "their.code"}}).encode()
    app.file_uploader(key="new_files_0").set_value([("config.json", spoilt, BINARY)])
    app.run()
    assert "is never run" in texts(app, "error")
    assert not app.exception


def test_data_in_several_files_are_brought_together(open_page: Open, tmp_path: Path) -> None:
    index = megatron(tmp_path, "uint16", DOCUMENTS)
    app = open_page("new_analysis")
    app.selectbox(key="new_data").select(OWN_FILE).run()
    app.file_uploader(key="new_data_file_0").set_value([("corpus.idx", index.read_bytes(), BINARY)]).run()
    assert "is the index of tokens in a .bin file; bring both at once" in texts(app, "error")
    both = [
        (f"corpus{suffix}", index.with_suffix(suffix).read_bytes(), BINARY) for suffix in (".idx", ".bin")
    ]
    app.file_uploader(key="new_data_file_1").set_value(both).run()
    assert "corpus.zip" in texts(app, "markdown")
    app.number_input(key="new_block").set_value(4).run()
    assert not app.exception
    path = app.session_state["new_data_file"]
    assert data.load(f"{path}(block=4)", "test").x.tolist() == [[11, 12, 13, 14], [15, 16, 17, 18]]


def test_an_exported_network_is_deleted_once_it_is_said_what_depends_on_it(
    open_page: Open, home: Settings
) -> None:
    folder = home.artifact_folder / "graphs"
    folder.mkdir(parents=True)
    (folder / f"{'ab' * 32}.net.pt2").write_bytes(b"damaged")
    name = f"graph/net-{'ab' * 8}"
    with sessions(home.database).begin() as s:
        store.add_model(s, "mine", name)
    app = open_page("new_analysis")
    app.selectbox(key="new_graph_chosen").select(name).run()
    assert "It is the architecture of mine, with 0 analyses" in texts(app, "markdown")
    app.button(key="new_graph_delete").click().run()
    assert f"{name} is deleted" in texts(app, "info")
    assert not [*folder.iterdir()]
    assert not app.exception


def test_an_architecture_is_proposed_by_order_and_shape_and_confirmed_in_a_table(open_page: Open) -> None:
    state = architectures.build("3c3d").state_dict()
    renamed = {
        f"block_{n // 2}.{key.rpartition('.')[2]}": each for n, (key, each) in enumerate(state.items())
    }
    app = open_page("new_analysis")
    content = io.BytesIO()
    torch.save(renamed, content)
    file = ("step_3.pt", content.getvalue(), BINARY)
    app.file_uploader(key="new_files_0").set_value([file]).run()
    assert app.selectbox(key="new_architecture").value == "3c3d"
    assert "By their order and shapes alone they could be those of 3c3d" in texts(app, "warning")
    pairs = next(each.value for each in app.dataframe if "in the architecture" in each.value)
    assert pairs["in the file"].tolist() == [*renamed]
    assert pairs["in the architecture"].tolist() == [*state]
    assert "Add at least one checkpoint that fits" in texts(app, "warning")
    next(each for each in app.checkbox if each.label == "These pairs are the same tensors").check().run()
    assert "Add at least one checkpoint that fits" not in texts(app, "warning")
    assert not app.exception
