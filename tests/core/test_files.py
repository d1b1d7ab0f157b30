"""Work in threads: in order, never far ahead of what is taken, and errors at their place."""

import itertools
import threading

import pytest

from bench.core.files import ordered_map


def test_results_come_in_order_and_not_far_ahead():
    drawn = itertools.count()
    items = (next(drawn) for _ in range(10**9))
    found = ordered_map(lambda number: number * number, items)
    assert list(itertools.islice(found, 1000)) == [number * number for number in range(1000)]
    assert next(drawn) < 2100
    found.close()
    assert list(ordered_map(str, [])) == []


def test_an_error_comes_at_its_place_and_ends_the_rest():
    begun, lock = [], threading.Lock()

    def work(number):
        with lock:
            begun.append(number)
        if number == 5:
            raise ValueError("five")
        return number

    taken = []
    with pytest.raises(ValueError, match="five"):
        taken.extend(ordered_map(work, range(10**6)))
    assert taken == [0, 1, 2, 3, 4]
    assert len(begun) < 2000
