"""Frozen feature cache: in phases in which the backbone does not learn, each image passes through it once.

The cache applies only if an image has few versions: as it is, and mirrored. It holds the features of the backbone
itself; a batch that the loss makes of other images (mixup) is none of the versions and is computed as usual.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import Batch, Samples
from bench.data.augmentation import Augmentation
from bench.training.distributed import backbones, replaced_forward

# Number of versions of an image, for each augmentation that has few.
VERSIONS = {"none": 1, "flip": 2}


def mirrored(images: Tensor) -> Tensor:
    """Return a batch mirrored left to right, which the cache knows by the batch that it was made of."""
    turned: Any = images.flip(-1)
    turned.mirror_of = images
    return turned


class FrozenFeatureCache:
    """Context in which a frozen backbone computes the features of each version of an image once.

    Args:
        learner: learner in training, in the mode of the phase.
        samples: training split.
        augment: name of the augmentation.
        batch_size: images per batch while the cache is filled.
        device: device of the images.
        budget: bytes that features may take; if they need more, nothing is cached.
        passes: how often each image is used; features are cached if that is more than the number of versions.
    """

    def __init__(
        self,
        learner: nn.Module,
        samples: Samples,
        augment: str,
        batch_size: int,
        device: torch.device,
        budget: int,
        passes: int,
    ) -> None:
        self.samples, self.batch_size, self.device, self.budget = samples, batch_size, device, budget
        self.versions = VERSIONS.get(augment, 0)
        candidates = backbones(learner)
        worth = budget and self.versions and passes > self.versions and len(candidates) == 1
        self.backbone = candidates[0] if worth and is_frozen(candidates[0]) else None
        self._images: Tensor | None = None
        self._rows = torch.empty(0, dtype=torch.long)
        self._features: Tensor | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> FrozenFeatureCache:
        if self.backbone is not None:
            self._undo.enter_context(replaced_forward(self.backbone, partial(self._forward, self.backbone.forward)))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        self._images = self._features = None

    def set_batch(self, batch: Batch, augmentation: Augmentation | None) -> None:
        """Set the batch that the learner receives next, and the draws of its augmentation."""
        if self.backbone is None:
            return
        if augmentation is None:
            mirrored = batch.index.new_zeros(len(batch.index))
        else:
            mirrored = augmentation.flip[batch.index].long()
        self._images, self._rows = batch.images, batch.index + len(self.samples) * mirrored

    def _forward(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        batch, source = self._images, getattr(images, "mirror_of", images)
        # Compared by memory, not by value: a loss may pass other images (mixup), whose features are not cached.
        if batch is None or source.data_ptr() != batch.data_ptr() or images.shape != batch.shape or not self.budget:
            return forward(images)
        turned = source is not images
        if turned and self.versions < VERSIONS["flip"]:
            return forward(images)
        if self._features is None:
            first = forward(images)
            size = first[0].numel() * first.element_size() * len(self.samples) * self.versions
            if size > self.budget:
                self.budget = 0
                return first
            self._features = self._compute_all(forward, first)
        # The features of the mirrored images follow those of all images as they are.
        rows = (self._rows + len(self.samples)) % len(self._features) if turned else self._rows
        return self._features[rows.to(self._features.device)]

    @torch.no_grad()
    def _compute_all(self, forward: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        # All images, in order, in batches of one size: a resumed training computes the same features to the bit.
        n = len(self.samples)
        features = like.new_empty((self.versions * n, *like.shape[1:]))
        for version in range(self.versions):
            mirror = Augmentation(torch.full((n,), bool(version)))
            for batch in self.samples.batches(self.batch_size, self.device, augment=mirror):
                features[(version * n + batch.index).to(features.device)] = forward(batch.images)
        return features


def is_frozen(backbone: nn.Module) -> bool:
    """Return whether a module, in its present mode, maps an image to the same features in every step.

    Nothing in it learns, drops out or moves a running statistic.

    Example:
        >>> is_frozen(nn.Sequential(nn.Dropout(0.5)).eval()), is_frozen(nn.Sequential(nn.Dropout(0.5)))
        (True, False)
    """
    norm = nn.modules.batchnorm._BatchNorm
    return not any(parameter.requires_grad for parameter in backbone.parameters()) and not any(
        module.training and (isinstance(module, norm) or "Drop" in type(module).__name__)
        for module in backbone.modules()
    )
