"""Anatomy: from a pose and a species to outlines and key-points in the bird's own frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.data.synthetic.geometry import Feather, Frame, Points, bend, direction, fan, smooth
from bench.data.synthetic.pose import Pose
from bench.data.synthetic.species import Species

HEAD = 0.5  # radius of the head; large, because most of the parts are on it

_TORSO = [(1.0, 0.06), (0.9, -0.3), (0.55, -0.54), (0.05, -0.58), (-0.5, -0.42), (-0.95, -0.18), (-1.08, 0.02)]
_TORSO += [(-0.9, 0.2), (-0.5, 0.47), (0.05, 0.63), (0.55, 0.58), (0.88, 0.38)]

_BEAKS = {
    "cone": (
        [(0.36, -0.2), (0.6, -0.14), (0.8, 0.0), (0.88, 0.1), (0.4, 0.07)],
        [(0.38, 0.07), (0.8, 0.1), (0.64, 0.22), (0.38, 0.26)],
    ),
    "needle": (
        [(0.38, -0.09), (0.7, -0.03), (1.32, 0.05), (0.7, 0.07), (0.4, 0.07)],
        [(0.4, 0.07), (0.7, 0.07), (1.2, 0.07), (0.66, 0.13), (0.4, 0.16)],
    ),
    "hook": (
        [(0.34, -0.2), (0.62, -0.2), (0.86, -0.06), (0.94, 0.16), (0.86, 0.34), (0.76, 0.13), (0.4, 0.09)],
        [(0.38, 0.08), (0.7, 0.12), (0.68, 0.22), (0.38, 0.24)],
    ),
    "sickle": (
        [(0.36, -0.14), (0.66, -0.12), (0.98, 0.04), (1.2, 0.36), (1.22, 0.5), (0.98, 0.2), (0.66, 0.05), (0.4, 0.06)],
        [(0.38, 0.05), (0.66, 0.04), (0.96, 0.18), (1.14, 0.42), (0.88, 0.24), (0.62, 0.15), (0.38, 0.17)],
    ),
}
_BEAK_POINTS = {"cone": (0.62, 0.01), "needle": (0.76, 0.03), "hook": (0.68, -0.04), "sickle": (0.84, 0.05)}

# Shape of the tail: feathers, half spread in degrees, lengths of the middle and the outermost feathers, width, tip.
_TAILS = {
    "square": (5, 7, 1.0, 1.0, 0.13, "round"),
    "fork": (6, 13, 0.62, 1.25, 0.12, "point"),
    "fan": (7, 25, 0.95, 0.85, 0.15, "round"),
    "streamer": (5, 9, 0.6, 1.3, 0.09, "point"),
    "wedge": (5, 9, 1.35, 0.7, 0.12, "point"),
}


@dataclass
class Bird:
    """Posed bird, in units of half a body length.

    Attributes:
        pose, species: Pose and species of the bird.
        body, head: Frames of the body and of the head.
        torso: Outline (n, 2) of the body; `neck`: circles (x, y, radius) that join it to the head.
        beak: Outlines of the upper and lower half.
        crest: Feathers that stand off the crown.
        tail, near_wing, far_wing: Rows of feathers, the hindmost first. The far wing is empty when folded.
        arms: Thick lines ((2, 2), width) of the raised wings, near first.
        near_leg, far_leg: Lines (n, 2) from hip to foot, toes apart; empty when tucked in.
        ground: Height y of the ground under the feet.
        points: Key-points (2,) by the name of the part, with "near" and "far" for "left" and "right".
    """

    pose: Pose
    species: Species
    body: Frame
    head: Frame
    torso: Points
    neck: list[tuple[float, float, float]]
    beak: tuple[Points, Points]
    crest: list[Feather]
    tail: list[Feather]
    near_wing: list[list[Feather]] = field(default_factory=list)
    far_wing: list[list[Feather]] = field(default_factory=list)
    arms: list[Points] = field(default_factory=list)
    near_leg: list[Points] = field(default_factory=list)
    far_leg: list[Points] = field(default_factory=list)
    ground: float = 0.0
    points: dict[str, Points] = field(default_factory=dict)

    def extent(self) -> Points:
        """Return points (n, 2) that span the whole bird."""
        rows = [*self.near_wing, *self.far_wing, self.tail, self.crest]
        shapes = [self.torso, *self.beak, *self.near_leg, *self.far_leg]
        shapes += [feather.blade() for row in rows for feather in row]
        turn = np.linspace(0, 360, 12, endpoint=False)
        shapes.append(self.head.at([tuple(direction(a) * HEAD) for a in turn]))
        return np.concatenate(shapes)


def build(species: Species, pose: Pose) -> Bird:
    """Pose a bird of a species."""
    body = Frame(angle=pose.pitch)
    stretch = np.array([1.0, pose.plump])
    torso = body.at(smooth(_TORSO) * stretch)
    start = body.at((0.55, -0.12))
    centre = body.at((0.62, -0.26)) + pose.reach * direction(pose.neck)
    if pose.looks_back:  # mirrored, so that the beak points away from the breast
        head = Frame((float(centre[0]), float(centre[1])), -pose.head, mirror=True)
    else:
        head = Frame((float(centre[0]), float(centre[1])), pose.head)
    shares = np.linspace(0, 1, 9)
    line = start + (centre - start) * shares[:, None]
    waist = 0.5 - 0.2 * np.sin(np.pi * shares) * min(1.0, max(0.0, pose.reach - 0.5))
    neck = [(float(x), float(y), float(r)) for (x, y), r in zip(line, waist, strict=True)]
    neck[-1] = (float(centre[0]), float(centre[1]), HEAD)

    upper, lower = _BEAKS[species.beak]
    bird = Bird(
        pose=pose,
        species=species,
        body=body,
        head=head,
        torso=torso,
        neck=neck,
        beak=(head.at(upper), head.at(lower)),
        crest=_crest(species.crest, head),
        tail=_tail(species.tail, pose, body),
    )
    bird.points = {
        "back": body.at((-0.46, -0.35 * pose.plump)),
        "belly": body.at((0.15, 0.49 * pose.plump)),
        "breast": body.at((0.7, 0.24)),
        "beak": head.at(_BEAK_POINTS[species.beak]),
        "crown": head.at((-0.04, -0.4)),
        "forehead": head.at((0.31, -0.28)),
        "near eye": head.at((0.17, -0.08)),
        "throat": head.at((0.24, 0.36)),
        "nape": head.at((-0.4, 0.12)),
        "tail": bird.tail[len(bird.tail) // 2].point(0.6),
    }
    _wings(bird)
    _legs(bird)
    return bird


def _crest(shape: str, head: Frame) -> list[Feather]:
    """Return the feathers of the crest in the bird's frame."""
    rows = {
        "cap": [],
        "peak": fan(5, ((0.26, -0.36), (-0.34, -0.22)), (112, 158), (0.42, 0.66), 0.13, "point"),
        "tuft": fan(2, ((0.1, -0.42), (0.0, -0.42)), (78, 104), (0.62, 0.66), 0.1, "round"),
        "mohawk": fan(7, ((0.34, -0.24), (-0.42, -0.1)), (52, 172), (0.4, 0.4), 0.12, "round"),
    }[shape]
    placed = []
    for feather in rows:
        root, tip = head.at(feather.root), head.at(feather.point(1.0))
        along = tip - root
        angle = float(np.rad2deg(np.arctan2(-along[1], along[0])))
        placed.append(Feather((float(root[0]), float(root[1])), angle, feather.length, feather.width, feather.tip))
    return placed


