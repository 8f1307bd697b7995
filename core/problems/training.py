"""Training that leaves checkpoints behind: the paper's recipes, which go on where they were interrupted.

The recipes are those of the paper's Table 1, and what that leaves open is taken from its code
(github.com/andres-fr/hessian_overlap, ``10a_gather_params_grads.py``, ``config/basic_config.yaml`` and
``hessianoverlap/obs_extensions``, which build on DeepOBS): plain SGD on the mean cross-entropy, without the
test problems' L2 term and without a schedule; a part of the training split is held out, drawn by the seed,
which is where Table 1's steps per epoch come from; an incomplete batch at the end of an epoch is dropped;
dropout and batch normalisation are in train mode. The order of samples is drawn by torch, not by the
paper's generators, so a run repeats the paper's recipe and not its random numbers.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import safetensors
import torch
from torch import Tensor, nn

from seigh.core.allocator import freed_memory_kept
from seigh.core.device import pick_device
from seigh.core.names import SubsetName
from seigh.core.problems import architectures, augment, data, plugins, token_losses
from seigh.core.problems import losses as known_losses
from seigh.core.problems.checkpoints import METRICS
from seigh.core.problems.data import Dataset, text
from seigh.core.problems.recorder import Recorder, checkpoint_name, plain_state, write_tensors
from seigh.core.settings import AnalysisSettings, Settings, SettingsError

STATE = ".state.safetensors"

_log = logging.getLogger(__name__)

# A killed training loses at most the work of so long, and of a step.
_STATE_SECONDS = 30.0

# A split that is smaller in float32 is held in memory; others are read batch by batch.
_RESIDENT_BYTES = 2**30

# Numbers in a batch of samples whose loss is taken: 4,096 of 16×16, 341 of CIFAR.
_METRIC_NUMBERS = 2**20
_SMALLEST_METRIC_BATCH = 32


@dataclass(frozen=True)
class Problem:
    """A recipe: plain SGD on a mean loss, no schedule, no weight decay.

    Attributes:
        architecture: Name of the architecture, with options if any.
        data: Name of the data set.
        learning_rate: Learning rate of plain SGD.
        batch: Samples in a batch; an incomplete batch at the end of an epoch is dropped.
        steps: Optimiser steps, unless somebody asks for others.
        every: Steps between checkpoints, likewise.
        held_out: Share of the training split that is not trained on, drawn by the seed.
        metric_samples: Losses and accuracies are those of so many samples, the same at every step and for
            every seed; of all samples when None.
        initialise: Changes the architecture's initial weights; they are the architecture's own when None.
        augment: Changes a batch of samples at random; drawn from torch's global generator.
        loss: Name of the loss (``seigh.core.problems.losses``), which analyses of its checkpoints have, too.
    """

    architecture: str
    data: str
    learning_rate: float
    batch: int
    steps: int
    every: int
    held_out: float = 0.0
    metric_samples: int | None = None
    initialise: Callable[[nn.Module], None] | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    loss: str = "cross-entropy"

    @property
    def subset(self) -> SubsetName:
        """Return the default subset to analyse: a balanced one where there are classes."""
        return "balanced" if self.loss in ("cross-entropy", "mse") else "random"

    @property
    def settings(self) -> AnalysisSettings:
        """Return the default settings of an analysis of its checkpoints."""
        return AnalysisSettings(
            architecture=self.architecture, data=self.data, loss=self.loss, subset=self.subset
        )

    def record(self, steps: int | None = None) -> tuple[int, ...]:
        """The steps to record of a training of ``steps`` steps: every so many, and the last.

        >>> problems()["cifar10-3c3d"].record(5000)
        (0, 2000, 4000, 5000)
        """
        steps = self.steps if steps is None else steps
        return tuple(sorted({*range(0, steps + 1, self.every), steps}))


@torch.no_grad()
def xavier(model: nn.Module, bias: float = 0.0) -> None:
    """DeepOBS's initialisation of 3c3d and All-CNN-C: Xavier, normal for convolutions, else uniform."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw = nn.init.xavier_normal_ if isinstance(module, nn.Conv2d) else nn.init.xavier_uniform_
            draw(module.weight)
            if module.bias is not None:
                module.bias.fill_(bias)


