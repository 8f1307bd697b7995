"""Checkpoint files that people bring: kept on disk, put together where one is in several files, read once."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from seigh.core.lab.leftovers import is_abandoned
from seigh.core.problems import checkpoints
from seigh.core.problems.checkpoints import Bundle, Checkpoint, CheckpointError, Match, Pair, Position

# What a browser may offer for a checkpoint: files of weights, and what belongs to those in several files.
TYPES = (*(suffix.removeprefix(".") for suffix in checkpoints.SUFFIXES), "json", "metadata", "distcp")


@dataclass(frozen=True)
class Part:
    """A file as it was uploaded.

    Attributes:
        id: Tells it from files of the same name.
        name: As the person who brought it calls it.
        path: Where it is kept.
    """

    id: str
    name: str
    path: Path

    @property
    def is_index(self) -> bool:
        return self.name.lower().endswith(checkpoints.INDEX_SUFFIX)

    @property
    def is_one_of_several(self) -> bool:
        return checkpoints.is_one_of_several(self.name)


@dataclass(frozen=True)
class Brought:
    """A checkpoint that somebody brought; not its weights, as there may be many.

    Attributes:
        id: Tells it from others of the same name.
        name: Name of its file, or of what its files were merged to.
        path: Where it is kept.
        refusal: Why it cannot be used at all; the rest is empty then.
        outline: The checkpoint with tensors of the same shapes that take no memory.
        fitting: The architectures that are proposed for it.
        by_order: Those proposed by order and shape of its tensors alone, where their names fit none.
        entry: Which of the weights in it somebody has chosen; empty if nobody has.
    """

    id: str
    name: str
    path: Path
    refusal: str | None = None
    outline: Checkpoint | None = field(default=None, repr=False)
    fitting: tuple[str, ...] = ()
    by_order: tuple[str, ...] = ()
    entry: str = ""

    @property
    def step(self) -> int | None:
        return self.outline.step if self.outline else None

    @property
    def epoch(self) -> int | None:
        return self.outline.epoch if self.outline else None

    @property
    def guess(self) -> int | None:
        return self.outline.guess if self.outline else None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.outline.notes if self.outline else ()

    @property
    def offered(self) -> tuple[str, ...]:
        """The weights that it holds, where there are several, or where it fits nothing as it is."""
        if self.outline is None or self.outline.offered:
            return self.outline.offered if self.outline else ()
        return () if self.fitting else tuple(checkpoints.parts(self.outline))

    def misfit(self, architecture: str, match: Match = "names") -> str | None:
        """Why it cannot be used with an architecture, if it cannot."""
        if self.outline is None:
            return self.refusal
        try:
            checkpoints.check_fits(self.outline, architecture, match)
        except CheckpointError as error:
            return str(error)
        return None

    def pairs(self, architecture: str) -> list[Pair]:
        """Its tensors and the architecture's, matched by their order; none where they cannot be."""
        if self.outline is None:
            return []
        with suppress(CheckpointError):
            return checkpoints.pairs(self.outline, architecture)
        return []


def read(parts: Sequence[Part], folder: Path) -> list[Brought]:
    """Read the checkpoints among files that were brought together, one at a time.

    An index and the files that it names become one checkpoint, and are removed for it; so do the files of a
    distributed one, DeepSpeed's shares, and a LoRA adapter with its base. Archives are taken apart.

    Args:
        parts: What came at once: an index finds its files among them only, as files of other checkpoints
            have the same names.
        folder: Where merged checkpoints are written.
    """
    found = []
    alone = _with_what_is_beside(parts)
    for index in [part for part in parts if part.is_index]:
        names = {index.name, *_named_files(index)}
        together = [part for part in parts if part is index or (part.name in names and not part.is_index)]
        alone = [part for part in alone if part not in together]
        found.append(_read_together(index, together, folder))
    archives = [part for part in alone if part.name.lower().endswith(checkpoints.ARCHIVE)]
    for part in archives:
        inside = _read_archive(part, folder)
        if inside is not None:
            found += inside
            alone.remove(part)
    by_name = {part.name: part for part in alone}
    if len(by_name) == len(alone):
        bundles = checkpoints.gather({name: part.path for name, part in by_name.items()})
        for bundle in [each for each in bundles if each.kind != "file"]:
            paths = {bundle.path, bundle.base, *bundle.files.values()}
            found.append(_read_bundle(bundle, folder / next(p.id for p in alone if p.path == bundle.path)))
            for part in [part for part in alone if part.path in paths]:
                part.path.unlink(missing_ok=True)
                alone.remove(part)
    return [*found, *map(_read, alone)]


def _with_what_is_beside(parts: Sequence[Part]) -> list[Part]:
    """The files without those of a trainer that tell about the weights, which are put beside these."""
    about = {part.name: part for part in parts if part.name in checkpoints.BESIDE}
    weights = [part for part in parts if part.is_index or part.name in checkpoints.NAMED_BY_FOLDER]
    if not about or len(weights) != 1:
        return list(parts)
    checkpoints.keep_beside(weights[0].path, {name: part.path for name, part in about.items()})
    for part in about.values():
        part.path.unlink(missing_ok=True)
    return [part for part in parts if part.name not in about]


def _read_archive(part: Part, folder: Path) -> list[Brought] | None:
    """The checkpoints in an archive, which is removed; None if it is a file of ``torch.save`` itself."""
    own = folder / part.id
    inside = own / "inside"
    inside.mkdir(parents=True, exist_ok=True)
    try:
        files = checkpoints.in_archive(part.path, part.name, inside)
        if not files:
            return None
        bundles = checkpoints.gather(files)
        if not bundles:
            raise checkpoints.nothing_in(part.name)
        found = [_read_bundle(each, own / f"{number}") for number, each in enumerate(bundles)]
    except CheckpointError as error:
        found = [Brought(part.id, part.name, part.path, str(error))]
    finally:
        shutil.rmtree(inside, ignore_errors=True)
    part.path.unlink(missing_ok=True)
    return found


