"""Figure 5 of the paper: consistency and stability of prototypes before and after refinement, for k = 3, 5, 10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.report.plots import style
from bench.report.plots.axes import about_controls, control_lines, file_part
from bench.report.plots.figure import Drawing, Missing, repeated, state_of
from bench.report.plots.points import Group, Point, groups
from bench.results.cell_record import CellRecord
from bench.results.result_set import ResultSet
from bench.results.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = ("consistency", "stability")
SIZES = (3, 5, 10)
_METHOD = "ours"
# As in the paper: dynamic blue, naive orange, initial purple.
_STAGES = {
    "lbfgs": ("refined (dynamic)", style.BLUE, "o"),
    "nelder-mead": ("refined (dynamic)", style.BLUE, "o"),
    "naive": ("refined (naive)", style.ORANGE, "s"),
    "none": ("initial", style.PURPLE, "^"),
}
_ABLATED = ("none", "naive", "lbfgs")
_COMMAND = "python -m bench run --suite fig5_small --data-root DIR --weights mobilenet_v2=FILE"


def ablation(
    store: Store, suite: str | None = None, stamp: str | None = None, metrics: Sequence[str] = METRICS
) -> list[Drawing]:
    """Draw a figure for each data set and backbone on which the method was measured for several k or refinements.

    Each metric has a panel; cells are those of one run or of a suite's newest run, if one is named.

    Raises:
        RequestError: if no finished cell belongs into it, with the command that makes them.
    """
    cells = ResultSet.of(store, stamp, suite).required()
    drawings = []
    for group in groups(cells, metrics):
        for backbone in sorted({point.backbone for point in group.points if point.role == "method"}):
            # Other methods have a k too, and no refinement to show.
            own = [
                p for p in group.points if p.backbone == backbone and "k" in p.settings and p.method.startswith(_METHOD)
            ]
            curves = _curves(own)
            if sum(len(curve) for name, curve in curves.items() if name in _STAGES) < 2:
                continue
            curves, seeds = _of_common_seeds(curves)
            drawings.append(_draw(group, backbone, curves, seeds, cells.cells, metrics, len(drawings)))
    if not drawings:
        raise RequestError(
            f"no cells of {_METHOD} that differ in k or in refinement are finished in {store.root}: {_COMMAND}"
        )
    return drawings


def _curves(points: Sequence[Point]) -> dict[str, dict[int, Point]]:
    """Return name of the curve -> k -> point; the newest if several cells would share one place."""
    found: dict[str, dict[int, Point]] = {}
    for point in points:
        refinement = point.settings.get("refinement")
        name = refinement if point.method == _METHOD and refinement in _STAGES else point.method
        found.setdefault(name, {}).setdefault(int(point.settings["k"]), point)
    order = [*_STAGES, *sorted(found)]
    return {name: dict(sorted(found[name].items())) for name in dict.fromkeys(order) if name in found}


def _of_common_seeds(curves: dict[str, dict[int, Point]]) -> tuple[dict[str, dict[int, Point]], str]:
    """Return the curves over the seeds that all points have, since a training moves a point, and a note on them."""
    points = [point for curve in curves.values() for point in curve.values() if point.by_seed]
    every = set().union(*(point.by_seed for point in points))
    common = sorted(every.intersection(*(point.by_seed for point in points)))
    if not common:
        return curves, "points are of different seeds. "
    told = "one seed, so no spread is known. " if len(common) == 1 else "mean ± standard deviation over seeds. "
    if left := sorted(every.difference(common)):
        which = "s {} are" if len(left) > 1 else " {} is"
        told += f"Seed{which.format(', '.join(map(str, left)))} left out: not all points have it. "
    same = {
        name: {k: point.over(common) if point.by_seed else point for k, point in curve.items()}
        for name, curve in curves.items()
    }
    return same, told


def _draw(
    group: Group,
    backbone: str,
    curves: dict[str, dict[int, Point]],
    seeds: str,
    cells: Sequence[CellRecord],
    metrics: Sequence[str],
    number: int,
) -> Drawing:
    shown = [
        metric for metric in metrics if any(metric in p.values for curve in curves.values() for p in curve.values())
    ]
    title = f"Prototypes before and after refinement: {group.title}, {backbone}"
    with style.styled():
        columns, side = style.panels_across(len(shown), 3.6, 0.2)
        lines = -(-len(shown) // columns)
        figure = style.new_figure(side * columns + 0.2, lines * min(3.3, side), title)
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, metric in zip(panels, shown, strict=False):
            _panel(axes, group, curves, metric)
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(4, 2 * columns, len(names)))
    missing = _missing(curves, cells, group, backbone)
    caption = (
        f"{' and '.join(shown)} of the prototypes of each k ({group.title}, {backbone}); {seeds}"
        + about_controls(group.points, shown)
        + (f" Not there: {'; '.join(one.what for one in missing)}." if missing else "")
    )
    told = [_told(name, curve, shown) for name, curve in curves.items()]
    alt = f"Line plots of {' and '.join(shown)} against the number of prototypes per class. {' '.join(told)}"
    used = tuple(cell for curve in curves.values() for point in curve.values() for cell in point.cells)
    suffix = "" if number == 0 else f"-{number + 1}"
    name = f"figure5-{file_part(group.dataset)}-{file_part(backbone)}{suffix}"
    return Drawing(name, title, caption, alt, figure, used, tuple(missing))


def _panel(axes: Axes, group: Group, curves: dict[str, dict[int, Point]], metric: str) -> None:
    extra = 0
    for name, curve in curves.items():
        if name in _STAGES:
            label, colour, marker = _STAGES[name]
        else:
            label, colour, marker = name, (style.GREEN, style.VERMILLION)[extra % 2], "DvPX"[extra % 4]
            extra += 1
        there = {k: point.values[metric] for k, point in curve.items() if metric in point.values}
        axes.errorbar(
            list(there), [value.mean for value in there.values()],
            yerr=[value.spread for value in there.values()] if any(v.seeds > 1 for v in there.values()) else None,
            color=colour, marker=marker, label=label, capsize=3, linestyle="--" if name not in _STAGES else "-",
        )  # fmt: skip
    sizes = sorted({k for curve in curves.values() for k in curve})
    axes.set_xticks(sizes, [str(k) for k in sizes])
    axes.set_xlim(min(sizes) - 0.6, max(sizes) + 0.6)
    axes.set_xlabel("prototypes per class, k")
    unit = group.units.get(metric, "")
    axes.set_ylabel(f"{metric} ({unit})" if unit else metric)
    axes.grid(axis="y", color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    if unit == "%":
        axes.set_ylim(-3, 104)
    control_lines(axes, group.points, metric)


def _missing(
    curves: dict[str, dict[int, Point]], cells: Sequence[CellRecord], group: Group, backbone: str
) -> list[Missing]:
    """Return the places of the paper's figure that have no point, why, and one command for all of them."""
    wanted_cells = (_METHOD, group.dataset, backbone)
    own = [cell for cell in cells if (cell.spec["method"], cell.dataset, cell.backbone) == wanted_cells]
    lost = [(k, refinement) for refinement in _ABLATED for k in SIZES if k not in curves.get(refinement, {})]
    if not lost:
        return []
    reasons: dict[str, list[str]] = {}
    for k, refinement in lost:
        wanted: dict[str, Any] = {"k": k, "refinement": refinement}
        those = [cell for cell in own if wanted.items() <= cell.spec["settings"].items()]
        reasons.setdefault(state_of(those), []).append(f"k = {k} with refinement {refinement}")
    what = "; ".join(f"{', '.join(places)}: {reason}" for reason, places in reasons.items())
    # One grid for all: `run` does not repeat finished cells.
    grid = {
        f"{_METHOD}.k": ",".join(map(str, sorted({k for k, _ in lost}))),
        f"{_METHOD}.refinement": ",".join(dict.fromkeys(refinement for _, refinement in lost)),
    }
    return [Missing(what, repeated(own[0], grid) if own else _COMMAND)]


def _told(name: str, curve: dict[int, Point], shown: Sequence[str]) -> str:
    label = _STAGES[name][0] if name in _STAGES else name
    parts = []
    for metric in shown:
        numbers = [f"{p.values[metric].mean:.1f} for k = {k}" for k, p in curve.items() if metric in p.values]
        if numbers:
            parts.append(f"{metric} {', '.join(numbers)}")
    return f"{label}: {'; '.join(parts)}."
