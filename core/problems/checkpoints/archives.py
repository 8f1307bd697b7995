"""The zip archives that ``torch.save`` writes, looked through before they are loaded."""

from __future__ import annotations

import stat
import zipfile
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from core.problems.checkpoints.checkpoint import LARGEST_STRUCTURE, CheckpointError, damaged, shown

_END, _END_SIZE, _LONGEST_COMMENT = b"PK\x05\x06", 22, 2**16
_END_64, _END_SIZE_64 = b"PK\x06\x06", 76  # a record and what points at it
_BLOCK = 2**20


def check(path: Path, name: str, size: int) -> dict[str, int]:
    """Refuse programs, archives that unpack to more than they weigh, and those torch.save never writes.

    Returns:
        The bytes of numbers by the key of their storage.

    Raises:
        CheckpointError: If the archive cannot be loaded in memory of its own size, or is damaged.
    """
    try:
        with path.open("rb") as file:
            _check_directory(file, name, size)
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                _check_entries(entries, name, size)
                _check_sums(archive, entries)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise damaged(name) from error
    parts = [(entry.filename.split("/"), entry.file_size) for entry in entries]
    return {part[2]: length for part, length in parts if len(part) == 3 and part[1] == "data"}


def _check_directory(file: BinaryIO, name: str, size: int) -> None:
    """The list of entries is read into memory whole, several times its size: no longer than it need be."""
    file.seek(max(0, size - _END_SIZE - _LONGEST_COMMENT - _END_SIZE_64))
    tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_SIZE:
        raise zipfile.BadZipFile
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    # Archives of more than 4 GiB say it once more in front of that, and then this counts.
    record = tail[max(0, end - _END_SIZE_64) : end]
    if record.startswith(_END_64):
        length = int.from_bytes(record[40:48], "little")
    if length > LARGEST_STRUCTURE:
        raise CheckpointError(
            f"'{name}' holds too many entries for a state dict; save model.state_dict() alone."
        )


def _check_entries(entries: list[zipfile.ZipInfo], name: str, size: int) -> None:
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise CheckpointError(
            f"'{name}' is a TorchScript program, which contains code; save model.state_dict() instead."
        )
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"'{name}' is a compressed archive that unpacks to more than its own size; "
            "save the state dict with torch.save, which does not compress."
        )
    roots = {PurePosixPath(entry.filename).parts[:1] for entry in entries}
    odd = [entry.filename for entry in entries if _is_odd(entry)]
    if odd or len(roots) != 1 or len({entry.filename for entry in entries}) < len(entries):
        which = f", such as '{shown(odd[0])}'" if odd else ""
        raise CheckpointError(
            f"'{name}' is an archive with entries that torch.save does not write{which}; "
            "save the state dict with torch.save."
        )
    if any(e.filename.endswith("data.pkl") and e.file_size > LARGEST_STRUCTURE for e in entries):
        raise CheckpointError(
            f"'{name}' holds too many entries for a state dict; save model.state_dict() alone."
        )
    by_place = sorted(entries, key=lambda entry: entry.header_offset)
    if any(a.header_offset + a.compress_size > b.header_offset for a, b in pairwise(by_place)):
        raise zipfile.BadZipFile("entries overlap")


def _is_odd(entry: zipfile.ZipInfo) -> bool:
    """Whether the entry is a link, a folder or encrypted, or its name leads out of the archive."""
    parts = entry.filename.split("/")
    return (
        stat.S_ISLNK(entry.external_attr >> 16)
        or bool(entry.flag_bits & 1)
        or len(parts) < 2
        or not {"", ".", ".."}.isdisjoint(parts)
        or "\\" in entry.filename
    )


def _check_sums(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    """Compare every entry with its checksum, which torch.load does not; 0 is written where none was made."""
    for entry in entries:
        if entry.CRC != 0:
            with archive.open(entry) as file:
                while file.read(_BLOCK):
                    pass
