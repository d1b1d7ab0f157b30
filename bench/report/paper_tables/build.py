"""The paper's tables from the store, the remarks under them, and the missing numbers."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.errors import RequestError
from bench.report.paper_tables.axioms import axioms
from bench.report.paper_tables.methods import by_backbone, is_prior
from bench.report.paper_tables.published import SOURCE, TABLES, PaperTable, published
from bench.report.paper_tables.refinement import place, refinement, stage
from bench.report.paper_tables.scale import accuracies, memory
from bench.report.paper_tables.select import Selection, select
from bench.report.table import Table
from bench.report.table_remarks import describe_block, distinguish, fewer_seeds, left_out
from bench.results.aggregate import Bounds, about_intervals
from bench.results.cell_record import in_words
from bench.results.result_set import ComparableGroup
from bench.results.store import Store


def paper_table(
    store: Store, number: int, stamp: str | None = None, suite: str | None = None, intervals: bool = False
) -> list[Table]:
    """Return one table of the paper, with the paper's numbers beside the store's.

    Args:
        store: results.
        number: number of the table, 1 to 6.
        stamp: time stamp of one run; by default the newest cells of the whole store.
        suite: name of the suite whose newest run is taken.
        intervals: whether measured values get their 95 % intervals.

    Returns:
        One table for each group of cells that may be compared, those about the paper's images first, then the newest;
        the paper's numbers alone if nothing was measured.

    Raises:
        RequestError: for another number, or if the run is not known.
    """
    if number not in TABLES:
        raise RequestError(f"Tan et al. 2024 have no table {number}: write --table 1 to 6")
    table = TABLES[number]
    bounds = Bounds(store) if intervals else None
    selection = select(store, table, stamp, suite, bounds, place if number == 4 else None)
    groups = sorted(selection.groups, key=lambda group: not _same_images(table, group))
    titles = distinguish([(group.cells[0], group.definitions) for group in groups])
    tables = [
        _table(store, table, group, f"{table.title}, measured on {title}", selection)
        for title, group in zip(titles, groups, strict=True)
    ]
    if bounds is not None:
        tables = [replace(one, facts=(*one.facts, *about_intervals(bounds.kinds))) for one in tables]
    if not tables:
        tables = [_table(store, table, None, table.title, selection)]
    if number == 3:
        found = memory(store, table)
        tables += found
        if not found:
            missing = "no memory measured: python -m bench scale --classes 1000 --batch 1 --memory-limit 24GiB"
            tables[0] = replace(tables[0], missing=(*tables[0].missing, missing))
    # LaTeX numbers tables itself.
    before, after = f"Table {number}:", f"Table {number} of Tan et al. (2024):"
    return [replace(one, caption=one.title.replace(before, after, 1), label=f"tab:paper-{number}") for one in tables]


def _same_images(table: PaperTable, group: ComparableGroup | None) -> bool:
    """Return whether the cells are about the paper's images, judged by counts; the axioms need none in particular."""
    return group is None or table.images is None or group.images in (None, table.images)


def _table(store: Store, table: PaperTable, group: ComparableGroup | None, title: str, selection: Selection) -> Table:
    notes: list[str] = []
    same = _same_images(table, group)
    stub = {3: "", 4: "prototypes per class"}.get(table.number, "method")
    chance: list[str] = []
    if table.number == 1:
        columns, rows = axioms(table, group, notes)
    elif table.number == 3:
        columns, rows = accuracies(table, group, same, notes)
    elif table.number == 4:
        columns, rows = refinement(table, group, same, notes)
    else:
        columns, rows, chance = by_backbone(table, group, same, notes)
    found = Table(
        title,
        columns,
        tuple(rows),
        (stub,),
        tuple(notes),
        tuple(chance),
        tuple(cautions(table, group)),
        missing=tuple(_missing(store, table, group)),
        competes=table.number in (2, 5, 6),
        number=table.number,
    )
    return replace(found.marked(), facts=tuple(_facts(table, group, selection, found)))


def cautions(table: PaperTable, group: ComparableGroup | None) -> list[str]:
    """Return how the measured numbers differ in kind from the paper's."""
    if group is None:
        return []
    found = []
    if not _same_images(table, group) and table.images and group.images:
        here, there = (f"{train} training and {test} test images" for train, test in (group.images, table.images))
        found.append(f"Not the images of Tan et al. 2024: {here} here, {there} there; no differences are given.")
    recipes = sorted({one.written["recipe"] for one in group.shown})
    if any(recipe != "published" for recipe in recipes):
        found.append(f"Not the papers' settings: recipe {' and '.join(recipes)}.")
    if table.whole and group.spec["protocol"].get("crop") == "bbox":
        found.append("Not the protocol of Tan et al. 2024: whole images there, cut ones here.")
    return found


def _facts(table: PaperTable, group: ComparableGroup | None, selection: Selection, found: Table) -> list[str]:
    facts = []
    if group is not None:
        definitions = [group.definitions[metric] for metric in table.metrics if metric in group.definitions]
        fewer = fewer_seeds(
            [(member.label, member.backbone, {one.seed for one in member.cells}) for member in group.rows]
        )
        facts = describe_block(definitions, group.shown, spread=table.number != 1, fewer=fewer)
        stamps = {one.stamp for one in group.shown}
        facts.append(f"runs: {len(stamps)}, the newest {max(stamps) or 'not recorded'}")
        facts += left_out(group.older)
    for reason, count in selection.left_out.items():
        facts.append(f"left out: {count} cell{'s' * (count > 1)} {reason} (--suite or --run shows all of a run)")
    if table.number == 1:
        tick = "✓: the residual behind it is at most the metric's tolerance; ×: it is above"
        facts.append(f"{tick}; Tan et al. 2024 argue their ticks and measure none")
    values = {row.label: [row.value(column) for column in found.columns] for row in found.rows}
    if any(row.role == "summary" for row in found.rows):
        prior = [row.label for row in found.rows if row.role == "method" and is_prior(row.label)]
        said = {
            "measured": [
                name for name in prior if any(one.entry and one.entry.value is not None for one in values[name])
            ],
            "published": [name for name in prior if any(one.published for one in values[name])],
        }
        among = [f"{kind} among {', '.join(names)}" for kind, names in said.items() if names]
        facts.append(f"best prior: the best of the rows that are not ours, {'; '.join(among)}")
    differs = any(one.difference is not None for own in values.values() for one in own)
    facts.append(f"Tan et al. 2024: {SOURCE}, {table.place}{'; difference: measured less published' * differs}")
    return facts


def _missing(store: Store, table: PaperTable, group: ComparableGroup | None) -> list[str]:
    found = []
    if group is None:
        suite = f"python -m bench run --suite table{table.number}"
        return [
            f"nothing is measured yet: {suite} --data-root DIR",
            f"on small data: {suite}_small --data-root DIR --weights mobilenet_v2=FILE",
        ]
    again: dict[tuple[str, str], list[str]] = defaultdict(list)
    for member in group.rows:
        deciding = {one.name: one for metric in table.metrics for one in member.speaking(metric).values()}
        for one in deciding.values():
            # Out of memory is a result, as in the paper.
            if one.status in ("failed", "missing") and one.spec["metrics"]:
                where = f", {member.backbone}" if member.backbone else ""
                again[in_words(one.status), one.command].append(f"{member.label}{where}, seed {one.seed}")
    for (state, command), cells in again.items():
        found.append(f"{state} ({'; '.join(cells)}): {command}")
    found += _not_run(store, table, group)
    methods = list(dict.fromkeys(one.method for one in published(2 if table.number == 1 else table.number)))
    unknown = [name for name in methods if name not in registry.names("methods")]
    if unknown:
        found.append(f"not in this harness: {', '.join(unknown)}")
    if table.number in (2, 5):
        found.append("not measured: protoknn (Ukai et al., ICLR 2023): no code")
    return found


def _not_run(store: Store, table: PaperTable, group: ComparableGroup) -> list[str]:
    """Return the paper's numbers that the harness could measure and no run asked for, backbone by backbone."""
    known = registry.names("methods")
    if table.number == 4:
        wanted = list(dict.fromkeys(f"k={one.k} {one.stage}" for one in published(4)))
        members = [member for member in group.rows if member.role == "method"]
        there = {
            (f"k={member.spec['settings']['k']} {stage(member.spec['settings'])}", member.backbone)
            for member in members
        }
    else:
        printed = published(2 if table.number == 1 else table.number)
        wanted = list(dict.fromkeys(one.method for one in printed if one.method in known))
        there = {(member.spec["method"], member.backbone) for member in group.rows}
    lacking = {name: [one for one in wanted if (one, name) not in there] for name in _backbones(table, group)}
    lacking = {name: names for name, names in lacking.items() if names}
    if not lacking:
        return []
    whole = [name for name, names in lacking.items() if names == wanted]
    told = [f"{name}: {', '.join(names)}" for name, names in lacking.items() if names != wanted]
    told += [f"all on {', '.join(whole)}"] if whole else []
    methods = [one for one in wanted if any(one in names for names in lacking.values())]
    options = [] if table.number == 4 else ["--methods", ",".join(methods)]
    return [
        f"not run ({'; '.join(told)}): {_command(store, table, group, [*options, '--backbones', ','.join(lacking)])}"
    ]


def _backbones(table: PaperTable, group: ComparableGroup) -> list[str]:
    """Return the table's backbones: the paper's if the images are the paper's, else the measured ones."""
    measured = list(dict.fromkeys(member.backbone for member in group.rows if member.backbone))
    if table.images is None or not _same_images(table, group):
        return measured
    return list(dict.fromkeys([*(one.backbone for one in published(table.number)), *measured]))


def _command(store: Store, table: PaperTable, group: ComparableGroup, options: list[str]) -> str:
    """Return the command for the table's suite, with the options of the table's cells."""
    written: dict[str, Any] = group.cells[0].written
    sources = [one.written for member in group.rows for one in member.cells if member.backbone]
    recipes = [one["recipe"] for one in sources if one["recipe"] != "published"]
    dataset = group.spec["dataset"]
    weights: dict[str, str] = {}
    for one in sources:
        file = one["where"].get("weights")
        # Downloaded files are in the harness's own folder and are found there again.
        if file and not Path(file).is_relative_to(store.root.resolve()):
            weights.setdefault(one["spec"]["backbone"], file)
    asked = options[options.index("--backbones") + 1].split(",")
    arguments = ["python", "-m", "bench", "run", "--suite", f"table{table.number}", *options]
    arguments += ["--datasets", dataset] if dataset != (table.dataset or "cub") else []
    arguments += ["--recipe", recipes[0]] if recipes else []
    folder = written["where"].get("folder")
    arguments += ["--set", f"{dataset}.folder={folder}"] if recipes and folder else []
    arguments += ["--data-root", written["where"]["data_root"] or "DIR"] if dataset != "demo" else []
    arguments += [part for name in asked if name in weights for part in ("--weights", f"{name}={weights[name]}")]
    return shlex.join(arguments)
