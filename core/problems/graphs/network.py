"""A network from a file as a module: its operations one after another, its tensors under their own names.

The operations are called one by one. No code is generated or compiled from a file, as ``torch.fx`` would
from the names in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seigh.core.device import machine_memory
from seigh.core.errors import first_line
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.problems.graphs.program import Batch, Follows, Program, Step, Value
from seigh.core.reading.words import shown

# Numbers in one tensor, for one sample; those of the largest networks have some ten million.
_LARGEST_TENSOR = 2**30
# Multiplications for one sample; a ViT-g on images of 518 × 518 does 2 · 10^12.
_MOST_PRODUCTS = 2e13
# Numbers that all operations give together, for one sample.
_LARGEST_TOTAL = 2**36
# Tensors in a list.
_LONGEST = 10_000


class ExportedNetwork(nn.Module):
    """f(x; θ) as a program says, with θ as the network that was exported had it.

    Args:
        program: What it computes.
        device: Device of its tensors; torch's current one when not given.

    Raises:
        Unfit: If its tensors have names that no module can have, or are too large for this machine.
    """

    def __init__(self, program: Program, device: torch.device | None = None) -> None:
        super().__init__()
        self.program = program
        _check_size(program)
        for name, (shape, dtype, trainable) in program.parameters.items():
            if not dtype.is_floating_point and trainable:
                raise Unfit(f"The parameter {shown(name)} of the network has whole numbers and a gradient.")
            parameter = nn.Parameter(torch.empty(shape, dtype=dtype, device=device), trainable)
            _put(self, name, parameter)
        for name, (shape, dtype, held) in program.buffers.items():
            if held:
                _put(self, name, torch.empty(shape, dtype=dtype, device=device), held=True)
            else:
                _put(self, name, _here(program.numbers["buffer"][name], device), held=False)
        self._constants: dict[str, str] = {}
        for number, (name, tensor) in enumerate(program.numbers["constant"].items()):
            place = f"_constant_{number}"
            self.register_buffer(place, _here(tensor, device), persistent=False)
            self._constants[name] = place
        self._tie()
        _initialise(self)

    def forward(self, x: Tensor) -> Any:
        """The outputs: a tensor, or a tuple or dictionary of several."""
        run = Run(self, x)
        for step in self.program.steps:
            arguments, keywords = run.given(step)
            run.keep(step, step.function(*arguments, **keywords))
        return run.outputs()

    def _tie(self) -> None:
        for names in self.program.ties:
            held = [name for name in names if name in self.program.parameters]
            if not held:
                continue
            first = self.get_parameter(held[0])
            for name in held[1:]:
                module, _, leaf = name.rpartition(".")
                other = self.get_parameter(name)
                if other.shape != first.shape or other.dtype != first.dtype:
                    raise Unfit(
                        f"The parameters {shown(held[0])} and {shown(name)} are one tensor of two shapes."
                    )
                setattr(self.get_submodule(module), leaf, first)


def _here(tensor: Tensor, device: torch.device | None) -> Tensor:
    return tensor.clone() if device is None else tensor.to(device)


def _check_size(program: Program) -> None:
    """Refuse parameters and buffers that take a quarter of the machine's memory or more."""
    total = sum(
        math.prod(shape) * dtype.itemsize
        for shape, dtype, _ in (*program.parameters.values(), *program.buffers.values())
    )
    if total > machine_memory() // 4:
        raise Unfit(
            f"The parameters and buffers of the network take {total / 2**30:,.1f} GiB, more than a quarter "
            "of this machine's memory."
        )


def _put(root: nn.Module, name: str, tensor: Tensor, *, held: bool = True) -> None:
    """Give a module a parameter or buffer by its name with dots, with the modules on the way."""
    *path, leaf = name.split(".")
    module = root
    try:
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            inner = module._modules[part]
            assert inner is not None
            module = inner
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(leaf, tensor)
        else:
            module.register_buffer(leaf, tensor, persistent=held)
    except (KeyError, TypeError) as error:
        raise Unfit(
            f"A tensor of the network is called {shown(name)}, as no module of PyTorch can call it."
        ) from error


