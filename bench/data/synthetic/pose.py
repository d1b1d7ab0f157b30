"""Poses: angles and lengths of body, neck, head, wings and tail, and the tilt of the whole bird."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Shares of the poses. Variety is the point: a fixed position in the crop must not stay on the same part.
_SHARES = {
    "perch": 0.15,
    "level": 0.1,
    "feed": 0.15,
    "stretch": 0.13,
    "look back": 0.1,
    "wing up": 0.18,
    "flight": 0.19,
}


@dataclass(frozen=True)
class Pose:
    """Pose of a bird. Angles in degrees, lengths in half body lengths.

    Attributes:
        kind: The name of the pose.
        pitch: Body axis above the horizontal.
        neck: Direction of the neck, and `reach` its length.
        head: Direction of the beak; counted from the mirrored head if the bird looks back.
        looks_back: Whether the head is turned over the shoulder, so that its far side shows.
        tail: Tail against the body axis; `tail_spread` and `tail_length` multiply the species' own.
        wing: Direction of the raised arm against the body axis, or None for folded wings.
        wing_spread: Angle over which the hand feathers fan out.
        wing_droop: Turn of the folded wing about the shoulder.
        leg: Length of the legs; 0 when they are tucked in. `stride` parts the feet.
        plump: Height of the body against its mean.
        tilt: Turn of the bird together with its support.
        faces_left: Whether the picture is mirrored.
    """

    kind: str
    pitch: float
    neck: float
    reach: float
    head: float
    looks_back: bool
    tail: float
    tail_spread: float
    tail_length: float
    wing: float | None
    wing_spread: float
    wing_droop: float
    leg: float
    stride: float
    plump: float
    tilt: float
    faces_left: bool


def random_pose(rng: np.random.Generator) -> Pose:
    """Draw a random pose."""
    kind = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    pitch, neck, reach, head = {
        "perch": (between(20, 62), between(45, 85), between(0.5, 0.72), between(-20, 22)),
        "level": (between(-10, 14), between(15, 55), between(0.5, 0.75), between(-22, 18)),
        "feed": (between(-42, -12), between(-72, -28), between(0.6, 0.95), between(-75, -35)),
        "stretch": (between(25, 72), between(55, 98), between(0.95, 1.3), between(-5, 32)),
        "look back": (between(0, 45), between(80, 112), between(0.55, 0.72), between(-22, 22)),
        "wing up": (between(-8, 40), between(25, 70), between(0.5, 0.75), between(-20, 20)),
        "flight": (between(-22, 26), between(0, 35), between(0.55, 0.8), between(-16, 14)),
    }[kind]
    wing = None
    if kind == "wing up":
        wing = between(62, 142)
    elif kind == "flight":
        wing = between(62, 138) if rng.random() < 0.6 else between(-132, -80)
    steep = rng.random() < 0.24 and kind != "flight"
    tilt = between(55, 105) * (1 if rng.random() < 0.5 else -1) if steep else between(-48, 48)
    return Pose(
        kind=kind,
        pitch=pitch,
        neck=neck,
        reach=reach,
        head=head,
        looks_back=kind == "look back",
        tail=between(-28, 64),
        tail_spread=between(0.7, 1.7),
        tail_length=between(0.65, 1.6),
        wing=wing,
        wing_spread=between(45, 80),
        wing_droop=between(-14, 16),
        leg=0.0 if kind == "flight" else between(0.38, 1.0),
        stride=between(0.18, 0.42),
        plump=between(0.9, 1.14),
        tilt=tilt,
        faces_left=bool(rng.random() < 0.5),
    )
