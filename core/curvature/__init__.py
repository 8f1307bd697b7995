"""Curvature matrices of a network's loss as operators on (D, b) blocks."""

from core.curvature.choose import Measurement, choose, footprint
from core.curvature.operator import CurvatureOperator, select_parameters

__all__ = [
    "CurvatureOperator",
    "Measurement",
    "choose",
    "footprint",
    "select_parameters",
]
