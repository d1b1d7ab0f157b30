"""Augmentation of training images by published policies: drawn on the CPU, applied to a whole batch on its device.

Points are ``(x, y)`` between the edges of the image, from -1 to 1, so that no draw depends on its size. A matrix
``(3, 3)`` maps, in homogeneous coordinates, a point of the augmented image to its source in the original image. The
policies were published for image files; here they act on the preprocessed, square image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from bench.core.colours import jitter
from bench.core.memory import to_device

CORNERS = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
# Random distortion: cells of the mesh along a side, and the largest displacement of its inner corners in pixels.
MESH, SHIFT = 10, 5


@dataclass(frozen=True)
class Augmentation:
    """One random draw for each of n images; called with a batch and its positions among the n.

    Attributes:
        flip: bool ``(n,)``: mirror left to right, after all other changes.
        matrices: float64 ``(n, 3, 3)``; ``None``: pixels move by ``flip`` alone.
        mesh: int8 ``(n, 2, 9, 9)``: displacement in pixels, x and y, of the inner corners of a mesh, or ``None``.
        colour: float32 ``(n, 4)``: factors of brightness, contrast and saturation, turns of hue, or ``None``.
    """

    flip: Tensor
    matrices: Tensor | None = None
    mesh: Tensor | None = None
    colour: Tensor | None = None

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Augment a batch.

        Pixels are interpolated with a bicubic kernel; points outside the image are black. If nothing but ``flip`` is
        drawn the result is exact.

        Args:
            images: ``(N, 3, H, W)`` from 0 to 1; may be overwritten.
            rows: ``(N,)`` on the CPU, the index of each image's draw among the n.
        """
        if self.matrices is not None:
            places = self._sources(*_pixel_places(images), rows, images.shape[-1]).movedim(1, -1)
            images = functional.grid_sample(images, places, "bicubic", "zeros", align_corners=False).clamp_(0, 1)
        if self.colour is not None:
            images = jitter(images, to_device(self.colour[rows], images.device))
        mirrored = to_device(self.flip[rows].nonzero()[:, 0], images.device)
        images[mirrored] = images[mirrored].flip(-1)
        return images

    def points(self, points: Tensor, rows: Tensor, size: int) -> Tensor:
        """Map points of the images to the augmented images, inside or outside.

        Args:
            points: float64 ``(N, P, 2)`` as ``(row, column)`` on pixel edges: 0 to ``size``. A pixel's index is half a
                pixel before its centre.
            rows: ``(N,)``, as in the call.
            size: side of the square images in pixels.
        """
        start = 2 * points.flip(-1) / size - 1
        places = start
        if self.matrices is not None:
            inverse = torch.linalg.inv(self.matrices[rows])
            # A displaced mesh has no inverse in closed form; it is a contraction, so fixed-point iteration converges.
            for _ in range(1 if self.mesh is None else 100):
                x, y = places.unbind(-1)
                drift = 0 if self.mesh is None else self._drift(x[:, :, None], y[:, :, None], rows, size)[..., 0].mT
                places = _project(inverse, start - drift)
        x, y = places.unbind(-1)
        x = torch.where(self.flip[rows, None], -x, x)
        return (torch.stack([y, x], -1) + 1) * size / 2

    def boxes(self, boxes: Tensor, rows: Tensor, size: int) -> Tensor:
        """Return the upright boxes around the mapped corners of ``boxes (N, 4)``: ``(top, left, bottom, right)``."""
        corners = self.points(boxes[:, [0, 1, 0, 3, 2, 3, 2, 1]].unflatten(1, (4, 2)), rows, size)
        return torch.cat([corners.amin(1), corners.amax(1)], 1)

    def _sources(self, x: Tensor, y: Tensor, rows: Tensor, size: int) -> Tensor:
        """Return the sources of the pixels at ``x (1, 1, W), y (1, H, 1)``, before mirroring: ``(N, 2, H, W)``."""
        assert self.matrices is not None
        m = to_device(self.matrices[rows].to(x.dtype), x.device)[:, :, :, None, None]
        # Written out: a matrix product may round otherwise in another batch, or to TF32.
        across, down, scale = (m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in range(3))
        # Beyond the horizon of a strong perspective there is nothing: far outside, so black.
        sources = torch.stack([across, down], 1) / scale[:, None].clamp(min=1e-6)
        return sources if self.mesh is None else sources + self._drift(*torch.broadcast_tensors(x, y), rows, size)

    def _drift(self, x: Tensor, y: Tensor, rows: Tensor, size: int) -> Tensor:
        """Return the mesh's displacement of points ``(N or 1, H, W)``: ``(N, 2, H, W)``, linear within its cells."""
        assert self.mesh is not None
        corners = functional.pad(to_device(self.mesh[rows].to(x.dtype), x.device) * (2 / size), (1, 1, 1, 1))
        places = torch.stack([x, y], -1).expand(len(rows), -1, -1, -1)
        return functional.grid_sample(corners, places, "bilinear", "border", align_corners=True)


