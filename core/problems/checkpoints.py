"""Checkpoints as files: read without trusting them, and checked against an architecture.

Nothing in a file is ever executed: PyTorch files go through ``torch.load(weights_only=True)``, whose
unpickler knows tensors and plain containers only. What a file claims about its sizes is checked before
memory is given to it, so that a small file cannot ask for a large amount.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from core.problems import architectures

SUFFIXES = (".pt", ".pth", ".safetensors")
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")
_STEP_KEYS = ("step", "global_step")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DataParallel and DistributedDataParallel; torch.compile

# The database keeps steps in 32 bits; longer digit strings in file names are dates, not steps.
_LARGEST_STEP = 2**31 - 1

# Plain pickled structure of a file, without its tensors: a hundred thousand tensors need a tenth of this.
_LARGEST_STRUCTURE = 32 * 2**20

# Tensors may share storage (tied weights), so that together they are larger than the file; never by much.
_LARGEST_SHARING = 2


class CheckpointError(ValueError):
    """A file that is no usable checkpoint; the message is one sentence for the person who brought it."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        path: Where the file lies.
        name: The file name to show: of the original where ``path`` is a temporary copy.
        sha256: Hex SHA-256 of the file.
        size: Size of the file in bytes.
        state: The state dict on the CPU: floating-point tensors in float32, others (buffers) as they are.
        step: Training step, from the file or else its name; None where neither tells.
        metrics: Those of ``METRICS`` that the file records: mean losses, accuracies in [0, 1].
    """

    path: Path
    name: str
    sha256: str
    size: int
    state: dict[str, Tensor]
    step: int | None
    metrics: dict[str, float]


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read a ``.pt``/``.pth`` file of tensors or a ``.safetensors`` file.

    A PyTorch file holds a state dict, alone or as the entry ``model``, ``state_dict`` or
    ``model_state_dict`` of a dictionary. The prefixes of ``DataParallel`` and ``torch.compile`` are removed.
    Takes memory in proportion to the file's size, whatever the file says.

    Args:
        path: The file.
        name: Its original name where ``path`` is a temporary copy; errors show it.

    Raises:
        CheckpointError: If the file is missing, empty, damaged, no checkpoint, holds more than tensors, or
            holds weights that are NaN or infinite.
    """
    name = name or path.name
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(
            f"'{name}' does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; "
            "save the model's state dict in one of these formats."
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"'{name}' cannot be read: {error.strerror}.") from error
    if size == 0:
        raise CheckpointError(f"'{name}' is an empty file; save or upload the checkpoint again.")

    # Decided by content: people rename files. After its 8-byte length a safetensors header begins with "{".
    if start[8:] == b"{" or suffix == ".safetensors":
        tensors, facts = _read_safetensors(path, name)
    else:
        tensors, facts = _read_torch(path, name, size, zipped=start.startswith(b"PK\x03\x04"))
    return Checkpoint(
        path=path,
        name=name,
        sha256=sha256,
        size=size,
        state=_checked_state(tensors, name, size),
        step=_recorded_step(facts, name),
        metrics=_recorded_metrics(facts),
    )


def _read_safetensors(path: Path, name: str) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{name}' is damaged or incomplete and not a readable safetensors file; save or upload it again."
        ) from error


def _read_torch(
    path: Path, name: str, size: int, *, zipped: bool
) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
    """The state dict of a PyTorch file, and the dictionary around it (or nothing)."""
    if zipped:
        _check_archive(path, name, size)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the parser meets arbitrary bytes here, and fails in every way there is
        if isinstance(error, pickle.UnpicklingError) and (zipped or _imports(path)):
            raise CheckpointError(
                f"'{name}' contains more than tensors, so it was not loaded and nothing in it was executed; "
                "save model.state_dict() instead of the whole object."
            ) from error
        raise _damaged(name) from error

    if not isinstance(contents, Mapping):
        raise CheckpointError(
            f"'{name}' holds a {type(contents).__name__}, not a state dict; save model.state_dict()."
        )
    for key in _STATE_DICT_KEYS:
        if isinstance(contents.get(key), Mapping):
            return contents[key], contents
    return contents, {}


def _damaged(name: str) -> CheckpointError:
    return CheckpointError(
        f"'{name}' is damaged or incomplete and not a readable PyTorch checkpoint; save or upload it again."
    )


def _imports(path: Path) -> bool:
    """Whether the file starts with pickles that import something; walks their opcodes and runs none."""
    try:
        with path.open("rb") as file:
            for _ in range(4):  # a PyTorch file before the zip format is four pickles, then the numbers
                for opcode, _argument, _position in pickletools.genops(file):
                    if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
                        return True
    except Exception:  # no pickle, or half of one
        return False
    return False


