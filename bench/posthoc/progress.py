"""Progress of a decomposition, with or without a harness around it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from bench.contract import Progress

T = TypeVar("T")
# Seconds between two lines of progress.
_EVERY = 2.0


class LoggingProgress:
    """Progress that passes lines on to another reporter, or to the log ``bench.posthoc`` if there is none."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last: float | None = None

    def note(self, message: str) -> None:
        """Write one line."""
        if self._progress is not None:
            self._progress.note(message)
        else:
            logging.getLogger("bench.posthoc").info(message)

    def rarely(self, message: str, last: bool = False) -> None:
        """Write one line if it is the last, or if none was written for two seconds."""
        now = time.monotonic()
        # The first call only starts the clock: a speed after the first of many items means nothing.
        self._last = now if self._last is None else self._last
        if last or now - self._last >= _EVERY:
            self._last = now
            self.note(message)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items, and show how many of ``total`` have passed."""
        if self._progress is None:
            return iter(items)
        if total is None and isinstance(items, Sized):
            total = len(items)
        return self._progress.track(iter(items), what, total)
