"""The trial on real digits: what one button of an empty lab asks of the queue, as anybody could."""

from __future__ import annotations

from seigh.core.access import Actor
from seigh.core.settings import SPLITS, AnalysisSettings, Settings
from seigh.tasks import submit

MODEL = "digits, tried out"
PROBLEM = "digits-mlp"
STEPS = (0, 100, 300, 1000)
# k = ρ·D with ρ = 0.01, the paper's second sparsity, of the 7,030 parameters.
ANALYSES = tuple(
    AnalysisSettings(architecture="tanh-mlp", data="digits", split=split, samples=500, k=70)
    for split in SPLITS
)


def start(env: Settings, *, user: Actor) -> str | None:
    """Queue the training, whose checkpoints are analysed as they are recorded; a warning if there is one.

    Asked for again, what has failed or was cancelled is done again, and nothing else.

    Raises:
        UserError: If anything cannot work.
    """
    _, warning = submit.train(
        PROBLEM, MODEL, STEPS[-1], STEPS, analyses=ANALYSES, user=user, env=env, priority="high"
    )
    return warning
