"""HTML report of a store: its pages, their inputs and their addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.core import __version__, registry
from bench.core.plain_text import visible
from bench.report.cell_list import cell_list
from bench.report.cell_page import CellPage
from bench.report.html import filters
from bench.report.html.about import About, hardware
from bench.report.html.downloads import Downloads, Files, pathless, without_paths
from bench.report.html.figures import Illustration, saved, stored_figures
from bench.report.html.front import front_page, mark
from bench.report.html.output_dir import ReportFolder, file_name
from bench.report.html.per_class import pairs
from bench.report.html.sources import cell_digest, site_digest
from bench.report.html.sparklines import panels
from bench.report.html.verdicts import verdicts
from bench.report.html.warnings import cautions
from bench.report.paper_tables.build import paper_table
from bench.report.paper_tables.published import TABLES
from bench.report.plots.figure import Drawing
from bench.report.plots.scatter import headline
from bench.report.renderers.html import fragments
from bench.report.result_tables import Result, results
from bench.report.table import Table
from bench.results.cell_record import CellRecord, in_words
from bench.results.labels import ROLES, position
from bench.results.result_set import ResultSet
from bench.results.store import Store

_HERE = Path(__file__).parent / "templates"
# Rows of two methods' comparison by class; its CSV has all.
_MOST_CLASSES = 10
_ASSETS = ("style.css", "report.js")


@dataclass
class MethodPage:
    """Content of the page about one method, in all its settings.

    Attributes:
        name: of the method in the catalogue.
        role: method, reference or control.
        summary: one line; empty if the catalogue does not have the method.
        cells: newest first.
        gallery: pictures of the method's prototypes.
        problems: reasons for missing pictures.
    """

    name: str
    role: str
    summary: str
    cells: list[CellRecord] = field(default_factory=list)
    gallery: list[Illustration] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Path in the folder."""
        return f"methods/{file_name(self.name)}.html"


def write_site(
    store: Store,
    folder: Path,
    stamp: str | None = None,
    suite: str | None = None,
    intervals: bool = False,
    most: int | None = None,
    draw: Callable[[str], Iterable[Drawing]] | None = None,
    about: About | None = None,
) -> Path:
    """Write the report from the stored numbers alone.

    Args:
        store: results; may be empty.
        folder: output folder: new, empty, or of an earlier report, which is replaced.
        stamp: time stamp of one run; by default all cells of the store.
        suite: name of the suite whose newest run is taken.
        intervals: whether all values get their 95 % intervals, not only differences.
        most: number of statistical tests, however long they take; by default as many as take some seconds.
        draw: yields pictures of a cell's prototypes; by default none, since they need model and images.
        about: title, authors, date, licence and text.

    A page whose sources are unchanged is not made again, and no file is written whose content stays the same.

    Returns:
        The page to open.

    Raises:
        RequestError: if the run is not known, or the folder contains something else.
    """
    about = about or About()
    with store.read_once():
        cells = ResultSet.of(store, stamp, suite)
        target = ReportFolder(folder)
        site = Site(cells, target, stamp, suite, intervals, most, about)
        sources = site_digest(cells, site.digests, (stamp, suite, intervals, most, draw is not None))
        # Images, from which pictures of prototypes are drawn, may have changed: these are drawn again.
        if draw is not None or not target.is_made_from(sources):
            site.write(draw)
            target.finish(sources)
    return folder / "index.html"


