"""ProtoPShare (Rymarczyk et al., KDD 2021; official code: gmum/ProtoPShare).

A ProtoPNet is trained; then prototypes whose smallest distances are alike on all training images are merged, so that
classes share them. A merged prototype keeps its place in all tensors, with no class and no weight.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor

from baselines import layers
from baselines.projection import project
from baselines.protopnet import ProtoPNet, ProtoPNetLearner, ProtoPNetModel
from bench.config.schedule import Schedule
from bench.contract import FitContext, PrototypeTable, Samples

_BATCH = 64
_FIRST_BATCH = 75
"""Images in a batch of the released merging (``train_push_batch_size`` in its settings)."""


def squared_gaps(gram: Tensor) -> Tensor:
    """Compute the squared distances between vectors from their inner products ``(P, P)``; infinite to themselves."""
    lengths = gram.diagonal()
    return (lengths[:, None] + lengths - 2 * gram).abs().fill_diagonal_(torch.inf)


def merged_into(gaps: Tensor, count: int) -> Tensor:
    """Return the prototype ``(P,)`` that each one becomes: itself, or an earlier one.

    In the order of their numbers, every prototype that is left takes in all that are at most as far from it as the
    ``count``-th smallest distance between a prototype and its nearest one.

    Args:
        gaps: ``(P, P)``, distances between prototypes; infinite to itself and to prototypes that are no more.
        count: number of prototypes that have one so near.

    Example:
        >>> line = torch.tensor([0.0, 1.0, 2.0, 9.0])
        >>> merged_into((line[:, None] - line).abs().fill_diagonal_(torch.inf), 1).tolist()
        [0, 0, 2, 3]
    """
    nearest = gaps.amin(1)
    # Sorted whole: `kthvalue` has no deterministic form on a GPU.
    near = (gaps <= nearest.sort().values[min(count, len(gaps)) - 1]).cpu() & gaps.isfinite().cpu()
    target = torch.arange(len(gaps))
    for one in range(len(gaps)):
        # One that was taken in takes in no others, so those near to it alone stay.
        if target[one] == one:
            near_and_left = near[one] & (target == torch.arange(len(gaps)))
            target[near_and_left] = one
    return target.to(gaps.device)


class ProtoPShareLearner(ProtoPNetLearner):
    """ProtoPNet's loss; merging of prototypes."""

    kept_actions: ClassVar = frozenset({"project", "merge"})

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the weights of merged prototypes at zero, and clear the sources of prototypes that changed."""
        super().after_step()
        self.model.last_layer.weight.mul_(self.model.prototypes.classes.any(1))

    def act(self, action: str, samples: Samples) -> None:
        """Run ``project``, onto patches of the first of a prototype's classes, or ``merge``."""
        model, table = self.model, self.model.prototypes
        if action == "merge":
            self._merge(samples)
        elif action == "project":
            # As published: the official projection takes the first class of a prototype that has several.
            first = PrototypeTable(table.classes & (table.classes.long().cumsum(1) == 1))
            first.source_image, first.source_patch = table.source_image, table.source_patch
            latent = torch.nn.Sequential(model.backbone, model.add_on_layers)
            project(model.prototype_vectors, first, latent, layers.squared_distances, samples, self.progress)
        else:
            super().act(action, samples)

    @torch.no_grad()
    def _merge(self, samples: Samples) -> None:
        model, table = self.model, self.model.prototypes
        left = table.classes.any(1)
        gaps = squared_gaps(self._products(samples))
        target = merged_into(gaps.masked_fill(~(left & left[:, None]), torch.inf), self.config.merges)
        gone = target != torch.arange(len(target), device=target.device)
        weight = model.last_layer.weight
        # W of a group is the sum of its columns; the identity its union.
        weight.copy_(torch.zeros_like(weight).index_add_(1, target, weight))
        table.classes.copy_(torch.zeros_like(weight.T).index_add_(0, target, table.classes.to(weight)) > 0)
        table.source_image[gone] = -1
        table.source_patch[gone] = -1
        self.progress.note(f"{int(gone.sum())} of {int(left.sum())} prototypes merged into others")

    def _products(self, samples: Samples) -> Tensor:
        """Return the inner products ``(P, P)`` of what prototypes are compared by, in double precision."""
        model = self.model
        if self.config.merge_by == "vectors":
            rows = model.prototype_vectors.flatten(1).double()
            return rows @ rows.T
        # Products are added up image by image: vectors over all images would not fit into memory for ImageNet.
        count = len(model.prototype_vectors)
        products = torch.zeros(count, count, dtype=torch.float64, device=model.prototype_vectors.device)
        only_first = self.config.merge_on == "first_batch"
        index = torch.arange(min(_FIRST_BATCH, len(samples))) if only_first else None
        total = -(-(len(samples) if index is None else len(index)) // _BATCH)
        batches = samples.batches(_BATCH, products.device, index=index)
        for batch in self.progress.track(batches, "merging", total):
            nearest = model.distances(model.backbone(batch.images)).amin((2, 3)).double()
            # |v_p - v_q|^2 of the vectors of smallest distances, v_p over images, needs the products alone.
            products += nearest.T @ nearest
        return products

    def facts(self) -> dict[str, float]:
        """Return facts about the prototypes that are left."""
        classes = self.model.prototypes.classes.sum(1)
        return super().facts() | {"left": float((classes > 0).sum()), "shared": float((classes > 1).sum())}


class ProtoPShare(ProtoPNet):
    """ProtoPNet whose prototypes are merged by what they find in the training images."""

    name = "protopshare"
    paper = "Rymarczyk et al., ProtoPShare: Prototypical Parts Sharing for Similarity Discovery, KDD 2021"
    class_specific = False
    learner_class = ProtoPShareLearner
    kept: ClassVar = {"unprojected": "before project", "projected": "after merge"}

    class Config(ProtoPNet.Config):
        """Published defaults (CUB); the schedule comes from the recipe.

        Attributes:
            merges: number of prototypes whose nearest one is near enough for merging, in every merge.
            merge_on: images over which prototypes are compared: ``all`` training images, as the paper describes, or
                ``first_batch``: the first 75, which are all that the released code counts.
            merge_by: ``distances``: smallest distances on the images; ``vectors``: the prototypes themselves.
            schedule: phases over the groups ``backbone, add_on, prototypes, last_layer``; actions ``project``, and
                ``merge`` after the last projection.
        """

        merges: PositiveInt = 200
        merge_on: Literal["all", "first_batch"] = "all"
        merge_by: Literal["distances", "vectors"] = "distances"

        actions: ClassVar[tuple[str, ...]] = ("project", "merge")

        @field_validator("schedule")
        @classmethod
        def _known(cls, schedule: Schedule) -> Schedule:
            schedule.require(cls.trains, cls.actions)
            actions = [phase.action for phase in schedule.phases if phase.action]
            if "project" in actions and actions[-1] != "merge":
                raise ValueError("`action: merge` must follow the last `action: project`")
            return schedule

    def build(self, task: FitContext) -> ProtoPNetModel:
        """Return a ProtoPNet with its initial weights, without connections to other classes."""
        model = super().build(task)
        model.last_layer = layers.class_connection(model.prototypes.classes, other=0.0)
        return model
