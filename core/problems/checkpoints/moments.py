"""The state of Adam in a checkpoint file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from seigh.core.overlap.observables import Adam
from seigh.core.problems.checkpoints.checkpoint import CheckpointError
from seigh.core.problems.checkpoints.files import asked
from seigh.core.settings import Settings


def read_adam(
    path: Path, name: str, model: nn.Module, chosen: Sequence[str] | None, env: Settings | None = None
) -> Adam:
    """The state of Adam or AdamW in a checkpoint file.

    An optimizer numbers its parameters; which of the model's they are follows from their names, where it
    was given these, or else from the order of ``model.parameters()``, if it has a single group.

    Args:
        path: The file.
        name: What to call it in messages.
        model: The network.
        chosen: Names of the parameters that θ is made of; None for all trainable ones.
        env: With the limits of this installation.

    Raises:
        CheckpointError: There is no such state, or it does not fit the model.
    """
    answer = asked("moments", path, name, env)
    facts = answer.facts
    named = dict(model.named_parameters())
    tensors = [answer.tensors[str(number)] for number in range(len(answer.tensors))]
    groups = facts["groups"]
    if all(facts["called"]):
        names = [str(each) for each in facts["called"]]
    elif len(groups) > 1:
        raise CheckpointError(
            f"The optimizer in '{name}' has {len(groups)} parameter groups without names, so which parameter "
            "a moment belongs to is not known; build it from model.named_parameters()."
        )
    elif len(tensors) == len(named):
        names = list(named)
    else:
        names = [key for key, p in named.items() if p.requires_grad]
    if len(names) != len(tensors) or any(
        key not in named or named[key].shape != each.shape for key, each in zip(names, tensors, strict=False)
    ):
        raise CheckpointError(
            f"The optimizer in '{name}' is of other parameters than the model has; save the one that trained "
            "these weights."
        )
    if len({(group["lr"], group["beta1"]) for group in groups}) > 1 or not groups[0]["lr"] > 0:
        raise CheckpointError(
            f"The parameter groups in '{name}' have several learning rates or β₁, or the rate 0, so there is "
            "no one threshold of stability to compare with."
        )
    options = [group for group in groups for _ in range(group["count"])]
    parts: dict[str, Tensor] = {}
    for key, moment, step, group in zip(names, tensors, facts["steps"], options, strict=True):
        if bool((moment < 0).any()):
            raise CheckpointError(f"Second moments in '{name}' are negative, so they are none of Adam's.")
        corrected = moment.double() / (1 - group["beta2"] ** step)
        parts[key] = (corrected.sqrt() + group["eps"]).flatten()
    wanted = [key for key, p in named.items() if p.requires_grad] if chosen is None else list(chosen)
    if missing := [key for key in wanted if key not in parts]:
        raise CheckpointError(f"The optimizer in '{name}' has no second moments of {missing[0]}.")
    whole = torch.cat([parts[key] for key in wanted])
    if not bool((whole > 0).all()):
        raise CheckpointError(
            f"The optimizer in '{name}' divides by 0: some second moments are 0, and so is ε."
        )
    return Adam(whole, groups[0]["lr"], groups[0]["beta1"], int(min(facts["steps"])))
