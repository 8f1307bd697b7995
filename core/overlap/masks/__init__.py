"""Masks: which k coordinates of θ are compared with V_k. Each kind is declared in a file of its own.

``seigh.core.overlap.masks.built_in`` lists them.
"""

from seigh.core.overlap.masks.order import largest_first

__all__ = ["largest_first"]
