"""Further curves of an eigenspace, each declared once: what it is, how to read it, and how it is computed.

An observable is a number for each size k of the eigenspace. A mask ranks the coordinates by a score; its
overlap with V_k is such a curve too. What is declared here or registered by a plug-in
(``seigh.core.problems.plugins``) can be asked for by its name, and is stored, exported and drawn like all
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seigh.core.errors import UserError
from seigh.core.linalg.tiles import chunks
from seigh.core.methods import Request
from seigh.core.results.masks import Mask
from seigh.core.spectra import APosteriori, Eigenpairs, Operator

Floats = NDArray[np.float64]
T = TypeVar("T")


# Bytes of the gradients of all samples that are kept between products with the empirical Fisher matrix.
_KEPT = 2**28


class Unavailable(UserError):
    """What an observable or a mask needs is not to be had for this analysis; the message is one sentence."""


Kind = Literal["curve", "profile", "quantity"]


@dataclass(frozen=True)
class Curve:
    """A number for each k = 1 … K.

    Attributes:
        value: (K,).
        error: (K,), how far each may be from that of the true eigenspace; None where nothing is known.
        chance: (K,), what an eigenspace unrelated to the parameters has on average; None where there is no
            such level.
        mask: The mask that it is of; None of other curves.
        lower: (K,), the lower end of what each may be, where it is closer than ``error`` or where less cannot
            be; None where it is ``value`` − ``error``.
        upper: (K,), the upper end likewise.
        remark: What is to be said of this result alone, such as which checkpoint it compares with; a
            sentence, or nothing.
    """

    value: Floats
    error: Floats | None = None
    chance: Floats | None = None
    mask: Mask | None = None
    lower: Floats | None = None
    upper: Floats | None = None
    remark: str = ""

    def parts(self) -> dict[str, Floats | None]:
        """Value, error, chance and both ends by name."""
        return {name: getattr(self, name) for name in ("value", "error", "chance", "lower", "upper")}

    @classmethod
    def between(
        cls, value: Any, lower: Any, upper: Any, chance: Floats | None = None, remark: str = ""
    ) -> Curve:
        """Values that lie between two ends, each (K,): their error is the farther one's distance."""
        value, lower, upper = (np.asarray(each, dtype=np.float64) for each in (value, lower, upper))
        lower, upper = np.minimum(lower, value), np.maximum(upper, value)
        error = np.maximum(upper - value, value - lower)
        return cls(value, error, chance, None, lower, upper, remark)

    def to_json(self) -> dict[str, list[float] | None]:
        """As JSON types."""
        return {name: None if part is None else part.tolist() for name, part in self.parts().items()}


@dataclass(frozen=True)
class Profile:
    """Numbers against a quantity x of the observable's own choice, in one line or several.

    Attributes:
        x: (n,), finite.
        value: (n,), finite.
        lower: (n,), the lower end of the error or interval; None where nothing is known.
        upper: (n,), its upper end.
        reference: (n,), what the values are to be compared with; None where there is nothing.
        line: (n,), the number of the line that each belongs to, such as that of an eigenvector; None where
            there is one line.
        remark: As of ``Curve``.
    """

    x: Floats
    value: Floats
    lower: Floats | None = None
    upper: Floats | None = None
    reference: Floats | None = None
    line: Floats | None = None
    remark: str = ""


@dataclass(frozen=True)
class Quantity:
    """One number.

    Attributes:
        value: Finite.
        lower: The lower end of its error or interval; None where nothing is known.
        upper: The upper end.
        reference: What it is to be compared with; None where there is nothing.
        remark: As of ``Curve``.
    """

    value: float
    lower: float | None = None
    upper: float | None = None
    reference: float | None = None
    remark: str = ""


Observed = Curve | Profile | Quantity


