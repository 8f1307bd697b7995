"""Where the weights lie in what a file holds, and the facts beside them: step, epoch, metrics.

Any dictionary that holds tensors under names is a candidate, however deep it lies; entries whose names say
that they are an optimiser's, a scheduler's or a random generator's are not. Of several candidates one is
taken where the names leave no doubt (the weights and not their average), and the others are said. Where they
do leave doubt, somebody has to choose.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from seigh.core.reading.packing import Array, is_float
from seigh.core.reading.pickles import QUANTISED, Inert, Number, Stranger
from seigh.core.reading.words import LARGEST_STEP, METRICS, Refusal, shown

# What people call the entry with the weights, most telling first.
_WEIGHTS = (
    "model_state_dict",
    "state_dict",
    "model",
    "module",
    "net",
    "network",
    "model_state",
    "net_state_dict",
    "model_weights",
    "params",
    "weights",
    "state",
)
_AVERAGE = re.compile(r"(?:^|[_./-])(?:ema|swa|averaged?|avg|polyak|shadow|smoothed)(?:$|[_./-])", re.I)
_CHOSEN = re.compile(
    r"(?:^|[_./-])(?:best|last|latest|final|initial|init|old|prev|previous)(?:$|[_./-])", re.I
)
_NO_WEIGHTS = re.compile(
    r"(?:^|[_./-])(?:optim\w*|opt|lr_?sched\w*|sched\w*|scaler|amp|rng\w*|random\w*|grads?|gradients?|callbacks|loops"
    r"|hyper_?param\w*|hparams|config|cfg|args|history|hist|metrics?|stats|sampler|dataloader\w*|criterion|loss\w*"
    r"|loss_scaler|exp_avg\w*|momentum_buffer|param_groups|collected_params|message_hub|meta|logger?)(?:$|[_./-])",
    re.I,
)
_DEEPEST = 8  # dictionaries around the weights
_LONGEST = 64  # lists in which dictionaries are looked for
_MOST_OFFERED = 12
_ALL = "all"  # the candidates of one level together, their names in front

_STEPS = (
    *("step", "global_step", "global_steps", "iteration", "iter", "iter_num", "num_updates", "it", "n_iter"),
    *("train_step", "current_step", "optimization_step", "global_iter", "current_iter", "cur_iter"),
    *("trainer_step", "global_iteration", "cur_step"),
)
_EPOCHS = ("epoch", "current_epoch", "cur_epoch", "epoch_num", "completed_epochs")
_RATES = ("learning_rate", "lr")
_OPTIMIZERS = ("optimizer_state_dict", "optimizer", "optimizer_states", "optim", "optimizer_state")
_MOST_GROUPS = 1000
# Where trainers have the facts: Hugging Face, mmcv, fairseq, Composer.
_FACTS = (
    "trainer_state",
    "meta",
    "extra_state",
    "train_iterator",
    "timestamp",
    "Timestamp",
    "progress",
    "info",
    "trainer",
)

# DataParallel and its kin, torch.compile, and the attribute names under which wrappers hold their network.
_PREFIXES = (
    *(
        "module.",
        "_orig_mod.",
        "_forward_module.",
        "model.",
        "net.",
        "network.",
        "backbone.",
        "online_model.",
    ),
    *(
        "_model.",
        "_module.",
        "policy.",
        "wrapped_model.",
        "_fsdp_wrapped_module.",
        "_checkpoint_wrapped_module.",
    ),
    *("_fpw_module.", "_ddp_module."),
)
# What wrappers put into the middle of names: torch.compile, FSDP, activation checkpointing, Lightning Fabric.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_forward_module"
    r"|_ddp_module)\."
)
# What stands beside the network in a wrapper's state dict without being part of it.
ASIDE = re.compile(
    r"(?:\w*_)?(?:acc|accuracy|auroc|auc|f1|f1_score|precision|recall|iou|miou|mae|mse|psnr|ssim|metrics?|loss"
    r"|losses|loss_fn|loss_func|loss_weights?|criterion|criterions|log_vars|ema|ema_model|model_ema|confmat)\d*(?:\.|$)"
)
_AVERAGED_WITHIN = re.compile(r"(?:ema|ema_model|model_ema)\.")
_COUNT_OF_AVERAGES = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_STATE_OF_OTHERS = re.compile(r"(?:.*\.)?(?:_extra_state|initted|n_averaged)$")

# DeepOBS's convolutions lie in a Sequential, behind TensorFlow's padding (1) or without any (0).
_DEEPOBS = re.compile(r"(conv\d)\.[01]\.")
_DEEPOBS_LAYERS = (
    {"conv1", "conv2", "conv3", "dense1", "dense2", "dense3"},
    {f"conv{number}" for number in range(1, 10)},
)

# Names of what stands beside quantised weights, and what made them.
_QUANTISED_BY = (
    (
        re.compile(r"\.(?:quant_state\.bitsandbytes__\w+|absmax|quant_map|nested_absmax)$|\.SCB$"),
        "bitsandbytes",
    ),
    (re.compile(r"\.(?:qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (
        re.compile(r"\.(?:weight_scale|weight_scale_inv|weight_packed|weight_zero_point|input_scale)$"),
        "scales beside it",
    ),
    (re.compile(r"\._packed_params(?:\.|$)"), "torch.ao.quantization"),
    (re.compile(r"\.(?:blocks|scales)$"), ""),
)


@dataclass(frozen=True)
class Contents:
    """A state dict as it was saved, and what stood around it.

    Attributes:
        tensors: The state dict with names as the architecture has them; number types as in the file.
        prefix: What was removed in front of every name.
        step: Training step, if any is recorded.
        epoch: Epoch, if any is recorded.
        metrics: The recorded ones among ``METRICS``.
        notes: What was done, a sentence each.
        learning_rate: Learning rate of the optimizer, if one is recorded and the same for all parameters.
        entry: Which of the file's entries they are; empty if all of it.
        offered: The entries that could be taken, by the names to ask for.
        undecided: Whether somebody has to choose among them.
    """

    tensors: dict[str, Array]
    prefix: str
    step: int | None
    epoch: int | None
    metrics: dict[str, float]
    notes: tuple[str, ...]
    learning_rate: float | None = None
    entry: str = ""
    offered: tuple[str, ...] = ()
    undecided: bool = False


@dataclass
class _Candidate:
    """Tensors under names, somewhere in a file.

    Attributes:
        path: The keys that lead there.
        entries: The names, and what they hold, which is not always a tensor.
        around: The dictionaries on the way, outermost first.
        is_all: Whether it is other candidates together.
    """

    path: tuple[str, ...]
    entries: dict[Any, Any]
    around: list[Mapping[Any, Any]] = field(default_factory=list)
    is_all: bool = False

    @property
    def name(self) -> str:
        return "/".join(self.path)

    @property
    def own(self) -> list[str]:
        """The names of its weights."""
        return [key for key, each in self.entries.items() if isinstance(key, str) and _is_weight(each)]

    @property
    def is_average(self) -> bool:
        return any(_AVERAGE.search(key) for key in self.path)

    @property
    def is_chosen(self) -> bool:
        """Whether it was set aside at some moment of the training: the best, the last."""
        return any(_CHOSEN.search(key) for key in self.path)


def unpack(
    contents: object, name: str, wanted: str = "", strangers: Sequence[str] = (), *, floats: bool = True
) -> Contents:
    """Find the weights in what a file holds.

    Args:
        contents: A state dict, or dictionaries and lists around some.
        name: The file's name, for errors.
        wanted: Which of the entries with weights to take; the one that is beyond doubt if empty.
        strangers: Classes of which the file holds objects.
        floats: Whether floating-point numbers have to be among them, as of weights.

    Raises:
        Refusal: If there are none, or not those that are wanted.
    """
    found = _candidates(contents, name, floats)
    notes: list[str] = []
    chosen, inner, undecided = _chosen(found, name, wanted, notes)
    tensors = _checked(chosen.entries, name, notes, floats)
    if inner:
        kept = {key: each for key, each in tensors.items() if key.startswith(f"{inner}.")}
        notes.append(
            f"Of {counted(len(tensors), 'tensor')} the {len(kept):,} under '{shown(inner)}' are taken."
        )
        tensors = {key.removeprefix(f"{inner}."): each for key, each in kept.items()}
    if chosen.path and not undecided and (beside := _beside(chosen)):
        notes.append(f"The weights are the file's entry '{shown(chosen.name)}'; left aside: {beside}.")
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        notes.append(f"Objects of {shown(strangers[0])}{more} are left aside; nothing of theirs was run.")
    tensors, prefix = _unwrapped(tensors, f"{inner}." if inner else "", notes)
    tensors, prefix = _unwrapped(_without_wrappers(tensors), prefix, notes)
    tensors = _with_our_names(tensors, notes)
    # A tensor that is called "step" among the weights is one of them.
    own = {key: each for key, each in chosen.entries.items() if not isinstance(each, Array)}
    facts = [*reversed(chosen.around)] if chosen.around else [own]
    offered = [each.name for each in found if each.name]
    return Contents(
        tensors=tensors,
        prefix=prefix,
        step=next((step for each in facts for step in [step_in(each)] if step is not None), None),
        epoch=next((epoch for each in facts for epoch in [epoch_in(each)] if epoch is not None), None),
        metrics=next((metrics for each in facts for metrics in [_metrics(each)] if metrics), {}),
        notes=tuple(notes),
        learning_rate=next(
            (rate for each in facts for rate in [learning_rate_in(each)] if rate is not None), None
        ),
        entry="/".join(filter(None, (chosen.name, inner))),
        offered=tuple(offered[:_MOST_OFFERED]) if len(offered) > 1 else (),
        undecided=undecided,
    )


def tensors(contents: object, name: str) -> dict[str, Array]:
    """The state dict in what a file holds, by the names it has there.

    Raises:
        Refusal: As ``unpack``.
    """
    chosen, _, _ = _chosen(_candidates(contents, name), name, "", [])
    return _checked(chosen.entries, name, [])


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# --- Candidates -------------------------------------------------------------------------------------------


def dictionary(value: object) -> dict[Any, Any] | None:
    """A plain copy of a dictionary; an OrderedDict of a file may have attributes that hide its methods."""
    if isinstance(value, Stranger):
        return value.entries or None
    return dict(dict.items(value)) if isinstance(value, dict) else None


def _is_weight(value: object) -> bool:
    return isinstance(value, Array) and (lack(value) != "" or is_float(value.dtype))


def _is_optimiser(entries: Mapping[Any, Any]) -> bool:
    return "param_groups" in entries and "state" in entries


def _candidates(contents: object, name: str, floats: bool = True) -> list[_Candidate]:
    """All places of a file where tensors lie under names.

    Raises:
        Refusal: There are none.
    """
    found = list(_within(contents, (), [], set(), strict=True, floats=floats)) or list(
        _within(contents, (), [], set(), strict=False, floats=floats)
    )
    if not found:
        raise _nothing(contents, name)
    # Tensors beside dictionaries of them are facts, unless they have names as layers have: a step, losses.
    found = [
        each for each in found if not _is_around(each, found) or any("." in str(key) for key in each.own)
    ]
    return _with_all(_together(found))


def _is_around(one: _Candidate, others: Sequence[_Candidate]) -> bool:
    return any(other is not one and other.path[: len(one.path)] == one.path for other in others)


def _within(
    value: object,
    path: tuple[str, ...],
    around: list[Mapping[Any, Any]],
    seen: set[int],
    *,
    strict: bool,
    floats: bool,
    excluded: bool = False,
) -> Iterator[_Candidate]:
    """The places below one where tensors lie under names.

    Args:
        value: What lies there.
        path: The keys that lead there.
        around: The dictionaries on the way.
        seen: Where it was looked already.
        strict: Whether entries that have the names of no weights are left out.
        floats: Whether there have to be floating-point numbers.
        excluded: Whether it lies in such an entry.
    """
    if len(path) > _DEEPEST or id(value) in seen:
        return
    if isinstance(value, (list, tuple)):
        seen.add(id(value))
        if len(value) > 1 and all(isinstance(each, Array) and is_float(each.dtype) for each in value):
            if not excluded:
                yield _Candidate(path, {str(number): each for number, each in enumerate(value)}, around)
        elif len(value) <= _LONGEST:
            for number, each in enumerate(value):
                inner = (*path, str(number))
                yield from _within(each, inner, around, seen, strict=strict, floats=floats, excluded=excluded)
        return
    entries = dictionary(value)
    if entries is None:
        return
    seen.add(id(value))
    if _is_optimiser(entries):
        return
    own = {key: each for key, each in entries.items() if isinstance(each, Array)}
    if not excluded and any(
        _is_weight(each) or not floats for key, each in own.items() if isinstance(key, str)
    ):
        yield _Candidate(path, entries, around)
    for key, each in entries.items():
        if isinstance(key, str) and not isinstance(each, Array):
            # Averages that a callback keeps are weights in a place where there are none otherwise.
            outside = strict and (excluded or bool(_NO_WEIGHTS.search(key))) and not _AVERAGE.search(key)
            inner = (*path, key)
            yield from _within(
                each, inner, [*around, entries], seen, strict=strict, floats=floats, excluded=outside
            )


def _together(found: list[_Candidate]) -> list[_Candidate]:
    """The candidates, those within an entry that is one network joined: {'model': {'encoder': {…}, …}}."""
    groups: dict[tuple[str, ...], list[_Candidate]] = defaultdict(list)
    for each in found:
        place = next(
            (depth for depth, key in enumerate(each.path, 1) if key in _WEIGHTS or key == "language_model"),
            None,
        )
        groups[each.path if place is None else each.path[:place]].append(each)
    joined = []
    for path, members in groups.items():
        named = [key for each in members for key in each.path[len(path) :]]
        varied = any(key in _WEIGHTS or _AVERAGE.search(key) or _CHOSEN.search(key) for key in named)
        if len(members) == 1 or varied or _are_nested(members):
            joined += members
        else:
            joined.append(_union(path, members))
    return joined


def _are_nested(members: Sequence[_Candidate]) -> bool:
    return any(_is_around(each, members) for each in members)


def _with_all(found: list[_Candidate]) -> list[_Candidate]:
    """The candidates, and those of one level that may be the parts of one network together."""
    plain = [each for each in found if not each.is_average and not each.is_chosen and each.path]
    siblings = len({each.path[:-1] for each in plain}) == 1 and not any(
        each.path[-1] in _WEIGHTS for each in plain
    )
    if len(plain) < 2 or not siblings:
        return found
    union = _union((*plain[0].path[:-1], _ALL), plain, len(plain[0].path) - 1)
    return [*found, replace(union, is_all=True)]


def _union(path: tuple[str, ...], members: Sequence[_Candidate], depth: int | None = None) -> _Candidate:
    depth = len(path) if depth is None else depth
    entries = {
        ".".join((*each.path[depth:], str(key))): value
        for each in members
        for key, value in each.entries.items()
        if isinstance(value, Array)
    }
    return _Candidate(path, entries, members[0].around)


def _nothing(contents: object, name: str) -> Refusal:
    entries = dictionary(contents)
    if entries is None:
        kind = "Tensor" if isinstance(contents, Array) else type(contents).__name__
        kind = "Python object" if isinstance(contents, Inert) else kind
        return Refusal(f"'{name}' holds a {kind}, not a state dict; save model.state_dict().")
    if _is_optimiser(entries):
        return Refusal(
            f"'{name}' holds the state of an optimiser and no weights; give the checkpoint of the model."
        )
    for key, value in entries.items():
        if isinstance(key, str) and not isinstance(value, (Array, dict)) and len(entries) < 3:
            kind = "Python object" if isinstance(value, Inert) else type(value).__name__
            return Refusal(
                f"'{name}' is not a state dict of tensors alone: its entry '{shown(key)}' has a {kind} "
                "where a tensor with a name is expected; save model.state_dict()."
            )
        if not isinstance(key, (str, int)):
            return Refusal(
                f"'{name}' has entries whose names are no text, so it is no state dict; "
                "save model.state_dict()."
            )
        if isinstance(key, int) and isinstance(value, Array):
            return Refusal(
                f"'{name}' is not a state dict of tensors alone: its entry '{shown(key)}' has a number "
                "where a tensor has its name; save model.state_dict()."
            )
    return Refusal(f"'{name}' holds no tensors under names; save model.state_dict().")


def _chosen(
    found: list[_Candidate], name: str, wanted: str, notes: list[str]
) -> tuple[_Candidate, str, bool]:
    """The candidate to take, the part of its names to take, and whether the choice is in doubt."""
    plain = [each for each in found if not (each.is_average or each.is_chosen or each.is_all)]
    if wanted:
        return (*_asked_for(found, name, wanted), False)
    if len(found) == 1:
        _say_average(found[0], notes)
        return found[0], "", False
    best = plain or [each for each in found if not each.is_average] or found
    known = [each for each in best if each.path and each.path[-1] in _WEIGHTS]
    if len(best) > 1 and len(known) == 1:
        best = known
    taken = best[0]
    undecided = len(best) > 1
    others = [each for each in found if each is not taken]
    if not undecided:
        _say_average(taken, notes)
        listed = ", ".join(f"'{shown(each.name or 'the rest')}'" for each in others[:4])
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        averages = all(each.is_average for each in others)
        what = (
            ("An average over training steps, " if len(others) == 1 else "Averages over training steps, ")
            if averages
            else "Other weights in the file, "
        )
        notes.append(
            f"{what}{listed}{more}, {'is' if len(others) == 1 and averages else 'are'} not taken; choose "
            f"{'it' if len(others) == 1 else 'among them'} with --entry."
        )
    return taken, "", undecided


def _say_average(taken: _Candidate, notes: list[str]) -> None:
    if taken.is_average:
        notes.append(
            f"The weights are an average over training steps, the file's entry '{shown(taken.name)}'."
        )


def _asked_for(found: list[_Candidate], name: str, wanted: str) -> tuple[_Candidate, str]:
    for each in found:
        if each.name == wanted:
            return each, ""
    for each in found:
        inner = wanted.removeprefix(f"{each.name}/") if each.name else wanted
        if (inner != wanted or not each.name or len(found) == 1) and any(
            isinstance(key, str) and key.startswith(f"{inner}.") for key in each.entries
        ):
            return each, inner
    near = ", ".join(shown(each.name) for each in found[:_MOST_OFFERED] if each.name) or "none by name"
    raise Refusal(f"'{name}' has no weights called '{shown(wanted)}'; it has {near}.")


def _beside(chosen: _Candidate) -> str:
    """The entries beside the weights, by name."""
    last = chosen.around[-1] if chosen.around else {}
    facts = (*_STEPS, *_EPOCHS, *METRICS)
    others = [
        shown(key)
        for key, value in last.items()
        if isinstance(key, str)
        and key != chosen.path[-1]
        and key not in facts
        and not (_AVERAGE.search(key) or _CHOSEN.search(key) or isinstance(value, Number))
        and (isinstance(value, (dict, list, Inert)) or (isinstance(value, Array) and value.numel > 1))
    ]
    return ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")


# --- Tensors ----------------------------------------------------------------------------------------------


def _checked(
    entries: Mapping[Any, Any], name: str, notes: list[str], floats: bool = True
) -> dict[str, Array]:
    """The dense, real tensors among the entries; what else there is is left aside, and said.

    Raises:
        Refusal: The weights are quantised, or no tensor is left.
    """
    quantised = next(
        (str(key) for key, each in entries.items() if getattr(each, "lack", "") == QUANTISED), None
    )
    names = [key for key in entries if isinstance(key, str)]
    for pattern, by in _QUANTISED_BY:
        hit = next((key for key in names if by and pattern.search(key)), None)
        if hit is not None or quantised is not None:
            which = f"'{shown(hit if quantised is None else quantised)}'" + (
                f", {by}" if hit and quantised is None else ""
            )
            raise Refusal(
                f"The weights in '{name}' are quantised ({which}), so the loss has no derivatives in them; "
                "give the checkpoint before quantisation, or dequantise the model and save its state dict."
            )
    kept: dict[str, Array] = {}
    aside: dict[str, list[str]] = defaultdict(list)
    for key, value in entries.items():
        why = lack(value)
        if why or not isinstance(key, str):
            aside[why if isinstance(key, str) else "not named by text"].append(shown(key))
        else:
            kept[key] = value
    if not any(is_float(each.dtype) or not floats for each in kept.values()):
        key, why = next(((keys[0], why) for why, keys in aside.items() if why != _NO_TENSOR), ("", ""))
        raise Refusal(refused_tensor(key, why, name))
    for why, keys in aside.items():
        keys = [key for key in keys if key not in (*_STEPS, *_EPOCHS, *METRICS)]
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            notes.append(f"{keys[0]}{more}, {why}, {'are' if more else 'is'} left aside.")
    return kept


_NO_TENSOR = "no tensor"


def lack(value: object) -> str:
    """Why a value can be no weight; empty if it can."""
    if not isinstance(value, Array):
        return _NO_TENSOR
    if value.storage is None:
        return value.lack or "sparse"
    if value.dtype.startswith("complex"):
        return "complex"
    if 0 in value.shape:
        return "without entries"
    return ""


def refused_tensor(key: str, why: str, name: str) -> str:
    if why == "complex":
        return f"The tensor '{key}' in '{name}' is complex; only real weights can be analysed."
    if why == "without entries":
        return f"The tensor '{key}' in '{name}' has no entries; save the state dict of a whole model."
    if why:
        return (
            f"The tensor '{key}' in '{name}' is {why}, not a dense array of numbers; save dense tensors "
            "(tensor.to_dense(), or model.full_tensor() of a sharded one)."
        )
    return f"'{name}' holds no tensors of floating-point numbers; save model.state_dict()."


def is_mask(array: Array) -> bool:
    """Whether all numbers that are not finite are −∞ beside zeros, as in the mask of an attention layer."""
    numbers = np.asarray(array.view(), np.float64) if array.numel <= 2**24 else None
    return numbers is not None and bool(((numbers == 0) | (numbers == -np.inf)).all())


def _without_wrappers(tensors: dict[str, Array]) -> dict[str, Array]:
    """The tensors without what wrappers have put into the middle of their names."""
    renamed = {_WRAPPERS.sub("", key): each for key, each in tensors.items()}
    inner = [key for key in tensors if _WRAPPERS.search(key, 1)]
    # At the front they are prefixes, which are remembered.
    return renamed if inner and len(renamed) == len(tensors) else tensors


def _unwrapped(tensors: dict[str, Array], prefix: str, notes: list[str]) -> tuple[dict[str, Array], str]:
    for wrapper in (*_PREFIXES, *_own_prefix(tensors)):
        inside = {key for key in tensors if key.startswith(wrapper)}
        aside = [key for key in tensors if key not in inside]
        if not inside or not all(
            ASIDE.match(key) or _STATE_OF_OTHERS.match(key) or key == "step" for key in aside
        ):
            continue
        if _COUNT_OF_AVERAGES in aside:
            aside.remove(_COUNT_OF_AVERAGES)
            notes.append("The weights are an average over training steps (AveragedModel).")
        if aside:
            more = f" and {len(aside) - 1} more" if len(aside) > 1 else ""
            average = next((key.partition(".")[0] for key in aside if _AVERAGED_WITHIN.match(key)), None)
            advice = f"; take the average with --entry {shown(average)}" if average else ""
            notes.append(
                f"{shown(aside[0])}{more}, beside the network under '{shown(wrapper)}', is left out{advice}."
            )
        # Before they are renamed: names in the file may repeat themselves once wrappers are off.
        stripped = {key.removeprefix(wrapper): value for key, value in tensors.items() if key in inside}
        return _unwrapped(stripped, prefix + wrapper, notes)
    return tensors, prefix


def _own_prefix(tensors: Mapping[str, Array]) -> list[str]:
    """The name under which all lies but metrics and losses: a Lightning module's own for its network."""
    aside = [key for key in tensors if ASIDE.match(key)]
    tops = {key.partition(".")[0] for key in tensors if not ASIDE.match(key)}
    named = all("." in key for key in tensors if not ASIDE.match(key))
    return [f"{top}." for top in tops] if aside and len(tops) == 1 and named else []


