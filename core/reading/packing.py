"""Numbers of a file: where they lie in it, and how they are handed back, one after another and nothing else.

The file of numbers that a child hands back is the arrays in the order of the description, each contiguous and
little-endian, without padding, those with the largest numbers first, so that all are aligned. Offsets are
nowhere written down, so none can be wrong.
"""

from __future__ import annotations

import errno
import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

import ml_dtypes
import numpy as np

from seigh.core.reading.words import MIB, Refusal

# The number types by torch's names.
DTYPES: dict[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name).newbyteorder("<")
        for name in (
            *("float64", "float32", "float16", "complex64", "complex128", "bool"),
            *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        )
    },
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in (
            *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz"),
            *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        )
    },
    "complex32": np.dtype("V4"),  # which numpy does not have, and which is only ever refused
}

# Numbers that are looked at together: few enough to stay in the processor's cache.
_TOGETHER = 2**18
# From here on it pays to let the kernel copy from file to file.
_LARGE = MIB


def is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))


class Storage:
    """A run of numbers in memory.

    Attributes:
        buffer: Its bytes.
        place: Where they lie in the file, if the memory is a map of it.
        swapped: Whether they were written by a big-endian machine.
        moved: Whether ``place`` counts from the start of the file, and no longer from that of a part of it.
    """

    __slots__ = ("buffer", "moved", "place", "swapped")

    def __init__(self, buffer: memoryview, place: int | None = None, swapped: bool = False) -> None:
        self.buffer, self.place, self.swapped, self.moved = buffer, place, swapped, False

    def __setstate__(self, state: object) -> None:
        raise ValueError("a storage has no state")


