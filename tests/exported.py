"""Networks as files of ``torch.export``, honest and altered: what tests and ``benchmarks.graphs`` read.

``files`` makes as many altered ones as are wanted, the same for the same seed: descriptions whose values were
exchanged, removed, doubled or made huge, operations with other names and arguments, constants that claim what
they do not hold, and archives with changed bytes.
"""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

MODEL = "models/model.json"
CONSTANTS = "data/constants/model_constants_config.json"


class AttentionCnn(nn.Module):
    """A convolutional network with attention: BatchNorm, a buffer that no checkpoint holds, and a "
    "constant."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 5, stride=4, padding=2)
        self.bn = nn.BatchNorm2d(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, width), persistent=False)
        self.shift = torch.linspace(-0.1, 0.1, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu().flatten(2).transpose(1, 2) * self.scale + self.shift.to(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        found: Tensor = self.head(self.norm(x).mean(1))
        return found


def exported(net: nn.Module, x: Tensor, *, free: bool = True) -> bytes:
    """The file that torch itself writes of a network in the mode it is in."""
    shapes = ({0: torch.export.Dim.DYNAMIC},) if free else None
    content = io.BytesIO()
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), content)
    return content.getvalue()


@cache
def honest() -> bytes:
    """The file of an ``AttentionCnn``."""
    torch.manual_seed(0)
    return exported(AttentionCnn().eval(), torch.randn(2, 1, 16, 16))


def entries(content: bytes) -> dict[str, bytes]:
    """What an archive holds, by the path below its first folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {each.partition("/")[2]: archive.read(each) for each in archive.namelist()}


