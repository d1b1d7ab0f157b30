"""Table 4: accuracy with initial and with refined prototypes, for several k."""

from __future__ import annotations

from bench.report.paper_tables.published import PaperTable, published
from bench.report.table import Column, Place, Row, Value
from bench.results.aggregate import SeedGroup
from bench.results.cell_record import CellRecord
from bench.results.result_set import ComparableGroup

STAGES = ("initial", "refined")


def stage(settings: dict[str, object]) -> str:
    """Return the stage of the prototypes that a cell measured: before equation 6 they are initial.

    A residual split naively sums up to the classifier too, but is not the table's subject.
    """
    return {"none": "initial", "naive": "naive"}.get(str(settings.get("refinement")), "refined")


def place(one: CellRecord) -> tuple[str, ...]:
    """Return the key of cells of one place: a default, its value written out and another solver are rivals for it."""
    spec, role = one.spec, one.role
    own = (str(spec["settings"]["k"]), stage(spec["settings"])) if role == "method" else (one.label,)
    return role, *own, one.backbone


def refinement(
    table: PaperTable, group: ComparableGroup | None, comparable: bool, notes: list[str]
) -> tuple[tuple[Column, ...], list[Row]]:
    """Return columns and rows of table 4."""
    printed = published(table.number)
    members = group.rows if group else []
    found: dict[tuple[int, str, str], SeedGroup] = {}
    for member in members:
        if member.role == "method":
            settings = member.spec["settings"]
            found[int(settings["k"]), stage(settings), member.backbone] = member
    theirs = list(dict.fromkeys(one.backbone for one in printed))
    measured = list(dict.fromkeys(member.backbone for member in members if member.backbone))
    shown = [name for name in theirs if comparable or not members or name in measured]
    backbones = [*shown, *(name for name in measured if name not in shown)]
    said = {(one.k, one.stage, one.backbone): one for one in printed}
    columns = {(which, backbone): Column(backbone, "%", which) for which in STAGES for backbone in backbones}
    counts = sorted({one.k or 0 for one in printed} | {key[0] for key in found})
    rows = []
    for k in counts:
        values = {}
        for (which, backbone), column in columns.items():
            member_here = found.get((k, which, backbone))
            entry = member_here.entry("accuracy", notes) if member_here else None
            values[column.key] = Value(entry, said.get((k, which, backbone)), comparable)
        rows.append(Row(f"k = {k}", values))
    # One row for a reference on several backbones.
    others: dict[tuple[str, str], dict[str, Place]] = {}
    for member in members:
        if member.role != "method" and ("refined", member.backbone) in columns:
            key = columns["refined", member.backbone].key
            others.setdefault((member.role, member.label), {})[key] = member.entry("accuracy", notes)
    rows += [Row(label, entries, role) for (role, label), entries in others.items()]
    return tuple(columns.values()), rows
