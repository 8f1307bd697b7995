"""The pickles inside PyTorch files, loaded with a short list of names that they may refer to.

Python's own unpickler does the work, and gets for every name in a pickle either one of the few functions that
a dictionary of tensors needs, in a shell that nothing can be set on, or an inert class in place of one that
people's checkpoints are full of: configurations, enumerations, schedulers. So nothing of torch, numpy or any
other package is ever imported or called, and a tensor is a description (``packing.Array``) until somebody
wants its numbers. Names of Python's own library and of torch that no checkpoint needs are refused, because a
file that has them is no checkpoint, or a hostile one. What a pickle costs is not predicted: memory and time
of the process are limited.
"""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

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


class Stranger(Inert):
    """Stands for an object of a class that nobody here knows.

    Attributes:
        entries: Its items, if it behaves like a dictionary.
    """

    def __init__(self, *_: object) -> None:
        self.entries: dict[Any, Any] = {}

    def __new__(cls, *_: object) -> Stranger:
        made = super().__new__(cls)
        made.entries = {}
        return made

    def __setitem__(self, key: object, value: object) -> None:
        self.entries[key] = value

    def append(self, value: object) -> None:
        """Take an item of a list, and forget it."""

    def extend(self, values: object) -> None:
        """Take items of a list, and forget them."""

    def add(self, value: object) -> None:
        """Take an item of a set, and forget it."""


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
    **_each(
        Inert, "builtins.object", "builtins.range", "builtins.xrange", "builtins.slice", "builtins.frozenset"
    ),
    **_each(
        Inert,
        "decimal.Decimal",
        "fractions.Fraction",
        "functools.partial",
        "torch.Generator",
        "torch.memory_format",
    ),
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

QUANTISED = "quantised"


class _Stored(_Sealed):
    """A storage, the type that its numbers are said to have, and which of them is its first."""

    __slots__ = ("dtype", "start", "storage")
    WHAT = "a storage"
    dtype: str
    start: int
    storage: Storage

    def __init__(self, storage: Storage, dtype: str, start: int) -> None:
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "storage", storage)
        object.__setattr__(self, "dtype", dtype)


def _tensor(
    storage: object, offset: Any, size: Any, stride: Any, *_: object, dtype: str | None = None
) -> Array:
    if not isinstance(storage, _Stored):
        raise ValueError("a tensor without a storage")
    dtype = storage.dtype if dtype is None else dtype
    if not dtype:
        return Array(None, "float32", 0, (), (), QUANTISED)
    return Array(storage.storage, dtype, storage.start + offset, tuple(size), tuple(stride))


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


def _not_dense(lack: str) -> Callable[..., Array]:
    """What makes a tensor that is not a dense array of numbers; ``lack`` says what it is instead."""
    return lambda *_: Array(None, "float32", 0, (), (), lack)


class _Tensor(Inert):
    """``torch.Tensor`` and ``torch.nn.Parameter`` where a pickle refers to the class."""

    def __new__(cls, data: object = None, *_: object) -> Array:  # type: ignore[misc]
        if not isinstance(data, Array):
            raise ValueError("a tensor of nothing")
        return data


_WRAPPER = "a subclass of torch.Tensor"


def _with_attributes(function: object, _kind: object, arguments: object, state: object) -> Array:
    """A tensor that carries attributes, which are left aside, or one of a subclass.

    A ``DTensor`` of one process, or one of which every process has a copy, holds all its numbers.
    """
    if not isinstance(function, _Known) or not isinstance(arguments, tuple):
        raise ValueError("no tensor")
    made = function(*arguments)
    if not isinstance(made, Array):
        raise ValueError("no tensor")
    if made.lack == _WRAPPER and isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        local = state[1].get("_local_tensor")
        if isinstance(local, Array) and len(arguments) > 2:
            return local if local.shape == arguments[2] else _not_dense("one process's share of a tensor")()
    return made


def _attribute(owner: object, _name: object) -> object:
    """A class within another one, in the protocols that have no name for it."""
    if owner in (Inert, Stranger):
        return Stranger
    raise ValueError("an attribute of something else")


def _reconstructed(kind: object, *_: object) -> object:
    """An object as protocols 0 and 1 make it."""
    if isinstance(kind, type) and issubclass(kind, (Inert, InertMapping, InertList)):
        return kind()
    raise ValueError("no class")


def _first(first: object, *_: object) -> object:
    return first


def _parameter_with_state(data: object, *_: object) -> Array:
    """A parameter that carries attributes, which are left aside."""
    if not isinstance(data, Array):
        raise ValueError("a parameter of nothing")
    return data


def _moved(data: object, *_: object) -> Array:
    """A tensor of a device that torch saves by way of the CPU."""
    if not isinstance(data, Array):
        raise ValueError("a tensor of nothing")
    return data


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them, as text in Latin-1."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("another encoding")
    return text.encode("latin1")


