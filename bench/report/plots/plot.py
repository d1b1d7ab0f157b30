"""Scatter plot: a mark for each method, in a panel for each metric."""

from __future__ import annotations

import functools
import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core import registry
from bench.report.plots import style
from bench.report.plots.axes import Mark, about_controls, control_lines, number_marks
from bench.report.plots.figure import Drawing, Missing
from bench.report.plots.points import Group, Point, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Horizontal = Callable[[Point], Value | None]
# Entries of a legend: a reader tells a dozen colours and numbers apart, hardly more.
_MOST_NAMED = 12
# Inches: side of the axes, and what is beside, above and below them.
_PANEL, _MARGIN, _TITLE, _LEGEND_LINE, _NOTE_LINE = 3.3, 0.3, 0.3, 12 / 72, 0.14


@dataclass(frozen=True)
class Plot:
    """One group's points, ready to be drawn.

    Attributes:
        group: group of the points, with the controls.
        points: points that have a mark.
        panels: metrics, from left to right.
        across: a point's value on the horizontal axis.
        label: the horizontal axis's label.
        logarithmic: whether the horizontal axis is logarithmic.
        size: width and height of a panel in inches.
    """

    group: Group
    points: Sequence[Point]
    panels: Sequence[str]
    across: Horizontal
    label: str
    logarithmic: bool = False
    size: tuple[float, float] = (_PANEL, _PANEL)

    def draw(
        self, file: str, title: str, caption: str, missing: Sequence[Missing], note: Sequence[str] = ()
    ) -> Drawing:
        """Draw the figure.

        Args:
            file: file name, without the extension.
            title: one line.
            caption: how to read it; the facts about the points are added.
            missing: missing points, for the caption and the caller.
            note: absent methods and the reasons, for the picture itself: it may be seen without its caption.
        """
        columns = 2 if len(self.panels) in (2, 4) else min(3, len(self.panels))
        columns, side = style.panels_across(columns, self.size[0], _MARGIN)
        lines = -(-len(self.panels) // columns)
        width = side * columns + _MARGIN
        # A column of squares would fill a page.
        high = self.size[1] * side / self.size[0] if side == self.size[0] or columns > 1 else 0.75 * side
        handles = self._handles()
        widest = max(len(str(handle.get_label())) for handle in handles)
        beside = max(1, min(5, len(handles), int(width / (0.45 + 0.06 * widest))))
        told = textwrap.wrap(f"Not in this picture: {'; '.join(note)}.", int(17 * width)) if note else []
        below = _NOTE_LINE * len(told) + 0.05
        bottom = below + _LEGEND_LINE * (1 + -(-len(handles) // beside))
        height = high * lines + _TITLE + bottom
        with style.styled():
            figure = style.new_figure(width, height, title)
            figure.get_layout_engine().set(rect=(0, bottom / height, 1, 1 - bottom / height))
            grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
            panels = list(zip(grid.flat, self.panels, strict=False))
            for axes, metric in panels:
                self._panel(axes, metric, max(0.6, side / self.size[0]))
            for axes, metric in panels:
                # After all panels have set the range of their common axis.
                number_marks(axes, self._marks(metric))
            for axes in grid.flat[len(self.panels) :]:
                axes.set_axis_off()
            legend = figure.legend(
                handles=handles, loc="lower center", ncols=beside, bbox_to_anchor=(0.5, below / height)
            )
            legend.set_in_layout(False)
            if told:
                words = figure.text(0.01, 0.05 / height, "\n".join(told), fontsize=7, color=style.MUTED, va="bottom")
                words.set(gid="missing", in_layout=False)
        used = tuple(cell for point in self.points for cell in point.cells)
        return Drawing(file, title, self._caption(caption, missing), self._alt(), figure, used, tuple(missing))

    @property
    def _ordered(self) -> list[Point]:
        """Return the points in drawing order: the black box is a ring, changed settings are small, so that all show."""
        return sorted(self.points, key=lambda p: (p.varied, p.role != "method", p.method, p.label, p.backbone))

    @property
    def _backbones(self) -> list[str]:
        return sorted({point.backbone for point in self.points})

    @property
    def _numbers(self) -> dict[str, int]:
        """Number the labels with changed settings in natural order: k=5 before k=10; none if the legend has no room."""
        labels = {(point.method, point.label) for point in self.points if point.varied}
        ordered = sorted(labels, key=lambda pair: [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                                                   for part in re.split(r"(\d+)", " ".join(pair))])  # fmt: skip
        room = _MOST_NAMED - len(self._methods) - self._backbone_entries
        return {label: number for number, (_, label) in enumerate(ordered, 1)} if len(labels) <= room else {}

    @property
    def _methods(self) -> list[str]:
        """Return the methods in the legend's order, those that compete first."""
        return list(dict.fromkeys(p.method for p in sorted(self.points, key=lambda p: (p.role != "method", p.method))))

    @property
    def _backbone_entries(self) -> int:
        """Return the number of the legend's entries on backbones."""
        return len(self._backbones) if len(self._backbones) > 1 else 0

    @functools.cached_property
    def _unnamed(self) -> set[str]:
        """Return the methods for which the legend has no room: the lowest in the first panel; they are grey."""
        small = any(point.varied for point in self.points) and not self._numbers
        room = _MOST_NAMED - self._backbone_entries - small
        if len(self._methods) <= room:
            return set()
        highest: dict[str, float] = {}
        for point in self.points:
            if point.role == "method":
                value = point.values.get(self.panels[0])
                before = highest.get(point.method, -math.inf)
                highest[point.method] = max(before, value.mean if value else -math.inf)
        kept = max(1, room - 1 - (len(self._methods) - len(highest)))  # one entry for all of the others
        return set(sorted(highest, key=lambda method: (-highest[method], method))[kept:])

    @functools.cached_property
    def _inks(self) -> dict[str, str]:
        """Colour of each named method: its own in every plot, or a free one where two named ones share theirs."""
        found: dict[str, str] = {}
        for method in [name for name in registry.names("methods") if name in set(self._methods) - self._unnamed]:
            own = colour_of(method)
            free = [colour for colour in (own, *style.PALETTE) if colour not in found.values()]
            found[method] = free[0] if free else own
        return found

    def _colours(self, point: Point) -> tuple[str, str, str]:
        if point.method in self._unnamed:
            return style.RULE, style.RULE, style.MUTED
        ink, face, edge = colours(point)
        if point.role == "method" and point.method in self._inks:
            ink = face = self._inks[point.method]
        return ink, face, edge

    def _marks(self, metric: str) -> list[Mark]:
        numbers = self._numbers
        return [
            Mark(x.mean, y.mean, numbers.get(point.label) if point.varied else None, self._colours(point)[0])
            for point in self._ordered
            if (x := self.across(point)) is not None and (y := point.values.get(metric)) is not None
        ]

    def _panel(self, axes: Axes, metric: str, scale: float) -> None:
        for point in self._ordered:
            x, y = self.across(point), point.values.get(metric)
            if x is None or y is None:
                continue
            colour, face, edge = self._colours(point)
            ring = face == "none"
            # Caps of short bars would fill a ring.
            # A logarithmic axis has no place for zero: there a bar goes down to a tenth of the mean at most.
            below = min(x.spread, 0.9 * x.mean) if self.logarithmic else x.spread
            axes.errorbar(
                x.mean, y.mean, xerr=[[below], [x.spread]] if x.spread else None, yerr=y.spread or None,
                color=colour, capsize=0 if ring else 2,
                elinewidth=1, capthick=1, linestyle="none", clip_on=False, gid=f"{point.label} {metric}",
                marker=style.MARKERS[self._backbones.index(point.backbone) % len(style.MARKERS)],
                markersize=scale * (3.6 if point.varied else 9), markerfacecolor=face, markeredgecolor=edge,
                markeredgewidth=1.4 if ring else 0.4 if point.varied else 0.7,
            )  # fmt: skip
        unit = self.group.units.get(metric, "")
        axes.set_ylabel(f"{metric.replace('_', ' ')} ({unit})" if unit else metric)
        places = {x.mean for point in self.points if (x := self.across(point)) is not None}
        if self.logarithmic:
            _plain_logarithm(axes)
            if len(places) == 1:
                # One place is no range: matplotlib would warn and make one up.
                (place,) = places
                axes.set_xlim(place / 2, place * 2)
        elif self.label.endswith("(%)"):
            # From the tens below the worst, for the best ones are close together.
            axes.set_xlim(max(0, 10 * math.floor(min(places) / 10 - 0.5)), 104)
        if unit == "%":
            axes.set_ylim(-3, 104)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(self.label)
        axes.grid(color=style.RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        control_lines(axes, self.group.points, metric)

    def _handles(self) -> list[Line2D]:
        """Return the legend: colours of methods, numbers of changed settings, marks of backbones."""
        from matplotlib.lines import Line2D

        def handle(name: str, colour: str, face: str, edge: str = "", marker: str = "o", size: float = 7) -> Line2D:
            return Line2D([], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face,
                          markeredgecolor=edge or colour, label=name, markersize=size)  # fmt: skip

        known = sorted(self.points, key=lambda p: (p.role != "method", p.method))
        entries = {
            point.method: handle(
                point.method if point.role == "method" else f"{point.method} ({point.role})", *self._colours(point)
            )
            for point in known
            if point.method not in self._unnamed
        }
        handles = list(entries.values())
        if self._unnamed:
            handles.append(handle(f"{len(self._unnamed)} others: see the caption", style.MUTED, style.RULE))
        numbers, inks = self._numbers, {point.label: self._colours(point)[0] for point in self.points}
        handles += [handle(f"{number}: {label}", inks[label], inks[label], size=4) for label, number in numbers.items()]
        if not numbers and any(point.varied for point in self.points):
            handles.append(handle("small: changed settings", style.MUTED, style.MUTED, size=4))
        if len(self._backbones) > 1:
            markers = zip(self._backbones, style.MARKERS * 10, strict=False)
            handles += [handle(name, style.MUTED, "white", marker=marker) for name, marker in markers]
        return handles

    def _caption(self, caption: str, missing: Sequence[Missing]) -> str:
        several = max((value.seeds for point in self.points for value in point.values.values()), default=1) > 1
        said = [caption, about_controls(self.group.points, self.panels)]
        said.append("Bars: standard deviation over seeds." if several else "One seed: no spread is known.")
        said.append(self._other_seeds())
        if self._unnamed:
            said.append(f"Grey marks: {', '.join(sorted(self._unnamed))}.")
        if any(point.varied for point in self.points):
            said.append(f"Small marks{', numbered' if self._numbers else ''}: changed settings.")
        if self.logarithmic and len(self.group.hardware) > 1:
            told = "; ".join(self.group.hardware)
            said.append(f"The fits ran on different hardware ({told}): do not compare their seconds.")
        if self.group.older:
            said.append(f"{self.group.older} older cells of the same names are left out.")
        if missing:
            said.append(f"Not there: {'; '.join(one.what for one in missing)}.")
        return " ".join(filter(None, said))

    def _other_seeds(self) -> str:
        """Return a note on means over other seeds than most: a training moves a point as much as a method may."""
        same: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for point in sorted(self.points, key=lambda p: (p.varied, p.label)):
            same[tuple(sorted(point.by_seed))].append(point.label)
        if len(same) < 2:
            return ""
        usual, *others = sorted(same, key=lambda seeds: (-len(same[seeds]), [-len(seeds), *seeds]))
        told = [f"{', '.join(dict.fromkeys(same[seeds]))} of {_seeds(seeds)}" for seeds in others]
        return f"Points are of different seeds, so compare with care: {'; '.join(told)}; the others of {_seeds(usual)}."

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


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def colours(point: Point) -> tuple[str, str, str]:
    """Return colours of bars, face and edge: one per method in every plot; rows that do not compete are black rings."""
    if point.role != "method":
        return style.TEXT, "none", style.TEXT
    colour = colour_of(point.method)
    return colour, colour, "white"


def colour_of(method: str) -> str:
    """Return the colour of a method in every plot."""
    known = [name for name, entry in registry.names("methods").items() if entry.role == "method"]
    return style.colour(known.index(method) if method in known else len(known))


def _plain_logarithm(axes: Axes) -> None:
    """Set a logarithmic axis with plain numbers: 20, 50, 100."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
