"""The sharpness that Adam sees (Cohen et al. 2022, arXiv 2207.14484, §3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seigh.core.methods import Request
from seigh.core.overlap.observables import Observable, Quantity, Scene, Unavailable
from seigh.core.spectra import Operator, block_krylov

PRODUCTS = 64
_BLOCK, _PAIRS = 4, 4

# Residuals end the run at this share of the largest |eigenvalue|.
_TOLERANCE = 1e-4


class Preconditioned:
    """S H S with a diagonal S, from products with H.

    >>> Preconditioned(torch.eye(2), torch.tensor([1.0, 3.0])) @ torch.ones(2, 1)
    tensor([[1.],
            [9.]])
    """

    def __init__(self, operator: Operator, scale: Tensor) -> None:
        self.shape = operator.shape
        self.dtype = operator.dtype
        self.device = operator.device
        self._operator = operator
        self._scale = scale

    def __matmul__(self, block: Tensor) -> Tensor:
        """(D, b) → (D, b)."""
        scale = self._scale.to(block)
        scale = scale[:, None] if block.ndim == 2 else scale
        return scale * (self._operator @ (scale * block))


def _sharpness(scene: Scene) -> Quantity:
    """The largest eigenvalue of P^{−1/2} H P^{−1/2}, and how far it may be from the truth.

    Leading pairs come from products in the precision of the analysis. Of the most positive one, Rayleigh
    quotient ρ and residual r are computed anew in float64: an eigenvalue lies within r of ρ, and the largest
    one is no less than ρ.
    """
    adam = scene.landscape.adam()
    kind = scene.landscape.kind
    operator = scene.hessian if kind == "hessian" else scene.landscape.matrix("hessian")
    scale = adam.preconditioner.to(scene.vectors.device).rsqrt()
    seed = 0 if scene.request is None else scene.request.seed
    dimension = len(scale)
    pairs = block_krylov(
        Preconditioned(operator, scale / scale.max()),  # so that no product overflows
        min(_PAIRS, dimension),
        block=min(_BLOCK, dimension),
        products=min(PRODUCTS, dimension),
        tolerance=_TOLERANCE,
        seed=seed,
    )
    at = int(pairs.values.argmax())
    if float(pairs.values[at]) <= 0:
        raise Unavailable(
            "None of the leading eigenvalues of the preconditioned Hessian is positive, so there is no "
            "sharpness to compare with Adam's threshold."
        )
    vector = pairs.vectors()[:, at].double()
    vector = vector / vector.norm()
    image = scale * scene.landscape.product(scale * vector).to(scale)
    value = float(vector @ image)
    residual = float((image - value * vector).norm())
    rounding = 64 * torch.finfo(torch.float64).eps * abs(value)
    remark = (
        f"With η = {adam.rate:.6g}, β₁ = {adam.beta1:g} and the second moments after {adam.step:,} steps, as "
        "the checkpoint has them."
    )
    return Quantity(value, value - rounding, value + residual + rounding, adam.threshold, remark)


def _cost(request: Request) -> Mapping[str, float]:
    # A fresh block looks for what was missed; the product in float64 is worth two.
    return {"preconditioned sharpness": 2.0 * min(PRODUCTS, request.dimension) + 2}


SHARPNESS = Observable(
    "adam-sharpness",
    "sharpness preconditioned by Adam",
    "the largest eigenvalue of P^{−1/2} H P^{−1/2}, where H is the Hessian and P = √v̂ + ε comes from Adam's "
    "second moments in the checkpoint. Adam overshoots above (2 + 2β₁)/((1 − β₁)η), its edge of stability, "
    "which is 38/η for β₁ = 0.9. The interval comes from the residual.",
    _sharpness,
    _cost,
    kind="quantity",
    reference="edge of stability of Adam",
)