@dataclass(frozen=True)
class Past:
    """θ at an earlier checkpoint of the same training.

    Attributes:
        theta: (D,) float64, on the CPU.
        step: Its training step; None where its file does not say it.
        sha256: Hex SHA-256 of its file.
    """

    theta: Tensor
    step: int | None
    sha256: str

    def __str__(self) -> str:
        step = "" if self.step is None else f"step {self.step:,}, "
        return f"{step}file sha256:{self.sha256[:12]}…"


@dataclass(frozen=True)
class Adam:
    """The preconditioner of Adam at a checkpoint, and what its optimizer was set to.

    Attributes:
        preconditioner: √v̂ + ε of each coordinate, with v̂ = v / (1 − β₂ᵗ) the bias-corrected second moment
            after t steps (Kingma & Ba 2015, algorithm 1): (D,) float64, > 0.
        rate: Learning rate η.
        beta1: β₁.
        step: t, the least of all parameters.
    """

    preconditioner: Tensor
    rate: float
    beta1: float
    step: int

    @property
    def threshold(self) -> float:
        """The preconditioned sharpness up to which Adam is stable on a quadratic function.

        With v held still Adam is gradient descent with exponentially averaged momentum, which is stable up to
        (2 + 2β₁) / ((1 − β₁) η) (Cohen et al. 2022, arXiv 2207.14484, §3); at β₁ = 0.9 this is 38/η.
        """
        return (2 + 2 * self.beta1) / ((1 - self.beta1) * self.rate)


