"""Files that mean harm, or have come to it, as bytes: what tests and ``benchmarks.hostile`` let be read.

``files`` makes as many as are wanted, the same ones for the same seed: files of both of PyTorch's formats,
``.safetensors`` and ``.npz`` that claim what they do not hold, say it twice, nest without end, ask for memory
or time, and honest ones of which some bytes have been changed.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import safetensors.torch
import torch

# --- Files, as bytes --------------------------------------------------------------------------------------


def archive(pickled: bytes, *others: tuple[str | zipfile.ZipInfo, bytes], compression: int = 0) -> bytes:
    """A zip file as torch.save lays it out, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("a/data.pkl", pickled)
        made.writestr("a/version", b"3\n")
        made.writestr("a/byteorder", b"little")
        for name, content in others:
            made.writestr(name, content)
    return file.getvalue()


def saved(contents: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file, **options)
    return file.getvalue()


def safe(header: bytes, numbers: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + numbers


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def described(**entries: object) -> bytes:
    return json.dumps(entries).encode()


# --- Pickles by hand --------------------------------------------------------------------------------------

PROTO, STOP = b"\x80\x02", b"."


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def mapping(value: bytes, key: bytes = text("w")) -> bytes:
    """A pickle of a dictionary with one entry."""
    return PROTO + b"}" + key + value + b"s" + STOP


def tensor(numel: int, shape: bytes, kind: str = "FloatStorage", key: str = "0") -> bytes:
    storage = b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + integer(numel) + b"tQ"
    hooks = called(name("collections", "OrderedDict"))
    return called(name("torch._utils", "_rebuild_tensor_v2"), storage, b"K\x00", shape, shape, b"\x89", hooks)


ORDERED = called(name("collections", "OrderedDict"))
NUMBERS = ("a/data/0", b"\0" * 32)
LARGE = integer(10**12)


def deep(levels: int) -> bytes:
    return b")" + b"\x85" * levels


def wide_tuple(levels: int) -> bytes:
    """A tuple of twice a tuple of twice …: small in memory, and endless to walk through or to hash."""
    return b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(levels))


def doubled(levels: int) -> bytes:
    """Bytes as long as 2 to the power of ``levels``, if the codecs of Python are let loose."""
    coded = called(name("_codecs", "encode"), text("a"), text("latin1"))
    for _ in range(levels):
        coded = name("_codecs", "encode") + b"(" + coded + text("hex") + b"tR"
    return coded


def colliding(count: int) -> bytes:
    """Keys that all hash alike, which makes a dictionary of them quadratic."""
    modulus = 2**61 - 1
    return PROTO + b"}(" + b"".join(integer(n * modulus) + b"N" for n in range(1, count)) + b"u" + STOP


def overlapping() -> bytes:
    """Many entries of the list that all point at the same numbers."""
    contents = bytearray(archive(mapping(tensor(8, b"K\x08\x85")), ("a/data/0", b"\0" * 4096)))
    end = contents.rindex(b"PK\x05\x06")
    count, size = struct.unpack("<HI", contents[end + 10 : end + 16])
    position = contents.rindex(b"PK\x01\x02", 0, end)
    last = bytes(contents[position:end])
    copies = b"".join(last.replace(b"data/0", b"data/" + str(n).encode()) for n in range(1, 10))
    tail = contents[end:]
    tail[8:16] = struct.pack("<HHI", count + 9, count + 9, size + len(copies))
    return bytes(contents[:end]) + copies + bytes(tail)


def two_directories(first: bytes, second: bytes) -> bytes:
    """Two archives in one file: the end names the list of the first; that of the second stands before it.

    Parsers that go back from the end by the directory's size take the second, those that go to where the end
    says take the first.
    """
    end = first.rindex(b"PK\x05\x06")
    start, size = (
        struct.unpack("<I", first[end + 16 : end + 20])[0],
        struct.unpack("<I", first[end + 12 : end + 16])[0],
    )
    other_end = second.rindex(b"PK\x05\x06")
    other_size, other_start = struct.unpack("<II", second[other_end + 12 : other_end + 20])
    # Both lists must be as long as the end says: the shorter one gets a comment of its last entry.
    lists = [first[start : start + size], second[other_start : other_start + other_size]]
    length = max(map(len, lists))
    lists = [_padded(each, length - len(each)) for each in lists]
    body = first[:start] + lists[0] + second[:other_start]
    tail = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, *struct.unpack("<HH", first[end + 8 : end + 12]), length, start, 0
    )
    return body + lists[1] + tail


