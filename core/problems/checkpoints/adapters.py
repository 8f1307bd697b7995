"""LoRA adapters, as PEFT writes them, merged with the weights that they change."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seigh.core.problems.checkpoints.checkpoint import CheckpointError
from seigh.core.problems.checkpoints.files import LARGEST_INDEX, asked, read, write
from seigh.core.reading.words import shown

NAMES = ("adapter_model.safetensors", "adapter_model.bin")
CONFIG = "adapter_config.json"

_FRONT = "base_model.model."
_PART = re.compile(r"(?P<layer>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.\w+)?(?:\.weight)?$")
_BY_HAND = "merge it with PEFT's merge_and_unload() and give the merged model"


def merge(adapter: Path, files: Mapping[str, Path], base: Path | None, target: Path) -> Path:
    """Write a base with an adapter's changes as one ``.safetensors`` file.

    For W (out, in), A (r, in) and B (out, r) it is W + (α/r) B A, with α/√r for rank-stabilised LoRA (Hu et
    al. 2022, section 4.1; Kalajdzievski 2023).

    Args:
        adapter: ``adapter_model.safetensors`` or ``.bin``.
        files: ``adapter_config.json`` among them, by their names.
        base: The file with the weights that it changes; None if nobody gave it.
        target: The file to write; it appears complete or not at all.

    Returns:
        ``target``.

    Raises:
        CheckpointError: If the base is missing or another one, or the adapter is of another kind than LoRA.
    """
    config = _config(files[CONFIG])
    if base is None:
        raise CheckpointError(
            f"'{adapter.name}' is a LoRA adapter, which changes the weights of "
            f"'{shown(config.get('base_model_name_or_path') or 'a base model')}'; give the file of that "
            "model, too: with --base, or in the same upload."
        )
    found = read(base)
    state = {found.prefix + name: tensor for name, tensor in found.state.items()}
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in asked("shard", adapter, adapter.name, None).tensors.items():
        inner = name.removeprefix(_FRONT)
        if "lora_magnitude_vector" in name or "lora_bias" in name or ".lora_B.bias" in name:
            raise CheckpointError(f"'{adapter.name}' is more than LoRA ({shown(name)}); {_BY_HAND}.")
        part = _PART.fullmatch(inner)
        if part is None:  # trained whole, beside the adapter
            key = inner.replace(".modules_to_save", "").replace(".base_layer", "")
            state[_known(state, key, adapter, base)] = tensor.float()
            continue
        side = ("embedding_" if part["embedding"] else "") + part["side"]
        sides.setdefault(part["layer"], {})[side] = tensor.float()
    for layer, held in sides.items():
        name = _known(state, f"{layer}.weight", adapter, base)
        state[name] = state[name] + _change(layer, held, config, tuple(state[name].shape), adapter)
    return write(state, target, found.step, found.epoch)


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise ValueError("too long")
        config = json.loads(path.read_bytes())
        rank, alpha = config["r"], config["lora_alpha"]
        if not isinstance(config, dict) or not all(isinstance(each, (int, float)) for each in (rank, alpha)):
            raise TypeError("no configuration")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"'{path.name}' is no configuration of a LoRA adapter; {_BY_HAND}.") from error
    kind = str(config.get("peft_type", "LORA"))
    if kind != "LORA" or config.get("use_dora"):
        other = shown("DoRA" if config.get("use_dora") else kind)
        raise CheckpointError(f"The adapter is of the kind {other}, not LoRA; {_BY_HAND}.")
    return dict(config)


def _known(state: Mapping[str, Tensor], key: str, adapter: Path, base: Path) -> str:
    """The base's name of a tensor that the adapter changes."""
    if key in state:
        return key
    ends = [name for name in state if name.endswith(f".{key}") or key.endswith(f".{name}")]
    if len(ends) != 1:
        raise CheckpointError(
            f"'{adapter.name}' changes '{shown(key)}', which '{base.name}' does not have; give its own base."
        )
    return ends[0]


def _change(
    layer: str, held: Mapping[str, Tensor], config: Mapping[str, Any], shape: tuple[int, ...], adapter: Path
) -> Tensor:
    try:
        embedding = "embedding_A" in held
        a, b = (held["embedding_A"], held["embedding_B"]) if embedding else (held["A"], held["B"])
        if embedding:
            change = (b @ a).T
        elif a.ndim == 2:
            change = b @ a
        else:  # a convolution with r filters, and one of 1×1 behind it
            change = torch.einsum("or,rihw->oihw", b.flatten(1), a)
        if config.get("fan_in_fan_out") and not embedding:
            change = change.T
        if tuple(change.shape) != shape:
            raise ValueError("another shape")
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The change of '{shown(layer)}' in '{adapter.name}' has not the shape of the base's weights; "
            "give its own base."
        ) from error
    rank = int(a.shape[0])
    alpha = float(_of_layer(config.get("alpha_pattern"), layer, config["lora_alpha"]))
    return change * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_layer(pattern: object, layer: str, usual: float) -> float:
    """The value for a layer: by the end of its name, as PEFT has it."""
    if isinstance(pattern, dict):
        for key, value in pattern.items():
            if isinstance(value, (int, float)) and (
                layer == key or layer.endswith(f".{str(key).lstrip('^')}")
            ):
                return value
    return usual
