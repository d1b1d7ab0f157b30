"""Cautions that a reader must know before believing a number: on top of the report, worst first."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.paper_tables.build import cautions as against_the_paper
from bench.report.paper_tables.published import TABLES
from bench.report.result_tables import Result
from bench.results.cell_record import CellRecord, in_words

# Points of accuracy: a coarser measurement is worth a word.
_ROUGH = 2.0
# Fewer seeds of a method, and consistency over fewer prototypes, get a caution.
_FEW_SEEDS = 3
_FEW_UNITS = 100


@dataclass(frozen=True)
class Caution:
    """One kind of doubt; ``items`` are the results that it applies to."""

    title: str
    items: tuple[str, ...]


def cautions(results: Sequence[Result], cells: Sequence[CellRecord], damaged: Sequence[str] = ()) -> list[Caution]:
    """Return all cautions that apply to these results.

    Args:
        results: the tables.
        cells: all cells, including those that no table shows.
        damaged: parts of the store that could not be read, with the reasons.
    """
    found = [
        Caution(
            "Content-free controls do as well as methods",
            tuple(f"{one.table.title}, {text}" for one in results for text in one.table.chance),
        ),
        Caution("Not everything could be read", tuple(f"failed: {reason}" for reason in damaged)),
        Caution("Not everything has a result", tuple(_unfinished(cells))),
        Caution("Not the conditions of Tan et al. 2024", tuple(_conditions(results))),
        Caution("Small data", tuple(_small(results))),
        Caution("Few seeds", tuple(_seeds(results))),
        Caution("Several versions of the code", tuple(_versions(results))),
    ]
    return [one for one in found if one.items]


def _unfinished(cells: Sequence[CellRecord]) -> list[str]:
    states: dict[str, list[str]] = defaultdict(list)
    for one in cells:
        if one.result is None:
            states[in_words(one.status)].append(one.label)
    return [
        f"{len(labels)} of {len(cells)} cells {state}: "
        + ", ".join(f"{label} ({count})" if count > 1 else label for label, count in Counter(labels).items())
        + "."
        for state, labels in states.items()
    ]


def _conditions(results: Sequence[Result]) -> list[str]:
    tables = {table.dataset: table for table in reversed(TABLES.values()) if table.dataset}
    found = []
    for result in results:
        title, spec = result.table.title, result.group.spec
        if spec.get("split", "test") != "test":
            found.append(f"{title}: measured on the {spec['split']} split, which methods have seen.")
        if result.dataset in tables:
            found += [f"{title}: {text}" for text in against_the_paper(tables[result.dataset], result.group)]
        else:
            found.append(f"{title}: Tan et al. 2024 have no numbers on this data set.")
    return found


def _small(results: Sequence[Result]) -> list[str]:
    found = []
    for result in results:
        images = result.group.images
        if images is not None and images[1]:
            # Half the width of a 95 % interval of a share of one half, which is the widest one.
            rough = 196 * math.sqrt(0.25 / images[1])
            if rough > _ROUGH:
                found.append(f"{result.table.title}: with {images[1]} test images an accuracy near 50 % is known to "
                             f"± {rough:.1f} points at best.")  # fmt: skip
        units = [(score["n"], row.label) for row, own in result.rows for one in own.cells if one.result
                 for name, score in one.result["scores"].items()
                 if name == "consistency" and row.role == "method"]  # fmt: skip
        few = [count for count, _ in units if 0 < count < _FEW_UNITS]
        if few:
            found.append(f"{result.table.title}: consistency is a share of as few as {min(few)} prototypes; one "
                         f"of them is {100 / min(few):.1f} points.")  # fmt: skip
    return found


def _seeds(results: Sequence[Result]) -> list[str]:
    found = []
    for result in results:
        counts: dict[int, list[str]] = defaultdict(list)
        for row in result.table.rows:
            seeds = max((len(entry.seeds) for entry in row.values.values()), default=0)
            if row.role != "control" and 0 < seeds < _FEW_SEEDS:
                counts[seeds].append(row.label)
        for count, labels in sorted(counts.items()):
            told = "one seed" if count == 1 else f"{count} seeds"
            found.append(f"{result.table.title}: {told} of {', '.join(dict.fromkeys(labels))}. Whether another "
                         "training gives the same is not known.")  # fmt: skip
    return found


def _versions(results: Sequence[Result]) -> list[str]:
    found = []
    for result in results:
        versions = {(one["environment"]["bench"], one["environment"].get("git")) for one in result.group.outcomes}
        if len(versions) > 1:
            told = ", ".join(sorted(f"{version} ({commit or 'no commit'})" for version, commit in versions))
            found.append(
                f"{result.table.title}: measured by {told}. Definitions of metrics are the same in all of them."
            )
    return found
