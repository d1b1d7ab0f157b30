"""Plumage of a posed bird, painted on a canvas part by part in the variants of its species."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bench.data.synthetic.bird import HEAD, Bird
from bench.data.synthetic.canvas import Canvas, Colour, mix
from bench.data.synthetic.geometry import Feather, Frame, Points, bend, direction, smooth
from bench.data.synthetic.species import COLOURS

_INK: Colour = (34, 30, 40)
_PAPER: Colour = (255, 252, 244)


class Plumage:
    """Paints of one individual: the colours of its species, each a little off."""

    def __init__(self, bird: Bird, canvas: Canvas, rng: np.random.Generator) -> None:
        self.bird, self.canvas, self.rng = bird, canvas, rng
        shift = rng.normal(0, 5, size=(len(COLOURS), 3)) + rng.normal(0, 4, size=(1, 3))
        names = zip(COLOURS.items(), shift, strict=True)
        self.colours: dict[str, Colour] = {
            name: tuple(int(v) for v in np.clip(np.add(colour, move), 8, 255).round())  # type: ignore[misc]
            for (name, colour), move in names
        }

    def paint(self) -> None:
        """Paint all layers, the hindmost first, and mark the key-points."""
        bird, canvas = self.bird, self.canvas
        if bird.far_wing:
            self._wing(bird.far_wing, bird.arms[1], shade=0.26)
            canvas.mark(bird.points, ["far wing"])
        self._tail()
        canvas.mark(bird.points, ["tail"])
        for name, lines, shade in (("far leg", bird.far_leg, 0.25), ("near leg", bird.near_leg, 0.0)):
            if lines:
                self._leg(lines, shade)
                canvas.mark(bird.points, [name])
        self._crest()
        head_mask = self._torso()
        canvas.mark(bird.points, ["back", "belly", "breast", "crown", "forehead", "throat", "nape"])
        self._wing(bird.near_wing, bird.arms[0] if bird.arms else None, keep_off=head_mask)
        canvas.mark(bird.points, ["near wing"])
        self._beak()
        canvas.mark(bird.points, ["beak"])
        self._eye()
        canvas.mark(bird.points, ["near eye"])

    def _torso(self) -> Image.Image:
        """Paint body, neck and head as one soft form and return the mask of the head alone."""
        bird, canvas, species, colours = self.bird, self.canvas, self.bird.species, self.colours
        body, head = bird.body, bird.head
        mask, head_mask = canvas.stencil(), canvas.stencil()
        canvas.polygon(mask, bird.torso, 255)
        for x, y, radius in bird.neck:
            canvas.disc(mask, (x, y), radius, 255)
        canvas.disc(head_mask, bird.head.origin, HEAD, 255)
        mask = canvas.round_off(mask, 0.1)

        upper = colours[species.upper]
        paint = canvas.sheet(upper)
        saddle = [(0.6, -0.7), (-0.2, -0.8), (-1.2, -0.35), (-1.2, -0.1), (-0.2, -0.25), (0.5, -0.3)]
        canvas.polygon(paint, body.at(smooth(saddle)), mix(upper, _INK, 0.16))
        belly = [(-1.15, 0.1), (-0.55, 0.14), (0.1, 0.12), (0.6, 0.1), (0.9, 0.8), (0.0, 1.1), (-1.1, 0.7)]
        canvas.polygon(paint, body.at(smooth(belly)), colours[species.belly])
        # The breast runs up the front of the neck to the throat.
        breast = body.at(
            smooth([(0.34, 0.2), (0.5, -0.12), (0.85, -0.4), (1.3, 0.0), (1.1, 0.7), (0.62, 0.8), (0.4, 0.55)])
        )
        canvas.polygon(paint, breast, colours[species.breast])
        front, chin = body.at((0.86, -0.08)), head.at((0.2, 0.3))
        canvas.line(paint, np.stack([front, chin]), colours[species.breast], 0.42)
        crown = colours[species.crown]
        cap = [(0.62, -0.1), (0.3, -0.19), (-0.1, -0.2), (-0.46, -0.1), (-0.72, -0.3), (-0.3, -0.8), (0.4, -0.72)]
        canvas.polygon(paint, head.at(smooth(cap)), crown)
        paint = paint.filter(ImageFilter.BoxBlur(0.05 * canvas.unit))
        self._marks(paint)
        # After the marks of the breast, which would reach the chin of a bird that draws its head in.
        throat = [(0.5, 0.12), (0.2, 0.16), (0.0, 0.3), (0.02, 0.62), (0.3, 0.78), (0.6, 0.5)]
        canvas.polygon(paint, head.at(smooth(throat)), colours[species.throat])
        if species.mask:
            stripe = [
                (0.5, 0.0),
                (0.2, -0.18),
                (-0.1, -0.17),
                (-0.52, -0.02),
                (-0.5, 0.1),
                (-0.1, 0.07),
                (0.2, 0.1),
                (0.5, 0.12),
            ]
            canvas.polygon(paint, head.at(smooth(stripe)), colours["black"])
        canvas.lay(paint, mask, depth=0.3, strength=0.95, grain=True)
        return head_mask

    def _marks(self, paint: Image.Image) -> None:
        """Paint the pattern of the breast."""
        canvas, body, colours, marks = self.canvas, self.bird.body, self.colours, self.bird.species.marks
        dark = mix(colours["umber"], _INK, 0.66)
        if marks == "band":
            band = np.concatenate(
                [bend((0.5, 0.66), (0.6, 0.2), (1.02, -0.16)), bend((1.2, 0.02), (0.84, 0.3), (0.74, 0.72))]
            )
            canvas.polygon(paint, body.at(band), colours["black"])
            return
        if marks == "plain":
            return
        # Rows across the breast and on to the belly, staggered as feathers are.
        for row, along in enumerate(np.arange(0.98, -0.08, -0.16)):
            for across in np.arange(-0.28, 0.7, 0.17):
                jitter = self.rng.normal(0, 0.014, 2)
                centre = np.array([along, across + (row % 2) * 0.085]) + jitter
                if centre[1] < 0.02 + 0.3 * (1.0 - along) - (0.2 if along > 0.6 else 0.0):
                    continue
                if marks == "spots":
                    canvas.disc(paint, body.at(centre), 0.052, dark)
                else:
                    streak = np.stack([centre + np.array([0.05, -0.02]), centre - np.array([0.05, -0.02])])
                    canvas.line(paint, body.at(streak), dark, 0.048)

    def _feather(self, paint: Image.Image, mask: Image.Image, feather: Feather, colour: Colour, rim: Colour) -> None:
        """Paint one feather with its rim and shaft."""
        canvas = self.canvas
        blade = feather.blade()
        canvas.polygon(mask, blade, 255)
        canvas.polygon(paint, blade, rim)
        canvas.polygon(paint, feather.blade(shrink=0.8), colour)
        shaft = np.stack([feather.point(0.1), feather.point(0.9)])
        canvas.line(paint, shaft, mix(colour, _INK, 0.22), 0.016)

    def _wing(
        self, rows: list[list[Feather]], arm: Points | None, *, shade: float = 0.0, keep_off: Image.Image | None = None
    ) -> None:
        """Paint one wing: hand, arm, coverts and shoulder, each row over the one before."""
        canvas, species = self.canvas, self.bird.species
        upper, accent = self.colours[species.upper], self.colours[species.accent]
        paint, mask = canvas.sheet(mix(upper, _INK, shade)), canvas.stencil()

        def dim(colour: Colour) -> Colour:
            return mix(colour, _INK, shade)

        tones = [mix(upper, _INK, share) for share in (0.56, 0.42, 0.28, 0.2)]
        if arm is not None:
            canvas.line(mask, arm, 255, 0.22)
        for level, (row, tone) in enumerate(zip(rows, tones, strict=True)):
            for number, feather in enumerate(row):
                colour = mix(tone, _PAPER, 0.05 * (number % 2))
                rim = mix(tone, _INK, 0.42)
                if species.wing == "scales" and level > 0:
                    rim = accent
                self._feather(paint, mask, feather, dim(colour), dim(rim))
                if species.wing == "patch" and level == 1:
                    canvas.polygon(paint, feather.blade(start=0.52, shrink=0.92), dim(accent))
                elif species.wing == "bars" and level in (2, 3):
                    canvas.polygon(paint, feather.blade(start=0.66), dim(accent))
                elif species.wing == "spots" and level in (1, 2):
                    for share in (0.6, 0.86) if level == 1 else (0.78,):
                        canvas.disc(paint, feather.point(share), 0.062, dim(accent))
        if keep_off is not None and arm is None:
            mask = ImageChops.subtract(mask, keep_off)
        canvas.lay(paint, mask, depth=0.16, strength=0.6, shadow=0.0 if shade else 0.5)

    def _tail(self) -> None:
        """Paint the tail with its tip."""
        canvas, species = self.canvas, self.bird.species
        tone = mix(self.colours[species.upper], _INK, 0.36)
        paint, mask = canvas.sheet(tone), canvas.stencil()
        for number, feather in enumerate(self.bird.tail):
            self._feather(paint, mask, feather, mix(tone, _PAPER, 0.07 * (number % 2)), mix(tone, _INK, 0.4))
            if species.tip is not None:
                canvas.polygon(paint, feather.blade(start=0.72), self.colours[species.tip])
        canvas.lay(paint, mask, depth=0.14, strength=0.5)

    def _crest(self) -> None:
        """Paint the feathers that stand off the crown, behind the head."""
        canvas, species, crest = self.canvas, self.bird.species, self.bird.crest
        if not crest:
            return
        crown = self.colours[species.crown]
        paint, mask = canvas.sheet(crown), canvas.stencil()
        for feather in crest:
            self._feather(paint, mask, feather, crown, mix(crown, _INK, 0.3))
            if species.crest == "tuft":
                for image, fill in ((mask, 255), (paint, crown)):
                    canvas.disc(image, feather.point(0.98), 0.13, fill)
        canvas.lay(paint, mask, depth=0.12, strength=0.6)

    def _leg(self, lines: list[Points], shade: float) -> None:
        """Paint one leg with its toes."""
        canvas = self.canvas
        colour = mix(self.colours[self.bird.species.legs], _INK, shade)
        paint, mask = canvas.sheet(colour), canvas.stencil()
        leg, *toes = lines
        canvas.line(mask, leg, 255, 0.1)
        for toe in toes:
            canvas.line(mask, toe, 255, 0.08)
        canvas.lay(paint, mask, depth=0.05, strength=0.5)

    def _beak(self) -> None:
        """Paint both halves of the beak and the nostril."""
        canvas, bird = self.canvas, self.bird
        colour = self.colours[bird.species.beak_colour]
        upper, lower = bird.beak
        paint, mask = canvas.sheet(colour), canvas.stencil()
        for half, tone in ((lower, mix(colour, _INK, 0.3)), (upper, colour)):
            canvas.polygon(mask, half, 255)
            canvas.polygon(paint, half, tone)
        ridge = np.stack([upper[0], upper[1]]) * 0.75 + np.mean(upper, axis=0) * 0.25
        canvas.line(paint, ridge, mix(colour, _PAPER, 0.4), 0.04)
        canvas.disc(paint, bird.head.at((0.54, -0.03)), 0.026, mix(colour, _INK, 0.65))
        canvas.lay(paint, mask, depth=0.07, strength=0.55)

    def _eye(self) -> None:
        """Paint ring, iris, pupil and the sparkle that makes the bird alive."""
        canvas, head, species = self.canvas, self.bird.head, self.bird.species
        centre = head.at((0.17, -0.08))
        paint, mask = canvas.sheet(_INK), canvas.stencil()
        ring = None if species.ring is None else self.colours[species.ring]
        canvas.disc(mask, centre, 0.12 if ring is None else 0.165, 255)
        if ring is not None:
            canvas.disc(paint, centre, 0.2, ring)
        canvas.disc(paint, centre, 0.112, (26, 20, 24))
        low = Frame((float(centre[0]), float(centre[1])))
        canvas.disc(paint, low.at((0.0, 0.03)), 0.07, (74, 48, 38))
        canvas.disc(paint, low.at((0.0, 0.0)), 0.068, (20, 16, 20))
        # The sparkle follows the light of the picture, not the head, so it is placed in pixels.
        (x, y), r = canvas.placement(centre), 0.042 * canvas.unit
        x, y = x + canvas.light[0] * r * 1.1, y + canvas.light[1] * r * 1.1
        ImageDraw.Draw(paint).ellipse((x - r, y - r, x + r, y + r), fill=_PAPER)
        canvas.lay(paint, mask)


def grain(size: tuple[int, int], angle: float, unit: float, rng: np.random.Generator) -> Image.Image:
    """Return the texture of down: short strokes along `angle` degrees (L, mean about 128).

    Args:
        size: Width and height in pixels.
        angle: Direction of the strokes in the picture.
        unit: Pixels of half a body length; strokes are about a tenth of it long.
        rng: Source of the strokes.
    """
    noise = Image.fromarray(np.clip(rng.normal(128, 64, (96, 96)), 0, 255).astype(np.uint8))
    along, across = direction(angle), direction(angle + 90)
    length, width = 0.15 * unit, 0.035 * unit
    # Output pixel -> cell of the noise; wide pictures run past the noise, so centre it.
    matrix = (along[0] / length, along[1] / length, 0.0, across[0] / width, across[1] / width, 0.0)
    x, y = size[0] / 2, size[1] / 2
    shift = (48 - matrix[0] * x - matrix[1] * y, 48 - matrix[3] * x - matrix[4] * y)
    coefficients = (matrix[0], matrix[1], shift[0], matrix[3], matrix[4], shift[1])
    return noise.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=128)
