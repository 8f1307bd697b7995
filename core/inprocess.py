"""The analysis of a model in memory, with any loss and any data: what scripts and notebooks call."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, default_collate

from seigh.core import analysis, curves
from seigh.core.analysis import Progress, Result
from seigh.core.curvature.causes import known, reason
from seigh.core.curvature.certificate import cloned
from seigh.core.device import available_memory, pick_device
from seigh.core.errors import first_line
from seigh.core.network import Network, chosen_theta, in_format, precision
from seigh.core.problems import data as datasets
from seigh.core.problems import losses
from seigh.core.problems.checkpoints import Checkpoint
from seigh.core.problems.data import DataError, Dataset, Subset
from seigh.core.problems.outputs import with_tensor_outputs
from seigh.core.settings import AnalysisSettings, Settings, SettingsError, refusal

Loss = nn.Module | Callable[[Tensor, Tensor], Tensor] | str

# Under these names a batch that is a mapping has its targets.
TARGETS = ("labels", "label", "targets", "target", "y")

# Part of the machine's memory that samples may take as they are collected: there are copies of them later,
# one in float64 among them.
_DATA_SHARE = 0.1

# Samples of a data set that are put together at once.
_CHUNK = 256

# The prefix of the buffers in which a network that takes several inputs holds them.
_HELD = "_seigh_input_"


@overload
def analyse(
    model: Path,
    settings: AnalysisSettings,
    /,
    *,
    name: str | None = None,
    environment: Settings | None = None,
    scratch: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Result: ...


@overload
def analyse(
    model: nn.Module,
    loss: Loss,
    data: Any,
    /,
    *,
    k: int | None = None,
    name: str | None = None,
    step: int | None = None,
    epoch: int | None = None,
    environment: Settings | None = None,
    scratch: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Result: ...


def analyse(model: Any, loss: Any, data: Any = None, /, **options: Any) -> Result:
    """Overlap between a network's largest parameters and the top eigenspaces of its Hessian.

    ``analyse(checkpoint, settings)`` reads a checkpoint file, and data by their name
    (``seigh.core.analysis.analyse``). ``analyse(model, loss, data, k=20)`` takes what is in memory, and gives
    the same result with the same checks and refusals. The model is copied, and the copy put in eval mode: the
    model itself, its gradients and the states of random numbers are left as they are.

    Args:
        model: A network, on any device; or the path of a checkpoint.
        loss: ``loss(outputs, targets) -> scalar``, the mean over the samples: a module, a function, or the
            name of one of ``seigh.core.problems.losses``. Of a network that returns several things, it gets
            the logits. For a checkpoint, its settings.
        data: ``(x, y)`` as tensors or arrays, where x may also be a tuple or a mapping of them, which become
            the arguments of the network; a data set of PyTorch, of which only the chosen samples are decoded;
            or a ``DataLoader``, a list of batches, or whatever else yields them. A batch is
            ``(inputs, targets)``, ``(input, input, …, targets)``, or a mapping with its targets under
            ``labels``, ``label``, ``targets``, ``target`` or ``y``.
        **options: ``k``, the number of eigenpairs, 100 or D if that is less. ``name``, ``step`` and ``epoch``
            of the model, which go into the record, for the lab. ``environment``, ``scratch`` and
            ``progress`` as for a checkpoint; the device is the model's unless ``environment`` names one. All
            others are those of ``AnalysisSettings``, such as ``curvature="ggn"``, ``weight_decay=5e-4``,
            ``parameters=("head.*",)``. ``samples`` are drawn by ``seed`` as ``subset`` says ("random" if it
            does not, or "balanced", …); of batches, they are the first that come. ``precision`` is float64
            if the model is, else float32. ``split`` is what the lab calls the data, "test" or "train".

    Raises:
        DataError: The data are malformed, too many for the memory, or do not fit the model.
        SettingsError: The settings, the loss or the model cannot work.
        SpectrumError: The Hessian has no usable spectrum, or the basis does not fit.
    """
    if isinstance(model, nn.Module):
        if data is None:
            raise SettingsError("There are no data; call analyse(model, loss, data).")
        return _of_model(model, loss, data, **options)
    if data is not None or not isinstance(loss, AnalysisSettings):
        raise SettingsError(
            f"analyse takes a torch.nn.Module with a loss and data, or the path of a checkpoint with its "
            f"AnalysisSettings, not {type(model).__name__} with {type(loss).__name__}."
        )
    return analysis.analyse(Path(model), loss, **options)


def _of_model(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    k: int | None = None,
    name: str | None = None,
    step: int | None = None,
    epoch: int | None = None,
    environment: Settings | None = None,
    scratch: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    **chosen: Any,
) -> Result:
    model = _unwrapped(model)
    leaf = _first_parameter(model)
    environment = environment or Settings(device=leaf.device.type)
    dimension = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for foreign in {"architecture", "data", "loss"} & chosen.keys():
        raise SettingsError(f"{foreign} is what is analysed here, and no option; leave it out.")
    wanted = {
        "architecture": f"{type(model).__module__}:{type(model).__qualname__}",
        "data": "memory",
        "loss": loss if isinstance(loss, str) else _name_of(loss),
        "k": min(100, dimension) if k is None else k,
        "precision": "float64" if leaf.dtype == torch.float64 else "float32",
    }
    samples = chosen.pop("samples", None)
    subset = chosen.pop("subset", "all" if samples is None and not chosen.get("indices") else None)
    if subset is None:
        subset = "indices" if chosen.get("indices") else "random"
    settings = _settings(wanted | chosen | {"subset": subset, "samples": samples})
    curves.check(settings)
    if settings.files or curves.of_earlier(settings):
        raise SettingsError(
            "Masks of files and earlier checkpoints go with checkpoints; save the model's state dict "
            "and analyse that file."
        )
    if isinstance(loss, str):
        losses.build(settings)
    called = f"Model '{name or type(model).__name__}'"
    with _untouched(data):

        def opened() -> Network:
            network = _network(model, loss, data, settings, environment)
            stored = replace(network.stored, name=name or type(model).__name__, step=step, epoch=epoch)
            return replace(network, stored=stored)

        return analysis.analyse_network(
            opened, settings, called=called, environment=environment, scratch=scratch, progress=progress
        )


def _settings(values: Mapping[str, Any]) -> AnalysisSettings:
    try:
        return AnalysisSettings(**values)
    except ValidationError as error:
        raise SettingsError(refusal(error)) from error


# --- The model --------------------------------------------------------------------------------------------


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what ``torch.compile`` and data parallelism put around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _first_parameter(model: nn.Module) -> Tensor:
    if any(isinstance(each, nn.UninitializedParameter) for each in model.parameters()):
        raise SettingsError("The model has parameters without a shape yet; run it once on a batch first.")
    if any(each.is_meta for each in (*model.parameters(), *model.buffers())):
        raise SettingsError("The model is on the meta device and has no numbers; give it weights first.")
    if other := next((name for name, p in model.named_parameters() if p.layout != torch.strided), None):
        raise SettingsError(
            f"The parameter '{other}' is a sparse tensor, of which there are no second derivatives; make it "
            "dense, with to_dense()."
        )
    found = next((p for p in model.parameters() if p.requires_grad), None)
    if found is None:
        raise SettingsError(
            "The model has no trainable parameter (requires_grad), so there is no θ; unfreeze some."
        )
    return found


def _copy(model: nn.Module, settings: AnalysisSettings, device: torch.device) -> tuple[nn.Module, list[str]]:
    """The model as an analysis takes it, which shares nothing with the one that was given, and what was
    changed on the way, each a sentence."""
    notes = []
    gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
    try:
        for p, _ in gradients:  # as large as the model, and of no use here
            p.grad = None
        with torch.inference_mode(False):
            copy = cloned(model)
    except Exception as error:  # a module may hold whatever cannot be copied
        raise SettingsError(
            f"The model cannot be copied ({reason(error)}); let it hold no open files, locks or results of "
            "computations."
        ) from error
    finally:
        for p, gradient in gradients:
            p.grad = gradient
    if any(module.training for module in copy.modules()):
        notes.append("The model was in training mode; it was analysed in eval mode.")
    dtype = precision(settings)
    formats = {p.dtype for p in copy.parameters() if p.is_floating_point()} - {dtype}
    if formats:
        names = " and ".join(sorted(str(each).removeprefix("torch.") for each in formats))
        notes.append(f"Weights in {names} were converted to {settings.precision}.")
    copy = in_format(copy.eval(), dtype).to(device)
    return with_tensor_outputs(copy), notes


class _Feed:
    """Gives a network its inputs, which it holds itself, by the numbers of the samples.

    Operators, checks and their float64 copies then have one tensor of whole numbers as their input, whatever
    the network takes, and a copy of the network has the inputs in its own format.

    Args:
        arguments: Names of the buffers, in the order of the network's arguments.
        keywords: Names of the buffers by the names of the network's arguments.
    """

    def __init__(self, arguments: Sequence[str], keywords: Mapping[str, str]) -> None:
        self.arguments = tuple(arguments)
        self.keywords = dict(keywords)

    def __call__(self, model: nn.Module, given: tuple[Any, ...], _: Any) -> tuple[tuple[Any, ...], Any]:
        (index,) = given
        leaf = next(p for p in model.parameters() if p.is_floating_point())

        def held(name: str) -> Tensor:
            rows: Tensor = getattr(model, name)[index]
            return rows.to(leaf.dtype) if rows.is_floating_point() else rows

        arguments = tuple(held(name) for name in self.arguments)
        return arguments, {key: held(name) for key, name in self.keywords.items()}


# --- The loss ---------------------------------------------------------------------------------------------


def _name_of(loss: Any) -> str:
    """Return the name of a loss for settings and records."""
    inner = loss
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"[:100]


def _loss(loss: Any) -> nn.Module:
    """A copy of a loss as a module in eval mode."""
    if isinstance(loss, nn.Module):
        try:
            copy = cloned(loss).eval()
        except Exception as error:
            raise SettingsError(f"The loss cannot be copied ({reason(error)}).") from error
        for p in copy.parameters():
            p.requires_grad_(False)
        return copy
    if not callable(loss):
        raise SettingsError(
            f"The loss is {type(loss).__name__}; give a function loss(outputs, targets), a module, or a name."
        )
    return _Function(loss)


class _Function(nn.Module):
    """A function as a loss, whose own tensors, such as class weights, take the outputs' format."""

    reduction = "mean"

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._function = (function,)  # in a tuple, else it would be a submodule if it were a module

    def __deepcopy__(self, memo: Any) -> _Function:
        return _Function(self._function[0])

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        with _OneFormat(outputs.dtype):
            value: Tensor = self._function[0](outputs, y)
        return value


