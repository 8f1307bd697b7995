"""Checkpoints among the files of a folder, an archive or an upload, those in several files included.

Known are Hugging Face's shards with their index and its ``checkpoint-N`` folders, folders of
``torch.distributed.checkpoint`` (which FSDP, accelerate and Lightning write, too), DeepSpeed's of every stage
of ZeRO, and LoRA adapters beside their base. Each becomes one ``.safetensors`` file.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from seigh.core.problems.checkpoints import adapters, beside, distributed, zero
from seigh.core.problems.checkpoints.checkpoint import CheckpointError
from seigh.core.problems.checkpoints.files import (
    INDEX_SUFFIX,
    NAMED_BY_FOLDER,
    SUFFIXES,
    merge,
    merged_name,
    named_files,
)
from seigh.core.problems.checkpoints.names import read_name
from seigh.core.reading import parent
from seigh.core.reading.parent import Refused
from seigh.core.reading.words import shown

ARCHIVE = ".zip"

# What lies beside weights in the folders of trainers, and holds none.
_BESIDE = re.compile(
    r"(?:optimizer|scheduler|lr_scheduler|scaler|rng_state|random_states|training_args|sampler|dl_state"
    r"|custom_checkpoint|meta|train_state)[\w.-]*$"
)
_MOST_FILES = 10_000
# "model-00002-of-00005.safetensors", the second of several.
_ONE_OF_SEVERAL = re.compile(r"-(\d+)-of-(\d+)\.\w+$")


@dataclass(frozen=True)
class Bundle:
    """The files of one checkpoint.

    Attributes:
        kind: How they belong together.
        name: What to call the checkpoint; of one in several files, that of the file it becomes.
        path: The file, or the first of several.
        files: All of them by their names, folders left out; empty for a single file.
        base: The file with the weights that an adapter changes; None if it was not given.
    """

    kind: Literal["file", "index", "distributed", "zero", "adapter"]
    name: str
    path: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    base: Path | None = None
    beside: Mapping[str, Path] = field(default_factory=dict)

    def moved(self, target: Path) -> Path:
        """Move a single file, with what tells about it; ``target``."""
        self.path.rename(target)
        beside.keep(target, self.beside)
        return target

    def merge(self, folder: Path) -> Path:
        """Write the checkpoint as one file in a folder that is there; a single file is left where it is.

        Raises:
            CheckpointError: If files are missing, do not belong together, or cannot be read.
        """
        target = folder / self.name
        match self.kind:
            case "index":
                return merge(self.path, self.files, target)
            case "distributed":
                return distributed.merge(self.files, target)
            case "zero":
                return zero.merge(self.files, target)
            case "adapter":
                return adapters.merge(self.path, self.files, self.base, target)
        return self.path


def in_folder(folder: Path) -> dict[str, Path]:
    """The files below a folder, by their paths in it.

    Raises:
        CheckpointError: If they are too many.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(PurePosixPath(folder.name) / path.relative_to(folder).as_posix())] = path
        if len(found) > _MOST_FILES:
            raise CheckpointError(
                f"'{folder.name}' holds more than {_MOST_FILES:,} files; give the folder of one training."
            )
    return found


def in_archive(path: Path, name: str, folder: Path) -> dict[str, Path]:
    """The files of a ``.zip`` archive, kept in a folder; none if it is a file of ``torch.save``.

    Raises:
        CheckpointError: If it cannot be taken apart.
    """
    try:
        found = parent.unpack(path, name, folder)
    except Refused as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(f"'{name}' cannot be read: {error.strerror}.") from error
    return {} if any(PurePosixPath(member).name == "data.pkl" for member in found) else found


def whole(given: Sequence[Path], folder: Path, base: Path | None = None) -> list[Path]:
    """The checkpoints among files, folders and archives, each in one file.

    Args:
        given: Files that are checkpoints, indices of those in several files, ``.zip`` archives, and folders.
        folder: Where those in several files, and those of archives, are kept.
        base: Where the weights lie that LoRA adapters change.

    Returns:
        The files, in the order in which they were given.

    Raises:
        CheckpointError: If a folder or an archive holds none, or files are missing.
    """
    bundles = _bundles(given, folder)
    if base is not None:
        found = _bundles([base], folder)
        if len(found) != 1:
            raise CheckpointError(
                f"'{base.name}' holds {len(found):,} checkpoints; name one file as the base."
            )
        changed = _merged(found[0], folder / "base")
        bundles = [replace(each, base=changed) if each.kind == "adapter" else each for each in bundles]
    return [_merged(each, folder / f"merged-{number}") for number, each in enumerate(bundles)]


def _merged(bundle: Bundle, own: Path) -> Path:
    own.mkdir(parents=True)
    if bundle.kind == "file" and bundle.path.is_relative_to(own.parent):  # of an archive, by its name there
        return bundle.moved(own / bundle.name)
    return bundle.merge(own)


