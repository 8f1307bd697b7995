"""The pickles inside PyTorch files, loaded with a short list of names that they may refer to.

Python's own unpickler does the work, and gets for every name in a pickle either one of the few functions that
a dictionary of tensors needs, in a shell that nothing can be set on, or an inert class in place of one that
people's checkpoints are full of. So nothing of torch, numpy or any other package is ever called, and a tensor
is a description (``packing.Array``) until somebody wants its numbers. What a pickle costs is not predicted:
memory and time of the process are limited.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import IO, Any, ClassVar

import numpy as np

from seigh.core.reading.confinement import is_full
from seigh.core.reading.packing import DTYPES, Array, Storage
from seigh.core.reading.words import Refusal, damaged, more_than_tensors

# Protocol 2 writes the names of Python 2.
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_OLD_NAMES = {"builtins.long": "builtins.int", "builtins.unicode": "builtins.str"}

_STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
_DTYPE_OF_STORAGE = {
    "Byte": "uint8",
    "Char": "int8",
    "Bool": "bool",
    "Untyped": "uint8",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Short": "int16",
    "Float": "float32",
    "Int": "int32",
    "Double": "float64",
    "Long": "int64",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
_BYTES_OF_QUANTISED = {"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}

Load = Callable[[str, int], Storage]
"""Gives the storage of a key, which must have so many bytes."""


class Inert:
    """Stands for an object that plays no part in the analysis: takes any state and does nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class InertMapping:
    """Stands for a subclass of ``dict``: keeps its items, in a dictionary that the unpickler will fill."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class InertList:
    """Stands for a sequence such as ``deque``."""

    def __new__(cls, *_: object) -> list[Any]:  # type: ignore[misc]
        return []


class Number(Inert):
    """Stands for a NumPy scalar: a step, a metric. Its value where it is an ordinary number."""

    _CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

    def __init__(self, dtype: object = None, data: object = None, *_: object) -> None:
        self.value: float | int | None = None
        code = getattr(dtype, "code", None)
        if code in self._CODES and isinstance(data, bytes) and len(data) == int(code[1]):
            self.value = np.frombuffer(data, f"<{code}")[0].item()


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


class _Sealed:
    """What a pickle may hold but not change: nothing can be set on it.

    Attributes:
        WHAT: What it is called in refusals.
    """

    __slots__ = ()
    WHAT: ClassVar[str]

    def __setstate__(self, state: object) -> None:
        raise ValueError(f"{self.WHAT} has no state")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class _Known(_Sealed):
    """A function that a pickle may call."""

    __slots__ = ("_function",)
    WHAT = "a function"
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: object) -> Any:
        return self._function(*arguments)


class _Type(_Sealed):
    """A number type, or that of a storage."""

    __slots__ = ("dtype", "itemsize")
    WHAT = "a type"
    dtype: str
    itemsize: int

    def __init__(self, dtype: str, itemsize: int) -> None:
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "itemsize", itemsize)


# Stands for the types of quantised tensors, which are no numbers.
_NONE = ""


class _Stored(_Sealed):
    """A storage, and the type that its numbers are said to have."""

    __slots__ = ("dtype", "storage")
    WHAT = "a storage"
    dtype: str
    storage: Storage

    def __init__(self, storage: Storage, dtype: str) -> None:
        object.__setattr__(self, "storage", storage)
        object.__setattr__(self, "dtype", dtype)


def _tensor(
    storage: object, offset: Any, size: Any, stride: Any, *_: object, dtype: str | None = None
) -> Array:
    if not isinstance(storage, _Stored):
        raise ValueError("a tensor without a storage")
    dtype = storage.dtype if dtype is None else dtype
    return Array(storage.storage if dtype else None, dtype, offset, tuple(size), tuple(stride))


def _tensor_with_type(
    storage: object,
    offset: Any,
    size: Any,
    stride: Any,
    _requires_grad: object,
    _hooks: object,
    dtype: Any,
    *_: object,
) -> Array:
    if not isinstance(dtype, _Type):
        raise ValueError("a tensor without a type")
    return _tensor(storage, offset, size, stride, dtype=dtype.dtype)


def _not_dense(*_: object) -> Array:
    """A tensor that is sparse, quantised, nested, or has no numbers at all."""
    return Array(None, "float32", 0, (), ())


def _first(first: object, *_: object) -> object:
    return first


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them, as text in Latin-1."""
    if encoding != "latin1":
        raise ValueError("another encoding")
    return text.encode(encoding)


