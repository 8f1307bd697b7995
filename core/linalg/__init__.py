"""Shared numerics: tiles of long rows, Gram matrices, orthonormal bases, exhausted memory."""
