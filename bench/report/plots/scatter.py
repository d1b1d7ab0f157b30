"""Scatter plots over all methods: accuracy against interpretability, and cost of a fit against its quality."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from bench.core.errors import RequestError
from bench.core.registry import UnknownName, nearest, quoted
from bench.report.plots.axes import file_part
from bench.report.plots.figure import Drawing, Missing, state_of
from bench.report.plots.plot import Horizontal, Plot
from bench.report.plots.points import Group, Point, groups
from bench.results.cell_record import CellRecord
from bench.results.result_set import ResultSet
from bench.results.store import Store

_HEADLINE = (4.9, 3.7)
METRICS = ("accuracy", "consistency", "consistency_controlled", "stability")


class _Lost(NamedTuple):
    """Method that has no point: the reason, and the command that would make it, if one would."""

    name: str
    reason: str
    command: str = ""


def interpretability(
    store: Store, suite: str | None = None, stamp: str | None = None, only: Sequence[str] = ()
) -> list[Drawing]:
    """Draw accuracy against consistency and stability, a figure for each data set.

    Methods and the black box are marks; content-free controls predict no class and are lines.

    Args:
        store: results.
        suite: name of a suite, to take its newest run only.
        stamp: time stamp of a run, to take this run only.
        only: methods or labels of rows to draw, ``default`` for all rows with a recipe's own settings; empty: all. The
            black box and the controls are always drawn.

    Raises:
        UnknownName: if ``only`` names no row, with the nearest names.
        RequestError: if no two points with both scores are finished, with a command that makes them.
    """
    return _scatter(
        store, suite, stamp, only, "interpretability", "Accuracy against interpretability",
        lambda point: point.values.get("accuracy"), "accuracy (%)", METRICS[1:],
        "Right is more accurate, up more interpretable.",
    )  # fmt: skip


def headline(cells: ResultSet, among: Collection[str]) -> Iterator[Drawing]:
    """Draw accuracy against the first other metric, of methods in the settings of their recipes on one data set.

    Args:
        cells: of a store or run.
        among: ids of cells of the data set's table.
    """
    for group in groups(cells, METRICS):
        points = tuple(point for point in group.points if not point.varied)
        shown = [point for point in points if point.role != "control" and "accuracy" in point.values]
        metric = next((name for name in METRICS[1:] if sum(name in point.values for point in shown) > 1), None)
        if metric is None or not any(set(point.cells) & set(among) for point in points):
            continue
        plot = Plot(replace(group, points=points, older=0), shown, [metric], lambda point: point.values.get("accuracy"),
                    "accuracy (%)", size=_HEADLINE)  # fmt: skip
        caption = "Right is more accurate, up more interpretable; methods in the settings of their recipes."
        title = f"Accuracy against {metric.replace('_', ' ')}: {group.title}"
        yield plot.draw(f"headline-{file_part(group.dataset)}", title, caption, ())
        return


def cost(store: Store, suite: str | None = None, stamp: str | None = None, only: Sequence[str] = ()) -> list[Drawing]:
    """Draw seconds of the fit against accuracy, consistency and stability, a figure for each data set.

    Arguments and errors are those of :func:`interpretability`.
    """
    return _scatter(
        store, suite, stamp, only, "cost", "Cost against quality",
        lambda point: point.seconds, "seconds to fit", METRICS,
        "Left is cheaper, up better; seconds on a logarithmic scale, as measured on this machine while it may have "
        "been busy with other work. Post-hoc methods count the training of the black box that they start from.",
        logarithmic=True,
    )  # fmt: skip


def _scatter(
    store: Store,
    suite: str | None,
    stamp: str | None,
    only: Sequence[str],
    name: str,
    title: str,
    across: Horizontal,
    label: str,
    metrics: Sequence[str],
    caption: str,
    logarithmic: bool = False,
) -> list[Drawing]:
    cells = ResultSet.of(store, stamp, suite).required()
    _check_names(cells.cells, only)
    wanted = [cell for cell in cells.cells if _asked(only, cell.spec["method"], cell.label, cell.plain)]
    ready: list[tuple[Plot, list[_Lost]]] = []
    undrawn: list[tuple[Group, str]] = []
    for group in groups(cells, METRICS):
        asked = [p for p in group.points if p.role != "method" or _asked(only, p.method, p.label, not p.varied)]
        group = replace(group, points=tuple(asked))
        shown = [p for p in asked if p.role != "control" and across(p) and any(m in p.values for m in metrics)]
        if not any(point.role == "method" for point in shown):
            continue
        lost = [*_missing(wanted, group, shown), *_without(group, across, label)]
        panels = [metric for metric in metrics if any(metric in point.values for point in shown)]
        if all(sum(metric in point.values for point in shown) < 2 for metric in panels):
            alone = "; ".join([", ".join(map(_name, shown)), *_told(lost)])
            undrawn.append((group, f"no picture of {group.title}, where one point stands alone: {alone}"))
            continue
        ready.append((Plot(group, shown, panels, across, label, logarithmic), lost))
    if not ready:
        where = undrawn[0][0].dataset if undrawn else "demo"
        reason = "; ".join(text for _, text in undrawn) or f"no finished cell in {store.root} has what this plot needs"
        raise RequestError(f"{reason}: python -m bench run --methods ours,protopnet --datasets {where}")
    drawings: list[Drawing] = []
    for plot, lost in ready:
        stem = f"{name}-{file_part(plot.group.dataset)}"
        number = 1 + sum(drawing.name.startswith(stem) for drawing in drawings)
        file = stem if number == 1 else f"{stem}-{number}"
        # Missing points without a figure of their own are listed with the first one.
        missing = [Missing(f"{one.name}: {one.reason}", one.command) for one in lost]
        missing += [Missing(text) for _, text in undrawn] if not drawings else []
        drawings.append(plot.draw(file, f"{title}: {plot.group.title}", caption, missing, _told(lost)))
    return drawings


def _asked(only: Sequence[str], method: str, label: str, plain: bool) -> bool:
    """Return whether a row is one of those to draw; ``plain``: whether its settings are those of a recipe."""
    return not only or method in only or label in only or (plain and "default" in only)


def _check_names(cells: Iterable[CellRecord], only: Sequence[str]) -> None:
    known = {name for cell in cells if cell.role == "method" for name in (cell.spec["method"], cell.label)}
    for name in only:
        if name != "default" and name not in known:
            raise UnknownName(f"--only {quoted(name)}: no row has that name{nearest(name, {*known, 'default'})}")


def _told(lost: Iterable[_Lost]) -> list[str]:
    """Return the absent methods with the reasons, a text for each reason."""
    reasons: dict[str, list[str]] = {}
    for one in lost:
        reasons.setdefault(one.reason, []).append(one.name)
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _name(point: Point) -> str:
    return f"{point.label} ({point.backbone})"


def _missing(cells: Sequence[CellRecord], group: Group, shown: Sequence[Point]) -> list[_Lost]:
    """Return methods that were asked for on this data and have no point, once each."""
    there = {(point.label, point.backbone) for point in shown}
    lost: dict[tuple[str, str], list[CellRecord]] = {}
    for cell in cells:
        key = (cell.label, cell.backbone)
        if cell.dataset == group.dataset and cell.role == "method" and key not in there:
            lost.setdefault(key, []).append(cell)
    return [
        _Lost(
            f"{label} ({backbone})", state_of([cell for cell in own if cell.result is None]), own[0].written["command"]
        )
        for (label, backbone), own in lost.items()
        if not all(cell.result for cell in own)
    ]


def _without(group: Group, across: Horizontal, label: str) -> list[_Lost]:
    """Return finished methods and black boxes that have no value on the horizontal axis."""
    return [
        _Lost(_name(point), f"{label.removesuffix(' (%)')} not on record")
        for point in group.points
        if point.role != "control" and point.values and not across(point)
    ]
