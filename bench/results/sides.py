"""Stored cells of a method in a comparison: found by label, put together by data, backbone and seed."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench.core import registry
from bench.core.errors import RequestError
from bench.results.grouping import precedence
from bench.results.labels import protocol, shared_protocol
from bench.results.records import CellRecord
from bench.results.store import Store


@dataclass(frozen=True)
class Side:
    """Method, as it was measured on one data set with one backbone; its cells differ in seed and metrics only."""

    label: str
    dataset: str
    backbone: str
    view: tuple[str, ...]
    cells: tuple[CellRecord, ...]

    @property
    def protocol(self) -> str:
        """Return how images were cut and scaled."""
        return protocol(shared_protocol(self.cells[0].spec["protocol"]))

    def definitions(self, metric: str) -> dict[str, dict[int, CellRecord]]:
        """Return definition -> seed -> the cell that has the metric in it, or else has the best reason why not."""
        found: dict[str, dict[int, CellRecord]] = defaultdict(dict)
        for cell in self.cells:
            text = cell.definitions.get(metric)
            seed = cell.spec["seed"]
            if text is not None and (seed not in found[text] or found[text][seed].score(metric)[0] != "ok"):
                found[text][seed] = cell
        return dict(found)

    def why_not(self, metric: str) -> str:
        """Return the reason why there is no value of a metric."""
        for cell in self.cells:
            status, _, reason = cell.score(metric)
            if status != "ok" and metric in {**cell.written["not_applicable"], **cell.spec["metrics"]}:
                words = {"oom": "out of memory", "missing": "not finished"}.get(status, status)
                return f"{words} for {self.label}{f': {reason}' if reason else ''}"
        return f"not measured for {self.label}"


def apart(one: Side, two: Side) -> str:
    """Return the reason why two sides cannot be compared; empty if they can."""
    differing = [f"{a} / {b}" for a, b in zip(one.view, two.view, strict=True) if a != b]
    return "; ".join(differing)


def conditions(one: Side, two: Side) -> str:
    """Return the known differences that do not forbid a comparison, in words; empty if there are none."""
    words = {
        "weights_digest": "they start from different weights",
        "black_box": "their black boxes were trained differently",
        "precision": "they were trained in different precision",
    }
    specs = [side.cells[0].spec for side in (one, two)]
    found = [text for name, text in words.items() if all(s[name] for s in specs) and specs[0][name] != specs[1][name]]
    return "; ".join(found)


def chosen_cells(
    store: Store, labels: Sequence[str], stamp: str | None, suite: str | None, metrics: Sequence[str] = ()
) -> tuple[list[CellRecord], str]:
    """Return the cells to look at, and their origin in words.

    Args:
        store: contains the results.
        labels: of the methods that are compared.
        stamp: of a run.
        suite: whose newest run is taken; by default the newest run that has all the methods, or else all cells.
        metrics: names or groups; of runs that have all the methods, one that has most of these is taken.

    Raises:
        RequestError: if there are none.
    """
    known, there = store.invocations(), store.cells()
    if stamp or suite or not there:
        stamp = store.chosen_run(stamp, suite)

    @cache
    def cell(name: str) -> list[CellRecord]:
        return store.records([name])

    def cells(names: Iterable[str]) -> list[CellRecord]:
        return [found for name in names if name in there for found in cell(name)]

    def of(run: str) -> list[CellRecord]:
        return cells(known[run]["cells"])

    def told(text: str) -> str:
        return "; ".join([text, *(f"failed: {reason}" for reason in store.faults.values())])

    if stamp is not None:
        for label in labels:
            _require(of(stamp), label, f"in run {stamp}")
        return of(stamp), told(f"cells: run {stamp}")
    having = [run for run in reversed(known) if all(any(_is(cell, label) for cell in of(run)) for label in labels)]
    if having:
        # The newest of those that have as many.
        measured = {run: _measured(of(run), metrics) for run in having}
        run = max(having, key=measured.__getitem__)
        shown = f"cells: run {run}, the newest that has all of them{' in these metrics' * bool(measured[run])}"
        return of(run), told(shown)
    every = cells(there)
    placed = precedence(known, {one.name for one in every if one.written["role"] == "reference" and one.result})
    every.sort(key=lambda one: placed.get(one.name, (False, "")), reverse=True)
    for label in labels:
        # Before any complaint about names that belong to several settings.
        _require(every, label, f"in {store.root}")
    return every, told("cells: all in the store, for no run has all of them")


def sides(cells: Sequence[CellRecord], label: str) -> list[Side]:
    """Return the sides of one method, in the order of data sets and backbones.

    Args:
        cells: to look at.
        label: as tables show it, or ``label#abc123`` if several cells have it, with the beginning of a cell's id.

    Raises:
        RequestError: if no cell has it, or cells of different settings do.
    """
    own = _require(cells, label)
    name, prefix = _parted(label)
    if prefix and not any(cell.written["label"] == label for cell in own):
        # The id names one cell; those that differ from it in seed or metrics only belong to it.
        like = {_settings(cell) for cell in own}
        own = [cell for cell in cells if cell.written["label"] == name and _settings(cell) in like]
    groups: dict[tuple[str, str, tuple[str, ...]], dict[str, list[CellRecord]]] = defaultdict(lambda: defaultdict(list))
    for cell in own:
        spec = cell.spec
        groups[spec["dataset"], spec["backbone"] or "", view_of(spec)][_settings(cell)].append(cell)
    found = []
    for (dataset, backbone, view), variants in groups.items():
        if any(cell.result for members in variants.values() for cell in members):
            # Settings that never came to a result do not count if others did.
            variants = {key: members for key, members in variants.items() if any(cell.result for cell in members)}
        if len(variants) > 1:
            names = [f"{name}#{members[0].name[:6]}" for members in variants.values()]
            where = f"{dataset}, {backbone}" if backbone else dataset
            raise RequestError(
                f"{label!r} stands for {len(variants)} different settings on {where}: write {' or '.join(names)} "
                "(`python -m bench show CELL` tells what they are), or name a run with --run"
            )
        (members,) = variants.values()
        found.append(Side(label, dataset, backbone, view, tuple(members)))
    return sorted(found, key=lambda side: (side.dataset, side.backbone, side.view))


def _measured(cells: Sequence[CellRecord], metrics: Sequence[str]) -> int:
    """Count the metrics and groups that some cell has."""
    there = {metric for cell in cells for metric in cell.spec["metrics"]}

    def meant(name: str) -> set[str]:
        try:
            return set(registry.chosen_metrics([name], shared=True))
        except registry.UnknownName:
            return {name, name.rpartition(".")[0]}  # METRIC.NUMBER, or a number that nothing measures

    return sum(bool(meant(name) & there) for name in metrics)


def _require(cells: Sequence[CellRecord], label: str, where: str = "here") -> list[CellRecord]:
    """Return the cells of that label."""
    own = [cell for cell in cells if _is(cell, label)]
    if not own:
        known = sorted({cell.written["label"] for cell in cells})
        same = [name for name in known if name.split(" (")[0] == label.split(" (")[0]]
        if label in registry.names("methods") and not same:
            # A method that exists is no misspelling of another.
            raise RequestError(f"{label} has no results {where}; there are results of: {registry.some(known)}")
        raise RequestError(f"no result of {registry.quoted(label)}{registry.nearest(label, same or known)}")
    return own


def _is(cell: CellRecord, label: str) -> bool:
    name, prefix = _parted(label)
    return cell.written["label"] == label or (cell.written["label"] == name and cell.name.startswith(prefix))


def _parted(label: str) -> tuple[str, str]:
    """Return the name and the beginning of a cell's id; a label may hold the sign too."""
    name, _, prefix = label.rpartition("#")
    return (name, prefix) if re.fullmatch("[0-9a-f]+", prefix) and name else (label, "")


def view_of(spec: dict[str, Any]) -> tuple[str, ...]:
    """Return the fields that two sides must have in common: the data and how it is seen."""
    return (
        f"data {spec['data_digest']}",
        f"protocol {protocol(shared_protocol(spec['protocol']))}",
        f"measured on {spec.get('split', 'test')}",
        f"bad images: {spec['on_bad_image']}",
    )


def _settings(cell: CellRecord) -> str:
    return json.dumps({**cell.spec, "seed": None, "metrics": None}, sort_keys=True)
