"""Command that prints tables and writes the report in pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.core.console import Console
from bench.core.paths import home as find_home

_PAGES_ONLY = ("out_dir", "tests", "galleries", "device", "title", "about")


@click.command()
@click.option("--table", type=click.IntRange(1, 6), help="Table of Tan et al. 2024, beside measured numbers.")
@click.option("--suite", help="Report the newest run of this suite.")
@click.option("--run", "stamp", metavar="STAMP", help="Report this run, by its time stamp.")
@options.table_format
@options.several("--metrics", "Columns of the comparison: comma-separated metrics or groups.")
@click.option("--intervals", is_flag=True, help="Add 95 % bootstrap intervals to the values.")
@click.option("--worth", is_flag=True, help="A row for each metric: how far its best method is above the best control.")
@click.option("-o", "--out-dir", type=options.FOLDER, help="Folder of the HTML pages. Default: report, beside cells.")
@click.option(
    "--tests", type=click.IntRange(0), help="Maximum number of tests in the pages. Default: 300, fewer on large data."
)
@click.option("--galleries", is_flag=True, help="Draw each method's prototypes in the pages, from models and images.")
@click.option("--device", help="Device of the galleries: auto (the default), cpu, cuda or cuda:1.")
@click.option("--title", help="Headline of the pages.")
@click.option(
    "--about", type=options.PATH, metavar="FILE.md",
    help="Text of the pages: Markdown, with authors, date and licence in a header between lines of ---.",
)  # fmt: skip
@options.table_style
@options.home
@options.plugin
def report(
    table: int | None,
    suite: str | None,
    stamp: str | None,
    fmt: str,
    metrics: tuple[str, ...],
    intervals: bool,
    worth: bool,
    out: Path | None,
    **more: Any,
) -> None:
    """Print the comparison table of a run or a table of Tan et al. 2024, or write the whole report as pages.

    \b
    python -m bench report                    the newest run
    python -m bench report --table 2          table 2 of Tan et al. 2024, from the cells of the whole store
    python -m bench report --worth            how far each metric's best method is above the best control
    python -m bench report --format html      pages that open from disk, of the whole store
    python -m bench report --format latex --columns accuracy,consistency --rename protopnet=ProtoPNet

    The pages have the finding, tables, verdicts with cautions, figures, and a page for each method and each cell. An
    earlier report in their folder is replaced. --suite and --run select one run instead of the whole store. `compare`
    tests differences.
    """  # noqa: D301 (click reads the character itself)
    from bench.core.errors import RequestError
    from bench.report import comparison, paper_table, with_beyond_chance
    from bench.report import worth as worth_of

    store = options.open_store(out)
    pages = {name: more.pop(name) for name in _PAGES_ONLY}
    if worth and (table is not None or fmt == "html" or intervals):
        raise RequestError("--worth is for the comparison of a run: not with --table, --intervals or --format html")
    if metrics and (table is not None or fmt == "html"):
        raise RequestError("--metrics is for the comparison of a run: not with --table, nor with --format html")
    if table is None and fmt == "html":
        options.refuse_table_style(more, "--format html without --table")
        _pages(store, suite, stamp, intervals, **pages)
        return
    for name in _PAGES_ONLY:
        if pages[name]:
            raise RequestError(f"--{name.replace('_', '-')} is for the report in pages: --format html without --table")
    if table is None:
        compared = comparison(store, stamp, suite, intervals, metrics)
        tables = [worth_of(one) for one in compared] if worth else with_beyond_chance(compared)
    else:
        tables = paper_table(store, table, stamp, suite, intervals)
    options.print_tables(tables, fmt, f"Table {table}" if table else "Results", **more)


def _pages(
    store: Any,
    suite: str | None,
    stamp: str | None,
    intervals: bool,
    out_dir: Path | None,
    tests: int | None,
    galleries: bool,
    device: str | None,
    title: str | None,
    about: Path | None,
) -> None:
    from bench.core.errors import RequestError
    from bench.report.html import write_site
    from bench.report.html.about import read_about

    if device and not galleries:
        raise RequestError("--device is for --galleries; the rest of the report runs no model")
    told = read_about(about, title or "")
    console = Console()
    with console.status("writing the report; galleries take minutes" if galleries else "writing the report"):
        page = write_site(
            store, out_dir or store.root / "report", stamp, suite, intervals, tests,
            draw=_gallery(store, device or "auto") if galleries else None, about=told,
        )  # fmt: skip
    console.print(f"written: {page}", soft_wrap=True)


def _gallery(store: Any, device: str) -> Any:
    """Return a function that draws the prototypes of a cell, page by page."""
    from bench.core import environment
    from bench.runner.cell import CellRunner
    from bench.runner.progress import ConsoleProgress
    from bench.visualization import paper_figures
    from bench.visualization.viewer import Viewer

    picked = environment.pick_device(device)
    progress = ConsoleProgress(Console(stderr=True), quiet=True)

    def draw(cell: str) -> Iterator[Any]:
        yield from paper_figures.pages(Viewer(CellRunner(store, cell, find_home(), picked, progress)))

    return draw


COMMANDS = (report,)
