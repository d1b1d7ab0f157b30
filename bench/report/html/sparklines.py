"""Training curves as small drawings: points in the coordinates of an SVG, drawn by a template.

They take their colours from the page, so that they read in a dark theme too, and cost nothing to draw: a report has
thousands of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results.labels import position

WIDTH, HEIGHT = 320, 186
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 32, 30
_NOT_CURVES = ("epoch", "seconds", "phase")
_FIRST = ("loss", "train_accuracy", "accuracy")


@dataclass(frozen=True)
class Tick:
    """Mark on an axis: its position and label."""

    place: float
    text: str


@dataclass(frozen=True)
class Phase:
    """Stretch of epochs with a name."""

    name: str
    left: float
    width: float


@dataclass(frozen=True)
class Panel:
    """One curve.

    Attributes:
        title: name of the quantity.
        alt: description in words.
        points: ``x,y x,y ...`` of the line, in pieces if values are missing.
        dots: the points of pieces of one epoch, which no line shows.
        across: ticks of the epochs.
        up: ticks of the values.
        phases: of the training, if it has several.
    """

    title: str
    alt: str
    points: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    phases: tuple[Phase, ...]


def panels(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Return a panel for each quantity that was recorded epoch by epoch, from the rows of ``history.json``."""
    names = dict.fromkeys(name for row in history for name, value in row.items() if _is_number(value))
    order = sorted(names.keys() - set(_NOT_CURVES), key=lambda name: (position(name, _FIRST), name))
    return [_panel(name, history) for name in order]


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return round numbers from ``low`` to ``high``.

    Example:
        >>> ticks(0.0, 9.5)
        [0.0, 2.5, 5.0, 7.5]
    """
    from matplotlib.ticker import MaxNLocator

    if high <= low:
        return [low]
    places = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    # The locator goes on to the next round number on both sides.
    return [float(place) for place in places if low <= place <= high]


def _panel(name: str, history: Sequence[Mapping[str, Any]]) -> Panel:
    values = [float(row[name]) if _is_number(row.get(name)) else None for row in history]
    there = [value for value in values if value is not None]
    low, high = min(there), max(there)
    # Quantities that are never negative start at zero, so that a small change looks small.
    bottom = 0.0 if low >= 0 else low
    top = high if high > bottom else bottom + 1.0
    last = max(1, len(history) - 1)

    def x(place: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * place / last, 1)

    def y(value: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (top - value) / (top - bottom), 1)

    pieces: list[list[tuple[float, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((x(place), y(value)))
    found = [int(place) for place in ticks(0, len(history) - 1, 5) if place == int(place)]
    return Panel(
        title=name.replace("_", " "),
        alt=_alt(name, there, len(history)),
        points=tuple(" ".join(f"{a},{b}" for a, b in piece) for piece in pieces if len(piece) > 1),
        dots=tuple(piece[0] for piece in pieces if len(piece) == 1),
        across=tuple(Tick(x(place), str(place + 1)) for place in found),
        up=tuple(Tick(y(value), f"{value:.3g}") for value in ticks(bottom, top)),
        phases=tuple(_phases(history, x)),
    )


def _phases(history: Sequence[Mapping[str, Any]], x: Any) -> list[Phase]:
    starts = [place for place, row in enumerate(history)
              if place == 0 or row.get("phase") != history[place - 1].get("phase")]  # fmt: skip
    if len(starts) < 2:
        return []
    ends = [*starts[1:], len(history)]
    found = []
    for start, end in zip(starts, ends, strict=True):
        left, right = x(max(0.0, start - 0.5)), x(min(len(history) - 1, end - 0.5))
        found.append(Phase(str(history[start].get("phase", "")), left, round(right - left, 1)))
    return found


def _alt(name: str, values: Sequence[float], epochs: int) -> str:
    told = f"{name.replace('_', ' ')} over {epochs} epoch{'s' * (epochs > 1)}: {values[0]:.3g}"
    if len(values) > 1:
        told += f" at the beginning, {values[-1]:.3g} at the end, between {min(values):.3g} and {max(values):.3g}"
    return told


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
