"""The short version of the bench that holds every stated error to the truth."""

import pytest

from benchmarks.coverage import KINDS, Tally, case_of_matrix, coverage, draw, judge, table
from benchmarks.networks import NETWORKS


@pytest.mark.parametrize("method", ["krylov", "seigh", "ssvd", "exact"])
def test_stated_errors_hold_for_every_kind_and_precision(method: str) -> None:
    found = coverage(
        KINDS,
        ["relu", "layer norm", "zero head", "linear at zero"] if method in ("krylov", "exact") else [],
        range(2),
        [method],
        ["float32", "float64"],
        size=240,
        network_seeds=range(1),
        processes=1,
    )
    assert {kind for kind, _, _ in found} >= set(KINDS)
    total = sum(found.values(), Tally())
    assert total.exceptions == 0
    assert total.wrong <= 0.001 * total.claimed, total.notes
    assert total.covered >= 0.95 * total.curves, total.notes
    for counted in (total.norms, total.missed, total.scree):
        assert counted >= 0.95 * total.curves
    # And they are no mere "anything is possible".
    assert total.claimed >= {"krylov": 0.75, "exact": 0.75, "seigh": 0, "ssvd": 0}[method] * total.sizes
    assert len(table(found)) == 2 + len({kind for kind, _, _ in found}) + 1


@pytest.mark.parametrize(
    ("kind", "seed"), [("network-like", 16), ("multiplicities", 1), ("λI + low rank", 2)]
)
def test_long_curves_are_within_their_error_at_every_size(kind: str, seed: int) -> None:
    # At single sizes of these curves the estimate is a fraction of what it is beside them.
    matrix = draw(kind, seed)
    assert len(matrix.order) == 110
    tally = judge(case_of_matrix(matrix, "krylov", "float64"))
    assert tally.covered == tally.curves == 1, tally.notes
    assert tally.claimed > 0


def test_there_are_networks_of_twenty_kinds() -> None:
    assert len(NETWORKS) >= 20
    assert len(KINDS) >= 12


@pytest.mark.parametrize("method", ["seigh", "ssvd"])
def test_what_a_sketch_leaves_outside_has_the_size_of_the_penalty(method: str) -> None:
    """With k beyond the rank of H, H + λI has many eigenvalues λ, of which V_k may take any."""
    found = coverage(
        ["λI + low rank"],
        [],
        range(176, 182),
        [method],
        ["float32", "float64"],
        size=400,
        network_seeds=[],
        processes=1,
    )
    total = sum(found.values(), Tally())
    assert total.curves >= 8
    assert total.wrong == 0, total.notes
    assert total.covered == total.curves, total.notes