def _tail(shape: str, pose: Pose, body: Frame) -> list[Feather]:
    """Return the feathers of the tail, from the upper to the lower."""
    count, spread, middle, outer, width, tip = _TAILS[shape]
    spread, length = spread * pose.tail_spread, 0.95 * pose.tail_length
    centre = 180 + pose.pitch - pose.tail
    feathers = []
    for side in np.linspace(-1, 1, count):
        root = body.at((-0.86, 0.0 + 0.08 * side))
        # Streamers are the outermost feathers alone; other tails change evenly from the middle to the outside.
        share = float(abs(side) > 0.9) if shape == "streamer" else abs(float(side))
        reach = 0.22 + length * (middle + (outer - middle) * share)
        feathers.append(Feather((float(root[0]), float(root[1])), float(centre + side * spread), reach, width, tip))
    # From the outside in, so that the middle feathers lie on top.
    order = np.argsort(-np.abs(np.linspace(-1, 1, count)), kind="stable")
    return [feathers[i] for i in order[: count - 1]] + [feathers[order[-1]]]


def _place(rows: list[list[Feather]], frame: Frame) -> list[list[Feather]]:
    """Move feathers into the frame's parent; the frame must not mirror."""
    moved = []
    for row in rows:
        moved.append([])
        for feather in row:
            root = frame.at(feather.root)
            angle = feather.angle + frame.angle
            moved[-1].append(
                Feather((float(root[0]), float(root[1])), angle, feather.length, feather.width, feather.tip)
            )
    return moved