def _with_our_names(tensors: dict[str, Array], notes: list[str]) -> dict[str, Array]:
    renamed = {_DEEPOBS.sub(r"\1.", key, count=1): value for key, value in tensors.items()}
    layers = {key.partition(".")[0] for key in renamed}
    if len(renamed) < len(tensors) or renamed.keys() == tensors.keys() or layers not in _DEEPOBS_LAYERS:
        return tensors
    old, new = next((old, new) for old, new in zip(tensors, renamed, strict=True) if old != new)
    notes.append(f"The layers are named as in DeepOBS; {old} is {new} here.")
    return renamed


def notes_on_numbers(tensors: Mapping[str, Array]) -> list[str]:
    """What becomes of number types other than float32, and which weights are tied."""
    notes = []
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values() if is_float(tensor.dtype)):
        if dtype == "float64":
            notes.append("Weights in float64 are rounded to float32, unless the analysis is in float64.")
        elif dtype != "float32":
            notes.append(f"Weights in {dtype} are computed in the precision of the analysis.")
    groups = defaultdict(list)
    for key, tensor in tensors.items():
        groups[tensor.key].append(key)
    notes += [
        f"{' and '.join(map(shown, tied))} are one tensor." for tied in groups.values() if len(tied) > 1
    ]
    return notes[:5]


