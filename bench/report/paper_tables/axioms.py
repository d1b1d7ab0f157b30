"""Table 1: ticks, from residuals, for the axioms that hold."""

from __future__ import annotations

from dataclasses import replace

from bench.report.paper_tables.methods import is_prior
from bench.report.paper_tables.published import AXIOMS, PaperTable, Published, published
from bench.report.table import Column, Row, Value
from bench.results.aggregate import Entry
from bench.results.select import Comparable, Fit

_DISPLAYED, _EXACT = "displayed maps", "exact contributions"


def axioms(table: PaperTable, group: Comparable | None, notes: list[str]) -> tuple[tuple[Column, ...], list[Row]]:
    """Return columns and rows of table 1.

    The paper's four columns are about the maps that a method displays. If the exact contributions were
    measured too, they follow as a second group.
    """
    fits = group.fits if group else []
    said = {(one.method, one.metric): one for one in published(table.number)}
    measured = {metric for fit in fits for one in fit.candidates for metric in one.found.spec["metrics"]}
    metrics = [name for name in table.metrics if name in AXIOMS or name in measured]
    both = len(metrics) > len(AXIOMS)
    units = _units(fits)
    columns = {
        name: Column(
            name.removesuffix("_contribution"),
            units.get(name, ""),
            (_DISPLAYED if name in AXIOMS else _EXACT) if both else "",
            digits=".1e",
        )
        for name in metrics
    }
    several = len({fit.backbone for fit in fits if fit.backbone}) > 1

    def paper(method: str, metric: str) -> Published | None:
        return said.get(("baselines" if is_prior(method) else method, metric))

    rows = []
    roles = ("method", "reference", "control")
    for fit in sorted(fits, key=lambda fit: (roles.index(fit.role), not is_prior(fit.spec["method"]))):
        entries = {metric: fit.entry(metric, []) for metric in metrics}
        if all(entry.status == "n/a" for entry in entries.values()):
            continue
        name = f"{fit.label}, {fit.backbone}" if several and fit.backbone else fit.label
        values = {
            columns[metric].key: Value(
                _by_seed(fit, metric, fit.entry(metric, notes), notes),
                paper(fit.spec["method"], metric) if fit.role == "method" else None,
                tolerance=_tolerance(fit, metric),
            )
            for metric in metrics
        }
        rows.append(Row(name, values, fit.role))
    methods = {fit.spec["method"] for fit in fits if fit.role == "method"}
    missing = [] if any(map(is_prior, methods)) else ["baselines"]
    missing += [] if "ours" in methods else ["ours"]
    unmeasured = [
        Row(name, {columns[metric].key: Value(None, said.get((name, metric)), tolerance=0.0) for metric in metrics})
        for name in missing
    ]
    return tuple(columns.values()), [*unmeasured, *rows]


def _units(fits: list[Fit]) -> dict[str, str]:
    specs = [one.found.spec["metrics"] for fit in fits for one in fit.candidates]
    return {metric: facts["unit"] for metrics in specs for metric, facts in metrics.items()}


def _by_seed(fit: Fit, metric: str, entry: Entry, notes: list[str]) -> Entry:
    """Return the entry, with a footnote if the axiom holds in some seeds only: the mean alone would hide it."""
    scored = [(one.found.spec["seed"], one.found.score(metric)[1]) for one in fit.deciding(metric)]
    values = {seed: value for seed, value in scored if value is not None}
    tolerance = _tolerance(fit, metric)
    held = sum(value <= tolerance for value in values.values())
    if held in (0, len(values)):
        return entry
    told = ", ".join(f"{value:.4g} (seed {seed})" for seed, value in values.items())
    note = f"the mean decides the mark; by seed the axiom holds in {held} of {len(values)}: {told}"
    if note not in notes:
        notes.append(note)
    return replace(entry, notes=(*entry.notes, notes.index(note) + 1))


def _tolerance(fit: Fit, metric: str) -> float:
    """Return the metric's own tolerance; 0 if it was not measured, which marks the column as one of ticks."""
    for one in fit.deciding(metric):
        if metric in one.found.spec["metrics"]:
            return float(one.found.spec["metrics"][metric]["parameters"]["tolerance"])
    return 0.0
