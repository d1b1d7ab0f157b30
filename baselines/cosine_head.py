"""Cosine head, a control of this project: how far raw features and clustered prototypes go without a published network.

No paper describes it. It has what the published prototype networks share (class-specific prototypes, the largest
similarity over the cells, one linear layer, a projection) and nothing else: no add-on layers, no terms beside the cross
entropy. What a network scores above it is owed to the network's own ideas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn

from baselines import layers
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.projection import project
from bench.config.schedule import Schedule
from bench.contract import FitContext, PrototypeTable, Samples
from bench.core.seeding import derive


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

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the groups ``backbone``, ``prototypes``, ``last_layer``."""
        model = self.model
        return {
            "backbone": list(model.backbone.parameters()),
            "prototypes": [model.prototype_vectors],
            "last_layer": list(model.last_layer.parameters()),
        }

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the cross entropy and the training accuracy."""
        logits = self.model.logits(self.model.backbone(images))
        correct = (logits.argmax(1) == labels).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, labels), "train_accuracy": correct}

    def act(self, action: str, samples: Samples) -> None:
        """Run ``project``, which replaces the prototypes by training patches."""
        if action != "project":
            super().act(action, samples)
        model = self.model
        project(
            model.prototype_vectors,
            model.prototypes,
            lambda images: model.patches(model.backbone(images)),
            lambda patches, prototypes: -layers.projections(patches, prototypes),
            samples,
            self.progress,
        )


class CosineHead(PrototypeNetwork):
    """Class-specific prototypes that raw features are compared with by their cosines."""

    name = "cosine-head"
    paper = "not published: a control of this project"

    class Config(TrainedConfig):
        """Settings; the schedule and the start by k-means come from the recipe.

        Attributes:
            per_class: prototypes of each class; 10 as in ProtoPNet and TesNet.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, prototypes, last_layer``; action ``project``.
        """

        per_class: PositiveInt = 10
        schedule: Schedule

        @field_validator("schedule")
        @classmethod
        def _known(cls, schedule: Schedule) -> Schedule:
            return schedule.require(("backbone", "prototypes", "last_layer"), ("project",))

    def build(self, task: FitContext) -> CosineHeadModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone = task.backbone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(task.seed, "cosine-head"))
            return CosineHeadModel(backbone, task.train.classes, task.config.per_class).eval()

    def learner(self, model: CosineHeadModel, task: FitContext) -> CosineHeadLearner:
        """Return the learner with the loss and the projection."""
        return CosineHeadLearner(model, task.config, task.progress)
