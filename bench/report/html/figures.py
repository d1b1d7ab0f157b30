"""Figures of a report: those drawn from stored numbers, and the way of any figure into the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.core.errors import BenchError
from bench.report.html.output_dir import ReportFolder
from bench.report.plots.ablation import ablation
from bench.report.plots.figure import Drawing
from bench.report.plots.scatter import cost, interpretability
from bench.results.store import Store

FIGURES: tuple[tuple[str, Callable[..., Iterable[Drawing]]], ...] = (
    ("accuracy against interpretability", interpretability),
    ("cost against quality", cost),
    ("prototypes before and after refinement", ablation),
)
"""Name and function of store, suite and stamp; a new figure is a line here."""


@dataclass(frozen=True)
class Illustration:
    """Picture in the report's folder."""

    title: str
    caption: str
    alt: str
    guide: str
    file: str


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
    found: list[Illustration] = []
    try:
        for picture in draw():
            (file,) = picture.save(target.path / folder, (ending,))
            found.append(Illustration(picture.title, picture.caption, picture.alt, picture.guide, target.keep(file)))
    except BenchError as error:
        # Missing numbers or a deleted model cost one figure: the rest of the report is worth having.
        return found, str(error)
    return found, ""
