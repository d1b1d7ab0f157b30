"""Cosine head, a control of this project: how far raw features and clustered prototypes go without a published network.

No paper describes it. It has what the published prototype networks share (class-specific prototypes, the largest
similarity over the cells, one linear layer, a projection) and nothing else: no add-on layers, no terms beside the cross
entropy. What a network scores above it is owed to the network's own ideas.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from baselines import layers
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from bench.contract import FitContext, PrototypeTable
from bench.core.seeding import derive, seeded


class CosineHeadModel(layers.MaximaModel):
    """Backbone, cosines between its features and the prototypes, their maxima, one linear layer without bias.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        per_class: prototypes of each class.
    """

    def __init__(self, backbone: Any, classes: int, per_class: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.prototype_vectors = nn.Parameter(torch.rand(classes * per_class, backbone.channels, 1, 1))
        self.prototypes = PrototypeTable(layers.class_identity(classes, per_class))
        # A class starts as the sum of its own prototypes' cosines; others say nothing about it until the layer learns.
        self.last_layer = layers.class_connection(self.prototypes.classes, other=0.0)

    def patches(self, features: Tensor) -> Tensor:
        """Return what a prototype can be: features at length one in every cell ``(N, D, h, w)``."""
        return layers.unit(features)

    def maps(self, features: Tensor) -> Tensor:
        """Compute the cosines of every cell with every prototype ``(N, P, h, w)``."""
        return layers.projections(self.patches(features), self.prototype_vectors)


class CosineHeadLearner(NetworkLearner):
    """Cross entropy alone."""

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the cross entropy and the training accuracy."""
        logits = self.model.logits(self.model.backbone(images))
        correct = (logits.argmax(1) == labels).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, labels), "train_accuracy": correct}

    def latent(self, images: Tensor) -> Tensor:
        """Return features at length one."""
        patches: Tensor = self.model.patches(self.model.backbone(images))
        return patches

    def distance(self, z: Tensor, prototypes: Tensor) -> Tensor:
        """Return the negative cosines."""
        return -layers.projections(z, prototypes)


class CosineHead(PrototypeNetwork):
    """Class-specific prototypes that raw features are compared with by their cosines."""

    name = "cosine-head"
    paper = "not published: a control of this project"
    learner_class = CosineHeadLearner

    class Config(TrainedConfig):
        """Settings; the schedule and the start by k-means come from the recipe.

        Attributes:
            per_class: prototypes of each class; 10 as in ProtoPNet and TesNet.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, prototypes, last_layer``; action ``project``.
        """

        per_class: PositiveInt = 10

        trains: ClassVar[tuple[str, ...]] = ("backbone", "prototypes", "last_layer")

    def build(self, task: FitContext) -> CosineHeadModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone = task.backbone()
        with seeded(derive(task.seed, "cosine-head")):
            return CosineHeadModel(backbone, task.train.classes, task.config.per_class).eval()
