"""Stored cells of a method in a comparison: found by label, put together by data, backbone and seed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from bench.core import registry
from bench.core.errors import RequestError
from bench.results.aggregate import SeedGroup
from bench.results.cell_record import CellRecord
from bench.results.result_set import ResultSet
from bench.results.store import Store


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
    known, there = store.invocations(), {*store.cells()}
    if stamp or suite or not there:
        stamp = store.chosen_run(stamp, suite)

    @cache
    def cell(name: str) -> list[CellRecord]:
        return store.records([name])

    def of(run: str) -> list[CellRecord]:
        return [record for name in known[run]["cells"] if name in there for record in cell(name)]

    def with_faults(text: str) -> str:
        return "; ".join([text, *(f"failed: {reason}" for reason in store.faults.values())])

    if stamp is not None:
        for label in labels:
            _require(of(stamp), label, f"in run {stamp}")
        return of(stamp), with_faults(f"cells: run {stamp}")
    having = (run for run in reversed(known) if all(any(_is(cell, label) for cell in of(run)) for label in labels))
    # Of those that have as many of the metrics the newest: without metrics no other run is read.
    run = max(having, key=lambda run: _measured(of(run), metrics), default=None) if metrics else next(having, None)
    if run is not None:
        measured = " in these metrics" * (_measured(of(run), metrics) > 0)
        return of(run), with_faults(f"cells: run {run}, the newest that has all of them{measured}")
    every = sorted(ResultSet.of(store), key=lambda cell: not cell.referenced)
    for label in labels:
        # Before any complaint about names that belong to several settings.
        _require(every, label, f"in {store.root}")
    return every, with_faults("cells: all in the store, for no run has all of them")


def sides(cells: Sequence[CellRecord], label: str) -> list[SeedGroup]:
    """Return the cells of one method on each data set with each backbone, in the order of these.

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
        like = {cell.identity for cell in own}
        own = [cell for cell in cells if cell.written["label"] == name and cell.identity in like]
    places: dict[tuple[str, ...], dict[str, list[CellRecord]]] = defaultdict(lambda: defaultdict(list))
    for cell in own:
        places[cell.dataset, cell.backbone, *cell.view.values()][cell.identity].append(cell)
    groups = []
    for (dataset, backbone, *_), variants in sorted(places.items()):
        # Settings that never came to a result do not count if others did.
        settings = [group for group in variants.values() if any(cell.result for cell in group)] or [*variants.values()]
        if len(settings) > 1:
            names = [f"{name}#{group[0].name[:6]}" for group in settings]
            where = f"{dataset}, {backbone}" if backbone else dataset
            raise RequestError(
                f"{label!r} stands for {len(settings)} different settings on {where}: write {' or '.join(names)} "
                "(`python -m bench show CELL` tells what they are), or name a run with --run"
            )
        groups.append(SeedGroup(tuple(settings[0]), label))
    return groups


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
