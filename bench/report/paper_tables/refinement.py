"""Table 4: accuracy with initial and with refined prototypes, for several k."""

from __future__ import annotations

from bench.report.paper_tables.published import PaperTable, published
from bench.report.table import Column, Place, Row, Value
from bench.results.select import Candidate, Comparable, Fit

STAGES = ("initial", "refined")


def stage(settings: dict[str, object]) -> str:
    """Return the stage of the prototypes that a cell measured: before equation 6 they are initial.

    A residual split naively sums up to the classifier too, but is not the table's subject.
    """
    return {"none": "initial", "naive": "naive"}.get(str(settings.get("refinement")), "refined")


def place(one: Candidate) -> tuple[str, ...]:
    """Return the key of cells of one place: a default, its value written out and another solver are rivals for it."""
    spec, role = one.found.spec, one.found.written["role"]
    own = (str(spec["settings"]["k"]), stage(spec["settings"])) if role == "method" else (one.label,)
    return role, *own, spec["backbone"] or ""


def refinement(
    table: PaperTable, group: Comparable | None, comparable: bool, notes: list[str]
) -> tuple[tuple[Column, ...], list[Row]]:
    """Return columns and rows of table 4."""
    printed = published(table.number)
    fits = group.fits if group else []
    found: dict[tuple[int, str, str], Fit] = {}
    for fit in fits:
        if fit.role == "method":
            settings = fit.spec["settings"]
            found[int(settings["k"]), stage(settings), fit.backbone] = fit
    theirs = list(dict.fromkeys(one.backbone for one in printed))
    measured = list(dict.fromkeys(fit.backbone for fit in fits if fit.backbone))
    shown = [name for name in theirs if comparable or not fits or name in measured]
    backbones = [*shown, *(name for name in measured if name not in shown)]
    said = {(one.k, one.stage, one.backbone): one for one in printed}
    columns = {(which, backbone): Column(backbone, "%", which) for which in STAGES for backbone in backbones}
    counts = sorted({one.k or 0 for one in printed} | {key[0] for key in found})
    rows = []
    for k in counts:
        values = {}
        for (which, backbone), column in columns.items():
            fit_here = found.get((k, which, backbone))
            entry = fit_here.entry("accuracy", notes) if fit_here else None
            values[column.key] = Value(entry, said.get((k, which, backbone)), comparable)
        rows.append(Row(f"k = {k}", values))
    # One row for a reference on several backbones.
    others: dict[tuple[str, str], dict[str, Place]] = {}
    for fit in fits:
        if fit.role != "method" and ("refined", fit.backbone) in columns:
            key = columns["refined", fit.backbone].key
            others.setdefault((fit.role, fit.label), {})[key] = fit.entry("accuracy", notes)
    rows += [Row(label, entries, role) for (role, label), entries in others.items()]
    return tuple(columns.values()), rows
