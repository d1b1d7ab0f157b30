"""Many files at a time, in order: decoding and hashing work outside Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")
_AHEAD = 16
"""Items that wait for each thread: ImageNet's million at once would be gigabytes of waiting."""


def ordered_map(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``work(item)`` of every item, in order; threads are a little ahead of what is taken.

    Raises:
        Exception: what ``work`` raised, at its place; what has not begun by then is not done.
    """
    threads = min(32, 2 * (os.cpu_count() or 1))  # some wait for the disk while others compute
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
