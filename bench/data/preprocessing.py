"""Preprocessing of images and their annotations for the network, exact to the pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch.nn import functional

from bench.contract import CellError, InputConfig, Record, Settings
from bench.data.decoding import decode

Coordinates = Literal["truncated", "exact"]
Share = Annotated[float, Field(gt=0, le=1)]
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0)]

# Protocols by name: the scores' reference path, the same on whole images, and how ImageNet weights are tested.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "huang2023": {},
    "whole": {"crop": "full"},
    "torchvision": {"crop": "full", "resize": "resize-centre-crop", "coordinates": "exact"},
}


@dataclass(frozen=True)
class PreparedImage:
    """Preprocessed image with its annotations in pixels of that image.

    Attributes:
        image: uint8 ``(3, size, size)``, RGB.
        keypoints: float64 ``(parts, 2)`` as ``(row, column)``; zeros for a part that is not visible.
        visible: bool ``(parts,)``.
        box: float64 ``(4,)`` as ``(top, left, bottom, right)``, pixel edges; NaN if the record has none.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    box: NDArray[np.float64]


class Preprocessing(Settings):
    """Protocol of an image: crop and size, and the matching change of its coordinates.

    The defaults are the data path of the consistency and stability scores (Huang et al. 2023): RGB, cut to the box,
    squashed to a square with PIL's antialiased bilinear filter, coordinates truncated to integers before and after
    scaling. One step of theirs is left out: they store the crops as JPEG again. As in theirs, a camera's orientation
    tag is ignored, since the annotations are in pixels as stored.

    Attributes:
        crop: ``bbox`` crops to the record's box, its numbers truncated to integers; ``full`` keeps the whole image.
        size: side of the square result in pixels.
        coordinates: ``truncated`` as published: pixel indices, truncated before and after scaling; ``exact``:
            real numbers on pixel edges, from 0 to ``size``, scaled without any rounding.
        resize: ``squash`` gives up the aspect ratio; ``resize-centre-crop`` brings the shorter side to ``size`` divided
            by ``crop_share`` (256 for 224) and cuts the middle, as torchvision and timm do.
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: whether the filter widens when the image shrinks, as PIL's does.
        order: order of product and division in the scaling of a truncated key-point: ``ratio`` divides first, as the
            official code does, and loses a pixel at a few positions at which the product is whole; ``product``, the
            default and the order of all earlier results, does not.
        outside: whether a key-point outside the preprocessed image counts as visible: ``kept``, as published, or
            ``hidden``, the default of a centre crop.
        mean, std: of each RGB channel of pixels in [0, 1], by which images are normalised.
        crop_share: share of the shorter side that a centre crop keeps.

    A data set says how its images are cut; ``mean``, ``std``, ``interpolation``, ``crop_share`` and ``size`` are those
    of the backbone's weights where nothing sets them (:meth:`for_weights`).
    """

    crop: Literal["bbox", "full"] = "bbox"
    size: PositiveInt = 224
    coordinates: Coordinates = "truncated"
    resize: Literal["squash", "resize-centre-crop"] = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    order: Literal["ratio", "product"] = "product"
    outside: Literal["kept", "hidden"] = "kept"
    mean: tuple[Mean, Mean, Mean] = InputConfig.mean
    std: tuple[Deviation, Deviation, Deviation] = InputConfig.std
    crop_share: Share = InputConfig.crop_share

    @model_validator(mode="before")
    @classmethod
    def _depending_defaults(cls, given: Any) -> Any:
        """Hide key-points outside a centre crop by default: no network sees them."""
        if not isinstance(given, Mapping):
            return given
        # A key-point outside its box is still one of the bird, so other crops keep it.
        outside = "hidden" if given.get("resize", "squash") != "squash" else "kept"
        return {"outside": outside, **given}

    @model_serializer(mode="wrap")
    def _identity(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out settings that are newer than stored results while they have their defaults: results keep ids."""
        late: dict[str, Any] = {"resize": "squash", "interpolation": "bilinear", "antialias": True, "order": "product"}
        late |= {"mean": InputConfig.mean, "std": InputConfig.std, "crop_share": InputConfig.crop_share}
        if self.resize == "squash":
            late |= {"outside": "kept", "crop_share": self.crop_share}  # nothing is cut, so the share changes nothing
        return {
            name: value
            for name, value in handler(self).items()
            if name not in late or getattr(self, name) != late[name]
        }

    def for_weights(self, config: InputConfig) -> Preprocessing:
        """Return the protocol with the preprocessing of a network's weights in all fields that nobody has set.

        Example:
            >>> Preprocessing(size=448).for_weights(InputConfig(std=(0.5, 0.5, 0.5), size=512)).name
            'bbox-448-truncated-std_0.5_0.5_0.5'
        """
        return self.model_validate(asdict(config) | {name: getattr(self, name) for name in self.model_fields_set})

    def with_colours_of(self, other: Preprocessing) -> Preprocessing:
        """Return the protocol with another's interpolation, mean and deviation, which change no coordinate."""
        return self.model_copy(update={name: getattr(other, name) for name in ("interpolation", "mean", "std")})

    @property
    def name(self) -> str:
        """Return a name such as ``bbox-224-truncated``, which changes with every field that changes what models see."""
        others = [
            f"mean_{_joined(self.mean)}" if self.mean != InputConfig.mean else "",
            f"std_{_joined(self.std)}" if self.std != InputConfig.std else "",
        ]
        return "-".join([self.pixels_name, *filter(None, others)])

    @property
    def pixels_name(self) -> str:
        """Return the name without mean and deviation: a part of the names of caches of pixels before normalisation."""
        cut = self.resize != "squash"
        others = [
            "centre" if cut else "",
            f"crop_{self.crop_share}" if cut and self.crop_share != InputConfig.crop_share else "",
            self.interpolation if self.interpolation != "bilinear" else "",
            "" if self.antialias else "aliased",
            self.order if self.order != "product" else "",
            self.outside if (self.outside == "hidden") != cut else "",
        ]
        return "-".join([self.crop, str(self.size), self.coordinates, *filter(None, others)])

    def apply(self, record: Record) -> PreparedImage:
        """Decode, crop and resize one image, and map its key-points and box.

        Raises:
            CellError: naming the file, if it cannot be decoded whole or its box holds no pixel.
        """
        image = decode(record.path)
        pixels = self._resized(self._cut(record, image))
        keypoints, visible, box = self.place(record, *image.size)
        return PreparedImage(pixels.transpose(2, 0, 1), keypoints, visible, box)

    def mask(self, record: Record) -> NDArray[np.uint8]:
        """Return the grey levels of a record's mask in the preprocessed image, each of the nearest pixel.

        Raises:
            CellError: naming the mask, if it cannot be decoded or its size is not that of the image.
        """
        assert record.mask is not None
        mask, size = decode(record.mask), decode(record.path).size
        if mask.size != size:
            raise CellError(
                f"{record.mask}: {mask.size[0]} by {mask.size[1]} pixels, its image has {size[0]} by {size[1]}"
            )
        mask = self._cut(record, mask)
        scaled, (left, top) = self._scaled(*mask.size)
        # Levels are shares of annotators: between two of them there is nothing to interpolate.
        grey = np.asarray(mask.resize(scaled, Image.Resampling.NEAREST))[..., 0]
        return grey[top : top + self.size, left : left + self.size]

    def _cut(self, record: Record, image: Image.Image) -> Image.Image:
        x1, y1, x2, y2 = self.region(record, *image.size)
        # The cut ends at the image's edge, as an array slice would, independent of the scale in `place`.
        cut = (max(x1, 0), max(y1, 0), min(x2, image.width), min(y2, image.height))
        if cut[0] >= cut[2] or cut[1] >= cut[3]:
            raise CellError(f"{record.path}: its box {record.box} is outside the image; correct the box")
        return image.crop(cut)

    def _resized(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return pixels ``(size, size, 3)``."""
        (width, height), (left, top) = self._scaled(*image.size)
        if self.antialias:
            kind = Image.Resampling.BILINEAR if self.interpolation == "bilinear" else Image.Resampling.BICUBIC
            pixels = np.asarray(image.resize((width, height), kind))
        else:
            planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
            planes = functional.interpolate(planes, (height, width), mode=self.interpolation, align_corners=False)
            pixels = planes[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return pixels[top : top + self.size, left : left + self.size]

    def _scaled(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return width and height of the resized region, and the pixels that are then cut at its left and top."""
        if self.resize == "squash":
            return (self.size, self.size), (0, 0)
        # The default share keeps the rounding of earlier results. Others come from timm's configurations, and timm
        # truncates; the sum guards quotients such as 224 / (224 / 232), which may end just below a whole number.
        usual = self.crop_share == InputConfig.crop_share
        short = round(self.size / self.crop_share) if usual else int(self.size / self.crop_share + 1e-9)
        # Truncated and rounded as in torchvision's Resize and CenterCrop.
        wide, high = (max(short, int(short * side / min(width, height))) for side in (width, height))
        return (wide, high), (round((wide - self.size) / 2), round((high - self.size) / 2))

    def region(self, record: Record, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the region ``(x1, y1, x2, y2)`` to which an image is cropped and by which key-points are scaled.

        Raises:
            CellError: if the record has no box, or one without area once truncated to integers.
        """
        if self.crop == "full":
            return 0, 0, width, height
        if record.box is None:
            raise CellError(f"{record.path}: has no box to crop to; use crop=full")
        x, y, w, h = (int(value) for value in record.box)
        if w <= 0 or h <= 0:
            raise CellError(f"{record.path}: its box {record.box} holds no pixel; correct the box or use crop=full")
        if self.coordinates == "truncated" and self.resize == "squash":
            # As published (Huang et al. 2023), key-points are scaled by the whole box, even if it leaves the image.
            return x, y, x + w, y + h
        return max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)

    def place(
        self, record: Record, width: int, height: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        """Return key-points ``(parts, 2)``, visibility ``(parts,)`` and box ``(4,)`` in the preprocessed image.

        They are not clipped: a key-point outside the crop gets coordinates outside the image and, with ``hidden``, is
        not visible. ``width`` and ``height`` are those of the stored image in pixels.
        """
        x1, y1, x2, y2 = self.region(record, width, height)
        (wide, high), (left_cut, top_cut) = self._scaled(x2 - x1, y2 - y1)

        def scale(x: float, y: float) -> tuple[float, float]:
            return high * (y - y1) / (y2 - y1), wide * (x - x1) / (x2 - x1)

        def truncate(x: int, y: int) -> tuple[int, int]:
            # Huang et al. 2023, util/eval_interpretability.py: ratio = loc / (x2 - x1), then int(img_size * ratio).
            if self.order == "ratio":
                return int(high * ((y - y1) / (y2 - y1))), int(wide * ((x - x1) / (x2 - x1)))
            row, column = scale(x, y)
            return int(row), int(column)

        truncated = self.coordinates == "truncated"
        keypoints = np.zeros((len(record.keypoints), 2))
        visible = np.array([seen for _, _, seen in record.keypoints], dtype=bool)
        for part, (x, y, seen) in enumerate(record.keypoints):
            if seen:
                keypoints[part] = truncate(int(x), int(y)) if truncated else scale(x, y)
        keypoints[visible] -= (top_cut, left_cut)
        if self.outside == "hidden":
            visible &= ((keypoints >= 0) & (keypoints < self.size)).all(1)
            keypoints[~visible] = 0
        if record.box is None:
            return keypoints, visible, np.full(4, np.nan)
        left, top, w, h = (float(int(value)) if truncated else value for value in record.box)
        box = np.array([*scale(left, top), *scale(left + w, top + h)])
        return keypoints, visible, box - (top_cut, left_cut, top_cut, left_cut)


def _joined(channels: tuple[float, ...]) -> str:
    return "_".join(map(str, channels))
