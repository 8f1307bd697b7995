"""Who is taken for dead, in seconds that the tests decide."""

from __future__ import annotations

from datetime import timedelta

from seigh.core.lab.watch import Watch


class Seconds:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def watch(seconds: Seconds) -> Watch[int]:
    return Watch(timedelta(seconds=30), timedelta(seconds=6), seconds)


def test_who_shows_nothing_new_is_dead_and_who_does_is_not() -> None:
    seconds = Seconds()
    watched = watch(seconds)
    for look in range(7):
        assert watched.silent({1: "dead", 2: look}) == ({1} if look >= 6 else set())
        seconds.now += 5
    assert watched.silent({1: "not dead", 3: "dead"}) == set()


def test_a_pause_of_ones_own_counts_for_nobody() -> None:
    seconds = Seconds()
    watched = watch(seconds)
    for pause in (0, 5, 3600, 5):
        seconds.now += pause
        assert watched.silent({1: "same"}) == set()
    for _ in range(2):
        seconds.now += 5
        assert watched.silent({1: "same"}) == set()
    seconds.now += 5
    assert watched.silent({1: "same"}) == {1}


def test_who_comes_again_is_watched_anew() -> None:
    seconds = Seconds()
    watched = watch(seconds)
    for signs in ({1: "same"}, {}, {1: "same"}):
        assert watched.silent(signs) == set()
        seconds.now += 30
