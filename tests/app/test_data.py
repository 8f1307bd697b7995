"""Data: from an upload with a name and a split to its page, its results, and its end."""

from __future__ import annotations

import io
from collections.abc import Callable
from urllib.parse import parse_qsl

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from seigh.app.views.new_analysis import OWN_FILE
from seigh.core.access import OPERATOR
from seigh.core.checksum import sha256_of
from seigh.core.lab import actions, datafiles, listing, queries, store
from seigh.core.lab.actions import StoredData
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import Analysis, DataFile
from seigh.core.lab.session import sessions
from seigh.core.names import NO_SPLIT
from seigh.core.settings import Settings
from seigh.tasks import submit
from tests.app.test_new_analysis import uploaded, weights

Open = Callable[..., AppTest]
Add = Callable[..., int]

BINARY = "application/octet-stream"
COUNTS = (20, 30, 10)  # samples of the classes 0, 1 and 7


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(each.value) for kind in kinds for each in app.get(kind)).replace("\\", "")


def content() -> bytes:
    file = io.BytesIO()
    y = np.repeat([0, 1, 7], COUNTS)
    np.savez(file, x=np.random.default_rng(0).normal(size=(len(y), 1, 16, 16)).astype(np.float32), y=y)
    return file.getvalue()


@pytest.fixture
def stored(home: Settings) -> str:
    """Hash of a data file in the lab, called "half of MNIST" and said to be training data."""
    path = home.root / "mine.npz"
    path.write_bytes(content())
    sha256 = sha256_of(path)
    ArtifactStore(home.artifact_folder).put_file("data", path, sha256, ".npz")
    with sessions(home.database).begin() as s:
        datafiles.add(
            s, sha256, filename="mine.npz", size=path.stat().st_size, user="ada", name="half of MNIST",
            split="train",
        )  # fmt: skip
    return sha256


def test_an_uploaded_file_has_the_name_and_the_split_that_one_gives_it(
    open_page: Open, add: Add, home: Settings
) -> None:
    add(model="known")
    checkpoint = weights()
    app = uploaded(open_page("new_analysis"), {"step_7.safetensors": checkpoint})
    app.selectbox(key="new_data").select(OWN_FILE).run()
    app.file_uploader(key="new_data_file_0").set_value([("mine.npz", content(), BINARY)])
    app.run()
    (name,) = [each for each in app.text_input if each.label == "Name of the data"]
    assert name.value == "mine.npz"
    name.set_value("half of MNIST")
    app.selectbox(key="new_data_split").select("train")
    app.selectbox(key="new_subset").select("all")
    app.number_input(key="new_k").set_value(4)
    app.selectbox(key="new_model").select("known")
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    assert "1 analysis is queued" in texts(app, "success")
    with sessions(home.database)() as s:
        (run,) = queries.runs(s).query("step == 7").to_dict("records")
        (row,) = queries.data_sets(s).query("name == 'half of MNIST'").to_dict("records")
        key = queries.analysis(s, run["id"]).settings["data"]
    assert (run["data"], run["split"], run["samples"]) == ("half of MNIST", "train", 60)
    assert (row["filename"], row["split"], row["analyses"]) == ("mine.npz", "train", 1)
    assert key == f"sha256:{row['sha256']}"
    # It is offered again, and the same analysis is the same.
    assert "half of MNIST" in app.selectbox(key="new_data").options
    app.selectbox(key="new_data").select("half of MNIST")
    emptied = app.session_state["new_files_round"]
    app.file_uploader(key=f"new_files_{emptied}").set_value([("step_7.safetensors", checkpoint, BINARY)])
    app.run()
    app.button(key="new_start").click().run()
    assert "1 was there already" in texts(app, "success")


def test_the_page_tells_what_data_hold_and_where_they_were_used(
    open_page: Open, add: Add, stored: str
) -> None:
    add(model="mlp", settings={"data": f"sha256:{stored}"})
    add("queued", model="digits", settings={"data": "digits"})
    app = open_page("data", data="half of MNIST")
    assert not app.exception
    assert not app.error
    assert app.dataframe[0].value["name"].tolist() == ["digits", "half of MNIST"]
    told = {each.label: each.value for each in app.metric}
    assert told == {
        "Samples N": "60", "Shape of a sample": "1×16×16", "Classes": "3", "Samples of a class": "10 to 30",
    }  # fmt: skip
    assert app.dataframe[1].value["class"].tolist() == [0, 1, 7]
    assert app.dataframe[1].value["samples"].tolist() == [*COUNTS]
    assert "own file, train data" in texts(app, "caption")
    assert len(app.get("image")) == 3  # the first of each class
    links = {each.label: each.proto.query_string for each in app.get("page_link")}
    assert "model=mlp" in links["mlp: 1"]
    app = open_page("data", data="digits")
    assert {each.label: each.value for each in app.metric}["Samples N"] == "540"
    assert not app.exception


