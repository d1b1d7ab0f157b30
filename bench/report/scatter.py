"""Two plots over all methods: accuracy against interpretability, and what a fit costs against how good it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import registry, style
from bench.drawing import Drawing, Missing
from bench.errors import RequestError
from bench.report.cells import Asked, asked, state_of
from bench.report.marks import about_controls, control_lines, file_part
from bench.report.points import Group, Point, Value, groups
from bench.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = ("accuracy", "consistency", "consistency_controlled", "stability")
Horizontal = Callable[[Point], Value | None]


def interpretability(store: Store, suite: str | None = None, stamp: str | None = None) -> list[Drawing]:
    """Accuracy against consistency and stability, a drawing for each data set.

    Methods and the black box are marks; content-free controls predict no class and are lines.

    Args:
        store: where the results lie.
        suite: only the newest run of this suite.
        stamp: only this run.

    Raises:
        RequestError: where nothing with both scores is finished, with a command that makes it.
    """
    return _scatter(
        store, suite, stamp, "interpretability", "Accuracy against interpretability",
        lambda point: point.values.get("accuracy"), "accuracy (%)", METRICS[1:],
        "Right is more accurate, up more interpretable.",
    )  # fmt: skip


def cost(store: Store, suite: str | None = None, stamp: str | None = None) -> list[Drawing]:
    """Seconds of the fit against accuracy, consistency and stability, a drawing for each data set.

    Arguments and errors are those of :func:`interpretability`.
    """
    return _scatter(
        store, suite, stamp, "cost", "Cost against quality",
        lambda point: point.seconds, "seconds to fit", METRICS,
        "Left is cheaper, up better; seconds on a logarithmic scale, as measured on this machine while it may have "
        "been busy with other work. Post-hoc methods count the training of the black box that they start from.",
        logarithmic=True,
    )  # fmt: skip


def _scatter(
    store: Store,
    suite: str | None,
    stamp: str | None,
    name: str,
    title: str,
    across: Horizontal,
    label: str,
    metrics: Sequence[str],
    caption: str,
    logarithmic: bool = False,
) -> list[Drawing]:
    cells = asked(store, suite, stamp)
    drawings: list[Drawing] = []
    for group in groups(store, cells, METRICS):
        shown = [p for p in group.points if p.role != "control" and across(p) and any(m in p.values for m in metrics)]
        if not any(point.role == "method" for point in shown):
            continue
        panels = [metric for metric in metrics if any(metric in point.values for point in shown)]
        stem = f"{name}-{file_part(group.dataset)}"
        number = 1 + sum(drawing.name.startswith(stem) for drawing in drawings)
        file = stem if number == 1 else f"{stem}-{number}"
        plot = _Plot(group, shown, panels, across, label, logarithmic)
        lost = [*_missing(cells, group, shown), *_without(group, across, label)]
        drawings.append(plot.draw(file, f"{title}: {group.title}", caption, lost))
    if not drawings:
        raise RequestError(
            f"no finished cell in {store.root} has what this plot needs: "
            "python -m bench run --methods ours,protopnet --datasets demo"
        )
    return drawings


def _missing(cells: Sequence[Asked], group: Group, shown: Sequence[Point]) -> list[Missing]:
    """Methods that were asked for on this data and have no point, once each."""
    there = {(point.label, point.backbone) for point in shown}
    lost: dict[tuple[str, str], list[Asked]] = {}
    for cell in cells:
        key = (cell.label, cell.spec["backbone"] or "")
        if cell.spec["dataset"] == group.dataset and cell.found.written["role"] == "method" and key not in there:
            lost.setdefault(key, []).append(cell)
    return [
        Missing(f"{label} ({backbone}): {state_of([c for c in own if not c.done])}", own[0].found.written["command"])
        for (label, backbone), own in lost.items()
        if not all(cell.done for cell in own)
    ]


def _without(group: Group, across: Horizontal, label: str) -> list[Missing]:
    """Methods and the black box that are finished and have no place from left to right."""
    return [
        Missing(f"{point.label} ({point.backbone}): {label.removesuffix(' (%)')} not on record")
        for point in group.points
        if point.role != "control" and point.values and not across(point)
    ]


@dataclass(frozen=True)
class _Plot:
    """One group's points, ready to be drawn."""

    group: Group
    points: Sequence[Point]
    panels: Sequence[str]
    across: Horizontal
    label: str
    logarithmic: bool

    def draw(self, file: str, title: str, caption: str, missing: Sequence[Missing]) -> Drawing:
        columns = 2 if len(self.panels) in (2, 4) else min(3, len(self.panels))
        lines = -(-len(self.panels) // columns)
        with style.styled():
            figure = style.new_figure(3.3 * columns + 0.3, 2.9 * lines + 0.9)
            grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
            for axes, metric in zip(grid.flat, self.panels, strict=False):
                self._panel(axes, metric)
            for axes in grid.flat[len(self.panels) :]:
                axes.set_axis_off()
            self._legend(figure)
            figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        used = tuple(cell for point in self.points for cell in point.cells)
        return Drawing(file, title, self._caption(caption, missing), self._alt(), figure, used, tuple(missing))

    @property
    def _ordered(self) -> list[Point]:
        """The black box last, so that nothing hides it; changed settings below the others."""
        return sorted(self.points, key=lambda p: (p.role != "method", not p.varied, p.method, p.label, p.backbone))

    @property
    def _backbones(self) -> list[str]:
        return sorted({point.backbone for point in self.points})

    def _panel(self, axes: Axes, metric: str) -> None:
        for point in self._ordered:
            x, y = self.across(point), point.values.get(metric)
            if x is None or y is None:
                continue
            colour, face = _colours(point)
            axes.errorbar(
                x.mean, y.mean, xerr=x.spread or None, yerr=y.spread or None, color=colour, capsize=2, elinewidth=1,
                marker=style.MARKERS[self._backbones.index(point.backbone) % len(style.MARKERS)],
                markersize=4 if point.varied else 8, markerfacecolor=face, markeredgecolor=colour,
                markeredgewidth=1.4, linestyle="none", clip_on=False, gid=f"{point.label} {metric}",
            )  # fmt: skip
        unit = self.group.units.get(metric, "")
        axes.set_ylabel(f"{metric.replace('_', ' ')} ({unit})" if unit else metric)
        if self.logarithmic:
            _plain_logarithm(axes)
            places = {x.mean for point in self._ordered if (x := self.across(point)) is not None}
            if len(places) == 1:
                # One place is no range: matplotlib would warn and make one up.
                (place,) = places
                axes.set_xlim(place / 2, place * 2)
        elif self.label.endswith("(%)"):
            axes.set_xlim(0, 104)
        if unit == "%":
            axes.set_ylim(-3, 104)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(self.label)
        axes.grid(color=style.RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        control_lines(axes, self.group.points, metric)

    def _legend(self, figure: Figure) -> None:
        from matplotlib.lines import Line2D

        def handle(name: str, colour: str, face: str, marker: str = "o", size: float = 7) -> Line2D:
            return Line2D(
                [], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, label=name, markersize=size
            )

        entries = {
            point.method: handle(
                point.method if point.role == "method" else f"{point.method} ({point.role})", *_colours(point)
            )
            for point in sorted(self._ordered, key=lambda p: (p.role != "method", p.method))
        }
        handles = list(entries.values())
        if any(point.varied for point in self.points):
            handles.append(handle("small: changed settings", style.MUTED, style.MUTED, size=4))
        if len(self._backbones) > 1:
            markers = zip(self._backbones, style.MARKERS * 10, strict=False)
            handles += [handle(name, style.MUTED, "white", marker) for name, marker in markers]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))

    def _caption(self, caption: str, missing: Sequence[Missing]) -> str:
        several = max((value.seeds for point in self.points for value in point.values.values()), default=1) > 1
        said = [caption, about_controls(self.group.points, self.panels)]
        said.append("Bars: standard deviation over seeds." if several else "One seed: no spread is known.")
        if self.logarithmic and len(self.group.hardware) > 1:
            told = "; ".join(self.group.hardware)
            said.append(f"The fits ran on different hardware ({told}): do not compare their seconds.")
        if self.group.older:
            said.append(f"{self.group.older} older cells of the same names are left out.")
        if missing:
            said.append(f"Not there: {'; '.join(one.what for one in missing)}.")
        return " ".join(filter(None, said))

    def _alt(self) -> str:
        def numbers(point: Point) -> str:
            x = self.across(point)
            assert x is not None
            there = [f"{metric} {point.values[metric].mean:.1f}" for metric in self.panels if metric in point.values]
            return f"{point.label} on {point.backbone}: {self.label} {x.mean:.3g}, {', '.join(there)}"

        controls = [
            f"{p.label}: {', '.join(f'{m} {p.values[m].mean:.1f}' for m in self.panels if m in p.values)}"
            for p in sorted(self.group.points, key=lambda p: p.label)
            if p.role == "control"
        ]
        alt = f"Scatter plots of {', '.join(self.panels)} against {self.label}. "
        alt += "; ".join(numbers(point) for point in self._ordered) + "."
        return alt + (f" Content-free controls: {'; '.join(controls)}." if controls else "")


def _colours(point: Point) -> tuple[str, str]:
    """Edge and face: a method has the same colour in every plot, what does not compete is black and open."""
    if point.role != "method":
        return style.TEXT, "white"
    known = [name for name, entry in registry.names("methods").items() if entry.role == "method"]
    colour = style.colour(known.index(point.method) if point.method in known else len(known))
    return colour, colour


def _plain_logarithm(axes: Axes) -> None:
    """A logarithmic axis with numbers that people read: 20, 50, 100."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
