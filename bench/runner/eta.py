"""Estimated durations of cells, from finished ones of their kind, and the plan that a dry run prints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.config.spec import PlannedCell
from bench.core.console import Console
from bench.core.work_dir import FIT
from bench.results.store import Store, WorkDir
from bench.runner.heartbeat import activity_of


class Timings:
    """Durations of finished cells, grouped by method, data set, backbone and recipe."""

    def __init__(self) -> None:
        self._own: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
        self._fits: set[str] = set()
        self._box: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    @classmethod
    def of_store(cls, store: Store) -> Timings:
        """Collect the durations of all finished cells of a store."""
        timings = cls()
        for name in store.cells():
            timings.add(store, name)
        return timings

    def add(self, store: Store, name: str) -> None:
        """Add the durations of a cell, if it is finished."""
        record = store.record(name)
        written, outcome = record.written, record.result
        if written is None or outcome is None:
            return
        spec, seconds = written["spec"], outcome.get("seconds", {})
        self._own[_kind(spec, written.get("recipe"))].append((seconds.get("fit", 0.0), seconds.get("evaluate", 0.0)))
        if (store.cell(name).result / FIT).is_file():
            self._fits.add(record.fit_id)
        if "black box" in seconds:
            self._box[_place(spec, written.get("recipe"))].append(seconds["black box"])

    def of(self, spec: Mapping[str, Any], recipe: str | None, fit_id: str | None) -> float | None:
        """Estimate the seconds of a cell, without those of its black box.

        The time of fitting is left out if a finished cell has the same fit.

        Returns:
            The mean over finished cells of the same method, data set, backbone and recipe; ``None``: there are none.
        """
        times = self._own.get(_kind(spec, recipe))
        return fmean((0.0 if fit_id in self._fits else fit) + measuring for fit, measuring in times) if times else None

    def of_black_box(self, spec: Mapping[str, Any], recipe: str | None) -> float | None:
        """Estimate the seconds of training the black box of a cell; ``None``: unknown."""
        # Most cells only loaded a black box that another one had trained: the longest time is that of training.
        return max(self._box.get(_place(spec, recipe), []), default=None)


def format_duration(seconds: float) -> str:
    """Format a duration for display.

    Example:
        >>> format_duration(8), format_duration(95), format_duration(5400), format_duration(200000)
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


_HEADINGS = ("cell", "method", "dataset", "backbone", "seed", "state", "takes", "n/a")


def print_plan(console: Console, cells: Sequence[PlannedCell], store: Store, home: Path) -> None:
    """Print each cell with its state, estimated duration and inapplicable metrics, and a summary line."""
    timings = Timings.of_store(store)
    rows: list[tuple[str, ...]] = [_HEADINGS]
    reasons: dict[str, int] = {}
    counts: Counter[str] = Counter()
    boxes: dict[str, float | None] = {}
    known, unknown = 0.0, 0
    for cell in cells:
        spec, state = cell.spec, _state(cell, store)
        counts[state] += 1
        takes = "-"
        if state not in ("done", "nothing to measure"):
            seconds = timings.of(spec.model_dump(), cell.recipe, spec.fit_id)
            takes = "?" if seconds is None else format_duration(seconds)
            known, unknown = known + (seconds or 0.0), unknown + (seconds is None)
            # Counted once, however many cells wait for it.
            if spec.trains_black_box and not WorkDir(home / "blackboxes" / spec.black_box_id).done:
                boxes[spec.black_box_id] = timings.of_black_box(spec.model_dump(), cell.recipe)
        notes = [reasons.setdefault(why, len(reasons) + 1) for why in _refused(cell)]
        backbone, marks = spec.backbone or "-", ", ".join(map(str, notes))
        rows.append((spec.id, cell.label, spec.dataset, backbone, str(spec.seed), state, takes, marks))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", *(f"n/a {number}: {why}" for why, number in reasons.items())] if reasons else []
    line = f"{len(cells)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    if boxes:
        line += f"; black boxes to train first: {len(boxes)}"
        known += sum(seconds or 0.0 for seconds in boxes.values())
        unknown += sum(seconds is None for seconds in boxes.values())
    if known:
        line += f"; about {format_duration(known)} one after the other, as earlier cells took"
        line += f", and {unknown} of unknown length" if unknown else ""
    console.out("\n".join([*lines, "", line]))


def _refused(cell: PlannedCell) -> list[str]:
    """Return the reasons why metrics do not apply, each with the names of its metrics."""
    metrics: dict[str, list[str]] = {}
    for name, facts in cell.not_applicable.items():
        metrics.setdefault(facts["reason"], []).append(name)
    return [f"{reason} ({', '.join(names)})" for reason, names in metrics.items()]


def _state(cell: PlannedCell, store: Store) -> str:
    folder = store.cell(cell.spec.id)
    if not cell.spec.metrics:
        return "nothing to measure"
    failure = store.record(cell.spec.id).failure if folder.done else folder.failure
    if folder.done:
        return "done" if failure is None else "damaged, to run"
    activity = activity_of(folder)
    if activity is not None:
        return "running now" if activity["alive"] else "begun, to run"
    return "failed before, to run" if failure is not None else "to run"
