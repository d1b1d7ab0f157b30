"""Canvas: the window of a picture in which a bird is painted layer by layer, the hindmost first."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bench.data.synthetic.geometry import Placement, Points

Colour = tuple[int, int, int]
_SOFT = ImageFilter.BoxBlur(0.7)  # takes the stairs off the edges of polygons


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from `a` to `b`."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def flat(points: Points) -> list[tuple[float, float]]:
    """Return points (n, 2) as the list of pairs that Pillow takes."""
    return [tuple(p) for p in points.tolist()]


class Canvas:
    """Layers over a piece of scenery, with the bird's mask and the key-points that still show.

    Args:
        scenery: The picture (RGB) behind the bird, cut to the window.
        placement: Placement that maps the bird's frame to pixels of the window.
        light: Unit vector (2,) towards the light, in pixels.
        texture: Grain of the plumage, an L picture as large as the window with mean about 128.
    """

    def __init__(self, scenery: Image.Image, placement: Placement, light: Points, texture: Image.Image) -> None:
        self.picture = scenery
        self.placement = placement
        self.light = light
        self.texture = texture
        self.mask = Image.new("L", scenery.size, 0)
        self.shown: dict[str, bool] = {}
        self._pixels: dict[str, tuple[int, int]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the window in pixels."""
        return self.picture.size

    @property
    def unit(self) -> float:
        """Pixels of half a body length."""
        return self.placement.scale

    def sheet(self, colour: Colour) -> Image.Image:
        """Return an empty sheet of paint."""
        return Image.new("RGB", self.size, colour)

    def stencil(self) -> Image.Image:
        """Return an empty mask."""
        return Image.new("L", self.size, 0)

    def polygon(self, image: Image.Image, points: ArrayLike, fill: Colour | int) -> None:
        """Fill an outline given in the bird's frame."""
        ImageDraw.Draw(image).polygon(flat(self.placement(points)), fill=fill)

    def line(self, image: Image.Image, points: ArrayLike, fill: Colour | int, width: float) -> None:
        """Draw a line of `width` half body lengths with round ends."""
        draw, pixels, thick = ImageDraw.Draw(image), flat(self.placement(points)), max(1.0, width * self.unit)
        draw.line(pixels, fill=fill, width=round(thick), joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=fill)

    def disc(self, image: Image.Image, centre: ArrayLike, radius: float, fill: Colour | int) -> None:
        """Fill a circle given in the bird's frame."""
        (x, y), r = self.placement(centre), radius * self.unit
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def round_off(self, mask: Image.Image, radius: float) -> Image.Image:
        """Round the corners of a mask, convex and concave, as skin and down would."""
        small = mask.reduce(2).filter(ImageFilter.GaussianBlur(radius * self.unit / 2))
        blurred = small.resize(mask.size, Image.Resampling.BICUBIC)
        return blurred.point([max(0, min(255, (v - 110) * 8)) for v in range(256)])

    def shade(self, mask: Image.Image, depth: float, strength: float = 1.0) -> Image.Image:
        """Return the light on a layer as if its mask were a cushion `depth` units thick: RGB, 128 is neutral."""
        small = mask.reduce(4)
        height = np.asarray(small.filter(ImageFilter.GaussianBlur(depth * self.unit / 4)), dtype=np.float32) / 255
        slope_y, slope_x = np.gradient(height)
        slope = -(slope_x * self.light[0] + slope_y * self.light[1]) * depth * self.unit / 4
        tone = 128 + strength * (150 * slope + 70 * (height - 0.82))
        grey = Image.fromarray(np.clip(tone, 24, 232).astype(np.uint8)).resize(mask.size, Image.Resampling.BILINEAR)
        # Shadows turn blue and lights turn warm, as under a sky.
        warm = grey.point([round(v + 0.06 * (v - 128)) if v > 128 else v for v in range(256)])
        cool = grey.point([round(v + 0.28 * (128 - v)) if v < 128 else round(v - 0.12 * (v - 128)) for v in range(256)])
        return Image.merge("RGB", (warm, grey, cool))

    def lay(
        self,
        paint: Image.Image,
        mask: Image.Image,
        *,
        depth: float = 0.0,
        strength: float = 1.0,
        grain: bool = False,
        shadow: float = 0.0,
    ) -> None:
        """Put a painted sheet down through its mask.

        Args:
            paint: The colours, RGB.
            mask: Coverage of the layer, L.
            depth: Thickness of the layer for the shading, in half body lengths; 0 leaves it flat.
            strength: How strong the shading is.
            grain: Whether the texture of the plumage shows.
            shadow: Darkness of the shadow that the layer throws on the bird beneath it.
        """
        # As far as the shading and the shadow reach.
        pad = 3 + round((1.6 * depth + (0.3 if shadow else 0.0)) * self.unit)
        bounds = mask.getbbox()
        if bounds is None:
            return
        window = (
            max(0, bounds[0] - pad),
            max(0, bounds[1] - pad),
            min(self.size[0], bounds[2] + pad),
            min(self.size[1], bounds[3] + pad),
        )
        paint, cut = paint.crop(window), mask.crop(window).filter(_SOFT)
        if shadow:
            reach = 0.1 * self.unit
            cast = ImageChops.offset(cut, round(-self.light[0] * reach), round(-self.light[1] * reach))
            cast = cast.filter(ImageFilter.BoxBlur(reach * 0.9))
            cast = ImageChops.multiply(cast, self.mask.crop(window)).point([round(v * shadow) for v in range(256)])
            self.picture.paste((30, 26, 52), window, mask=cast)
        if grain:
            paint = ImageChops.soft_light(paint, Image.merge("RGB", (self.texture.crop(window),) * 3))
        if depth:
            paint = ImageChops.hard_light(paint, self.shade(cut, depth, strength))
        self.picture.paste(paint, window, mask=cut)
        self.mask.paste(ImageChops.lighter(self.mask.crop(window), cut), window)
        for name, pixel in self._pixels.items():
            if self.shown[name] and mask.getpixel(pixel) > 127:
                self.shown[name] = False

    def mark(self, points: dict[str, Points], names: Iterable[str]) -> None:
        """Record key-points of the newest layer; they show until a later layer covers them."""
        for name in names:
            x, y = (int(v) for v in self.placement(points[name]))
            inside = 0 <= x < self.size[0] and 0 <= y < self.size[1]
            self._pixels[name] = (x, y) if inside else (0, 0)
            self.shown[name] = inside and self.mask.getpixel((x, y)) > 127
