"""The zip archives that ``torch.save`` writes, read by one parser: what is checked is what is loaded."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, BinaryIO

from seigh.core.reading.packing import Storage
from seigh.core.reading.words import LARGEST_STRUCTURE, Refusal, damaged, shown, too_many

# Of a local header: signature, …, flags, compression, …, lengths of the name and of what stands behind it.
_LOCAL = struct.Struct("<4s2xHH16xHH")


class Archive:
    """An archive as ``torch.save`` writes it, every entry of it compared with its checksum.

    Args:
        file: The open file.
        whole: Its bytes.
        name: The file's name, for errors.

    Raises:
        Refusal: If it is a program, unpacks to more than it weighs, has entries that torch.save never writes,
            is damaged, or can be understood in two ways.
    """

    def __init__(self, file: BinaryIO, whole: memoryview, name: str) -> None:
        self._whole, self._name = whole, name
        self._records: dict[str, Storage] = {}
        try:
            _check_directory(file, name)
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                _check_entries(entries, name, len(whole))
                for entry in entries:
                    record = self._record(entry, archive)
                    # 0 is written where no checksum was made.
                    if entry.CRC and zlib.crc32(record.buffer) != entry.CRC:
                        raise zipfile.BadZipFile("a checksum differs")
                    self._records[entry.filename.partition("/")[2]] = record
        except (Refusal, MemoryError):
            raise
        except Exception as error:  # the parser meets arbitrary bytes here
            raise damaged(name) from error
        self._swapped = bytes(self._records["byteorder"].buffer) == b"big" if self.has("byteorder") else False

    def has(self, record: str) -> bool:
        return record in self._records

    def content(self, record: str) -> memoryview:
        """The bytes of a record that is there."""
        return self._records[record].buffer

    def storage_of(self, record: str) -> Storage:
        """A record as numbers.

        Raises:
            KeyError: If it is not there.
        """
        found = self._records[record]
        found.swapped = self._swapped
        return found

    def pickled(self) -> bytes:
        """The pickle.

        Raises:
            Refusal: If there is none.
        """
        if not self.has("data.pkl"):
            raise damaged(self._name)
        return bytes(self._records["data.pkl"].buffer)

    def storage(self, key: str, nbytes: int) -> Storage:
        """The storage of a key.

        Raises:
            Refusal: If it is not there, or has not exactly so many bytes.
        """
        record = self._records.get(f"data/{key}")
        if record is None and not nbytes:
            return Storage(memoryview(b""))
        if record is None or len(record.buffer) != nbytes:
            raise damaged(self._name)
        record.swapped = self._swapped
        return record

    def _record(self, entry: zipfile.ZipInfo, archive: zipfile.ZipFile) -> Storage:
        """The bytes of an entry: those in the file itself, unless they are compressed."""
        start = entry.header_offset
        signature, _, method, name_length, more = _LOCAL.unpack_from(self._whole, start)
        named = bytes(self._whole[start + _LOCAL.size : start + _LOCAL.size + name_length])
        if signature != b"PK\x03\x04" or method != entry.compress_type or named != _raw_name(entry):
            raise zipfile.BadZipFile("an entry is not what the directory says")
        if entry.compress_type != zipfile.ZIP_STORED:
            return Storage(memoryview(archive.read(entry)))
        place = start + _LOCAL.size + name_length + more
        content = self._whole[place : place + entry.file_size]
        if len(content) != entry.file_size or entry.file_size != entry.compress_size:
            raise zipfile.BadZipFile("an entry has another length than the directory says")
        return Storage(content, place)


def _raw_name(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")


def directory_bytes(file: BinaryIO) -> int | None:
    """How long the list of a ZIP archive's entries is, as the archive says; None if it is none."""
    end = _end_of(file)
    return int(end[zipfile._ECD_SIZE]) if end else None  # type: ignore[attr-defined]


def _end_of(file: BinaryIO) -> Sequence[Any] | None:
    """The record at the end of an archive, as ZipFile itself finds it."""
    found: Sequence[Any] | None = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    return found


def _check_directory(file: BinaryIO, name: str) -> None:
    """The list of entries is read into memory whole, several times its size: no longer than it need be.

    It is where the archive says, and nowhere else: parsers differ in which of two they take.
    """
    end = _end_of(file)
    if not end:
        raise zipfile.BadZipFile
    size, offset, location = (
        end[getattr(zipfile, field)] for field in ("_ECD_SIZE", "_ECD_OFFSET", "_ECD_LOCATION")
    )
    if size > LARGEST_STRUCTURE:
        raise too_many(name)
    if end[zipfile._ECD_SIGNATURE] == zipfile.stringEndArchive64:  # type: ignore[attr-defined]
        location -= zipfile.sizeEndCentDir64 + zipfile.sizeEndCentDir64Locator  # type: ignore[attr-defined]
    if offset + size != location:
        raise Refusal(
            f"'{name}' is an archive whose list of entries can be understood in two ways; "
            "save the state dict with torch.save."
        )


def _check_entries(entries: list[zipfile.ZipInfo], name: str, size: int) -> None:
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise Refusal(
            f"'{name}' is a TorchScript program, which contains code; if you trust it, convert it with "
            "torch.save(torch.jit.load(file).state_dict(), 'new.pt')."
        )
    if sum(entry.file_size for entry in entries) > size:
        raise Refusal(
            f"'{name}' is a compressed archive that unpacks to more than its own size; "
            "save the state dict with torch.save, which does not compress."
        )
    roots = {entry.filename.partition("/")[0] for entry in entries}
    odd = [entry.filename for entry in entries if _is_odd(entry)]
    if odd or len(roots) != 1 or len({entry.filename for entry in entries}) < len(entries):
        which = f", such as '{shown(odd[0])}'" if odd else ""
        raise Refusal(
            f"'{name}' is an archive with entries that torch.save does not write{which}; "
            "save the state dict with torch.save."
        )
    if any(e.filename.endswith("data.pkl") and e.file_size > LARGEST_STRUCTURE for e in entries):
        raise too_many(name)
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
