"""The pickles inside PyTorch files, walked before they are loaded: what they ask for, and how much.

``torch.load(weights_only=True)`` calls only what it knows, but some of that takes arguments which cost any
amount of memory or time (``bytearray(10**12)``, a codec that doubles its input, keys that hash for hours),
and it refuses plain objects that people's checkpoints are full of. The walk here calls nothing. It follows
the same small machine with stand-ins for values, refuses whatever a dictionary of tensors does not need,
and tells which of the harmless classes of ``HARMLESS`` must be let through as inert stand-ins.
"""

from __future__ import annotations

import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from core.problems.checkpoints.checkpoint import CheckpointError, damaged, shown

# Memory for a file's structure, without its tensors, in bytes: thirty thousand tensors need most of it.
_ROOM = 160 * 2**20
_COST_OF_VALUE = 96  # of an average one in CPython
_COST_OF_CONTAINER = 300  # of an empty set or OrderedDict

_OPCODES_OF_CONSTANTS = (
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINSTRING",
)
_TENSORS = frozenset(
    f"torch._utils.{name}"
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
)
_NOT_DENSE = frozenset(
    f"torch._utils.{name}"
    for name in (
        "_rebuild_sparse_tensor",
        "_rebuild_qtensor",
        "_rebuild_meta_tensor_no_storage",
        "_rebuild_nested_tensor",
        "_rebuild_wrapper_subclass",
    )
)
_STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
_BYTES_OF_STORAGE = {
    **dict.fromkeys(("Byte", "Char", "Bool", "Untyped"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
# Protocol 2 writes the names of Python 2.
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_OLD_NAMES = {"builtins.long": "builtins.int", "builtins.unicode": "builtins.str"}


class Inert:
    """Stands for an object that plays no part in the analysis: takes any state and does nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class InertMapping:
    """Stands for a subclass of ``dict``: keeps its items, in a dictionary that the unpickler will fill."""

    def __new__(cls, *args: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class InertList:
    """Stands for a sequence such as ``deque``."""

    def __new__(cls, *args: object) -> list[Any]:  # type: ignore[misc]
        return []


class Number(Inert):
    """Stands for a NumPy scalar: a step, a metric. Its value where it is an ordinary number."""

    _CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

    def __init__(self, dtype: object = None, data: object = None, *_: object) -> None:
        self.value: float | int | None = None
        code = getattr(dtype, "code", None)
        if code in self._CODES and isinstance(data, bytes) and len(data) == int(code[1]):
            if code[0] == "f":
                kind = {2: torch.float16, 4: torch.float32, 8: torch.float64}[len(data)]
                self.value = float(torch.frombuffer(bytearray(data), dtype=kind).item())
            else:
                self.value = int.from_bytes(data, "little", signed=code[0] == "i")


class Kind(Inert):
    """Stands for a NumPy dtype."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code if isinstance(code, str) else None

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.code = None  # big-endian: not worth a second way


def _each(stand_in: type, *names: str) -> dict[str, type]:
    return dict.fromkeys(names, stand_in)


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")

# Classes by name that may occur around the weights. Their own code never runs: nothing of theirs is imported.
HARMLESS: dict[str, type] = {
    **_each(Inert, "argparse.Namespace", "types.SimpleNamespace", "typing.Any", "uuid.UUID"),
    **_each(Inert, *(f"typing.{name}" for name in ("Dict", "List", "Union", "Optional", "Tuple"))),
    **_each(
        Inert, *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple"))
    ),
    **_each(Inert, *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone"))),
    **_each(
        Inert,
        *(
            f"{module}.{name}"
            for module in ("pathlib", "pathlib._local")
            for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
        ),
    ),
    **_each(InertMapping, "collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict"),
    **_each(InertMapping, "yacs.config.CfgNode", "fvcore.common.config.CfgNode", "box.box.Box"),
    **_each(InertList, "collections.deque"),
    **_each(InertMapping, *(f"{package}.utilities.parsing.AttributeDict" for package in _LIGHTNING)),
    **_each(
        InertMapping,
        *(f"{package}.utilities.data.AttributeDict" for package in ("lightning_fabric", "lightning.fabric")),
    ),
    # Old versions of Lightning have the classes of callbacks as keys, newer ones enumerations as values.
    **_each(
        Inert,
        *(
            f"{package}.{name}"
            for package in _LIGHTNING
            for name in (
                "callbacks.early_stopping.EarlyStopping",
                "callbacks.model_checkpoint.ModelCheckpoint",
                "trainer.states.RunningStage",
                "trainer.states.TrainerFn",
                "trainer.states.TrainerStatus",
            )
        ),
    ),
    **_each(Inert, "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    **_each(Inert, "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
    **_each(
        Inert,
        *(
            f"omegaconf.nodes.{name}Node"
            for name in ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String")
        ),
    ),
    **_each(Number, *(f"{module}.scalar" for module in _NUMPY)),
    **_each(Inert, "numpy.ndarray", *(f"{module}._reconstruct" for module in _NUMPY)),
    **_each(Kind, "numpy.dtype"),
}


@dataclass
class Structure:
    """What the pickles of a file ask for.

    Attributes:
        harmless: Names of ``HARMLESS`` that must be let through.
        storages: Bytes of numbers by the key of their storage.
    """

    harmless: set[str] = field(default_factory=set)
    storages: dict[str, int] = field(default_factory=dict)

    def stand_ins(self) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
        """As ``torch.serialization.safe_globals`` takes them."""
        return [(HARMLESS[name], name) for name in sorted(self.harmless)]


@dataclass(frozen=True)
class _Global:
    """A name that the pickle imports."""

    name: str


@dataclass(slots=True)
class _Container:
    """A list, dictionary or set: how many entries it has, and whether all of them can be keys."""

    kind: str
    size: int = 0
    plain: bool = True


class _Result:
    """Whatever a call gives that is of no interest, such as a tensor."""


_RESULT = _Result()


@dataclass(frozen=True, slots=True)
class _Stranger:
    """An object of one of the harmless classes."""

    stand_in: type


class Walk:
    """Follows pickles with stand-ins for values; raises CheckpointError at what must not be loaded.

    Args:
        name: The file's name, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.structure = Structure()
        self._room = _ROOM

    def follow(self, stream: IO[bytes]) -> None:
        """Walk one pickle from where the stream stands to behind its end.

        Raises:
            CheckpointError: If it is damaged, asks for more than tensors and plain values, or for too much.
        """
        try:
            self._follow(pickletools.genops(stream))
        except CheckpointError:
            raise
        except Exception as error:  # arbitrary bytes: an empty stack, an unknown memo, half a string
            raise damaged(self.name) from error

    def _follow(self, operations: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> None:
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for opcode, argument, _ in operations:
            self._spend(_COST_OF_VALUE)
            code = opcode.name
            if code in _OPCODES_OF_CONSTANTS:
                if isinstance(argument, str):
                    self._spend(len(argument))
                stack.append(argument)
            elif code in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif code in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif code == "GLOBAL":
                stack.append(self._import(argument))
            elif code == "MARK":
                marks.append(stack)
                stack = []
            elif code == "TUPLE":
                items, stack = stack, marks.pop()
                stack.append(tuple(items))
            elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
                length = int(code[-1])
                stack[-length:] = [tuple(stack[-length:])]
            elif code == "EMPTY_TUPLE":
                stack.append(())
            elif code in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
                self._spend(_COST_OF_CONTAINER)
                stack.append(_Container(code))
            elif code == "APPEND":
                item = stack.pop()
                self._extend(stack[-1], [item])
            elif code == "APPENDS":
                items, stack = stack, marks.pop()
                self._extend(stack[-1], items)
            elif code == "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._update(stack[-1], [key, value])
            elif code == "SETITEMS":
                items, stack = stack, marks.pop()
                self._update(stack[-1], items)
            elif code in ("REDUCE", "NEWOBJ"):
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments, new=code == "NEWOBJ"))
            elif code == "BUILD":
                self._build(stack, stack.pop())
            elif code == "BINPERSID":
                stack.append(self._storage(stack.pop()))
            elif code not in ("PROTO", "STOP"):
                raise self._refused(f"the pickle operation {code}")

    def _spend(self, amount: int) -> None:
        self._room -= amount
        if self._room < 0:
            raise CheckpointError(
                f"'{self.name}' holds too many entries for a state dict; save model.state_dict() alone."
            )

    def _refused(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"'{self.name}' contains more than tensors, so it was not loaded and nothing in it was executed; "
            f"save model.state_dict() instead of the whole object (the file refers to {shown(what)})."
        )

    def _import(self, argument: str) -> _Global:
        module, _, attribute = argument.partition(" ")
        name = f"{_OLD_MODULES.get(module, module)}.{attribute}"
        name = _OLD_NAMES.get(name, name)
        if name in _NOT_DENSE:
            raise self._not_dense()
        if name in HARMLESS:
            self.structure.harmless.add(name)
        elif not (name in _CALLS or name in _TENSORS or _STORAGE.fullmatch(name) or _is_dtype(name)):
            raise self._refused(name)
        return _Global(name)

    def _not_dense(self) -> CheckpointError:
        return CheckpointError(
            f"Tensors in '{self.name}' are sparse, quantised or without numbers; save dense tensors."
        )

    def _extend(self, target: object, items: list[Any]) -> None:
        if not isinstance(target, _Container) or target.kind != "EMPTY_LIST":
            raise self._refused("an object that takes items")
        target.size += len(items)
        target.plain = target.plain and all(_is_key(item) for item in items)

    def _update(self, target: object, items: list[Any]) -> None:
        if not isinstance(target, _Container) or target.kind != "EMPTY_DICT":
            raise self._refused("an object that takes items")
        target.size += len(items) // 2
        if not all(_is_key(key) for key in items[::2]):
            raise CheckpointError(
                f"'{self.name}' has entries whose names are no text, so it is no state dict; "
                "save model.state_dict()."
            )

    def _call(self, function: object, arguments: object, *, new: bool) -> object:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise self._refused("a call of an object")
        name = function.name
        self._spend(_COST_OF_CONTAINER)
        if name in HARMLESS:
            return _instance(HARMLESS[name])
        if name in _TENSORS and not new:
            return _RESULT
        if name not in _CALLS or new or not _CALLS[name](arguments):
            raise self._refused(f"{name} with unusual arguments")
        self._spend(sum(_cost(argument) for argument in arguments))
        return _Container("EMPTY_DICT") if name in _MAPPINGS else _RESULT

    def _build(self, stack: list[Any], state: object) -> None:
        target = stack[-1]
        if isinstance(target, _Container) and target.kind == "EMPTY_DICT" and isinstance(state, _Container):
            self._spend(_cost(state))
        elif not isinstance(target, _Stranger):
            raise self._refused("an object with a state of its own")

    def _storage(self, identifier: object) -> _Result:
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            raise damaged(self.name)
        word, kind, key, location, numel = identifier[:5]
        storage = _STORAGE.fullmatch(kind.name) if isinstance(kind, _Global) else None
        if word != "storage" or storage is None or type(key) is not str or type(location) is not str:
            raise damaged(self.name)
        if storage[1] not in _BYTES_OF_STORAGE:
            raise self._not_dense()
        if type(numel) is not int or numel < 0:
            raise damaged(self.name)
        size = numel * _BYTES_OF_STORAGE[storage[1]]
        self.structure.storages[key] = max(size, self.structure.storages.get(key, 0))
        return _RESULT


def _is_dtype(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)


def _is_key(value: object) -> bool:
    """Whether hashing the value costs nothing, whoever chose it: Python's hash of numbers has no secret."""
    if isinstance(value, (str, bool, _Global, _Stranger)) or value is None:
        return True
    return type(value) is int and abs(value) < 2**31


def _cost(value: object) -> int:
    if isinstance(value, _Container):
        return value.size * _COST_OF_VALUE
    return len(value) * _COST_OF_VALUE if isinstance(value, (str, tuple)) else 0


def _instance(stand_in: type) -> object:
    if stand_in is InertMapping:
        return _Container("EMPTY_DICT")
    return _Container("EMPTY_LIST") if stand_in is InertList else _Stranger(stand_in)


def _constants(arguments: tuple[Any, ...]) -> bool:
    return all(isinstance(each, (str, int, float)) for each in arguments)


def _one_container(kind: str) -> Callable[[tuple[Any, ...]], bool]:
    def fits(arguments: tuple[Any, ...]) -> bool:
        return arguments == () or (
            len(arguments) == 1
            and isinstance(arguments[0], _Container)
            and arguments[0].kind == kind
            and arguments[0].plain
        )

    return fits


# What may be called besides, each with the arguments it may have. Bytes are written as text in Latin-1.
_MAPPINGS = ("collections.OrderedDict", "collections.Counter")
_CALLS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "collections.OrderedDict": lambda arguments: arguments == (),
    "collections.Counter": _one_container("EMPTY_DICT"),
    "builtins.set": _one_container("EMPTY_LIST"),
    "builtins.complex": _constants,
    "torch.device": _constants,
    "torch.Size": lambda arguments: len(arguments) == 1 and isinstance(arguments[0], tuple),
    "_codecs.encode": lambda arguments: _constants(arguments) and arguments[1:] == ("latin1",),
}
