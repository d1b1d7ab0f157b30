"""Content-free controls: maps that do not depend on image content, as the chance level of every score.

They run like methods but classify nothing: accuracy does not apply to them (``predicts = False``). They are in this
package because the choice of the constant position needs the metric's hit rule, and methods may not import metrics.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from bench.contract import (
    CellError,
    Explanation,
    FitContext,
    Method,
    PartPrototypeModel,
    PrototypeTable,
    Samples,
    Settings,
)
from metrics.consistency import Consistency, consistent
from metrics.fixed_positions import fixed_hits, grid
from metrics.peaks import CANVAS

CELLS = 7
"""Side of the maps of random controls: the 7 x 7 of the published networks."""


class ControlModel(PartPrototypeModel):
    """Model without content: features are the images themselves, all logits and scores are zero.

    Args:
        classes: number of classes.
        per_class: prototypes of each class.
        place: (images, rows of the prototype table ``(N, K)``) -> maps ``(N, K, h, w)``.
    """

    def __init__(self, classes: int, per_class: int, place: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Identity()
        self.prototypes = PrototypeTable(torch.eye(classes, dtype=torch.bool).repeat_interleave(per_class, 0))
        self.place = place

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the maps of ``place``; nothing else depends on the images."""
        count, (prototypes, width) = len(features), self.prototypes.classes.shape
        indices = None if classes is None else self.prototypes.of(classes)
        rows = torch.arange(prototypes, device=features.device).expand(count, -1) if indices is None else indices
        scores = features.new_zeros(rows.shape)
        return Explanation(features.new_zeros(count, width), self.place(features, rows), scores, indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the sum of the maps of the class's prototypes."""
        return self.place(features, self.prototypes.of(classes)).sum(1)


class FixedPixel(nn.Module):
    """Maps that peak at one pixel of the canvas for every image and prototype.

    Args:
        pixel: row and column on the canvas.
    """

    pixel: Tensor

    def __init__(self, pixel: tuple[int, int] = (CANVAS // 2, CANVAS // 2)) -> None:
        super().__init__()
        self.register_buffer("pixel", torch.tensor(pixel))

    def forward(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return one hot pixel in a map of the canvas' size."""
        hot = torch.arange(CANVAS, device=images.device)[:, None] == self.pixel.to(images.device)
        single = hot[:, 0, None] & hot[None, :, 1]
        # All maps are views of one, so that they take the memory of one.
        return single.to(images.dtype).expand(*rows.shape, CANVAS, CANVAS)


class RandomCell(nn.Module):
    """Maps that peak in a random cell, drawn once per prototype or for every image.

    A draw is a hash of the seed, the prototype and (per image) the image's bits. So it is the same in any batch, and a
    noisy copy of an image gets an independent one.

    Args:
        per: unit of a draw.
        seed: of the draws.
    """

    seed: Tensor

    def __init__(self, per: Literal["image", "prototype"], seed: int) -> None:
        super().__init__()
        self.per = per
        self.register_buffer("seed", torch.tensor(seed))

    def forward(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return one hot cell in each map."""
        draw = mix(mix(self.seed.to(images.device)) + rows)
        # The bits of the image, not its position: a noisy copy must get another draw.
        if self.per == "image":
            draw = mix(draw + fingerprint(images)[:, None])
        # Not negative, so that the remainder is a cell; 2^62 is no multiple of 49, a bias of 1e-17.
        cell = (draw & (2**62 - 1)) % CELLS**2
        maps = images.new_zeros(*rows.shape, CELLS**2).scatter_(2, cell[:, :, None], 1)
        return maps.unflatten(2, (CELLS, CELLS))


def mix(values: Tensor) -> Tensor:
    """Scramble int64 values one by one (the splitmix64 generator: Steele, Lea and Flood, OOPSLA 2014).

    Example:
        >>> mix(torch.tensor([0])).tolist() == [0xE220A8397B1DCDAF - 2**64]
        True
    """
    # Sums and products of int64 wrap around, as they should; shifts copy the sign, which has to be masked away.
    values = values + (0x9E3779B97F4A7C15 - 2**64)
    values = (values ^ ((values >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    values = (values ^ ((values >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return values ^ ((values >> 31) & (2**33 - 1))


def fingerprint(images: Tensor) -> Tensor:
    """Hash the bits of each image ``(N, ...)``: int64 ``(N,)``, the same on every device and in every batch."""
    bits = images.float().contiguous().flatten(1).view(torch.int32).long()
    # Whole numbers modulo 2^64 add up to the same in any order. Each position has its own odd factor, so that images
    # which differ only in the order of their pixels have different sums.
    factors = mix(torch.arange(bits.shape[1], device=bits.device)) | 1
    return mix((bits * factors).sum(1))


def train_consistency(train: Samples, pixels: Tensor) -> Tensor:
    """Count the classes in which a prototype that always peaks at a pixel is consistent on a split.

    Args:
        train: the split; its annotations only.
        pixels: ``(G, 2)`` row and column on the canvas.

    Returns:
        int64 ``(G,)``.
    """
    rule = Consistency.Config()
    hit, visible = fixed_hits(train, pixels, rule.half_size, rule.size)
    return consistent(hit, visible[:, None], rule.threshold).sum(0)


class Constant(Method):
    """Same pixel in every image: the one of a grid with the best consistency on the training split."""

    name = "constant"
    needs_backbone = False
    predicts: ClassVar[bool] = False
    needs = frozenset({"keypoints"})

    class Config(Settings):
        """Step of the grid in pixels of the 224-pixel canvas."""

        grid: int = Field(default=16, ge=1, le=CANVAS)

    def build(self, task: FitContext) -> ControlModel:
        """Return a model that peaks in the centre until its pixel is loaded."""
        return ControlModel(task.train.classes, 1, FixedPixel()).to(task.device).eval()

    def fit(self, task: FitContext) -> ControlModel:
        """Choose the pixel; of equally good ones the lowest, then the rightmost."""
        if not len(task.train.parts):
            raise CellError("the constant control is chosen by part key-points, and this data set has none")
        pixels = grid(task.config.grid)
        counts = train_consistency(task.train, pixels)
        row, column = pixels[int((counts == counts.max()).nonzero()[-1])].tolist()
        task.facts["row"], task.facts["column"] = row, column
        task.facts["train_consistency"] = 100 * int(counts.max()) / task.train.classes
        return ControlModel(task.train.classes, 1, FixedPixel((row, column))).to(task.device).eval()


class Center(Method):
    """Middle of every image."""

    name = "center"
    needs_backbone = False
    predicts: ClassVar[bool] = False

    def build(self, task: FitContext) -> ControlModel:
        """Return the whole model."""
        return ControlModel(task.train.classes, 1, FixedPixel()).to(task.device).eval()

    def fit(self, task: FitContext) -> ControlModel:
        """Return the whole model: there is nothing to fit."""
        return self.build(task)


class Random(Method):
    """Random cell of a 7 x 7 map, for every image or fixed for each prototype."""

    name = "random"
    needs_backbone = False
    predicts: ClassVar[bool] = False

    class Config(Settings):
        """Unit of a draw, and the number of prototypes of each class."""

        per: Literal["image", "prototype"] = "image"
        per_class: PositiveInt = 10

    def build(self, task: FitContext) -> ControlModel:
        """Return the whole model."""
        place = RandomCell(task.config.per, task.seed)
        return ControlModel(task.train.classes, task.config.per_class, place).to(task.device).eval()

    def fit(self, task: FitContext) -> ControlModel:
        """Return the whole model: there is nothing to fit."""
        return self.build(task)