_MLP = Problem("tanh-mlp", "mnist-16x16", learning_rate=0.3, batch=500, steps=1000, every=100)

_OWN = MappingProxyType(
    {
        # The paper's recipe for 16×16 MNIST on the digits, of which there are too few to hold any out.
        "digits-mlp": replace(_MLP, data="digits"),
        # As nanoGPT's model of characters, smaller, and by plain SGD as the others.
        "char-gpt": Problem(
            "char-gpt",
            text.NAME,
            learning_rate=1.0,
            batch=32,
            steps=1000,
            every=100,
            metric_samples=500,
            loss=token_losses.NEXT_TOKEN,
        ),
        "mnist-mlp": replace(_MLP, held_out=10_000 / 60_000),
        "cifar10-3c3d": Problem(
            "3c3d",
            "cifar-10",
            learning_rate=0.022610510812765,
            batch=128,
            steps=8000,
            every=2000,
            held_out=10_000 / 50_000,
            initialise=xavier,
        ),
        # Of the paper's four, the only one that it trains on augmented images.
        "cifar100-all-cnn-c": Problem(
            "all-cnn-c",
            "cifar-100",
            learning_rate=0.16579130972807002,
            batch=256,
            steps=8000,
            every=2000,
            held_out=10_000 / 50_000,
            initialise=partial(xavier, bias=0.1),
            augment=augment.cifar_100,
        ),
        "imagenet-resnet18": Problem(
            "resnet18",
            "imagenet",
            learning_rate=0.1,
            batch=150,
            steps=8000,
            every=2000,
            held_out=50_000 / 1_281_167,
            metric_samples=10_000,
        ),
    }
)


def problems() -> Mapping[str, Problem]:
    """The problems by name: the paper's, its smallest on the digits, a model of characters, and plug-ins'."""
    return MappingProxyType({**_OWN, **_plugged()})


@cache
def _plugged() -> dict[str, Problem]:
    """The plug-ins' problems; those that cannot be one are logged and left out."""
    found = {}
    for name, problem in plugins.registry().problems.items():
        if name in _OWN:
            _log.error("The plug-in's problem '%s' is left out: a problem has this name already.", name)
        elif not isinstance(problem, Problem):
            _log.error("The plug-in's problem '%s' is left out: it is no training.Problem.", name)
        else:
            found[name] = problem
    return found


