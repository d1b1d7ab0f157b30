"""Stored scores as points to plot: one per method, settings and backbone, with mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.report.provenance import distinguish
from bench.results import labels
from bench.results.asked_cells import Asked
from bench.results.grouping import together
from bench.results.labels import text_of
from bench.results.store import Store


@dataclass(frozen=True)
class Value:
    """Mean over seeds; ``spread`` is their standard deviation (n - 1), 0 for one seed."""

    mean: float
    spread: float
    seeds: int


@dataclass(frozen=True)
class Point:
    """Cells that differ in seed or in what was measured.

    Attributes:
        label: of the row in tables.
        method: name in the catalogue.
        role: ``method``, ``reference`` or ``control``.
        backbone: empty where the method looks at none.
        settings: of the method.
        varied: whether settings were changed from those of the recipe.
        values: of each metric that was measured.
        by_seed: those values with each seed that they are means over.
        seconds: to fit it, with the black box where it starts from one, over the seeds of which that is on record;
            ``None`` where it is of none.
        prototypes: how many there are.
        cells: all of them.
    """

    label: str
    method: str
    role: str
    backbone: str
    settings: Mapping[str, Any]
    varied: bool
    values: Mapping[str, Value]
    by_seed: Mapping[int, Mapping[str, float]]
    seconds: Value | None
    prototypes: int
    cells: tuple[str, ...]

    def over(self, seeds: Sequence[int]) -> Point:
        """The same with means over these seeds, which it must have."""
        found = {metric: _value([self.by_seed[seed][metric] for seed in seeds]) for metric in self.values}
        return replace(self, values=found)


@dataclass(frozen=True)
class Group:
    """Points that may stand in one plot: the same data, seen in the same way, and one definition of each metric.

    Attributes:
        title: the data set, and what sets it apart from others in the store.
        dataset: its name.
        units: of each metric.
        older: how many finished cells were left out because a newer run has a row of the same name.
        hardware: that the fits ran on.
    """

    title: str
    dataset: str
    units: Mapping[str, str]
    points: tuple[Point, ...]
    older: int
    hardware: tuple[str, ...]


def groups(store: Store, cells: Iterable[Asked], metrics: Sequence[str]) -> list[Group]:
    """The finished cells that have one of the metrics; the group with most points first."""
    chosen = []
    for cell in cells:
        own = {metric: text for metric, text in cell.found.definitions.items() if metric in metrics}
        if cell.done and own:
            chosen.append((cell, cell.spec, own))
    found = together(chosen)
    titles = distinguish([members[0].spec for _, members in found], [definitions for definitions, _ in found])
    made = [_group(store, title, members, metrics) for title, (_, members) in zip(titles, found, strict=True)]
    return sorted(made, key=lambda group: -len(group.points))


def _group(store: Store, title: str, members: list[Asked], metrics: Sequence[str]) -> Group:
    same: dict[str, list[Asked]] = defaultdict(list)
    for cell in members:
        rest = {key: value for key, value in cell.spec.items() if key not in ("seed", "metrics")}
        same[text_of(rest)].append(cell)
    newest: dict[tuple[str, str, str], list[Asked]] = {}
    older = 0
    for own in same.values():
        # They come newest first, so a row of the same name that is there already is the newer one.
        name = (own[0].found.written["role"], own[0].label, own[0].spec["backbone"] or "")
        if name in newest:
            older += len(own)
        else:
            newest[name] = own
    units = {
        metric: facts["unit"] for cell in members for metric, facts in cell.spec["metrics"].items() if metric in metrics
    }
    hardware = dict.fromkeys(cell.found.result["environment"]["hardware"] for cell in members if cell.found.result)
    points = tuple(_point(store, own, metrics) for own in newest.values())
    return Group(title, members[0].spec["dataset"], units, points, older, tuple(hardware))


def _point(store: Store, cells: list[Asked], metrics: Sequence[str]) -> Point:
    values: dict[int, dict[str, float]] = defaultdict(dict)
    seconds: dict[int, float] = {}
    for cell in cells:
        seed, outcome = cell.spec["seed"], cell.found.result
        assert outcome is not None
        for metric in metrics:
            status, value, _ = cell.found.score(metric)
            if status == "ok" and value is not None:
                values[seed].setdefault(metric, value)
        before = store.black_box_seconds(cell.found.written)
        if before is not None and "fit" in outcome["seconds"]:
            seconds.setdefault(seed, outcome["seconds"]["fit"] + before)
    # Coordinates of one point are means over the same seeds: those with most of the metrics.
    most = max(map(len, values.values()), default=0)
    seeds = [seed for seed in sorted(values) if len(values[seed]) == most]
    measured = [metric for metric in metrics if all(metric in values[seed] for seed in seeds)] if seeds else []
    first = cells[0]
    outcome = first.found.result
    assert outcome is not None
    return Point(
        first.label,
        first.spec["method"],
        first.found.written["role"],
        first.spec["backbone"] or "",
        first.spec["settings"],
        not labels.is_plain(first.found.written),
        {metric: _value([values[seed][metric] for seed in seeds]) for metric in measured},
        {seed: values[seed] for seed in seeds},
        _value(known) if (known := [seconds[seed] for seed in seeds if seed in seconds]) else None,
        outcome["prototypes"],
        tuple(cell.found.name for cell in cells),
    )


def _value(numbers: Sequence[float]) -> Value:
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return Value(statistics.fmean(numbers), spread, len(numbers))
