"""A plug-in to begin with, written from the tensors of a checkpoint that no known architecture fits.

The package registers a network whose tensors have the checkpoint's names and shapes. What a checkpoint cannot
tell, strides, paddings, activations and the order of the layers, is left to who knows the network.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence

Shape = tuple[int, ...]

_COUNTER = "num_batches_tracked"

_PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{package}"
version = "0.1"
dependencies = ["torch"]

[project.entry-points."seigh.problems"]
{package} = "{package}:register"

[tool.setuptools]
py-modules = ["{package}"]
"""

_MODULE = '''\
"""A network for SEIGH Lab, begun from the tensors of a checkpoint.

1. Write ``forward``, and put the layers right: a checkpoint tells their sizes, and no strides, paddings or
   activations.
2. Set ``takes`` below to the shape of one sample.
3. Install it where the dashboard and the workers run, with ``pip install .`` in this folder, and restart
   them.
"""

import torch
from torch import nn


def layers():
    """The layers by their names in the checkpoint; strides, paddings and groups are not told there."""
    return {{
{layers}
    }}


# Tensors by themselves: name, shape, and whether it is a buffer of whole numbers.
TENSORS = [
{tensors}
]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        for name, layer in layers().items():
            parent, leaf = self._parent(name)
            parent.add_module(leaf, layer)
        for name, shape, whole in TENSORS:
            parent, leaf = self._parent(name)
            if whole:
                parent.register_buffer(leaf, torch.zeros(shape, dtype=torch.int64))
            else:
                parent.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))

    def _parent(self, name):
        *path, leaf = name.split(".")
        module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        return module, leaf

    def forward(self, x):
        # Layers are self.get_submodule("name"), or self.name where the name has no dot.
        raise NotImplementedError("Write the forward pass of this network.")


def register(registry):
    # takes: the shape of one sample, such as (3, 32, 32).
    registry.architecture({name!r}, Network, options={{}}, takes=None)
'''


def package(tensors: Mapping[str, tuple[Sequence[int], bool]], name: str) -> bytes:
    """A zip archive with the package: its ``pyproject.toml`` and one module.

    Args:
        tensors: Shape by the name of each tensor of a state dict, and whether it holds whole numbers.
        name: What the network is to be called.
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    own = "-".join(words)[:40].strip("-") or "network"
    own = own if own[0].isalpha() else f"net-{own}"
    module = own.replace("-", "_") + "_plugin"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{module}/pyproject.toml", _PROJECT.format(package=module))
        archive.writestr(f"{module}/{module}.py", source(tensors, own))
    return content.getvalue()


def source(tensors: Mapping[str, tuple[Sequence[int], bool]], name: str) -> str:
    """The module of the package; every name out of the checkpoint is a string literal in it.

    >>> "nn.Linear(3, 2)" in source({"fc.weight": ((2, 3), False), "fc.bias": ((2,), False)}, "net")
    True
    """
    members: dict[str, dict[str, tuple[Shape, bool]]] = {}
    for each, (shape, whole) in tensors.items():
        module, _, leaf = each.rpartition(".")
        members.setdefault(module, {})[leaf] = (tuple(shape), whole)
    layers, alone = [], []
    inner = {module.rpartition(".")[0] for module in members} | {""}
    for module, held in members.items():
        layer = (
            None if any(each == module or each.startswith(f"{module}.") for each in inner) else _layer(held)
        )
        if layer is not None:
            layers.append(f"        {module!r}: {layer},")
            continue
        for leaf, (shape, whole) in held.items():
            full = f"{module}.{leaf}" if module else leaf
            alone.append(f"    ({full!r}, {shape!r}, {whole!r}),")
    return _MODULE.format(layers="\n".join(layers), tensors="\n".join(alone), name=name)


def _layer(held: Mapping[str, tuple[Shape, bool]]) -> str | None:
    """The layer whose tensors these are; None if they are none of a usual one."""
    names = held.keys() - {_COUNTER}
    shapes = {name: shape for name, (shape, _) in held.items()}
    weight = shapes.get("weight", ())
    out = weight[0] if weight else 0
    bias = "" if "bias" in names else ", bias=False"
    if names == {"weight", "bias", "running_mean", "running_var"} and len(weight) == 1:
        return f"nn.BatchNorm2d({out})"
    if not names <= {"weight", "bias"} or "weight" not in names or shapes.get("bias", (out,)) != (out,):
        return None
    if _COUNTER in held:
        return None
    match len(weight):
        case 1 if "bias" in names:
            return f"nn.LayerNorm({out})"
        case 2:
            return f"nn.Linear({weight[1]}, {out}{bias})"
        case 3 | 4 | 5:
            kernel = weight[2] if len(set(weight[2:])) == 1 else weight[2:]
            return f"nn.Conv{len(weight) - 2}d({weight[1]}, {out}, {kernel}{bias})"
    return None