def _padded(listed: bytes, more: int) -> bytes:
    last = bytearray(listed)
    position = last.rindex(b"PK\x01\x02")
    struct.pack_into("<H", last, position + 32, more)  # the length of the entry's comment
    return bytes(last) + b" " * more


# --- The old format ---------------------------------------------------------------------------------------

LEGACY_START = (
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
    b"\x80\x02M\xe9\x03.",
    pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2),
)


def legacy(contents: bytes, keys: bytes, *numbers: bytes, start: tuple[bytes, ...] = LEGACY_START) -> bytes:
    """A file of the old format around any pickles; numbers are those of each storage, in float32."""
    behind = b"".join(struct.pack("<q", len(each) // 4) + each for each in numbers)
    return b"".join(start) + contents + keys + behind


def legacy_tensor(numel: int, shape: tuple[int, ...], key: str = "0", offset: int = 0) -> bytes:
    """A tensor as the old format writes it, with strides that go through all of a storage."""
    storage = (
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text(key)
        + text("cpu")
        + integer(numel)
        + b"NtQ"
    )
    return _rebuilt(storage, offset, shape, _strides(shape))


def strided(numel: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A tensor as the zip format writes it, with any strides."""
    storage = (
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + integer(numel)
        + b"tQ"
    )
    return _rebuilt(storage, offset, shape, stride)


def _rebuilt(storage: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    sizes = [b"(" + b"".join(map(integer, each)) + b"t" for each in (shape, stride)]
    function = name("torch._utils", "_rebuild_tensor_v2")
    return called(function, storage, integer(offset), *sizes, b"\x89", ORDERED)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * size)
    return tuple(reversed(steps)) if shape else ()


KEYS = PROTO + b"]" + text("0") + b"a" + STOP  # ["0"]
WEIGHTS = mapping(legacy_tensor(8, (8,)))
EIGHT = np.arange(8, dtype=np.float32).tobytes()

DOUBLED = wide_tuple(60)
"""A tuple that takes for ever to hash."""


def doubled_in_pickle(which: int) -> bytes:
    """A file of the old format with such a tuple as a key, in one of its five pickles."""
    pickles = [*LEGACY_START, WEIGHTS, KEYS]
    if which == 4:
        pickles[4] = PROTO + b"]" + text("0") + b"a" + DOUBLED + b"a" + STOP
    elif which == 3:
        pickles[3] = PROTO + b"}" + DOUBLED + b"Ns" + text("w") + legacy_tensor(8, (8,)) + b"s" + STOP
    else:
        pickles[which] = PROTO + b"}" + DOUBLED + b"Ns" + STOP
    return legacy(pickles[3], pickles[4], EIGHT, start=tuple(pickles[:3]))


def fewer_keys() -> bytes:
    """A file of the old format with two storages, of which one gets its numbers."""
    contents = (
        PROTO
        + b"}("
        + b"".join(text(each) + legacy_tensor(2000, (2000,), key) for each, key in (("w", "0"), ("v", "1")))
        + b"u"
        + STOP
    )
    return legacy(contents, KEYS, np.ones(2000, np.float32).tobytes()) + bytes(10_000)


# --- Arrays -----------------------------------------------------------------------------------------------


def npy(descr: object, shape: object, numbers: bytes, fortran: bool = False, version: int = 1) -> bytes:
    """A .npy file that claims anything."""
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + numbers


def npz(x: bytes, y: bytes, *others: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for label, content in (("x.npy", x), ("y.npy", y), *others):
            made.writestr(label, content)
    return file.getvalue()


def npz_of_zeros(mebibytes: int) -> bytes:
    """Good data of zeros, in a thousandth of the space they take: float32 samples of 1024 entries."""
    samples = 256 * mebibytes
    x = npy("<f4", (samples, 1024), bytes(4096 * samples))
    return npz(x, npy("<i8", (samples,), bytes(8 * samples)))


X = npy("<f4", (4, 3), np.arange(12, dtype=np.float32).tobytes())
Y = npy("<i8", (4,), np.array([0, 1, 0, 1]).tobytes())


# --- As many as are wanted --------------------------------------------------------------------------------


@cache
def honest() -> tuple[tuple[str, bytes], ...]:
    """Small files as people write them."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "a.weight": torch.randn(4, 3, generator=generator),
        "a.bias": torch.randn(4, generator=generator).half(),
        "n": torch.tensor(3),
    }
    contents = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1), "loss": np.float64(0.5)}
    compressed, plain = io.BytesIO(), io.BytesIO()
    np.savez_compressed(compressed, x=np.ones((6, 3), np.float32), y=np.arange(6))
    np.savez(plain, x=np.ones((6, 3)), y=np.arange(6, dtype=np.int32))
    tied = torch.randn(4, 4, generator=generator)
    return (
        ("a.pt", saved(contents)),
        ("a.ckpt", saved(contents, _use_new_zipfile_serialization=False)),
        ("a.pth", saved({"a": tied, "b": tied, "c": tied.T, "d": tied[:1].expand(5, 4)})),
        ("a.bin", saved({"a": tied, "b": tied[1:]}, _use_new_zipfile_serialization=False)),
        ("a.safetensors", safetensors.torch.save(state, {"step": "3"})),
        ("x.npz", compressed.getvalue()),
        ("x.npz", plain.getvalue()),
        ("x.safetensors", safetensors.torch.save({"x": torch.ones(4, 3), "y": torch.arange(4)})),
    )


