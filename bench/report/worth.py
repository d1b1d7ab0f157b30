"""Table of what each metric is worth: how far the best method is above the best control."""

from __future__ import annotations

from bench.report.chance import has_chance
from bench.report.table import Column, Row, Table, Word
from bench.results.aggregate import Entry, footnote

_COLUMNS = (
    Column("best method", words=True),
    Column("its value", words=True),
    Column("best control", words=True),
    Column("its value", group="control", words=True),
    Column("of the way", "0 to 1"),
)


def worth(table: Table) -> Table:
    """Return a table with a row for each metric of a comparison, the one first whose best method is furthest above.

    How far is the share of the way from the best control to the perfect value: 100 of a percentage, 0 where less is
    better. 0 or less: a control that knows no class does as well as every method, so that the metric shows nothing here
    that they have learned.

    Args:
        table: of :func:`bench.report.comparison`.
    """
    notes: list[str] = []
    rows = [_row(column, table.rows, notes) for column in table.columns]
    rows.sort(key=lambda row: -(row.number(_COLUMNS[-1]) if row.number(_COLUMNS[-1]) is not None else -1e9))
    return Table(
        f"{table.title}: what each metric is worth",
        _COLUMNS,
        tuple(rows),
        ("metric",),
        tuple(notes),
        facts=("1: the best method is perfect, 0: no better than the best control", *table.facts),
        foldable=False,
    )


def _row(column: Column, rows: tuple[Row, ...], notes: list[str]) -> Row:
    better = max if column.higher_is_better else min
    several = len({row.backbone for row in rows if row.backbone}) > 1
    best: dict[str, tuple[str, float]] = {}
    for role in ("method", "control"):
        known = [
            (f"{row.label}, {row.backbone}" if several and row.backbone else row.label, value)
            for row in rows
            if row.role == role and (value := row.number(column)) is not None
        ]
        if known:
            best[role] = better(known, key=lambda one: one[1])
    unit = "" if column.unit in ("%", "0 to 1", "ratio") else f" {column.unit}"

    def words(role: str, part: int) -> Word:
        if role not in best:
            return Word("n/a")
        return Word(best[role][0] if part == 0 else f"{best[role][1]:{column.form}}{unit}")

    places = [words("method", 0), words("method", 1), words("control", 0), words("control", 1)]
    values = {one.key: place for one, place in zip(_COLUMNS, places, strict=False)}
    far, reason = _far(column, best)
    entry = Entry("ok", far) if far is not None else Entry("n/a", notes=(footnote(reason, notes),))
    return Row(column.name, {**values, _COLUMNS[-1].key: entry})


def _far(column: Column, best: dict[str, tuple[str, float]]) -> tuple[float | None, str]:
    """Return the share of the way to the perfect value, or the reason why there is none."""
    if len(best) < 2:
        return None, "n/a: no method has it" if "method" not in best else "n/a: no control has it"
    if not has_chance(column):
        return None, "n/a: its controls are no rivals: random maps differ by nature, and explaining them costs nothing"
    # A residual of nothing but rounding is none.
    value, chance = (0.0 if column.within(one) else one for one in (best["method"][1], best["control"][1]))
    if column.higher_is_better and column.unit != "%":
        return None, "n/a: it has no perfect value"
    perfect = 100.0 if column.higher_is_better else 0.0
    if perfect == chance:
        return None, "n/a: a control is perfect"
    return (value - chance) / (perfect - chance), ""
