"""Commands that print the comparisons that a report leaves out, and no others."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.core.errors import RequestError
from bench.report.html.verdicts import Place
from bench.results.records import CellRecord
from bench.results.select import Candidate, Fit
from bench.results.sides import sides
from bench.results.store import Store

_ID = 6
"""Letters of a cell's id behind a label that stands for several settings."""


class Commands:
    """Writer of the commands for one report.

    Args:
        store: results; commands name it as the report's caller did.
        cells: cells of the report, newest first.
        stamp: time stamp of the report's run, if it is about one run.
        suite: name of the report's suite, if it is about one suite.
        plugins: files that the report was given; the commands get them too.
    """

    def __init__(
        self, store: Store, cells: Sequence[Candidate], stamp: str | None, suite: str | None, plugins: Sequence[Path]
    ) -> None:
        self._end = ["--out", str(store.root), *(word for file in plugins for word in ("--plugin", str(file)))]
        known, there = store.invocations(), {one.found.name: one.found for one in cells}
        chosen = store.chosen_run(stamp, suite) if stamp or suite else None
        # Newest first; the empty stamp means all cells, for when no run has both sides.
        self._runs: dict[str, dict[str, CellRecord]] = {
            run: {name: there[name] for name in known[run]["cells"] if name in there}
            for run in ([chosen] if chosen else reversed(known))
        }
        self._runs[""] = there
        self._fitting: dict[tuple[int, str, str], list[CellRecord]] = {}
        self._names: dict[tuple[str, str], str] = {}

    def of(self, place: Place) -> list[str]:
        """Return the commands for the comparisons that were left out in a place.

        Each is about one run, and about methods of which every two were left out in every metric that it names. If
        several commands have a pair in common, its number is the same, and its p value is corrected for another call.
        """
        pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        order: dict[str, int] = {}
        for one in (one for own in place.left.values() for one in own):
            run, names = self._pair(one.first, one.second, one.metric)
            pairs[run, one.metric].append(names)
            for fit, name in zip((one.first, one.second), names, strict=True):
                order[name] = place.methods.index(fit.label) if fit.label in place.methods else len(place.methods)
        metrics: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
        for (run, metric), own in pairs.items():
            for methods in _cliques(own):
                metrics[run, tuple(sorted(methods, key=order.__getitem__))].append(metric)
        return [
            # Not by suite: a later run of it would be another one, and the page stays.
            shlex.join(["python", "-m", "bench", "compare", *methods, "--metrics", ",".join(own),
                        *(["--run", run] if run else []), *self._end])
            for (run, methods), own in metrics.items()
        ]  # fmt: skip

    def _pair(self, first: Fit, second: Fit, metric: str) -> tuple[str, tuple[str, str]]:
        """Return the run to look at for two methods in a metric, and the labels by which `compare` finds them there."""
        # Most seeds in common, then the newest; all cells only if no run has both.
        run = max((run for run in self._runs if run), key=lambda run: self._common(first, second, metric, run),
                  default="")  # fmt: skip
        run = run if run and self._common(first, second, metric, run) else ""
        cells = [self._measured(fit, metric, run)[0] for fit in (first, second)]
        labels = {str(cell.written["label"]) for cell in cells}
        # Without --run, `compare` takes any run that has both labels.
        elsewhere = not run and any(
            labels <= {str(cell.written["label"]) for cell in own.values()} for at, own in self._runs.items() if at
        )
        one, two = (self._called(cell, run, elsewhere) for cell in cells)
        return run, (one, two)

    def _common(self, first: Fit, second: Fit, metric: str, run: str) -> int:
        """Return 0 if one of them was not measured there, else the number of common seeds plus 1."""
        seeds = [{cell.spec["seed"] for cell in self._measured(fit, metric, run)} for fit in (first, second)]
        return len(seeds[0] & seeds[1]) + 1 if all(seeds) else 0

    def _measured(self, fit: Fit, metric: str, run: str) -> list[CellRecord]:
        """Return the cells that have the metric, all under the label that most of them have."""
        key = (id(fit), metric, run)
        if key not in self._fitting:
            own = [one.found for one in fit.candidates if one.found.name in self._runs[run]]
            own = [cell for cell in own if cell.score(metric)[0] == "ok"]
            label = Counter(cell.written["label"] for cell in own).most_common(1)
            self._fitting[key] = [cell for cell in own if cell.written["label"] == label[0][0]]
        return self._fitting[key]

    def _called(self, cell: CellRecord, run: str, elsewhere: bool) -> str:
        """Return the label, with the beginning of a cell's id if the label alone is ambiguous."""
        label = str(cell.written["label"])
        if elsewhere:
            return f"{label}#{cell.name[:_ID]}"
        if (run, cell.name) not in self._names:
            try:
                alone = len(sides(list(self._runs[run].values()), label)) == 1
            except RequestError:
                alone = False
            self._names[run, cell.name] = label if alone else f"{label}#{cell.name[:_ID]}"
        return self._names[run, cell.name]


def _cliques(pairs: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield groups of names of which every two are among the pairs, until each pair is in a group.

    >>> list(_cliques([("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]))
    [['a', 'b', 'c'], ['c', 'd']]
    """
    beside: dict[str, set[str]] = defaultdict(set)
    for one, two in pairs:
        beside[one].add(two)
        beside[two].add(one)
    left = dict.fromkeys(frozenset(pair) for pair in pairs)
    for pair in pairs:
        if frozenset(pair) not in left:
            continue
        group = list(pair)
        for name in beside:
            if beside[name].issuperset(group) and any(frozenset((name, other)) in left for other in group):
                group.append(name)
        for name in group:
            for other in group:
                left.pop(frozenset((name, other)), None)
        yield group