class Array:
    """A tensor as a file describes it; nothing of it is believed before ``check``.

    Attributes:
        storage: Where its numbers are; None of a tensor that is not a dense array of numbers.
        dtype: torch's name of their type.
        offset: Index of the first number, counted in numbers.
        shape: Its size along each axis.
        stride: Numbers from one entry to the next along each axis.
        lack: What a tensor without a storage is: sparse, quantised, …
    """

    __slots__ = ("dtype", "lack", "offset", "shape", "storage", "stride")

    def __init__(
        self,
        storage: Storage | None,
        dtype: str,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        lack: str = "",
    ) -> None:
        self.storage, self.dtype, self.lack = storage, dtype, lack
        self.offset, self.shape, self.stride = offset, shape, stride

    def __setstate__(self, state: object) -> None:
        raise ValueError("an array has no state")

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two names of one tensor."""
        return (id(self.storage), self.dtype, self.offset, self.shape, self.stride)

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    def check(self) -> None:
        """See that the description is possible, and does not lead out of the storage.

        Raises:
            ValueError: If it is not, or does.
        """
        if self.storage is None or len(self.shape) != len(self.stride) or len(self.shape) > 32:
            raise ValueError("no array")
        last = self.offset
        for each in (self.offset, *self.shape, *self.stride):
            if type(each) is not int or not 0 <= each < 2**62:
                raise ValueError("no count")
        for size, stride in zip(self.shape, self.stride, strict=True):
            last += (size - 1) * stride
        if self.numel and (last + 1) * DTYPES[self.dtype].itemsize > len(self.storage.buffer):
            raise ValueError("the array is larger than its storage")

    def view(self) -> np.ndarray[Any, Any]:
        """The numbers, without a copy.

        Raises:
            ValueError: As ``check``.
        """
        self.check()
        assert self.storage is not None
        dtype = DTYPES[self.dtype]
        if self.storage.swapped:
            dtype = dtype.newbyteorder(">")
        strides = tuple(stride * dtype.itemsize for stride in self.stride)
        return np.ndarray(self.shape, dtype, self.storage.buffer, self.offset * dtype.itemsize, strides)

    def run(self) -> tuple[memoryview, int | None] | None:
        """The bytes of the numbers, where they stand one after another in the machine's order, and their
        place in the file, if they are there; None if they do not."""
        if self.storage is None or self.storage.swapped or not self.is_contiguous:
            return None
        itemsize = DTYPES[self.dtype].itemsize
        start, place = self.offset * itemsize, self.storage.place
        part = self.storage.buffer[start : start + self.numel * itemsize]
        return part, None if place is None else place + start


def contiguous(storage: Storage, dtype: str, shape: Sequence[int]) -> Array:
    """All of a storage as one array."""
    steps = tuple(accumulate(reversed(shape[1:]), lambda a, b: a * b, initial=1))
    return Array(storage, dtype, 0, tuple(shape), steps[::-1] if shape else ())


def order(dtypes: Sequence[str]) -> list[int]:
    """In which order arrays are written: all of one type together, those with the largest numbers first."""
    return sorted(range(len(dtypes)), key=lambda each: (-DTYPES[dtypes[each]].itemsize, dtypes[each]))


def write(arrays: Sequence[tuple[Array, str]], source: int, target: int) -> None:
    """Write arrays, each as the type beside it, one after another.

    Args:
        arrays: In the order of ``order``.
        source: Descriptor of the file whose map the storages are.
        target: Descriptor of the file of numbers.
    """
    gathered = bytearray()
    for array, dtype in arrays:
        run = array.run() if array.dtype == dtype else None
        if array.numel * DTYPES[dtype].itemsize < _LARGE:
            gathered += run[0] if run else np.ascontiguousarray(array.view(), DTYPES[dtype]).tobytes()
            if len(gathered) >= _LARGE:
                _write(target, gathered)
                gathered.clear()
            continue
        _write(target, gathered)
        gathered.clear()
        if run is None:
            write_converted(array.view(), dtype, target)
        elif run[1] is None:
            _write(target, run[0])
        else:
            _copy(source, run[1], len(run[0]), target)
    _write(target, gathered)


def write_converted(view: np.ndarray[Any, Any], dtype: str, target: int) -> None:
    """Write the numbers of an array, in the order of its entries, as another type."""
    for piece in _pieces(view):
        _write(target, np.ascontiguousarray(piece, DTYPES[dtype]).view(np.uint8).data)


def _pieces(view: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """An array in parts that are small, in the order of its numbers, without copies of the whole."""
    if view.size <= _TOGETHER:
        yield view.reshape(-1)
        return
    rows = max(1, _TOGETHER * len(view) // view.size)
    for start in range(0, len(view), rows):
        part = view[start : start + rows]
        yield from _pieces(part[0]) if len(part) == 1 and part.ndim > 1 else [part.reshape(-1)]


def _write(target: int, data: bytes | bytearray | memoryview) -> None:
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            done += os.write(target, rest[done:])


def _copy(source: int, start: int, length: int, target: int) -> None:
    """Copy a part of a file to the end of another, by the kernel alone where it can."""
    end = start + length
    while start < end:
        try:
            done = os.sendfile(target, source, start, end - start)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP):
                raise
            done = 0
        if not done:  # this system has it for sockets alone
            block = os.pread(source, min(end - start, MIB), start)
            if not block:
                raise EOFError
            _write(target, block)
            done = len(block)
        start += done


def not_finite(data: memoryview, arrays: Sequence[tuple[str, int]]) -> Iterator[int]:
    """Which arrays of a file of numbers hold NaN or infinity.

    Args:
        data: The file of numbers.
        arrays: Type and size of every array in it. Of floating-point types there are float32 and float64.
    """
    ends = list(accumulate(DTYPES[dtype].itemsize * size for dtype, size in arrays))
    place = 0
    for dtype, group in groupby(arrays, key=lambda each: each[0]):
        itemsize = DTYPES[dtype].itemsize
        length = sum(size for _, size in group) * itemsize
        if is_float(dtype):
            numbers = np.frombuffer(data[place : place + length], DTYPES[dtype])
            start = 0
            while start < len(numbers):
                finite = np.isfinite(numbers[start : start + _TOGETHER])
                if finite.all():
                    start += _TOGETHER
                    continue
                odd = bisect_right(ends, place + (start + int(finite.argmin())) * itemsize)
                yield odd
                start = (ends[odd] - place) // itemsize
        place += length


def handed_back(
    named: Mapping[str, Array], source: int, target: int, limit: int, what: str, *, as_stored: bool = False
) -> dict[str, Any]:
    """Write the distinct arrays among the named ones, and describe them.

    Args:
        named: Arrays by name that ``check`` has nothing against; one may have several names, and is written
            once.
        source: Descriptor of the file whose map the storages are.
        target: Descriptor of the file of numbers.
        limit: Bytes that the numbers may take.
        what: The file, for the refusal.
        as_stored: Keep every number type; else floating-point numbers other than float64 become float32.

    Returns:
        A description, as ``described`` has it.

    Raises:
        Refusal: If the numbers are too many.
    """
    arrays = list({array.key: array for array in named.values()}.values())
    dtypes = [each.dtype if as_stored else kept(each.dtype) for each in arrays]
    total = sum(array.numel * DTYPES[dtype].itemsize for array, dtype in zip(arrays, dtypes, strict=True))
    if total > limit:
        raise Refusal(
            f"The tensors of '{what}' claim more numbers than the file holds: {total / MIB:,.0f} MiB, where "
            f"{limit / MIB:,.0f} MiB is the limit for a file of its size; save model.state_dict() again."
        )
    ordered = [(arrays[each], dtypes[each]) for each in order(dtypes)]
    write(ordered, source, target)
    number = {array.key: index for index, (array, _) in enumerate(ordered)}
    return described(
        [(dtype, array.shape) for array, dtype in ordered],
        {name: number[array.key] for name, array in named.items()},
    )


def described(arrays: Sequence[tuple[str, tuple[int, ...]]], names: Mapping[str, int]) -> dict[str, Any]:
    """The description of a file of numbers.

    It consists of few lists of plain values, however many arrays there are: whoever reads it has other
    threads, which would wait while Python looks for garbage among many small ones.

    Args:
        arrays: Type and shape of each, in the order of the file.
        names: Every name, and the number of its array.

    Returns:
        ``types``: each type, and how many arrays in a row are of it; ``shapes``: of each array, as ``4x3``;
        ``names``; and ``which``: the number of each name's array.
    """
    return {
        "types": [[dtype, len(list(group))] for dtype, group in groupby(dtype for dtype, _ in arrays)],
        "shapes": ["x".join(map(str, shape)) for _, shape in arrays],
        "names": list(names),
        "which": list(names.values()),
    }


def kept(dtype: str) -> str:
    """The type that numbers of a type are kept in: float64 and integers as they are, others in float32."""
    return "float32" if is_float(dtype) and dtype != "float64" else dtype
