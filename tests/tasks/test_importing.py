"""Results that were computed elsewhere: saved to one file, read again, and shown in a lab like all others."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import seigh
from seigh.app.checks import checks
from seigh.app.cli.command import cli
from seigh.app.views.result import measurements, numerical_facts, said_of_masks
from seigh.core.access import Actor, Role
from seigh.core.errors import UserError
from seigh.core.lab import queries, store
from seigh.core.lab.models import Analysis, Checkpoint
from seigh.core.lab.session import sessions
from seigh.core.lab.whole import artifacts
from seigh.core.reading import results
from seigh.core.results.result import ResultError
from seigh.core.settings import Settings
from seigh.tasks.importing import Saved, import_results
from tests.opening import forget_caches, open_page


@pytest.fixture(scope="module")
def result() -> seigh.Result:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.randn(20, 5), torch.arange(20) % 3
    return seigh.analyse(
        *(model, F.cross_entropy, (x, y)),
        k=4,
        name="mine",
        step=300,
        curves=("density", "edge-of-stability", "participation"),
        learning_rate=0.1,
        split="train",
    )


@pytest.fixture
def file(result: seigh.Result, tmp_path: Path) -> Path:
    result.save(tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.fixture
def lab(home: Settings) -> Settings:
    forget_caches()
    return home


def altered(source: Path, target: Path, change: Any, forge: Any = lambda tensors: None) -> Path:
    """A copy of a saved result whose document, or tensors, are changed."""
    with safetensors.safe_open(source, "pt") as opened_file:
        about = opened_file.metadata()
        tensors = {name: opened_file.get_tensor(name) for name in opened_file.keys()}  # noqa: SIM118
    document = json.loads(about["result"])
    document = change(document) or document
    forge(tensors)
    save_file(tensors, target, about | {"result": json.dumps(document)})
    return target


# --- The file ---------------------------------------------------------------------------------------------


def test_a_saved_result_is_read_again_as_it_was(result: seigh.Result, file: Path, tmp_path: Path) -> None:
    again = seigh.Result.load(file)
    assert json.dumps(again.to_json()) == json.dumps(json.loads(json.dumps(result.to_json())))
    assert torch.equal(again.eigenvectors, result.eigenvectors)
    result.save(tmp_path / "small.safetensors", eigenvectors=False)
    small = seigh.Result.load(str(tmp_path / "small.safetensors"))
    assert small.eigenvectors.shape == (0, result.parameters)
    assert small.to_json() == again.to_json()
    assert (tmp_path / "small.safetensors").stat().st_size < file.stat().st_size
    assert not list(tmp_path.glob("*.tmp"))
    with safetensors.safe_open(file, "np") as plain:  # the documented format, read without us
        assert plain.metadata()["format"] == "seigh result 1"
        assert json.loads(plain.metadata()["result"])["parameters"] == result.parameters
        np.testing.assert_array_equal(plain.get_tensor("eigenvalues"), result.eigenvalues)


WRONG: dict[str, tuple[Any, str]] = {
    "no list": (lambda d: [d], "holds no result"),
    "no key": (lambda d: d.pop("overlap") and None, "has no overlap"),
    "text for numbers": (lambda d: d.update(eigenvalues=["a"] * 4), "eigenvalues that are no numbers"),
    "too few": (lambda d: d.update(residuals=[0.1]), "residuals of another length"),
    "unsorted": (lambda d: d.update(eigenvalues=d["eigenvalues"][::-1]), "unsorted eigenvalues"),
    "another D": (lambda d: d.update(parameters=40), "another chance level"),
    "huge D": (lambda d: d.update(parameters=10**12), "no sensible k and D"),
    "above 1": (lambda d: d["overlap"][0].update(overlap=1.5), r"overlap outside of \[0, 1\]"),
    "negative error": (lambda d: d["overlap"][0].update(error=-1.0), "negative error"),
    "swapped columns": (
        lambda d: d["overlap"][0].update(overlap=d["overlap"][0]["best"], best=d["overlap"][0]["overlap"]),
        "overlaps in another order",
    ),
    "least above": (lambda d: d["overlap"][1].update(least=0.9999), "overlaps in another order"),
    "resolved": (lambda d: d["overlap"][1].update(error=0.5) or d.update(resolved_k=3), "do not bear out"),
    "swapped scree": (
        lambda d: d.update(scree_lower=[0.9] * 4, scree_upper=[0.1] * 4),
        "scree bounds in another order",
    ),
    "swapped ends": (
        lambda d: d["quantities"]["edge-of-stability"].update(lower=2.0, upper=1.0),
        "in another order",
    ),
    "not a number": (lambda d: d["overlap"][0].update(overlap=math.nan), "damaged or incomplete"),
    "skipped k": (lambda d: d["overlap"][1].update(k=1), "other k than 1"),
    "more columns": (lambda d: d["overlap"][0].update(more=1), "overlap with other columns"),
    "long name": (lambda d: d["layers"][0].update(name="x" * 1000), "has no layers"),
    "control characters": (lambda d: d["layers"][0].update(name="a\x00"), "names that are none"),
    "twice": (lambda d: d["metrics"].append(d["metrics"][0]), "has metrics twice"),
    "no hash": (lambda d: d.update(checkpoint_sha256="../../etc"), "has no checkpoint_sha256"),
    "environment": (lambda d: d["environment"].update(torch=[1]), "environment that is none"),
    "record": (lambda d: d["record"].update(loss="x"), "record whose loss"),
    "text for a size": (lambda d: d["record"]["hvp"].update(columns="x"), "record whose hvp"),
    "half a loss": (lambda d: d["record"].update(loss={"name": "x"}), "no whole loss"),
    "deep": (lambda d: d["record"].update(deep=json.loads("[" * 30 + "]" * 30)), "nested far too deeply"),
    "curve": (lambda d: d["curves"].update(x={"value": [1.0]}), "curve that is none"),
    "short profile": (
        lambda d: d["profiles"]["density"]["x"].pop() and None,
        "the profile density of another length",
    ),
    "half a profile": (lambda d: d["profiles"].update(x={"value": [1.0]}), "profile that is none"),
    "profiles": (lambda d: d.update(profiles=[]), "has no profile by name"),
    "half a quantity": (lambda d: d["quantities"].update(x={"value": 1.0}), "quantity that is none"),
    "no quantity": (lambda d: d["quantities"]["edge-of-stability"].update(value=None), "no numbers"),
    "unit": (lambda d: d["quantities"]["edge-of-stability"].update(unit=3), "quantity without a unit"),
    "two kinds": (lambda d: d["quantities"].update(density=d["quantities"]["edge-of-stability"]), "twice"),
    "settings": (lambda d: d["settings"].update(method=3), "no settings of an analysis"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_result_is_refused_with_a_sentence(name: str, file: Path, tmp_path: Path) -> None:
    change, said = WRONG[name]
    wrong = altered(file, tmp_path / "wrong.safetensors", change)
    with pytest.raises(ResultError, match=said) as refused:
        seigh.Result.load(wrong)
    assert "\n" not in str(refused.value)


ODD = (None, "x", -1, 10**400, 0.5, True, [], ["x"], {}, {"x": "x"}, [None], [{}])


def places(facts: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where facts hold others, as keys from the outside in; of lists, the first entry."""
    pairs = (
        facts.items() if isinstance(facts, dict) else enumerate(facts[:1] if isinstance(facts, list) else ())
    )
    for key, each in pairs:
        yield (*path, key)
        yield from places(each, (*path, key))


