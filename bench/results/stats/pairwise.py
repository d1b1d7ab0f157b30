"""Difference of two methods in one metric over the same images or classes, with its interval and p value."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.results.aggregate import SeedGroup
from bench.results.cell_record import CellRecord, in_words
from bench.results.labels import protocol, shared_protocol
from bench.results.stats.bootstrap import NoInterval, Sample, difference
from bench.results.stats.contest import Comparison
from bench.results.stats.tests import alike, swap_test
from bench.results.stats.units import Items
from bench.results.store import Store


class Judge:
    """Comparison of sides; a table that several comparisons need is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._items: dict[tuple[str, str], Items] = {}

    def pair(
        self, first: Sequence[SeedGroup], second: Sequence[SeedGroup], wanted: Sequence[str]
    ) -> Iterator[Comparison]:
        """Yield all comparisons of two methods."""
        labels = (first[0].label, second[0].label)
        told: set[int] = set()
        for one in first:
            rivals = [two for two in second if _same_place(one, two)]
            fitting = [two for two in rivals if not _apart(one, two)]
            told |= {id(two) for two in fitting or rivals}
            for two in fitting:
                for name in wanted:
                    for found in self._metric(one, two, name):
                        yield replace(found, reason=_joined(found.reason, _remarks(one, two)))
            if not fitting:
                reason = "; or ".join(_apart(one, two) for two in rivals) or f"no result of {labels[1]} here"
                yield _refused(_place(labels, one), reason)
        for two in second:
            if id(two) not in told:
                rivals = [one for one in first if _same_place(one, two)]
                reason = "; or ".join(_apart(one, two) for one in rivals) or f"no result of {labels[0]} here"
                yield _refused(_place(labels, two), reason)

    def _metric(self, one: SeedGroup, two: SeedGroup, name: str) -> Iterator[Comparison]:
        metric, number = self._split(name, (*one.cells, *two.cells))
        facts = _facts(metric, (*one.cells, *two.cells))
        direction = None if number else bool(facts.get("higher_is_better", True))
        blank = replace(
            _place((one.label, two.label), one if one.backbone else two), metric=name,
            unit=str(facts.get("unit", "")), higher_is_better=direction,
        )  # fmt: skip
        known = [side.by_definition(metric) for side in (one, two)]
        common = sorted(known[0].keys() & known[1].keys())
        lacking = [_lacking(next(iter(side.speaking(metric).values())), metric, side.label)
                   for side, found in zip((one, two), known, strict=True) if not found]  # fmt: skip
        if lacking:
            yield _refused(blank, "; ".join(lacking))
        elif not common:
            yield _refused(blank, f"defined differently: {' / '.join(min(found) for found in known)}")
        for definition in common:
            pair = [own[definition] for own in known]
            yield self._judged(replace(blank, definition=definition), pair, metric, number)

    @staticmethod
    def _split(name: str, cells: Sequence[CellRecord]) -> tuple[str, str]:
        metrics = {known for cell in cells for known in (*cell.spec["metrics"], *cell.written["not_applicable"])}
        if name in metrics or "." not in name:
            return name, ""
        metric, number = name.rsplit(".", 1)
        return metric, number

    def _judged(
        self, blank: Comparison, pair: Sequence[Mapping[int, CellRecord]], metric: str, number: str
    ) -> Comparison:
        values: list[dict[int, float]] = []
        for label, cells in zip(blank.methods, pair, strict=True):
            own = {seed: _value(cell, metric, number) for seed, cell in sorted(cells.items())}
            there = {seed: value for seed, value in own.items() if value is not None}
            if not there:
                return _refused(blank, _lacking(next(iter(cells.values())), metric, label))
            values.append(there)
        blank = replace(blank, by_seed=(values[0], values[1]))
        common = values[0].keys() & values[1].keys()
        # Networks of the same seed share their black box and their order of images; without common seeds, all count.
        alone = [sorted(own.keys() - common) for own in values] if common else [[], []]
        left = [
            f"seed{'s' * (len(own) > 1)} {', '.join(map(str, own))} of {label} left out: {other} has none"
            for own, label, other in zip(alone, blank.methods, blank.methods[::-1], strict=True)
            if own
        ]
        if left:
            values = [{seed: own[seed] for seed in own if seed in common} for own in values]
            blank = replace(blank, reason="; ".join(left))
        means = [statistics.fmean(own.values()) for own in values]
        spreads = [statistics.stdev(own.values()) if len(own) > 1 else None for own in values]
        found = replace(
            blank,
            values=(means[0], means[1]),
            spreads=(spreads[0], spreads[1]),
            seeds=(tuple(values[0]), tuple(values[1])),
            difference=means[0] - means[1],
        )
        items = [
            {seed: self._items_of(cells[seed], metric) for seed in own} for cells, own in zip(pair, values, strict=True)
        ]
        try:
            direction = next(iter(items[0].values())).aggregate(number).higher_is_better
            found = replace(found, higher_is_better=found.higher_is_better if direction is None else direction)
            samples = [
                [tables[seed].sample(value, number) for seed, value in own.items()]
                for tables, own in zip(items, values, strict=True)
            ]
            return self._tested(found, samples)
        except NoInterval as error:
            return replace(found, verdict="not tested", reason=_joined(found.reason, str(error)))

    def _items_of(self, cell: CellRecord, metric: str) -> Items:
        key = (cell.name, metric)
        if key not in self._items:
            self._items[key] = Items(self._store.files(cell.name), metric, cell.spec["metrics"][metric])
        return self._items[key]

    @staticmethod
    def _tested(found: Comparison, samples: Sequence[Sequence[Sample]]) -> Comparison:
        kind = samples[0][0].kind
        if kind == "prototypes":
            raise NoInterval("its units are prototypes, and those of two methods are different things")
        names = [set(np.concatenate([one.units for one in own]).tolist()) for own in samples]
        shared, either = len(names[0] & names[1]), len(names[0] | names[1])
        if 2 * shared < max(map(len, names)):
            raise NoInterval(
                f"only {shared} of {either} {kind} have a value in both: they were not measured on the same"
            )
        told = f"{shared} of {either} {kind} have a value in both" if shared < either else ""
        reason = _joined(found.reason, told)
        found = replace(found, units=shared, kind=kind, reason=reason)
        if either < 2:
            raise NoInterval(f"there is only one of its {kind}, and nothing to resample")
        same_seeds = len(samples[0]) > 1 and found.seeds[0] == found.seeds[1]
        try:
            ends = difference(*samples, paired=same_seeds)
            found = replace(found, low=ends.low, high=ends.high)
        except NoInterval as error:
            found = replace(found, reason=_joined(reason, f"no interval: {error}"))
        same = f"equal in all {shared} {kind}" if alike(*samples) else ""
        return replace(found, p=swap_test(*samples), verdict=same)


