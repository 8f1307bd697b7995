"""Curvature matrices of a network's loss as operators on (D, b) blocks."""

from seigh.core.curvature.choose import Measurement, choose, footprint
from seigh.core.curvature.operator import CurvatureOperator, select_parameters

__all__ = [
    "CurvatureOperator",
    "Measurement",
    "choose",
    "footprint",
    "select_parameters",
]
