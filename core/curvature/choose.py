"""Choose the path, the columns per product and the batch size that multiply fastest within a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seigh.core.curvature.operator import CurvatureOperator
from seigh.core.linalg.memory import Layout, is_out_of_memory
from seigh.core.names import Kind, PathName, Reduced

# Share of the estimated time of all products that may go into trying other candidates.
_SHARE_FOR_TRYING = 0.05

# A candidate must be faster by this factor, so that noise does not choose between equals. Those that differ
# mostly do so by a tenth to a third.
_CLEARLY = 1.05

# Bytes of the largest intermediate value of one call, beyond which larger calls stop paying. On the CPU, the
# C library takes blocks of 32 MiB and more fresh from the system each time (``seigh.core.allocator``), page
# by page, which takes as long as a convolution; on a GPU, calls of this size saturate it.
_CALL = {"cpu": 30 * 2**20, "cuda": 256 * 2**20}

# Seconds to trace a product: to load the tracer, and per tensor that the gradient's graph keeps.
_TRACE = 1.0
_TRACE_PER_TENSOR = 1e-2


@dataclass(frozen=True)
class Measurement:
    """A candidate and what it takes.

    Attributes:
        path: How products are computed.
        columns: How many vectors are multiplied at once.
        batch_size: Samples per batch of data.
        keep: Whether graphs of all batches of data are kept.
        seconds_per_product: For the whole subset; None if the candidate was not timed.
        reason: Why it was not timed, in a sentence; None if it was.
    """

    path: PathName
    columns: int
    batch_size: int
    keep: bool
    seconds_per_product: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Footprint:
    """The memory that the graph of the gradient keeps.

    Attributes:
        per_sample: Bytes kept per sample (parameters and what does not grow with the samples excluded).
        largest: Bytes of the largest kept tensor, per sample.
        fixed: Bytes kept whatever the number of samples, such as parameters in reduced precision.
        tensors: How many are kept, a measure of the graph's size.
    """

    per_sample: int
    largest: int
    fixed: int
    tensors: int


def choose(
    model: nn.Module,
    loss: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    kind: Kind = "hessian",
    parameters: Sequence[str] | None = None,
    block: int,
    products: int,
    memory: int,
    reduced: Reduced | None = None,
    shares: Tensor | None = None,
    after_batch: Callable[[int], None] | None = None,
) -> tuple[CurvatureOperator, list[Measurement]]:
    """The operator that multiplies fastest, by a short measurement on one batch of the data.

    The layout of the work follows from the size of the intermediate values, measured on two samples. Other
    candidates than double backward in this layout are tried only while trying takes less than a twentieth of
    the estimated time of all products, so that a small job starts at once, and taken only if they are faster
    by a twentieth. With A the bytes that the gradient's graph keeps per sample, one batch of n samples needs
    A·n·(1 + columns) bytes, or A·N + A·n·columns if all batches' graphs are kept.

    Args:
        model: The network f, in eval mode, on the device and in the precision to compute in.
        loss: Mean loss over the samples it is given.
        x: Inputs (N, …), on the model's device.
        y: Targets (N, …).
        kind: Which matrix.
        parameters: Full names of the parameters in θ; all trainable ones by default.
        block: Vectors in a typical product, b.
        products: Products with one vector that will be asked for in all.
        memory: Bytes for activations and intermediate values. A single sample that needs more is tried all
            the same.
        reduced: Format of reduced precision, as for ``CurvatureOperator``.
        shares: (N,) weight of each sample's loss in the mean; None if all samples weigh the same.
        after_batch: Called with the products so far after each batch; what it raises ends the product.

    Returns:
        The operator, prepared, and what was measured or why not, the first candidate first.

    Raises:
        ValueError: As ``CurvatureOperator``.
        RuntimeError: No path can differentiate the model twice, or the device's memory is too small for a
            single sample.
    """

    def operator(candidate: Measurement) -> CurvatureOperator:
        return CurvatureOperator(
            model,
            loss,
            x,
            y,
            kind=kind,
            parameters=parameters,
            path=candidate.path,
            columns=candidate.columns,
            batch_size=candidate.batch_size,
            keep=candidate.keep,
            reduced=reduced,
            shares=shares,
            after_batch=after_batch,
        )

    usage = footprint(model, loss, x, y, kind=kind, parameters=parameters, reduced=reduced)
    trials = _Trials(operator, len(x), block, products, usage)
    call = _CALL.get(x.device.type, _CALL["cuda"])
    plan = _plan(usage, len(x), block, memory, call)
    trials.time(plan)
    if trials.best is None:  # some operation has no second derivative backwards; forwards it may have
        trials.time(replace(plan, path="linearize"))
    else:
        trials.time_if_worthwhile(replace(plan, path="linearize"))
        other = _other_layout(plan, usage, len(x), block, memory)
        if other is not None:
            trials.time_if_worthwhile(replace(other, path=trials.best[0].path))
    return trials.finish(), trials.measurements


def footprint(
    model: nn.Module,
    loss: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    kind: Kind = "hessian",
    parameters: Sequence[str] | None = None,
    reduced: Reduced | None = None,
) -> Footprint:
    """Bytes that the gradient's graph keeps, from its saved tensors for one and for two samples."""

    def saved(samples: int) -> tuple[int, int, int]:
        operator = CurvatureOperator(
            model, loss, x[:samples], y[:samples], kind=kind, parameters=parameters, reduced=reduced
        )
        own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
        storages: dict[int, int] = {}
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            count += 1
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            try:
                operator.prepare(0)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                # An operation has no second derivative. The products of a GGN need none, and keep about what
                # the graph of the loss does.
                storages.clear()
                count = 0
                kept = operator.loss_at(0)
                del kept
        return sum(storages.values()), max(storages.values(), default=0), count

    one, largest, tensors = saved(1)
    if len(x) == 1:
        return Footprint(max(one, 1), max(largest, 1), 0, tensors)
    two, largest, tensors = saved(2)
    per_sample = max(two - one, 1)
    # A tensor of the size of a layer's weights does not grow with the samples.
    return Footprint(per_sample, max(1, min(largest // 2, per_sample)), max(0, one - per_sample), tensors)


def _plan(usage: Footprint, samples: int, block: int, memory: int, call: int) -> Measurement:
    """The layout for double backward: whether one call should hold several vectors, or part of the data."""
    if usage.largest * samples >= call:
        columns, batch_size = 1, call // usage.largest
    else:
        columns, batch_size = min(block, call // (usage.largest * samples)), samples
    return _fit(usage, samples, max(1, columns), max(1, batch_size), memory)


def _other_layout(
    plan: Measurement, usage: Footprint, samples: int, block: int, memory: int
) -> Measurement | None:
    """A single vector instead of several, or several with less data each instead of one."""
    if plan.columns > 1:
        return _fit(usage, samples, 1, samples, memory)
    columns = min(block, 8)
    other = _fit(usage, samples, columns, max(1, plan.batch_size // columns), memory)
    return None if other.columns == 1 else other


def _fit(usage: Footprint, samples: int, columns: int, batch_size: int, memory: int) -> Measurement:
    """The layout nearest to the one asked for that fits into the memory."""
    memory -= usage.fixed

    def columns_within(free: int, size: int) -> int:
        return max(1, min(columns, free // (usage.per_sample * size)))

    left = memory - usage.per_sample * samples
    keep = left >= usage.per_sample
    if keep:
        size = _even(samples, min(batch_size, left // usage.per_sample))
        return Measurement("double-backward", columns_within(left, size), size, True)
    size = _even(samples, max(1, min(batch_size, memory // (2 * usage.per_sample))))
    return Measurement("double-backward", columns_within(memory - usage.per_sample * size, size), size, False)


def _even(samples: int, at_most: int) -> int:
    """A batch size ≤ ``at_most``: a divisor of N if one is near, as each size is traced anew; or even."""
    batches = -(-samples // at_most)
    for more in range(batches, min(samples, batches + batches // 2) + 1):
        if samples % more == 0:
            return samples // more
    return -(-samples // batches)


class _Trials:
    """Candidates tried so far.

    Attributes:
        measurements: All of them.
        best: The fastest with its operator, once one has worked.
    """

    def __init__(
        self,
        operator: Callable[[Measurement], CurvatureOperator],
        samples: int,
        block: int,
        products: int,
        usage: Footprint,
    ) -> None:
        self.measurements: list[Measurement] = []
        self.best: tuple[Measurement, CurvatureOperator] | None = None
        self._fastest = math.inf
        self._operator = operator
        self._samples = samples
        self._block = block
        self._products = products
        self._usage = usage
        self._spent = 0.0

    def time(self, first: Measurement) -> None:
        """Time a candidate on its first batch of data; if memory is short, with fewer columns or samples."""
        candidate: Measurement | None = first
        if self.best is not None:
            self.best[1].release()  # two candidates' graphs would exceed the memory for one
        while candidate is not None:
            start = time.perf_counter()
            try:
                operator = self._operator(candidate)
                seconds = self._seconds_per_product(operator)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    self.measurements.append(replace(candidate, reason=f"{error}".splitlines()[0]))
                    return
                reason = "The device's memory is too small for it."
                self.measurements.append(replace(candidate, reason=reason))
                candidate = _smaller(candidate)
            else:
                timed = replace(candidate, seconds_per_product=seconds)
                self.measurements.append(timed)
                if seconds * _CLEARLY < self._fastest:
                    self.best, self._fastest = (timed, operator), seconds
                return
            finally:
                self._spent += time.perf_counter() - start
            torch.cuda.empty_cache()

    def time_if_worthwhile(self, candidate: Measurement) -> None:
        """Time the candidate if that is short beside all products."""
        estimate = self._fastest * (1 + 4 * candidate.columns) * candidate.batch_size / self._samples
        if candidate.path == "linearize":
            estimate += _TRACE + _TRACE_PER_TENSOR * self._usage.tensors
        if self._spent + estimate <= self._allowed(self._fastest):
            self.time(candidate)
            return
        reason = (
            f"Trying it takes about {estimate:.2g} s, too long beside {self._products:,} products of "
            f"{self._fastest:.2g} s each."
        )
        self.measurements.append(replace(candidate, reason=reason))

    def finish(self) -> CurvatureOperator:
        """The best operator, with the graphs of all its batches of data if there is memory for them.

        Raises:
            RuntimeError: No candidate worked.
        """
        if self.best is None:
            reasons = "; ".join(f"{m.path} with {m.columns} columns: {m.reason}" for m in self.measurements)
            raise RuntimeError(f"No path can multiply with this model's curvature ({reasons})")
        candidate, operator = self.best
        try:
            for index in range(operator.batches if operator.keep else 1):
                operator.prepare(index)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or operator.batches == 1:
                raise
        else:
            return operator
        candidate = replace(candidate, keep=False, seconds_per_product=None)
        self.measurements.append(replace(candidate, reason="Taken because not all graphs fit on the device."))
        return self._operator(candidate)

    def _allowed(self, per_product: float) -> float:
        return _SHARE_FOR_TRYING * self._products * per_product

    def _seconds_per_product(self, operator: CurvatureOperator) -> float:
        """For the whole subset, from its first batch of data."""

        def seconds(action: Callable[[], object]) -> float:
            start = time.perf_counter()
            action()
            if operator.device.type == "cuda":
                torch.cuda.synchronize(operator.device)
            return time.perf_counter() - start

        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(operator.columns, operator.shape[0], generator=generator, dtype=operator.dtype)
        rows = rows.to(operator.device)
        share = operator.columns * operator.batch_size / self._samples
        operator.prepare(0)
        # The first call finds caches cold and memory unmapped, so others follow where they cost little.
        per_product = seconds(lambda: operator.multiply_batch(0, rows)) / share
        for _ in range(min(2, int(self._allowed(per_product) / (share * per_product)))):
            per_product = min(per_product, seconds(lambda: operator.multiply_batch(0, rows)) / share)
        if self._allowed(per_product) < _TRACE:
            return per_product  # so little else will be tried that it need not be exact
        if not operator.keep:
            operator.prepare(1)
            share = self._block * operator.batch_size / self._samples
            per_product += seconds(lambda: operator.prepare(0)) / share
        return per_product


def _smaller(candidate: Measurement) -> Measurement | None:
    """The next smaller layout; None if there is nothing to halve."""
    layout = Layout(candidate.columns, candidate.batch_size, candidate.keep).smaller()
    return None if layout is None else replace(candidate, **layout._asdict())
