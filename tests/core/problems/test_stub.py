"""The plug-in that is written from a checkpoint's tensors has exactly these, whatever they are called."""

from __future__ import annotations

import io
import tomllib
import zipfile
from typing import Any

import torch
from torch import Tensor, nn

from seigh.core.problems import paper, stub
from tests.exported import AttentionCnn


def network_of(source: str) -> nn.Module:
    """The network of a plug-in's module."""
    names: dict[str, Any] = {"__name__": "plugin"}
    exec(compile(source, "plugin.py", "exec"), names)
    net: nn.Module = names["Network"]()
    return net


def tensors(state: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], bool]]:
    return {name: (tuple(each.shape), not each.is_floating_point()) for name, each in state.items()}


def test_it_has_the_tensors_of_the_checkpoint() -> None:
    nets = {
        "attention": AttentionCnn(),
        "3c3d": paper.NETWORKS["3c3d"](),
        "nested": nn.Sequential(
            nn.Conv1d(3, 4, 3, bias=False), nn.Sequential(nn.GroupNorm(2, 4)), nn.PReLU()
        ),
        "encoder": nn.TransformerEncoderLayer(8, 2, 16),
    }
    for net in nets.values():
        state = net.state_dict()
        found = network_of(stub.source(tensors(state), "net")).state_dict()
        assert {name: each.shape for name, each in found.items()} == {
            n: each.shape for n, each in state.items()
        }
        assert {name: each.dtype for name, each in found.items()} == {
            n: each.dtype for n, each in state.items()
        }


def test_names_of_the_checkpoint_are_text_and_nothing_else() -> None:
    names = ['a"); import os; os.abort(); ("', "b\n    import os", "c'''{}'''", "{d}", "e\\"]
    found = network_of(stub.source(dict.fromkeys(names, ((2,), False)), "net")).state_dict()
    assert set(found) == set(names)


def test_it_is_a_package_with_an_entry_point() -> None:
    archive = zipfile.ZipFile(io.BytesIO(stub.package({"w": ((2,), False)}, "3 Räder/../x")))
    project, module = archive.namelist()
    described = tomllib.loads(archive.read(project).decode())
    ((name, target),) = described["project"]["entry-points"]["seigh.problems"].items()
    assert module == f"{name}/{name}.py"
    assert target == f"{name}:register"
    registered: list[Any] = []

    class Registry:
        def architecture(self, *given: Any, **options: Any) -> None:
            registered.append(given[0])

    names: dict[str, Any] = {"__name__": "plugin"}
    exec(archive.read(module).decode(), names)
    names["register"](Registry())
    assert registered == ["net-3-r-der-x"]
    assert torch.equal(names["Network"]().w, torch.zeros(2))
