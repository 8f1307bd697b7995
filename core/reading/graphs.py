"""A network exported with ``torch.export.save`` (``.pt2``), as a child reads it: its graph as plain values.

The archive lists ATen operations by name in ``models/model.json``. What PyTorch's own loader evaluates or
unpickles is not looked at: symbolic expressions of intermediate sizes, guards, example inputs, weights. Names
of intermediate values become numbers, so that no text of the file but the names of operations, arguments,
parameters and modules leaves the child. What the operations are is for others to judge.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from seigh.core.reading.archives import Archive
from seigh.core.reading.checkpoints import once
from seigh.core.reading.packing import Array, handed_back
from seigh.core.reading.task import Digest, Task
from seigh.core.reading.words import LARGEST_STRUCTURE, Refusal, shown

# The version of the format that torch 2.9 and later write; the second number grows by what is added to it.
SCHEMA = 8

# A network of a thousand layers has fewer.
_MOST_STEPS = 50_000
_MOST_VALUES = 200_000
_MOST_TENSORS = 20_000
_LONGEST_LIST = 10_000
_LONGEST_NAME = 500
_MOST_DIMENSIONS = 16
_LARGEST = 2**62

_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    34: "uint32",
    35: "uint64",
}
_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
_STRIDED = 7

_SYMBOL = re.compile(
    r"(?:Symbol\('([A-Za-z_]\w{0,40})'(?:, \w{1,20}=(?:True|False)){0,8}\)|([A-Za-z_]\w{0,40}))"
)
_INTEGER = re.compile(r"(?:Integer\((\d{1,18})\)|(\d{1,18}))")
_RECORD = re.compile(r"[A-Za-z0-9_.-]{1,200}")
# Operations whose arguments are graphs.
_PARTS = "torch.ops.higher_order."
_OF_OLD = b"serialized_exported_program.json"


def read(task: Task) -> dict[str, Any]:
    """The graph of a ``.pt2`` file, and the numbers of its constants and of buffers that no checkpoint holds.

    Returns:
        ``sha256``, ``size``, ``torch`` (the version that wrote it), ``parameters`` (name, shape, number type,
        whether it requires a gradient), ``buffers`` (name, shape, number type, whether checkpoints hold it),
        ``constants`` (names), ``ties`` (lists of names of one tensor), ``inputs`` (what each of the first
        values is), ``sample`` (sizes and number type of the input; a free size is the list of its symbol and
        an example), ``steps`` (operation, arguments, numbers of its results, module), ``outputs`` and, where
        they have names, their ``keys``. Tensors are called ``buffer:NAME`` and ``constant:NAME``.
    """
    digest = Digest(task.whole)
    archive = _opened(task)
    try:
        reader = _Reader(task, archive)
        facts = reader.facts()
        numbers = handed_back(
            reader.tensors, task.source, task.target, task.limits.output, task.name, as_stored=True
        )
    except (Refusal, MemoryError, OSError):
        raise
    except Exception as error:  # arbitrary bytes, and JSON of any structure
        raise _no_graph(task.name) from error
    return {**numbers, **facts, "sha256": digest.hexdigest(), "size": task.size}


def _no_graph(name: str) -> Refusal:
    return Refusal(
        f"'{name}' is damaged, or no network that torch.export.save wrote; export it again, with "
        "seigh.export."
    )


def _opened(task: Task) -> Archive:
    try:
        return Archive(task.file, task.whole, task.name)
    except Refusal as error:
        if _OF_OLD in bytes(task.whole[-(2**20) :]):
            raise Refusal(
                f"'{task.name}' was written by a torch before 2.9, in a format that is not read; export it "
                "with torch 2.9 or later, best with seigh.export."
            ) from error
        if b"constants.pkl" in bytes(task.whole[-(2**20) :]):
            raise Refusal(
                f"'{task.name}' is a TorchScript program, which contains code; export the network with "
                "seigh.export instead."
            ) from error
        raise _no_graph(task.name) from error


class _Reader:
    """Goes through the description of a program once.

    Every structure that it meets is taken apart by indexing, which fails on any other; ``read`` makes one
    sentence of that.
    """

    def __init__(self, task: Task, archive: Archive) -> None:
        self._task, self._archive = task, archive
        self.tensors: dict[str, Array] = {}
        self._numbers: dict[str, int] = {}
        self._model = self._json("models/model.json")
        if self._model is None:
            raise Refusal(
                f"'{task.name}' holds no exported network; save one with seigh.export, or with "
                "torch.export.save of torch 2.9 or later."
            )

    def _json(self, record: str) -> Any:
        if not self._archive.has(record):
            return None
        content = self._archive.content(record)
        if len(content) > LARGEST_STRUCTURE:
            self._refuse(f"describes its graph in more than {LARGEST_STRUCTURE // 2**20} MiB")
        return json.loads(bytes(content), object_pairs_hook=once, parse_constant=_odd_number)

    def _refuse(self, what: str) -> NoReturn:
        raise Refusal(f"'{self._task.name}' {what}; export a network with fewer operations.")

    def facts(self) -> dict[str, Any]:
        model = self._model
        version = model["schema_version"]
        major, minor = _whole(version["major"]), _whole(version["minor"])
        if major != SCHEMA:
            raise Refusal(
                f"'{self._task.name}' has the format {major}.{minor} of torch.export (torch "
                f"{shown(model.get('torch_version', 'unknown'))[:30]}), where {SCHEMA}.x is read; export it "
                "with torch 2.9 or later, or with an older one if it is newer than this program."
            )
        module = model["graph_module"]
        graph, signature = module["graph"], module["signature"]
        nodes = graph["nodes"]
        if type(nodes) is not list:
            raise TypeError
        if len(nodes) > _MOST_STEPS:
            self._refuse(f"has {len(nodes):,} operations, more than {_MOST_STEPS:,}")
        inputs = self._inputs(graph["tensor_values"], signature["input_specs"])
        steps = [self._step(node) for node in nodes]
        outputs = self._outputs(signature["output_specs"])
        return {
            "torch": shown(model.get("torch_version", "unknown"))[:40],
            **inputs,
            "steps": steps,
            "outputs": outputs,
            "keys": _keys(module.get("module_call_graph"), len(outputs)),
            "values": len(self._numbers),
        }

    # --- What the graph is given --------------------------------------------------------------------------

    def _inputs(self, values: Mapping[str, Any], specs: list[Any]) -> dict[str, Any]:
        """The parameters, buffers, constants and the sample, in the order of the graph's inputs."""
        if len(specs) > _MOST_TENSORS:
            self._refuse(f"has {len(specs):,} tensors, more than {_MOST_TENSORS:,}")
        constants = self._config("constants")
        found: dict[str, list[Any]] = {"parameters": [], "buffers": [], "constants": [], "inputs": []}
        samples: list[Any] = []
        for spec in specs:
            (kind, content), *more = spec.items()
            if more:
                raise ValueError
            about: list[Any]
            match kind:
                case "parameter":
                    name, value = _text(content["parameter_name"]), _text(content["arg"]["name"])
                    meta = values[value]
                    self._define(value)
                    about = [name, _sizes(meta), _dtype(meta["dtype"]), _boolean(meta["requires_grad"])]
                    found["inputs"].append(["parameter", len(found["parameters"])])
                    found["parameters"].append(about)
                case "buffer":
                    name, value = _text(content["buffer_name"]), _text(content["arg"]["name"])
                    meta, held = values[value], _boolean(content["persistent"])
                    self._define(value)
                    if not held:
                        self._constant(f"buffer:{name}", name, constants)
                    found["inputs"].append(["buffer", len(found["buffers"])])
                    found["buffers"].append([name, _sizes(meta), _dtype(meta["dtype"]), held])
                case "tensor_constant":
                    name, value = _text(content["tensor_constant_name"]), _text(content["arg"]["name"])
                    self._define(value)
                    self._constant(f"constant:{name}", name, constants)
                    found["inputs"].append(["constant", len(found["constants"])])
                    found["constants"].append(name)
                case "user_input" if "as_tensor" in content["arg"]:
                    value = _text(content["arg"]["as_tensor"]["name"])
                    self._define(value)
                    found["inputs"].append(["sample", len(samples)])
                    samples.append(self._sample(values[value]))
                case "user_input":
                    found["inputs"].append(["value", self._plain(content["arg"])])
                case "constant_input":
                    found["inputs"].append(["value", self._plain(content["value"])])
                case _:
                    raise Refusal(
                        f"'{self._task.name}' has an input of the kind {shown(kind)}, which is not read; "
                        "export a network of tensors and plain values."
                    )
        if len(samples) != 1:
            raise Refusal(
                f"The network of '{self._task.name}' takes {len(samples)} tensors, where one of samples (N, "
                "…) is needed; export a module whose forward takes that alone."
            )
        return {**found, "sample": samples[0], "ties": self._ties()}

    def _sample(self, meta: Any) -> list[Any]:
        """The sizes of the sample, and its number type."""
        sizes = meta["sizes"]
        if len(sizes) > _MOST_DIMENSIONS:
            raise ValueError
        return [[self._size(each) for each in sizes], _dtype(meta["dtype"])]

    def _size(self, size: Any) -> Any:
        """A fixed size, or the list of a free one's symbol and an example of it."""
        if "as_int" in size:
            return _size(size["as_int"])
        expression = _text(size["as_expr"]["expr_str"])
        if number := _INTEGER.fullmatch(expression):
            return _size(int(number[1] or number[2]))
        symbol = _SYMBOL.fullmatch(expression)
        if symbol is None:
            raise Refusal(
                f"A size of the samples of '{self._task.name}' follows from others "
                f"({shown(expression)[:60]}); export it with a free batch dimension and fixed other ones, as "
                "seigh.export does."
            )
        return [symbol[1] or symbol[2], _size(size["as_expr"]["hint"]["as_int"])]

    def _plain(self, value: Any) -> Any:
        (kind, content), *more = value.items()
        if more or kind not in ("as_none", "as_int", "as_float", "as_string", "as_bool"):
            raise Refusal(
                f"The network of '{self._task.name}' takes an input that is no tensor and no plain value; "
                "export a module whose forward takes one tensor of samples (N, …)."
            )
        return None if kind == "as_none" else _scalar(content)

    def _config(self, kind: str) -> Mapping[str, Any]:
        """Where the archive has tensors, by name."""
        name = "model_constants_config" if kind == "constants" else "model_weights_config"
        found = self._json(f"data/{kind}/{name}.json")
        return {} if found is None else dict(found["config"])

    def _constant(self, key: str, name: str, config: Mapping[str, Any]) -> None:
        """Take the numbers of a constant out of the archive."""
        about = config.get(name)
        if about is None or about["use_pickle"] is not False or about["tensor_meta"] is None:
            raise Refusal(
                f"'{self._task.name}' does not hold the constant {shown(name)} as plain numbers; keep it as "
                "a dense tensor, registered as a buffer, and export the network again."
            )
        record, meta = _text(about["path_name"]), about["tensor_meta"]
        if not _RECORD.fullmatch(record) or meta["layout"] != _STRIDED:
            raise ValueError
        strides = tuple(_size(each["as_int"]) for each in meta["strides"])
        place = f"data/constants/{record}"
        storage = self._archive.storage_of(place)
        array = Array(
            storage,
            _dtype(meta["dtype"]),
            _size(meta["storage_offset"]["as_int"]),
            tuple(_sizes(meta)),
            strides,
        )
        if array.dtype.startswith("complex"):
            raise Refusal(
                f"The constant {shown(name)} of '{self._task.name}' is complex, which is "
                "not read; keep its real and imaginary part as two tensors."
            )
        array.check()
        self.tensors[key] = array

    def _ties(self) -> list[list[str]]:
        """The names of each tensor that has several."""
        names: dict[tuple[str, str], list[str]] = {}
        for name, about in self._config("weights").items():
            same = (str(about["path_name"]), json.dumps(about["tensor_meta"], sort_keys=True))
            names.setdefault(same, []).append(_text(name))
        return [tied for tied in names.values() if len(tied) > 1]

    # --- What it computes ---------------------------------------------------------------------------------

    def _define(self, name: Any) -> int:
        """The number of a new value."""
        if _text(name) in self._numbers:
            raise ValueError("a name stands for two values")
        if len(self._numbers) >= _MOST_VALUES:
            self._refuse(f"has more than {_MOST_VALUES:,} values")
        return self._numbers.setdefault(name, len(self._numbers))

    def _step(self, node: Any) -> list[Any]:
        inputs, outputs = node["inputs"], node["outputs"]
        if len(inputs) > 100 or len(outputs) > _LONGEST_LIST:
            raise ValueError
        arguments = [[_text(each["name"], 100), self._argument(each["arg"], node)] for each in inputs]
        results = [self._result(each) for each in outputs]
        return [_text(node["target"], 200), arguments, results, _module(node.get("metadata"))]

    def _argument(self, argument: Any, node: Any) -> Any:
        """A reference is ``["r", number]``; plain values and lists are themselves, in a list behind "v"."""
        (kind, content), *more = argument.items()
        if more:
            raise ValueError
        match kind:
            case "as_none":
                return ["v", None]
            case "as_tensor":
                return ["r", self._numbers[content["name"]]]
            case "as_int" | "as_float" | "as_bool" | "as_string":
                return ["v", _scalar(content)]
            case "as_ints" | "as_floats" | "as_bools":
                return ["l", [["v", _scalar(each)] for each in _list(content)]]
            case "as_tensors":
                return ["l", [["r", self._numbers[each["name"]]] for each in _list(content)]]
            case "as_optional_tensors":
                return ["l", [self._symbolic(each) for each in _list(content)]]
            case "as_optional_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self._symbolic(content)
            case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return ["l", [self._symbolic(each) for each in _list(content)]]
            case "as_scalar_type":
                return ["dtype", _dtype(content)]
            case "as_memory_format":
                return ["format", _FORMATS[_whole(content)]]
            case "as_layout":
                if content != _STRIDED:
                    self._no_argument("a layout that is not dense", node)
                return ["layout", "strided"]
            case "as_device":
                return ["device", ""]
        return self._no_argument(f"an argument of the kind {shown(kind)[:40]}", node)

    def _no_argument(self, what: str, node: Any) -> NoReturn:
        place, target = _module(node.get("metadata")), _text(node["target"], 200)
        where = f" in its module {shown(place)}" if place else ""
        if target.startswith(_PARTS):
            why = _why_part(target.removeprefix(_PARTS), where)
            raise Refusal(f"The network of '{self._task.name}' {why}.")
        raise Refusal(
            f"The network of '{self._task.name}' calls {shown(target)[:80]}{where} with {what}, which is not "
            "read; write this part of it with operations on tensors."
        )

    def _symbolic(self, content: Any) -> list[Any]:
        (kind, value), *more = content.items()
        if more:
            raise ValueError
        match kind:
            case "as_name":
                return ["r", self._numbers[value]]
            case "as_tensor":
                return ["r", self._numbers[value["name"]]]
            case "as_none":
                return ["v", None]
            case "as_int" | "as_float" | "as_bool":
                return ["v", _scalar(value)]
        raise ValueError

    def _result(self, output: Any) -> Any:
        """The number of a result; a list of numbers of a list; None for nothing."""
        (kind, content), *more = output.items()
        if more:
            raise ValueError
        match kind:
            case "as_tensor":
                return self._define(content["name"])
            case "as_tensors":
                return [self._define(each["name"]) for each in _list(content)]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self._define(content["as_name"])
            case "as_none":
                return None
            case "as_optional_tensor" if "as_tensor" in content:
                return self._define(content["as_tensor"]["name"])
        raise ValueError

    def _outputs(self, specs: list[Any]) -> list[int | None]:
        """The numbers of the network's outputs; None for those that are no tensors."""
        found: list[int | None] = []
        for spec in _list(specs):
            (kind, content), *more = spec.items()
            if more:
                raise ValueError
            if kind in ("buffer_mutation", "parameter_mutation", "user_input_mutation"):
                what = content.get("buffer_name") or content.get("parameter_name")
                if what is None:
                    raise Refusal(
                        f"The network of '{self._task.name}' changes its input in place; let it work on a "
                        "copy (x.clone())."
                    )
                raise Refusal(
                    f"The network of '{self._task.name}' changes {shown(what)} while it computes, as "
                    "BatchNorm does in training mode; let it do that in training mode alone, and export it "
                    "in eval mode, as seigh.export does."
                )
            if kind != "user_output":
                raise Refusal(
                    f"'{self._task.name}' has an output of the kind {shown(kind)}; export the network in "
                    "eval mode, without its loss."
                )
            named = content["arg"].get("as_tensor")
            found.append(None if named is None else self._numbers[named["name"]])
        return found


