"""Files that are wrong, by accident or on purpose: one clear sentence each, nothing run, memory bounded."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seigh.core.problems import architectures
from seigh.core.problems.checkpoints import CheckpointError, read
from tests.hostile import (
    LARGE,
    NUMBERS,
    ORDERED,
    PROTO,
    STOP,
    archive,
    called,
    colliding,
    deep,
    described,
    doubled,
    entry,
    mapping,
    name,
    overlapping,
    safe,
    saved,
    tensor,
    text,
    wide_tuple,
)

MIB = 2**20


def link() -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo("a/data/1")
    info.external_attr = 0o120777 << 16
    return info, b"/etc/passwd"


def huge_declared() -> bytes:
    """An entry that claims 3 GiB of numbers."""
    contents = bytearray(archive(mapping(tensor(8, b"K\x08\x85")), NUMBERS))
    position = contents.rindex(b"PK\x01\x02")
    contents[position + 20 : position + 28] = struct.pack("<II", 32, 3 * 2**30)
    return bytes(contents)


def many_entries(count: int) -> bytes:
    """A list of ``count`` entries, of 64 bytes each in the file and ten times that in memory."""
    each = b"PK\x01\x02" + b"\0" * 24 + struct.pack("<HHH", 18, 0, 0) + b"\0" * 12 + b"a/data/00000000000"
    listed = each * count
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65535, 65535, len(listed), 4, 0)
    return b"PK\x03\x04" + listed + end


def many_entries_said_twice(count: int) -> bytes:
    """The same in the form for large archives, whose usual end claims a short list."""
    contents = many_entries(count)
    start, listed = contents[:4], contents[4:-22]
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(listed), 4)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 4 + len(listed), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, 64, 4, 0)
    return start + listed + record + locator + end


def large_form() -> bytes:
    """An archive in the form for large ones, here for its number of entries."""
    return archive(mapping(b"K\x01"), *((f"a/data/{number}", b"") for number in range(66_000)))


def stored_again(times: int) -> bytes:
    """Operations of a pickle that note the last object under so many numbers."""
    made = np.empty(times, [("operation", "S1"), ("number", "<u4")])
    made["operation"], made["number"] = b"r", np.arange(times)
    return made.tobytes()


def flipped() -> bytes:
    """A file with one bit of one weight changed on the way."""
    numbers = torch.arange(1000.0)
    contents = bytearray(saved({"w": numbers}))
    contents[contents.index(numbers.numpy().tobytes()) + 999] ^= 1
    return bytes(contents)


def whole_model() -> bytes:
    return saved(architectures.build("tanh-mlp"))


def torchscript() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    return file.getvalue()


def quantised() -> bytes:
    return saved({"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)})


DAMAGED = "damaged or incomplete"
MORE = "contains more than tensors, so it was not loaded and nothing in it was executed"
MANY = "holds too many entries for a state dict"
MEMORY = "of memory to be read, the limit for a file of its size"
TIME = "s to be read, the limit for a file of its size"
ODD = "is an archive with entries that torch.save does not write"

MALFORMED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    # Whole files.
    "empty": ("a.ckpt", lambda: b"", "is an empty file"),
    "half": ("a.bin", lambda: saved({"w": torch.zeros(9999)})[:20_000], DAMAGED),
    "half of an old one": (
        "a.pt",
        lambda: saved({"w": torch.zeros(9999)}, _use_new_zipfile_serialization=False)[:20_000],
        DAMAGED,
    ),
    "half of a safetensors": (
        "a.safetensors",
        lambda: safe(described(w=entry([2], 0, 8)), b"\0" * 4),
        DAMAGED,
    ),
    "changed on the way": ("a.pt", flipped, DAMAGED),
    "a web page": ("a.bin", lambda: b"<!doctype html><html>Not found</html>", DAMAGED),
    "a whole model": ("a.pt", whole_model, MORE),
    "a program": ("a.pt", torchscript, "is a TorchScript program"),
    # Not weights.
    "NaN": ("a.pt", lambda: saved({"w": torch.tensor([0, torch.nan])}), "holds NaN or infinite values"),
    "infinite in half precision": (
        "a.safetensors",
        lambda: safe(described(w=entry([1], 0, 2, "F16")), b"\x00\x7c"),
        "holds NaN or infinite values",
    ),
    "no entries": (
        "a.pt",
        lambda: saved({"w": torch.zeros(0, 3)}),
        "The tensor 'w' in 'a.pt' has no entries",
    ),
    "sparse": (
        "a.pt",
        lambda: saved({"w": torch.eye(3).to_sparse()}),
        "is sparse, not a dense array of numbers",
    ),
    "quantised": ("a.pt", quantised, "The weights in 'a.pt' are quantised ('w')"),
    "meta": ("a.pt", lambda: saved({"w": torch.zeros(3, device="meta")}), "is without numbers (on the meta"),
    "nested": (
        "a.pt",
        lambda: saved({"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}),
        "is nested, not a dense array of numbers",
    ),
    "complex": ("a.pt", lambda: saved({"w": torch.zeros(3, dtype=torch.complex64)}), "is complex"),
    "numbers as names": ("a.pt", lambda: saved({3: torch.zeros(3)}), "its entry '3' has a number where"),
    "tuples as names": ("a.pt", lambda: saved({(1, 2): torch.zeros(3)}), "whose names are no text"),
    "an object array": (
        "a.pt",
        lambda: saved({"w": __import__("numpy").array([object()])}),
        "has a Python object",
    ),
    "an array": (
        "a.pt",
        lambda: saved({"w": __import__("numpy").ones(3)}),
        "its entry 'w' has a Python object",
    ),
    "a list": ("a.pt", lambda: saved([torch.zeros(3)]), "holds a list, not a state dict"),
    "no dictionary at all": (
        "a.pt",
        lambda: archive(PROTO + b"N" + STOP),
        "holds a NoneType, not a state dict",
    ),
    "names that go on": (
        "a.pt",
        lambda: saved({"x" * 10**6 + "\n": 3}),
        "its entry '" + "x" * 80 + "' has a int",
    ),
    "too few numbers": ("a.pt", lambda: archive(mapping(tensor(9, b"K\x09\x85")), NUMBERS), DAMAGED),
    "no numbers": ("a.pt", lambda: archive(mapping(tensor(8, b"K\x08\x85"))), DAMAGED),
    "more numbers than fit": ("a.pt", lambda: archive(mapping(tensor(8, LARGE + b"\x85")), NUMBERS), DAMAGED),
    "negative sizes": ("a.pt", lambda: archive(mapping(tensor(-8, b"K\x08\x85")), NUMBERS), DAMAGED),
    # Archives.
    "a compressed bomb": (
        "a.pt",
        lambda: archive(
            mapping(tensor(2**22, LARGE + b"\x85")),
            ("a/data/0", b"\0" * 2**24),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "unpacks to more than its own size",
    ),
    "overlapping entries": ("a.pt", overlapping, "unpacks to more than its own size"),
    "a huge declared size": ("a.pt", huge_declared, "unpacks to more than its own size"),
    "many entries": ("a.pt", lambda: many_entries(600_000), MANY),
    "many entries said twice": ("a.pt", lambda: many_entries_said_twice(600_000), MANY),
    "a large archive": ("a.pt", large_form, "its entry 'w' has a int"),
    "a link": ("a.pt", lambda: archive(mapping(b"K\x01"), link()), f"{ODD}, such as 'a/data/1'"),
    "a way out": ("a.pt", lambda: archive(mapping(b"K\x01"), ("a/../../x", b"")), ODD),
    "an absolute path": ("a.pt", lambda: archive(mapping(b"K\x01"), ("/etc/x", b"")), ODD),
    "two roots": ("a.pt", lambda: archive(mapping(b"K\x01"), ("b/data.pkl", b"")), ODD),
    "no pickle": ("a.pt", lambda: archive(b"").replace(b"a/data.pkl", b"a/data.pkX"), DAMAGED),
    # Safetensors.
    "a huge header": ("a.safetensors", lambda: safe(b"{}", length=2**63), DAMAGED),
    "a header longer than the file": ("a.safetensors", lambda: safe(b"{}", length=10**6), DAMAGED),
    "a deep header": ("a.safetensors", lambda: safe(b'{"a":' * 100_000), DAMAGED),
    "a header of lists": ("a.safetensors", lambda: safe(b"[" * 10**6), DAMAGED),
    "overlapping tensors": (
        "a.safetensors",
        lambda: safe(described(a=entry([2], 0, 8), b=entry([2], 4, 12)), b"\0" * 12),
        DAMAGED,
    ),
    "negative offsets": ("a.safetensors", lambda: safe(described(a=entry([2], -8, 0)), b"\0" * 8), DAMAGED),
    "offsets in reverse": ("a.safetensors", lambda: safe(described(a=entry([2], 8, 0)), b"\0" * 8), DAMAGED),
    "sizes that overflow": (
        "a.safetensors",
        lambda: safe(described(a=entry([2**33, 2**33], 0, 8)), b"\0" * 8),
        DAMAGED,
    ),
    "an unknown number type": (
        "a.safetensors",
        lambda: safe(described(a=entry([2], 0, 8, "F7")), b"\0" * 8),
        DAMAGED,
    ),
    # Pickles that ask for too much.
    "deep containers": ("a.pt", lambda: archive(mapping(deep(500_000))), "its entry 'w' has a tuple"),
    "deeper containers": ("a.pt", lambda: archive(mapping(deep(5_000_000))), "its entry 'w' has a tuple"),
    "deepest containers": ("a.pt", lambda: archive(mapping(deep(30_000_000))), MEMORY),
    "deep keys": ("a.pt", lambda: archive(mapping(b"N", key=deep(500_000))), DAMAGED),
    "keys that hash for years": (
        "a.pt",
        lambda: archive(mapping(b"N", key=wide_tuple(200))),
        TIME,
    ),
    "values that print for years": (
        "a.pt",
        lambda: archive(mapping(wide_tuple(200))),
        "its entry 'w' has a tuple",
    ),
    "keys that collide": ("a.pt", lambda: archive(colliding(100_000)), TIME),
    "a set of such": (
        "a.pt",
        lambda: archive(mapping(called(name("__builtin__", "set"), b"](" + wide_tuple(200) + b"e"))),
        TIME,
    ),
    "many sets": ("a.pt", lambda: archive(mapping(b"(" + b"\x8f" * 20_000_000 + b"t")), MEMORY),
    "many dictionaries": ("a.pt", lambda: archive(mapping(b"(" + b"}" * 20_000_000 + b"t")), MEMORY),
    "a growing memo": (
        "a.pt",
        lambda: archive(PROTO + b"N" + stored_again(2_000_000)),
        DAMAGED,
    ),
    "a memo far away": (
        "a.pt",
        lambda: archive(mapping(b"Nr\xff\xff\xff\xff")),
        MEMORY,
    ),
    "copies of copies": (
        "a.pt",
        lambda: archive(
            PROTO
            + b"}q\x00("
            + b"".join(text(str(n)) + b"N" for n in range(100_000))
            + b"u("
            + (name("collections", "Counter") + b"q\x01h\x00\x85R")
            + b"h\x01h\x00\x85R" * 10_000
            + b"t"
            + STOP
        ),
        MEMORY,
    ),
    "zeros without end": (
        "a.pt",
        lambda: archive(mapping(called(name("builtins", "bytearray"), LARGE))),
        MEMORY,
    ),
    "a codec that doubles": ("a.pt", lambda: archive(mapping(doubled(40))), DAMAGED),
    "an empty tensor of any size": (
        "a.pt",
        lambda: archive(mapping(called(name("torch", "FloatTensor"), LARGE))),
        MORE,
    ),
    "a storage of any size": (
        "a.pt",
        lambda: archive(mapping(called(name("torch.storage", "UntypedStorage"), LARGE))),
        DAMAGED,
    ),
    "a conversion of any size": (
        "a.pt",
        lambda: archive(
            mapping(
                called(
                    name("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"), LARGE, b"N", b"N", b"N"
                )
            )
        ),
        DAMAGED,
    ),
    "a huge string": ("a.pt", lambda: archive(mapping(b"X\xff\xff\xff\xffabc")), DAMAGED),
    "a huge number": ("a.pt", lambda: archive(mapping(b"\x8b\xff\xff\xff\x7fabc")), DAMAGED),
    "a number in digits": ("a.pt", lambda: archive(mapping(b"L" + b"9" * 10**6 + b"L\n")), DAMAGED),
    "an empty stack": ("a.pt", lambda: archive(PROTO + b"R" + STOP), DAMAGED),
    "an old file of any size": (
        "a.pt",
        lambda: saved({"w": torch.zeros(300)}, _use_new_zipfile_serialization=False).replace(
            b"M,\x01", b"J\xff\xff\xff\x7f"[:3], 1
        ),
        DAMAGED,
    ),
    # Attributes that would break who reads them.
    "methods that are none": (
        "a.pt",
        lambda: archive(PROTO + ORDERED + b"}" + text("items") + b"K\x01sb" + STOP),
        "holds no tensors",
    ),
    "a tensor with a state": (
        "a.pt",
        lambda: archive(mapping(tensor(8, b"K\x08\x85") + b"}b"), NUMBERS),
        DAMAGED,
    ),
}


# These are read in one process, which must not grow by more than a small good file lets it grow.
BOMBS = (
    "a compressed bomb",
    "overlapping entries",
    "a huge declared size",
    "many entries",
    "many entries said twice",
    "a huge header",
    "a deep header",
    "deep containers",
    "deeper containers",
    "deepest containers",
    "deep keys",
    "many sets",
    "many dictionaries",
    "a growing memo",
    "copies of copies",
    "zeros without end",
    "a codec that doubles",
    "an empty tensor of any size",
    "a storage of any size",
    "a conversion of any size",
    "more numbers than fit",
)


def assert_one_sentence(case: str, sentence: str) -> None:
    assert MALFORMED[case][2] in sentence
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 400


@pytest.mark.parametrize("case", [case for case in MALFORMED if case not in BOMBS])
def test_a_malformed_file_gets_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filename, make, reason = MALFORMED[case]
    # What takes for ever is to take no longer.
    monkeypatch.setenv("SEIGH_READING_SECONDS", "0.5" if reason is TIME else "2")
    path = tmp_path / filename
    path.write_bytes(make())
    started = time.process_time()
    with pytest.raises(CheckpointError) as refused:
        read(path)
    assert_one_sentence(case, str(refused.value))
    assert time.process_time() - started < 30
    assert list(tmp_path.iterdir()) == [path]


def test_memory_stays_bounded_and_a_bomb_gets_one_sentence(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    torch.save({"w": torch.zeros(3)}, good)
    script = (
        "import resource, sys, time; from pathlib import Path; from seigh.core.problems import checkpoints\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "checkpoints.read(Path(sys.argv[1])); before = peak()\n"
        "for file in sys.argv[2:]:\n"
        "    said, started = '', time.process_time()\n"
        "    try: checkpoints.read(Path(file))\n"
        "    except checkpoints.CheckpointError as error: said = str(error)\n"
        "    print(peak() - before, time.process_time() - started, said)\n"
    )
    files = []
    for number, case in enumerate(BOMBS):
        filename, make, _ = MALFORMED[case]
        (tmp_path / str(number)).mkdir()
        files.append(tmp_path / str(number) / filename)
        files[-1].write_bytes(make())
    # The address space is limited too: memory that is asked for and never touched would not show otherwise.
    limit = 24 * 2**30
    printed = subprocess.run(
        [sys.executable, "-c", script, good, *files],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        env=os.environ | {"SEIGH_READING_SECONDS": "2"},
    )
    lines = [line.split(" ", 2) for line in printed.stdout.splitlines()]
    for case, (_, seconds, sentence) in zip(BOMBS, lines, strict=True):
        assert_one_sentence(case, sentence)
        assert float(seconds) < 30
    assert all(list(file.parent.iterdir()) == [file] for file in files)
    growth = {case: int(line[0]) for case, line in zip(BOMBS, lines, strict=True)}
    assert max(growth.values()) < 100 * 1024, growth  # KiB on Linux


# --- Code -------------------------------------------------------------------------------------------------


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def disguises(command: str) -> dict[str, bytes]:
    """Pickles that look like the harmless classes and mean to run a command."""
    system, quoted = name("posix", "system"), text(command)
    evaluated = text(f"__import__('os').system({command!r})")
    namespace = name("argparse", "Namespace") + b")\x81"
    return {
        "a namespace's state": namespace + b"}" + text("__class__") + system + b"sb",
        "a namespace's setstate": namespace + b"}" + text("__setstate__") + system + b"sb" + quoted + b"b",
        "an attribute of a namespace": called(name("argparse", "Namespace.__init__.__globals__"), quoted),
        "a module of a module": called(name("argparse", "_os.system"), quoted),
        "a name with a space": called(name("argparse Namespace", "x"), quoted),
        "a path of a path": called(name("pathlib", "os.system"), quoted),
        "a factory": called(name("collections", "defaultdict"), system),
        "getattr": called(name("builtins", "getattr"), name("pathlib", "Path"), text("home")),
        "eval": called(name("__builtin__", "eval"), evaluated),
        "a compiled one": called(name("numpy.core.multiarray", "frombuffer"), quoted),
        "numpy's loader": called(name("numpy", "load"), quoted),
        "a result that is called": called(called(name("argparse", "Namespace")), quoted),
        "a string that is called": called(text("posix.system"), quoted),
        "torch's own": called(name("torch.hub", "load"), quoted, text("x")),
        "a hook": called(name("torch._utils", "_rebuild_parameter_with_state"), b"N", b"N", b"N", b"}"),
        "a type": called(
            name("torch._tensor", "_rebuild_from_type_v2"), system, b"N", quoted + b"\x85", b"N"
        ),
        "an omegaconf node": name("omegaconf.nodes", "AnyNode") + b")\x81}" + text("_val") + system + b"sb",
        "after the class": name("argparse", "Namespace") + b"0" + called(system, quoted),
    }


@pytest.mark.parametrize("disguise", disguises(""))
@pytest.mark.parametrize("form", ["zip", "old"])
def test_code_is_refused_and_not_run_whatever_it_dresses_up_as(
    disguise: str, form: str, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    pickled = mapping(disguises(f"touch {marker}")[disguise])
    if form == "zip":
        contents = archive(pickled)
    else:
        empty = saved({}, _use_new_zipfile_serialization=False)
        contents = empty.replace(pickle.dumps({}, 2), pickled, 1)
        assert pickled in contents
    (tmp_path / "evil.pt").write_bytes(contents)
    with pytest.raises(CheckpointError):
        read(tmp_path / "evil.pt")
    assert not marker.exists()


def test_the_weapons_are_sharp(tmp_path: Path) -> None:
    """Without precautions some of them do run, in the pickle protocols that know their names."""
    marker = tmp_path / "executed"
    for disguise, protocol in (("eval", 2), ("a module of a module", 4)):
        pickle.loads(b"\x80" + bytes([protocol]) + disguises(f"touch {marker}")[disguise] + STOP)
        assert marker.exists()
        marker.unlink()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_a_namespace_is_refused_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save(
        {"w": torch.zeros(3), "args": Runs(marker)}, tmp_path / "a.ckpt", pickle_protocol=max(protocol, 2)
    )
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps({"args": Runs(marker)}, protocol))
    for file in ("a.ckpt", "b.ckpt"):
        with pytest.raises(CheckpointError, match="nothing in it was executed"):
            read(tmp_path / file)
    assert not marker.exists()


# --- Anything at all --------------------------------------------------------------------------------------


def good_files() -> list[tuple[str, bytes]]:
    torch.manual_seed(0)
    state = {"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4).half(), "n": torch.tensor(3)}
    contents = {"model": state, "epoch": 3, "args": __import__("argparse").Namespace(lr=0.1)}
    return [
        ("a.pt", saved(contents)),
        ("a.ckpt", saved(contents, _use_new_zipfile_serialization=False)),
        ("a.safetensors", safetensors.torch.save(state, {"step": "3"})),
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(good_files()),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(-200, 0),
)
def test_changed_bytes_give_a_checkpoint_or_a_sentence(
    file: tuple[str, bytes], changes: list[tuple[int, int]], cut: int
) -> None:
    filename, contents = file[0], bytearray(file[1])
    for position, value in changes:
        contents[position % len(contents)] = value
    del contents[len(contents) + min(cut + 150, 0) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / filename
        path.write_bytes(contents)
        with suppress(CheckpointError):
            assert all(bool(torch.isfinite(each).all()) for each in read(path).state.values())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["zip", "safetensors"]))
def test_any_pickle_and_any_header_give_a_checkpoint_or_a_sentence(contents: bytes, form: str) -> None:
    made = archive(PROTO + contents) if form == "zip" else safe(contents)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.pt" if form == "zip" else "a.safetensors")
        path.write_bytes(made)
        with pytest.raises(CheckpointError):
            read(path)