def _check_archive(path: Path, name: str, size: int) -> None:
    """Refuse programs, and archives that unpack to more than they weigh; torch.save does not compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(name) from error
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise CheckpointError(
            f"'{name}' is a TorchScript program, which contains code; save model.state_dict() instead."
        )
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"'{name}' is a compressed archive that unpacks to more than its own size; "
            "save the state dict with torch.save, which does not compress."
        )
    if any(e.filename.endswith("data.pkl") and e.file_size > _LARGEST_STRUCTURE for e in entries):
        raise CheckpointError(
            f"'{name}' holds too many entries for a state dict; save model.state_dict() alone."
        )


def _checked_state(tensors: Mapping[Any, Any], name: str, size: int) -> dict[str, Tensor]:
    """The state dict with plain names and float32 numbers, all of them finite."""
    if not tensors:
        raise CheckpointError(f"'{name}' holds no tensors; save model.state_dict().")
    total = 0
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = "name" if not isinstance(key, str) else type(value).__name__
            raise CheckpointError(
                f"'{name}' is not a state dict of tensors alone: its entry '{str(key)[:80]}' has a {kind} "
                "where a tensor with a name is expected; save model.state_dict()."
            )
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(
                f"The tensor '{key}' in '{name}' is sparse, quantised or without numbers; save dense tensors."
            )
        total += value.numel() * value.element_size()
    if total > _LARGEST_SHARING * size:
        raise CheckpointError(
            f"The tensors of '{name}' claim more numbers than the file holds; save model.state_dict() again."
        )

    state = {}
    for key, value in _unwrapped(tensors).items():
        if value.is_complex():
            raise CheckpointError(
                f"The tensor '{key}' in '{name}' is complex; only real weights can be analysed."
            )
        tensor = value.detach()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"The tensor '{key}' in '{name}' holds NaN or infinite values; "
                    "choose a checkpoint from before the training diverged."
                )
        state[key] = tensor.contiguous()
    return state


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in _WRAPPER_PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            return _unwrapped({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors


def _recorded_step(facts: Mapping[Any, Any], name: str) -> int | None:
    for key in _STEP_KEYS:
        value = _number(facts.get(key))
        if value is not None and value.is_integer() and 0 <= value <= _LARGEST_STEP:
            return int(value)
    return step_from_name(name)


def _recorded_metrics(facts: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {key: _number(facts.get(key)) for key in METRICS}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(value: object) -> float | None:
    """A finite number, also where it is written as a string or held by a tensor of one entry."""
    if (
        isinstance(value, Tensor)
        and value.numel() == 1
        and value.device.type == "cpu"
        and not value.is_complex()
    ):
        value = value.item()
    if not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# "step_000300", "ckpt-300", "epoch=3-step=300"; and a last number that stands alone or after any other word
# than these: "epoch_3", "seed-1" and "v2" are no steps, nor is the 18 of "resnet18".
_NAMED_STEP = re.compile(
    r"(?<![a-z])(?:global_?step|steps?|iter(?:ation)?|ckpt|checkpoint)[ _=.-]*(\d+)(?![a-z\d])"
)
_LAST_NUMBER = re.compile(r"(?:^|[ _=.-])(\d+)$")
_OTHER_COUNT = re.compile(r"(?<![a-z])(?:epochs?|ep|e|seed|run|fold|rank|version|v)[ _=.-]*\d+$")


def step_from_name(name: str) -> int | None:
    """The training step in a file name such as ``step_000300.pt`` or ``ckpt-300.pth``, if there is one.

    >>> step_from_name("epoch=3-step=300.pt"), step_from_name("model_40.pth"), step_from_name("epoch_3.pt")
    (300, 40, None)
    """
    stem = Path(name).stem.lower()
    match = _NAMED_STEP.search(stem)
    if match is None and not _OTHER_COUNT.search(stem):
        match = _LAST_NUMBER.search(stem)
    step = int(match[1]) if match else None
    return step if step is not None and step <= _LARGEST_STEP else None


def check_fits(checkpoint: Checkpoint, architecture: str) -> None:
    """Check names and shapes of the tensors against an architecture.

    Raises:
        CheckpointError: Naming the first tensors that differ, and the architectures that do fit.
        SettingsError: If there is no such architecture.
    """
    differences = _differences(checkpoint, architecture)
    if not differences:
        return
    shown = "; ".join(differences[:3])
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    fitting = fitting_architectures(checkpoint)
    advice = f"choose {' or '.join(fitting)}, which they do fit" if fitting else "choose its own architecture"
    raise CheckpointError(
        f"The tensors of '{checkpoint.name}' do not fit {architecture} ({shown}{more}); {advice}."
    )


def fitting_architectures(checkpoint: Checkpoint) -> list[str]:
    """The names of the architectures that the checkpoint's tensors fit."""
    return [name for name in architectures.ARCHITECTURES if not _differences(checkpoint, name)]


def _differences(checkpoint: Checkpoint, architecture: str) -> list[str]:
    """What keeps the tensors from fitting, in the architecture's order; empty if they fit."""
    expected = architectures.expected_tensors(architecture)
    found = checkpoint.state
    differences = []
    for name, tensor in expected.items():
        if name not in found:
            # Old files lack this counter, which plays no part in eval mode.
            if not name.endswith(".num_batches_tracked"):
                differences.append(f"{name} is missing")
        elif found[name].shape != tensor.shape:
            shapes = f"{_shape(found[name])} instead of {_shape(tensor)}"
            differences.append(f"{name} is {shapes}")
        elif tensor.is_floating_point() and not found[name].is_floating_point():
            differences.append(f"{name} holds integers")
    differences += [f"{name[:80]} is unexpected" for name in found if name not in expected]
    return differences


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights and buffers into a model of an architecture that ``check_fits`` accepted."""
    model.load_state_dict(checkpoint.state)
