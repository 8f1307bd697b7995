"""Names of choices that both the settings of an analysis and the code that computes it know."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["hessian", "ggn"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PathName = Literal["double-backward", "linearize", "curvlinops"]
PATHS: tuple[PathName, ...] = get_args(PathName)

# Precisions of products that are coarser than those of the weights and vectors.
Reduced = Literal["tf32", "bfloat16"]
REDUCED: tuple[Reduced, ...] = get_args(Reduced)

TestMatrixName = Literal["ssrft", "gaussian", "rademacher"]
TEST_MATRICES: tuple[TestMatrixName, ...] = get_args(TestMatrixName)