_KNOWN: dict[str, object] = {
    "torch._utils._rebuild_tensor": _Known(_tensor),
    "torch._utils._rebuild_tensor_v2": _Known(_tensor),
    "torch._utils._rebuild_tensor_v3": _Known(_tensor_with_type),
    "torch._utils._rebuild_parameter": _Known(_first),
    **{
        f"torch._utils.{name}": _Known(_not_dense)
        for name in (
            "_rebuild_sparse_tensor",
            "_rebuild_qtensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_nested_tensor",
            "_rebuild_wrapper_subclass",
        )
    },
    "torch.serialization._get_layout": _Known(Inert),
    "torch.device": _Known(Inert),
    "torch.Size": _Known(tuple),
    "collections.OrderedDict": _Known(OrderedDict),
    "collections.Counter": _Known(Counter),
    "builtins.set": _Known(set),
    "builtins.complex": _Known(complex),
    "builtins.bytearray": _Known(bytearray),
    "_codecs.encode": _Known(_encoded),
    **{f"torch.{name}": _Type(name, dtype.itemsize) for name, dtype in DTYPES.items()},
    **{
        f"torch.{name}": _Type(_NONE, 0)
        for name in (
            *("quint8", "qint8", "qint32", "quint4x2", "quint2x4"),
            *("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"),
            "per_channel_affine_float_qparams",
        )
    },
    **HARMLESS,
}


class Unpickler(pickle.Unpickler):
    """Loads one pickle of a PyTorch file.

    Args:
        stream: Where the pickle begins; behind its end afterwards.
        name: The file's name, for errors.
        load: Gives the storages.
    """

    def __init__(self, stream: IO[bytes], name: str, load: Load | None = None) -> None:
        super().__init__(stream, encoding="utf-8")
        self._name, self._load = name, load

    def find_class(self, module: str, attribute: str) -> Any:
        name = f"{_OLD_MODULES.get(module, module)}.{attribute}"
        name = _OLD_NAMES.get(name, name)
        if name in _KNOWN:
            return _KNOWN[name]
        if storage := _STORAGE.fullmatch(name):
            if storage[1] in _DTYPE_OF_STORAGE:
                dtype = _DTYPE_OF_STORAGE[storage[1]]
                return _Type(dtype, DTYPES[dtype].itemsize)
            if storage[1] in _BYTES_OF_QUANTISED:
                return _Type(_NONE, _BYTES_OF_QUANTISED[storage[1]])
        raise more_than_tensors(self._name, name)

    def persistent_load(self, identifier: Any) -> _Stored:
        if self._load is None or not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            raise damaged(self._name)
        word, kind, key, _location, numel = identifier[:5]
        # A sixth entry is that of views, which no version of torch has written since 0.4.
        whole = len(identifier) == 5 or identifier[5] is None
        if word != "storage" or not isinstance(kind, _Type) or not kind.itemsize or not whole:
            raise damaged(self._name)
        if type(key) is not str or type(numel) is not int or not 0 <= numel < 2**60:
            raise damaged(self._name)
        return _Stored(self._load(key, numel * kind.itemsize), kind.dtype)

    def follow(self) -> Any:
        """What the pickle holds.

        Raises:
            Refusal: If it is damaged, or refers to other things than tensors and plain values.
            MemoryError: If it asks for more than the process may take.
        """
        try:
            return self.load()
        except (Refusal, MemoryError, OSError):
            raise
        except Exception as error:  # arbitrary bytes: an empty stack, an unknown memo, half a string
            if is_full():
                raise MemoryError from error
            raise damaged(self._name) from error
