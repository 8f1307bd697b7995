"""Curvature matrices of a network's loss as operators on (D, b) blocks."""

from core.curvature.operator import CurvatureOperator

__all__ = ["CurvatureOperator"]