def _same_place(one: SeedGroup, two: SeedGroup) -> bool:
    """Return whether two sides have the same backbone; controls have none, and are compared with every one."""
    same = one.backbone == two.backbone or not one.backbone or not two.backbone
    return one.first.dataset == two.first.dataset and same


def _place(methods: tuple[str, str], side: SeedGroup) -> Comparison:
    cell = side.first
    return Comparison(methods, cell.dataset, cell.backbone, protocol(shared_protocol(cell.spec["protocol"])))


def _apart(one: SeedGroup, two: SeedGroup) -> str:
    """Return the reason why two sides cannot be compared; empty if they can."""
    views = zip(one.first.view.values(), two.first.view.values(), strict=True)
    return "; ".join(f"{first} / {second}" for first, second in views if first != second)


def _remarks(one: SeedGroup, two: SeedGroup) -> str:
    """Return the known differences that do not forbid a comparison, in words; empty if there are none."""
    words = {
        "weights_digest": "they start from different weights",
        "black_box": "their black boxes were trained differently",
        "precision": "they were trained in different precision",
    }
    differing = [name for name in words if one.spec[name] and two.spec[name] and one.spec[name] != two.spec[name]]
    return "; ".join(words[name] for name in differing)


def _facts(metric: str, cells: Sequence[CellRecord]) -> dict[str, Any]:
    """Return unit and direction of a metric, from a cell that was to measure it."""
    known = ({**cell.written["not_applicable"], **cell.spec["metrics"]}.get(metric) for cell in cells)
    found = [facts for facts in known if facts is not None]
    return max(found, key=len, default={})


def _value(cell: CellRecord, metric: str, number: str) -> float | None:
    status, value, _ = cell.score(metric)
    if status != "ok" or not number:
        return value
    assert cell.result is not None
    found: float | None = cell.result["scores"][metric].get("also", {}).get(number)
    return found


def _joined(*reasons: str) -> str:
    """Join the reasons that are not empty."""
    return "; ".join(filter(None, reasons))


def _refused(comparison: Comparison, reason: str) -> Comparison:
    return replace(comparison, verdict="cannot compare", reason=reason)


def _lacking(cell: CellRecord, metric: str, label: str) -> str:
    """Return the reason why a cell has no value of a metric, or of a further number of it."""
    if not cell.asked(metric):
        return f"not measured for {label}"
    status, _, reason = cell.score(metric)
    words = "no such number" if status == "ok" else in_words(status)
    return f"{words} for {label}{f': {reason}' if reason else ''}"
