"""Figures of a report: those drawn from stored numbers, and the way of any figure into the folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import BenchError
from bench.report.html.output_dir import ReportFolder
from bench.report.plots.ablation import ablation
from bench.report.plots.figure import Drawing
from bench.report.plots.scatter import cost, interpretability
from bench.report.plots.style import DARK
from bench.results.store import Store

FIGURES: tuple[tuple[str, Callable[..., Iterable[Drawing]]], ...] = (
    ("accuracy against interpretability", interpretability),
    ("cost against quality", cost),
    ("prototypes before and after refinement", ablation),
)
"""Name and function of store, suite and stamp; a new figure is a line here."""


@dataclass(frozen=True)
class Illustration:
    """Picture in the report's folder; ``dark`` is the file for a dark page, if ``file`` does not serve both."""

    title: str
    caption: str
    alt: str
    guide: str
    file: str
    dark: str = ""


def stored_figures(
    target: ReportFolder, store: Store, suite: str | None, stamp: str | None
) -> tuple[list[Illustration], list[str]]:
    """Draw the figures for which the store has numbers.

    Returns:
        The figures, and a line for each one that there are no numbers for.
    """
    drawn: list[Illustration] = []
    undrawn = []
    for name, figure in FIGURES:
        own, problem = saved(target, lambda figure=figure: figure(store, suite, stamp), "figures", "svg")
        drawn += own
        undrawn += [f"{name}: {problem}"] if problem else []
    return drawn, undrawn


def fit_for_pages(file: Path) -> None:
    """Let an SVG follow the reader's preference, a dark page getting colours that read there; and make it smaller.

    A style sheet inside an SVG also counts where a page shows it as an image, unlike the page's own. Hundredths of a
    point suffice; numbers below 1 are scales of letters. Groups of one element without a name are that element.
    """
    text = re.sub(r"(?<![\d.])([1-9]\d*\.\d\d)\d+", r"\1", file.read_text(encoding="utf-8"))
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    for pattern, shorter in (
        (r"\s*\n\s*", "\n"),
        (r' transform="rotate\(-0 [^"]*"| id="(?!m[0-9a-f]{10}"|p[0-9a-f]{10}")[^"]*"', ""),
        (r"xlink:href", "href"),
        (r"font-family: 'DejaVu Sans'; ", ""),
        (r"<g>\n(<[^g][^>]*/>)\n</g>", r"\1"),
        (r"<g>\n(<[^g][^>]*/>)\n</g>", r"\1"),
    ):
        text = re.sub(pattern, shorter, text)
    rules = "".join(
        f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }} '
        for light, dark in DARK.items() for kind in ("fill", "stroke")
    )  # fmt: skip
    letters = 'text { font-family: "DejaVu Sans", Verdana, sans-serif }'
    sheet = f'<style type="text/css">{letters} @media (prefers-color-scheme: dark) {{ {rules}}}</style>'
    file.write_text(text.replace("<defs>", f"<defs>\n{sheet}", 1), encoding="utf-8")


def saved(
    target: ReportFolder, draw: Callable[[], Iterable[Drawing]], folder: str, ending: str
) -> tuple[list[Illustration], str]:
    """Draw pictures and put them into the report's folder, one after the other.

    Args:
        target: the report's folder.
        draw: yields the pictures.
        folder: subfolder of the report's folder.
        ending: file extension, such as ``svg``.

    Returns:
        The pictures, and the reason if one could not be drawn.
    """
    from matplotlib import rc_context

    found: list[Illustration] = []
    try:
        for picture in draw():
            # Letters as letters: a page that shows the picture can use its reader's font, for half of the bytes.
            with rc_context({"svg.fonttype": "none"}):
                (file,) = picture.save(target.path / folder, (ending,))
            own = [target.keep(file)]
            if ending == "svg":
                fit_for_pages(file)
            else:
                (other,) = picture.darkened().save(target.path / folder, (ending,))
                own.append(target.keep(other))
            found.append(Illustration(picture.title, picture.caption, picture.alt, picture.guide, *own))
    except BenchError as error:
        # Missing numbers or a deleted model cost one figure: the rest of the report is worth having.
        return found, str(error)
    return found, ""