def draw(policy: str, n: int, generator: Generator) -> Augmentation:
    """Draw a named policy for each of n images, independently of the batches that they are in later.

    The policy is a name in :data:`POLICIES`; the generator is on the CPU.
    """
    flip = torch.rand(n, generator=generator) < 0.5
    return POLICIES[policy](n, flip, generator)


def _protopnet(n: int, flip: Tensor, generator: Generator) -> Augmentation:
    """Draw exactly one of rotation, skew and shear, as in ten passes of Augmentor each (ProtoPNet)."""
    kinds = torch.stack([rotation(n, generator), skew(n, generator), shear(n, generator)])
    return Augmentation(flip, kinds[torch.randint(3, (n,), generator=generator), torch.arange(n)])


def _tesnet(n: int, flip: Tensor, generator: Generator) -> Augmentation:
    """Draw as for ProtoPNet, with random distortion as a fourth kind (TesNet)."""
    same = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    kinds = torch.stack([rotation(n, generator), skew(n, generator), shear(n, generator), same])
    chosen = torch.randint(4, (n,), generator=generator)
    mesh = torch.randint(-SHIFT, SHIFT + 1, (n, 2, MESH - 1, MESH - 1), generator=generator, dtype=torch.int8)
    return Augmentation(flip, kinds[chosen, torch.arange(n)], mesh * (chosen == 3).to(torch.int8)[:, None, None, None])


def _prototree_cars(n: int, flip: Tensor, generator: Generator) -> Augmentation:
    """Draw perspective, affine map and colours at 256 pixels, of which 224 are cut (ProtoTree, for Cars).

    The perspective comes before or after the affine map, at random; colours change after both.
    """
    inward = torch.rand(n, 4, 2, generator=generator, dtype=torch.float64) * 0.5
    inward *= (torch.rand(n, generator=generator) < 0.5)[:, None, None]
    perspective = homography(CORNERS * (1 - inward), CORNERS.expand(n, 4, 2))
    turned = affine(n, 15, 2, generator)
    before = (torch.rand(n, generator=generator) < 0.5)[:, None, None]
    part = 224 / 256
    cut = torch.diag(torch.tensor([part, part, 1.0], dtype=torch.float64)).repeat(n, 1, 1)
    cut[:, :2, 2] = _uniform((n, 2), 1 - part, generator)
    matrices = torch.where(before, perspective @ turned, turned @ perspective) @ cut
    factors = 1 + _uniform((n, 3), 0.4, generator)
    colour = torch.cat([factors, _uniform((n, 1), 0.4, generator)], 1).float()
    return Augmentation(flip, matrices, colour=colour)


# Policies by the names of a schedule's ``augment``; each also mirrors half of the images.
POLICIES: dict[str, Callable[[int, Tensor, Generator], Augmentation]] = {
    "flip": lambda n, flip, generator: Augmentation(flip),
    "protopnet2019": _protopnet,
    "tesnet2021": _tesnet,
    # Deformable ProtoPNet: a rotation of up to 25 degrees and a shear along x of up to 15.
    "deformable2022": lambda n, flip, generator: Augmentation(flip, affine(n, 25, 15, generator)),
    "prototree2021": _prototree_cars,
    # Appendix B of Tan et al. 2024, for Dogs: a part of the image is enlarged, with torchvision's defaults.
    "resized_crop": lambda n, flip, generator: Augmentation(flip, resized_crop(n, generator)),
}


def rotation(n: int, generator: Generator, degrees: float = 15) -> Tensor:
    """Draw rotations about the middle, of which Augmentor shows an inner rectangle, enlarged to the whole image.

    In a square of side 1 turned by an angle of tangent t, whose upright hull has side X, it leaves out
    E = X·t·(1 - t) on the left and right and t·(X - E) above and below.
    """
    angle = torch.deg2rad(_uniform((n,), degrees, generator))
    cos, sin, t = torch.cos(angle), torch.sin(angle), torch.tan(angle).abs()
    hull = cos + sin.abs()
    side = hull * t * (1 - t)
    wide, high = hull - 2 * side, hull - 2 * t * (hull - side)
    return _matrix([cos * wide, sin * high, 0, -sin * wide, cos * high, 0], n)


