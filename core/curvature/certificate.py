r"""Whether an operator is the Hessian, or the GGN, of the mean loss: measured before eigenpairs are trusted.

A residual ‖Hv − λv‖ measures an operator against itself, so it vouches for whatever the operator is. The
checks here measure it against something else, at the price of a few products, on the samples of its first one
or two batches of data:

- ``determinism``: the network's outputs computed twice.
- ``additivity``: the gradient of all these samples at once against the weighted sum of the gradients of three
  unequal parts of them; a loss or a network that looks at several samples together fails it.
- ``gradient``: the gradient along a random direction against a difference quotient of the loss.
- ``truth``: products with two random directions against difference quotients in float64.
- ``symmetry``: uᵀHv against vᵀHu, of the same products.

**Tolerances.** Let u be the unit roundoff of the format that the products are computed in (2⁻²⁴ for float32,
2⁻⁵³ for float64), ε = 2⁻⁵³, and K the number of operations in the graph of the loss.

- *Rounding.* A product passes through the K operations four times. An operation adds a relative error of
  about 4u (sums are accumulated in blocks), errors of different operations are independent, and four standard
  deviations are allowed: 4·4u·√(4K) = 32·√K·u.
- *Difference quotients.* (g(θ + hv) − g(θ − hv))/2h, with components of v of variance 1, h = η·median|θ|.
  Rounding adds 32·√K·ε·‖g‖/(h·‖Hv‖) relative to ‖Hv‖; for the GGN, 32·√K·ε·‖f‖/(h·‖Jv‖). A relative
  change of η in every weight is one of K·η in the outputs at most, so truncation, which is quadratic, adds
  (K·η)². η = 10⁻⁶ makes both small beside float32's rounding; the optimum for smooth functions, ε^(1/3), is
  near, and kinks (ReLU, max-pooling) ask for less: only what lies within η of a kink crosses it.
- *Kinks.* In a layer of M units (of all samples), about M·u of them lie so near to a kink that rounding moves
  them across, and each is about 1/√M of the layer's contribution: whatever M, a product is off by √u per
  layer that has kinks, by √(4K·u) for all passes and layers. This larger tolerance is granted only after the
  formula itself has been verified in float64: with the same path, on a few samples, at weights moved at
  random by a thousandth (so that nothing lies exactly on a kink, as units with zero bias over blank input
  do), with outputs scaled down to where the loss is not saturated, and against difference quotients at
  η = 10⁻⁶, 10⁻⁷ and 10⁻⁸, of which one must agree.
- *Saturation.* Where cross-entropy is almost 0, the error of 1 − p is u, not u·(1 − p). By so much as the
  loss's derivatives are smaller than at random outputs, all its rounding errors count for more; where that
  makes the tolerance larger than √(4K·u), the formula is verified as with kinks.

With random v of variance 1, E‖(Ĥ − H)v‖² = ‖Ĥ − H‖²_F: the measured number is an estimate of the operator's
relative error in the Frobenius norm.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seigh.core.allocator import give_back_memory
from seigh.core.curvature.blame import (
    coarser_inside,
    culprit_of_batches,
    culprit_of_chance,
    cuts,
    described,
    is_random,
)
from seigh.core.curvature.causes import here, not_a_number
from seigh.core.curvature.operator import CurvatureOperator, chosen_parameters
from seigh.core.curvature.paths import Function, arithmetic, nodes
from seigh.core.linalg.memory import is_out_of_memory
from seigh.core.names import Kind, PathName

# Relative step of difference quotients, and the smaller ones that are tried where kinks lie near.
_STEP = 1e-6
_STEPS = (1e-6, 1e-7, 1e-8)

# Relative size of the random change that moves a network off exact kinks.
_GENERIC = 1e-3

# Relative difference of the same outputs in float64, up to which only rounding made it.
_SAME = 1e-10

# Parameters from which on memory is given back after every gradient in float64, as nothing later is as large.
_LONG = 2**25

# Numbers of long vectors that are compared at once.
_AT_ONCE = 2**22

# Parameters that are looked at for the size of a usual one.
_LOOKED_AT = 2**16

# Outputs up to which a loss such as cross-entropy is far from saturated.
_MODERATE = 3.0

# Samples on which a formula is verified in float64.
_FEW = 4

# Unit roundoffs by format of the products; bfloat16 keeps 8 bits, TF32 11.
_ROUNDOFF: dict[torch.dtype | str, float] = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    "tf32": 2.0**-11,
    "bfloat16": 2.0**-8,
}
_EPS = 2.0**-53

# Where rounding takes half of a product, what is left points nowhere.
_COARSEST = 0.5


@dataclass(frozen=True)
class Check:
    """A measured property of an operator.

    Attributes:
        name: What was measured.
        value: Its number; NaN where it could not be measured.
        tolerance: The largest number that passes; the smallest one for ``curvature``.
        passed: Whether the number passes.
        sentence: What that means, or what is wrong and what to do.
        products: What it cost, in products with one vector on the whole subset.
    """

    name: str
    value: float
    tolerance: float
    passed: bool
    sentence: str
    products: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON types; NaN becomes None."""
        facts = asdict(self)
        return {
            key: None if isinstance(each, float) and each != each else each for key, each in facts.items()
        }


