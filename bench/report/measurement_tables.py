"""Tables of what ``scale`` and ``tune`` measured, from the records that these commands also print as JSON."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.table import Column, Place, Row, Table
from bench.results.aggregate import Entry, footnote

GIB = 2**30
_SCALE = (
    (Column("parameters", "M", digits=".1f"), "inference", "parameters", 1e6),
    (Column("activations", "GiB", "training", ".3g"), "training", "activation_bytes", GIB),
    (Column("peak", "GiB", "training", ".3g"), "training", "peak_bytes", GIB),
    (Column("speed", "images/s", "training", ".1f"), "training", "images_per_second", 1),
    (Column("peak", "GiB", "inference", ".3g"), "inference", "peak_bytes", GIB),
    (Column("speed", "images/s", "inference", ".1f"), "inference", "images_per_second", 1),
    (Column("peak", "GiB", "decomposition", ".3g"), "decomposition", "peak_bytes", GIB),
    (Column("time", "s per class", "decomposition", ".2f"), "decomposition", "seconds_per_class", 1),
)


def scale_table(record: Mapping[str, Any]) -> Table:
    """Return the table of one measurement by ``scale``: a row for each method, form and number of classes."""
    limit = record["memory_limit_bytes"]
    facts = [
        f"{record['backbone']}, random images of {record['size']} pixels, {record['batch_size']} at a time, "
        f"{record['precision']}, on {record['hardware']} ({record['device']}, {record['threads']} threads)",
        f"memory limit: {f'{limit / GIB:.1f} GiB, ' if limit else ''}{record['memory_limit_why']}",
    ]
    if record["device"] == "cpu":
        facts.append(
            "on a CPU 4 images at a time unless --batch is given (the papers: 80); peaks are of resident memory"
        )
        if record["load"] > (os.cpu_count() or 1):
            facts.append(f"the machine is busy (load {record['load']:.1f}): images per second say little")
    notes: list[str] = []
    rows = []
    for row in record["rows"]:
        values: dict[str, Place] = {"classes": Entry("ok", row["classes"])}
        for column, what, key, size in _SCALE:
            entry = measured(row.get(what), key, size, notes)
            if entry is not None:
                values[column.key] = entry
        rows.append(Row(f"{row['method']} ({row['form']})" if row["form"] else row["method"], values))
    decomposed = {(part["classes"], part["images"]) for row in record["rows"]
                  if (part := row.get("decomposition")) and part["status"] == "ok"}  # fmt: skip
    facts += [f"decomposition: of {classes} classes, {images} images, features at no cost"
              for classes, images in sorted(decomposed)]  # fmt: skip
    columns = (Column("classes", digits=".0f"), *(column for column, *_ in _SCALE))
    facts += _out_of_memory(record["rows"])
    return Table("memory and speed", columns, tuple(rows), notes=tuple(notes), facts=tuple(facts))


def measured(part: Mapping[str, Any] | None, key: str, size: float, notes: list[str]) -> Entry | None:
    """Return a number of one measurement, or the reason why there is none; new footnotes are added to ``notes``.

    Args:
        part: of training, inference or decomposition; ``None`` where it was not measured.
        key: name of the number.
        size: its unit, of which it is a multiple.
        notes: footnotes of the table.
    """
    if part is None:
        return None
    own = []
    if part["status"] != "ok":
        own.append(f"{'out of memory' if part['status'] == 'oom' else 'failed'}: {part['reason']}")
    elif "larger_batch" in part:
        own.append(f"measured with one image at a time; {part['larger_batch']['reason']}")
    if part.get("of_the_black_box"):
        own.append("trains the black box")
    numbers = tuple(footnote(note, notes) for note in own)
    if part["status"] != "ok":
        return Entry(part["status"], notes=numbers)
    return Entry("ok", part[key] / size, notes=numbers)


def tune_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Return mean and standard deviation over cells and folds of each choice of settings.

    Args:
        trials: ``choice``, ``fold`` and ``values`` of each fit; at least one.
    """
    groups: dict[str, list[Mapping[str, float]]] = {}
    for trial in trials:
        label = ", ".join(f"{name}={value}" for name, value in sorted(trial["choice"].items())) or "as in the cell"
        groups.setdefault(label, []).append(trial["values"])
    columns = tuple(Column(name) for name in dict.fromkeys(name for trial in trials for name in trial["values"]))
    rows = []
    for label, members in groups.items():
        values: dict[str, Place] = {}
        for column in columns:
            own = [member[column.name] for member in members if column.name in member]
            if own:
                spread = statistics.stdev(own) if len(own) > 1 else None
                values[column.key] = Entry("ok", statistics.fmean(own), spread)
        rows.append(Row(label, values))
    split = "test split" if trials[0]["fold"] < 0 else "training split only"
    count = len(next(iter(groups.values())))
    facts = (f"mean ± standard deviation over {count} fits; {split}",)
    return Table("settings on parts of the training split" if split != "test split" else "settings on the test split",
                 columns, tuple(rows), ("settings",), facts=facts)  # fmt: skip


def _out_of_memory(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each form of published code that does not fit into memory although ours does."""
    ours = {(row["method"], row["classes"]): row["training"] for row in rows if not row["form"]}
    facts = []
    for row in rows:
        here = ours[row["method"], row["classes"]]
        if row["form"] and row["training"]["status"] == "oom" and here["status"] == "ok":
            tried = (row["training"]["overrun"] or {}).get("tried_bytes")
            allocated = f" (tried to allocate {tried / GIB:.1f} GiB)" if tried else ""
            facts.append(f"{row['method']} at {row['classes']} classes: out of memory in the published code's "
                         f"form{allocated}, {here['peak_bytes'] / GIB:.1f} GiB here")  # fmt: skip
    return facts