def _wings(bird: Bird) -> None:
    """Add the wings and their key-points."""
    pose = bird.pose
    if pose.wing is None:
        shoulder = bird.body.at((0.5, 0.0))
        frame = Frame((float(shoulder[0]), float(shoulder[1])), pose.pitch + pose.wing_droop)
        rows = [
            fan(4, ((-0.75, -0.06), (-0.7, 0.16)), (180, 172), (0.98, 0.7), 0.12, "point"),
            fan(5, ((-0.4, -0.2), (-0.36, 0.27)), (188, 170), (0.82, 0.58), 0.13),
            fan(5, ((-0.04, -0.24), (0.0, 0.28)), (190, 168), (0.62, 0.46), 0.13),
            fan(4, ((0.14, -0.17), (0.14, 0.21)), (190, 166), (0.36, 0.34), 0.14),
        ]
        bird.near_wing = _place(rows, frame)
        bird.points["near wing"] = frame.at((-0.7, 0.03))
        return
    bird.near_wing, arm = _open_wing(bird, pose.wing, (0.3, -0.2), 1.0)
    # The far wing is seen from below the other side: a little further round and a little smaller.
    turn = -26 if pose.wing > 0 else 26
    bird.far_wing, far_arm = _open_wing(bird, pose.wing + turn, (0.46, -0.26), 0.9)
    bird.arms = [arm, far_arm]
    for side, rows in (("near", bird.near_wing), ("far", bird.far_wing)):
        hand, fore = (np.mean([feather.point(0.55) for feather in row], axis=0) for row in rows[:2])
        bird.points[f"{side} wing"] = 0.8 * hand + 0.2 * fore


def _open_wing(bird: Bird, arm: float, root: tuple[float, float], size: float) -> tuple[list[list[Feather]], Points]:
    """Return the rows of an open wing whose arm points along `arm` against the body, and the line of the arm."""
    pose = bird.pose
    sign = 1.0 if arm > 0 else -1.0
    shoulder = bird.body.at(root)
    frame = Frame((float(shoulder[0]), float(shoulder[1])), pose.pitch)
    wrist = 0.62 * size * direction(arm)
    hand = wrist + 0.24 * size * direction(arm + sign * 12)
    spread = sign * pose.wing_spread
    rows = [
        fan(7, (hand, wrist), (arm, arm + spread), (1.0 * size, 0.95 * size), 0.115 * size, "round"),
        fan(6, (wrist, (0.0, 0.0)), (arm + spread, arm + spread + sign * 22), (0.92 * size, 0.76 * size), 0.135 * size),
        fan(7, (hand, (0.0, 0.0)), (arm + 0.45 * spread, arm + spread + sign * 20), (0.5 * size, 0.46 * size), 0.13),
        fan(6, (hand, (0.0, 0.0)), (arm + 0.6 * spread, arm + spread + sign * 10), (0.25 * size, 0.26 * size), 0.11),
    ]
    line = frame.at(np.stack([hand, wrist, np.zeros(2)]))
    return _place(rows, frame), line


def _legs(bird: Bird) -> None:
    """Add legs that reach down to one common ground, and their key-points."""
    pose = bird.pose
    if pose.leg == 0.0:
        return
    near = bird.body.at((-0.12, 0.46 * pose.plump))
    far = bird.body.at((0.1, 0.44 * pose.plump))
    lowest = float(bird.torso[:, 1].max())
    bird.ground = max(lowest + 0.12, float(near[1]) + pose.leg)
    middle = (near[0] + far[0]) / 2
    for name, hip, side in (("near", near, -1.0), ("far", far, 1.0)):
        foot = np.array([middle + side * pose.stride + 0.1, bird.ground])
        heel = hip + 0.42 * (foot - hip) + np.array([-0.16, 0.0])
        lines = [np.concatenate([bend(hip, heel, heel, 4), bend(heel, heel, foot, 4)])]
        lines += [
            np.stack([foot, foot + np.array(toe)]) for toe in ((0.26, 0.03), (0.2, 0.09), (0.1, 0.1), (-0.2, 0.04))
        ]
        if name == "near":
            bird.near_leg = lines
        else:
            bird.far_leg = lines
        # Half way down the part of the leg that shows below the belly.
        bird.points[f"{name} leg"] = heel + 0.35 * (foot - heel)