def failure(checks: Sequence[Check]) -> Check | None:
    """The first check that did not pass."""
    return next((check for check in checks if not check.passed), None)


class Certifier:
    """Measures a network and the operators that claim to be its curvature.

    The float64 copy of the network and the difference quotients are computed once, for all operators.

    Attributes:
        samples: How many samples the checks use.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        kind: Kind,
        parameters: Sequence[str] | None,
        shares: Tensor | None,
        batch_size: int,
        batches: int = 2,
        amplification: float = 1.0,
    ) -> None:
        """Args:
        model: The network, in eval mode.
        loss: As for ``CurvatureOperator``, like all that is not listed here.
        shares: (N,) weight of each sample's loss in the mean; None if all weigh the same.
        batch_size: Samples per batch of data of the operators that are measured.
        batches: How many of them are used at most.
        amplification: By how much the loss amplifies rounding errors relative to its derivatives, as
            cross-entropy does where it is almost 0: 1 − p is then small and its error is not.
        """
        self.samples = min(len(x), batches * batch_size)
        self._whole = len(x)
        self._batch = min(batch_size, len(x))
        self._model = model
        self._kind = kind
        self._names = parameters
        self._x, self._y = x[: self.samples], y[: self.samples]
        self._shares = None if shares is None else shares[: self.samples].double().cpu()
        self._chosen = chosen_parameters(model, parameters)
        self._loss = loss
        self._loss64 = copied(loss)
        self._model64 = copied(model)
        self._x64, self._y64 = in_float64(self._x), in_float64(self._y)
        self._exactly = self._function(self._model64)
        self._amplification = amplification
        size = sum(p.numel() for p in self._chosen.values())
        self._directions = _random(2, size, seed=0).to(x.device)
        self._step = _STEP * _scale(self._exactly.leaves)
        self._truths: list[_Truth] | None = None

    # --- The network --------------------------------------------------------------------------------------

    def network(self) -> list[Check]:
        """Whether the network's loss is deterministic and a weighted mean over samples, and its gradient the
        derivative of it; up to the first check that fails."""
        checks: list[Check] = []
        for check in (self._determinism, self._additivity, self._gradient):
            checks.append(check())
            if not checks[-1].passed:
                break
        return checks

    def _determinism(self) -> Check:
        with torch.no_grad(), arithmetic(self._x.device, None):
            once, again = self._model(self._x), self._model(self._x)
        largest = float(once.abs().max()) if once.numel() else 0.0
        value = float((once - again).abs().max()) / largest if largest else 0.0
        tolerance = _rounding(_ROUNDOFF.get(once.dtype, 2.0**-8), self._count())
        passed = value <= tolerance
        sentence = "The network gives the same outputs twice."
        if not passed:
            sentence = _by_chance(self._model, self._x)
        return Check("determinism", value, tolerance, passed, sentence, self._cost(2 / 6))

    def _additivity(self) -> Check:
        if self.samples == 1:
            return Check("additivity", 0.0, 0.0, True, "There is one sample, so nothing is summed.")
        parts = unequal_parts(self.samples)
        left = self._gradient_at(slice(0, self.samples))
        size, norms = float(left.norm()), 0.0
        for part in parts:
            if share := self._share(part):
                gradient = self._gradient_at(part)
                left.sub_(gradient, alpha=share)
                norms += share * float(gradient.norm())
        size = max(size, norms)
        value = float(left.norm()) / size if size else 0.0
        tolerance = _rounding(_EPS, self._count()) * math.sqrt(len(parts) + 1) * self._amplification
        passed = value <= tolerance
        sentence = (
            "The gradient of the samples together is the weighted mean of the gradients of their parts."
        )
        if not passed:
            sentence = self._why_not_additive(len(self._x64[parts[0]]))
        return Check("additivity", value, tolerance, passed, sentence, self._cost(0.7))

    def _why_not_additive(self, part: int) -> str:
        """Why gradients of parts of the samples do not sum to that of all of them."""
        with torch.no_grad(), Float64(), arithmetic(self._x.device, None):
            once, again = self._model64(self._x64), self._model64(self._x64)
            alone = self._model64(self._x64[:part])
            coarse = coarser_inside(self._model64, self._x64)
        if coarse is not None:
            return (
                f"The network computes in {coarse}, whatever its weights are in, so that its derivatives are "
                "of values that were rounded; let it take its format from its weights and inputs."
            )
        if not torch.equal(once, again):
            return _by_chance(self._model64, self._x64)
        where = culprit_of_batches(self._model64, self._x64, part)
        of_part = once[:part] if len(once) == self.samples else once
        if of_part.shape == alone.shape and _relative(alone.flatten(), of_part.flatten()) <= _SAME:
            gradient = self._gradient()
            if not gradient.passed:
                return gradient.sentence
            if where == described(self._model64, ""):  # the backward pass alone looks at several samples
                return self._no_derivative()
        return (
            f"{where} mixes the samples of a batch, so that the loss is no mean over samples and its "
            "curvature would depend on how many are computed at once; use a network in which each "
            "sample's output depends on that sample alone (for normalisation, running statistics)."
        )

    def _gradient(self) -> Check:
        truth = self._truth(0)
        value, tolerance = self._slope(truth.slope, truth.size, truth.values, truth.largest, self._step)
        sentence = "The gradient is the derivative of the loss."
        if value > tolerance and (jump := self._jump()):
            return Check("gradient", value, tolerance, False, jump)
        if value > tolerance:
            # Units may lie exactly on a kink, as in pruned networks, where the loss has no derivative.
            model = copied(self._model64)
            _move(model, _GENERIC)
            function = self._function(model)
            step = _STEP * _scale(function.leaves)
            data, v = (self._x64, self._y64), self._directions[0]
            _, gradient, _, largest = _gradient(function, *data, v, 0.0)
            values = [_gradient(function, *data, v, sign * step)[0] for sign in (1, -1)]
            slope, size = _dot(gradient, v), float(gradient.norm())
            value, tolerance = self._slope(slope, size, (values[0], values[1]), largest, step)
            sentence = "The gradient is the derivative of the loss, beside the kinks at these very weights."
        passed = value <= tolerance
        if not passed:
            sentence = self._no_derivative()
        return Check("gradient", value, tolerance, passed, sentence)

    def _no_derivative(self) -> str:
        with Float64():
            has = what_cuts(self._exactly, self._x64[:1])
        return (
            "The gradient that this network's backward pass computes is not the derivative of its loss, as "
            f"happens with detach() or an approximate backward inside{has}, so its Hessian is not defined; "
            "make the forward pass differentiable as it is."
        )

    def _jump(self) -> str | None:
        """What to say if the loss jumps at these weights: from one side to the other it changes by as much,
        however near they are, where beside a kink it changes in proportion."""
        data, v = (self._x64, self._y64), self._directions[0]
        changes = []
        for step in (self._step, self._step / 10):
            behind, ahead = (_gradient(self._exactly, *data, v, sign * step)[0] for sign in (-1, 1))
            changes.append(abs(ahead - behind))
        noise = _rounding(_EPS, self._count()) * (abs(ahead) + abs(behind))
        if not changes[1] > max(changes[0] / 2, 100 * noise):
            return None
        return (
            f"The loss jumps by {changes[1]:.2g} at these very weights, so that it has no derivatives there, "
            "as with a function of the whole part, the sign or the order of numbers that lie exactly where "
            "it changes; make the forward pass continuous, or choose another checkpoint."
        )

    def _slope(
        self, slope: float, size: float, values: tuple[float, float], largest: float, step: float
    ) -> tuple[float, float]:
        """By how much the slope of a gradient of this size differs from a difference quotient of the loss,
        relative to the size, and by how much it may."""
        if not size:
            return 0.0, _STEP * self._count()
        ahead, behind = values
        value = abs((ahead - behind) / (2 * step) - slope) / size
        noise = abs(ahead) + abs(behind) + largest
        return value, _rounding(_EPS, self._count()) * noise / (step * size) + _STEP * self._count()

    # --- An operator --------------------------------------------------------------------------------------

    def operator(self, curvature: CurvatureOperator) -> list[Check]:
        """Whether the operator's products are right and symmetric; up to the first check that fails.

        A ``truth`` that fails means that another path may be right; ``rounding``, that a finer format may.

        Args:
            curvature: On the certifier's data, with its size of batches.
        """
        roundoff = _ROUNDOFF[curvature.reduced or curvature.dtype]
        exact = _rounding(roundoff, self._count()) * self._amplification
        coarse = math.sqrt(4 * self._count() * roundoff)
        products: list[Tensor] = []
        pairs: list[tuple[float, float]] = []
        flat = True
        for number, product in enumerate(self._products(curvature)):
            products.append(product)
            if not bool(product.isfinite().all()):
                return [self._not_finite()]
            truth = self._truth(number)
            pairs.append((_relative(product, truth.product), exact + self._error_of_quotient(truth)))
            flat = flat and not bool(product.any()) and not bool(truth.product.any())
        if flat:
            return [_flat()]
        value, tolerance = max(pairs, key=lambda pair: pair[0] / pair[1])
        if value <= tolerance <= coarse and curvature.reduced is None:
            sentence = f"Products agree with differences of the gradient to {value:.1g} of their size."
            right = Check("truth", value, tolerance, True, sentence, self._cost(4.0))
            return [right, self._symmetry(products, exact), *self._still(products)]

        formula = self._formula(curvature.path, curvature.columns)
        cost = self._cost(4.0) + round(8 * min(_FEW, self.samples) / self._whole, 3)
        if not formula.right:
            sentence = self._wrong(curvature.path, curvature.columns, formula.error)
            return [Check("truth", formula.error, formula.allowed, False, sentence, cost)]
        sentence = f"In float64, products agree with differences of the gradient to {formula.error:.1g}."
        right = Check("truth", formula.error, formula.allowed, True, sentence, cost)
        rounding = self._rounding(curvature, products, min(_COARSEST, coarse))
        if not rounding.passed:
            return [right, rounding]
        return [right, rounding, self._symmetry(products, rounding.tolerance), *self._still(products)]

    def _rounding(self, curvature: CurvatureOperator, products: Sequence[Tensor], tolerance: float) -> Check:
        """Products against float64 ones by the same formula, where kinks may lie within rounding."""
        # By the first path where it is there: tracing anew would take longer than all else.
        path: PathName = curvature.path
        if path == "linearize" and self._formula("double-backward", curvature.columns).right:
            path = "double-backward"
        reference = CurvatureOperator(
            *(self._model64, self._loss64, self._x64, self._y64),
            kind=self._kind,
            parameters=self._names,
            path=path,
            columns=curvature.columns,
            batch_size=self._batch,
            shares=None if self._shares is None else self._shares / self._shares.sum(),
        )
        exact = _multiplied(reference, self._directions)
        value = max(_relative(product, each) for product, each in zip(products, exact, strict=True))
        passed = value <= tolerance
        form = curvature.reduced or str(curvature.dtype).removeprefix("torch.")
        sentence = f"Products in {form} are off by {value:.1g} of their size by rounding."
        if not passed:
            way = "choose another checkpoint" if curvature.dtype == torch.float64 else "use float64"
            if curvature.reduced is not None:
                way = "use float32 or float64"
            sentence = (
                f"Products in {form} are off by {value:.1g} of their size by rounding alone, as happens "
                f"where the loss is almost 0 or large terms cancel; {way}."
            )
        return Check("rounding", value, tolerance, passed, sentence, self._cost(4.0))

    def _symmetry(self, products: Sequence[Tensor], tolerance: float) -> Check:
        u, v = self._directions
        asymmetry = abs(_dot(products[1], u) - _dot(products[0], v))
        size = math.hypot(*(float(product.norm()) for product in products))
        value = asymmetry / size if size else 0.0
        tolerance = 4 * tolerance  # four standard deviations of the component along a random direction
        sentence = "uᵀHv is vᵀHu."
        if value > tolerance:
            sentence = (
                f"The operator is not symmetric: uᵀHv and vᵀHu of random directions differ by {value:.1g} of "
                "‖Hv‖; use another path or float64."
            )
        return Check("symmetry", value, tolerance, value <= tolerance, sentence)

    def _still(self, products: Sequence[Tensor]) -> list[Check]:
        """Say which tensors of θ have rows of zeros in the matrix, if any have."""
        sizes = [p.numel() for p in self._chosen.values()]
        parts = zip(self._chosen, *(torch.split(each, sizes) for each in products), strict=True)
        still = [name for name, *each in parts if each[0].numel() and not any(bool(p.any()) for p in each)]
        if not still:
            return []
        count = sum(self._chosen[name].numel() for name in still)
        some = ", ".join(still[:3]) + (", …" if len(still) > 3 else "")
        sentence = (
            f"The rows of {count:,} of {sum(sizes):,} parameters are exactly 0 ({some}), on the samples that "
            "were looked at: the loss does not curve along them, as of dead units or rounded values."
        )
        return [Check("rows", float(count), float(sum(sizes)), True, sentence)]

    def _not_finite(self) -> Check:
        cause = "the loss or its derivatives overflow at this checkpoint; check the weights, or use float64"
        if operation := self._not_a_number():
            cause = (
                f"the derivative of {operation} is not defined at these very weights, as that of a norm, a "
                "square root or a standard deviation of 0, or of a branch that torch.where does not take; "
                "keep its argument away from there, or choose another checkpoint"
            )
        sentence = f"A product with the curvature is not finite (NaN or infinity): {cause}."
        return Check("finite", math.nan, 0.0, False, sentence)

    def _not_a_number(self) -> str | None:
        """The operation whose derivative of first or second order is NaN, in float64 too."""
        with torch.enable_grad(), torch.autograd.set_detect_anomaly(True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the forward pass's own lines
            try:
                leaves = [p.detach().requires_grad_() for p in self._exactly.leaves]
                with Float64(), arithmetic(self._x.device, None):
                    value = self._exactly.loss(self._exactly.outputs(leaves, self._x64), self._y64)
                found = torch.autograd.grad(value, leaves, allow_unused=True, create_graph=True)
                along = self._exactly.split(self._directions[0])
                pairs = zip(found, along, strict=True)
                slope = sum((g * v).sum() for g, v in pairs if g is not None)
                torch.autograd.grad(slope, leaves, allow_unused=True)  # type: ignore[arg-type]
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                return not_a_number(str(error))
        return None

    def _wrong(self, path: PathName, columns: int, error: float) -> str:
        if math.isnan(error):
            return f"Products by the path '{path}' cannot be verified, as it cannot compute them in float64."
        culprit = _lowered(self._culprit(path, columns))
        return (
            f"PyTorch's derivatives of {culprit} by the path '{path}' are wrong: "
            f"products with the {self._noun} differ from differences of the gradient by {error:.2g} of their "
            "size."
        )

    @property
    def _noun(self) -> str:
        return "Hessian" if self._kind == "hessian" else "GGN"

    def _products(self, curvature: CurvatureOperator) -> Iterator[Tensor]:
        """The samples' curvature times each direction, as the operator computes it: (D,), in its format.

        Where it multiplies one vector at a time, long vectors are not all in memory together.
        """
        rows = self._directions.to(curvature.dtype)
        for tile in [rows] if curvature.columns > 1 else torch.split(rows, 1):
            total = torch.zeros(tile.shape, dtype=torch.float64, device=tile.device)
            for index, start in enumerate(range(0, self.samples, self._batch)):
                part = slice(start, min(start + self._batch, self.samples))
                if share := self._share(part):
                    total.add_(curvature.multiply_batch(index, tile), alpha=share)
            yield from total.to(curvature.dtype)

    # --- The formula in float64 ---------------------------------------------------------------------------

    def _formula(self, path: PathName, columns: int) -> _Formula:
        """Whether a path's products are right in float64, on a few samples and off all kinks."""
        few = slice(0, min(_FEW, self.samples))
        model = copied(self._model64)
        _move(model, _GENERIC)
        try:
            with torch.no_grad():
                outputs = _outputs(self._exactly, self._x64[few], self._directions[0], 0.0)
                largest = float(outputs.abs().max())
            loss = _Tempered(self._loss64, max(1.0, largest / _MODERATE))
            data = (self._x64[few], self._y64[few])
            return self._verify(model, loss, *data, self._names, path, columns)
        except Exception as error:  # an operation may lack a derivative in this format, or here
            if is_out_of_memory(error):
                raise
            return _Formula(False, math.nan, 0.0)

    def _verify(
        self,
        model: nn.Module,
        loss: nn.Module,
        x: Tensor,
        y: Tensor,
        names: Sequence[str] | None,
        path: PathName,
        columns: int,
    ) -> _Formula:
        def operator(path: PathName) -> CurvatureOperator:
            return CurvatureOperator(
                model, loss, x, y, kind=self._kind, parameters=names, path=path, columns=columns
            )

        function = Function(model, loss, chosen_parameters(model, names))
        size = sum(p.numel() for p in function.leaves)
        directions = _random(2, size, seed=1).to(x.device)
        scale = _scale(function.leaves)
        worst = _Formula(True, 0.0, 0.0)
        for direction, product in zip(directions, _multiplied(operator(path), directions), strict=True):
            found: list[_Formula] = []
            quotients: list[Tensor] = []
            for step in _STEPS:
                truth = _quotient(function, self._kind, x, y, direction, step * scale)
                allowed = _rounding(_EPS, truth.operations) * (1 + truth.noise)
                allowed += (truth.operations * step) ** 2
                error = _relative(product, truth.product)
                found.append(_Formula(error <= allowed, error, allowed))
                quotients.append(truth.product)
                if found[-1].right:
                    break
            best = next((each for each in found if each.right), min(found, key=lambda each: each.error))
            between = zip(quotients, quotients[1:], found[1:], strict=False)
            if not best.right and not any(_relative(a, b) <= 0.1 * best.error for a, b, _ in between):
                # Difference quotients agree at no step: kinks everywhere. Then another path is the witness.
                other: PathName = "double-backward" if path == "linearize" else "linearize"
                error = _relative(product, operator(other) @ direction.double())
                best = _Formula(error <= math.sqrt(_EPS), error, math.sqrt(_EPS))
            if not best.right or (worst.right and best.error >= worst.error):
                worst = best
            if not worst.right:
                break
        return worst

    def _culprit(self, path: PathName, columns: int) -> str:
        """The first module, or else the first operation, whose own second derivative is wrong by a path;
        else the network."""

        def wrong(module: nn.Module, given: Tensor) -> bool:
            single = _Alone(module, given).eval()
            y = torch.zeros(len(given), device=given.device)
            try:
                return not self._verify(single, _Sines(), given, y, None, path, columns).right
            except Exception:
                return False

        few = self._x64[: min(_FEW, self.samples)]
        with suppressed():
            for name, module, given in _inputs(self._model64, few):
                if wrong(copied(module), given):
                    return described(self._model64, name)
            for call in _calls(self._model64, few):
                if wrong(call, call.given):
                    where = f" ({call.where})" if call.where else ""
                    return f"the operation {call.name}{where}"
        return described(self._model64, "")

    # --- Difference quotients -----------------------------------------------------------------------------

    def _truth(self, number: int) -> _Truth:
        if self._truths is None:
            self._truths = []
        while len(self._truths) <= number:
            direction = self._directions[len(self._truths)]
            data = (self._x64, self._y64)
            first = not self._truths
            self._truths.append(
                _quotient(self._exactly, self._kind, *data, direction, self._step, gradients=first)
            )
        return self._truths[number]

    def _error_of_quotient(self, truth: _Truth) -> float:
        noise = self._amplification * truth.noise
        return _rounding(_EPS, self._count()) * noise + (self._count() * _STEP) ** 2

    def _gradient_at(self, part: slice) -> Tensor:
        """The gradient of a part of the samples beside the weights, at θ + hv."""
        data = (self._x64[part], self._y64[part])
        return _gradient(self._exactly, *data, self._directions[0], self._step)[1]

    def _count(self) -> int:
        """K, the number of operations in the graph of the loss."""
        return max(1, self._truth(0).operations)

    def _share(self, part: slice) -> float:
        """The weight of a part in the mean over the certifier's samples."""
        if self._shares is None:
            return len(range(*part.indices(self.samples))) / self.samples
        return float(self._shares[part].sum() / self._shares.sum())

    def _cost(self, products: float) -> float:
        return round(products * self.samples / self._whole, 3)

    def _function(self, model: nn.Module) -> Function:
        return Function(model, self._loss64, chosen_parameters(model, self._names))


