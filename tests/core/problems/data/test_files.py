import hashlib
import io
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seigh.core.problems import data
from seigh.core.problems.data import DataError
from seigh.core.settings import Settings
from tests.hostile import npz_of_zeros

X = np.random.default_rng(0).random((6, 1, 16, 16))
Y = np.arange(6)


# --- Files that are read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npz", "compressed npz", "safetensors"])
def test_a_users_file_is_read_the_same_by_path_and_by_hash(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("mine.safetensors" if form == "safetensors" else "mine.npz")
    if form == "safetensors":
        safetensors.torch.save_file({"x": torch.tensor(X), "y": torch.tensor(Y, dtype=torch.int32)}, path)
    elif form == "npz":
        np.savez(path, x=X, y=Y.astype(np.uint8))
    else:
        np.savez_compressed(path, x=X.astype(np.float16), y=Y, extra=np.zeros(3))
    for split in ("train", "test"):
        loaded = data.load(str(path), split)
        np.testing.assert_allclose(loaded.x.numpy(), X, atol=1e-3)
        assert loaded.x.dtype == (torch.float32 if form == "compressed npz" else torch.float64)
        assert loaded.y.tolist() == Y.tolist()
        assert loaded.name == path.name
        assert not loaded.synthetic

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    env = Settings(artifacts=tmp_path / "artifacts")
    stored = env.artifact_folder / "data" / f"{digest}{path.suffix}"
    stored.parent.mkdir(parents=True)
    path.rename(stored)
    by_hash = data.load(f"sha256:{digest}", "test", env=env)
    assert torch.equal(by_hash.x, loaded.x)
    assert torch.equal(by_hash.y, loaded.y)
    with pytest.raises(DataError, match="not in the artefact store"):
        data.load(f"sha256:{digest}", "test", env=Settings(artifacts=tmp_path))


@pytest.mark.parametrize(
    "unusual",
    [
        np.asfortranarray,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: array[::-1].copy()[::-1],
        lambda array: np.repeat(array, 2, axis=0)[::2],
    ],
    ids=["Fortran order", "big-endian", "reversed", "strided"],
)
def test_the_order_of_bytes_and_axes_does_not_matter(
    unusual: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", x=unusual(X), y=unusual(Y))
    loaded = data.load(str(tmp_path / "a.npz"), "test")
    np.testing.assert_allclose(loaded.x.numpy(), X, rtol=1e-6)
    assert loaded.y.tolist() == Y.tolist()
    assert loaded.x.is_contiguous()


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (np.linspace(-1, 1, 6), torch.float64),
        (np.linspace(-1, 1, 6, dtype=np.float32), torch.float32),
        (np.linspace(-1, 1, 36).reshape(6, 2, 3).astype(np.float16), torch.float32),
        (np.eye(6) > 0, torch.int64),
        (np.full((6, 4, 4), -100, dtype=np.int16), torch.int64),
        (np.full((6, 1), 255, dtype=np.uint8), torch.int64),
    ],
    ids=["doubles", "numbers", "arrays", "flags", "positions", "column"],
)
def test_targets_of_every_shape_are_read_as_they_are(
    form: str, y: np.ndarray, expected: torch.dtype, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{form}"
    if form == "npz":
        np.savez(path, x=X, y=y)
    else:
        safetensors.torch.save_file({"x": torch.tensor(X), "y": torch.tensor(y)}, path)
    loaded = data.load(str(path), "test")
    assert loaded.y.dtype == expected
    assert torch.equal(loaded.y, torch.tensor(y).to(expected))
    np.testing.assert_allclose(loaded.x.numpy(), X, atol=1e-6)


# --- Arrays that are refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": X}, "has no y"),
        ({"a": X, "b": Y}, r"has no x and no y \(it holds a, b\)"),
        ({}, r"has no x and no y \(it holds nothing\)"),
        ({"x": X, "y": Y[:5]}, "6 samples in x and 5 targets in y"),
        ({"x": (X * 255).astype(np.uint8), "y": Y}, r"images of bytes \(uint8\); scale them .* x / 255"),
        ({"x": X.astype(int), "y": Y}, "x in 'a.npz' is int64; save it as floating-point"),
        ({"x": X.astype(complex), "y": Y}, "x in 'a.npz' is complex128"),
        ({"x": X > 0.5, "y": Y}, "x in 'a.npz' is bool"),
        ({"x": X.astype(np.longdouble), "y": Y}, "holds unusual numbers"),
        ({"x": X, "y": Y.astype(complex)}, "y in 'a.npz' is complex128; save labels as integers"),
        ({"x": X, "y": np.where(Y > 2, np.nan, Y)}, "y in 'a.npz' holds NaN"),
        ({"x": X, "y": np.full(6, 1e300)}, "y in 'a.npz' holds NaN or infinite"),
        ({"x": X, "y": np.zeros((6, 0))}, "holds no samples"),
        ({"x": X[:0], "y": Y[:0]}, "holds no samples"),
        ({"x": X[:, :, :0], "y": Y}, "holds no samples"),
        ({"x": X[:, 0, 0, 0], "y": Y}, r"x in 'a.npz' has shape \(6,\)"),
        ({"x": X[0, 0, 0, 0], "y": Y[0]}, r"x in 'a.npz' has shape \(\) and y \(\)"),
        ({"x": np.where(X > 0.9, np.nan, X), "y": Y}, "holds NaN"),
        ({"x": np.where(X > 0.9, -np.inf, X), "y": Y}, "holds NaN or infinite"),
        ({"x": X * 1e300, "y": Y}, "holds NaN or infinite"),
        ({"x": X.astype(object), "y": Y}, "holds Python objects, which are not loaded"),
        ({"x": X, "y": Y.astype(object)}, "holds Python objects"),
        ({"x": np.zeros(6, dtype=[("a", float), ("b", object)]), "y": Y}, "holds Python objects"),
        ({"x": X, "y": np.array(["a"] * 6)}, "holds text"),
        ({"x": X, "y": np.array([b"a"] * 6)}, "holds text"),
        ({"x": X, "y": np.zeros(6, dtype=[("a", int)])}, "holds text, records"),
        ({"x": X, "y": np.zeros(6, dtype="datetime64[s]")}, "or dates"),
    ],
)
def test_unusable_arrays_are_refused(arrays: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=reason) as refused:
        data.load(str(tmp_path / "a.npz"), "test")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"x": torch.zeros(3, 4)}, "has no y"),
        ({"x": torch.zeros(3, 4, dtype=torch.uint8), "y": torch.zeros(3, dtype=torch.int64)}, "uint8"),
        ({"x": torch.zeros(0, 4), "y": torch.zeros(0, dtype=torch.int64)}, "holds no samples"),
        ({"x": torch.full((3, 4), torch.nan), "y": torch.zeros(3, dtype=torch.int64)}, "holds NaN"),
    ],
)
def test_unusable_tensors_are_refused(tensors: dict[str, torch.Tensor], reason: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=reason):
        data.load(str(tmp_path / "a.safetensors"), "test")


