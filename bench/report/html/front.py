"""Front page of a report: the leaderboard, and rows in the settings of their recipes apart from those with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.report.chance import beyond_chance, chance_warnings
from bench.report.html.downloads import Downloads, Files
from bench.report.html.ranks import Ranking, rankings
from bench.report.html.ranks import table_of as ranks_table
from bench.report.html.verdicts import Place, winner
from bench.report.html.words import finding
from bench.report.result_tables import Result
from bench.report.table import Column, Row, Table
from bench.results.aggregate import Entry, SeedGroup
from bench.results.labels import FIRST_METRICS

Lines = list[tuple[Row, SeedGroup]]


@dataclass(frozen=True)
class Leaderboard:
    """Rows of one table in the settings of their recipes, the usual metrics alone.

    Attributes:
        result: table of these rows.
        columns: metrics, left to right.
        sections: name and rows of each: methods and black box of a backbone, the one with most methods first, and the
            content-free controls after it.
    """

    result: Result
    columns: tuple[Column, ...]
    sections: tuple[tuple[str, Lines], ...]


@dataclass(frozen=True)
class Section:
    """One data set on the front page.

    Attributes:
        title: of its table.
        own: its rows in the settings of their recipes, with references and controls.
        beyond: their scores beyond chance, if a control was measured.
        places: where methods are compared.
        changed: rows with changed settings, each method's own row above them; ``None`` if there are none.
    """

    title: str
    own: Result
    beyond: Table | None
    places: tuple[Place, ...]
    changed: Result | None


def sections(results: Sequence[Result], places: Sequence[Place]) -> list[Section]:
    """Return the data sets in the order of the results."""
    found = []
    for result in results:
        varied = {group.spec["method"] for row, group in result.rows if row.role == "method" and not group.first.plain}
        own = _restricted(result, lambda row, group: row.role != "method" or group.first.plain)
        changed = _restricted(result, lambda row, group, varied=varied: group.spec["method"] in varied, competes=False)
        title = result.table.title
        found.append(Section(
            title, own, beyond_chance(own.table), tuple(place for place in places if place.title == title),
            changed if varied else None,
        ))  # fmt: skip
    return found


@dataclass(frozen=True)
class FrontPage:
    """Content of the front page.

    Attributes:
        finding: which methods beat the best content-free control, in one sentence; empty if that is not known.
        board: leaderboard of the data set with most measured values; ``None`` without one.
        sections: data sets, in the order of how much was measured.
        ranks: critical-difference diagrams.
        files: of each table, by its title.
    """

    finding: str
    board: Leaderboard | None
    sections: list[Section]
    ranks: list[Ranking]
    files: dict[str, Files]


def front_page(results: Sequence[Result], places: Sequence[Place], downloads: Downloads) -> FrontPage:
    """Return the content of the front page, and write its tables as files."""
    found, ranks, files = sections(results, places), rankings(results), {}
    board = leaderboard(found[0].own) if found else None
    for section in found:
        own = section.own.table
        tables = {own.title: own, f"{own.title}, changed settings": section.changed and section.changed.table}
        tables |= {section.beyond.title: section.beyond} if section.beyond else {}
        if board and board.result is section.own:
            tables[f"{own.title}, leaderboard"] = replace(own, columns=board.columns)
        for title, table in tables.items():
            if table is not None:
                files[title] = downloads.of(title, [replace(table, title=title)], [section.own.dataset])
    if ranks:
        files["mean ranks"] = downloads.of(
            "mean ranks", [ranks_table(ranks)], [name for one in ranks for name in one.methods]
        )
    return FrontPage(finding(places), board, found, ranks, files)


def leaderboard(result: Result) -> Leaderboard:
    """Return the leaderboard of one data set: methods sorted by the first metric, others below them."""
    methods = [row for row in result.table.rows if row.role == "method"]

    def known(column: Column) -> int:
        return sum(row.number(column) is not None for row in methods)

    columns = tuple(one for one in result.table.columns if one.name in FIRST_METRICS and 2 * known(one) >= len(methods))
    backbones: dict[str, Lines] = {}
    for row, group in result.rows:
        backbones.setdefault(row.backbone, []).append((row, group))
    controls = backbones.pop("", [])
    order = sorted(backbones, key=lambda name: -sum(row.role == "method" for row, _ in backbones[name]))
    found = [(name, _sorted(backbones[name], columns)) for name in order]
    if controls:
        found.insert(1, ("content-free controls", controls))
    return Leaderboard(result, columns, tuple(found))


def mark(place: Place | None, row: Row, column: Column) -> str:
    """Return ``up`` or ``down`` if a row is shown to be better or worse than the best control of a metric, else ""."""
    found = None if place is None else place.of("chance", row.label, column.name)
    better = None if found is None else winner(found[0])
    return "" if better is None else ("up", "down")[better]


def _sorted(lines: Lines, columns: Sequence[Column]) -> Lines:
    def place(line: tuple[Row, SeedGroup]) -> tuple[bool, float]:
        value = line[0].number(columns[0]) if columns else None
        sign = -1 if columns and columns[0].higher_is_better else 1
        return line[0].role != "method", float("inf") if value is None else sign * value

    return sorted(lines, key=place)


def _restricted(result: Result, keep: Callable[[Row, SeedGroup], bool], competes: bool = True) -> Result:
    """Return the table of some rows, without columns in which nothing was measured."""
    lines = [line for line in result.rows if keep(*line)]
    rows = tuple(
        replace(row, values={key: replace(own, best=False) if isinstance(own, Entry) else own
                             for key, own in row.values.items()})
        for row, _ in lines
    )  # fmt: skip

    def tried(column: Column) -> bool:
        return any((entry := row.entry(column)) is not None and entry.status not in ("missing", "n/a") for row in rows)

    columns = tuple(filter(tried, result.table.columns)) or result.table.columns
    table = replace(result.table, columns=columns, rows=rows, competes=competes,
                    chance=tuple(chance_warnings(rows, columns)))  # fmt: skip
    return replace(result, table=table.marked(), members=tuple(group for _, group in lines))