# --- Facts ------------------------------------------------------------------------------------------------


def step_in(facts: Mapping[Any, Any]) -> int | None:
    """The training step among the facts that a file records."""
    # Composer's iterations are something else; it counts batches.
    stamp = next((each for each in _places(facts) if "batch" in each and "sample" in each), None)
    found = _count(facts, _STEPS) if stamp is None else _count(stamp, ("batch",))
    history = facts.get("optimizer_history")
    if found is None and isinstance(history, list) and history and isinstance(history[-1], dict):
        found = _count(dictionary(history[-1]) or {}, ("num_updates",))
    return found


def epoch_in(facts: Mapping[Any, Any]) -> int | None:
    """The epoch among the facts; the number of completed ones where it is a fraction."""
    return _count(facts, _EPOCHS)


def optimizer_in(loaded: object) -> dict[Any, Any] | None:
    """The state dict of the optimizer in what a file holds; of several, the first."""
    facts = dictionary(loaded)
    return None if facts is None else _optimizer(facts)


def _optimizer(facts: Mapping[Any, Any]) -> dict[Any, Any] | None:
    for key in _OPTIMIZERS:
        held = facts.get(key)
        optimizer = dictionary(held[0] if isinstance(held, list) and held else held) or {}
        if isinstance(optimizer.get("param_groups"), list):
            return optimizer
    return None


