"""Phases in which the backbone does not learn: the features of each image are computed once, not in every epoch.

Only where an image has few versions: as it is, and mirrored. The features of all of them are computed in order, in
batches of one size, so that a training that was killed finds the same ones. They are those of the backbone itself; a
batch that the loss makes of others (mixup) is none of the versions and goes through the backbone as ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.contract import Batch, Samples
from bench.data.augmentation import Augmentation
from bench.training.sharding import backbones, replaced

VERSIONS = {"none": 1, "flip": 2}
"""Of an image, under the augmentations that have few."""


class FrozenFeatureCache:
    """While it is entered, a backbone that does not learn looks at each version of an image once.

    Args:
        learner: in training, in the mode of the phase.
        samples: what it is trained on.
        augment: name of the augmentation.
        batch_size: images at a time.
        device: where images go.
        most: bytes that features may take; where they need more, nothing is kept.
        passes: how often each image will come; features are kept where that is more than it has versions.
    """

    def __init__(
        self,
        learner: nn.Module,
        samples: Samples,
        augment: str,
        batch_size: int,
        device: torch.device,
        most: int,
        passes: int,
    ) -> None:
        self.samples, self.batch_size, self.device, self.most = samples, batch_size, device, most
        self.versions = VERSIONS.get(augment, 0)
        found = backbones(learner)
        worth = most and self.versions and passes > self.versions and len(found) == 1
        self.backbone = found[0] if worth and is_at_rest(found[0]) else None
        self._images: Tensor | None = None
        self._rows = torch.empty(0, dtype=torch.long)
        self._features: Tensor | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> FrozenFeatureCache:
        if self.backbone is not None:
            self._undo.enter_context(replaced(self.backbone, partial(self._forward, self.backbone.forward)))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        self._images = self._features = None

    def comes(self, batch: Batch, drawn: Augmentation | None) -> None:
        """The batch that the learner is given next, and how its images were drawn."""
        if self.backbone is None:
            return
        mirrored = batch.index.new_zeros(len(batch.index)) if drawn is None else drawn.flip[batch.index].long()
        self._images, self._rows = batch.images, batch.index + len(self.samples) * mirrored

    def _forward(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        known = self._images
        if known is None or images.data_ptr() != known.data_ptr() or images.shape != known.shape or not self.most:
            return forward(images)
        if self._features is None:
            first = forward(images)
            size = first[0].numel() * first.element_size() * len(self.samples) * self.versions
            if size > self.most:
                self.most = 0
                return first
            self._features = self._all(forward, first)
        return self._features[self._rows.to(self._features.device)]

    @torch.no_grad()
    def _all(self, forward: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        n = len(self.samples)
        features = like.new_empty((self.versions * n, *like.shape[1:]))
        for version in range(self.versions):
            mirror = Augmentation(torch.full((n,), bool(version)))
            for batch in self.samples.batches(self.batch_size, self.device, augment=mirror):
                features[(version * n + batch.index).to(features.device)] = forward(batch.images)
        return features


def is_at_rest(backbone: nn.Module) -> bool:
    """Whether a module, in the mode it is in, maps an image to the same features in every step."""
    norm = nn.modules.batchnorm._BatchNorm
    return not any(parameter.requires_grad for parameter in backbone.parameters()) and not any(
        module.training and (isinstance(module, norm) or "Drop" in type(module).__name__)
        for module in backbone.modules()
    )