def shear(n: int, generator: Generator, degrees: float = 10) -> Tensor:
    """Draw shears along x or y, of which Augmentor shows the filled part, enlarged to the whole image."""
    tangent = torch.tan(torch.deg2rad(_uniform((n,), degrees, generator)))
    filled = 1 - tangent.abs()
    along_x = _matrix([filled, tangent, 0, 0, 1, 0], n)
    along_y = _matrix([1, 0, 0, tangent, filled, 0], n)
    return torch.where((torch.rand(n, generator=generator) < 0.5)[:, None, None], along_x, along_y)


def skew(n: int, generator: Generator, magnitude: float = 0.2) -> Tensor:
    """Draw perspective skews: corners move outward by up to ``magnitude`` of the side, so nothing is black.

    Augmentor's four types are equally likely: one of four tilts, one of the two to the left and right, one of the two
    forward and backward, one corner along one axis (of eight choices). A tilt moves both corners of a side.
    """
    moved = torch.zeros(12, 4, 2, dtype=torch.float64)
    for tilt, (corners, axis) in enumerate([((0, 3), 1), ((1, 2), 1), ((0, 1), 0), ((2, 3), 0)]):
        moved[tilt, list(corners), axis] = 1
    moved[4:] = torch.eye(8, dtype=torch.float64).view(8, 4, 2)
    likely = torch.tensor([3 / 16] * 4 + [1 / 32] * 8)
    chosen = torch.multinomial(likely, n, replacement=True, generator=generator)
    amount = 2 * magnitude * torch.rand(n, 1, 1, generator=generator, dtype=torch.float64)
    return homography(CORNERS * (1 + amount * moved[chosen]), CORNERS.expand(n, 4, 2))


def affine(n: int, degrees: float, sheared: float, generator: Generator) -> Tensor:
    """Draw maps that undo a shear along x followed by a rotation about the middle, as torchvision's RandomAffine."""
    angle = torch.deg2rad(_uniform((n,), degrees, generator))
    tangent = torch.tan(torch.deg2rad(_uniform((n,), sheared, generator)))
    cos, sin = torch.cos(angle), torch.sin(angle)
    return _matrix([cos - tangent * sin, sin + tangent * cos, 0, -sin, cos, 0], n)


def resized_crop(n: int, generator: Generator) -> Tensor:
    """Draw a rectangle inside the image to enlarge: the first of ten draws that fits, else the whole image.

    As torchvision's RandomResizedCrop: its area is uniform from 0.08 to 1, its width over its height log-uniform from
    3/4 to 4/3, its position uniform.
    """
    drawn = torch.rand(4, n, 10, generator=generator, dtype=torch.float64)
    area, shape = 0.08 + (1 - 0.08) * drawn[0], torch.exp(math.log(4 / 3) * (2 * drawn[1] - 1))
    sides = torch.stack([area * shape, area / shape]).sqrt()
    fits = (sides <= 1).all(0)
    first = fits.to(torch.uint8).argmax(1)
    some = torch.arange(n)
    (wide, high), position = torch.where(fits.any(1), sides[:, some, first], 1), drawn[2:, some, 0]
    across, down = (2 * position - 1) * (1 - torch.stack([wide, high]))
    return _matrix([wide, 0, across, 0, high, down], n)


def homography(source: Tensor, target: Tensor) -> Tensor:
    """Return the matrices ``(n, 3, 3)`` that map four points ``(n, 4, 2)`` each to four others; bottom right is 1."""
    (x, y), (u, v) = source.unbind(-1), target.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    first = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    second = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    entries = torch.linalg.solve(torch.cat([first, second], 1), torch.cat([u, v], 1))
    return torch.cat([entries, torch.ones_like(entries[:, :1])], 1).unflatten(1, (3, 3))


def _pixel_places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres of the pixels: x ``(1, 1, W)`` and y ``(1, H, 1)``."""
    height, width = images.shape[-2:]
    x, y = ((2 * torch.arange(side, device=images.device) + 1) / side - 1 for side in (width, height))
    return x[None, None], y[None, :, None]


def _project(matrices: Tensor, places: Tensor) -> Tensor:
    """Map points ``(N, P, 2)`` by matrices ``(N, 3, 3)``."""
    mapped = functional.pad(places, (0, 1), value=1) @ matrices.mT
    return mapped[..., :2] / mapped[..., 2:]


def _uniform(shape: tuple[int, ...], most: float, generator: Generator) -> Tensor:
    """Draw uniformly between ``-most`` and ``most``."""
    return most * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)


def _matrix(rows: list[Tensor | int], n: int) -> Tensor:
    """Build affine matrices ``(n, 3, 3)`` from their first two rows, entry by entry."""
    entries = [torch.as_tensor(entry, dtype=torch.float64).expand(n) for entry in [*rows, 0, 0, 1]]
    return torch.stack(entries, 1).unflatten(1, (3, 3))
