"""Tables of mean ranks with their uncertainty, and of what moves a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.report.table import Column, Row, Table, Word
from bench.results.aggregate import Entry
from bench.results.stats.bootstrap import RESAMPLES
from bench.results.stats.ranking import ResampledRanking
from bench.results.stats.variance import SOURCES, Components, Move

_RANKS = (
    Column("mean rank", digits=".2f"),
    Column("95 %", words=True),
    Column("best", "%"),
    Column("units", "%", group="best, drawing only"),
    Column("seeds", "%", group="best, drawing only"),
)


def rank_tables(found: Sequence[ResampledRanking]) -> list[Table]:
    """Return a table for each metric with a row for each method, the best first."""
    return [_rank_table(one) for one in found]


def _rank_table(found: ResampledRanking) -> Table:
    notes = (f"n/a: {found.reason}",) if found.reason else ()
    rows = []
    for place, name in enumerate(found.methods):
        units = found.best_units
        places = (
            Entry("ok", found.ranks[place]),
            Word("{:.2f} to {:.2f}".format(*found.ends[place])),
            Entry("ok", 100 * found.best[place]),
            Entry("n/a", notes=(1,)) if units is None else Entry("ok", 100 * units[place]),
            Entry("ok", 100 * found.best_seeds[place]),
        )
        rows.append(Row(name, {column.key: own for column, own in zip(_RANKS, places, strict=True)}))
    count = len(found.blocks.blocks)
    backbones = sorted({block[1] for block in found.blocks.blocks})
    units = found.kind or "no units"
    facts = [
        f"mean rank over {count} blocks (data set, backbone, seed), 1 is best; backbones: {', '.join(backbones)}",
        f"critical difference of two mean ranks (Nemenyi, 0.05): {found.gap:.2f}"
        + ("" if found.p is None else f"; Friedman p {found.p:.2g}")
        + "; both take blocks for independent, which seeds and backbones of one data set are not",
        f"95 % and best: {RESAMPLES} resamples of {units} and of seeds, the same for all methods; best: share of them "
        "in which the method has the lowest mean rank",
    ]
    if found.blocks.left:
        facts.append(f"without {', '.join(found.blocks.left)}: not in all of these blocks")
    return Table(f"ranks in {found.blocks.metric}", _RANKS, tuple(rows), ("method",), notes, facts=tuple(facts))


def variance_table(found: Sequence[Components], units: Mapping[str, str]) -> Table:
    """Return a row for each metric and data set with the standard deviation that each source adds.

    Args:
        found: components.
        units: unit of each metric.
    """
    columns = tuple(Column(name, digits=".2f") for name in SOURCES)
    columns += tuple(Column(name, digits=".0f", group="number of") for name in ("methods", "backbones", "seeds"))
    rows = []
    for one in found:
        values = {name: Entry("ok", value) for name, value in one.deviations.items()}
        for name in ("methods", "backbones", "seeds"):
            values[f"number of/{name}"] = Entry("ok", float(getattr(one, name)))
        unit = f" ({units[one.metric]})" if units.get(one.metric) else ""
        rows.append(Row(f"{one.data}: {one.metric}{unit}", values))
    facts = (
        "standard deviation that each source adds to a score, in its unit (random effects, from mean squares; 0 if "
        "the estimate is below)",
        "seed: shared by all methods of a backbone and seed, as their black box is; training: of one method's seed",
    )
    return Table("what moves a score", columns, tuple(rows), ("metric",), facts=facts)


def moves_table(found: Sequence[Move], units: Mapping[str, str]) -> Table:
    """Return a row for each change of a setting, with the mean difference and its size in each metric."""
    metrics = list(dict.fromkeys(one.metric for one in found))
    columns = [Column("pairs", digits=".0f")]
    for metric in metrics:
        unit = units.get(metric, "")
        columns += [
            Column(f"{metric}, mean", unit, digits="+.1f" if unit == "%" else "+.3g"),
            Column(f"{metric}, size", unit),
        ]
    rows: dict[tuple[str, tuple[str, str]], dict[str, Entry]] = {}
    for one in found:
        values = rows.setdefault((one.setting, one.change), {})
        values["pairs"] = Entry("ok", float(max(one.pairs, (values["pairs"].value or 0) if "pairs" in values else 0)))
        values[f"{one.metric}, mean"] = Entry("ok", one.mean)
        values[f"{one.metric}, size"] = Entry("ok", one.size)
    facts = (
        "pairs of cells that differ in this setting alone; mean: of the differences, second minus first; size: root of "
        "their mean square",
    )
    return Table(
        "what a setting moves", tuple(columns),
        tuple(Row(f"{name}: {low} > {high}", values) for (name, (low, high)), values in rows.items()),
        ("setting",), facts=facts,
    )  # fmt: skip
