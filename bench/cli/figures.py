"""Command that draws figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.core.console import Console
from bench.core.paths import home as find_home
from bench.core.plain_text import one_line

NAMES = ("1", "4", "5", "6", "7", "8", "gallery", "interpretability", "cost", "dots", "changes")
_SCATTERS = ("interpretability", "cost")
_BY_ROW = (*_SCATTERS, "dots")
_OVER_SUITES = ("dots", "changes")
_STORED = ("5", *_SCATTERS, *_OVER_SUITES)
# In points; below it, journals refuse figures and readers give up.
_SMALLEST = 5.0


def _inches(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Parse ``85mm`` into inches."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]+)?) ?(mm|cm|in)", value)
    width = float(found[1]) / {"mm": 25.4, "cm": 2.54, "in": 1.0}[found[2]] if found else 0.0
    if not 1 <= width <= 40:
        raise click.BadParameter(f"{value!r}: write a width between 26mm and 1000mm, such as 85mm, 17.4cm or 3.35in")
    return width


@click.command()
@click.argument("names", metavar="FIGURE...", nargs=-1, required=True, type=click.Choice([*NAMES, "all"]))
@click.option(
    "--suite",
    help="Draw only cells of the newest run of this suite; dots, changes: of some, with commas. Default: all.",
)
@click.option("--run", "stamp", metavar="STAMP", help="Draw only cells of this run.")
@click.option("--cell", "cells", multiple=True, metavar="CELL", help="Cell of 1, 4, 6, 7, 8 or gallery (repeatable).")
@options.several("--image", "Comma-separated numbers or names of test images, of 1.")
@options.several("--classes", "Comma-separated numbers or names. Default: spread evenly.")
@click.option("--count", type=click.IntRange(1, 50), default=4, show_default=True, help="Classes without --classes.")
@click.option("--images", "columns", type=click.IntRange(1, 20), default=6, show_default=True, help="Images per row.")
@click.option(
    "--show", "shown", callback=options.names, help="Overlay of the consistency metric: region, keypoints or both."
)
@click.option(
    "--format", "formats", callback=options.names, default="pdf,png", show_default=True, help="pdf, png, svg, webp."
)
@options.several("--only", "Rows of interpretability, cost, dots: names, or default (no changed settings).")
@options.several("--metrics", "Panels of dots and changes: comma-separated metrics.")
@click.option(
    "--setting", default="stage", show_default=True, help="What changes in changes: k, stage=unprojected,projected."
)
@click.option("--width", metavar="WIDTH", callback=_inches, help="Width on paper, such as 85mm, 174mm or 3.35in.")
@click.option("--title/--no-title", "titled", default=True, show_default=True, help="Draw the title.")
@click.option("--font", default="", metavar="FAMILY", help="Font of this machine. Default: DejaVu Sans.")
@click.option("--to", type=options.FOLDER, help="Folder of the pictures. Default: BENCH_HOME/figures.")
@options.home
@options.data_elsewhere
@options.device
@options.plugin
def figure(
    names: tuple[str, ...],
    suite: str | None,
    stamp: str | None,
    cells: tuple[str, ...],
    formats: tuple[str, ...],
    to: Path | None,
    out: Path | None,
    data_root: Path | None,
    device: str,
    only: tuple[str, ...],
    metrics: tuple[str, ...],
    setting: str,
    width: float | None,
    titled: bool,
    font: str,
    **how: Any,
) -> None:
    """Draw figures of Tan et al. 2024, galleries and plots from the store.

    \b
    1                 images as Grad-CAM, DFF and ours explain them, side by side
    4                 one class in several backbones
    5                 consistency and stability before and after refinement, for k = 3, 5, 10
    6                 one class for k = 3, 5, 10
    7                 a wrong prediction that removing a prototype corrects
    8                 a row for each class, all prototypes on each image
    gallery           a page for each class: strongest patches and source patch of each prototype
    interpretability  accuracy against consistency and stability, with the controls
    cost              seconds of the fit against accuracy, consistency and stability
    dots              every method by year of publication, with the controls
    changes           every method before and after a change of one setting
    all               every figure for which the store has cells

    Beside the pictures of each figure a text file has its caption and alt text. 5, interpretability, cost, dots and
    changes need only stored numbers; the others load models and images.
    """  # noqa: D301 (click reads the character itself)
    from bench.core.errors import RequestError
    from bench.core.registry import UnknownName
    from bench.report.plots.figure import FORMATS
    from bench.report.plots.style import Page, on_page

    home = find_home()
    folder, store, console = to or home / "figures", options.open_store(out), Console()
    for one in formats:
        if one not in FORMATS:
            raise RequestError(f"--format {one}: write {', '.join(FORMATS)}")
    asked = {"cell": cells, "classes": how["classes"], "show": how["shown"], "image": how["image"]}
    unused = [f"--{key}" for key, value in asked.items() if value]
    if unused and all(name in _STORED for name in names):
        raise RequestError(f"{unused[0]} means nothing for {', '.join(names)}: only pictures of maps have it")
    if only and not {"all", *_BY_ROW} & set(names):
        raise RequestError(f"--only means nothing for {', '.join(names)}: it is for {', '.join(_BY_ROW)}")
    if metrics and not {"all", *_OVER_SUITES} & set(names):
        raise RequestError(f"--metrics means nothing for {', '.join(names)}: it is for {' and '.join(_OVER_SUITES)}")
    elsewhere = options.elsewhere(data_root)
    failed = []
    with on_page(Page(width, titled, font)):
        for name in NAMES if "all" in names else dict.fromkeys(names):
            try:
                if name in _STORED:
                    drawings = _stored(name, store, suite, stamp, only, metrics, setting)
                else:
                    drawings = _shown(name, store, home, device, suite, stamp, cells, elsewhere, how)
                for drawing in drawings:
                    _tell(console, drawing, [*drawing.save(folder, formats), drawing.save_text(folder)])
            except (RequestError, UnknownName) as error:
                if "all" not in names:
                    raise
                failed.append((name, error))
    for name, error in failed:
        console.print(f"figure {name} is not drawn: {error}", soft_wrap=True)
    if len(failed) == len(NAMES):
        raise RequestError(f"nothing in {store.root} can be drawn")


def _stored(
    name: str,
    store: Any,
    suite: str | None,
    stamp: str | None,
    only: tuple[str, ...],
    metrics: tuple[str, ...],
    setting: str,
) -> list[Any]:
    # Without torch: these are drawn in a few seconds.
    from bench.report.plots.ablation import ablation
    from bench.report.plots.changes import changes
    from bench.report.plots.dots import dots
    from bench.report.plots.scatter import cost, interpretability

    suites = tuple(filter(None, (suite or "").split(",")))
    if name == "dots":
        return dots(store, suites, metrics, only)
    if name == "changes":
        return changes(store, setting, suites, metrics)

    if name == "5":
        return ablation(store, suite, stamp)
    return {"interpretability": interpretability, "cost": cost}[name](store, suite, stamp, only)


def _shown(
    name: str,
    store: Any,
    home: Path,
    device: str,
    suite: str | None,
    stamp: str | None,
    wanted: tuple[str, ...],
    elsewhere: dict[str, str],
    how: dict[str, Any],
) -> Any:
    """Yield drawings of prototypes, one after the other: a page is saved before the next one is drawn."""
    from bench.core import environment
    from bench.results.result_set import ResultSet
    from bench.runner.cell import CellRunner
    from bench.runner.progress import ConsoleProgress
    from bench.visualization import paper_figures
    from bench.visualization.viewer import Viewer

    chosen = {store.find(prefix) for prefix in wanted}
    cells = [cell for cell in ResultSet.of(store, stamp, suite).required() if not chosen or cell.name in chosen]
    progress = ConsoleProgress(Console(stderr=True), quiet=True)
    picked = environment.pick_device(device)

    def opened(cell: str) -> Any:
        return Viewer(CellRunner(store, cell, home, picked, progress, elsewhere=elsewhere))

    images, how = how["image"], {key: value for key, value in how.items() if key != "image"}
    rows = {key: how[key] for key in ("classes", "columns", "shown")}
    if name == "1":
        yield paper_figures.explanations(cells, opened, **rows, images=images)
    elif name in ("4", "6"):
        yield {"4": paper_figures.architectures, "6": paper_figures.sizes}[name](cells, opened, **rows)
    elif name == "7":
        yield paper_figures.intervention(cells, opened)
    else:
        for cell in sorted(chosen) or [paper_figures.usual(cells).name]:
            viewer = opened(cell)
            if name == "8":
                yield paper_figures.overview(viewer, **how)
            else:
                yield from paper_figures.pages(viewer, **how)


def _tell(console: Console, drawing: Any, files: list[Path]) -> None:
    console.print(one_line(drawing.title), style="bold", soft_wrap=True)
    for file in files:
        console.print(f"  {file}", soft_wrap=True)
    if (size := drawing.smallest_letters) < _SMALLEST:
        console.print(f"  its smallest letters have {size:.1f} points: a larger --width or fewer --images mends it")
    for missing in drawing.missing:
        for line in (f"  missing: {missing.what}", *([f"    {missing.command}"] if missing.command else [])):
            console.print(line, soft_wrap=True)


COMMANDS: list[click.Command] = [figure]