def mutated(choose: random.Random) -> tuple[str, bytes]:
    """An honest file of which bytes are changed, cut away, repeated, or taken from another."""
    label, content = choose.choice(honest())
    made = bytearray(content)
    if choose.random() < 0.4:  # one byte, or one bit
        place = choose.randrange(len(made))
        made[place] = choose.choice([choose.randrange(256), made[place] ^ 1 << choose.randrange(8)])
        return label, bytes(made)
    for _ in range(choose.randint(1, 4)):
        place = choose.randrange(len(made))
        match choose.randrange(6):
            case 0 | 1:
                made[place] = choose.randrange(256)
            case 2:
                made[place] ^= 1 << choose.randrange(8)
            case 3:
                del made[place : place + choose.randint(1, 64)]
            case 4:
                part = made[place : place + choose.randint(1, 200)]
                made[place:place] = part * choose.randint(1, 3)
            case 5:
                other = choose.choice(honest())[1]
                start = choose.randrange(len(other))
                made[place : place + 40] = other[start : start + 40]
        made = made or bytearray(b"\0")
    if choose.random() < 0.1:
        del made[choose.randrange(len(made)) :]
    return label, bytes(made)


def mended(choose: random.Random) -> tuple[str, bytes]:
    """A good archive around a pickle of which bytes are changed: no checksum gives it away."""
    pickled = bytearray(mapping(strided(8, (2, 4), (4, 1))))
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        pickled[choose.randrange(len(pickled))] = choose.randrange(256)
    return "a.pt", archive(bytes(pickled), ("a/data/0", EIGHT))


def soup(choose: random.Random) -> tuple[str, bytes]:
    """A pickle of random values around good weights, or of random operations."""
    operations = [
        b"(", b"t", b"]", b"}", b"a", b"e", b"s", b"u", b"R", b"b", b"\x81", b"0", b"2", b"q\x00", b"h\x00",
        b"\x85", b"\x86", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"Q", b"i__builtin__\nset\n",
        name("torch._utils", "_rebuild_tensor_v2"), name("torch", "FloatStorage"), *_VALUES,
    ]  # fmt: skip
    entries = b"".join(text(str(n)) + _value(choose) + b"s" for n in range(choose.randint(1, 6)))
    weights = b"}" + text("w") + strided(8, (8,), (1,)) + b"s"
    pickled = PROTO + b"}" + text("model") + weights + b"s" + entries
    if choose.random() < 0.4:
        pickled += b"".join(choose.choice(operations) for _ in range(choose.randint(1, 20)))
    return "a.pt", archive(pickled + STOP, ("a/data/0", EIGHT))


_VALUES = [
    b"N", b"\x88", b"K\x05", b"J\xff\xff\xff\x7f", b")", text("step"), ORDERED, b"]", b"}", b"\x8f",
    b"\x8c\x01a",
    strided(8, (2, 2), (4, 1)), strided(8, (), (), 3), called(name("collections", "Counter"), ORDERED),
    called(name("__builtin__", "set"), b"]"), called(name("builtins", "bytearray"), b"K\x05"),
    called(name("torch", "Size"), b")"), name("argparse", "Namespace") + b")\x81}b", name("torch", "float32"),
    name("collections", "OrderedDict"), called(name("torch", "device"), text("cuda")), LARGE,
]  # fmt: skip


