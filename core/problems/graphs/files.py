"""Networks in files of ``torch.export``: known by their content, kept with the lab's other files.

Such an architecture is called ``graph/<name>-<digits>``: the name is the one of the file that brought it, the
digits are the first 16 of its SHA-256. The name is for people; the digits decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from seigh.core.checksum import sha256_of
from seigh.core.problems.graphs.batch import generalised
from seigh.core.problems.graphs.network import checked
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.problems.graphs.program import Program, program
from seigh.core.problems.graphs.trial import tried
from seigh.core.reading import parent
from seigh.core.reading.parent import Refused
from seigh.core.reading.words import shown
from seigh.core.settings import Settings

SOURCE = "graph"
SUFFIX = ".pt2"
FOLDER = "graphs"  # of the artefact store

_DIGITS = 16
_NAME = re.compile(rf"{SOURCE}/(?P<name>[A-Za-z0-9][A-Za-z0-9_.+-]*)-(?P<digits>[0-9a-f]{{{_DIGITS}}})")
_STORED = re.compile(r"(?P<sha256>[0-9a-f]{64})\.(?P<name>[A-Za-z0-9][A-Za-z0-9_.+-]*)\.pt2")
_LONGEST = 60


@dataclass(frozen=True)
class Graph:
    """A network from a file.

    Attributes:
        name: As an architecture.
        path: Where its file lies.
        sha256: SHA-256 of the file.
        program: What it computes.
    """

    name: str
    path: Path
    sha256: str
    program: Program

    @property
    def suffix(self) -> str:
        """What the file's name has behind its hash in the artefact store."""
        return f".{_human(self.name)}{SUFFIX}"


# Those that this process was given as files, by their digits.
_taken: dict[str, Graph] = {}


def is_file(text: str) -> bool:
    """Whether an architecture is given as the path of a file."""
    return text.lower().endswith(SUFFIX) and not _NAME.fullmatch(text)


def read(path: Path, name: str | None = None) -> Graph:
    """Read a file without computing anything.

    Args:
        path: The file.
        name: Its original name where ``path`` is a copy.

    Raises:
        Unfit: If it is missing, damaged, or holds a network that cannot be an architecture; the sentence says
            which operation it is, and where.
    """
    name = name or path.name
    try:
        if path.stat().st_size == 0:
            raise Unfit(f"'{name}' is an empty file; export the network again, with seigh.export.")
        answer = parent.read("graph", path, name)
    except OSError as error:
        raise Unfit(f"'{name}' cannot be read: {error.strerror}.") from error
    except Refused as error:
        raise Unfit(str(error)) from error
    try:
        found = generalised(program(answer))
        for samples in (2, 1):
            shape = checked(found, samples)
            if not shape or shape[0] != samples:
                raise Unfit(
                    f"The network gives outputs of shape {shape} for {samples} samples; let it return one "
                    "row for each sample, (N, …)."
                )
    except Unfit as error:
        raise Unfit(f"'{shown(name)}' cannot be used: {error}") from error
    digest = str(answer.facts["sha256"])
    human = re.sub(r"[^a-z0-9_+-]+", "-", Path(name).stem.lower()).strip("-_+")[:_LONGEST] or "network"
    return Graph(f"{SOURCE}/{human}-{digest[:_DIGITS]}", path, digest, found)


def take(path: Path, name: str | None = None) -> Graph:
    """Read a file and try its network (``trial``); from then on this process knows it by its name.

    Raises:
        Unfit: As ``read``; or the network crashes, or does not treat samples each by itself.
    """
    name = name or path.name
    digest = _hash(path, name)
    digits = digest[:_DIGITS]
    known = _find(digits)
    if known is not None:
        if known.sha256 != digest:
            raise Unfit(f"'{shown(name)}' has the same {_DIGITS} digits as another network; export it again.")
        return known
    tried(path, name)  # before anything of it is computed here
    graph = read(path, name)
    if graph.sha256 != digest:
        raise Unfit(f"'{shown(name)}' changed while it was read; try again.")
    _taken[digits] = graph
    return graph


def _hash(path: Path, name: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise Unfit(f"'{shown(name)}' cannot be read: {error.strerror}.") from error


def names() -> tuple[str, ...]:
    """The networks in the artefact store and those that this process was given, by name."""
    stored = {match["sha256"][:_DIGITS]: f"{SOURCE}/{match['name']}-{match['sha256'][:_DIGITS]}"
              for _, match in _stored("")}  # fmt: skip
    return tuple(
        sorted(
            (stored | {digits: each.name for digits, each in _taken.items() if digits not in stored}).values()
        )
    )


def exists(name: str) -> bool:
    """Whether there is a network of this name."""
    return settled(name) is not None


def settled(name: str) -> str | None:
    """The one name of a network, which its digits tell; None if there is none."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    for _, stored in _stored(match["digits"]):
        return f"{SOURCE}/{stored['name']}-{match['digits']}"
    taken = _taken.get(match["digits"])
    return None if taken is None else taken.name


def forget(name: str) -> list[Path]:
    """Let go of a network that this process was given; its files in the artefact store, to be removed.

    Raises:
        Unfit: If there is none.
    """
    match = _NAME.fullmatch(name)
    if match is None or not exists(name):
        raise _absent(name)
    _taken.pop(match["digits"], None)
    return [path for path, _ in _stored(match["digits"])]


def find(name: str) -> Graph:
    """A network by its name.

    Raises:
        Unfit: If there is none, or its file is damaged.
    """
    match = _NAME.fullmatch(name)
    found = _find(match["digits"]) if match else None
    if found is None:
        raise _absent(name)
    return found


def _absent(name: str) -> Unfit:
    return Unfit(
        f"There is no exported network '{shown(name)}' here; upload its {SUFFIX} file on New analysis, or "
        "give the path of the file in place of the name."
    )


def _find(digits: str) -> Graph | None:
    for path, match in _stored(digits):
        return _opened(path, match["sha256"], match["name"])
    return _taken.get(digits)


@lru_cache(maxsize=256)
def _opened(path: Path, sha256: str, name: str) -> Graph:
    graph = read(path, f"{name}{SUFFIX}")
    if graph.sha256 != sha256:
        raise Unfit(f"The file of the network '{name}' is damaged in the artefact store; upload it again.")
    return Graph(f"{SOURCE}/{name}-{sha256[:_DIGITS]}", path, sha256, graph.program)


def _stored(digits: str) -> Iterator[tuple[Path, re.Match[str]]]:
    folder = Settings().artifact_folder / FOLDER
    for path in sorted(folder.glob(f"{digits}*{SUFFIX}")):
        match = _STORED.fullmatch(path.name)
        if match is not None:
            yield path, match


def _human(name: str) -> str:
    match = _NAME.fullmatch(name)
    assert match is not None
    return match["name"]
