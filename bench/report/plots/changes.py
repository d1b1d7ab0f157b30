"""Slope plot: every method's values before and after one change of a setting, in a panel for each metric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from bench.core.errors import RequestError
from bench.report.plots import style
from bench.report.plots.axes import file_part, spread_out
from bench.report.plots.figure import Drawing
from bench.report.plots.plot import colour_of
from bench.results.labels import FIRST_METRICS, ROLES
from bench.results.result_set import ResultSet
from bench.results.stats.variance import Pair, pairs
from bench.results.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL, _HEIGHT = 3.4, 3.3
_GAP = 0.05


class Line(NamedTuple):
    """One method on one backbone; values are means over the same seeds."""

    method: str
    role: str
    backbone: str
    before: float
    after: float

    @property
    def colour(self) -> str:
        """Colour of the method; what does not compete is grey."""
        return colour_of(self.method) if self.role == "method" else style.MUTED


def changes(store: Store, setting: str, suites: Sequence[str] = (), metrics: Sequence[str] = ()) -> list[Drawing]:
    """Draw what a change of one setting does to every method, from cells that differ in nothing else.

    Args:
        store: results.
        setting: such as ``stage``, ``crop`` or ``k``; ``stage=unprojected,projected`` for one change, this way.
        suites: whose cells count; by default all.
        metrics: names; by default the usual ones that were measured.

    Raises:
        RequestError: if no two cells differ in that setting alone.
    """
    cells = ResultSet.of(store).required().of_suites(suites)
    wanted = tuple(metrics) or FIRST_METRICS
    setting, _, direction = setting.partition("=")
    change = tuple(direction.split(","))
    by_change: dict[tuple[str, str, str], list[Pair]] = defaultdict(list)
    for pair in pairs(cells, [setting], ROLES):
        if direction and pair.change == change[::-1]:
            pair = Pair(setting, pair.change[::-1], pair.after, pair.before)
        if not direction or pair.change == change:
            by_change[pair.before.dataset, *pair.change].append(pair)
    drawings = []
    for (dataset, low, high), own in sorted(by_change.items()):
        lines = {metric: _lines(own, metric) for metric in wanted}
        panels = [metric for metric in wanted if lines[metric]]
        if panels:
            drawings.append(_draw(setting, dataset, (low, high), own, {metric: lines[metric] for metric in panels}))
    if not drawings:
        raise RequestError(
            f"no two finished cells differ in {setting!r} alone: for example "
            "python -m bench run --methods protopnet --datasets demo --set protopnet.stage=unprojected,projected"
        )
    return drawings


def _lines(found: Sequence[Pair], metric: str) -> list[Line]:
    values: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for pair in found:
        before, after = pair.before.score(metric)[1], pair.after.score(metric)[1]
        if before is not None and after is not None:
            values[pair.before.spec["method"], pair.before.role, pair.before.backbone].append((before, after))
    return [
        Line(*key, fmean(low for low, _ in own), fmean(high for _, high in own)) for key, own in sorted(values.items())
    ]


def _draw(
    setting: str, dataset: str, change: tuple[str, str], found: Sequence[Pair], lines: dict[str, list[Line]]
) -> Drawing:
    columns, side = style.panels_across(2 if len(lines) in (2, 4) else min(3, len(lines)), _PANEL, 0.1)
    rows = -(-len(lines) // columns)
    title = f"{setting}: {change[0]} and {change[1]}, {dataset}"
    backbones = sorted({line.backbone for own in lines.values() for line in own}, key=lambda name: (not name, name))
    units = {name: str(facts["unit"]) for pair in found for name, facts in pair.before.spec["metrics"].items()}
    with style.styled():
        figure = style.new_figure(columns * side, rows * _HEIGHT, title)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (metric, own) in zip(grid.flat, lines.items(), strict=False):
            _panel(axes, metric, units.get(metric, ""), change, own, backbones)
        for axes in grid.flat[len(lines) :]:
            axes.set_axis_off()
    seeds = sorted({pair.before.seed for pair in found})
    caption = (
        f"Each line is a method, before ({change[0]}) and after ({change[1]}) a change of {setting} and nothing else; "
        f"means over {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}."
    )
    if any(line.role == "control" for own in lines.values() for line in own):
        caption += " Dashed: content-free controls."
    if len(named := list(filter(None, backbones))) > 1:
        caption += f" Marks are backbones: {', '.join(named)}."

    def numbers(line: Line) -> str:
        return f"{line.method}{line.backbone and f' on {line.backbone}'} {line.before:.3g} to {line.after:.3g}"

    told = "; ".join(f"{metric}: {', '.join(map(numbers, own))}" for metric, own in lines.items())
    used = tuple({cell.name: None for pair in found for cell in (pair.before, pair.after)})
    name = f"changes-{file_part(setting)}-{file_part(change[0])}-{file_part(change[1])}-{file_part(dataset)}"
    return Drawing(name, title, caption, f"Slope plot. {told}.", figure, used)


def _panel(
    axes: Axes, metric: str, unit: str, change: tuple[str, str], lines: Sequence[Line], backbones: Sequence[str]
) -> None:
    for line in lines:
        axes.plot(
            [0, 1], [line.before, line.after], color=line.colour, marker=style.MARKERS[backbones.index(line.backbone)],
            markersize=5, clip_on=False, linestyle="--" if line.role == "control" else "-",
            linewidth=1 if line.role == "control" else None, gid=f"{line.method} {line.backbone} {metric}",
        )  # fmt: skip
    axes.set_xticks([0, 1], list(change))
    axes.set_xlim(-0.15, 1.9)
    axes.set_ylabel(f"{metric.replace('_', ' ')} ({unit})" if unit else metric.replace("_", " "))
    axes.margins(y=0.08)
    axes.grid(axis="y", color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    bottom, top = axes.get_ylim()
    ordered = sorted(lines, key=lambda line: (line.after, line.method))
    places = spread_out([(line.after - bottom) / (top - bottom) for line in ordered], _GAP)
    for line, place in zip(ordered, places, strict=True):
        axes.annotate(
            line.method, xy=(1, line.after), xytext=(0.62, place), textcoords="axes fraction", fontsize=7,
            color=style.TEXT if line.role == "method" else style.MUTED, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip
