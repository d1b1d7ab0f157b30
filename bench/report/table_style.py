"""Tables as an author wants them: columns, rows, names, digits, caption and label of their own choice."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from bench.core import registry
from bench.core.errors import RequestError
from bench.report.table import Place, Row, Table, Value


def styled(
    tables: Sequence[Table],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    digits: int | None = None,
    caption: str = "",
    label: str = "",
) -> list[Table]:
    """Return the tables that have some of the columns and rows; the best is marked again among what is left.

    Args:
        tables: as they are made.
        columns: names or groups of the columns, in this order; default: all.
        rows: labels of the rows, in this order within a role, and backbones: of those that have one, the rows on these
            alone; default: all.
        rename: names of rows, columns, groups, backbones and units -> names that are printed instead.
        digits: decimals of fixed numbers, significant digits of others.
        caption: instead of the title.
        label: name of a LaTeX table.

    Raises:
        RequestError: for a column, row or name that none of the tables has.
    """
    headings = {name for table in tables for one in table.columns for name in (one.name, one.group)}
    labels = {row.label for table in tables for row in table.rows}
    others = {name for table in tables for name in (*table.stub, *(row.backbone for row in table.rows),
                                                    *(one.unit for one in table.columns))}  # fmt: skip
    _check("--columns", columns, headings - {""})
    _check("--rows", rows, (labels | {row.backbone for table in tables for row in table.rows}) - {""})
    _check("--rename", rename or (), (headings | labels | others) - {""})
    found = []
    for table in tables:
        own = dict.fromkeys(one for name in columns for one in table.columns if name in (one.name, one.group))
        lines = _chosen(table.rows, rows)
        if (columns and not own) or (rows and not lines):
            continue
        chosen = tuple(own) if columns else table.columns
        if digits is not None:
            chosen = tuple(replace(one, digits=_precise(one.form, digits)) for one in chosen)
            lines = [replace(row, values={key: _rounded(place, digits) for key, place in row.values.items()})
                     for row in lines]  # fmt: skip
        changed = {"title": caption, "caption": caption, "label": label, "rename": rename}
        kept = {name: value for name, value in changed.items() if value}
        gone = {one.name for one in table.columns} - {one.name for one in chosen}
        facts, chance = tuple(_without(text, gone) for text in table.facts), table.chance
        chance = tuple(text for text in chance if text.partition(":")[0] not in gone)
        found.append(replace(table, columns=chosen, rows=tuple(lines), facts=facts, chance=chance, **kept).marked())
    if not found:
        raise RequestError("--columns and --rows: no table has both; call without them to see which has which")
    return found


def _without(fact: str, gone: Collection[str]) -> str:
    """Return a fact, if it is the list of definitions without those of columns that are not shown."""
    head, separator, definitions = fact.partition("metrics: ")
    if head or not separator or not gone:
        return fact
    kept = [one for one in definitions.split("; ") if one.partition(" ")[0] not in gone]
    return f"metrics: {'; '.join(kept)}" if kept else fact


def _chosen(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return rows in the order of the labels, those of one role together: a rule is between roles."""
    labels = [name for name in names if any(name == row.label for row in rows)]
    backbones = {"", *(names if not labels else set(names) - set(labels))}
    if len(backbones) > 1:
        rows = [row for row in rows if row.backbone in backbones]
    if not labels:
        return list(rows)
    roles = list(dict.fromkeys(row.role for row in rows))
    chosen = [row for row in rows if row.label in labels]
    return sorted(chosen, key=lambda row: (roles.index(row.role), labels.index(row.label)))


def _check(option: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise RequestError(f"{option} {name}: not in these tables{registry.nearest(name, known)}")


def _precise(form: str, digits: int) -> str:
    """Return a format with another number of digits: ``+.1f`` -> ``+.2f``."""
    return re.sub(r"\.\d+", f".{digits}", form)


def _rounded(place: Place, digits: int) -> Place:
    return replace(place, digits=_precise(place.digits, digits)) if isinstance(place, Value) else place
