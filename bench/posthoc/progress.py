"""How a decomposition tells how far it is, with or without a harness around it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from bench.contract import Progress

T = TypeVar("T")
_EVERY = 2.0
"""Seconds between two lines of progress."""


class LoggingProgress:
    """Progress for a caller who may have none: then lines go to the log ``bench.posthoc``."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last: float | None = None

    def note(self, message: str) -> None:
        """One line."""
        if self._progress is not None:
            self._progress.note(message)
        else:
            logging.getLogger("bench.posthoc").info(message)

    def rarely(self, message: str, last: bool = False) -> None:
        """One line if none was written for a while since the first chance, or if it is the last."""
        now = time.monotonic()
        self._last = now if self._last is None else self._last  # a speed after the first of many says nothing
        if last or now - self._last >= _EVERY:
            self._last = now
            self.note(message)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Pass the items through."""
        if self._progress is None:
            return iter(items)
        if total is None and isinstance(items, Sized):
            total = len(items)
        return self._progress.track(iter(items), what, total)
