"""Plane geometry of the drawing: directions, frames, smooth outlines and feathers.

Everything is drawn in units of half a body length, x to the right and y down, as in the picture. Angles are in degrees,
counter-clockwise as seen by the viewer: 0 points right, 90 points up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points: TypeAlias = NDArray[np.float64]


def direction(angle: float) -> Points:
    """Return the unit vector (2,) of an angle in degrees."""
    radians = math.radians(angle)
    return np.array([math.cos(radians), -math.sin(radians)])


def turned(points: Points, angle: float) -> Points:
    """Return points (..., 2) turned by `angle` degrees about the origin.

    No matrix product: its last bit depends on the processor that a library picks its code for, and a drawing must not.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cosine + y * sine, y * cosine - x * sine], axis=-1)


@dataclass(frozen=True)
class Frame:
    """Local coordinate system: mirror, then turn by `angle`, then scale, then move to `origin`."""

    origin: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    mirror: bool = False
    scale: float = 1.0

    def at(self, points: ArrayLike) -> Points:
        """Map local points (..., 2) to the parent's coordinates."""
        local = np.array(points, dtype=np.float64)
        if self.mirror:
            local[..., 0] *= -1
        return turned(local, self.angle) * self.scale + np.asarray(self.origin)


@dataclass(frozen=True)
class Placement:
    """Placement of a bird in its picture: turned by `tilt`, mirrored if it faces left, scaled to pixels, moved."""

    tilt: float
    faces_left: bool
    scale: float
    offset: tuple[float, float]

    def __call__(self, points: ArrayLike) -> Points:
        """Map points (..., 2) of the bird's frame to pixels."""
        placed = turned(np.asarray(points, dtype=np.float64), self.tilt)
        if self.faces_left:
            placed = placed * np.array([-1.0, 1.0])
        return placed * self.scale + np.asarray(self.offset)

    def shifted(self, left: float, top: float) -> Placement:
        """Return the same placement seen from a window whose corner is at (left, top)."""
        return Placement(self.tilt, self.faces_left, self.scale, (self.offset[0] - left, self.offset[1] - top))


def smooth(points: ArrayLike) -> Points:
    """Return points (6 n, 2) of a closed Catmull-Rom curve through control points (n, 2)."""
    p1 = np.asarray(points, dtype=np.float64)[:, None, :]
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = (np.arange(6) / 6)[None, :, None]
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return curve.reshape(-1, 2)


def bend(start: ArrayLike, control: ArrayLike, end: ArrayLike, steps: int = 12) -> Points:
    """Return a quadratic Bezier curve (steps, 2)."""
    t = np.linspace(0, 1, steps)[:, None]
    a, b, c = (np.asarray(p, dtype=np.float64) for p in (start, control, end))
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c


_ALONG = np.array([0.0, 0.12, 0.3, 0.5, 0.7, 0.84, 0.94, 1.0])
_WIDE = {
    "round": np.array([0.3, 0.6, 0.85, 1.0, 1.0, 0.88, 0.6, 0.0]),
    "point": np.array([0.3, 0.7, 1.0, 1.0, 0.78, 0.5, 0.22, 0.0]),
}


@cache
def _blade(tip: str, start: float, shrink: float) -> Points:
    """Return the outline (n, 2) of a feather of length 1 and half width 1 along x."""
    along = start + (1 - start) * _ALONG
    wide = np.interp(along, _ALONG, _WIDE[tip]) * shrink
    wide[-1] = 0.0
    if shrink < 1.0:  # leaves a rim at the end, too
        along = along * 0.97
    return np.concatenate([np.stack([along, wide], 1), np.stack([along, -wide], 1)[::-1]])


@dataclass(frozen=True)
class Feather:
    """Feather: a leaf-shaped blade from `root` along `angle`."""

    root: tuple[float, float]
    angle: float
    length: float
    width: float
    tip: str = "round"

    def blade(self, start: float = 0.0, shrink: float = 1.0) -> Points:
        """Return the outline (n, 2) of the part beyond the share `start` of the length, `shrink` times as wide."""
        local = _blade(self.tip, start, shrink) * np.array([self.length, self.width])
        return turned(local, self.angle) + np.asarray(self.root)

    def point(self, share: float) -> Points:
        """Return the point (2,) of the shaft at `share` of the length."""
        return turned(np.array([share * self.length, 0.0]), self.angle) + np.asarray(self.root)


def fan(
    count: int,
    roots: tuple[ArrayLike, ArrayLike],
    angles: tuple[float, float],
    lengths: tuple[float, float],
    width: float,
    tip: str = "round",
) -> list[Feather]:
    """Lay out feathers evenly between two roots, two angles and two lengths."""
    first, last = (np.asarray(root, dtype=np.float64) for root in roots)
    row = []
    for share in np.linspace(0, 1, count):
        root = first + (last - first) * share
        angle, length = (pair[0] + (pair[1] - pair[0]) * share for pair in (angles, lengths))
        row.append(Feather((float(root[0]), float(root[1])), float(angle), float(length), width, tip))
    return row