def packed(held: dict[str, bytes], root: str = "net/", compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in held.items():
            archive.writestr(root + name, data)
    return content.getvalue()


def edited(content: bytes, edit: Callable[[dict[str, Any]], Any], record: str = MODEL) -> bytes:
    """The file with another description; ``edit`` changes it in place."""
    held = entries(content)
    described = json.loads(held[record])
    edit(described)
    return packed(held | {record: json.dumps(described).encode()})


def node(model: dict[str, Any], target: str) -> dict[str, Any]:
    """The first operation of this name in a description."""
    nodes = model["graph_module"]["graph"]["nodes"]
    found: dict[str, Any] = next(each for each in nodes if each["target"].endswith(target))
    return found


# --- Altered files ----------------------------------------------------------------------------------------

_ODD = (
    *(
        0,
        1,
        -1,
        2,
        3,
        7,
        2**31,
        2**62,
        2**63,
        -(2**63),
        10**30,
        1e308,
        -0.0,
        True,
        None,
        "",
        "x",
        "Infinity",
        "NaN",
    ),
    *(
        "__import__('os').system('touch /tmp/seigh-executed')",
        "../../etc/passwd",
        [],
        {},
        [[]],
        {"as_int": 5},
        "s77",
    ),
    *({"as_tensor": {"name": "x"}}, {"as_tensors": [{"name": "x"}] * 3}, {"as_ints": [2**40, 2**40]}),
    *(
        {"as_expr": {"expr_str": "Pow(Integer(9), Integer(9999999))"}},
        {"as_string": "ij,jk->ik"},
        float("nan"),
    ),
)
_TARGETS = (
    *("torch.ops.aten.unbind.int", "torch.ops.aten.repeat.default", "torch.ops.aten.empty.memory_format"),
    *(
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.fill_.Scalar",
        "torch.ops.aten.set_.source_Tensor",
    ),
    *("torch.ops.aten.from_file.default", "torch.ops.aten.rand.default", "torch.ops.aten.item.default"),
    *("builtins.eval", "os.system", "_operator.pow", "_operator.mul", "_operator.floordiv", "math.trunc"),
    *(
        "torch.ops.higher_order.cond",
        "torch.ops.prims.mul.default",
        "torch.load",
        "torch.ops.aten.zeros.default",
    ),
    *(
        "torch.ops.aten.upsample_nearest2d.vec",
        "torch.ops.aten.index.Tensor",
        "torch.ops.aten.gather.default",
    ),
    *("torch.ops.aten.max_pool2d.default", "torch.ops.aten.expand.default", "torch.ops.aten.arange.default"),
    *(
        "torch.ops.aten.relu.out",
        "torch.ops.aten.relu_.default",
        "torch.ops.aten.__class__.default",
        "nowhere",
    ),
)


def files(number: int, seed: int) -> Iterator[bytes]:
    """So many altered files."""
    generator = random.Random(seed)
    for _ in range(number):
        content = honest()
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            alter = generator.choice(
                (_value, _value, _value, _target, _argument, _bytes, _constant, _record, _order)
            )
            try:
                content = alter(content, generator)
            except Exception:  # what an earlier alteration has left can be no archive any more
                content = _bytes(content, generator)
        yield content


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    held = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in held:
        if key == "metadata":
            continue
        yield (*path, key)
        yield from _places(each, (*path, key))


def _value(content: bytes, generator: random.Random, record: str = MODEL) -> bytes:
    """Another value, none, or one of elsewhere."""

    def edit(model: dict[str, Any]) -> None:
        places = list(_places(model))
        *path, last = generator.choice(places)
        holder: Any = model
        for key in path:
            holder = holder[key]
        match generator.randrange(4):
            case 0:
                del holder[last]
            case 1:
                other: Any = model
                for key in generator.choice(places):
                    other = other[key]
                holder[last] = copy.deepcopy(other)
            case _:
                holder[last] = generator.choice(_ODD)

    return edited(content, edit, record)


def _constant(content: bytes, generator: random.Random) -> bytes:
    return _value(content, generator, CONSTANTS)


def _target(content: bytes, generator: random.Random) -> bytes:
    """Another operation."""

    def edit(model: dict[str, Any]) -> None:
        nodes = model["graph_module"]["graph"]["nodes"]
        others = [each["target"] for each in nodes]
        generator.choice(nodes)["target"] = generator.choice((*_TARGETS, *others))

    return edited(content, edit)


def _argument(content: bytes, generator: random.Random) -> bytes:
    """Another number as an argument."""

    def edit(model: dict[str, Any]) -> None:
        plain = [
            each
            for step in model["graph_module"]["graph"]["nodes"]
            for each in step["inputs"]
            if each["arg"].keys() & {"as_int", "as_ints", "as_float", "as_bool", "as_sym_ints"}
        ]
        number = generator.choice((0, -1, 1, 2, 3, 5, 17, 1000, 2**31 - 1, 2**40, 2**62, -(2**62)))
        generator.choice(plain)["arg"] = generator.choice(
            (
                {"as_int": number},
                {"as_ints": [number] * generator.choice((0, 1, 2, 3, 4))},
                {"as_float": float(number)},
            )
        )

    return edited(content, edit)


def _order(content: bytes, generator: random.Random) -> bytes:
    """Operations and inputs in another order, twice, or gone."""

    def edit(model: dict[str, Any]) -> None:
        module = model["graph_module"]
        held = generator.choice((module["graph"]["nodes"], module["signature"]["input_specs"]))
        number = generator.randrange(len(held))
        match generator.randrange(3):
            case 0:
                held.insert(generator.randrange(len(held)), held.pop(number))
            case 1:
                held.insert(generator.randrange(len(held)), copy.deepcopy(held[number]))
            case _:
                del held[number]

    return edited(content, edit)


def _record(content: bytes, generator: random.Random) -> bytes:
    """A file of the archive gone, cut, or another's."""
    held = entries(content)
    name = generator.choice(sorted(held))
    match generator.randrange(3):
        case 0:
            del held[name]
        case 1:
            held[name] = held[name][: generator.randrange(len(held[name]) + 1)]
        case _:
            held[name] = held[generator.choice(sorted(held))]
    return packed(held)


def _bytes(content: bytes, generator: random.Random) -> bytes:
    """Some bytes changed, or the end missing."""
    changed = bytearray(content)
    if generator.randrange(4) == 0:
        return bytes(changed[: generator.randrange(len(changed) + 1)])
    for _ in range(generator.choice((1, 4, 32))):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)