def _multiplied(operator: CurvatureOperator, directions: Tensor) -> Iterator[Tensor]:
    """A float64 operator times each direction: one after another where it takes one vector at a time."""
    if operator.columns > 1:
        yield from (operator @ directions.double().T).T
    else:
        for direction in directions:
            yield operator @ direction.double()


def _by_chance(model: nn.Module, x: Tensor) -> str:
    """Why a network gives other outputs when it is computed again."""
    where = culprit_of_chance(model, x)
    if is_random(model, x):
        return (
            f"{where} is random in eval mode, so that every product would be of another matrix; make it "
            "depend on self.training, as F.dropout(x, p, training=self.training) does."
        )
    return (
        f"{where} gives other outputs every time, by what it keeps from one time to the next, so that every "
        "product would be of another matrix; keep nothing in eval mode (if not self.training)."
    )


def _flat() -> Check:
    return Check(
        "truth",
        0.0,
        0.0,
        False,
        "Every product is exactly 0: the loss does not curve along any of the chosen parameters (they do not "
        "reach it, their units are dead, or it is linear in them), so there are no eigenpairs; choose other "
        "parameters or another checkpoint.",
    )


def _random(number: int, size: int, seed: int) -> Tensor:
    """(number, size) float32, of variance 1; float64 holds exactly the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, size, generator=generator, dtype=torch.float32)


def _lowered(name: str) -> str:
    return name[:1].lower() + name[1:] if name.startswith("The ") else name


def in_float64(tensor: Tensor) -> Tensor:
    """Floating-point numbers in float64; integers and flags stay what they are."""
    return tensor.double() if tensor.is_floating_point() else tensor


class Float64(TorchFunctionMode):
    """Everything inside is computed in float64: also what a network computes in float32 on purpose, such as
    a norm or a softmax, or allocates without asking for a format, such as the first state of a recurrence."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(map(_finer, args))
        result = func(*args, **{key: _finer(each) for key, each in (kwargs or {}).items()})
        return _finer(result) if isinstance(result, Tensor) else result