def _value(choose: random.Random, depth: int = 0) -> bytes:
    kind = choose.choices(range(7), (2, 2, 2, 2, 1, 1, 10))[0] if depth < 4 else 6
    if kind < 3:
        inner = b"".join(_value(choose, depth + 1) for _ in range(choose.randint(0, 3)))
        return b"(" + inner + b"t" if kind else b"](" + inner + b"e"
    if kind == 3:
        return b"}" + _value(choose, depth + 1) + _value(choose, depth + 1) + b"s"
    if kind == 4:
        function = choose.choice(
            [name("collections", "OrderedDict"), name("argparse", "Namespace"), *_VALUES]
        )
        return called(function, *(_value(choose, depth + 1) for _ in range(choose.randint(0, 2))))
    if kind == 5:
        return _value(choose, depth + 1) + _value(choose, depth + 1) + b"b"
    return choose.choice(_VALUES)


def claims(choose: random.Random) -> tuple[str, bytes]:
    """A tensor whose numbers, shape, strides or place are not those of its storage."""
    sizes = [0, 1, 2, 7, 8, 9, 2**20, 2**31, 2**40, 2**62, 2**63, 2**64, -1, -8]
    shape = tuple(choose.choice(sizes) for _ in range(choose.randint(0, 4)))
    stride = tuple(choose.choice([0, 0, 1, 1, *sizes]) for _ in range(choose.choice([len(shape)] * 4 + [2])))
    numel, offset = choose.choice([8, 8, 8, 9, *sizes]), choose.choice([0, 0, 0, 1, *sizes])
    if choose.random() < 0.4:
        return "a.pt", legacy(mapping(legacy_tensor(numel, shape, offset=offset)), KEYS, EIGHT)
    return "a.pt", archive(mapping(strided(numel, shape, stride, offset)), ("a/data/0", EIGHT))


def of_keys(choose: random.Random) -> tuple[str, bytes]:
    """A file of the old format whose list of keys is not that of its storages."""
    lists = [b"", text("0") * 2, text("1"), text("0") + text("1"), b"N", b"K\x00", ORDERED, text("0")]
    keys = PROTO + b"](" + choose.choice(lists) + b"e" + STOP
    numbers = [EIGHT[: choose.choice([0, 4, 32, 31, 32])] for _ in range(choose.randint(0, 3))]
    made = legacy(WEIGHTS, choose.choice([keys, KEYS, PROTO + b"N" + STOP, b"", DOUBLED]), *numbers)
    return "a.pt", choose.choice([made, fewer_keys()])


def nested(choose: random.Random) -> tuple[str, bytes]:
    levels = choose.choice([10, 1000, 100_000, 1_000_000])
    inner = choose.choice([deep(levels), b"]" * levels + b"a" * (levels - 1)])
    where = choose.choice([mapping(inner), mapping(b"N", key=inner), PROTO + inner + STOP])
    return "a.pt", choose.choice([archive(where), legacy(where, KEYS, EIGHT)])


def header(choose: random.Random) -> tuple[str, bytes]:
    """A safetensors header that lies."""
    numbers = [0, 0, 8, 8, 16, 4, -8, 2**33, 2**64, 1.5, None, "8"]
    entries = {
        choose.choice(["x", "y", "w", "__metadata__", "\ud800", ""]): choose.choice(
            [
                {
                    "dtype": choose.choice(["F32", "F32", "F64", "BOOL", "F4", "BF16", "F7", None]),
                    "shape": [choose.choice(numbers) for _ in range(choose.randint(0, 3))],
                    "data_offsets": [choose.choice(numbers) for _ in range(choose.choice([2, 2, 2, 1, 3]))],
                },
                {"format": "pt"}, [], "text", None,
            ]
        )
        for _ in range(choose.randint(1, 3))
    }  # fmt: skip
    content = json.dumps(entries).encode()
    if choose.random() < 0.2:
        content = content[:-1] + b"," + content[1:]  # names that stand twice
    length = choose.choice([len(content)] * 5 + [0, 2**63, len(content) - 1, len(content) + 8])
    return choose.choice(["a.safetensors", "x.safetensors"]), safe(
        content, bytes(choose.choice([0, 8, 16, 32])), length
    )


def array(choose: random.Random) -> tuple[str, bytes]:
    """A .npz file that lies, or asks for much."""
    kind = choose.choice(
        ["<f4", "<f8", ">f4", "<f2", "<c8", "|O", "<U4", "<M8[s]", "|b1", "|u1", [("a", "<f4")], "x"]
    )
    shape = choose.choice(
        [(4, 3), (4,), (2**40, 3), (-4, 3), (4, 0), (10**6, 10**9), (2, 6), (True, 3), "a", (4, 2**31)]
    )
    numbers = choose.choice([np.arange(12, dtype="<f4").tobytes(), b"", bytes(96), b"\xff" * 48])
    x = npy(kind, shape, numbers, choose.random() < 0.3, choose.choice([1, 1, 2, 3, 9]))
    others = [("x.npy", X)] if choose.random() < 0.2 else []
    compression = choose.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    y = choose.choice([Y, Y, x, b"", npy("<i8", (4,), b"\xff" * 32)])
    made = npz(x, y, *others, compression=compression)
    return "x.npz", made