def _read_bundle(bundle: Bundle, folder: Path) -> Brought:
    """Merge the files of one checkpoint, and read it."""
    target = folder / "merged"
    target.mkdir(parents=True, exist_ok=True)
    try:
        path = bundle.merge(target)
    except CheckpointError as error:
        return Brought(uuid.uuid4().hex, bundle.name, bundle.path, str(error))
    if bundle.kind == "file":
        path = bundle.moved(target / bundle.name)
    return _read(Part(uuid.uuid4().hex, bundle.name, path))


def _named_files(index: Part) -> list[str]:
    """The files that an index names; none if it is no index, which is said when they are merged."""
    try:
        return checkpoints.named_files(index.path)
    except CheckpointError:
        return []


def _read_together(index: Part, parts: Sequence[Part], folder: Path) -> Brought:
    """Merge an index and the files that it names, which are removed."""
    name = checkpoints.merged_name(index.name)
    target = folder / index.id / "merged" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shards = {part.name: part.path for part in parts if part is not index}
    try:
        if len(shards) < len(parts) - 1:
            raise CheckpointError(
                f"Several files have the name that '{index.name}' gives to one; bring the files of one "
                "checkpoint at a time."
            )
        checkpoints.merge(index.path, shards, target)
    except CheckpointError as error:
        return Brought(index.id, index.name, index.path, str(error))
    finally:
        for part in parts:
            part.path.unlink(missing_ok=True)
    return _read(Part(index.id, name, target))


def _read(part: Part) -> Brought:
    try:
        if part.is_one_of_several:
            raise CheckpointError(
                f"'{part.name}' is one of several files of a checkpoint; bring all of them at once, together "
                f"with their {checkpoints.INDEX_SUFFIX}."
            )
        return _as_brought(part, "")
    except CheckpointError as error:
        part.path.unlink(missing_ok=True)
        return Brought(part.id, part.name, part.path, str(error))


def _as_brought(part: Part, entry: str) -> Brought:
    checkpoint = checkpoints.read(part.path, part.name, entry=entry)
    fitting = () if checkpoint.undecided else tuple(checkpoints.fitting_architectures(checkpoint))
    by_order = () if fitting else tuple(checkpoints.fitting_by_order(checkpoint))
    outline = _outline(checkpoint)
    return Brought(part.id, part.name, part.path, None, outline, fitting, by_order, entry)


def choose(file: Brought, entry: str) -> Brought:
    """The file with these of its weights; as it was where it does not hold them, or cannot be used at all."""
    if file.outline is None or file.entry == entry:
        return file
    with suppress(CheckpointError):
        return _as_brought(Part(file.id, file.name, file.path), entry)
    return file


def fitted(files: Sequence[Brought]) -> list[Brought]:
    """The files with what fits them now, when there are new architectures."""
    return [
        replace(
            file,
            fitting=tuple(checkpoints.fitting_architectures(file.outline)),
            by_order=tuple(checkpoints.fitting_by_order(file.outline)),
        )
        if file.outline
        else file
        for file in files
    ]


def _outline(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without its numbers. Tied weights look equal in it: only the real ones tell."""
    state = {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in checkpoint.state.items()
    }
    return replace(checkpoint, state=state)


def in_order(files: Sequence[Brought]) -> list[Brought]:
    """The files in the order of their steps, else of their epochs, else of their names."""

    def place(file: Brought) -> tuple[bool, int, str]:
        number = proposed[file.id].step
        return number is None, number or 0, file.name

    proposed = proposed_steps(files)
    return sorted(files, key=place)


def proposed_steps(files: Sequence[Brought]) -> dict[str, Position]:
    """The training step that is proposed for every file, by its id, and where it comes from."""
    return {file.id: each for file, each in zip(files, checkpoints.positions(files), strict=True)}


def shared_notes(files: Sequence[Brought]) -> list[tuple[str, str]]:
    """The notes, and which files each is about: one name, and how many more."""
    about: dict[str, list[str]] = {}
    for file in files:
        for note in file.notes:
            about.setdefault(note, []).append(file.name)
    return [
        (names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", note)
        for note, names in about.items()
    ]


class UploadFolder:
    """A folder of this process for what one session brings, and gone with the session.

    It has a lock that ends with the process: whoever makes another one removes those that were left behind.
    """

    _PREFIX = "seigh-upload-"
    _LOCK = ".lock"
    _OLD = 24 * 3600.0  # seconds, of those that versions without a lock have left

    def __init__(self) -> None:
        self.sweep(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=self._PREFIX)
        self.path = Path(self._folder.name)
        new = self.path / f"{self._LOCK}.new"
        self._lock = new.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(self.path / self._LOCK)  # it is never there without being held

    @classmethod
    def sweep(cls, parent: Path) -> list[Path]:
        """Remove the folders below ``parent`` whose process has ended; those that were removed."""
        removed = []
        for folder in parent.glob(f"{cls._PREFIX}*"):
            with suppress(OSError):  # somebody else's, or somebody was faster
                if folder.is_symlink() or folder.stat().st_uid != os.getuid() or cls._is_used(folder):
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
        return removed

    @classmethod
    def _is_used(cls, folder: Path) -> bool:
        lock = folder / cls._LOCK
        if not lock.exists():
            return time.time() - folder.stat().st_mtime < cls._OLD
        return not is_abandoned(lock)
