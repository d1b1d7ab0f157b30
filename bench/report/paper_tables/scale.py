"""Table 3: accuracy on ImageNet, and the resources of the methods at its 1,000 classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.report.measurement_tables import GIB, measured
from bench.report.paper_tables.published import PaperTable, published
from bench.report.table import Column, Row, Table, Value, mark_best
from bench.results.labels import position
from bench.results.result_set import ComparableGroup
from bench.results.store import Store

CLASSES = 1000
_MEASURED = (
    ("parameters (M)", "inference", "parameters", 1e6, ".1f"),
    ("training step, peak (GiB)", "training", "peak_bytes", GIB, ".2f"),
    ("inference, peak (GiB)", "inference", "peak_bytes", GIB, ".2f"),
    ("decomposition, peak (GiB)", "decomposition", "peak_bytes", GIB, ".2f"),
)


def accuracies(
    table: PaperTable, group: ComparableGroup | None, comparable: bool, notes: list[str]
) -> tuple[tuple[Column, ...], list[Row]]:
    """Return columns (methods, as in the paper) and rows of table 3."""
    printed = {(one.method, one.backbone): one for one in published(table.number)}
    members = [member for member in (group.rows if group else []) if member.backbone]
    backbones = list(dict.fromkeys(member.backbone for member in members))
    if comparable or not members:
        backbones = list(dict.fromkeys([*(backbone for _, backbone in printed), *backbones]))
    methods = [("method", method) for method, _ in printed]
    others = [(member.role, member.label) for member in members]
    names = list(dict.fromkeys([*methods, *sorted(others, key=lambda one: one[0] != "method")]))
    found = {(member.role, member.label, member.backbone): member for member in members}
    plain = {
        (member.label, member.backbone) for member in members if member.role == "method" and not member.first.plain
    }
    columns = [Column(label if role == "method" else f"{label} ({role})", digits=".1f") for role, label in names]
    rows = []
    for backbone in backbones:
        members_here = [found.get((*name, backbone)) for name in names]
        entries = [member.entry("accuracy", notes) if member else None for member in members_here]
        count = sum(role == "method" for role, _ in names)
        entries[:count] = mark_best(entries[:count], Column("accuracy", "%"))
        values = {}
        for column, (_, label), entry in zip(columns, names, entries, strict=True):
            said = printed.get((label, backbone)) if (label, backbone) not in plain else None
            values[column.key] = Value(entry, said, comparable)
        rows.append(Row("accuracy (%)" if len(backbones) == 1 else f"accuracy (%), {backbone}", values))
    return tuple(columns), rows


def memory(store: Store, table: PaperTable) -> list[Table]:
    """Return the figures of ``bench scale`` at 1,000 classes: a table for each set of conditions, the newest first.

    Of each method and form the newest measurement under these conditions counts.
    """
    groups: dict[str, dict[tuple[str, str], tuple[str, dict[str, Any], dict[str, Any]]]] = {}
    for stamp, record in reversed(store.scales().items()):
        rows = [row for row in record["rows"] if row["classes"] == CLASSES]
        if rows:
            own = groups.setdefault(json.dumps(_conditions(record), sort_keys=True), {})
            for row in rows:
                own.setdefault((row["method"], row["form"]), (stamp, record, row))
    return [_memory(table, own) for own in groups.values()]


def _conditions(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("backbone", "size", "batch_size", "precision", "device", "hardware")}


def _memory(table: PaperTable, found: Mapping[tuple[str, str], tuple[str, dict[str, Any], dict[str, Any]]]) -> Table:
    theirs = [one.method for one in published(table.number)]
    methods = list(dict.fromkeys(method for method, _ in found))
    methods.sort(key=lambda name: position(name, theirs))
    forms = ["", *sorted({form for _, form in found} - {""})]
    notes: list[str] = []
    rows = []
    for form in forms:
        for title, what, key, size, digits in _MEASURED if not form else _MEASURED[1:3]:
            values = {
                method: Value(measured(found[method, form][2].get(what), key, size, notes), digits=digits)
                for method in methods
                if (method, form) in found
            }
            if any(value.entry for value in values.values()):
                name = f"{title}, published code's form" if form else title
                rows.append(Row(name, values, "summary" if form else "method"))
    newest = max(stamp for stamp, _, _ in found.values())
    record = found[next(iter(found))][1]
    limits = sorted({one["memory_limit_bytes"] for _, one, _ in found.values()} - {None})
    code = sorted({f"{one['partbench']['version']} ({one['partbench']['git']})" for _, one, _ in found.values()})
    facts = [
        f"memory: random images of {record['size']} pixels, {record['batch_size']} at a time, {record['backbone']}, "
        f"{record['precision']}, {CLASSES} classes; Tan et al. 2024: {_published_memory()}",
        f"memory limit: {' or '.join(f'{limit / GIB:.1f} GiB' for limit in limits) or 'none'}",
        f"hardware: {record['hardware']} ({record['device']})",
        f"partbench: {', '.join(code)}",
        f"measured: python -m bench scale, newest {newest}",
    ]
    if record["device"] == "cpu":
        facts.insert(1, "on a CPU peaks are of resident memory")
    title, columns = f"Table {table.number}: memory at {CLASSES} classes", tuple(map(Column, methods))
    return Table(title, columns, tuple(rows), ("memory",), tuple(notes), facts=tuple(facts), number=table.number)


def _published_memory() -> str:
    without = [one.method for one in published(3) if one.status == "oom"]
    return f"{' and '.join(without)} do not fit into 24 GB at batch size 1"
