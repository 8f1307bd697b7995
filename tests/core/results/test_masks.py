"""How alike two masks are, against all masks that ties admit."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from seigh.core.results.masks import Mask, iou, of_record, open_places

D = 7


def ranked(scores: list[int], length: int) -> Mask:
    """The mask of these scores, ties by index, and what they leave open, by counting."""
    order = sorted(range(D), key=lambda i: -scores[i])
    tied = []
    for k in range(1, length + 1):
        last = scores[order[k - 1]]
        equal, larger = scores.count(last), sum(each > last for each in scores)
        tied.append(equal if larger + equal > k else 0)
    array = np.array(tied)
    return Mask(np.array(order[:length]), array, open_places(array))


def admitted(scores: list[int], k: int) -> list[set[int]]:
    """All masks of k largest scores."""
    return [
        set(each)
        for each in combinations(range(D), k)
        if min(scores[i] for i in each) >= max((scores[i] for i in range(D) if i not in each), default=-1)
    ]


def k_iou(one: set[int], two: set[int]) -> float:
    return len(one & two) / len(one | two)


@pytest.mark.parametrize("seed", range(12))
def test_the_iou_of_masks_covers_all_ways_to_break_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, two = (generator.integers(0, 2 + seed % 5, D).tolist() for _ in range(2))
    first, second = ranked(one, 5), ranked(two, 5)
    value, error, chance = iou(first, second, D)
    for k in range(1, 6):
        a, b = set(first.coordinates[:k].tolist()), set(second.coordinates[:k].tolist())
        assert value[k - 1] == pytest.approx(k_iou(a, b))
        for x in admitted(one, k):
            for y in admitted(two, k):
                assert abs(k_iou(x, y) - value[k - 1]) <= error[k - 1] + 1e-12
        drawn = [set(each) for each in combinations(range(D), k)]
        assert chance[k - 1] == pytest.approx(np.mean([k_iou(drawn[0], each) for each in drawn]))


def test_masks_without_ties_are_known_exactly_and_are_read_from_a_record() -> None:
    first, second = (ranked(list(each), 4) for each in (range(D), range(D, 0, -1)))
    value, error, _ = iou(first, second, D)
    np.testing.assert_allclose(value, [0, 0, 0, 1 / 7])
    assert not error.any()
    record = {"masks": {"magnitude": first.to_json(), "own": ranked([1, 1, 0, 0, 0, 0, 0], 4).to_json()}}
    assert record["masks"]["magnitude"] == {"coordinates": [6, 5, 4, 3]}
    found = of_record(record)
    assert found["own"].tied.tolist() == [2, 0, 5, 5]
    assert found["own"].open.tolist() == [1, 0, 1, 2]
    assert of_record({}) == {}
