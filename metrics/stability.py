"""Stability of the parts that a prototype hits under noise (Huang et al., ICCV 2023; variants)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from bench.contract import (
    IMAGENET_STD,
    Aggregate,
    Explanation,
    Metric,
    NotApplicable,
    Observation,
    PrototypeTable,
    Samples,
    Score,
    Settings,
    share,
)
from bench.core.memory import to_device
from metrics.consistency import region_of, require_whole_images
from metrics.noise import NoiseAhead, gaussian_noise
from metrics.parts import HALF, PartHits, Units, arrays, class_hits, columns, part_hits
from metrics.peaks import CANVAS


class Stability(Metric):
    """Mean share of images whose part hits are all the same on a noisy copy, averaged over (prototype, class) pairs.

    The noise is added to the normalised image. Sigma is in units of an image normalised with ImageNet's deviations, as
    published: 0.2 are 11.7, 11.4 and 11.5 levels (of 0 to 255) of red, green and blue. Images of a backbone with other
    deviations get the same noise in pixels: in their units it is larger by the quotient of the deviations. An image in
    which neither region contains a visible part is stable. A unit without test images has no such share: it is left
    out, and ``n`` counts the units that have one. With several draws of noise the value is their mean, and the table
    ``draw`` has the value of each. Source: Huang et al., ICCV 2023; ``util/eval_interpretability.py`` of
    hqhQAQ/EvalProtoPNet (``v2``), ``util/eval_stability.py`` of its history (``v1``).

    Variants: ``v2`` clips the noise and compares part by part. ``v1`` does not clip, compares the numbers of parts that
    are hit, so that one part may replace another, and averages over images, then over classes. ``pixpnet``
    (merlresearch/PixPNet), on whole images, does not clip either, and has the peaks and hits of its consistency; its
    ``soft`` score is the mean of the hit parts' intersection over union, of prototypes that hit something in every
    image.

    Tables of the score: ``prototype`` (one row per unit with images; ``stable`` is its share), ``image`` (one row per
    image and prototype of its class; ``stable`` is 0 or 1, or the share of draws), ``draw`` and ``noise`` (sigma of
    each channel, in pixels from 0 to 255 and in units of the normalised image).
    """

    name = "stability"
    version = "1"
    needs = frozenset({"image", "label", "keypoints", "noise"})

    class Config(Settings):
        """Definition of the metric.

        Attributes:
            variant: published version.
            half_size: the region's half side in pixels.
            size: the canvas' side in pixels.
            sigma: standard deviation of the noise, in units of an image normalised with ImageNet's deviations.
            clip: its largest magnitude; ``None``: it is not clipped. By default as in the variant.
            draws: number of draws.
            seed: of the draws.
            pooled: score a shared prototype over all its classes together instead of in each of them.
        """

        variant: Literal["v2", "v1", "pixpnet"] = "v2"
        half_size: NonNegativeInt = HALF
        size: PositiveInt = CANVAS
        sigma: NonNegativeFloat = 0.2
        clip: NonNegativeFloat | None = 0.25
        draws: PositiveInt = 1
        seed: NonNegativeInt = 0
        pooled: bool = False

        @model_validator(mode="before")
        @classmethod
        def _clipped_as_published(cls, values: Any) -> Any:
            unclipped = isinstance(values, dict) and values.get("variant") in ("v1", "pixpnet")
            return {"clip": None, **values} if unclipped else values

        def model_post_init(self, context: Any, /) -> None:
            """Refuse pooling in version 1."""
            if self.pooled and self.variant == "v1":
                raise ValueError("version 1 averages over classes, so its prototypes cannot be pooled over them")

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        if config.variant == "v1":
            # The two averages of version 1: the images of a class count one by one, then classes alike.
            def weight(table: Mapping[str, Any]) -> Any:
                _, number = np.unique(table["class"], return_inverse=True)
                return table["images"] / np.bincount(number, table["images"])[number]

            value = share("prototype", "stable", "class", weight=weight)
        else:
            value = share("prototype", "stable", "prototype" if config.pooled else "class")
        return {
            "": value,
            "empty": share("image", "1 - hit", "class"),
            "where_hit": share("image", "stable", "class", weight="hit", higher_is_better=True),
            "soft": "which parts are shared is not in its table",
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        require_whole_images(samples, config.variant)
        self._region = region_of(config, samples)
        # Exactly 1 with ImageNet's deviations. Else the same noise in pixels, so that backbones remain comparable.
        self._unit = torch.tensor(IMAGENET_STD).view(3, 1, 1) / torch.tensor(samples.std).view(3, 1, 1)
        self._units = Units(prototypes.classes, config.pooled)
        device, shape = prototypes.classes.device, (len(self._units), config.draws)
        self._stable = torch.zeros(shape, dtype=torch.long, device=device)
        self._shared = torch.zeros(shape, dtype=torch.float64, device=device)
        self._images = torch.zeros(len(self._units), dtype=torch.long, device=device)
        self._rows: list[Tensor] = []

    def update(self, seen: Observation) -> None:
        """Compare one batch with noisy copies of it."""
        if not len(self._units):
            return
        clean = class_hits(seen, self._region)
        unit = self._units.rows(clean.prototype, clean.label)
        stable = torch.zeros(len(unit), dtype=torch.long, device=unit.device)
        for draw in range(self.config.draws):
            noisy = self._noisy(seen, draw, clean)
            if self.config.variant == "v1":
                # Version 1 tests the sum of signed differences, in which parts lost and gained cancel.
                same = noisy.hits.sum(1) == clean.hits.sum(1)
            else:
                same = (noisy.hits == clean.hits).all(1)
            self._stable[:, draw].index_add_(0, unit, same.long().to(unit.device))
            # 0/0 if neither hits anything: such a unit has no soft score, as published.
            shared = (noisy.hits & clean.hits).sum(1).double() / (noisy.hits | clean.hits).sum(1)
            self._shared[:, draw].index_add_(0, unit, shared.to(unit.device))
            stable += same.to(unit.device)
        self._images.index_add_(0, unit, torch.ones_like(unit))
        hit = clean.hits.any(1).long()
        row = (seen.index[clean.image], clean.prototype, clean.label, stable.to(clean.image.device), hit)
        self._rows.append(torch.stack(row, 1))

    def _noisy(self, seen: Observation, draw: int, clean: PartHits) -> PartHits:
        """Return peaks and hits on noisy copies of a batch, computed once for all metrics with the same settings."""
        noise = {name: getattr(self.config, name) for name in ("sigma", "clip", "seed")}
        key = (*noise.values(), draw)

        def explain() -> Explanation:
            images, shape = seen.images, tuple(seen.images.shape[1:])
            if images.is_cuda:
                draws = self.config.draws
                ahead = seen.throughout(
                    ("noise", draws, *noise.values()),
                    lambda: NoiseAhead(len(self.samples), shape, draws, pinned=True, **noise),
                )
                drawn = ahead.of(seen.positions, draw)
            else:
                drawn = gaussian_noise(seen.positions, shape, draw=draw, **noise)
            self._unit = to_device(self._unit, images.device)  # once
            drawn = to_device(drawn, images.device) * self._unit
            # After normalisation, and not clipped to the range of pixels, as in the official script.
            return seen.model.explain(images + drawn.to(images.dtype), seen.labels)

        return seen.once(
            ("noisy hits", self._region, key),
            lambda: part_hits(seen.once(("noisy", key), explain), seen, self._region, clean),
        )

    def compute(self) -> Score:
        """Return the percentage over all units that have images."""
        self._units.require()
        kept = self._images > 0
        if not kept.any():
            raise NotApplicable("no test image belongs to a class that has a prototype, so stability is not defined")
        images, stable = self._images[kept], self._stable[kept]
        rates = stable.double() / images[:, None]
        if self.config.variant == "v1":
            label, inverse = self._units.label[kept].unique(return_inverse=True)
            counts = torch.zeros(len(label), 1 + stable.shape[1], dtype=torch.long, device=stable.device)
            counts.index_add_(0, inverse, torch.cat((images[:, None], stable), 1))
            values = 100 * (counts[:, 1:].double() / counts[:, :1]).mean(0)
        else:
            # Units count alike, also those of classes with fewer images.
            values = 100 * rates.mean(0)
        also = {}
        if self.config.variant == "pixpnet":
            soft = (self._shared[kept] / images[:, None]).mean(1)
            if soft.isfinite().any():
                also["soft"] = 100 * float(soft.nanmean())
        prototype = {
            **{name: column[kept] for name, column in self._units.columns().items()},
            "stable": stable.sum(1).double() / (images * self.config.draws),
            "images": images,
        }
        image = columns(self._rows, ("index", "prototype", "class", "stable", "hit"), keys=2)
        image["stable"] = image["stable"] / self.config.draws
        # A region without a part counts as stable if its noisy copy has none either: positions off the object win.
        hit = image["hit"] == 1
        also["empty"] = 100 * float(1 - hit.mean())
        if hit.any():
            also["where_hit"] = 100 * float(image["stable"][hit].mean())
        return Score(
            value=float(values.mean()),
            n=len(images),
            items={
                "prototype": arrays(prototype),
                "image": image,
                "draw": {"draw": torch.arange(len(values)).numpy(), "value": values.cpu().numpy()},
                "noise": {
                    "channel": np.array(["red", "green", "blue"]),
                    "sigma_pixels": 255 * self.config.sigma * np.array(IMAGENET_STD),
                    "sigma_normalised": (self.config.sigma * self._unit).flatten().cpu().numpy(),
                },
            },
            also=also,
        )