def _why_part(name: str, where: str) -> str:
    """What a network does that torch exports as a part of its own, and what to do about it."""
    match name:
        case "wrap_with_set_grad_enabled":
            return (
                f"computes a part without gradients{where}, as with torch.no_grad() or "
                "torch.utils.checkpoint and use_reentrant=True, so its gradient would not be the derivative "
                "of its loss; let it compute all parts with gradients"
            )
        case "wrap_with_autocast":
            return f"computes a part in another number format{where}, by torch.autocast; leave autocast out"
    return (
        f"has a part that is a graph of its own{where} ({shown(name)[:80]}), as control flow and "
        "checkpointing give, which is not read; write this part without it"
    )


def _odd_number(text: str) -> float:
    """NaN and the infinities, which JSON has not and Python writes."""
    return float(text)


def _text(value: Any, longest: int = _LONGEST_NAME) -> str:
    if type(value) is not str or len(value) > longest:
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= _LARGEST * 2:
        raise TypeError
    return value


def _size(value: Any) -> int:
    if not 0 <= _whole(value) < _LARGEST:
        raise ValueError
    return int(value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _scalar(value: Any) -> Any:
    """A plain value as JSON can carry it: what is not finite becomes a word."""
    if type(value) is float and not math.isfinite(value):
        return {"float": str(value)}
    if type(value) is str and value in ("Infinity", "-Infinity", "NaN"):  # as torch writes them
        return {"float": {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}[value]}
    if type(value) is int:
        return _whole(value)
    if type(value) is str:
        return _text(value)
    if type(value) not in (bool, float):
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list or len(value) > _LONGEST_LIST:
        raise TypeError
    return value


def _dtype(value: Any) -> str:
    return _DTYPES[_whole(value)]


def _sizes(meta: Any) -> list[int]:
    sizes = _list(meta["sizes"])
    if len(sizes) > _MOST_DIMENSIONS:
        raise ValueError
    return [_size(each["as_int"]) for each in sizes]


def _module(metadata: Any) -> str:
    """The path of the module that an operation belongs to: ``layer1.conv``; empty where none is told."""
    stack = metadata.get("nn_module_stack") if type(metadata) is dict else None
    if type(stack) is not str or len(stack) > 100_000:
        return ""
    entry = stack.rpartition(";")[2].split(",")
    return entry[1][:200] if len(entry) > 2 else ""


def _keys(calls: Any, outputs: int) -> list[str] | None:
    """The names of the outputs, if the network returns a dictionary."""
    try:
        spec = json.loads(_text(calls[0]["signature"]["out_spec"], 100_000))[1]
        names = json.loads(_text(spec["context"], 100_000))
        leaves = [child["type"] is None and not child["children_spec"] for child in spec["children_spec"]]
    except Exception:  # arbitrary JSON; the outputs have numbers then
        return None
    if type(names) is not list or len(names) != outputs:
        return None
    if not all(leaves) or not all(type(name) is str for name in names):
        return None
    return [name[:100] for name in names]