_KNOWN: dict[str, object] = {
    "torch._utils._rebuild_tensor": _Known(_tensor),
    "torch._utils._rebuild_tensor_v2": _Known(_tensor),
    "torch._utils._rebuild_tensor_v3": _Known(_tensor_with_type),
    "torch._utils._rebuild_parameter": _Known(_first),
    "torch._utils._rebuild_parameter_with_state": _Known(_parameter_with_state),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _Known(_moved),
    "torch._tensor._rebuild_from_type_v2": _Known(_with_attributes),
    "torch._utils._rebuild_sparse_tensor": _Known(_not_dense("sparse")),
    "torch._utils._rebuild_qtensor": _Known(_not_dense(QUANTISED)),
    "torch._utils._rebuild_meta_tensor_no_storage": _Known(
        _not_dense("without numbers (on the meta device)")
    ),
    "torch._utils._rebuild_nested_tensor": _Known(_not_dense("nested")),
    "torch._utils._rebuild_wrapper_subclass": _Known(_not_dense(_WRAPPER)),
    "torch.Tensor": _Tensor,
    "torch.nn.parameter.Parameter": _Tensor,
    "builtins.getattr": _Known(_attribute),
    "copyreg._reconstructor": _Known(_reconstructed),
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
            *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "float4_e2m1fn_x2"),
            *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
            *("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"),
            "per_channel_affine_float_qparams",
        )
    },
    **HARMLESS,
}


# Of torch: what people save beside the weights. Everything else of it that is not in _KNOWN is refused.
_OF_TORCH = re.compile(
    r"torch\.(?:optim|amp|cuda\.amp|utils\.data|distributed|ao\.quantization|torch_version)\b.*|torch\.layout"
)
_OF_NUMPY = re.compile(r"numpy\.(?:random\..*|dtypes\..*|u?int\d+|float\d+|bool_?|complex\d+|str_)")
_MOST_STRANGERS = 50


def _may_stand_for(name: str) -> bool:
    """Whether an object of this class, which nobody here knows, is left aside rather than refused.

    Nothing of it would run in any case. But files that refer to Python's own library, to numpy's or to
    torch's functions try to do something, and whole modules hold their weights where no name says so.
    """
    package = name.partition(".")[0]
    if package == "torch":
        return _OF_TORCH.fullmatch(name) is not None
    if package == "numpy":
        return _OF_NUMPY.fullmatch(name) is not None
    return package not in sys.stdlib_module_names and package not in _DO_SOMETHING and package.isidentifier()


# Old names of Python's own library, and packages that exist to run what they are given.
_DO_SOMETHING = frozenset(
    """
    __builtin__ builtins posix nt cPickle commands copy_reg os2 exceptions dill cloudpickle joblib pip
    setuptools pkg_resources IPython numba sympy functorch
    """.split()  # noqa: SIM905
)


# An array of bytes that claims 16 MiB or more, or what looks like one.
_LARGE_ARRAY = re.compile(b"\x96.{3}(?!\0\0\0\0\0)", re.DOTALL)


class _Bounded:
    """A stream that refuses arrays of bytes which claim more than it holds.

    Python takes memory for such an array before it reads any of it. Where there is not so much, CPython 3.11
    then looks at a count that it has not set, and may print a SystemError.

    Args:
        stream: Holds a pickle.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream
        self._size = len(stream.getbuffer())
        self._before = b""
        self.readline, self.readinto = stream.readline, stream.readinto

    def read(self, size: int) -> bytes:
        found = self._stream.read(size)
        is_length = size == 8 and self._before == pickle.BYTEARRAY8
        if is_length and int.from_bytes(found, "little") > self._size - self._stream.tell():
            raise EOFError
        self._before = found
        return found


class Unpickler(pickle.Unpickler):
    """Loads one pickle of a PyTorch file.

    Args:
        stream: Where the pickle begins; behind its end afterwards.
        name: The file's name, for errors.
        load: Gives the storages.

    Attributes:
        strangers: Names of classes that objects were left aside of.
    """

    def __init__(self, stream: io.BytesIO, name: str, load: Load | None = None) -> None:
        claims = _LARGE_ARRAY.search(stream.getbuffer(), stream.tell()) is not None
        super().__init__(_Bounded(stream) if claims else stream, encoding="utf-8")
        self._name, self._load = name, load
        self.strangers: list[str] = []

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
        if not _may_stand_for(name):
            raise more_than_tensors(self._name, name)
        if len(self.strangers) < _MOST_STRANGERS and name not in self.strangers:
            self.strangers.append(name)
        return Stranger

    def persistent_load(self, identifier: Any) -> _Stored:
        if self._load is None or not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            raise damaged(self._name)
        word, kind, key, _location, numel = identifier[:5]
        if word != "storage" or not isinstance(kind, _Type) or not kind.itemsize:
            raise damaged(self._name)
        # A sixth entry is that of views, which no version of torch has written since 0.4: key, start, size.
        view = identifier[5] if len(identifier) == 6 else None
        if view is not None and not (isinstance(view, tuple) and len(view) == 3 and type(view[1]) is int):
            raise damaged(self._name)
        if type(key) is not str or type(numel) is not int or not 0 <= numel < 2**60:
            raise damaged(self._name)
        return _Stored(self._load(key, numel * kind.itemsize), kind.dtype, view[1] if view else 0)

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