class Landscape(Protocol):
    """The loss L of an analysis as a function of θ, its penalty (λ/2)‖θ‖² included.

    Whatever is asked for is computed in float64 unless it says otherwise, and nothing before it is asked for
    (``seigh.core.landscape``).

    Attributes:
        kind: Kind of the analysis's matrix, "hessian" or "ggn".
        split: Split of the data that L is the mean over.
        theta: (D,) float64, θ of the checkpoint.
        other: The landscape of the same θ on the other split.
        learning_rate: η of the training, where it was given or the checkpoint has it.
    """

    @property
    def kind(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def theta(self) -> Tensor: ...

    @property
    def other(self) -> Landscape: ...

    @property
    def learning_rate(self) -> float | None: ...

    def loss(self, theta: Tensor) -> float:
        """L at θ (D,)."""

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """∇L at θ (D,), or at another one: (D,); that at θ is computed once."""

    def product(self, vector: Tensor, theta: Tensor | None = None) -> Tensor:
        """∇²L at θ, or at another one, times a vector (D,): (D,)."""

    def adam(self) -> Adam:
        """The state of Adam that the checkpoint's file holds."""

    def sample_gradients(self, *, drawn: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights w (n,) and gradients ∇ℓ (n, D) of blocks of samples: Σ w ∇ℓ is ∇L without its penalty.

        They are N · D numbers: look at a block and let go of it. Each pass computes them anew. With ``drawn``
        labels are those that the network itself gives by chance, not those of the data.
        """

    def ggn_diagonal(self, outputs: int) -> tuple[Tensor, Tensor]:
        """The GGN's diagonal (D,), λ of the penalty included, and its standard errors: zeros up to so many
        outputs of the network; of more, as many random combinations of them are drawn for every sample."""

    def kronecker(self, kind: str) -> Operator:
        """``kfac`` or ``ekfac`` of the GGN, without the penalty, in float64."""

    def penalised(self, operator: Operator) -> Operator:
        """An operator with the second derivative of the penalty added."""

    def matrix(self, kind: str) -> Operator:
        """``hessian`` or ``ggn``, in the precision of the analysis, λ·I of the penalty included."""


class EmpiricalFisher:
    """F = Σ_n w_n ∇ℓ_n ∇ℓ_nᵀ with the labels of the data (Kunstner et al. 2019, arXiv 1905.12558, eq. 4).

    Every product goes through the gradients of all samples, which are computed anew unless they are few
    (``_KEPT`` bytes). The penalty has no part in it. With ``drawn`` labels it is a Monte Carlo estimate of
    the Fisher matrix, of one label per sample (eq. 3).
    """

    def __init__(self, landscape: Landscape, *, drawn: bool = False) -> None:
        theta = landscape.theta
        self.shape = (len(theta), len(theta))
        self.dtype = theta.dtype
        self.device = theta.device
        self._landscape = landscape
        self._drawn = drawn
        self._gradients: list[tuple[Tensor, Tensor]] | None = None

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._gradients is not None:
            yield from self._gradients
            return
        kept: list[tuple[Tensor, Tensor]] = []
        room = _KEPT
        for weights, gradients in self._landscape.sample_gradients(drawn=self._drawn):
            room -= gradients.nbytes
            kept = [*kept, (weights, gradients)] if room >= 0 else []
            yield weights, gradients
        if room >= 0:
            self._gradients = kept

    def __matmul__(self, block: Tensor) -> Tensor:
        """(D, b) → (D, b), in float64."""
        total = torch.zeros(block.shape, dtype=self.dtype, device=self.device)
        for weights, gradients in self._blocks():
            inner = gradients @ block.to(self.device, self.dtype)
            total += gradients.T @ (weights.view(-1, *[1] * (inner.ndim - 1)) * inner)
        return total


@dataclass(frozen=True)
class Scene:
    """What observables and masks may look at.

    Eigenpairs and θ are there anyway. What the loss and its matrices tell is computed when it is asked for,
    and kept if it is small: a gradient is computed once for all that ask for it. Whoever asks for products or
    gradients declares what they cost (``Observable.cost``). Where something is not to be had, such as an
    earlier checkpoint, asking for it raises ``Unavailable``; let it pass, and the analysis says so in place
    of the curve.

    Attributes:
        vectors: (K, D), an eigenvector in each row, in the precision of the products, by descending |λ|. It
            is large: go through its coordinates in blocks (``seigh.core.linalg.tiles.chunks``).
        values: (K,) fp64, their eigenvalues.
        tilts: (K,) fp64, bound of the sine of the angle between each vector and the true eigenvector
            (``tilts``); 1 where it is unknown which of several vectors it is.
        tensors: θ by the names of its parameters, in the order of the coordinates.
        overlap: Of scores (D,), the curve of their mask: the overlap of the k coordinates of largest score
            with V_k, its stated error, ties and errors of the scores included, and chance k/D.
        found: All pairs that were found, further ones than K among them, with their residuals; None where
            only the K are known.
        residuals: ‖Hv − λv‖₂ of all of them.
        operator: H of the analysis, its penalty included: products are counted in the ``hvps`` of the
            analysis.
        estimate: What products with random vectors tell of H outside of the K pairs; they are made anyway.
        request: k, D, N, seed and options of the analysis, as ``Observable.cost`` has them.
        ground: The loss; ask for it by ``landscape``.
        scores: Those of the user's own masks by their names, each (D,) fp64 in the order of θ, on the CPU.
        past: The earlier checkpoints that the settings name, as ``initial`` and ``previous``; ask for them by
            ``earlier``.
    """

    vectors: Tensor
    values: Tensor
    tilts: Tensor
    tensors: Mapping[str, Tensor]
    overlap: Callable[[Tensor | Estimated], Curve]
    found: Eigenpairs | None = None
    residuals: Tensor | None = None
    operator: Operator | None = None
    estimate: APosteriori | None = None
    request: Request | None = None
    ground: Landscape | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    past: Mapping[str, Past] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made when ``key`` is first asked for and kept for all who ask for it later."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(T, self._kept[key])

    @property
    def unit(self) -> float:
        """Unit of the rounding errors of products with H, which may be of a lower precision than vectors.

        These products are without reduced precision, whatever the eigenpairs were found with.
        """
        types = {self.vectors.dtype} | ({self.operator.dtype} if self.operator is not None else set())
        return max(torch.finfo(each).eps for each in types)

    @property
    def landscape(self) -> Landscape:
        """The loss of the analysis: gradients, losses at other θ, other matrices, the other split, the past.

        Raises:
            Unavailable: The eigenpairs are those of a matrix, not of a network.
        """
        if self.ground is None:
            raise Unavailable("There is a matrix here and no network, so there is no loss to ask for this.")
        return self.ground

    def earlier(self, which: str) -> Past:
        """The ``initial`` checkpoint of this training, or the ``previous`` one, as the settings name it.

        Raises:
            Unavailable: They name none.
        """
        if which not in self.past:
            raise Unavailable(
                f"The settings name no earlier checkpoint to compare with; give its file as {which}."
            )
        return self.past[which]

    @property
    def hessian(self) -> Operator:
        """H of the analysis, its penalty included.

        Raises:
            Unavailable: There are eigenpairs alone.
        """
        if self.operator is None:
            raise Unavailable("There are eigenpairs here and no operator, so there are no further products.")
        return self.operator


def free(_: Request) -> Mapping[str, float]:
    """The cost of what needs no products."""
    return {}


GRADIENT: Mapping[str, float] = MappingProxyType({"gradient": 0.5})
"""The cost of the gradient of the loss in products: three forward passes and not six, once for all."""

OTHER_GRADIENT: Mapping[str, float] = MappingProxyType({"gradient of the other split": 0.5})
"""The cost of that on the other split."""

Cost = Callable[[Request], Mapping[str, float]]


@dataclass(frozen=True)
class Observable:
    """What an analysis can be asked for besides the overlap: a curve over k, a profile, or a quantity.

    Attributes:
        name: What people ask for: lower-case letters, digits and hyphens.
        title: Title of its axis; with the unit, if a curve or profile has one.
        note: How to read it, in one sentence that begins in lower case; also what its error or interval is.
        compute: Of a scene, the ``Curve``, ``Profile`` or ``Quantity``, as ``kind`` says.
        cost: Of a request, what is computed beyond the eigenpairs, in products with one vector: products by
            what they are for. What several observables share has the same name, and counts once. A gradient
            is worth half a product (``GRADIENT``), the loss at one θ a sixth.
        kind: What it gives.
        unit: Unit of a quantity, if it has one.
        x: What is on the axis of a profile.
        line: What the number of a line of a profile counts; empty where there is one.
        reference: What the reference of a profile or quantity is.
        log: Whether the values of a profile are drawn on a logarithmic axis, where they are positive.
        earlier: The setting that names the checkpoint which it is compared with, ``initial`` or ``previous``;
            empty where there is none. It is then part of what identifies the analysis, and the result says
            it.
    """

    name: str
    title: str
    note: str
    compute: Callable[[Scene], Observed]
    cost: Cost = free
    kind: Kind = "curve"
    unit: str = ""
    x: str = "x"
    line: str = ""
    reference: str = "reference"
    log: bool = False
    earlier: str = ""

    def words(self) -> dict[str, Any]:
        """What is said of it wherever it is shown; JSON."""
        names = ("title", "note", "kind", "unit", "x", "line", "reference", "log")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Estimated:
    """Scores that are not known exactly.

    Attributes:
        scores: (D,), finite numbers ≥ 0.
        error: (D,), how far each may be off; None where they are exact.
    """

    scores: Tensor
    error: Tensor | None = None


@dataclass(frozen=True)
class ScoredMask:
    """A mask that takes the coordinates of largest score.

    Attributes:
        name: Name of the mask: lower-case letters, digits and hyphens.
        title: What its coordinates are, as after "the mask of".
        note: What its scores are, in one sentence that begins in lower case.
        scores: Of a scene, (D,) finite numbers ≥ 0. Equal scores tie: the overlap is then the mean over all
            masks that they admit, and its error covers them all. With ``Estimated`` ones the error covers
            all masks that they admit within their errors, too.
        cost: As of ``Observable``.
        earlier: Likewise.
    """

    name: str
    title: str
    note: str
    scores: Callable[[Scene], Tensor | Estimated]
    cost: Cost = free
    earlier: str = ""

    def observable(self) -> Observable:
        """The overlap of the mask with V_k."""
        return Observable(
            f"overlap-{self.name}",
            f"overlap of {self.title}",
            f"{self.note} At chance, k/D, the mask has no more of the eigenspace than a random one.",
            lambda scene: scene.overlap(self.scores(scene)),
            self.cost,
            earlier=self.earlier,
        )


def tilts(pairs: Eigenpairs, residuals: Tensor, k: int) -> Tensor:
    """Bounds of the sines of the angles between leading eigenvectors and true ones: (k,) fp64.

    sin φ ≤ r / gap (Davis & Kahan 1970), with the gap to all other eigenvalues: those found, less their own
    residuals, and what may be outside the pairs, which has an |eigenvalue| of at most the least found one. An
    estimate where an eigenvalue was missed.

    Args:
        pairs: At least k pairs, best further ones.
        residuals: ‖Hv − λv‖₂ of all of them.
        k: How many.
    """
    values, reach = pairs.values.double().cpu(), residuals.double().cpu()
    distance = (values[:, None] - values[None, :]).abs() - reach[None, :]
    distance.fill_diagonal_(torch.inf)
    outside = values.abs() - values.abs()[-1] - reach[-1]
    if len(values) == pairs.basis.shape[1]:  # nothing is outside
        outside = torch.full_like(values, torch.inf)
    gap = torch.minimum(distance.amin(1) if len(values) > 1 else outside, outside) - reach
    return torch.where(gap > 0, (reach / gap.clamp_min(1e-300)).clamp_max(1), 1.0)[:k]


# --- What is here ------------------------------------------------------------------------------------------


def participations(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_j v_ij⁴ of each eigenvector i over all coordinates j, its error, and a random vector's: 3 × (K,).

    A change δ of v_i with ‖δ‖ ≤ t moves its sum by at most 4 ‖v³‖ t + 6 t² + 4 t³ + t⁴, and the sum lies in
    [1/D, 1]. A tilt of sine s moves the vector by t = 2 sin(φ/2) ≤ √2 s.
    """
    count, dimension = scene.vectors.shape
    second, fourth, sixth = torch.zeros(3, count, dtype=torch.float64)
    for part in chunks(dimension, count):
        squares = scene.vectors[:, part].double().square()
        second += squares.sum(1).cpu()
        fourth += squares.square().sum(1).cpu()
        sixth += (squares * squares * squares).sum(1).cpu()
    fourth, sixth = fourth / second**2, sixth / second**3  # single precision leaves the norm a little off 1
    move = 2**0.5 * scene.tilts + torch.finfo(scene.vectors.dtype).eps
    error = 4 * sixth.sqrt() * move + 6 * move**2 + 4 * move**3 + move**4
    error = torch.minimum(error, torch.maximum(1 - fourth, fourth - 1 / dimension))
    uniform = torch.full_like(fourth, 3 / (dimension + 2))
    return fourth, error, uniform


def _participation(scene: Scene) -> Curve:
    value, error, chance = (each.cumsum(0).numpy() for each in participations(scene))
    sizes = np.arange(1, len(value) + 1)
    least = sizes / scene.vectors.shape[1]
    return Curve.between(value, np.maximum(value - error, least), np.minimum(value + error, sizes), chance)


OBSERVABLES: Mapping[str, Observable] = MappingProxyType(
    {
        each.name: each
        for each in (
            Observable(
                "participation",
                "participation ratio, summed",
                "the sum of the fourth powers of all coordinates of the first k eigenvectors: an eigenvector "
                "on one coordinate adds 1, and one that is spread evenly over all D adds 1/D. At chance, the "
                "eigenvectors are no more localised than random vectors.",
                _participation,
            ),
        )
    }
)
