"""The kinds of checkpoint file that training code writes, each made as its writer makes it.

``KINDS`` is the table: what a file is, how it is made, and what is to be read of it. ``docs/checkpoints.md``
names the writers; a test compares the two.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import gzip
import io
import pathlib
import pickle
import random
import sys
import tarfile
import types
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class Net(nn.Sequential):
    """A small network with a convolution, batch normalisation and a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            collections.OrderedDict[str, nn.Module](
                conv=nn.Conv2d(1, 3, 3),
                bn=nn.BatchNorm2d(3),
                relu=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(2),
                flat=nn.Flatten(),
                fc=nn.Linear(12, 4),
            )
        )


@cache
def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Net().eval()


def state() -> State:
    """What is to be read of every file."""
    return network().state_dict()


def under(prefix: str, tensors: State | None = None) -> State:
    return {prefix + name: tensor for name, tensor in (state() if tensors is None else tensors).items()}


def other(tensors: State | None = None) -> State:
    """Weights of the same names and shapes that are not the ones to be read."""
    return {name: torch.full_like(tensor, 9) for name, tensor in (tensors or state()).items()}


@cache
def optimiser() -> dict[str, Any]:
    """The state of Adam after a step, which torch.optim would import a lot for."""
    shapes = [parameter.shape for parameter in network().parameters()]
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.ones(shape), "exp_avg_sq": torch.ones(shape)}
        for number, shape in enumerate(shapes)
    }
    group = {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "params": list(range(len(shapes)))}
    return {"state": moments, "param_groups": [group]}


def packages(module: str) -> list[str]:
    """Make a module and the packages around it, where there are none; the names of those that were made."""
    parts = module.split(".")
    paths = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    made = [path for path in paths if path not in sys.modules]
    sys.modules |= {path: types.ModuleType(path) for path in made}
    return made