def test_data_that_are_gone_are_said(open_page: Open, stored: str) -> None:
    app = open_page("data", data="another lab's")
    assert "There are no such data" in texts(app, "info")
    assert not app.metric


def test_a_result_of_a_file_without_split_is_no_test_hessian_and_names_the_file(
    open_page: Open, add: Add, home: Settings, stored: str
) -> None:
    numbers = [add(model="own", step=step, settings={"data": f"sha256:{stored}"}) for step in (0, 100)]
    other = add(model="old", settings={"data": f"sha256:{'e' * 64}"})  # from before files had names
    with sessions(home.database).begin() as s:
        actions.change_data(s, OPERATOR, StoredData(stored, "", 0), "whole", NO_SPLIT)
    for page in ("runs", "compare"):
        app = open_page(page)
        said = texts(app, "markdown", "caption", "selectbox")
        assert "test Hessian" not in said
        assert "sha256:" not in said
        assert not app.exception
    app = open_page("result", analysis=str(numbers[1]))
    (command,) = [each.value for each in app.code]
    assert "--data mine.npz" in command
    assert f"`{stored}`" in texts(app, "caption")
    (address,) = [each.proto.query_string for each in app.get("page_link") if each.label == "Data whole"]
    assert open_page("data", **dict(parse_qsl(address))).selectbox(key="data_name").value == "whole"
    with sessions(home.database)() as s:
        names = queries.comparable(s).set_index("analysis_id")["data"].to_dict()
        found = listing.ids(s, listing.Query(search="data:whole"))
        written = queries.export_result(s, numbers[0])
    assert written["split"] == NO_SPLIT
    assert written["settings"]["split"] == "test"  # as it was asked for
    assert names == {numbers[0]: "whole", numbers[1]: "whole", other: "own data eeeeeeee"}
    assert sorted(found) == sorted(numbers)


def test_names_are_unique_and_no_data_sets(home: Settings, stored: str) -> None:
    with sessions(home.database).begin() as s:
        again = datafiles.add(s, "b" * 64, filename="half of MNIST", size=1, user="ada")
        assert again.name == "half of MNIST (2)"
        for name, sentence in {
            "half of MNIST": "already", "digits": "data set", "random(3)": "data set", "  ": "1 to 200",
        }.items():  # fmt: skip
            with pytest.raises(store.StoreError, match=sentence):
                datafiles.change(s, "b" * 64, name, "test", {"digits"})


def test_deleting_says_what_depends_on_the_file_and_keeps_numbers_and_name(
    open_page: Open, add: Add, home: Settings, stored: str
) -> None:
    path = home.artifact_folder / "data" / f"{stored}.npz"
    waiting = add("queued", model="mlp", settings={"data": f"sha256:{stored}"})
    file = StoredData(stored, "mine.npz", 1)
    with pytest.raises(store.StoreError, match="An analysis that waits"):
        submit.delete_data(file, home)
    assert path.is_file()
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, waiting)
    app = open_page("data", data="half of MNIST")
    assert "1 analysis of 1 model were computed from it" in texts(app, "markdown")
    app.button(key="really_data_delete").click().run()
    assert not app.exception
    assert not path.exists()
    with sessions(home.database)() as s:
        assert queries.analysis(s, waiting).data == "half of MNIST"
        assert s.get(DataFile, stored).size == 0
    app = open_page("data", data="half of MNIST")
    assert "The file has been deleted" in texts(app, "info")
    submit.delete(Analysis, waiting, home)
    with sessions(home.database).begin() as s:  # brought again, it has its name and split
        back = datafiles.add(s, stored, filename="mine.npz", size=9, user="bob", name="other")
        assert (back.name, back.split, back.size) == ("half of MNIST", "train", 9)
