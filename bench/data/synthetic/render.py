"""Rendering of one picture: a bird of a species in a scene, with its annotations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageStat

from bench.data.synthetic import background
from bench.data.synthetic.bird import build
from bench.data.synthetic.canvas import Canvas
from bench.data.synthetic.geometry import Placement, direction
from bench.data.synthetic.plumage import Plumage, grain
from bench.data.synthetic.pose import Pose, random_pose
from bench.data.synthetic.species import Species

SIZE = 256  # pixels of a finished picture, both ways
_FINE = 2  # everything is drawn this many times larger and then averaged

# The official names in the official order.
PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """Finished picture with its annotations.

    Attributes:
        image: RGB, `SIZE` x `SIZE`.
        mask: L, 255 on pixels that show the bird, 0 elsewhere.
        box: x, y, width, height in whole pixels, tight around the mask.
        points: Pixel (x, y) of every part that shows, by its official name.
    """

    image: Image.Image
    mask: Image.Image
    box: tuple[int, int, int, int]
    points: dict[str, tuple[int, int]]


def _place(extent: np.ndarray, pose: Pose, rng: np.random.Generator) -> Placement:
    """Fit the bird into the frame at a random size and position, in fine pixels."""
    turned = Placement(pose.tilt, pose.faces_left, 1.0, (0.0, 0.0))(extent)
    low, high = turned.min(axis=0), turned.max(axis=0)
    side = SIZE * _FINE
    # The longer side of the bird takes 60 to 86 % of the picture, so that nothing of it is cut off.
    scale = rng.uniform(0.6, 0.86) * side / max(high - low)
    room = side - scale * (high - low)
    corner = room * rng.uniform(0.12, 0.88, 2)
    offset = corner - scale * low
    return Placement(pose.tilt, pose.faces_left, float(scale), (float(offset[0]), float(offset[1])))


def _grade(image: Image.Image, light: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Set the light of the picture: its colour, contrast and the side it comes from."""
    # White balance: red and blue change against each other.
    gain = rng.uniform(0.86, 1.1) * (1 + rng.uniform(-0.06, 0.06) * np.array([1.0, 0.1, -1.0]))
    gamma = rng.uniform(0.86, 1.14)
    ramp = np.linspace(0, 1, 256)
    tables = [np.clip(255 * factor * ramp**gamma, 0, 255).round().astype(int).tolist() for factor in gain]
    image = image.point([value for table in tables for value in table])
    # Brighter towards the light and darker at the corners, as through a lens.
    y, x = np.meshgrid(np.linspace(-1, 1, image.size[1]), np.linspace(-1, 1, image.size[0]), indexing="ij")
    glow = (0.97 + 0.08 * (x * light[0] + y * light[1]) - 0.07 * (x**2 + y**2)).astype(np.float32)
    # Fine noise, like that of a sensor: it also hides the steps of smooth backgrounds.
    noise = rng.normal(0, 1.6, glow.shape).astype(np.float32)
    lit = np.asarray(image, dtype=np.float32) * glow[..., None] + noise[..., None]
    return Image.fromarray(np.clip(lit + 0.5, 0, 255).astype(np.uint8))


def _share(mask: Image.Image) -> float:
    """Return the mean of a mask, 0 to 255."""
    return ImageStat.Stat(mask).mean[0]


def _sides(shown: dict[str, tuple[int, int]], pose: Pose) -> dict[str, tuple[int, int]]:
    """Turn near and far into left and right; a head turned back shows the other side's eye."""
    near, far = ("left", "right") if pose.faces_left else ("right", "left")
    named = {}
    for name, pixel in shown.items():
        side, _, part = name.partition(" ")
        if part == "eye" and pose.looks_back:
            named[f"{far} eye"] = pixel
        elif part:
            named[f"{near if side == 'near' else far} {part}"] = pixel
        else:
            named[name] = pixel
    return named


def paint(species: Species, rng: np.random.Generator, pose: Pose | None = None) -> Picture:
    """Paint a picture of a species; every choice comes from `rng`, except a given pose.

    Args:
        species: The species.
        rng: Source of the pose, the scene, the light and the individual's small differences.
        pose: A pose to hold instead of a random one. The random one is drawn all the same, so that the rest of the
            picture stays as it is.
    """
    drawn = random_pose(rng)
    pose = pose or drawn
    bird = build(species, pose)
    extent = bird.extent()
    placement = _place(extent, pose, rng)
    side = SIZE * _FINE
    habitat = list(background.HABITATS.values())[int(rng.integers(len(background.HABITATS)))]
    light = direction(float(rng.uniform(40, 140)))
    image = background.background(habitat, side, rng)
    if pose.leg:
        background.support(image, habitat, placement, bird.ground, rng)
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.5, 1.8))))

    # Only the window around the bird is painted in layers.
    pixels = placement(extent)
    left, top = (max(0, int(v) - 24) for v in pixels.min(axis=0))
    right, bottom = (min(side, int(v) + 24) for v in pixels.max(axis=0))
    angle = pose.pitch + pose.tilt
    texture = grain((right - left, bottom - top), 180 - angle if pose.faces_left else angle, placement.scale, rng)
    canvas = Canvas(image.crop((left, top, right, bottom)), placement.shifted(left, top), light, texture)
    Plumage(bird, canvas, rng).paint()
    image.paste(canvas.picture, (left, top))
    mask = Image.new("L", (side, side), 0)
    mask.paste(canvas.mask, (left, top))

    if rng.random() < 0.6:
        front = background.foreground(habitat, side, rng)
        cover = front.getchannel("A")
        if _share(ImageChops.multiply(cover, mask)) < 0.3 * _share(mask):  # else there would be no bird to see
            image.paste(front, mask=cover)
            mask = ImageChops.subtract(mask, cover)
    image = _grade(image.reduce(_FINE), light, rng)
    # A pixel belongs to the bird if the bird covers at least half of it.
    mask = mask.reduce(_FINE).point([0] * 128 + [255] * 128)

    solid = np.asarray(mask) > 0
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1))
    shown = {}
    for name, showing in canvas.shown.items():
        x, y = (int(v / _FINE) for v in placement(bird.points[name]))
        # Annotated only if no later layer, leaf or blade covers it.
        if showing and solid[y, x]:
            shown[name] = (x, y)
    return Picture(image, mask, box, _sides(shown, pose))