@contextmanager
def classes(**bases: type) -> Iterator[dict[str, Any]]:
    """Classes of packages that are not installed, by full names with ``__`` for dots; gone afterwards."""
    made: dict[str, Any] = {}
    added: list[str] = []
    for key, base in bases.items():
        module, _, name = key.replace("__", ".").rpartition(".")
        added += packages(module)
        made[name] = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, made[name])
    try:
        yield made
    finally:
        for path in added:
            del sys.modules[path]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        what: Its row in the table.
        make: Makes it in a folder.
        step: The training step that it tells; None if it tells none.
        epoch: Likewise.
        guess: The number in its name that may be a step.
        entry: The entry that is asked for.
        offered: The entries that are offered.
        undecided: Whether somebody has to choose among them.
        said: What is said about it: a part of the notes, or of the refusal.
        refused: Whether it is refused.
        safe: Whether PyTorch's safe loading reads it.
        beside: Names that are read besides those of the network.
        expected: The state dict to be read; that of ``network`` if not given.
    """

    what: str
    make: Callable[[Path], Path]
    step: int | None = None
    epoch: int | None = None
    guess: int | None = None
    entry: str = ""
    offered: tuple[str, ...] = ()
    undecided: bool = False
    said: str = ""
    refused: bool = False
    safe: bool = True
    beside: frozenset[str] = frozenset()
    expected: Callable[[], State] | None = None


KINDS: list[Kind] = []


def saved(
    what: str,
    contents: Callable[[], object],
    file: str = "a.pt",
    *,
    old: bool = False,
    protocol: int = 2,
    **facts: Any,
) -> None:
    """Add a kind that ``torch.save`` writes."""

    def make(folder: Path) -> Path:
        path = folder / file
        torch.save(contents(), path, _use_new_zipfile_serialization=not old, pickle_protocol=protocol)
        return path

    KINDS.append(Kind(what, make, **facts))


def written(what: str, write: Callable[[Path], object], file: str, **facts: Any) -> None:
    """Add a kind that ``write`` writes to a path."""

    def make(folder: Path) -> Path:
        write(folder / file)
        return folder / file

    KINDS.append(Kind(what, make, **facts))


def refused(what: str, write: Callable[[Path], object], said: str, file: str = "a.pt", **facts: Any) -> None:
    """Add a kind that is refused."""
    written(what, write, file, said=said, refused=True, **{"safe": False} | facts)


# --- Plain state dicts, in every form ---------------------------------------------------------------------

saved("torch.save(model.state_dict())", state)
saved("… in the old format", state, old=True)
saved("… with protocol 3 in the old format", state, old=True, protocol=3)
saved("… with protocol 4", state, protocol=4, safe=False)
saved("… with protocol 4 in the old format", state, old=True, protocol=4, safe=False)
saved("… with protocol 5", state, protocol=5, safe=False)
for suffix in (".pth", ".ckpt", ".bin", ".pth.tar", ".t7", ".pkl", ".th", ".model", ".pickle"):
    saved(f"a state dict as {suffix}", state, f"a{suffix}")
saved("a plain dictionary of tensors", lambda: dict(state()))
saved("a state dict of parameters", lambda: {**state(), **dict(network().named_parameters())})
saved("a state dict on keep_vars", lambda: network().state_dict(keep_vars=True))
saved("an OrderedDict with its items as argument", lambda: items_as_argument())
saved("float64", lambda: {key: each.double() for key, each in state().items()}, said="float64")
saved("channels last", lambda: {key: channels_last(each) for key, each in state().items()})
saved("transposed storage", lambda: state() | {"fc.weight": state()["fc.weight"].T.contiguous().T})
saved("a slice of a larger storage", lambda: state() | {"fc.bias": torch.cat([state()["fc.bias"]] * 3)[4:8]})
saved("an expanded tensor", lambda: state() | {"bn.weight": torch.ones(1).expand(3)})
saved("a state dict with its metadata attribute", lambda: with_metadata())
saved("without counters of batches", lambda: {k: v for k, v in state().items() if "num_batches" not in k})
saved("gradients kept beside parameters", lambda: with_gradients())


def items_as_argument() -> object:
    class Old(collections.OrderedDict):  # type: ignore[type-arg]
        def __reduce__(self) -> Any:
            return collections.OrderedDict, ([[key, value] for key, value in self.items()],)

    return Old(state())


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def with_metadata() -> object:
    found = collections.OrderedDict(state())
    found._metadata = {"": {"version": 1}, "conv": {"version": 2}}  # type: ignore[attr-defined]
    return found


def with_gradients() -> object:
    net = Net()
    net.load_state_dict(state())
    net.eval()(torch.ones(1, 1, 6, 6)).sum().backward()
    return dict(net.named_parameters()) | dict(net.named_buffers())


def attributed(kind: str) -> State:
    found = {name: tensor.clone() for name, tensor in state().items()}
    for name in ("conv.weight", "fc.weight"):
        if kind == "parameter":
            found[name] = nn.Parameter(found[name])
        found[name].tensor_model_parallel = True  # type: ignore[attr-defined]
        found[name].partition_dim = 0  # type: ignore[attr-defined]
    return found


saved("parameters that carry attributes (Megatron)", lambda: attributed("parameter"))
saved("tensors that carry attributes", lambda: attributed("tensor"))
written("safetensors", lambda path: safetensors.torch.save_file(state(), path), "a.safetensors")
written(
    "safetensors with metadata",
    lambda path: safetensors.torch.save_file(state(), path, {"format": "pt", "step": "12", "epoch": "3"}),
    "model.safetensors",
    step=12,
    epoch=3,
)
for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
    saved(
        f"weights in {dtype}",
        lambda dtype=dtype: {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()},
        said=f"Weights in {str(dtype).removeprefix('torch.')} are computed",
        expected=lambda dtype=dtype: {
            k: v.to(dtype).float() if v.is_floating_point() else v for k, v in state().items()
        },
    )

# --- Entries with the weights -----------------------------------------------------------------------------

for entry in (
    *("state_dict", "model_state_dict", "model", "net", "module", "network", "params", "state", "weights"),
    *("model_weights", "net_state_dict", "model_state", "generator_state", "encoder", "G", "my_own_name"),
    *("student_weights", "classifier", "backbone_state"),
):
    saved(
        f"weights under '{entry}' beside epoch and optimiser",
        lambda entry=entry: {entry: state(), "optimizer": optimiser(), "epoch": 4},
        epoch=4,
    )
saved("only averaged weights", lambda: {"params_ema": state()}, said="an average over training steps")
saved("the best weights alone", lambda: {"best_model_state": state(), "best_acc": 0.9})
saved(
    "weights in an entry of an entry",
    lambda: {"checkpoint": {"model": {"state_dict": state()}, "iteration": 3}, "version": 1},
    step=3,
)
saved("weights in a list", lambda: [{"model": state(), "step": 4}, optimiser()], step=4)
saved(
    "state dicts of parts within one entry (Megatron)",
    lambda: megatron(),
    safe=False,
    step=70,
    expected=lambda: parts(),
)
saved(
    "the entry of a mapping of one's own",
    lambda: {"epoch": 1, "nested": {"deep": {"weights": state()}}},
    epoch=1,
)
saved(
    "tensors beside other values",
    lambda: {**state(), "epoch": 5, "note": "hello", "config": {"lr": 0.1}},
    epoch=5,
    said="note and 1 more, no tensor, are left aside",
)
saved(
    "a list of tensors",
    lambda: {"params": list(state().values())[:2], "step": 8},
    step=8,
    expected=lambda: {str(number): each for number, each in enumerate(list(state().values())[:2])},
)


def parts() -> State:
    return {f"language_model.{name}": tensor for name, tensor in state().items()}


def megatron() -> object:
    nested: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
    for name, tensor in state().items():
        first, _, rest = name.partition(".")
        nested[first][rest] = tensor
    return {
        "args": argparse.Namespace(hidden_size=4),
        "checkpoint_version": 3.0,
        "iteration": 70,
        "model": {"language_model": dict(nested)},
        "rng_state": [{"random_rng_state": random.getstate(), "np_rng_state": np.random.get_state()}],
    }


# Several candidates: one is beyond doubt, or somebody has to choose.
saved(
    "timm: state_dict and state_dict_ema",
    lambda: {
        "epoch": 12,
        "arch": "resnet18",
        "state_dict": state(),
        "optimizer": optimiser(),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("/out")),
        "state_dict_ema": other(),
        "metric": np.float64(71.5),
    },
    "checkpoint-12.pth.tar",
    epoch=12,
    offered=("state_dict", "state_dict_ema"),
    said="'state_dict_ema', is not taken; choose it with --entry",
    safe=False,
)
for average in (
    "ema",
    "model_ema",
    "params_ema",
    "swa_model",
    "module_ema",
    "ema_state_dict",
    "averaged_model",
):
    saved(
        f"'model' beside '{average}'",
        lambda average=average: {"model": state(), average: other(), "global_step": 5},
        step=5,
        offered=("model", average),
        said=f"'{average}', is not taken",
    )
    saved(
        f"'{average}' by name",
        lambda average=average: {"model": other(), average: state(), "global_step": 5},
        step=5,
        entry=average,
        offered=("model", average),
    )
saved(
    "basicsr: params and params_ema",
    lambda: {"params": state(), "params_ema": other()},
    "net_g_5000.pth",
    guess=5000,
    offered=("params", "params_ema"),
)
saved(
    "diffusers: EMAModel",
    lambda: {"decay": 0.999, "optimization_step": 40, "shadow_params": list(state().values())[:4]},
    step=40,
    expected=lambda: {str(number): each for number, each in enumerate(list(state().values())[:4])},
    said="an average over training steps",
)
saved(
    "'model' beside 'best_model_state'",
    lambda: {"model": state(), "best_model_state": other(), "epoch": 2},
    epoch=2,
    offered=("model", "best_model_state"),
    said="Other weights in the file, 'best_model_state'",
)
for first, second in (
    ("generator", "discriminator"),
    ("G", "D"),
    ("student", "teacher"),
    ("actor", "critic"),
):
    saved(
        f"'{first}' and '{second}', of which somebody chooses",
        lambda first=first, second=second: {first: state(), second: other(), "step": 6},
        step=6,
        offered=(first, second, "all"),
        undecided=True,
    )
    saved(
        f"'{second}' chosen by name",
        lambda first=first, second=second: {first: other(), second: state(), "step": 6},
        step=6,
        entry=second,
        offered=(first, second, "all"),
    )
saved(
    "'encoder' and 'classifier' together",
    lambda: {
        "encoder": {k: v for k, v in state().items() if not k.startswith("fc")},
        "classifier": {k: v for k, v in state().items() if k.startswith("fc")},
    },
    entry="all",
    offered=("encoder", "classifier", "all"),
    expected=lambda: {
        ("classifier." if k.startswith("fc") else "encoder.") + k: v for k, v in state().items()
    },
)
saved(
    "best and last, of which somebody chooses",
    lambda: {"best": state(), "last": other()},
    offered=("best", "last"),
    undecided=True,
)
saved("'last' by name", lambda: {"best": other(), "last": state()}, entry="last", offered=("best", "last"))

# --- Prefixes ---------------------------------------------------------------------------------------------

for prefix in (
    *(
        "module.",
        "_orig_mod.",
        "model.",
        "net.",
        "network.",
        "backbone.",
        "module._orig_mod.",
        "_orig_mod.module.",
    ),
    *("model._orig_mod.", "_forward_module.", "_forward_module.model.", "online_model.", "module.module."),
    *(
        "_fsdp_wrapped_module.",
        "_fsdp_wrapped_module._checkpoint_wrapped_module.",
        "model._fsdp_wrapped_module.",
    ),
):
    saved(f"names under '{prefix}'", lambda prefix=prefix: under(prefix))
for within in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module"):
    saved(f"'{within}' inside names", lambda within=within: inside(within))
saved("nested wrappers inside names", lambda: inside("_fsdp_wrapped_module._checkpoint_wrapped_module"))
for own in ("classifier", "encoder", "my_net", "feature_extractor", "resnet"):
    saved(
        f"a Lightning module's '{own}' with metrics and loss weights beside it",
        lambda own=own: {
            "state_dict": under(f"{own}.")
            | {
                "train_acc.tp": torch.zeros(4),
                "val_acc.tp": torch.zeros(4),
                "criterion.weight": torch.ones(4),
                "val_loss.value": torch.tensor(float("nan")),
                "best_f1.min_value": torch.tensor(float("inf")),
            },
            "epoch": 2,
            "global_step": 20,
            "pytorch-lightning_version": "2.6.0",
        },
        "a.ckpt",
        step=20,
        epoch=2,
        said="beside the network under",
    )
saved("swa_utils.AveragedModel", lambda: averaged(), said="(AveragedModel)")
saved(
    "ema-pytorch: online_model and ema_model",
    lambda: (
        under("online_model.")
        | under("ema_model.", other())
        | {"initted": torch.tensor(True), "step": torch.tensor(9)}
    ),
    said="take the average with --entry ema_model",
)
saved(
    "'ema_model' in the names, chosen by name",
    lambda: under("model.", other()) | under("ema_model."),
    entry="ema_model",
)
saved(
    "a part of the names, chosen by name",
    lambda: {
        "state_dict": under("backbone.") | {"head.weight": torch.ones(3, 4), "head.bias": torch.ones(3)}
    },
    entry="backbone",
    said="the 9 under 'backbone' are taken",
)


def inside(wrapper: str) -> State:
    """Names as of a model in which each layer is wrapped."""
    return {name.replace(".", f".{wrapper}.", 1): tensor for name, tensor in state().items()}


def averaged() -> State:
    return torch.optim.swa_utils.AveragedModel(network()).state_dict()


# --- What stands beside the weights -----------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Config:
    rate: float = 0.1
    layers: tuple[int, ...] = (3, 4)


class Nested:
    class Config:
        rate = 0.1


def beside(what: str, value: Callable[[], object], **facts: Any) -> None:
    saved(
        f"beside the weights: {what}",
        lambda: {"model": state(), "beside": value(), "epoch": 3},
        epoch=3,
        **facts,
    )


beside("an optimiser's state", optimiser)
beside(
    "an optimiser's state keyed by id()",
    lambda: {"state": {id(Colour): {"step": 1, "exp_avg": torch.ones(3)}}, "param_groups": []},
)
beside("tensors keyed by tuples", lambda: {(0, 1): torch.ones(3), (1, 2): torch.ones(3)})
beside("tensors keyed by floats", lambda: {0.5: torch.ones(3)})
beside("values keyed by devices", lambda: {torch.device("cpu"): torch.ones(3)})
beside("values keyed by tensors", lambda: {torch.ones(2): 1})
beside("values keyed by types", lambda: {torch.float32: 1})
beside("torch.strided", lambda: torch.strided)
beside("bytearray", lambda: bytearray(b"abc"))
beside("bytes", lambda: b"abc")
beside("a set", lambda: {1, "a"})
beside("a frozenset", lambda: frozenset((1, 2)), safe=False)
beside("a range", lambda: range(3), safe=False)
beside("a slice", lambda: slice(1, 2), safe=False)
beside("a complex number", lambda: 1 + 2j)
beside("a Counter", lambda: collections.Counter({30: 1}))
beside("a defaultdict", lambda: collections.defaultdict(list, {"loss": [2.3]}), safe=False)
beside("a deque", lambda: collections.deque([1.0], maxlen=2), safe=False)
beside(
    "an enumeration", lambda: Colour.RED, safe=False, said="Colour are left aside; nothing of theirs was run"
)
beside("a dataclass", lambda: Config(), safe=False, said="Config are left aside")
beside("an object of a class within a class", lambda: Nested.Config(), safe=False)
beside("argparse.Namespace", lambda: argparse.Namespace(lr=0.1), safe=False)
beside("a path", lambda: pathlib.PurePosixPath("/a"), safe=False)
beside("dates and durations", lambda: (datetime(2024, 1, 2), timedelta(seconds=1)), safe=False)
beside("a UUID", lambda: uuid.UUID(int=3), safe=False)
beside("numpy's numbers", lambda: (np.float64(1.5), np.int64(3), np.float32(0.5)), safe=False)
beside("a numpy array", lambda: np.ones(3), safe=False)
beside("random states", lambda: {"torch": torch.get_rng_state(), "python": random.getstate()})
beside("numpy's random state", lambda: np.random.get_state(), safe=False)
beside("torch.Size", lambda: torch.Size((2, 3)))
beside("a learning-rate scheduler", lambda: scheduler(), safe=False)
beside("a scheduler's state", lambda: scheduler().state_dict())
beside("a GradScaler's state", lambda: {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0})
beside("an empty tensor", lambda: torch.zeros(0))
beside("a sparse tensor", lambda: torch.eye(3).to_sparse())
beside("a tensor on the meta device", lambda: torch.zeros(3, device="meta"))
beside("losses as a tensor", lambda: torch.ones(100))
beside("a complex tensor", lambda: torch.zeros(2, dtype=torch.complex64))
beside("mmengine's configuration", lambda: foreign("mmengine__config__config__ConfigDict", dict), safe=False)
beside(
    "fairseq's configuration",
    lambda: foreign("fairseq__dataclass__configs__FairseqConfig", object),
    safe=False,
)
beside("OmegaConf", lambda: foreign("omegaconf__dictconfig__DictConfig", object), safe=False)
beside("EasyDict", lambda: foreign("easydict__EasyDict", dict), safe=False)
beside("yacs", lambda: foreign("yacs__config__CfgNode", dict), safe=False)
beside("ml_collections", lambda: foreign("ml_collections__config_dict__ConfigDict", object), safe=False)
beside(
    "Hydra's and a class of one's own",
    lambda: foreign("my_project__training__TrainerState", object),
    safe=False,
)


def scheduler() -> Any:
    adam = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    return torch.optim.lr_scheduler.StepLR(adam, 3)


def foreign(full_name: str, base: type) -> object:
    """An object of a class that was there when it was pickled and is not when it is read."""
    with classes(**{full_name: base}) as made:
        [kind] = made.values()
        value = kind()
        value.update(lr=0.1) if base is dict else setattr(value, "lr", 0.1)
        keep = io.BytesIO()
        torch.save(value, keep)  # it can be pickled
    return _Late(full_name, base)


class _Late:
    """Pickled as an object of a class of another module, with a state."""

    def __init__(self, full_name: str, base: type) -> None:
        self.full_name, self.base = full_name, base

    def __reduce__(self) -> Any:
        module, _, name = self.full_name.replace("__", ".").rpartition(".")
        made = type(name, (), {"__module__": module, "__qualname__": name})
        LATE.extend(packages(module))
        setattr(sys.modules[module], name, made)
        items = iter({"lr": 0.1}.items()) if self.base is dict else None
        return made, (), {"_rate": 0.1}, None, items


LATE: list[str] = []
"""Modules that were made for ``foreign``; the test takes them away before it reads."""

# --- Odd tensors among the weights ------------------------------------------------------------------------


def among(what: str, more: Callable[[], State], said: str = "", **facts: Any) -> None:
    saved(f"among the weights: {what}", lambda: state() | more(), said=said, **facts)


among("an empty buffer", lambda: {"cache": torch.zeros(0)}, "cache, without entries, is left aside")
among(
    "a complex buffer",
    lambda: {"freqs_cis": torch.ones(2, dtype=torch.complex64)},
    "freqs_cis, complex, is left aside",
)
among("a sparse buffer", lambda: {"adjacency": torch.eye(3).to_sparse()}, "adjacency, sparse, is left aside")
among("a buffer on the meta device", lambda: {"late": torch.ones(2, device="meta")}, "late, without numbers")
among(
    "an empty _extra_state",
    lambda: {"fc._extra_state": None},
    "fc._extra_state, no tensor, is left aside",  # type: ignore[dict-item]
)
among(
    "a bytes _extra_state (Transformer Engine)",
    lambda: {"fc._extra_state": io.BytesIO(b"x").getvalue()},
    "no tensor",
)  # type: ignore[dict-item]
among(
    "a tensor _extra_state",
    lambda: {"fc._extra_state": torch.ones(3, dtype=torch.uint8)},
    beside=frozenset({"fc._extra_state"}),
)
among("a mask of −∞", lambda: {"mask": torch.full((3, 3), -torch.inf).triu(1)}, beside=frozenset({"mask"}))
among("a boolean mask", lambda: {"mask": torch.ones(3, 3, dtype=torch.bool)}, beside=frozenset({"mask"}))
among("integers", lambda: {"position_ids": torch.arange(5)}, beside=frozenset({"position_ids"}))
among("a parameter that is None", lambda: {"fc.extra": None}, "no tensor")  # type: ignore[dict-item]
saved(
    "layers that share weights (ALBERT)",
    lambda: state() | {"again.weight": state()["fc.weight"]},
    said="fc.weight and again.weight are one tensor",
    beside=frozenset({"again.weight"}),
)
saved("one storage of all parameters", lambda: flat())
saved(
    "pruning's masks",
    lambda: state() | {"fc.weight_mask": torch.ones(4, 12)},
    beside=frozenset({"fc.weight_mask"}),
)


def flat() -> State:
    whole = torch.cat([tensor.reshape(-1).float() for tensor in state().values()])
    sizes = [tensor.numel() for tensor in state().values()]
    pieces = zip(state().items(), whole.split(sizes), strict=True)
    return {k: p.view(v.shape) if v.is_floating_point() else v for (k, v), p in pieces}


# --- Steps and epochs -------------------------------------------------------------------------------------

for key in ("step", "global_step", "global_steps", "iteration", "iter", "iter_num", "num_updates"):
    saved(f"the step as '{key}'", lambda key=key: {"model": state(), key: 300}, step=300)
saved("nanoGPT's ckpt.pt", lambda: nanogpt(), "ckpt.pt", step=2000)
saved("the step as a tensor", lambda: {"model": state(), "step": torch.tensor(300)}, step=300)
saved(
    "the step as a number of numpy", lambda: {"model": state(), "step": np.int64(300)}, step=300, safe=False
)
saved(
    "mmcv's meta",
    lambda: {"meta": {"epoch": 2, "iter": 90}, "state_dict": state()},
    "epoch_2.pth",
    step=90,
    epoch=2,
)
saved("fairseq's checkpoint", lambda: fairseq(), "checkpoint_3_1200.pt", step=1200, epoch=4)
saved("Composer's state", lambda: composer(), "ep2-ba100-rank0.pt", step=100, epoch=2)
saved(
    "detectron2's checkpoint",
    lambda: {
        "model": state(),
        "optimizer": optimiser(),
        "scheduler": {"last_epoch": 5000},
        "iteration": 4999,
    },
    "model_0004999.pth",
    step=4999,
)
saved(
    "PyTorch's ImageNet example",
    lambda: {
        "epoch": 5,
        "arch": "resnet18",
        "state_dict": under("module."),
        "best_acc1": torch.tensor(61.0),
        "optimizer": optimiser(),
        "scheduler": {},
    },
    "checkpoint.pth.tar",
    epoch=5,
)
saved("a hash in the name", state, "efficientnet-lite0-57934424.pth")
saved("the size of images in the name", state, "vit_base_patch16_224.pth")
saved(
    "steps that are hyperparameters",
    lambda: {"model": state(), "num_steps": 1000, "epochs": 90, "max_steps": 5},
)
saved("a step in the name", state, "step_000300.pt", step=300)
saved("an epoch in the name", state, "epoch_12.pth", epoch=12)
saved("a number in the name", state, "model_40.pth", guess=40)
saved("a boolean called step", lambda: {"model": state(), "step": True})


def nanogpt() -> object:
    return {
        "model": under("_orig_mod."),
        "optimizer": optimiser(),
        "model_args": {"n_layer": 2, "vocab_size": 65},
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.47),
        "config": {"out_dir": "out", "max_iters": 5000},
    }


def fairseq() -> object:
    return {
        "args": None,
        "cfg": {"model": {"_name": "transformer"}},
        "model": state(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "CE", "optimizer_name": "FairseqAdam", "num_updates": 1200}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 4, "iterations_in_epoch": 0}, "val_loss": 3.2},
        "last_optimizer_state": optimiser(),
    }


def composer() -> object:
    stamp = {"iteration": 0, "epoch": 2, "batch": 100, "sample": 6400, "token": 0, "epoch_in_iteration": 2}
    return {
        "state": {
            "model": under("module."),
            "optimizers": {"Adam": optimiser()},
            "timestamp": {"Timestamp": stamp},
            "schedulers": {},
        },
        "rng": [{"torch": torch.get_rng_state()}],
    }


# --- Refused: with the true cause and one way on -----------------------------------------------------------


def in_bytes(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def in_tar(path: Path, names: tuple[str, ...]) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"abcd"))


def quantised() -> object:
    return {"fc.weight": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}


def in_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


refused(
    "gzip", lambda path: path.write_bytes(gzip.compress(in_bytes(state()))), "unpack it with 'gunzip'", "a.pt"
)
refused("xz", lambda path: path.write_bytes(__import__("lzma").compress(in_bytes(state()))), "'unxz'")
refused("bzip2", lambda path: path.write_bytes(__import__("bz2").compress(in_bytes(state()))), "'bunzip2'")
refused("a tar archive", lambda path: in_tar(path, ("model.pt",)), "is a tar archive; unpack it", "a.pth.tar")
refused(
    "PyTorch 0.1's tar format",
    lambda path: in_tar(path, ("sys_info", "pickle", "storages", "tensors")),
    "is of PyTorch 0.1, whose tar format",
    "a.pth.tar",
)
refused(
    "pickle.dump of a state dict",
    lambda path: path.write_bytes(pickle.dumps(state())),
    "torch.save(pickle.load(open(file, 'rb')), 'new.pt')",
    "a.pkl",
)
refused(
    "pickle.dump, protocol 2",
    lambda path: path.write_bytes(pickle.dumps(state(), 2)),
    "is a plain Python pickle",
    "a.pkl",
)
refused(
    "pickle.dump of numpy arrays",
    lambda path: path.write_bytes(pickle.dumps({k: v.numpy() for k, v in state().items()})),
    "is a plain Python pickle",
    "a.pkl",
)
refused(
    "a whole model",
    lambda path: torch.save(network(), path),
    "save model.state_dict() instead of the whole object",
)
refused(
    "a TorchScript program",
    lambda path: torch.jit.save(torch.jit.script(network()), path),
    "is a TorchScript program",
)
refused(
    "torch.ao's quantised weights",
    lambda path: torch.save(quantised(), path),
    "are quantised ('fc.weight')",
    safe=True,
)
refused(
    "bitsandbytes",
    lambda path: torch.save(
        state()
        | {
            "fc.weight": torch.ones(8, dtype=torch.uint8),
            "fc.weight.absmax": torch.ones(2),
            "fc.weight.quant_state.bitsandbytes__nf4": torch.ones(9, dtype=torch.uint8),
        },
        path,
    ),
    "are quantised ('fc.weight.absmax', bitsandbytes)",
    safe=True,
)
refused(
    "GPTQ",
    lambda path: torch.save(
        state() | {"fc.qweight": torch.ones(2, 2, dtype=torch.int32), "fc.scales": torch.ones(2)}, path
    ),
    "('fc.qweight', GPTQ or AWQ)",
    safe=True,
)
refused(
    "float8 with scales beside it",
    lambda path: torch.save(
        state() | {"fc.weight": torch.ones(4, 12).to(torch.float8_e4m3fn), "fc.weight_scale": torch.ones(1)},
        path,
    ),
    "scales beside it",
    safe=True,
)
refused(
    "an HDF5 file",
    lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600)),
    "is an HDF5 file",
    "a.pth",
)
refused("GGUF", lambda path: path.write_bytes(b"GGUF" + bytes(600)), "is a GGUF file", "a.bin")
refused(
    "Torch 7 for Lua",
    lambda path: path.write_bytes(b"\x04\0\0\0\x01\0\0\0" + bytes(600)),
    "is a file of Torch 7",
    "a.t7",
)
refused(
    "an optimiser's state alone",
    lambda path: torch.save(optimiser(), path),
    "holds the state of an optimiser",
    "optimizer.pt",
    safe=True,
)
refused(
    "NaN",
    lambda path: torch.save(state() | {"fc.bias": torch.full((4,), torch.nan)}, path),
    "holds NaN or infinite",
    safe=True,
)
refused(
    "one tensor", lambda path: torch.save(torch.ones(3), path), "holds a Tensor, not a state dict", safe=True
)
refused(
    "an entry that is not there",
    lambda path: torch.save({"model": state()}, path),
    "has no weights called 'ema'; it has model",
    safe=True,
    entry="ema",
)
refused(
    "a web page",
    lambda path: path.write_bytes(b"<!doctype html><html>Not found</html>"),
    "damaged or incomplete",
    "a.bin",
)
