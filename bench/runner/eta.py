"""How long cells will take, as far as the store has earlier ones of their kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from bench.core.work_dir import FIT
from bench.results.store import Store


class Timings:
    """Seconds of finished cells, by what they have in common with those to come."""

    def __init__(self) -> None:
        self._own: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
        self._fits: set[str] = set()
        self._box: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    @classmethod
    def of_store(cls, store: Store) -> Timings:
        """All that a store tells."""
        found = cls()
        for name in store.cells():
            found.add(store, name)
        return found

    def add(self, store: Store, name: str) -> None:
        """Take in a cell, where it is finished."""
        found = store.record(name)
        written, outcome = found.written, found.result
        if written is None or outcome is None:
            return
        spec, seconds = written["spec"], outcome.get("seconds", {})
        self._own[_kind(spec, written.get("recipe"))].append((seconds.get("fit", 0.0), seconds.get("evaluate", 0.0)))
        if (store.cell(name).result / FIT).is_file():
            self._fits.add(found.fit_id)
        if "black box" in seconds:
            self._box[_place(spec, written.get("recipe"))].append(seconds["black box"])

    def of(self, spec: Mapping[str, Any], recipe: str | None, fit_id: str | None) -> float | None:
        """Seconds of a cell whose black box is there: the mean over its method, data set, backbone and recipe.

        Only of measuring, where a finished cell has the same fit.
        """
        found = self._own.get(_kind(spec, recipe))
        return fmean((0.0 if fit_id in self._fits else fit) + measuring for fit, measuring in found) if found else None

    def of_black_box(self, spec: Mapping[str, Any], recipe: str | None) -> float | None:
        """Seconds of training its black box; most cells only waited for one to be read, so the longest counts."""
        return max(self._box.get(_place(spec, recipe), []), default=None)


def total(seconds: Iterable[float | None]) -> tuple[float, int]:
    """The sum of those that are known, and how many are not."""
    everything = list(seconds)
    known = [one for one in everything if one is not None]
    return sum(known), len(everything) - len(known)


def said(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> said(8), said(95), said(5400), said(200000)
        ('8 s', '2 min', '1 h 30 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def _kind(spec: Mapping[str, Any], recipe: str | None) -> tuple[Any, ...]:
    return (spec["method"], *_place(spec, recipe))


def _place(spec: Mapping[str, Any], recipe: str | None) -> tuple[Any, ...]:
    return (spec["dataset"], spec["backbone"], recipe)