def _finer(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


@dataclass(frozen=True)
class _Formula:
    """Whether products are right in float64.

    Attributes:
        right: Whether they are.
        error: Their relative difference from difference quotients; NaN if they could not be computed.
        allowed: What it may be.
    """

    right: bool
    error: float
    allowed: float


@dataclass(frozen=True)
class _Truth:
    """Difference quotients along a direction v.

    Attributes:
        product: H v or G v, (D,).
        slope: vᵀg, g being the mean of the gradients at θ + hv and θ − hv.
        size: ‖g‖.
        values: The losses at θ + hv and θ − hv.
        largest: The largest output's absolute value, whose rounding the loss inherits.
        noise: What a relative error of gradient or outputs becomes in the product.
        operations: In the graph of the loss.
    """

    product: Tensor
    slope: float
    size: float
    values: tuple[float, float]
    largest: float
    noise: float
    operations: int


def _quotient(
    function: Function, kind: Kind, x: Tensor, y: Tensor, v: Tensor, step: float, *, gradients: bool = True
) -> _Truth:
    """Difference quotients along v; for the GGN without those of the loss unless ``gradients``."""
    noise = 0.0
    product: Tensor | None = None
    if kind == "ggn":
        product, noise = _ggn(function, x, y, v, step)
        if not gradients:
            return _Truth(product, 0.0, 0.0, (0.0, 0.0), 0.0, noise, 1)
    behind, gradient, *_ = _gradient(function, x, y, v, -step)
    ahead, change, operations, largest = _gradient(function, x, y, v, step)
    length = float(change.norm())
    # In place: for the longest θ, each gradient takes a good part of the memory.
    change.sub_(gradient)
    gradient.add_(change, alpha=0.5)
    slope, size = _dot(gradient, v), float(gradient.norm())
    if product is None:
        product = change.div_(2 * step)
        curved = float(product.norm())
        noise = length / (step * curved) if curved else 0.0
    return _Truth(product, slope, size, (ahead, behind), largest, noise, operations)


def _ggn(function: Function, x: Tensor, y: Tensor, v: Tensor, step: float) -> tuple[Tensor, float]:
    """Jᵀ (∇²ℓ) J v: J v and ∇²ℓ by difference quotients, Jᵀ by a backward pass; and ‖f‖/(h ‖Jv‖)."""
    with torch.no_grad():
        ahead, behind = (_outputs(function, x, v, sign * step) for sign in (1, -1))
    image = (ahead - behind) / (2 * step)
    largest = float(image.abs().max())
    if not largest:
        return torch.zeros_like(v, dtype=torch.float64), 0.0
    at = (ahead + behind) / 2
    noise = float(at.norm()) / (step * float(image.norm()))
    small = _EPS ** (1 / 3) * max(1.0, float(at.square().mean().sqrt())) / largest
    with torch.enable_grad():
        slopes = []
        for sign in (1, -1):
            there = (at + sign * small * image).detach().requires_grad_()
            with Float64():
                value = function.loss(there, y)
            (slope,) = torch.autograd.grad(value, there, allow_unused=True)
            slopes.append(torch.zeros_like(there) if slope is None else slope)
        cotangent = (slopes[0] - slopes[1]) / (2 * small)
        leaves = [p.detach().requires_grad_() for p in function.leaves]
        with Float64(), arithmetic(x.device, None):
            outputs = function.outputs(leaves, x)
        found = torch.autograd.grad(outputs, leaves, cotangent, allow_unused=True)
    return function.join(found, leaves[0].new_empty(v.shape)), noise


def _beside(function: Function, v: Tensor, step: float) -> list[Tensor]:
    """The parameters at θ + ``step`` · v, in θ's format."""
    parts = function.split(v)
    return [torch.add(p, part, alpha=step) for p, part in zip(function.leaves, parts, strict=True)]


def _outputs(function: Function, x: Tensor, v: Tensor, step: float) -> Tensor:
    """The network's outputs at θ + ``step`` · v."""
    with Float64(), arithmetic(x.device, None):
        return function.outputs(_beside(function, v, step), x)


def _gradient(
    function: Function, x: Tensor, y: Tensor, v: Tensor, step: float
) -> tuple[float, Tensor, int, float]:
    """Loss and gradient at θ + ``step`` · v, the operations in its graph, and the largest output."""
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in _beside(function, v, step)]
        with Float64(), arithmetic(x.device, None):
            outputs = function.outputs(leaves, x)
            value = function.loss(outputs, y)
        largest = float(outputs.detach().abs().max())
        if not value.requires_grad:
            return float(value.detach()), leaves[0].new_zeros(v.shape), 1, largest
        operations = len(nodes([value]))
        found = list(torch.autograd.grad(value, leaves, allow_unused=True))
        del leaves[1:], outputs
        gradient = function.join(found, leaves[0].new_empty(v.shape))
        found.clear()
    if len(v) >= _LONG:
        give_back_memory()
    return float(value.detach()), gradient, operations, largest


