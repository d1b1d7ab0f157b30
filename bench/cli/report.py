"""Command that prints tables and writes the report in pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.core.console import Console

_PAGES_ONLY = ("out_dir", "tests", "galleries", "device")


@click.command()
@click.option("--table", type=click.IntRange(1, 6), help="One of the paper's tables, its numbers beside the measured.")
@click.option("--suite", help="Newest run of this suite.")
@click.option("--run", "stamp", metavar="STAMP", help="This run; tables say which runs there are.")
@options.table_format
@click.option("--metrics", callback=options.names, help="Columns of the comparison: names or groups with commas.")
@click.option("--intervals", is_flag=True, help="95 % bootstrap intervals beside the values.")
@click.option("-o", "--out-dir", type=options.FOLDER, help="Of the pages: their folder; default: report, beside cells.")
@click.option("--tests", type=click.IntRange(0), help="Of the pages: most tests; default 300, fewer on large data.")
@click.option("--galleries", is_flag=True, help="In the pages: each method's prototypes, drawn from models and images.")
@click.option("--device", help="Of the galleries: auto (the default), cpu, cuda or cuda:1.")
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
    out: Path | None,
    plugins: tuple[Path, ...],
    **more: Any,
) -> None:
    """Print the comparison table of a run or a table of the paper, or write the whole report as pages.

    \b
    python -m bench report                    the newest run
    python -m bench report --table 2          the paper's table, from the cells of the whole store
    python -m bench report --format html      pages that open from disk, of the whole store
    python -m bench report --format latex --columns accuracy,consistency --rename protopnet=ProtoPNet

    The pages have verdicts with what speaks against believing them, tables, figures, and a page for each method and
    each cell. They are a folder of their own; an earlier report in it is replaced. --suite and --run take one run
    instead of the whole store. `compare` says which differences hold.
    """  # noqa: D301 (click reads the character itself)
    from bench.core.errors import RequestError
    from bench.core.paths import home
    from bench.report import comparison, paper_table, with_beyond_chance, write
    from bench.report.styled import styled
    from bench.results.store import Store

    store = Store(out or home())
    pages = {name: more.pop(name) for name in _PAGES_ONLY}
    if metrics and (table is not None or fmt == "html"):
        raise RequestError("--metrics is for the comparison of a run: not with --table, nor with --format html")
    if table is None and fmt == "html":
        options.refuse_table_style(more, "--format html without --table")
        _pages(store, suite, stamp, intervals, plugins, **pages)
        return
    for name in _PAGES_ONLY:
        if pages[name]:
            raise RequestError(f"--{name.replace('_', '-')} is for the report in pages: --format html without --table")
    if table is None:
        tables = with_beyond_chance(comparison(store, stamp, suite, intervals, metrics))
    else:
        tables = paper_table(store, table, stamp, suite, intervals)
    write(styled(tables, **more), fmt, title=f"Table {table}" if table else "Results")


def _pages(
    store: Any,
    suite: str | None,
    stamp: str | None,
    intervals: bool,
    plugins: tuple[Path, ...],
    out_dir: Path | None,
    tests: int | None,
    galleries: bool,
    device: str | None,
) -> None:
    from bench.core.errors import RequestError
    from bench.report.html import write_site

    if device and not galleries:
        raise RequestError("--device is for --galleries; the rest of the report runs no model")
    console = Console()
    with console.status("writing the report; galleries take minutes" if galleries else "writing the report"):
        page = write_site(
            store, out_dir or store.root / "report", stamp, suite, intervals, tests,
            draw=_gallery(store, device or "auto") if galleries else None, plugins=plugins,
        )  # fmt: skip
    console.print(f"written: {page}", soft_wrap=True)


def _gallery(store: Any, device: str) -> Any:
    """Return a function that draws the prototypes of a cell, page by page."""
    from bench.core import environment
    from bench.core.paths import home as find_home
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
