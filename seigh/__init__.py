"""Top Hessian eigenspaces of neural networks, matrix-free, and how they line up with masks of parameters.

What is below is for scripts, notebooks and training loops; the dashboard and the ``seigh`` command are built
of the same parts. Everything is imported when it is first asked for, so that ``import seigh`` costs nothing.

Analyse a model in memory, with any loss and any data::

    result = seigh.analyse(model, loss, (x, y), k=20)

or a checkpoint, without a server::

    from pathlib import Path

    import seigh

    settings = seigh.AnalysisSettings(architecture="tanh-mlp", data="digits", samples=500, k=20)
    result = seigh.analyse(Path("step_1000.safetensors"), settings)
    print(result.eigenvalues)                      # (k,), in descending order of |λ|
    print(result.overlap, result.overlap_error)    # (k,) each: the overlap for 1 … k, and its stated error

Take eigenpairs of any symmetric operator, which is anything with ``.shape == (D, D)`` and ``@`` on a (D, b)
tensor::

    pairs = seigh.block_krylov(operator, k=20)
    pairs.values, pairs.vectors()                  # (n,) and (D, n), n ≥ 20

Write a network of your own as a file that the lab takes as an architecture, without any of its code::

    seigh.export(model, samples[:2], "net.pt2")    # then --architecture net.pt2, or upload it on New analysis

Keep checkpoints of a training loop: ``Recorder``. Add a lab's own architectures, data sets, losses and
problems: ``Registry``. Add curves, masks, methods and figures: ``Observable``, ``ScoredMask``,
``Method`` and ``Figure``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seigh.core.analysis import Result
    from seigh.core.curvature import CurvatureOperator
    from seigh.core.errors import UserError
    from seigh.core.figures import Figure
    from seigh.core.inprocess import analyse
    from seigh.core.methods import Method, Request
    from seigh.core.overlap.observables import (
        GRADIENT,
        Curve,
        EmpiricalFisher,
        Observable,
        Profile,
        Quantity,
        ScoredMask,
        Unavailable,
    )
    from seigh.core.problems.data import Dataset
    from seigh.core.problems.graphs.export import Exported, export
    from seigh.core.problems.plugins import Registry
    from seigh.core.problems.recorder import Recorder
    from seigh.core.problems.sources import Source
    from seigh.core.problems.training import Problem
    from seigh.core.settings import AnalysisSettings, Settings
    from seigh.core.spectra import Eigenpairs, Operator, SingularTriplets, block_krylov, exact, seigh, ssvd

__all__ = [
    "GRADIENT",
    "AnalysisSettings",
    "CurvatureOperator",
    "Curve",
    "Dataset",
    "Eigenpairs",
    "EmpiricalFisher",
    "Exported",
    "Figure",
    "Method",
    "Observable",
    "Operator",
    "Problem",
    "Profile",
    "Quantity",
    "Recorder",
    "Registry",
    "Request",
    "Result",
    "ScoredMask",
    "Settings",
    "SingularTriplets",
    "Source",
    "Unavailable",
    "UserError",
    "analyse",
    "block_krylov",
    "exact",
    "export",
    "seigh",
    "ssvd",
]

_MODULES = {
    "seigh.core.analysis": ("Result",),
    "seigh.core.curvature": ("CurvatureOperator",),
    "seigh.core.errors": ("UserError",),
    "seigh.core.figures": ("Figure",),
    "seigh.core.inprocess": ("analyse",),
    "seigh.core.methods": ("Method", "Request"),
    "seigh.core.overlap.observables": (
        "Curve",
        "EmpiricalFisher",
        "GRADIENT",
        "Observable",
        "Profile",
        "Quantity",
        "ScoredMask",
        "Unavailable",
    ),
    "seigh.core.problems.data": ("Dataset",),
    "seigh.core.problems.graphs.export": ("Exported", "export"),
    "seigh.core.problems.plugins": ("Registry",),
    "seigh.core.problems.recorder": ("Recorder",),
    "seigh.core.problems.sources": ("Source",),
    "seigh.core.problems.training": ("Problem",),
    "seigh.core.settings": ("AnalysisSettings", "Settings"),
    "seigh.core.spectra": (
        "Eigenpairs",
        "Operator",
        "SingularTriplets",
        "block_krylov",
        "exact",
        "seigh",
        "ssvd",
    ),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