def train(
    problem: str,
    steps: int,
    record: Iterable[int],
    out: Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    recorded: Callable[[Path], None] | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    env: Settings | None = None,
    losses: Callable[[int, float], None] | None = None,
) -> list[Path]:
    """Train a problem and record checkpoints, with losses and accuracies on the train and the test split.

    Those of the train split are on the samples that are trained on, not on the held-out ones.

    The same seed gives the same files, byte for byte, on the same machine's CPU with as many threads. Where
    all of them lie there already, from the same training, they are returned as they are. A training that was
    interrupted goes on from the state that it left in ``out``, and gives the files that it would have given.
    Torch's global generators are left alone.

    Args:
        problem: A key of ``problems()``.
        steps: Number of optimiser steps.
        record: The steps to record, in 0 … ``steps``; 0 is the initialisation.
        out: Folder for the files ``step_000000.safetensors``, …
        seed: Seed of the initialisation, the held-out samples, the batches, dropout and augmentation.
        progress: Called after every step with the steps done and ``steps``.
        recorded: Called with every file when it is complete, in the order of steps; also with those that
            were there already.
        batch: Samples in a batch; the problem's when not given.
        learning_rate: Learning rate of SGD; the problem's when not given.
        env: Where the data sets are and which device to use; from ``SEIGH_*`` when not given.
        losses: Called after every step with the steps done and the loss of the step's batch.

    Returns:
        The files, in the order of their steps.

    Raises:
        SettingsError: If there is no such problem, something cannot work, or the training diverges.
        DataError: If the data are not there or not usable.
    """
    env = env or Settings()
    recipe = _recipe(problem, batch, learning_rate)
    chosen = sorted(set(record))
    if not chosen or chosen[0] < 0 or chosen[-1] > steps:
        raise SettingsError(f"The steps to record must lie between 0 and the {steps:,} steps of training.")
    training, test = (data.load(recipe.data, split, env=env) for split in ("train", "test"))
    facts = _facts(problem, recipe, seed, training)
    files = {step: out / checkpoint_name(step) for step in chosen}
    tell = recorded or (lambda _: None)
    if all(_is_recorded(file, facts) for file in files.values()):
        for file in files.values():
            tell(file)
        return list(files.values())

    device = pick_device(env.device)
    with _own_random_numbers(seed, device), freed_memory_kept():
        run = _Run(recipe, training, test, seed, device)
        recorder = Recorder(run.model, out, chosen, facts)
        run.restore(out / STATE, facts, files)
        for step in [step for step in chosen if step < run.step]:
            tell(files[step])
        saved = time.monotonic()
        while True:
            if run.step in files:
                if not _is_recorded(files[run.step], facts):
                    recorder(run.step, **run.metrics())
                tell(files[run.step])
            if progress is not None:
                progress(run.step, steps)
            if run.step == steps:
                break
            if run.step in files or time.monotonic() - saved > _STATE_SECONDS:
                run.save(out / STATE, facts)
                saved = time.monotonic()
            loss = run.advance()
            if losses is not None:
                losses(run.step, loss)
    (out / STATE).unlink(missing_ok=True)
    for left in out.glob(".*.safetensors-*"):  # half-written by processes that were killed
        left.unlink(missing_ok=True)
    return list(files.values())


def check(
    problem: str, training: Dataset, batch: int | None = None, learning_rate: float | None = None
) -> None:
    """Refuse what ``train`` would refuse when it has begun: a batch that is larger than the data.

    Args:
        problem: A key of ``problems()``.
        training: Its training split.
        batch: As in ``train``.
        learning_rate: Likewise.

    Raises:
        SettingsError: If it cannot work.
    """
    _check_batch(_recipe(problem, batch, learning_rate), training)


def _check_batch(recipe: Problem, training: Dataset) -> None:
    samples = len(training.y) - _held_out(recipe, training)
    if recipe.batch > samples:
        raise SettingsError(
            f"A batch of {recipe.batch:,} is more than the {samples:,} samples of {training.name} "
            "to train on; choose a smaller batch."
        )


def known(problem: str) -> Problem:
    """The problem of this name.

    Raises:
        SettingsError: If there is none.
    """
    if problem not in problems():
        raise SettingsError(f"There is no problem '{problem}'; choose one of {', '.join(problems())}.")
    return problems()[problem]


def _recipe(problem: str, batch: int | None, learning_rate: float | None) -> Problem:
    """A problem's recipe with changes."""
    recipe = known(problem)
    if (batch is not None and batch < 1) or (learning_rate is not None and not 0 < learning_rate < math.inf):
        raise SettingsError("The batch must have at least one sample, and the learning rate be above 0.")
    return replace(recipe, batch=batch or recipe.batch, learning_rate=learning_rate or recipe.learning_rate)


def _facts(problem: str, recipe: Problem, seed: int, training: Dataset) -> dict[str, str]:
    """Return the facts that tell a training from others, as its files hold them beside step and metrics."""
    facts = {"problem": problem, "architecture": recipe.architecture, "seed": str(seed)}
    usual = problems()[problem]
    if recipe.batch != usual.batch:
        facts["batch"] = str(recipe.batch)
    if recipe.learning_rate != usual.learning_rate:
        facts["learning_rate"] = repr(recipe.learning_rate)
    if recipe.data != "digits":  # which come along; those of others may be partial, or replaced
        facts["labels_sha256"] = hashlib.sha256(training.y.numpy().data).hexdigest()
    if recipe.held_out:
        facts["held_out"] = str(_held_out(recipe, training))
    if recipe.metric_samples is not None:
        facts["metric_samples"] = str(recipe.metric_samples)
    return facts


