"""Masks of the gradient: its size, SNIP's sensitivities, and the perturbations of SAM and ASAM.

The gradient is that of the loss of the analysis on its samples, penalty of weight decay included, in float64.
"""

from __future__ import annotations

from seigh.core.overlap.observables import GRADIENT as COST
from seigh.core.overlap.observables import ScoredMask

GRADIENT = ScoredMask(
    "gradient",
    "the largest |∂L/∂θ|",
    "the mask takes the weights with the largest gradient magnitudes of the loss, on the samples of the "
    "analysis.",
    lambda scene: scene.landscape.gradient().abs(),
    lambda _: COST,
)

SNIP = ScoredMask(
    "snip",
    "the largest |θ · ∂L/∂θ|",
    "scores are SNIP's connection sensitivities |θ ∂L/∂θ| (Lee et al. 2019, eq. 4 and 5), at the weights of "
    "the checkpoint: to first order, how much the loss changes if a weight is removed.",
    lambda scene: (scene.landscape.theta * scene.landscape.gradient()).abs(),
    lambda _: COST,
)

SAM = ScoredMask(
    "sam",
    "the largest of SAM's perturbation",
    "scores are |ε| of SAM's ascent step ε = ρ ∇L/‖∇L‖₂ (Foret et al. 2021, eq. 2 with p = 2). The mask is "
    "the same for every ρ, and the same as the mask of the largest |∂L/∂θ|.",
    lambda scene: scene.landscape.gradient().abs(),
    lambda _: COST,
)

ASAM = ScoredMask(
    "asam",
    "the largest of ASAM's perturbation",
    "scores are |ε| of ASAM's adaptive ascent step ε = ρ T²∇L/‖T∇L‖₂ with T = diag(|θ|) (Kwon et al. 2021, "
    "eq. 8). The mask is the same for every ρ.",
    lambda scene: scene.landscape.theta.square() * scene.landscape.gradient().abs(),
    lambda _: COST,
)
