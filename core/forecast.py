"""How long an analysis will take, before it is started: a range, from one that was timed or from arithmetic.

A Hessian-vector product of N samples takes about ``PASSES`` forward passes of them; what the method does with
the products is linear algebra on a basis of D × m numbers. How fast that goes is known within a factor of two
where an analysis of the same architecture ran on the same kind of device, else within what devices differ by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seigh.core import methods
from seigh.core.analysis import cost
from seigh.core.problems import architectures
from seigh.core.settings import AnalysisSettings

Kind = Literal["cpu", "cuda"]

PASSES = 6.0  # forward passes that a product is worth: gradient and its derivative, each about three

# Operations per second in float32, from a core or two to a large machine, and of GPUs. Two cores of a server
# of 2024 do 1.2e11 to 2e11 in products of the paper's convolutional networks.
SPEEDS: dict[Kind, tuple[float, float]] = {"cpu": (2e10, 1e12), "cuda": (1e12, 5e13)}
SLOWER_IN_FLOAT64: dict[Kind, float] = {"cpu": 2.0, "cuda": 32.0}
OVERHEAD = (1e-4, 5e-3)  # seconds of a product that no computation takes
FIXED = (0.2, 5.0)  # seconds of an analysis that no product takes: reading, and measuring the products' paths

UNCERTAINTY = 2.0  # factor by which one analysis may take longer or shorter than another like it


@dataclass(frozen=True)
class Timed:
    """A finished analysis of the same architecture: what it was and how long it took.

    Attributes:
        analysis_id: Its number.
        samples: N.
        k: Eigenpairs.
        method: How they were found.
        hvps: Its products.
        seconds: Seconds of all its stages.
    """

    analysis_id: int
    samples: int
    k: int
    method: str
    hvps: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """Seconds between which one analysis will take, and the analysis that this is known from, if any."""

    low: float
    high: float
    source: Timed | None = None


def from_timed(settings: AnalysisSettings, parameters: int, timed: Sequence[Timed]) -> Forecast | None:
    """Forecast from the most similar of these analyses; None if none is of the same kind.

    Time is taken to grow with the number of products; that of a product between not in proportion (√) and in
    proportion with N, and at most like √k.

    Raises:
        SettingsError: The settings cannot work for a model of D = ``parameters``.
    """
    dense = {name for name, method in methods.available().items() if method.dense}
    comparable = [each for each in timed if (each.method in dense) == (settings.method in dense)]
    if not comparable:
        return None

    def distance(each: Timed) -> tuple[float, float, bool, int]:
        return (
            _ratio(each.samples, settings.n_samples),
            _ratio(each.k, settings.k),
            each.method != settings.method,
            -each.analysis_id,
        )

    source = min(comparable, key=distance)
    usual = source.seconds / source.hvps * cost(settings, parameters).hvps
    larger = settings.n_samples / source.samples
    wider = (settings.k / source.k) ** 0.5
    low = usual * min(larger, larger**0.5) * min(1.0, wider)
    high = usual * max(larger, larger**0.5) * max(1.0, wider)
    return Forecast(FIXED[0] + low / UNCERTAINTY, FIXED[1] + high * UNCERTAINTY, source)


def from_arithmetic(
    settings: AnalysisSettings, parameters: int, sample: tuple[int, ...], device: Kind
) -> Forecast:
    """Forecast from the number of operations and the speed of the device.

    Args:
        settings: Settings of the analysis.
        parameters: D.
        sample: Shape of one sample.
        device: Where it will run.

    Raises:
        SettingsError: The settings cannot work, or the architecture does not take such samples.
    """
    each = cost(settings, parameters)
    forward = architectures.forward_operations(settings.architecture, sample)
    if methods.get(settings.method).dense:
        algebra = 10.0 * parameters**3
    else:
        algebra = 4.0 * parameters * (each.memory / (settings.itemsize * parameters)) ** 2
    operations = PASSES * forward * settings.n_samples * each.hvps
    slow, fast = SPEEDS[device]
    slower = SLOWER_IN_FLOAT64[device] if settings.precision == "float64" else 1.0
    quick, tedious = (fixed + each.hvps * overhead for fixed, overhead in zip(FIXED, OVERHEAD, strict=True))
    work = operations + algebra
    return Forecast(quick + work / fast, tedious + slower * work / slow)


def _ratio(one: float, other: float) -> float:
    """How many times one is the other, either way round."""
    return max(one / other, other / one)
