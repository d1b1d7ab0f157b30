"""Ordered map over many files with threads: decoding and hashing work outside Python's global lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")
_AHEAD = 16
"""Items in the queue for each thread: ImageNet's million images at once would take gigabytes."""


def ordered_map(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work(item)`` of every item, in order; threads work a little ahead of the consumer.

    Args:
        work: function that runs in a thread.
        items: its arguments.

    Raises:
        Exception: the error of ``work``, at the item's turn; work that has not begun by then is cancelled.
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
