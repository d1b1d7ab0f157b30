"""Stability of the parts that prototypes hit under changes of colour, sharpness and compression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import Aggregate, Explanation, Observation, Settings, share
from bench.core.memory import to_device
from metrics.feature_sampling import chosen_rows
from metrics.masks import GREY, measurable, objects
from metrics.parts import HALF, Region, class_hits, part_hits
from metrics.peaks import CANVAS
from metrics.pixel_changes import STRENGTH, changed
from metrics.tables import ImageMetric

SIDES = ("inside", "outside")


def some_of(seen: Observation, rows: Tensor) -> Observation:
    """Return the images of a batch at ``rows (n,)``, on the CPU, as a batch of their own, with their maps."""
    at = to_device(rows, seen.images.device)
    masks = None if seen.masks is None else seen.masks[at]
    annotations = (seen.keypoints[at], seen.visible[at], seen.boxes[at])
    some = Observation(seen.model, seen.images[at], seen.labels[at], seen.index[at], *annotations, masks=masks)
    some.lasting = seen.lasting
    own = seen.own
    some.once("positions", lambda: seen.positions[rows])
    some.once("own", lambda: Explanation(own.logits[at], own.maps[at], own.scores[at],
                                         None if own.indices is None else own.indices[at]))  # fmt: skip
    return some


class Perturbation(ImageMetric):
    """Share of a class's prototypes that hit the same parts after a change of the pixels, mean over changes and images.

    Brightness, contrast and saturation at 0.3, 0.2 and 0.3 of theirs, hue turned by a fifth of the circle, a blur of 2
    pixels, JPEG of quality 20: each inside the object alone and outside it alone, the other pixels untouched. Hits are
    those of ``stability``. ``inside`` and ``outside``: means over the changes; ``KIND_inside``, ``KIND_outside``: each.
    On a number of evenly spread images. Nothing is drawn. The kinds and strengths but for JPEG are those of
    ``local_perturbation_analysis.py`` of aiser-team/cabrnet (after Nauta et al. 2020), which compares similarities, and
    changes the pixels of a patch; the object as region, and hits, are ours.

    Table of the score: ``image``.
    """

    name = "perturbation"
    version = "1"
    needs = frozenset({"image", "label", "keypoints", "mask"})
    empty = "no chosen image has prototypes of its class, and pixels of the object and others"
    requires = ("parts", "objects", "prototypes")
    changes_images = True

    class Config(Settings):
        """Definition of the metric.

        Attributes:
            kind: one change, or ``all`` six.
            strength: of that kind; ``None``: the default.
            images: largest number of test images, evenly spread.
            half_size: the region's half side in pixels.
            size: the canvas' side in pixels.
            grey: grey level of a mask above which a pixel is the object.
        """

        kind: Literal["all", "brightness", "contrast", "saturation", "hue", "blur", "jpeg"] = "all"
        strength: float | None = None
        images: PositiveInt = 64
        half_size: NonNegativeInt = HALF
        size: PositiveInt = CANVAS
        grey: NonNegativeInt = GREY

        def model_post_init(self, context: Any, /) -> None:
            """Refuse one strength for all kinds."""
            if self.kind == "all" and self.strength is not None:
                raise ValueError("a strength is that of one kind: set kind too")

        @property
        def kinds(self) -> tuple[str, ...]:
            """Names of the changes."""
            return tuple(STRENGTH) if self.kind == "all" else (self.kind,)

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        every = {f"{kind}_{side}": (f"{kind}_{side}",) for kind in config.kinds for side in SIDES}
        sides = {side: tuple(f"{kind}_{side}" for kind in config.kinds) for side in SIDES}
        named = {"": (*sides["inside"], *sides["outside"]), **sides, **every}
        return {
            name: share("image", _mean_of(columns), "index", higher_is_better=True) for name, columns in named.items()
        }

    def update(self, seen: Observation) -> None:
        """Compare some images of one batch with changed copies of them."""
        rows = chosen_rows(seen, self.samples, self.config.images)
        if not len(rows):
            return
        some, region = some_of(seen, rows), Region(self.config.half_size, self.config.size)
        clean, inside = class_hits(some, region), objects(some, self.config.grey)
        count = torch.zeros(len(rows), dtype=torch.float64, device=inside.device)
        count.index_add_(0, clean.image, torch.ones_like(clean.image, dtype=torch.float64))
        columns = {}
        for name, images in self._copies(some, inside):
            hits = part_hits(some.model.explain(images, some.labels), some, region, clean).hits
            # The rule of stability (Huang et al. 2023): all parts alike, also if neither region has one.
            same = (hits == clean.hits).all(1).double()
            columns[name] = torch.zeros_like(count).index_add_(0, clean.image, same) / count
        self._rows.add(measurable(inside) & (count > 0), index=some.index, label=some.labels, **columns)

    def _copies(self, some: Observation, inside: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the name of each change, and the images with it."""
        mean, std = (
            to_device(torch.tensor(values, dtype=some.images.dtype), some.images.device).view(3, 1, 1)
            for values in (self.samples.mean, self.samples.std)
        )
        # JPEG takes a dozen copies of its images, for which a CPU has the memory.
        count = len(some.images)
        parts = some.images.split(max(1, count // 8) if some.images.is_cuda else count)
        for kind in self.config.kinds:
            pixels = ((part * std + mean).clamp(0, 1) for part in parts)
            other = torch.cat([(changed(part, kind, self.config.strength) - mean) / std for part in pixels])
            for side, where in zip(SIDES, (inside, ~inside), strict=True):
                yield f"{kind}_{side}", torch.where(where[:, None], other, some.images)


def _mean_of(columns: tuple[str, ...]) -> Any:
    """Return the function of a table that averages columns, row by row."""
    return lambda table: sum(table[name] for name in columns) / len(columns)