def _dot(one: Tensor, other: Tensor) -> float:
    """The inner product of vectors of any two formats, in float64 and without copies of the whole."""
    return sum(float(a.double() @ b.double()) for a, b in _together(one, other))


def _together(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(one, _AT_ONCE), torch.split(other, _AT_ONCE), strict=True)


def _rounding(roundoff: float, operations: int) -> float:
    return 32 * math.sqrt(operations) * roundoff


def _relative(found: Tensor, truth: Tensor) -> float:
    """‖found − truth‖ / ‖truth‖; not finite numbers are infinitely wrong."""
    size = float(truth.norm())
    error = math.hypot(*(float((a - b).norm()) for a, b in _together(found, truth)))
    if not math.isfinite(error) or not math.isfinite(size):
        return math.inf
    return error / size if size else (math.inf if error else 0.0)


def copied(module: nn.Module) -> nn.Module:
    """A float64 copy; integers stay what they are."""
    return cloned(module).double()


def cloned(module: nn.Module) -> nn.Module:
    """A copy that shares nothing with the module."""
    memo: dict[int, Any] = {}
    for each in module.modules():
        for value in vars(each).values():  # such as the weight that ``weight_norm`` has computed last
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def _scale(leaves: Sequence[Tensor]) -> float:
    """The size of a usual parameter: the median of |θ| without zeros, of some of them; of zeros, 1/√D."""
    numbers = sum(p.numel() for p in leaves)
    stride = -(-numbers // _LOOKED_AT)
    sizes = torch.cat([p.flatten()[::stride].abs() for p in leaves])
    sizes = sizes[sizes > 0]
    return float(sizes.median()) if len(sizes) else 1 / math.sqrt(numbers)


def unequal_parts(samples: int) -> list[slice]:
    """Up to three parts of unequal sizes."""
    bounds = sorted({0, samples // 6, samples // 2, samples}) if samples > 2 else [0, 1, samples]
    return [slice(start, end) for start, end in pairwise(bounds)]


@torch.no_grad()
def _move(model: nn.Module, relative: float) -> None:
    """Change all parameters at random by so much of their size, each by a little at least."""
    generator = torch.Generator().manual_seed(2)
    for p in model.parameters():
        size = float(p.square().mean().sqrt()) or 0.1
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device, p.dtype)
        p.add_(noise, alpha=relative * size)


class _Alone(nn.Module):
    """One module, whose inputs vary too, with its outputs as numbers per sample."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.module = module
        self.shift = nn.Parameter(torch.full_like(x[0], _GENERIC))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.module(x + self.shift)
        return outputs.flatten(1)


class _Tempered(nn.Module):
    """A loss of outputs that are divided by a temperature, so that it is nowhere saturated."""

    def __init__(self, loss: nn.Module, temperature: float) -> None:
        super().__init__()
        self.loss = loss
        self.temperature = temperature

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        value: Tensor = self.loss(outputs / self.temperature, y)
        return value


class _Sines(nn.Module):
    """A loss with curvature in every output: the mean of sin(f_j + j)."""

    def forward(self, outputs: Tensor, _: Tensor) -> Tensor:
        places = torch.arange(outputs.shape[1], device=outputs.device, dtype=outputs.dtype)
        return (outputs + places).sin().mean()


def _inputs(model: nn.Module, x: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Innermost modules that take one floating-point tensor and give one, with what they were given."""
    found: list[tuple[str, nn.Module, Tensor]] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, given: Any, outputs: Any) -> None:
            if len(given) != 1 or not isinstance(given[0], Tensor) or not isinstance(outputs, Tensor):
                return
            if given[0].is_floating_point() and given[0].ndim > 1:
                found.append((name, module, given[0].detach()))

        return note

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if name and next(module.children(), None) is None
    ]
    try:
        with torch.no_grad(), Float64():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Call(nn.Module):
    """An operation of a network as a function of its first tensor.

    Attributes:
        name: What PyTorch calls it.
        where: The line of the network's code that has it; None if there is none.
        given: The tensor that it was given.
    """

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, place: int) -> None:
        super().__init__()
        self.name: str = function.__name__
        self.where = here()
        self.given: Tensor = args[place].detach().clone()
        self._call = (function, args, kwargs, place)

    def forward(self, x: Tensor) -> Tensor:
        function, args, kwargs, place = self._call
        outputs: Tensor = function(*args[:place], x, *args[place + 1 :], **kwargs)
        return outputs


class _Calls(TorchFunctionMode):
    """Notes the operations that make a tensor out of a floating-point one, each kind once."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, _Call] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in self.found and isinstance(result, Tensor) and result.is_floating_point():
            for place, each in enumerate(args):
                if isinstance(each, Tensor) and each.is_floating_point() and each.ndim > 1:
                    self.found[name] = _Call(func, args, kwargs or {}, place)
                    break
        return result


def _calls(model: nn.Module, x: Tensor) -> list[_Call]:
    """The kinds of operations that a network computes samples with."""
    with torch.no_grad(), Float64(), _Calls() as calls:
        model(x)
    return list(calls.found.values())


def what_cuts(function: Function, x: Tensor) -> str:
    """What keeps PyTorch from differentiating a network, in brackets; empty if nothing is found.

    Args:
        function: The network.
        x: Samples (n, …).
    """
    found: list[str] = []
    with suppressed():
        leaves = [p.detach().requires_grad_() for p in function.leaves]
        found = cuts(lambda: function.outputs(leaves, x))
    return f" (it has {'; '.join(found)})" if found else ""


@contextmanager
def suppressed() -> Iterator[None]:
    """Whatever goes wrong in the search for a culprit must not hide what has been found."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