def _initialise(model: ExportedNetwork) -> None:
    """Fresh weights, of a size that keeps outputs finite; a checkpoint brings the real ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                bound = 1 / math.sqrt(max(1, parameter[0].numel()))
                if parameter.is_floating_point():
                    parameter.uniform_(-bound, bound)
                else:
                    parameter.zero_()
            else:
                parameter.fill_(1 if name.endswith("weight") else 0)
        for name, (_, _, held) in model.program.buffers.items():
            if held:
                model.get_buffer(name).fill_(1 if name.endswith("var") else 0)


# --- Computing --------------------------------------------------------------------------------------------


class Run:
    """A computation of a network on samples, one step after another.

    Args:
        model: The network.
        x: (N, …).
    """

    def __init__(self, model: ExportedNetwork, x: Tensor) -> None:
        self._program = model.program
        tensors = dict(model.named_parameters(remove_duplicate=False))
        held = dict(model.named_buffers(remove_duplicate=False))
        self._samples, self._device = len(x), x.device
        self._dtype = x.dtype
        if not x.is_floating_point():
            floating = (each.dtype for each in tensors.values() if each.is_floating_point())
            self._dtype = next(floating, torch.float32)
        self._values: dict[int, Any] = {}
        for number, (kind, about) in enumerate(self._program.given):
            match kind:
                case "parameter":
                    self._values[number] = tensors[about]
                case "buffer":
                    self._values[number] = held[about]
                case "constant":
                    self._values[number] = held[model._constants[about]]
                case "sample":
                    self._values[number] = x
                case _:
                    self._values[number] = about

    def given(self, step: Step) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a step as its function takes them."""
        arguments = tuple(map(self._given, step.arguments))
        return arguments, {name: self._given(each) for name, each in step.keywords.items()}

    def _given(self, value: Any) -> Any:
        if isinstance(value, Value):
            return self._values[value.number]
        if isinstance(value, list):
            return list(map(self._given, value))
        if isinstance(value, Batch):
            return value.times * self._samples
        if value is Follows.dtype:
            return self._dtype
        return self._device if value is Follows.device else value

    def keep(self, step: Step, found: Any) -> None:
        """Put what a step has given where later ones find it, and let go of what no later one needs."""
        for number, each in zip(step.results, (found,) if step.single else found, strict=False):
            if isinstance(number, list):
                if len(number) != len(each):
                    raise Unfit(
                        f"{step.operation}{step.where} gives {len(each)} tensors, where the network takes "
                        f"{len(number)}."
                    )
                self._values.update(zip(number, each, strict=True))
            elif number is not None:
                self._values[number] = each
        for number in step.last:
            self._values.pop(number, None)

    def outputs(self) -> Any:
        """Return the network's outputs, after its last step."""
        outputs = tuple(self._values[number] for number in self._program.outputs)
        if self._program.keys is not None:
            return dict(zip(self._program.keys, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs


# --- Bounds -----------------------------------------------------------------------------------------------


class Bounds:
    """Refuses operations that give more numbers, or take more time, than those of any sensible network.

    It goes along with a computation on the meta device, where nothing is computed.

    Args:
        samples: How many samples are computed.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._products = 0.0
        self._total = 0

    def computed(self, step: Step, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Compute a step on the meta device.

        Raises:
            Unfit: If that is too much.
        """
        self._before(step, arguments)
        found = step.function(*arguments, **keywords)
        self._after(step, arguments, found)
        return found

    def _before(self, step: Step, arguments: tuple[Any, ...]) -> None:
        """Refuse long lists, which would be made before anybody could count them."""
        name = step.operation.split(".")[1] if step.operation.startswith("aten.") else ""
        if name not in ("unbind", "split", "chunk", "split_with_sizes", "tensor_split"):
            return
        tensor = arguments[0]
        wanted = next((len(each) for each in step.results if isinstance(each, list)), len(step.results))
        dims = [each for each in (*arguments[1:], *step.keywords.values()) if type(each) is int]
        lengths = tensor.shape or (1,)
        match name:
            case "unbind":
                count = lengths[dims[-1] if dims else 0]
            case "split" if len(dims) and type(arguments[1]) is int:
                count = -(-lengths[dims[1] if len(dims) > 1 else 0] // max(1, arguments[1]))
            case "chunk" | "tensor_split" if type(arguments[1]) is int:
                count = arguments[1]
            case _:
                count = 0
        if count > max(wanted, 1) and count > _LONGEST:
            raise Unfit(f"The network takes a tensor apart into {count:,} by {step.operation}{step.where}.")

    def _after(self, step: Step, arguments: tuple[Any, ...], found: Any) -> None:
        """Count what has been computed."""
        tensors = list(_tensors(found))
        for each in tensors:
            if each.numel() > _LARGEST_TENSOR * self._samples:
                raise Unfit(
                    f"The network makes a tensor of {'×'.join(map(str, each.shape))} numbers by "
                    f"{step.operation}{step.where}, more than can be kept."
                )
        given = sum(each.numel() for each in tensors)
        self._total += given
        self._products += given * _work(step, arguments)
        if self._total > _LARGEST_TOTAL * self._samples or self._products > _MOST_PRODUCTS * self._samples:
            raise Unfit(
                "The network takes too long to be computed: more than 20 · 10^12 products for a sample."
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _work(step: Step, arguments: tuple[Any, ...]) -> float:
    """About how many products an operation does for a number that it gives."""
    name = step.operation.split(".")[1] if step.operation.startswith("aten.") else ""
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    if "conv" in name and len(tensors) > 1:
        return math.prod(tensors[1].shape[1:])
    if name in ("linear", "matmul", "mm", "bmm", "mv", "dot") and tensors:
        return tensors[0].shape[-1] if tensors[0].ndim else 1
    if name in ("addmm", "baddbmm", "addmv") and len(tensors) > 1:
        return tensors[1].shape[-1]
    if name == "scaled_dot_product_attention" and len(tensors) > 1:
        return 2 * tensors[1].shape[-2] + tensors[1].shape[-1]
    if name in ("einsum", "tensordot", "bilinear"):
        return max((each.numel() for each in _tensors(arguments)), default=1)
    if "pool" in name and len(arguments) > 1 and isinstance(arguments[1], (list, int)):
        sizes = arguments[1] if isinstance(arguments[1], list) else [arguments[1]]
        whole = tensors[0].numel() if tensors else 1
        return min(whole, abs(math.prod(each for each in sizes if isinstance(each, int))))
    if name in ("rnn_tanh", "rnn_relu", "gru", "lstm"):
        return max((each.numel() for each in _tensors(arguments)), default=1)
    return 1


def checked(program: Program, samples: int = 2) -> tuple[int, ...]:
    """Go through a program with tensors of shapes and no numbers.

    Args:
        program: What would be computed.
        samples: For how many samples.

    Returns:
        The shape of its outputs; of the first where there are several.

    Raises:
        Unfit: If its operations do not fit together, or are too large.
    """
    meta = torch.device("meta")
    model = ExportedNetwork(program, meta)
    x = torch.empty((samples, *program.sample), dtype=program.dtype, device=meta)
    if math.prod(program.sample) > _LARGEST_TENSOR:
        raise Unfit(
            f"A sample of the network has {math.prod(program.sample):,} numbers, more than can be kept."
        )
    bounds = Bounds(samples)
    step: Step | None = None
    try:
        with torch.no_grad():
            run = Run(model, x)
            for step in program.steps:
                run.keep(step, bounds.computed(step, *run.given(step)))
            returned = run.outputs()
    except Unfit:
        raise
    except Exception as error:  # operations refuse shapes and numbers in every way there is
        at = f" at {step.operation}{step.where}" if step else ""
        raise Unfit(
            f"The network fails on {samples} samples of the shape "
            f"{'×'.join(map(str, program.sample)) or '()'}{at} ({first_line(error)}); export it again, with "
            "seigh.export."
        ) from error
    first = next(_tensors(list(returned.values()) if isinstance(returned, dict) else returned), None)
    if first is None:
        raise Unfit("The network returns no tensor; let it return its outputs (N, …).")
    return tuple(first.shape)
