"""Curvature matrices of a network's loss as operators on (D, b) blocks."""

from core.curvature.choose import Measurement, choose, footprint
from core.curvature.operator import CurvatureOperator, select_parameters
from core.curvature.paths import KINDS, PATHS, Kind, PathName, Reduced

__all__ = [
    "KINDS",
    "PATHS",
    "CurvatureOperator",
    "Kind",
    "Measurement",
    "PathName",
    "Reduced",
    "choose",
    "footprint",
    "select_parameters",
]