def _bundles(given: Sequence[Path], folder: Path) -> list[Bundle]:
    found: list[Bundle] = []
    taken: set[Path] = set()
    for path in given:
        name = path.name.lower()
        inside: Mapping[str, Path] = {}
        if os.path.isdir(path):  # of a name that is too long as well
            inside = in_folder(path)
        elif name.endswith(ARCHIVE):
            own = folder / f"archive-{len(found)}"
            own.mkdir(parents=True)
            inside = in_archive(path, path.name, own)
        if inside:
            among = gather(inside)
            if not among:
                raise nothing_in(path.name)
            found += among
            continue
        if os.path.isdir(path):  # of a name that is too long as well
            raise nothing_in(path.name)
        if name.endswith(INDEX_SUFFIX):
            shards = [path.with_name(each) for each in named_files(path)]
            taken |= set(shards)
            there = {each.name: each for each in shards if each.is_file()}
            found.append(Bundle("index", merged_name(path.name), path, there))
            continue
        there = {each.name: each for each in path.parent.iterdir() if each.is_file()} if _needs(path) else {}
        special = [each for each in gather(there) if path in (each.path, *each.files.values())]
        found.append(replace(special[0], base=None) if special else Bundle("file", path.name, path))
    return [each for each in found if each.path not in taken]


def _needs(path: Path) -> bool:
    """Whether a file is of no use without those beside it."""
    if path.name in adapters.NAMES:
        return path.with_name(adapters.CONFIG).is_file()
    return path.name == distributed.METADATA or path.name.endswith(zero.OPTIMISER)


def gather(files: Mapping[str, Path]) -> list[Bundle]:
    """The checkpoints among files, in the order of their names.

    Args:
        files: By their names, with the folders that they lie in.
    """
    folders: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in files.items():
        folders[str(PurePosixPath(name).parent)][PurePosixPath(name).name] = path
    found: list[Bundle] = []
    for folder, held in sorted(folders.items(), key=lambda each: _natural(each[0])):
        found += _in_one_folder("" if folder == "." else PurePosixPath(folder).name, held)
    return _with_bases(found)


def _natural(text: str) -> list[tuple[int, str]]:
    """So that checkpoint-1000 comes after checkpoint-500."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def _in_one_folder(folder: str, held: Mapping[str, Path]) -> list[Bundle]:
    left = dict(held)
    found = []
    if "adapter_config.json" in left:
        weights = next((name for name in adapters.NAMES if name in left), None)
        if weights is not None:
            name = f"{folder or 'adapter'}-merged.safetensors"
            own = {each: left.pop(each) for each in (weights, "adapter_config.json")}
            found.append(Bundle("adapter", name, own[weights], own))
    for index in [name for name in left if name.lower().endswith(INDEX_SUFFIX)]:
        try:
            named = named_files(left[index])
        except CheckpointError:
            named = []  # which is said when they are merged
        shards = {name: left.pop(name) for name in named if name in left}
        found.append(Bundle("index", _called(folder, merged_name(index)), left.pop(index), shards))
    if distributed.METADATA in left:
        own = {name: path for name, path in left.items() if name.endswith(distributed.SUFFIX)}
        own[distributed.METADATA] = left[distributed.METADATA]
        left = {name: path for name, path in left.items() if name not in own}
        name = f"{folder or 'distributed'}.safetensors"
        found.append(Bundle("distributed", name, own[distributed.METADATA], own))
    if any(name.endswith(zero.OPTIMISER) for name in left):
        own = {name: path for name, path in left.items() if name.endswith((zero.OPTIMISER, zero.MODEL))}
        left = {name: path for name, path in left.items() if name not in own}
        found.append(Bundle("zero", f"{folder or 'deepspeed'}.safetensors", next(iter(own.values())), own))
    if "model.safetensors" in left:
        left.pop("pytorch_model.bin", None)  # the same in the other format
    about = {name: held[name] for name in beside.FILES if name in held}
    return found + [
        Bundle("file", _called(folder, name), path, beside=about if name in NAMED_BY_FOLDER else {})
        for name, path in sorted(left.items(), key=lambda each: _natural(each[0]))
        if Path(name).suffix.lower() in SUFFIXES and not _BESIDE.match(name.lower())
    ]


def _called(folder: str, name: str) -> str:
    """The name of a file, or of its folder where that tells the step, as Hugging Face has it."""
    return f"{folder}{Path(name).suffix}" if name in NAMED_BY_FOLDER and _tells(folder) else name


def _tells(folder: str) -> bool:
    return read_name(folder).step is not None


def _with_bases(found: list[Bundle]) -> list[Bundle]:
    """Adapters with the one other checkpoint as their base, which is then none to be analysed."""
    adapters_among = [each for each in found if each.kind == "adapter"]
    others = [each for each in found if each.kind != "adapter"]
    if not adapters_among or len(others) != 1 or others[0].kind != "file":
        return found
    base = others[0].path
    return [Bundle(each.kind, each.name, each.path, each.files, base) for each in adapters_among]


def is_one_of_several(name: str) -> bool:
    """Whether a name is that of one of several files, which are of no use alone."""
    number = _ONE_OF_SEVERAL.search(name)
    return number is not None and int(number[2]) > 1


def nothing_in(name: str) -> CheckpointError:
    """The refusal of a folder or an archive without checkpoints."""
    return CheckpointError(
        f"'{shown(name)}' holds no checkpoint; give files like {', '.join(SUFFIXES[:3])} or .safetensors."
    )
