"""Threads that run ahead: order, bounds, errors."""

import threading
import time

import pytest

from vertinst.engine.ahead import map_ahead


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_results_come_in_order(threads: int, count: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 if item % 2 else 0)
        return item * item

    assert list(map_ahead(work, range(count), threads=threads, ahead=4)) == [i * i for i in range(count)]


def test_no_more_than_asked_for_are_on_their_way() -> None:
    taken = []
    results = map_ahead(lambda item: item, (taken.append(i) or i for i in range(50)), threads=2, ahead=3)
    for done, _ in enumerate(results, start=1):
        assert len(taken) <= done + 3


def test_an_error_comes_in_its_turn_and_ends_the_work() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("the third is bad")
        return item

    results = map_ahead(work, range(100), threads=1, ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third is bad"):
        next(results)
    assert max(begun) <= 4


def test_who_stops_taking_leaves_no_thread() -> None:
    before = threading.active_count()
    results = map_ahead(lambda item: item, range(100), threads=3, ahead=5)
    next(results)
    results.close()
    assert threading.active_count() == before