def archives(choose: random.Random) -> tuple[str, bytes]:
    """Archives that say two things, or say them twice."""
    good = archive(mapping(strided(8, (8,), (1,))), ("a/data/0", EIGHT))
    other = archive(mapping(strided(8, (8,), (1,))), ("a/data/0", bytes(32)))
    data = npz(X, Y)
    match choose.randrange(7):
        case 0:
            return "a.pt", two_directories(good, other)
        case 1:
            return "a.pt", two_directories(other, good)
        case 2:
            return "a.pt", overlapping()
        case 3:
            return "a.pt", good + other
        case 4:
            return "x.npz", two_directories(data, npz(X, Y, ("z.npy", X)))
        case 5:
            return "a.pt", good[: -(choose.randint(1, 30))] + other[-22:]
        case _:
            bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
            body = bomb.compress(bytes(2**22)) + bomb.flush()
            return "a.pt", archive(mapping(strided(2**20, (2**20,), (1,))), ("a/data/0", body), compression=8)


def costly(choose: random.Random) -> tuple[str, bytes]:
    """What asks for memory, or for time without end."""
    return "a.pt", choose.choice(
        [
            lambda: doubled_in_pickle(choose.randrange(5)),
            lambda: archive(mapping(b"N", key=DOUBLED)),
            lambda: archive(mapping(DOUBLED)),
            lambda: archive(mapping(called(name("__builtin__", "set"), b"](" + DOUBLED + b"e"))),
            lambda: archive(colliding(choose.choice([100, 60_000]))),
            lambda: archive(mapping(called(name("builtins", "bytearray"), LARGE))),
            lambda: archive(mapping(doubled(40))),
            lambda: archive(mapping(b"Nr\xff\xff\xff\xff")),
            lambda: archive(mapping(b"(" + b"\x8f" * 1_000_000 + b"t")),
            lambda: archive(mapping(b"X\xff\xff\xff\xffabc")),
            lambda: archive(mapping(called(name("torch", "FloatTensor"), LARGE))),
            lambda: archive(mapping(strided(8, (10**6, 10**6), (0, 0))), ("a/data/0", EIGHT)),
        ]
    )()  # fmt: skip


def many(choose: random.Random) -> tuple[str, bytes]:
    """A hundred thousand entries of one kind or another."""
    count = 100_000
    match choose.randrange(5):
        case 0:
            return "a.pt", archive(
                PROTO + b"}(" + b"".join(text(str(n)) + b"N" for n in range(count)) + b"u" + STOP
            )
        case 1:
            aliases = b"".join(text(str(n)) + b"h\x07" for n in range(count))
            made = PROTO + strided(8, (8,), (1,)) + b"q\x070}(" + aliases + b"u" + STOP
            return "a.pt", archive(made, ("a/data/0", EIGHT))
        case 2:
            listed = {str(n): entry([1], 4 * n, 4 * n + 4) for n in range(count)}
            return "a.safetensors", safe(json.dumps(listed).encode(), bytes(4 * count))
        case 3:
            each = (
                b"PK\x01\x02"
                + b"\0" * 24
                + struct.pack("<HHH", 18, 0, 0)
                + b"\0" * 12
                + b"a/data/00000000000"
            )
            listed_entries = each * count
            end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65535, 65535, len(listed_entries), 4, 0)
            return "a.pt", b"PK\x03\x04" + listed_entries + end
        case _:
            return "x.npz", npz_of_zeros(64)


_FAMILIES: tuple[tuple[Callable[[random.Random], tuple[str, bytes]], int], ...] = (
    (mutated, 100), (mended, 60), (soup, 40), (claims, 40), (of_keys, 20), (header, 30), (array, 30),
    (archives, 12), (nested, 8), (costly, 8), (many, 2),
)  # fmt: skip


def files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and contents of so many hostile files, of every family among the first hundred.

    Those called ``x`` are data, the others checkpoints.
    """
    choose = random.Random(seed)
    makers, weights = zip(*_FAMILIES, strict=True)
    for number in range(count):
        maker = makers[number] if number < len(makers) else choose.choices(makers, weights)[0]
        yield maker(choose)
