"""Spatial misalignment of prototypes under attacks on distant pixels (Sacha et al., AAAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from bench.contract import Aggregate, NotApplicable, Observation, PartPrototypeModel, PrototypeTable, Samples, Settings
from bench.core.memory import to_device
from metrics.feature_sampling import chosen_rows
from metrics.parts import class_maps, require_prototypes
from metrics.peaks import matrix_on
from metrics.tables import ImageMetric


def highest(maps: Tensor, side: int, share: float) -> Tensor:
    """Find the highest pixels of upsampled maps, and all that equal the last of them.

    Args:
        maps: ``(n, h, w)``.
        side: side of the image in pixels.
        share: share of the pixels.

    Returns:
        bool ``(n, side, side)``.
    """
    down, across = (matrix_on(maps.device, cells, side) for cells in maps.shape[1:])
    pixels = (down @ maps.double() @ across.T).flatten(1)
    count = max(1, round(share * side * side))
    # Rounding must not separate equal pixels, least of all those of a constant map.
    limit = pixels.topk(count, dim=1).values[:, -1:] - 1e-12 * pixels.abs().amax(1, keepdim=True)
    return (pixels >= limit).unflatten(1, (side, side))


def outside_of(region: Tensor) -> Tensor:
    """Find all pixels outside the smallest box around a region: bool ``(n, side, side)``."""
    rows, columns = region.any(2), region.any(1)

    def between(line: Tensor) -> Tensor:
        return (line.cumsum(1) > 0) & (line.flip(1).cumsum(1).flip(1) > 0)

    return ~(between(rows)[:, :, None] & between(columns)[:, None])


def attacked(
    model: PartPrototypeModel,
    images: Tensor,
    labels: Tensor,
    slot: Tensor,
    allowed: Tensor,
    config: Any,
    samples: Samples,
) -> Tensor:
    """Change images in allowed pixels so that one score falls, by projected descent along the gradient's sign.

    Args:
        model: model under attack.
        images: ``(n, 3, H, W)``, normalised.
        labels: ``(n,)``.
        slot: ``(n,)``, number of the score of the image's class that has to fall.
        allowed: bool ``(n, H, W)``.
        config: ``epsilon`` and ``step`` in units of pixels in [0, 1], and ``iterations``.
        samples: split of the images, with the mean and deviation that they were normalised with.

    Returns:
        The changed images.

    Raises:
        NotApplicable: if scores have no gradient.
    """
    mean, deviation = (
        to_device(torch.tensor(values), images.device).view(1, 3, 1, 1) for values in (samples.mean, samples.std)
    )
    # Limits are in pixels of [0, 1] and images are normalised, hence the division by the deviation.
    low = torch.maximum(images - config.epsilon / deviation, -mean / deviation)
    high = torch.minimum(images + config.epsilon / deviation, (1 - mean) / deviation)
    low, high = torch.minimum(low, images), torch.maximum(high, images)  # pixels out of [0, 1] keep their values
    changed = images.clone()
    for _ in range(config.iterations):
        with torch.enable_grad():
            changed.requires_grad_(True)
            # An image's score depends on its own pixels only, so the sum has the gradients of all of them.
            score = model.explain(changed, labels).scores.gather(1, slot[:, None]).sum()
            if not score.requires_grad:
                raise NotApplicable("its scores have no gradient")
            (slope,) = torch.autograd.grad(score, changed)
        # Projected sign gradient; the bounds keep every pixel within epsilon and in [0, 1].
        moved = changed.detach() - config.step / deviation * slope.sign() * allowed[:, None]
        changed = torch.minimum(torch.maximum(moved, low), high)
    return changed.detach()


class Misalignment(ImageMetric):
    """Change of the map of an image's top prototype if only pixels outside its high region are changed.

    The top prototype is the true class's with the highest score, its high region the highest 10 % of the pixels. Pixels
    outside the box around them are changed by at most 0.1 (in [0, 1]) so that the score falls, in 20 steps of 0.01. The
    value is 100 (1 - intersection over union) of the high regions before and after (PLC). ``activation``: fall of the
    score in percent of its magnitude (PAC). ``rank``: number of prototypes of other classes that rise above it (PRC).
    On a number of evenly spread images. Source: ``spatial_alignment_test/`` of gmum/interpretability-benchmark; the box
    of the highest pixels is our reading.

    Table of the score: ``image``.
    """

    name = "misalignment"
    version = "1"
    higher_is_better = False
    needs = frozenset({"image", "label", "prediction", "gradient"})
    changes_images = True

    class Config(Settings):
        """Settings of the attack.

        Attributes:
            images: largest number of test images, evenly spread.
            share: share of the pixels that are a map's high region.
            epsilon: largest change of a pixel in [0, 1].
            step: change of a pixel in one iteration.
            iterations: number of iterations.
        """

        images: PositiveInt = 32
        share: PositiveFloat = 0.1
        epsilon: PositiveFloat = 0.1
        step: PositiveFloat = 0.01
        iterations: PositiveInt = 20

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": Aggregate("image", "location", "index", limits=(0.0, 100.0)),
            "activation": Aggregate("image", "activation", "index", higher_is_better=False),
            "rank": Aggregate("image", "rank", "index", higher_is_better=False),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        require_prototypes(prototypes, "attack")

    def update(self, seen: Observation) -> None:
        """Attack some images of one batch."""
        indices, _, _ = class_maps(seen)
        rows = to_device(chosen_rows(seen, self.samples, self.config.images), seen.images.device)
        rows = rows[(indices[rows] >= 0).any(1)]
        if len(rows):
            # Going back through the network takes the memory of several passes; a CPU has it for all of them.
            for some in rows.split(max(1, len(seen.images) // 4) if rows.is_cuda else len(rows)):
                self._attack(seen, some)

    def _attack(self, seen: Observation, rows: Tensor) -> None:
        """Attack these images of a batch."""
        indices, maps, scores = class_maps(seen)
        images, labels, indices, maps, scores = (
            part[rows] for part in (seen.images, seen.labels, indices, maps, scores)
        )
        slot = torch.where(indices >= 0, scores, -torch.inf).argmax(1)
        row = torch.arange(len(slot), device=slot.device)
        before = highest(maps[row, slot], seen.size, self.config.share)
        changed = attacked(seen.model, images, labels, slot, outside_of(before), self.config, self.samples)
        shown = seen.model.explain(changed, labels)
        shown_maps, shown_scores = shown.maps, shown.scores
        after = highest(shown_maps[row, slot], seen.size, self.config.share)
        shared, either = (before & after).sum((1, 2)), (before | after).sum((1, 2))
        top, fallen = scores[row, slot].double(), shown_scores[row, slot].double()
        foreign = ~seen.model.prototypes.classes.T[labels]
        all_before, all_after = (seen.model.explain(inputs).scores.double() for inputs in (images, changed))
        # Only prototypes that were not above the top one before can overtake it.
        risen = (foreign & (all_before <= top[:, None]) & (all_after > fallen[:, None])).sum(1)
        self._rows.add(
            index=seen.index[rows],
            label=labels,
            prototype=indices[row, slot],
            # PLC, PAC and PRC of Sacha et al. 2024, in this order.
            location=100 * (1 - shared.double() / either),
            activation=100 * (top - fallen) / top.abs().clamp(min=1e-12),
            rank=risen,
        )