def learning_rate_in(facts: Mapping[Any, Any]) -> float | None:
    """The learning rate of the optimizer, where all its groups have the same, or as a fact beside it."""
    optimizer = _optimizer(facts)
    if optimizer is not None:
        groups = optimizer["param_groups"]
        if groups:
            rates = {finite((dictionary(each) or {}).get("lr")) for each in groups[:_MOST_GROUPS]}
            rate = rates.pop()
            return rate if not rates and rate is not None and rate > 0 else None
    for place in _places(facts):
        for key in _RATES:
            rate = finite(place.get(key))
            if rate is not None and rate > 0:
                return rate
    return None


def _places(facts: Mapping[Any, Any], depth: int = 0) -> Iterable[Mapping[Any, Any]]:
    yield facts
    for key in _FACTS:
        inner = dictionary(facts.get(key))
        if inner is not None and depth < 3:
            yield from _places(inner, depth + 1)


def _count(facts: Mapping[Any, Any], keys: Iterable[str]) -> int | None:
    keys = tuple(keys)
    for place in _places(facts):
        for key in keys:
            value = finite(place.get(key))
            if value is not None and (value.is_integer() or key in _EPOCHS) and 0 <= value <= LARGEST_STEP:
                return math.floor(value)
    return None


def _metrics(facts: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {key: finite(facts.get(key)) for key in METRICS}
    return {key: value for key, value in numbers.items() if value is not None}


def finite(value: object) -> float | None:
    """A finite number, also where it is written as a string or held by a tensor or scalar of one entry."""
    if isinstance(value, Number):
        value = getattr(value, "value", None)
    if isinstance(value, Array):
        value = _only_number(value)
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _only_number(array: Array) -> float | None:
    try:
        if array.numel == 1 and not array.dtype.startswith("complex"):
            return float(array.view().reshape(-1)[0])
    except (ValueError, TypeError):
        pass
    return None