def _held_out(recipe: Problem, training: Dataset) -> int:
    return round(recipe.held_out * len(training.y))


def _is_recorded(file: Path, facts: Mapping[str, str]) -> bool:
    """Whether a file is a readable checkpoint of the training that has these facts."""
    found = _metadata(file)
    return bool(found) and {k: v for k, v in found.items() if k not in ("step", *METRICS)} == facts


def _metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if there is no readable one."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return {}


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators of CPU and device seeded, and afterwards as they were.

    A GPU that takes no part is not woken.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


class _Run:
    """A training on its way: everything that the next step depends on, which a file can hold.

    Plain SGD has no state of its own.

    Attributes:
        model: In eval mode between the steps.
        step: Optimiser steps done.
    """

    def __init__(
        self, recipe: Problem, training: Dataset, test: Dataset, seed: int, device: torch.device
    ) -> None:
        self.model = architectures.build(recipe.architecture)
        data.check_matches(training, self.model, recipe.settings)
        if recipe.initialise is not None:
            recipe.initialise(self.model)
        self.model.to(device)
        self.step = 0
        generator = torch.Generator().manual_seed(seed)
        samples = torch.arange(len(training.y))
        if held_out := _held_out(recipe, training):
            samples = torch.randperm(len(samples), generator=generator)[held_out:].sort().values
        _check_batch(recipe, training)
        self._recipe = recipe
        self._device = device
        self._optimiser = torch.optim.SGD(self.model.parameters(), lr=recipe.learning_rate)
        self._loss = _loss_of(recipe)
        self._batches = _Batches(samples, recipe.batch, generator)
        self._read = _reader(training)
        self._labels = training.y
        everything = torch.arange(len(test.y))
        self._measured = {
            "train": (self._read, training, _evaluated(samples, recipe)),
            "test": (_reader(test), test, _evaluated(everything, recipe)),
        }

    def advance(self) -> float:
        """Take an optimiser step; the loss of its batch, before the step.

        Raises:
            SettingsError: If the loss is not finite.
        """
        index = next(self._batches)
        x, y = self._read(index), self._labels[index].to(self._device)
        if self._recipe.augment is not None:
            x = self._recipe.augment(x)
        self.model.train()
        self._optimiser.zero_grad()
        outputs = self.model(x.to(self._device))
        loss: Tensor = self._loss(outputs, known_losses.targets(self._recipe.loss, y, outputs))
        torch.autograd.backward(loss)
        self._optimiser.step()
        self.model.eval()
        self.step += 1
        return self._finite(loss.item())

    def metrics(self) -> dict[str, float]:
        """Loss and accuracy of the model on both splits.

        Raises:
            SettingsError: If a loss is not finite.
        """
        found: dict[str, float] = {}
        for split, (read, dataset, index) in self._measured.items():
            measured = (self.model, self._recipe, read, dataset.y, index, self._device)
            loss, accuracy = _loss_and_accuracy(*measured)
            found |= {f"{split}_loss": self._finite(loss), f"{split}_accuracy": accuracy}
        return found

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise SettingsError(
                f"The training diverged: its loss was {loss} at step {self.step:,}; "
                "choose a smaller learning rate."
            )
        return loss

    def save(self, file: Path, facts: Mapping[str, str]) -> None:
        """Write the state between two steps."""
        tensors = {f"model.{name}": tensor for name, tensor in plain_state(self.model).items()}
        tensors |= {
            "order": self._batches.order_state,
            "position": torch.tensor(self._batches.position),
            "random": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self._device)
        write_tensors(file, tensors, self._identity(facts) | {"step": str(self.step)})

    def restore(self, file: Path, facts: Mapping[str, str], files: Mapping[int, Path]) -> None:
        """Go on from a saved state, if it is one of this training and every file up to it is there."""
        found = _metadata(file)
        recorded_step = found.pop("step", "")
        if found != self._identity(facts):
            return
        step = int(recorded_step)
        if not all(_is_recorded(files[each], facts) for each in files if each <= step):
            return
        with safetensors.safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        state = {
            name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
            if name.startswith("model.")
        }
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if {name: tensor.shape for name, tensor in state.items()} != shapes:
            return
        self.model.load_state_dict(state)
        self._batches.restore(tensors["order"], int(tensors["position"]))
        torch.set_rng_state(tensors["random"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self._device)
        self.step = step

    def _identity(self, facts: Mapping[str, str]) -> dict[str, str]:
        """Return the facts that a saved state must match: others draw other random numbers."""
        return {**facts, "device": self._device.type, "torch": torch.__version__}


class _Batches:
    """Batches of indices without end: every epoch in a new order, its incomplete last batch dropped.

    Attributes:
        order_state: State of the generator before it drew the present epoch's order.
        position: How many samples of this epoch have been given.
    """

    def __init__(self, samples: Tensor, size: int, generator: torch.Generator) -> None:
        self._samples = samples
        self._size = size
        self._generator = generator
        self._draw()

    def _draw(self) -> None:
        self.order_state = self._generator.get_state()
        self._order = self._samples[torch.randperm(len(self._samples), generator=self._generator)]
        self.position = 0

    def restore(self, order_state: Tensor, position: int) -> None:
        self._generator.set_state(order_state)
        self._draw()
        self.position = position

    def __next__(self) -> Tensor:
        if self.position + self._size > len(self._order):
            self._draw()
        index = self._order[self.position : self.position + self._size]
        self.position += self._size
        return index


def _reader(dataset: Dataset) -> Callable[[Tensor], Tensor]:
    """Return a function that takes samples by index, from memory where all fit once decoded."""
    if 4 * len(dataset.y) * math.prod(dataset.shape) > _RESIDENT_BYTES:
        return lambda index: _single(dataset.take(index))
    x = _single(dataset.x)
    return lambda index: x[index]


def _single(x: Tensor) -> Tensor:
    """Samples in the float32 that networks are trained in; integers as they are."""
    return x.float() if x.is_floating_point() else x


def _evaluated(samples: Tensor, recipe: Problem) -> Tensor:
    """The samples that losses and accuracies are taken of."""
    if recipe.metric_samples is None or recipe.metric_samples >= len(samples):
        return samples
    # The same for every seed of a training, so that trainings can be compared.
    drawn = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return samples[drawn[: recipe.metric_samples].sort().values]


def _loss_of(recipe: Problem) -> nn.Module:
    return known_losses.build(recipe.settings).float()


@torch.no_grad()
def _loss_and_accuracy(
    model: nn.Module,
    recipe: Problem,
    read: Callable[[Tensor], Tensor],
    labels: Tensor,
    index: Tensor,
    device: torch.device,
) -> tuple[float, float]:
    """Loss and accuracy of a model in eval mode on samples that are read batch by batch.

    Where each token has a label, all samples must have as many.
    """
    mean = _loss_of(recipe)
    numbers = read(index[:1]).numel()
    loss = accuracy = 0.0
    for part in torch.split(index, max(_SMALLEST_METRIC_BATCH, _METRIC_NUMBERS // numbers)):
        outputs = model(read(part).to(device))
        y = known_losses.targets(recipe.loss, labels[part].to(device), outputs)
        loss += len(part) * mean(outputs, y).item()
        classes = -1 if y.ndim == outputs.ndim - 1 > 1 else 1
        right = labels[part].to(device) if y.is_floating_point() else y
        accuracy += len(part) * (outputs.argmax(dim=classes) == right).float().mean().item()
    return loss / len(index), accuracy / len(index)
