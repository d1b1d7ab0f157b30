"""Scenery: the habitat out of focus, the support under the bird, and leaves and blades in front of it.

All of it is drawn from the picture's own random numbers and is independent of the species, so that no scenery gives a
class away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bench.data.synthetic.canvas import Colour, flat, mix
from bench.data.synthetic.geometry import Feather, Placement, Points, bend, direction


@dataclass(frozen=True)
class Habitat:
    """Colours of one kind of scenery.

    Attributes:
        sky, ground: Colours at the top and at the bottom.
        lights: Colours of the discs out of focus.
        leaves: Colours of leaves and blades.
        bark: Colour of branches.
        water: Whether the lower part is streaked like water.
    """

    sky: Colour
    ground: Colour
    lights: tuple[Colour, ...]
    leaves: tuple[Colour, ...]
    bark: Colour
    water: bool = False


_BERRIES: tuple[Colour, ...] = ((206, 58, 60), (244, 188, 60), (150, 92, 180), (250, 246, 236), (92, 150, 200))

HABITATS: dict[str, Habitat] = {
    "morning": Habitat(
        (146, 192, 226), (232, 234, 214), ((250, 248, 236), (196, 220, 232), (214, 226, 178)),
        ((112, 150, 76), (146, 172, 92)), (112, 92, 80),
    ),
    "forest": Habitat(
        (72, 106, 78), (36, 62, 54), ((150, 186, 106), (206, 218, 140), (88, 130, 96), (52, 88, 74)),
        ((86, 132, 70), (58, 104, 72)), (92, 76, 66),
    ),
    "autumn": Habitat(
        (226, 186, 124), (132, 84, 58), ((240, 178, 84), (212, 116, 62), (250, 222, 158), (158, 84, 58)),
        ((206, 108, 52), (224, 164, 64), (160, 72, 54)), (88, 66, 58),
    ),
    "lake": Habitat(
        (186, 214, 216), (66, 122, 138), ((226, 236, 228), (112, 164, 170), (168, 196, 150)),
        ((110, 140, 84), (150, 158, 92)), (104, 94, 88), water=True,
    ),
    "blossom": Habitat(
        (206, 222, 232), (226, 186, 190), ((250, 216, 222), (255, 240, 240), (240, 178, 192), (190, 206, 170)),
        ((242, 190, 202), (150, 178, 112), (252, 226, 228)), (110, 84, 84),
    ),
    "dusk": Habitat(
        (108, 98, 146), (246, 178, 138), ((250, 206, 150), (190, 124, 150), (134, 110, 160)),
        ((74, 84, 88), (96, 88, 110)), (74, 62, 72),
    ),
    "meadow": Habitat(
        (190, 214, 172), (122, 152, 74), ((232, 226, 140), (160, 190, 98), (246, 240, 200), (222, 132, 120)),
        ((130, 164, 70), (96, 142, 76)), (124, 104, 76),
    ),
    "winter": Habitat(
        (196, 208, 222), (232, 236, 240), ((246, 248, 250), (168, 182, 200), (206, 214, 224)),
        ((122, 138, 132), (164, 150, 130)), (96, 90, 92),
    ),
}  # fmt: skip


def _pick(colours: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def background(habitat: Habitat, size: int, rng: np.random.Generator) -> Image.Image:
    """Return the picture (RGB, size x size) behind everything, out of focus."""
    side = size // 4
    ramp = np.linspace(0, 1, side)[:, None, None] ** rng.uniform(0.7, 1.5)
    sky, ground = np.array(habitat.sky, dtype=float), np.array(habitat.ground, dtype=float)
    tilted = np.clip(ramp + np.linspace(-0.15, 0.15, side)[None, :, None] * rng.normal(), 0, 1)
    image = Image.fromarray((sky + (ground - sky) * tilted).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(9, 20))):  # masses of leaves, clouds, hills
        x, y = rng.uniform(-0.1, 1.1, 2) * side
        r = rng.uniform(0.06, 0.22) * side
        wide = rng.uniform(2.0, 4.5) if habitat.water else rng.uniform(0.8, 1.5)
        colour = mix(_pick(habitat.lights, rng), _pick(habitat.leaves, rng), float(rng.uniform(0, 0.7)))
        draw.ellipse((x - r * wide, y - r, x + r * wide, y + r), fill=(*colour, int(rng.integers(50, 140))))
    for _ in range(int(rng.integers(1, 4))):  # far twigs
        a, b = rng.uniform(-0.1, 1.1, (2, 2)) * side
        draw.line([tuple(a), tuple(b)], fill=(*mix(habitat.bark, habitat.sky, 0.3), 130), width=int(rng.integers(1, 5)))
    # Scenery out of focus needs no fine pixels: half of them do until the end.
    image = image.filter(ImageFilter.GaussianBlur(side / 26)).resize((size // 2, size // 2), Image.Resampling.BICUBIC)
    return _discs(image, habitat, rng).resize((size, size), Image.Resampling.BICUBIC)


def _discs(image: Image.Image, habitat: Habitat, rng: np.random.Generator) -> Image.Image:
    """Add the bright discs of points out of focus, and berries, petals and leaves half in focus."""
    size = image.size[0]
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(6, 20))):
        x, y = rng.uniform(0, 1, 2) * size
        r = rng.uniform(0.012, 0.05) * size
        colour = mix(_pick(habitat.lights, rng), (255, 255, 240), 0.25)
        alpha = int(rng.integers(34, 100))
        if habitat.water:
            draw.ellipse((x - 2.6 * r, y - 0.3 * r, x + 2.6 * r, y + 0.3 * r), fill=(*colour, alpha))
        else:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, alpha))
            r *= 0.86
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, alpha // 3))
    for _ in range(int(rng.integers(3, 12))):
        x, y = rng.uniform(0, 1, 2) * size
        kind = rng.random()
        if kind < 0.3:
            _flower(draw, (x, y), rng.uniform(0.02, 0.05) * size, _pick(_BERRIES, rng), float(rng.uniform(0, 72)))
        elif kind < 0.55:
            colour, r = _pick(_BERRIES, rng), rng.uniform(0.01, 0.022) * size
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, 220))
        else:
            colour = mix(_pick(habitat.leaves, rng), habitat.ground, 0.3)
            leaf = Feather((x, y), float(rng.uniform(0, 360)), rng.uniform(0.07, 0.16) * size, 0.02 * size, "point")
            draw.polygon(flat(leaf.blade()), fill=(*colour, 190))
    return image.filter(ImageFilter.GaussianBlur(size / 150))


def _flower(draw: ImageDraw.ImageDraw, at: tuple[float, float], size: float, colour: Colour, turn: float) -> None:
    for petal in range(5):
        x, y = np.asarray(at) + 0.6 * size * direction(turn + 72 * petal)
        r = 0.45 * size
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, 205))
    r = 0.28 * size
    draw.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=(*mix(colour, (255, 236, 150), 0.7), 230))


def support(
    image: Image.Image, habitat: Habitat, placement: Placement, ground: float, rng: np.random.Generator
) -> None:
    """Draw the support under the bird: a branch, or moss and stone if the ground is about level."""
    if abs(placement.tilt) < 22 and rng.random() < 0.5:
        _bank(image, habitat, placement, ground, rng)
    else:
        _branch(image, habitat, placement, ground, rng)


def _branch(
    image: Image.Image, habitat: Habitat, placement: Placement, ground: float, rng: np.random.Generator
) -> None:
    thick = float(rng.uniform(0.13, 0.3))
    lift = rng.uniform(-0.25, 0.35, 2)
    x = np.linspace(-7, 7, 25)
    sag = np.where(x < 0, lift[0], lift[1]) * (np.abs(x) / 4) ** 2
    middle = ground + 0.08 + thick + sag
    draw = ImageDraw.Draw(image)
    radius = thick * (1 + 0.05 * x * (1 if rng.random() < 0.5 else -1)) + rng.normal(0, 0.014, x.size)
    for low, high, tone in ((-1.0, 1.0, 0.0), (-1.0, 0.45, 0.18), (-0.95, -0.1, 0.36), (-0.85, -0.5, 0.55)):
        colour = mix(mix(habitat.bark, (30, 24, 34), 0.3), (236, 214, 186), tone)
        top, bottom = np.stack([x, middle + low * radius], 1), np.stack([x, middle + high * radius], 1)
        draw.polygon(flat(placement(np.concatenate([top, bottom[::-1]]))), fill=colour)
    for _ in range(26):  # bark
        at, level, long = rng.uniform(-4, 4), rng.uniform(-0.85, 0.85), rng.uniform(0.08, 0.4)
        y = np.interp([at, at + long], x, middle + level * radius)
        tone = mix(habitat.bark, (30, 24, 30) if rng.random() < 0.6 else (226, 204, 176), float(rng.uniform(0.2, 0.6)))
        draw.line(flat(placement(np.stack([[at, at + long], y], 1))), fill=tone, width=2)
    for _ in range(int(rng.integers(2, 6))):  # twigs with a few leaves
        at = float(rng.uniform(0.9, 3.5)) * (1 if rng.random() < 0.5 else -1)
        root = np.array([at, float(np.interp(at, x, middle))])
        angle = float(rng.uniform(20, 160)) * (1 if rng.random() < 0.35 else -1)
        tip = root + direction(angle) * rng.uniform(0.4, 1.0)
        draw.line(
            flat(placement(np.stack([root, tip]))),
            fill=mix(habitat.bark, (30, 24, 30), 0.2),
            width=round(0.07 * placement.scale),
        )
        for share in (0.5, 0.8, 1.0):
            at_leaf = root + (tip - root) * share
            leaf = Feather(
                tuple(at_leaf), angle + float(rng.uniform(-70, 70)), float(rng.uniform(0.35, 0.6)), 0.13, "point"
            )
            _leaf(
                draw,
                placement(leaf.blade()),
                placement(np.stack([leaf.point(0), leaf.point(0.95)])),
                _pick(habitat.leaves, rng),
            )


def _bank(image: Image.Image, habitat: Habitat, placement: Placement, ground: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    x = np.linspace(-8, 8, 60)
    wave = 0.1 * np.sin(x * rng.uniform(0.6, 1.4) + rng.uniform(0, 6)) + 0.03 * np.sin(x * 5 + rng.uniform(0, 6))
    wave += rng.uniform(-0.03, 0.05) * x**2 - wave[30]
    base = mix(mix(habitat.ground, habitat.bark, 0.5), _pick(habitat.leaves, rng), float(rng.uniform(0, 0.8)))
    for depth, tone in ((0.0, 0.22), (0.1, 0.06), (0.3, -0.12), (0.7, -0.3)):
        line = np.stack([x, ground + 0.02 + depth + wave * (1 + depth)], 1)
        colour = mix(base, (250, 244, 214) if tone > 0 else (26, 28, 40), abs(tone))
        draw.polygon(flat(placement(np.concatenate([line, [[8, 14], [-8, 14]]]))), fill=colour)
    for _ in range(70):  # pebbles, moss
        at, depth = rng.uniform(-4, 4), rng.uniform(0.12, 2.5)
        centre = placement(np.array([at, ground + depth + float(np.interp(at, x, wave))]))
        r = rng.uniform(0.02, 0.07) * placement.scale
        tone = mix(base, (240, 234, 206) if rng.random() < 0.5 else (30, 30, 40), float(rng.uniform(0.1, 0.35)))
        draw.ellipse((centre[0] - 1.6 * r, centre[1] - r, centre[0] + 1.6 * r, centre[1] + r), fill=tone)
    for _ in range(int(rng.integers(14, 40))):  # grass behind the bird
        at = float(rng.uniform(-4.5, 4.5))
        root = np.array([at, ground + 0.1 + float(np.interp(at, x, wave))])
        _blade(draw, placement, root, float(rng.uniform(0.3, 1.0)), _pick(habitat.leaves, rng), rng)


def _blade(
    draw: ImageDraw.ImageDraw,
    placement: Placement,
    root: Points,
    height: float,
    colour: Colour,
    rng: np.random.Generator,
) -> None:
    lean = rng.uniform(-0.4, 0.4)
    curve = bend(root, root + np.array([lean * 0.2, -0.6 * height]), root + np.array([lean, -height]), 7)
    wide = np.linspace(0.05, 0.004, 7)[:, None] * np.array([1.0, 0.0])
    tone = mix(colour, (250, 248, 210) if rng.random() < 0.5 else (30, 40, 40), float(rng.uniform(0, 0.3)))
    draw.polygon(flat(placement(np.concatenate([curve - wide, (curve + wide)[::-1]]))), fill=tone)


def _leaf(draw: ImageDraw.ImageDraw, blade: Points, rib: Points, colour: Colour) -> None:
    draw.polygon(flat(blade), fill=mix(colour, (24, 34, 34), 0.3))
    half = np.concatenate([blade[: len(blade) // 2], rib[::-1]])
    draw.polygon(flat(half), fill=mix(colour, (255, 250, 220), 0.08))
    draw.line(flat(rib), fill=mix(colour, (255, 250, 220), 0.4), width=2)


def foreground(habitat: Habitat, full: int, rng: np.random.Generator) -> Image.Image:
    """Return leaves or blades (RGBA, full x full) that hang in front of the bird, a little out of focus."""
    size = full // 2  # out of focus, so half the pixels do
    sheet = Image.new("RGBA", (size, size), (*_pick(habitat.leaves, rng), 0))
    draw = ImageDraw.Draw(sheet)
    if rng.random() < 0.3:
        whole = Placement(0.0, False, size / 4, (0.0, 0.0))
        for _ in range(int(rng.integers(3, 9))):
            root = np.array([rng.uniform(0.2, 3.8), 4.1])
            _blade(draw, whole, root, float(rng.uniform(0.8, 2.6)), _pick(habitat.leaves, rng), rng)
    else:
        side = rng.uniform(0, 360)
        start = size * (0.5 + 0.75 * direction(side))
        end = size * (0.5 + rng.uniform(-0.12, 0.3) * direction(side + rng.uniform(-35, 35)))
        curve = bend(start, (start + end) / 2 + rng.normal(0, 0.06, 2) * size, end, 14)
        draw.line(
            flat(curve), fill=(*mix(habitat.bark, (30, 24, 30), 0.2), 255), width=max(2, size // 110), joint="curve"
        )
        step = curve[-1] - curve[0]
        onward = float(np.rad2deg(np.arctan2(-step[1], step[0])))
        long, wide = rng.uniform(0.09, 0.15) * size, rng.uniform(0.022, 0.034) * size
        for number, root in enumerate(curve[4:]):
            angle = onward + (48 if number % 2 else -48) + float(rng.normal(0, 14))
            leaf = Feather(tuple(root), angle, long * float(rng.uniform(0.7, 1.1)), wide, "point")
            _leaf(draw, leaf.blade(), np.stack([leaf.point(0), leaf.point(0.95)]), _pick(habitat.leaves, rng))
    sheet = sheet.filter(ImageFilter.BoxBlur(float(rng.uniform(0.5, 1.4))))
    return sheet.resize((full, full), Image.Resampling.BICUBIC)