# --- Files that are damaged, or lie -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    whole = good(suffix)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255  # zip archives have checksums; safetensors do not
    contents = [whole[:1], whole[:10], whole[: len(whole) // 2], whole[:-1], b"hello", b"\xff" * 100]
    contents += [b"PK\x05\x06" + b"\0" * 18] + ([bytes(flipped)] if suffix == ".npz" else [])
    for damaged in contents:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged or incomplete|has no x") as refused:
            data.load(str(path), "test")
        assert "\n" not in str(refused.value)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        data.load(str(path), "test")


def good(suffix: str) -> bytes:
    """A file that can be read."""
    if suffix == ".safetensors":
        return safetensors.torch.save({"x": torch.tensor(X), "y": torch.tensor(Y)})
    file = io.BytesIO()
    np.savez_compressed(file, x=X, y=Y)
    return file.getvalue()


@settings(max_examples=150, deadline=None)
@given(suffix=st.sampled_from([".npz", ".safetensors"]), choices=st.data())
def test_no_damage_has_another_outcome_than_a_sentence(
    suffix: str, choices: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    contents = bytearray(good(suffix))
    for _ in range(choices.draw(st.integers(1, 4))):
        contents[choices.draw(st.integers(0, len(contents) - 1))] = choices.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    path.write_bytes(contents)
    try:
        loaded = data.load(str(path), "test")
    except DataError:
        return
    assert torch.isfinite(loaded.x).all()
    assert len(loaded.x) == len(loaded.y) > 0


def npy(shape: tuple[int, ...], numbers: bytes = b"\0" * 64) -> bytes:
    """A .npy file that claims a shape of float32."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + numbers


def archive(
    path: Path, x: bytes, *, method: int = zipfile.ZIP_DEFLATED, more: int = 0, mode: int = stat.S_IFREG
) -> None:
    """An archive with an x.npy of these bytes, a good y.npy and further entries."""
    with zipfile.ZipFile(path, "w") as file:
        entry = zipfile.ZipInfo("x.npy")
        entry.compress_type, entry.external_attr = method, (mode | 0o644) << 16
        file.writestr(entry, x)
        labels = io.BytesIO()
        np.save(labels, Y)
        file.writestr("y.npy", labels.getvalue())
        for number in range(more):
            file.writestr(f"{number}.npy", b"")


def zeros(path: Path, header: bytes, gibibytes: int) -> None:
    """An archive whose x.npy is this header and so many GiB of zeros, in a thousandth of the space."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = compressor.compress(header) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(2**24)) + compressor.flush(zlib.Z_FULL_FLUSH)
    body = start + block * (64 * gibibytes) + compressor.flush()
    archive(path, b"")
    with zipfile.ZipFile(path, "a") as file:
        entry = zipfile.ZipInfo("x.npy")
        entry.compress_type = zipfile.ZIP_STORED
        file.writestr(entry, body)
    # Stored bytes become deflated ones by what the list of entries says of the last of them.
    contents = bytearray(path.read_bytes())
    size = len(header) + gibibytes * 2**30
    local, listed = contents.rindex(b"PK\3\4"), contents.rindex(b"PK\1\2")
    struct.pack_into("<H", contents, local + 8, zipfile.ZIP_DEFLATED)
    struct.pack_into("<I", contents, local + 22, min(size, 2**32 - 2))
    struct.pack_into("<H", contents, listed + 10, zipfile.ZIP_DEFLATED)
    struct.pack_into("<I", contents, listed + 24, min(size, 2**32 - 2))
    path.write_bytes(contents)


def safetensors_with(header: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + b"\0" * 64


LONG_HEADER = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" "
FEW = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
MANY = json.dumps({f"tensor {number}": FEW | {"data_offsets": [0, 16]} for number in range(30_000)}).encode()
LARGE = json.dumps({"x": FEW | {"shape": [10**6, 10**9]}, "y": FEW}).encode()


def written(contents: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(contents)


def archived(x: bytes, **how: int) -> Callable[[Path], object]:
    return lambda path: archive(path, x, **how)


BOMBS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "more claimed than held": (".npz", archived(npy((10**6, 16))), "damaged"),
    "far more claimed": (".npz", archived(npy((10**6, 10**9))), "more than 4 GiB"),
    "5 GiB of zeros": (".npz", lambda path: zeros(path, npy((5, 2**28), b""), 5), "more than 4 GiB"),
    "a long header": (".npz", lambda path: zeros(path, LONG_HEADER, 3), "damaged"),
    "negative shape": (".npz", archived(npy((-4, 4))), "damaged"),
    "bzip2": (".npz", archived(npy((4, 4)), method=zipfile.ZIP_BZIP2), "unusual way"),
    "LZMA": (".npz", archived(npy((4, 4)), method=zipfile.ZIP_LZMA), "unusual way"),
    "many entries": (".npz", archived(npy((4, 4)), more=25_000), "far too many arrays"),
    "a link": (".npz", archived(b"/etc/passwd", mode=stat.S_IFLNK), "is a link, not an array"),
    "text": (".npz", archived(b"x = 1"), "damaged"),
    "a pickle": (".npz", archived(b"\x80\x04]\x94."), "damaged"),
    "many tensors": (".safetensors", written(safetensors_with(MANY)), "far too many arrays"),
    "large tensor": (".safetensors", written(safetensors_with(LARGE)), "damaged"),
    "endless header": (".safetensors", written(safetensors_with(b"{}", 2**63)), "damaged"),
    "deep JSON": (".safetensors", written(safetensors_with(b"[" * 50_000)), "damaged"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_memory(name: str, tmp_path: Path) -> None:
    suffix, write, reason = BOMBS[name]
    path = tmp_path / f"a{suffix}"
    write(path)
    assert path.stat().st_size < 50 * 2**20
    with measured_peak() as grown, pytest.raises(DataError, match=reason) as refused:
        data.load(str(path), "test")
    assert "\n" not in str(refused.value)
    assert grown() < 100 * 2**20


def test_a_large_array_takes_no_memory_until_it_is_looked_at_and_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_of_zeros(64))
    with measured_peak() as grown:
        loaded = [data.load(str(tmp_path / "a.npz"), split) for split in ("test", "train", "test")]
        assert grown() < 30 * 2**20
    assert all(each is loaded[0] for each in loaded)
    assert not loaded[0].take(torch.tensor([0, 16_383])).any()
    x = np.ones((64 * 256, 1024), dtype=np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.zeros(len(x), dtype=int))  # another file of the same name
    assert data.load(str(tmp_path / "a.npz"), "test").x[-1].all()


@contextmanager
def measured_peak() -> Iterator[Callable[[], int]]:
    """Bytes by which this process has become larger, at its largest since the start."""

    def status(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 2**10

    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    yield lambda: status("VmHWM") - before


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return Path.mkdir, (tmp_path / "executed",)

    for arrays in ({"x": np.array([Malicious()]), "y": Y}, {"x": X, "y": np.array([Malicious()] * 6)}):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError, match="could run code"):
            data.load(str(tmp_path / "a.npz"), "test")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "nothing",
            r"no data set 'nothing'; choose digits, mnist, .*random\(3x32x32,classes=10\), a .npz",
        ),
        ("", "no data set ''"),
        ("gone.npz", "no data file 'gone.npz'"),
        ("sha256:../../etc/passwd", "64 hexadecimal digits"),
        ("sha256:" + "0" * 64, "not in the artefact store"),
    ],
)
def test_unknown_data_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason):
        data.load(name, "test", env=Settings(artifacts=tmp_path))
