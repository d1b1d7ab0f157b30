"""Table 1: ticks, from residuals, for the axioms that hold."""

from __future__ import annotations

from dataclasses import replace

from bench.report.paper_tables.methods import is_prior
from bench.report.paper_tables.published import AXIOMS, TABLES, PaperTable, Published, published
from bench.report.table import Column, Row, Value
from bench.results.aggregate import Entry, SeedGroup, footnote
from bench.results.labels import ROLES
from bench.results.result_set import ComparableGroup

_READINGS = {"": "displayed maps", "contribution": "exact contributions", "shapley": "Shapley values"}


def axioms(table: PaperTable, group: ComparableGroup | None, notes: list[str]) -> tuple[tuple[Column, ...], list[Row]]:
    """Return columns and rows of table 1.

    The paper's four columns are about the maps that a method displays. If the exact contributions or the Shapley
    values were measured too, they follow as groups.
    """
    members = group.rows if group else []
    said = {(one.method, one.metric): one for one in published(table.number)}
    measured = {metric for member in members for one in member.cells for metric in one.spec["metrics"]}
    metrics = [name for name in table.metrics if name in AXIOMS or name in measured]
    several_readings = len(metrics) > len(AXIOMS)
    units = _units(members)
    columns = {
        name: Column(
            name.partition("_")[0],
            units.get(name, ""),
            _READINGS[name.partition("_")[2]] if several_readings else "",
            digits=".1e",
        )
        for name in metrics
    }
    known = {one.method for number in TABLES for one in published(number)}
    several = len({member.backbone for member in members if member.backbone}) > 1

    def paper(method: str, metric: str) -> Published | None:
        # Its "baselines" are the methods of its other tables.
        return said.get(("baselines" if is_prior(method) and method in known else method, metric))

    rows = []
    for member in sorted(members, key=lambda one: (ROLES.index(one.role), not is_prior(one.spec["method"]))):
        entries = {metric: member.entry(metric, []) for metric in metrics}
        # Controls have no logits. A method without a number has a reason, such as logits that are no sums.
        if member.role != "method" and all(entry.status == "n/a" for entry in entries.values()):
            continue
        name = f"{member.label}, {member.backbone}" if several and member.backbone else member.label
        values = {
            columns[metric].key: Value(
                _by_seed(member, metric, member.entry(metric, notes), notes),
                paper(member.spec["method"], metric) if member.role == "method" else None,
                tolerance=_tolerance(member, metric),
            )
            for metric in metrics
        }
        rows.append(Row(name, values, member.role))
    methods = {member.spec["method"] for member in members if member.role == "method"}
    missing = [] if any(map(is_prior, methods)) else ["baselines"]
    missing += [] if "ours" in methods else ["ours"]
    unmeasured = [
        Row(name, {columns[metric].key: Value(None, said.get((name, metric)), tolerance=0.0) for metric in metrics})
        for name in missing
    ]
    return tuple(columns.values()), [*unmeasured, *rows]


def _units(members: list[SeedGroup]) -> dict[str, str]:
    specs = [one.spec["metrics"] for member in members for one in member.cells]
    return {metric: facts["unit"] for metrics in specs for metric, facts in metrics.items()}


def _by_seed(member: SeedGroup, metric: str, entry: Entry, notes: list[str]) -> Entry:
    """Return the entry, with a footnote if the axiom holds in some seeds only: the mean alone would hide it."""
    scored = [(seed, cell.score(metric)[1]) for seed, cell in member.speaking(metric).items()]
    values = {seed: value for seed, value in scored if value is not None}
    tolerance = _tolerance(member, metric)
    held = sum(value <= tolerance for value in values.values())
    if held in (0, len(values)):
        return entry
    told = ", ".join(f"{value:.4g} (seed {seed})" for seed, value in values.items())
    note = f"the mean decides the mark; by seed the axiom holds in {held} of {len(values)}: {told}"
    return replace(entry, notes=(*entry.notes, footnote(note, notes)))


def _tolerance(member: SeedGroup, metric: str) -> float:
    """Return the metric's own tolerance; 0 if it was not measured, which marks the column as one of ticks."""
    for one in member.speaking(metric).values():
        if metric in one.spec["metrics"]:
            return float(one.spec["metrics"][metric]["parameters"]["tolerance"])
    return 0.0
