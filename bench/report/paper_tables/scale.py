"""Table 3: accuracy on ImageNet, and the resources of the methods at its 1,000 classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.report.paper_tables.published import PaperTable, published
from bench.report.sheet import Field, Heading, Row, Sheet, marked
from bench.results.aggregate import Entry
from bench.results.select import Comparable
from bench.results.store import Store

CLASSES = 1000
_GIB = 2**30
_MEASURED = (
    ("parameters (M)", "inference", "parameters", 1e6, ".1f"),
    ("training step, peak (GiB)", "training", "peak_bytes", _GIB, ".2f"),
    ("inference, peak (GiB)", "inference", "peak_bytes", _GIB, ".2f"),
    ("decomposition, peak (GiB)", "decomposition", "peak_bytes", _GIB, ".2f"),
)


def accuracies(
    table: PaperTable, group: Comparable | None, comparable: bool, notes: list[str]
) -> tuple[tuple[Heading, ...], list[Row], list[str]]:
    """Return columns (methods, as in the paper), rows and warnings of table 3."""
    printed = {(one.method, one.backbone): one for one in published(table.number)}
    fits = [fit for fit in (group.fits if group else []) if fit.backbone]
    backbones = list(dict.fromkeys(fit.backbone for fit in fits))
    if comparable or not fits:
        backbones = list(dict.fromkeys([*(backbone for _, backbone in printed), *backbones]))
    methods = [("method", method) for method, _ in printed]
    others = [(fit.role, fit.label) for fit in fits]
    names = list(dict.fromkeys([*methods, *sorted(others, key=lambda one: one[0] != "method")]))
    found = {(fit.role, fit.label, fit.backbone): fit for fit in fits}
    plain = {(fit.label, fit.backbone) for fit in fits if fit.role == "method" and not fit.first.plain}
    rows = []
    for backbone in backbones:
        fields = []
        for role, label in names:
            fit = found.get((role, label, backbone))
            entry = fit.entry("accuracy", notes) if fit else None
            said = printed.get((label, backbone)) if (label, backbone) not in plain else None
            fields.append(Field(entry, said, comparable))
        count = sum(role == "method" for role, _ in names)
        name = "accuracy (%)" if len(backbones) == 1 else f"accuracy (%), {backbone}"
        rows.append(Row(name, "method", (*marked(fields[:count]), *fields[count:])))
    headings = tuple(Heading(label if role == "method" else f"{label} ({role})") for role, label in names)
    return headings, rows, []


def memory(store: Store, table: PaperTable) -> list[Sheet]:
    """Return the figures of ``bench scale`` at 1,000 classes: a sheet for each set of conditions, the newest first.

    Of each method and form the newest measurement under these conditions counts.
    """
    groups: dict[str, dict[tuple[str, str], tuple[str, dict[str, Any], dict[str, Any]]]] = {}
    for stamp, record in reversed(store.scales().items()):
        rows = [row for row in record["rows"] if row["classes"] == CLASSES]
        if rows:
            own = groups.setdefault(json.dumps(_conditions(record), sort_keys=True), {})
            for row in rows:
                own.setdefault((row["method"], row["form"]), (stamp, record, row))
    return [_sheet(table, own) for own in groups.values()]


def _conditions(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("backbone", "size", "batch_size", "precision", "device", "hardware")}


def _sheet(table: PaperTable, found: Mapping[tuple[str, str], tuple[str, dict[str, Any], dict[str, Any]]]) -> Sheet:
    theirs = [one.method for one in published(table.number)]
    methods = list(dict.fromkeys(method for method, _ in found))
    methods.sort(key=lambda name: theirs.index(name) if name in theirs else len(theirs))
    forms = ["", *sorted({form for _, form in found} - {""})]
    notes: list[str] = []
    rows = []
    for form in forms:
        for title, what, key, size, digits in _MEASURED if not form else _MEASURED[1:3]:
            entries = [
                _entry(found[method, form][2].get(what), key, size, notes) if (method, form) in found else None
                for method in methods
            ]
            if any(entries):
                name = f"{title}, published code's form" if form else title
                rows.append(Row(name, "summary" if form else "method", tuple(Field(e, digits=digits) for e in entries)))
    newest = max(stamp for stamp, _, _ in found.values())
    record = found[next(iter(found))][1]
    limits = sorted({one["memory_limit_bytes"] for _, one, _ in found.values()} - {None})
    code = sorted({f"{one['partbench']['version']} ({one['partbench']['git']})" for _, one, _ in found.values()})
    facts = [
        f"memory: random images of {record['size']} pixels, {record['batch_size']} at a time, {record['backbone']}, "
        f"{record['precision']}, {CLASSES} classes; the paper: {_published_memory()}",
        f"memory limit: {' or '.join(f'{limit / _GIB:.1f} GiB' for limit in limits) or 'none'}",
        f"hardware: {record['hardware']} ({record['device']})",
        f"partbench: {', '.join(code)}",
        f"measured: python -m bench scale, newest {newest}",
    ]
    if record["device"] == "cpu":
        facts.insert(1, "on a CPU peaks are of resident memory")
    return Sheet(
        table.number,
        f"Table {table.number}: memory at {CLASSES} classes",
        "memory",
        tuple(Heading(method) for method in methods),
        tuple(rows),
        tuple(notes),
        (),
        tuple(facts),
    )


def _published_memory() -> str:
    without = [one.method for one in published(3) if one.status == "oom"]
    return f"{' and '.join(without)} do not fit into 24 GB at batch size 1"


def _entry(one: Mapping[str, Any] | None, key: str, size: float, notes: list[str]) -> Entry | None:
    if one is None:
        return None
    said = []
    if one["status"] != "ok":
        state = "out of memory" if one["status"] == "oom" else "failed"
        said.append(f"{state}: {one['reason']}")
    elif "larger_batch" in one:
        said.append(f"measured with one image at a time; {one['larger_batch']['reason']}")
    if one.get("of_the_black_box"):
        said.append("trains the black box")
    notes += [note for note in said if note not in notes]
    numbers = tuple(notes.index(note) + 1 for note in said)
    if one["status"] != "ok":
        return Entry(one["status"], notes=numbers)
    return Entry("ok", one[key] / size, notes=numbers)
