"""Do the parts that a prototype hits survive a little noise? (Huang et al., ICCV 2023; official version 2.)"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.contract import CellError, Metric, Observation, PrototypeTable, Samples, Score, Settings
from metrics.noise import gaussian_noise
from metrics.parts import CANVAS, HALF, Pairs, PartHits, columns, own_hits, part_hits


class Stability(Metric):
    """Mean share of images whose part hits are all the same on a noisy copy, averaged over (prototype, class) pairs.

    The noise is added to the normalised image. An image where neither region holds a visible part is stable. A pair
    whose class has no test image has no such share: it is left out, and ``n`` counts the pairs that have one. With
    several draws of noise the value is their mean, and the table ``draw`` has the value of each. Source: metrics.md,
    sections 2.4 and 4 (option A).

    Tables of the score: ``prototype`` (one row per pair with images; ``stable`` is its share), ``image`` (one row per
    image and prototype of its class; ``stable`` is 0 or 1, or the share of draws) and ``draw``.
    """

    name = "stability"
    version = "v2"
    needs = frozenset({"image", "label", "keypoints", "noise"})

    class Config(Settings):
        """The region (pixels), the noise (units of the normalised image), how often it is drawn, and its seed."""

        half_size: int = HALF
        size: int = CANVAS
        sigma: float = 0.2
        clip: float = 0.25
        draws: int = 1
        seed: int = 0

        def model_post_init(self, context: Any, /) -> None:
            """Refuse what has no meaning."""
            if self.half_size < 0 or self.size < 1 or self.draws < 1:
                raise ValueError("half_size is 0 or more, size and draws are 1 or more")
            if min(self.sigma, self.clip, self.seed) < 0:
                raise ValueError("sigma, clip and seed are 0 or more")

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._pairs = Pairs(prototypes.classes)
        device = prototypes.classes.device
        self._stable = torch.zeros(len(self._pairs), config.draws, dtype=torch.long, device=device)
        self._images = torch.zeros(len(self._pairs), dtype=torch.long, device=device)
        self._rows: list[Tensor] = []

    def update(self, seen: Observation) -> None:
        """Compare one batch with noisy copies of it."""
        if not len(self._pairs):
            return
        clean = own_hits(seen, self.config.half_size, self.config.size)
        same = torch.stack([self._same(seen, clean, draw) for draw in range(self.config.draws)], 1).long()
        pair = self._pairs.rows(clean.prototype, clean.label)
        self._stable.index_add_(0, pair, same.to(pair.device))
        self._images.index_add_(0, pair, torch.ones_like(pair))
        where = (seen.index[clean.image], clean.prototype, clean.label, same.sum(1))
        self._rows.append(torch.stack(where, 1))

    def _same(self, seen: Observation, clean: PartHits, draw: int) -> Tensor:
        """Whether all parts of each clean row are hit or missed alike on a noisy copy: bool ``(U,)``."""
        noise = gaussian_noise(
            seen.index,
            tuple(seen.images.shape[1:]),
            sigma=self.config.sigma,
            clip=self.config.clip,
            seed=self.config.seed,
            draw=draw,
        )
        shown = seen.model.explain(seen.images + noise.to(seen.images), seen.labels)
        noisy = part_hits(shown, seen, self.config.half_size, self.config.size)
        if not torch.equal(noisy.prototype, clean.prototype):
            raise CellError("the model shows other prototypes for a noisy copy of an image, so hits cannot be compared")
        return (noisy.hits == clean.hits).all(1)

    def compute(self) -> Score:
        """The percentage over all pairs that have images."""
        self._pairs.require()
        kept = self._images > 0
        if not kept.any():
            raise CellError("no test image belongs to a class that has a prototype, so stability is not defined")
        images, stable = self._images[kept], self._stable[kept]
        values = 100 * (stable.double() / images[:, None]).mean(0)
        prototype = {
            "prototype": self._pairs.prototype[kept],
            "class": self._pairs.label[kept],
            "stable": stable.sum(1).double() / (images * self.config.draws),
            "images": images,
        }
        image = columns(self._rows, ("index", "prototype", "class", "stable"), keys=2)
        image["stable"] = image["stable"] / self.config.draws
        return Score(
            value=float(values.mean()),
            n=len(images),
            items={
                "prototype": {name: column.cpu().numpy() for name, column in prototype.items()},
                "image": image,
                "draw": {"draw": torch.arange(len(values)).numpy(), "value": values.cpu().numpy()},
            },
        )