class _OneFormat(TorchFunctionMode):
    """Inside, operations on tensors of two floating-point formats take those that differ to one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if len({each.dtype for each in given if each.is_floating_point()}) > 1:
            args = tuple(map(self._cast, args))
            kwargs = {name: self._cast(each) for name, each in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        return value.to(self._dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


# --- The data ---------------------------------------------------------------------------------------------


@dataclass
class _Samples:
    """Inputs and targets of some samples.

    Attributes:
        arguments: What the network is called with, each (n, …).
        keywords: By the names of its arguments.
        y: Targets, (n, …).
        index: Which of the data's samples they are, (n,).
    """

    arguments: list[Tensor]
    keywords: dict[str, Tensor]
    y: Tensor
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.arguments, *self.keywords.values()]

    def rows(self, index: Tensor) -> _Samples:
        return _Samples(
            [each[index] for each in self.arguments],
            {name: each[index] for name, each in self.keywords.items()},
            self.y[index],
            index,
        )


def _tensor(value: Any, what: str) -> Tensor:
    tensor: Tensor
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{what} are {type(value).__name__}, no numbers of one shape; give tensors or arrays."
            ) from error
    if value.is_complex() or value.ndim == 0:
        raise DataError(
            f"{what} have the shape {tuple(value.shape)} and are {value.dtype}; give (N, …) reals."
        )
    tensor = value.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        return tensor.float()
    return tensor


def _batch(batch: Any) -> _Samples:
    """The inputs and targets of a batch, in one of the forms that ``analyse`` names."""
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        found = dict(batch)
        key = next((name for name in TARGETS if name in found), None)
        if key is None:
            raise DataError(
                f"A batch is a mapping of {', '.join(map(str, found)) or 'nothing'}, without targets; put "
                f"them under one of {', '.join(TARGETS)}."
            )
        y = found.pop(key)
        inputs: Any = found
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        inputs, y = (batch[0] if len(batch) == 2 else tuple(batch[:-1])), batch[-1]
    else:
        raise DataError(
            f"A batch is {type(batch).__name__}, not (inputs, targets) or a mapping with its targets under "
            "'labels'."
        )
    arguments: list[Tensor] = []
    keywords: dict[str, Tensor] = {}
    if isinstance(inputs, Mapping) or hasattr(inputs, "keys"):
        given = {str(name): each for name, each in dict(inputs).items() if each is not None}
        keywords = {name: _tensor(each, f"The inputs '{name}'") for name, each in given.items()}
    elif isinstance(inputs, tuple | list) and not all(isinstance(each, int | float) for each in inputs):
        arguments = [_tensor(each, "The inputs") for each in inputs]
    else:
        arguments = [_tensor(inputs, "The inputs")]
    if isinstance(y, Mapping | tuple):
        raise DataError("The targets are several tensors; give one tensor, which the loss can take apart.")
    found_ = _Samples(arguments, keywords, _targets(_tensor(y, "The targets")))
    sizes = {len(each) for each in (*found_.tensors, found_.y)}
    if len(sizes) != 1 or not found_.tensors:
        raise DataError(
            f"Inputs and targets are of {' and '.join(f'{each:,}' for each in sorted(sizes))} samples; give "
            "as many of each."
        )
    return found_


def _targets(y: Tensor) -> Tensor:
    return y.long() if not y.is_floating_point() and y.dtype != torch.bool else y


def _collected(data: Any, settings: AnalysisSettings) -> _Samples:
    """The samples that the settings choose, on the CPU.

    Raises:
        DataError: They are malformed, none, or too many for the memory.
    """
    batches = isinstance(data, list) and not all(isinstance(each, Tensor | np.ndarray) for each in data)
    if isinstance(data, tuple | list | Mapping) and not batches:
        whole = _batch(data)
        return whole.rows(_index(settings, len(whole.y), whole.y))
    if batches:
        return _of_batches(data, settings)
    if not isinstance(data, DataLoader) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _of_dataset(data, settings)
    if isinstance(data, Iterable):
        return _of_batches(data, settings)
    raise DataError(f"The data are {type(data).__name__}; give (x, y), a data set, or a DataLoader.")


def _index(settings: AnalysisSettings, size: int, y: Tensor) -> Tensor:
    if size == 0:
        raise DataError("There are no samples in the data.")
    if len(y) != size:
        y = torch.empty(size)
    name, samples = "the data", settings.samples
    whole = Dataset(name, torch.empty(size, 0), y)
    try:
        return datasets.subset_index(whole, settings.subset, samples, settings.seed, settings.listed)
    except DataError as error:
        raise DataError(f"{str(error)[:1].upper()}{str(error)[1:]}") from error


def _of_dataset(data: Any, settings: AnalysisSettings) -> _Samples:
    """Choose samples of a data set with a length, whose samples are decoded one by one."""
    y: Any = torch.empty(0)
    if settings.subset in ("balanced", "first-per-class"):
        y = next((getattr(data, name) for name in ("targets", "labels") if hasattr(data, name)), None)
        tensors = getattr(data, "tensors", None)
        y = tensors[-1] if y is None and tensors else y
        if y is None:
            raise DataError(
                f"The data set {type(data).__name__} does not say its labels (targets) without decoding all "
                "samples, so none of its subsets can be balanced; choose subset='random', or 'all'."
            )
        y = _targets(_tensor(y, "The labels"))
    index = _index(settings, len(data), y)

    def chunks() -> Iterator[Any]:
        for part in torch.split(index, _CHUNK):
            items = [data[int(number)] for number in part]
            try:
                yield default_collate(items)
            except Exception as error:  # of samples that are no tensors, or of several shapes
                raise DataError(
                    f"The samples of {type(data).__name__} cannot be put together ({first_line(error)}); let "
                    "them be tensors of one shape, or give a DataLoader."
                ) from error

    return _joined(chunks(), None, index)


def _of_batches(data: Iterable[Any], settings: AnalysisSettings) -> _Samples:
    if settings.subset not in ("all", "random"):
        raise DataError(
            f"Of batches, all samples are taken or the first that come, so the subset {settings.subset} "
            "cannot be drawn; give the data set itself."
        )
    return _joined(iter(data), settings.samples, None)


def _joined(batches: Iterator[Any], samples: int | None, index: Tensor | None) -> _Samples:
    """Batches of any sizes put together; of them, only the first ``samples``."""
    room = int(_DATA_SHARE * available_memory(torch.device("cpu")))
    parts: list[_Samples] = []
    count = taken = 0
    for each in batches:
        part = _batch(each)
        if samples is not None:
            part = part.rows(torch.arange(min(len(part.y), samples - count)))
        parts.append(part)
        count += len(part.y)
        taken += sum(tensor.nbytes for tensor in (*part.tensors, part.y))
        if taken > room:
            raise DataError(
                f"The first {count:,} samples take {taken / 2**30:.1f} GiB, more than a tenth of this "
                f"machine's free memory; choose fewer: samples={max(1, int(count * room / taken * 0.9))}."
            )
        if samples is not None and count >= samples:
            break
    if not count:
        raise DataError("There are no samples in the data; a DataLoader can be iterated once for each epoch.")
    if samples is not None and count < samples:
        raise DataError(f"The data have {count:,} samples, fewer than {samples:,}; choose fewer.")
    first = parts[0]
    if any(
        len(part.arguments) != len(first.arguments) or part.keywords.keys() != first.keywords.keys()
        for part in parts
    ):
        raise DataError("The batches have inputs of several forms; let all have the same.")
    try:
        return _Samples(
            [torch.cat(each) for each in zip(*(part.arguments for part in parts), strict=True)],
            {name: torch.cat([part.keywords[name] for part in parts]) for name in first.keywords},
            torch.cat([part.y for part in parts]),
            torch.arange(count) if index is None else index,
        )
    except RuntimeError as error:
        raise DataError(
            f"The batches have samples of several shapes ({first_line(error)}); pad them to one, as with "
            "padding='max_length'."
        ) from error


# --- Together ---------------------------------------------------------------------------------------------


def _network(
    model: nn.Module, loss: Loss, data: Any, settings: AnalysisSettings, environment: Settings
) -> Network:
    device = pick_device(environment.device)
    theta = chosen_theta(model, settings)
    settings.check(theta.dimension)
    losses.check_penalty(settings, [name for name, p in model.named_parameters() if p.requires_grad])
    dtype = precision(settings)
    samples = _collected(data, settings)
    for what, tensor in (*(("inputs", each) for each in samples.tensors), ("targets", samples.y)):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(f"The {what} hold NaN or infinite values; remove those samples.")
    copy, notes = _copy(model, settings, device)
    single = len(samples.arguments) == 1 and not samples.keywords
    x = samples.arguments[0] if single else torch.arange(len(samples.y))
    if not single:
        names = [f"{_HELD}{number}" for number in range(len(samples.tensors))]
        for name, tensor in zip(names, samples.tensors, strict=True):
            tensor = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
            copy.register_buffer(name, tensor, persistent=False)
        given = len(samples.arguments)
        feed = _Feed(names[:given], dict(zip(samples.keywords, names[given:], strict=True)))
        copy.register_forward_pre_hook(feed, with_kwargs=True, prepend=True)
    subset = Subset("memory", x, samples.y, samples.index, False, () if single else tuple(samples.tensors))
    x, y = (t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in (x, samples.y))
    content = datasets.content_hash(subset)
    settings = settings.model_copy(
        update={"data": f"{datasets.IN_MEMORY}{content[:16]}", "samples": len(samples.y)}
    )
    _check_outputs(copy, x, samples, settings, named=isinstance(loss, str))
    stored = Checkpoint(
        path=Path(), name="", sha256=_hash(model), size=0, state={}, step=None, metrics={}, notes=tuple(notes)
    )
    own = None if isinstance(loss, str) else _loss(loss)
    return Network(settings, stored, copy, theta, subset, x, y, device, dtype, own)


def _check_outputs(
    model: nn.Module, x: Tensor, samples: _Samples, settings: AnalysisSettings, named: bool
) -> None:
    """Refuse a model that does not take the samples, and targets that do not pair with a named loss."""
    try:
        with torch.no_grad():
            found = model(x[:2])  # some layers take no single one
    except SettingsError:
        raise
    except Exception as error:  # layers refuse shapes, and networks fail, by every kind of exception
        if way := known(error):
            raise SettingsError(way) from error
        shapes = [f"({', '.join(map(str, each.shape))})" for each in samples.tensors]
        names = list(samples.keywords) or [""] * len(shapes)
        given = ", ".join(f"{name} {shape}".strip() for name, shape in zip(names, shapes, strict=True))
        raise DataError(
            f"{type(model).__name__} fails on the first samples of inputs {given} ({reason(error)}); give "
            "inputs as in training."
        ) from error
    if not named or not isinstance(found, Tensor) or not found.ndim:
        return
    if wrong := losses.mismatch(settings, samples.y, tuple(found.shape[1:]), "the data"):
        raise DataError(f"{wrong[:1].upper()}{wrong[1:]}")


def _hash(model: nn.Module) -> str:
    """Hex SHA-256 of the names, shapes and numbers of a model's tensors: equal means the same weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _untouched(data: Any) -> Iterator[None]:
    """Restore the random states in the end; inside, autograd's modes are the usual ones."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    generators = {
        id(each): each
        for source in (data, getattr(data, "sampler", None), getattr(data, "batch_sampler", None))
        if isinstance(each := getattr(source, "generator", None), torch.Generator)
    }
    states = [(each, each.get_state()) for each in generators.values()]
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for each, state in states:
                each.set_state(state)
