"""Data in several files, which are packed into one archive: Megatron's, text with its tokenizer, shards.

Nothing is parsed here: a child with limits reads the archive (``seigh.core.reading.corpora``), and a lab
stores it.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seigh.core.problems.data import tokens
from seigh.core.problems.data.dataset import LARGEST_ARRAY, DataError
from seigh.core.reading.corpora import STATE, TOKENIZER
from seigh.core.reading.tokens import ROWS

SUFFIX = ".zip"

# So that the same files make the same archive, whenever they are packed.
_TIME = (1980, 1, 1, 0, 0, 0)
_MOST_FILES = 10_000
_ROWS = tuple(f".{kind}" for kind in ROWS)


def parts(path: Path, options: Mapping[str, Any]) -> list[Path]:
    """The files that a name stands for, where they are several; none where it is one file.

    Args:
        path: A file, or the folder that ``save_to_disk`` has written.
        options: Of the name; ``tokenizer`` is the path of a ``tokenizer.json``.

    Raises:
        DataError: One of them is not there.
    """
    if path.is_dir():
        return _in_folder(path)
    suffix = path.suffix.lower()
    given = options.get("tokenizer")
    if suffix == ".idx":
        return [path, _there(path.with_suffix(".bin"), f"the tokens of '{path.name}'")]
    if suffix == ".txt" or (given and suffix in _ROWS):
        beside = path.with_name(TOKENIZER)
        return [path, _there(Path(given) if given else beside, f"the tokenizer of '{path.name}'")]
    if given:
        raise DataError(f"'{path.name}' holds tokens already; leave its tokenizer out.")
    return []


def _there(path: Path, what: str) -> Path:
    if not path.is_file():
        hint = "; name it with (tokenizer=FILE)" if path.name == TOKENIZER else ""
        raise DataError(f"There is no '{path}', {what}{hint}.")
    return path


def _in_folder(folder: Path) -> list[Path]:
    inside = sorted(folder.iterdir())
    found = [each for each in inside if each.suffix.lower() in _ROWS and not each.name.startswith("cache-")]
    if not found:
        splits = [each.name for each in inside if each.is_dir() and any(each.glob("*.arrow"))]
        more = f"; choose one of its splits, {', '.join(splits)}" if splits else ""
        raise DataError(f"The folder '{folder.name}' holds no files of rows ({', '.join(_ROWS)}){more}.")
    if len(found) > _MOST_FILES:
        raise DataError(f"The folder '{folder.name}' holds more than {_MOST_FILES:,} files; give fewer.")
    return found + [each for each in inside if each.name in (STATE, TOKENIZER)]


def together(files: Iterable[Path], target: Path) -> Path:
    """The one data file among files that were brought together, or the archive that they become.

    Args:
        files: Those of one set of data, by any of their names.
        target: The folder where an archive is written.

    Raises:
        DataError: One is missing, or they do not belong together.
    """
    files = list(files)
    names = sorted(each.name for each in files)
    listed = ", ".join(names[:4])
    half = next((each for each in files if each.suffix.lower() in tokens.HALVES), None)
    kinds = {each.suffix.lower() for each in files if each.name not in (STATE, TOKENIZER)}
    if half is None and len(files) == 1:
        if kinds:
            return files[0]
        raise DataError(f"'{names[0]}' is of use with its text or rows alone; bring both at once.")
    if half is not None and half.suffix.lower() == ".idx" and kinds != {".idx", ".bin"}:
        raise DataError(f"'{half.name}' is the index of tokens in a .bin file; bring both at once.")
    if half is not None and half.suffix.lower() == ".txt" and TOKENIZER not in names:
        raise DataError(f"'{half.name}' is text; bring the {TOKENIZER} of the model at once with it.")
    if half is None and (len(kinds) != 1 or kinds.isdisjoint(_ROWS)):
        raise DataError(f"These files are no one set of data: {listed}; bring those of one.")
    return pack(files, target / f"{(half or files[0]).stem}{SUFFIX}")


def pack(files: Iterable[Path], target: Path) -> Path:
    """Write files as one archive, which is the same whenever it is made.

    Args:
        files: The files; a tokenizer is called ``tokenizer.json`` there.
        target: The archive to write.

    Returns:
        ``target``.

    Raises:
        DataError: They are larger than data may be, or cannot be read.
    """
    files = list(files)
    try:
        if sum(each.stat().st_size for each in files) > LARGEST_ARRAY:
            raise DataError(
                f"'{files[0].name}' and what belongs to it take more than {LARGEST_ARRAY // 2**30} GiB; keep "
                "only what the analysis needs."
            )
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for each in files:
                name = TOKENIZER if each.suffix.lower() == ".json" and each.name != STATE else each.name
                entry = zipfile.ZipInfo(name, _TIME)
                entry.file_size = each.stat().st_size
                with each.open("rb") as source, archive.open(entry, "w") as written:
                    shutil.copyfileobj(source, written, 2**20)
    except OSError as error:
        raise DataError(f"'{files[0].name}' cannot be read: {error.strerror}.") from error
    return target


def packed(name: str, folder: Path) -> str:
    """The name of data with what lies in several files packed into one archive in a folder.

    >>> packed("digits", Path("/tmp"))
    'digits'

    Raises:
        DataError: As ``parts`` and ``pack``.
    """
    base, options = tokens.split(name)
    if not tokens.is_meant(base) and not Path(base).is_dir():
        return name
    files = parts(Path(base), options)
    if not files:
        return name
    target = folder / f"{len(list(folder.iterdir()))}" / f"{Path(base).stem}{SUFFIX}"
    target.parent.mkdir()
    rest = {key: value for key, value in options.items() if key != "tokenizer"}
    return tokens.joined(str(pack(files, target)), rest)
