"""Figures of a report: those that are drawn from stored numbers, and how any of them gets into the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.core.errors import BenchError
from bench.report.html.output_dir import ReportFolder
from bench.report.plots.ablation import ablation
from bench.report.plots.scatter import cost, interpretability
from bench.results.store import Store


class Picture(Protocol):
    """A figure that can be saved, with what has to be said about it; ``bench.report.plots.figure.Drawing`` is one."""

    @property
    def title(self) -> str:
        """One line."""

    @property
    def caption(self) -> str:
        """How it was made and what is missing."""

    @property
    def alt(self) -> str:
        """What there is to see."""

    @property
    def guide(self) -> str:
        """How to read figures of this kind, or nothing."""

    def save(self, folder: Path, formats: Sequence[str]) -> list[Path]:
        """Write it, a file for each format, and return the files."""


FIGURES: tuple[tuple[str, Callable[..., Iterable[Picture]]], ...] = (
    ("accuracy against interpretability", interpretability),
    ("cost against quality", cost),
    ("prototypes before and after refinement", ablation),
)
"""Name and function of store, suite and stamp; a new figure is a line here."""


@dataclass(frozen=True)
class Illustration:
    """A picture that lies in the folder."""

    title: str
    caption: str
    alt: str
    guide: str
    file: str


def stored_figures(
    target: ReportFolder, store: Store, suite: str | None, stamp: str | None
) -> tuple[list[Illustration], list[str]]:
    """Draw what the store has numbers for.

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
    target: ReportFolder, draw: Callable[[], Iterable[Picture]], folder: str, ending: str
) -> tuple[list[Illustration], str]:
    """Draw pictures and put them into the report's folder, one after the other.

    Args:
        target: the report's folder.
        draw: hands out the pictures.
        folder: in the report's.
        ending: of the files, such as ``svg``.

    Returns:
        The pictures, and why there are no more where one could not be drawn.
    """
    found: list[Illustration] = []
    try:
        for picture in draw():
            (file,) = picture.save(target.path / folder, (ending,))
            found.append(Illustration(picture.title, picture.caption, picture.alt, picture.guide, target.keep(file)))
    except BenchError as error:
        # Numbers that are not there, a model that is gone: the rest of the report is worth having.
        return found, str(error)
    return found, ""
