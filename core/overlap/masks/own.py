"""The user's own masks: scores by the names of parameters, or the non-zeros of a pruned checkpoint."""

from __future__ import annotations

from seigh.core.overlap.observables import ScoredMask


def own_mask(name: str) -> ScoredMask:
    """The mask of the scores that the scene has under this name."""
    return ScoredMask(
        name,
        f"the own mask {name}",
        "the mask takes the weights of largest score in the user's file. If the file has zeros and ones, the "
        "mask is any k of the ones: the curve is the mean over all such choices, and the error covers them.",
        lambda scene: scene.scores[name],
    )
