"""What no network can be: each case gets one sentence that names the operation and the way on, and runs "
"nothing."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.graphs import EXECUTED, examine
from seigh.core.problems import architectures, graphs
from seigh.core.problems.graphs import files, trial
from seigh.core.problems.graphs.export import export
from seigh.core.settings import Settings, SettingsError
from tests import exported
from tests.exported import edited, honest, node


def refusal(content: bytes, tmp_path: Path) -> str:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        files.read(path)
    return str(caught.value)


class Of(nn.Module):
    """A linear layer, and a function of its outputs."""

    def __init__(self, function: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.head, self.layer, self.function = nn.Linear(6, 6), layer or nn.Identity(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(self.head(x)))


def through_view(x: Tensor) -> Tensor:
    y = x * 2
    part = y[:, 1:]
    y[:, 0] = 0
    return part + y[:, :1]


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x.exp()
    return x * y


NETS: dict[str, tuple[nn.Module, str]] = {
    "dropout": (Of(lambda x: x, nn.Dropout()), "dropout in training mode in its module layer"),
    "batch-norm": (Of(lambda x: x, nn.BatchNorm1d(6)), "in eval mode, as seigh.export"),
    "random": (Of(lambda x: x + torch.rand_like(x)), "aten.rand_like.default, which draws random numbers"),
    "depends": (Of(lambda x: x * x.argmax().item()), "depends on the numbers in a tensor"),
    "view": (Of(through_view), "another view later"),
    "parts": (Of(without_gradient), "computes a part without gradients"),
    "complex": (Of(lambda x: torch.fft.fft(x).real), "aten.fft_fft.default, which is not among"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_networks_are_refused_by_name(name: str, tmp_path: Path) -> None:
    net, sentence = NETS[name]
    net.train(name in ("dropout", "batch-norm"))
    x = torch.randn(3, 6)
    said = refusal(exported.exported(net, x), tmp_path)
    assert sentence in said
    assert "'net.pt2'" in said


def test_more_inputs_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    content = io.BytesIO()
    x = torch.randn(2, 3)
    torch.export.save(torch.export.export(Two(), (x, x)), content)
    assert "takes 2 tensors" in refusal(content.getvalue(), tmp_path)
    with pytest.raises(SettingsError, match="wrap it in a module"):
        export(Two(), (x, x), tmp_path / "two.pt2")


def set_target(target: str, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda model: node(model, name).update(target=target)


def blown_up(model: dict[str, Any]) -> None:
    """Sizes that square themselves a hundred times."""
    nodes = model["graph_module"]["graph"]["nodes"]
    name = node(model, "sym_size.int")["outputs"][0]["as_sym_int"]["as_name"]
    new = []
    for number in range(100):
        one = {"name": "a", "arg": {"as_sym_int": {"as_name": name}}, "kind": 1}
        two = {"name": "b", "arg": {"as_int": 1_000_003} if not number else one["arg"], "kind": 1}
        name = f"blown_{number}"
        outputs = [{"as_sym_int": {"as_name": name}}]
        new.append({"target": "_operator.mul", "inputs": [one, two], "outputs": outputs, "metadata": {}})
    nodes[1:1] = new
    view = node(model, "view.default")
    view["inputs"][1]["arg"] = {"as_sym_ints": [{"as_name": name}, {"as_int": -1}]}


def huge(model: dict[str, Any]) -> None:
    meta = model["graph_module"]["graph"]["tensor_values"]["p_head_weight"]
    meta["sizes"] = [{"as_int": 2**40}, {"as_int": 4}]


def split(model: dict[str, Any]) -> None:
    """A tensor that is made large, and taken apart into all its numbers."""
    flatten = node(model, "flatten.using_ints")
    source, output = flatten["inputs"][0], flatten["outputs"][0]
    flatten["target"] = "torch.ops.aten.repeat.default"
    flatten["inputs"] = [source, {"name": "repeats", "arg": {"as_ints": [1, 1, 10**6, 1]}, "kind": 1}]
    transpose = node(model, "transpose.int")
    transpose["target"] = "torch.ops.aten.unbind.int"
    transpose["inputs"] = [
        {"name": "self", "arg": output, "kind": 1}, {"name": "dim", "arg": {"as_int": 2}, "kind": 1}
    ]  # fmt: skip
    transpose["outputs"] = [{"as_tensors": [{"name": transpose["outputs"][0]["as_tensor"]["name"]}]}]


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (lambda m: m["schema_version"].update(major=9), "has the format 9."),
    "custom": (set_target("torch.ops.mylib.attention.default", "linear.default"), "no operation of ATen"),
    "python": (set_target("builtins.eval", "linear.default"), "calls builtins.eval in its module"),
    "unknown": (set_target("torch.ops.aten.set_.source_Tensor", "relu.default"), "not among"),
    "overload": (set_target("torch.ops.aten.relu.__class__", "relu.default"), "does not have"),
    "argument": (
        lambda m: node(m, "relu.default")["inputs"][0]["arg"].update(as_graph={}), "damaged"
    ),
    "graph": (
        lambda m: node(m, "relu.default")["inputs"][0].update(arg={"as_graph": {"name": "g"}}),
        "kind as_graph",
    ),
    "twice": (lambda m: m["graph_module"]["graph"]["nodes"].append(node(m, "relu.default")), "damaged"),
    "free": (
        lambda m: m["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].__setitem__(
            2, {"as_expr": {"expr_str": "__import__('os').system('touch /tmp/seigh-executed')"}}
        ),
        "follows from others",
    ),
    "mutation": (
        lambda m: m["graph_module"]["signature"]["output_specs"].insert(
            0, {"buffer_mutation": {"arg": {"name": "x"}, "buffer_name": "bn.running_mean"}}
        ),
        "changes bn.running_mean while it computes",
    ),
    "in-place": (
        lambda m: node(m, "relu.default").update(
            target="torch.ops.aten.relu_.default",
            inputs=[{"name": "self", "arg": {"as_tensor": {"name": "b_bn_running_mean"}}, "kind": 1}],
        ),
        "changes bn.running_mean in place by aten.relu_.default",
    ),
    "result of a check": (
        set_target("torch.ops.aten._assert_async.msg", "flatten.using_ints"),
        "with a value that no operation gives",
    ),
    "blow-up": (blown_up, "a size is too large"),
    "huge": (huge, "GiB"),
    "split": (split, "into 4,000,000 by aten.unbind.int"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_descriptions_are_refused(name: str, tmp_path: Path) -> None:
    edit, sentence = EDITS[name]
    assert sentence in refusal(edited(honest(), edit), tmp_path)
    assert not EXECUTED.exists()


def test_archives_are_refused(tmp_path: Path) -> None:
    held = exported.entries(honest())
    old = io.BytesIO()
    with zipfile.ZipFile(old, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    assert "torch before 2.9" in refusal(old.getvalue(), tmp_path)
    assert "TorchScript" in refusal(exported.packed(held | {"constants.pkl": b""}), tmp_path)
    assert "is damaged" in refusal(exported.packed(held, compression=zipfile.ZIP_DEFLATED), tmp_path)
    assert "is damaged" in refusal(b"PK\x03\x04" + bytes(100), tmp_path)
    assert "is damaged" in refusal(exported.packed(held | {exported.MODEL: b'{"a":' * 100_000}), tmp_path)
    assert "empty" in refusal(b"", tmp_path)
    assert "no exported network" in refusal(
        exported.packed({k: v for k, v in held.items() if k != exported.MODEL}), tmp_path
    )
    step = '{"target":"x","inputs":[],"outputs":[],"metadata":{}}'
    many = held[exported.MODEL].decode().replace('"nodes": [', f'"nodes": [{f"{step}," * 60_000}', 1)
    assert "operations, more than 50,000" in refusal(
        exported.packed(held | {exported.MODEL: many.encode()}), tmp_path
    )
    pickled = edited(honest(), lambda c: c["config"]["shift"].update(use_pickle=True), exported.CONSTANTS)
    assert "does not hold the constant shift as plain numbers" in refusal(pickled, tmp_path)


def test_altered_files_get_a_sentence_or_are_read_alike() -> None:
    figures = examine(exported.files(60, seed=7))
    assert figures.good, figures
    assert figures.refused > 20
    assert figures.refused + figures.tried + figures.accepted == 60


def test_samples_that_are_mixed_are_refused(tmp_path: Path) -> None:
    net = Of(lambda x: x - x.mean(0)).eval()
    path = tmp_path / "net.pt2"
    path.write_bytes(exported.exported(net, torch.randn(3, 6)))
    said = trial.refusal_of(files.read(path).program)
    assert said is not None
    assert "other outputs among other samples" in said


def test_a_file_that_differs_from_its_module_is_not_written(tmp_path: Path) -> None:
    class Counting(nn.Module):
        """Depends on how often it has been called."""

        def __init__(self) -> None:
            super().__init__()
            self.head, self.calls = nn.Linear(6, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            found: Tensor = self.head(x) * self.calls
            return found

    with pytest.raises(SettingsError, match=r"other outputs than the module|cannot trace"):
        export(Counting(), torch.randn(2, 6), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingsError, match=r"x.shape\[0\], not len"):
        export(Of(lambda x: x * len(x)), torch.randn(2, 6), tmp_path / "net.pt2")
    with pytest.raises(SettingsError, match="does not end in"):
        export(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "net.pt")


def test_names_that_nothing_has(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_taken", {})
    with pytest.raises(SettingsError, match="There is no exported network 'graph/net-0123456789abcdef' here"):
        architectures.canonical("graph/net-0123456789abcdef")
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        architectures.canonical(str(tmp_path / "none.pt2"))
    assert not [name for name in architectures.names() if name.startswith(f"{graphs.SOURCE}/")]