class Site:
    """The pages of one report; arguments as for :func:`write_site`."""

    def __init__(
        self,
        cells: ResultSet,
        target: ReportFolder,
        stamp: str | None,
        suite: str | None,
        intervals: bool,
        most: int | None,
        about: About,
    ) -> None:
        self._all, self._store, self._cells, self._target = cells, cells.store, cells.cells, target
        self._which, self._most = (stamp, suite, intervals), most
        self._downloads = Downloads(target.write)
        there = {one.name for one in cells}
        self._runs = {
            when: content
            for when, content in reversed(self._store.invocations().items())
            if there & set(content["cells"])
        }
        asked = {name: [] for name in there}
        for when, content in self._runs.items():
            for name in there & set(content["cells"]):
                asked[name].append(when)
        self._pages_of = {one.name: CellPage(self._store, one, asked[one.name], intervals) for one in self._cells}
        about, machine = about.dated(max(self._runs, default="")), hardware(self._cells)
        self.digests = {
            name: cell_digest(page, self._runs, (repr(about), *machine)) for name, page in self._pages_of.items()
        }
        self._methods = self._method_pages()
        # Names, reasons and settings come from users and plugins: everything is escaped.
        self._pages = Environment(
            loader=FileSystemLoader(_HERE), autoescape=True, finalize=_shown, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._pages.filters.update(in_words=in_words, sortable=filters.sortable, together=filters.together)
        self._pages.globals.update(
            value=filters.value, ends=filters.ends, verdict=filters.verdict, reach=filters.reach, width=filters.BAR,
            p_value=filters.p_value, pairwise=filters.pairwise, minus=filters.minus, notes_of=filters.notes_of,
            mark=mark, panels=panels, hardware=machine, about=about,
            addresses=self._addresses(), version=__version__, methods=list(self._methods.values()),
        )  # fmt: skip

    def write(self, draw: Callable[[str], Iterable[Drawing]] | None) -> None:
        """Write all pages and files that are not as they would be; ``draw`` yields pictures of a cell's prototypes."""
        found = results(self._all, self._which[2])
        self._results, self._places = found, verdicts(self._store, found, self._most)
        for name in _ASSETS:
            self._target.write(f"assets/{name}", (_HERE / name).read_text(encoding="utf-8"))
        stamp, suite, _ = self._which
        figures, undrawn = stored_figures(self._target, self._store, suite, stamp) if self._cells else ([], [])
        tables, unmeasured = self._tables()
        self._pairs = pairs(self._store, self._results, self._places)
        self._pages.globals["pair_pages"] = {
            (pair.title, pair.backbone, *names): pair.address
            for pair in self._pairs for names in (pair.methods, pair.methods[::-1])
        }  # fmt: skip
        every = filters.every(self._places)
        self._pages.globals.update(
            compared=self._downloads.compared("comparisons", [one for *_, one in every]) if every else None,
            listed=self._downloads.listed("cells", cell_list(self._cells)) if self._cells else None,
        )
        front = front_page(self._results, self._places, self._downloads)
        shown = [section.own for section in front.sections]
        self._page(
            "index.html", "index", front=front, headline=self._headline(shown), places=self._places,
            # Without the path of the store, but with the cell's.
            cautions=cautions(shown, self._cells, [fault.replace(f"{self._store.root}/", "")
                                                   for fault in self._store.faults.values()]),
            figures=figures, undrawn=undrawn, cells=self._cells, runs=self._runs,
        )  # fmt: skip
        self._page("comparisons.html", "comparisons", every=every, facts=filters.explanations(every))
        self._page("tables.html", "tables", tables=tables, unmeasured=unmeasured)
        self._page("cells.html", "cells", cells=self._cells, runs=self._runs)
        addresses = self._addresses()
        for one in self._cells:
            name, sources = addresses[one.name], self.digests[one.name]
            if not self._target.has(name, sources):
                page = self._pages_of[one.name]
                self._page(name, "cell", sources, page=page, status=one.status, runs=self._runs)
        # Last, since galleries take long: the pages above can be read meanwhile.
        for page in self._methods.values():
            if draw is not None and page.role != "control":
                self._draw_gallery(page, draw)
            own = filters.seen_from(every, {one.label for one in page.cells})
            self._page(page.address, "method", page=page, rows=self._rows_of(page), every=own)
        for pair in self._pairs:
            table = pair.table
            files = self._downloads.by_class(table.title, table, pair.methods)
            galleries = [self._methods[name].gallery if name in self._methods else [] for name in pair.methods]
            self._page(
                pair.address, "pair", pair=pair, rows=pair.rows[:_MOST_CLASSES], files=files, galleries=galleries
            )

    def _headline(self, own: Sequence[Result]) -> Illustration | None:
        """Draw the first data set's methods for the front page, if at least two have the coordinates."""
        among = {cell.name for result in own[:1] for group in result.members for cell in group.cells}
        drawn, _ = saved(self._target, lambda: headline(self._all, among), "figures", "svg")
        return drawn[0] if drawn else None

    def _page(self, name: str, template: str, sources: str = "", **context: Any) -> None:
        root = "../" * name.count("/")
        text = self._pages.get_template(f"{template}.html").render(root=root, here=name, **context)
        self._target.write(name, text, sources)

    def _draw_gallery(self, page: MethodPage, draw: Callable[[str], Iterable[Drawing]]) -> None:
        """Draw a finished cell on each data set: with its model, in default settings, with most metrics, the newest."""
        done = [one for one in page.cells if one.result is not None]
        done.sort(key=lambda one: ("exported" in one.written, not one.plain, -len(one.spec["metrics"])))
        chosen: dict[str, CellRecord] = {}
        for one in done:
            chosen.setdefault(one.dataset, one)
        for name in (one.name for one in chosen.values()):
            own, problem = saved(self._target, lambda name=name: draw(name), f"galleries/{file_name(name)}", "webp")
            page.gallery += own
            page.problems += [f"cell {name}: {problem}"] if problem else []

    def _addresses(self) -> dict[str, str]:
        """Return the path of the page of each cell."""
        return {one.name: f"cells/{file_name(one.name)}.html" for one in self._cells}

    def _method_pages(self) -> dict[str, MethodPage]:
        known = registry.names("methods")
        pages: dict[str, MethodPage] = {}
        for one in self._cells:
            name = str(one.spec["method"])
            summary = known[name].summary if name in known else ""
            pages.setdefault(name, MethodPage(name, one.role, summary)).cells.append(one)
        order = [*known, *sorted(pages)]
        return dict(sorted(pages.items(), key=lambda item: (position(item[1].role, ROLES), order.index(item[0]))))

    def _rows_of(self, page: MethodPage) -> list[tuple[Result, list[Any], Files]]:
        """Return the tables that contain the method, with its rows alone and their files."""
        found = []
        for result in self._results:
            rows = [(line, group) for line, group in result.rows if group.spec["method"] == page.name]
            if rows:
                table = replace(result.table, rows=tuple(line for line, _ in rows))
                files = self._downloads.of(f"{page.name} {table.title}", [table], [page.name, result.dataset])
                found.append((result, rows, files))
        return found

    def _tables(self) -> tuple[list[tuple[Files, Markup]], list[tuple[int, str]]]:
        """Return the paper's tables that have a measured number, as files and fragments, and the titles of others."""
        found, unmeasured = [], []
        if not self._cells:
            return [], [(number, table.title) for number, table in TABLES.items()]
        for number, table in TABLES.items():
            measured = [one for one in paper_table(self._store, number, *self._which) if _is_measured(one)]
            measured = list(map(without_paths, measured))
            for place, (one, text) in enumerate(zip(measured, fragments(measured), strict=True), 1):
                found.append((self._downloads.of(f"table {number}-{place}", [one], [table.dataset]), Markup(text)))
            if not measured:
                unmeasured.append((number, table.title))
        return found, unmeasured


def _shown(value: Any) -> Any:
    """Return a template's value: text without acting characters and without paths of the machine that made it."""
    return visible(pathless(value) if type(value) is str else value)


def _is_measured(table: Table) -> bool:
    entries = (row.entry(column) for row in table.rows for column in table.columns)
    return any(entry is not None and entry.status not in ("n/a", "missing") for entry in entries)