def test_forged_records_are_refused_or_shown(result: seigh.Result) -> None:
    whole = json.loads(json.dumps(result.to_json()))
    whole["record"]["masks"] = {"mine": {"note": "Cut.", "tied": [0, 2]}}
    whole["record"]["without_influence"] = {"0.bias": 4}
    results.check(whole)
    refused = 0
    for *path, last in places(whole["record"]):
        for odd in ODD:
            record = copy.deepcopy(whole["record"])
            holder = record
            for key in path:
                holder = holder[key]
            holder[last] = odd
            try:
                results.check(whole | {"record": record})
            except results.Wrong:
                refused += 1
                continue
            numerical_facts(record)
            checks(record)
            said_of_masks(record)
            measurements(record.get("hvp", {}).get("measured", []))
    assert refused > 300


def test_every_methods_result_is_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = (torch.randn(20, 5), torch.arange(20) % 3)
    for method in ("exact", "seigh", "ssvd"):
        found = seigh.analyse(nn.Linear(5, 3), F.cross_entropy, data, k=3, method=method)
        found.save(tmp_path / method)
        assert seigh.Result.load(tmp_path / method).to_json() == found.to_json()


VECTORS: dict[str, tuple[Any, str]] = {
    "not a number": (lambda t: t["eigenvectors"][1].fill_(torch.nan), "not orthonormal"),
    "one twice": (lambda t: t["eigenvectors"][1].copy_(t["eigenvectors"][0]), "not orthonormal"),
    "transposed": (lambda t: t.update(eigenvectors=t["eigenvectors"].T.contiguous()), "another shape"),
    "halved": (lambda t: t.update(eigenvectors=t["eigenvectors"].half()), "another format"),
    "other values": (lambda t: t["eigenvalues"].mul_(2), "two different sets of eigenvalues"),
    "more": (lambda t: t.update(more=torch.zeros(1)), "other tensors"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_forged_vectors_are_refused_with_a_sentence(name: str, file: Path, tmp_path: Path) -> None:
    change, said = VECTORS[name]
    wrong = altered(file, tmp_path / "wrong.safetensors", lambda _: None, change)
    with pytest.raises(ResultError, match=said) as refused:
        seigh.Result.load(wrong)
    assert "\n" not in str(refused.value)


def test_other_files_and_damage_are_refused_with_a_sentence(file: Path, tmp_path: Path) -> None:
    contents = file.read_bytes()
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, other)
    with pytest.raises(ResultError, match="is no saved result"):
        seigh.Result.load(other)
    with pytest.raises(ResultError, match="cannot be read"):
        seigh.Result.load(tmp_path / "gone.safetensors")
    choices = random.Random(0)
    pieces = [b"", b"x", contents[:100], contents[:-1], b"\x80\x04]\x94.", b"\xff" * 64]
    for _ in range(60):
        flipped = bytearray(contents)
        for _ in range(choices.randint(1, 3)):
            flipped[choices.randrange(len(flipped))] = choices.randrange(256)
        pieces.append(bytes(flipped))
    for piece in pieces:
        other.write_bytes(piece)
        refusal = ""
        try:
            seigh.Result.load(other)
        except ResultError as error:
            refusal = str(error)
        assert "\n" not in refusal


# --- In the lab -------------------------------------------------------------------------------------------


def test_an_imported_result_is_shown_like_all_others_and_marked(
    result: seigh.Result, file: Path, lab: Settings
) -> None:
    done = import_results([Saved(file, file.name)], model_name="mine", user="ann", env=lab)
    (number,) = done.analysis_ids
    assert not done.reused_ids
    with sessions(lab.database)() as s:
        detail = queries.analysis(s, number)
        assert detail is not None
        assert (detail.state, detail.step, detail.imported) == ("finished", 300, "mine.safetensors")
        assert detail.submitted_by == "ann"
        assert detail.environment == result.environment
        exported = queries.export_result(s, number)
        same = result.to_json()
        keys = ("eigenvalues", "residuals", "overlap", "layers", "metrics", "curves", "record")
        for key in (*keys, "profiles", "quantities"):
            assert exported[key] == json.loads(json.dumps(same[key])), key
        (row,) = queries.comparable(s).to_dict("records")
        assert row["imported"] == "mine.safetensors"
        assert len(queries.runs(s)) == 1
        assert queries.checkpoints(s, "mine").empty  # there is no file to analyse again
        analysis = s.get_one(Analysis, number)
        with safetensors.safe_open(lab.artifact_folder / analysis.eigenvectors, "pt") as stored:
            assert torch.equal(stored.get_tensor("eigenvectors"), result.eigenvectors)
        assert list(artifacts(s, lab.artifact_folder)) == []
    page = open_page("result", analysis=str(number))
    assert any("Computed elsewhere, and imported from mine" in each.value for each in page.info)
    assert not page.error
    runs = open_page("runs")
    assert any("computed elsewhere" in each.value for each in runs.markdown)
    assert not runs.error


def test_importing_twice_is_importing_once(file: Path, result: seigh.Result, lab: Settings) -> None:
    first = import_results([Saved(file, file.name)], model_name="mine", user="ann", env=lab)
    result.save(file, eigenvectors=False)
    again = import_results([Saved(file, "copy.safetensors")], model_name="mine", user="bob", env=lab)
    assert again.analysis_ids == again.reused_ids == first.analysis_ids
    with sessions(lab.database)() as s:
        assert s.query(Analysis).count() == s.query(Checkpoint).count() == 1
    other = import_results([Saved(file, file.name)], model_name="another", user="bob", env=lab)
    assert other.analysis_ids != first.analysis_ids


def test_observables_that_are_not_known_here_go_by_their_names(
    file: Path, tmp_path: Path, lab: Settings
) -> None:
    def of_a_plugin(document: dict[str, Any]) -> None:
        for kind, name in (("curves", "participation"), ("profiles", "density")):
            document[kind]["theirs-" + kind] = document[kind].pop(name)

    theirs = altered(file, tmp_path / "theirs.safetensors", of_a_plugin)
    (number,) = import_results([Saved(theirs, "t")], model_name="m", user="ann", env=lab).analysis_ids
    with sessions(lab.database)() as s:
        assert queries.observation_names(s, [number], "profile") == {"theirs-profiles": "theirs-profiles"}
        assert list(queries.export_result(s, number)["curves"]) == ["theirs-curves"]
    assert not open_page("result", analysis=str(number)).error


def test_an_architecture_may_be_as_long_as_the_lab_takes(file: Path, tmp_path: Path, lab: Settings) -> None:
    for length, fits in ((2000, True), (2001, False)):
        change = lambda d, length=length: d["settings"].update(architecture="x" * length)  # noqa: E731
        long = altered(file, tmp_path / f"{length}.safetensors", change)
        if fits:
            import_results([Saved(long, long.name)], model_name="long", user="ann", env=lab)
        else:
            with pytest.raises(UserError, match="are those of no analysis"):
                import_results([Saved(long, long.name)], model_name="longer", user="ann", env=lab)
    with pytest.raises(UserError, match="choose one from 0 to"):
        import_results([Saved(file, "late", 2**31)], model_name="late", user="ann", env=lab)


def test_what_cannot_be_imported_is_refused_and_nothing_is_kept(
    file: Path, tmp_path: Path, lab: Settings
) -> None:
    def import_one(path: Path, user: Any = "ann", **more: Any) -> None:
        import_results(
            [Saved(file, file.name), Saved(path, path.name, **more)], model_name="m", user=user, env=lab
        )

    unknown = altered(file, tmp_path / "u.safetensors", lambda d: d["record"].update(step=None))
    with pytest.raises(UserError, match="does not say at which training step"):
        import_one(unknown)
    moved = altered(file, tmp_path / "o.safetensors", lambda d: d.update(checkpoint_sha256="0" * 64))
    with pytest.raises(UserError, match="already has other weights at step 300"):
        import_one(moved)
    with pytest.raises(UserError, match="change nothing"):
        import_one(file, user=Actor("eve", Role.reader, ""))
    with sessions(lab.database)() as s:
        assert s.query(Analysis).count() == s.query(Checkpoint).count() == 0
    assert not list(lab.artifact_folder.rglob("*.safetensors"))
    import_one(moved, step=400)
    with sessions(lab.database)() as s:
        ids = [number for (number,) in s.query(Analysis.id)]
        with pytest.raises(store.StoreError, match="computed elsewhere, and its weights"):
            store.queue_comparison(s, ids, [2], "ann")
        assert not store.recompute(s, ids[0])


def test_the_command_line_saves_and_imports(
    tmp_path: Path, lab: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    from seigh.core.problems import architectures
    from seigh.core.problems.recorder import Recorder

    architecture = "tanh-mlp(depth=1,inputs=9,num_classes=3,width=2)"
    path = Recorder(architectures.build(architecture), tmp_path, [0])(0)
    words = ["analyze", str(path), "--architecture", architecture, "--data", "random(1x3x3,classes=3)"]
    cli([*words, "--samples", "12", "--k", "3", "--save", str(tmp_path / "saved")], standalone_mode=False)
    (saved,) = (tmp_path / "saved").iterdir()
    capsys.readouterr()
    for expected in ("Imported for model 'run': analysis 1.", "Here already for model 'run': analysis 1."):
        cli(["import-result", str(saved), "--model", "run"], standalone_mode=False)
        assert expected in capsys.readouterr().out
