"""ProtoPNet (Chen et al., This Looks Like That, NeurIPS 2019; official code: cfchen-duke/ProtoPNet)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from baselines import layers
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.starts import AddOnStart, start_setting
from bench.contract import Explanation, FitContext, PrototypeTable
from bench.core.seeding import derive, seeded


class ProtoPNetModel(layers.MaximaModel):
    """Backbone, add-on layers, distances to prototypes, log similarity, one linear layer without bias.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        per_class: prototypes of each class.
        depth: channels of the latent space.
    """

    def __init__(self, backbone: Any, classes: int, per_class: int, depth: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.add_on_layers = layers.add_on(backbone.channels, depth)
        # Uniform from 0 to 1, where the sigmoid of the add-on layers puts z.
        self.prototype_vectors = nn.Parameter(torch.rand(classes * per_class, depth, 1, 1))
        self.prototypes = PrototypeTable(layers.class_identity(classes, per_class))
        self.last_layer = layers.class_connection(self.prototypes.classes)

    def distances(self, features: Tensor) -> Tensor:
        """Compute the squared distances of every cell to every prototype ``(N, P, h, w)``."""
        return layers.squared_distances(self.add_on_layers(features), self.prototype_vectors)

    def maps(self, features: Tensor) -> Tensor:
        """Compute the log similarities of every cell to every prototype ``(N, P, h, w)``."""
        return layers.log_similarity(self.distances(features))

    def classify(self, nearest: Tensor) -> Tensor:
        """Return the logits of the smallest distances ``(N, P)``."""
        return self.last_layer(layers.log_similarity(nearest))

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits alone."""
        return self.classify(self.distances(features).amin((2, 3)))

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return log similarities as maps, their maxima as scores."""
        # Similarities rather than distances, as in the official visualisation: upsampling does not commute with the
        # logarithm, so the two have other peaks.
        distances = self.distances(features)
        nearest = distances.amin((2, 3))
        if classes is None:
            return Explanation(self.classify(nearest), layers.log_similarity(distances), layers.log_similarity(nearest))
        indices = self.prototypes.of(classes)
        maps = layers.log_similarity(self.pick(distances, indices))
        return Explanation(self.classify(nearest), maps, maps.amax((2, 3)), indices)


class ProtoPNetLearner(NetworkLearner):
    """Cross entropy, cluster, separation and L1 terms."""

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss of the paper with its terms, and the training accuracy."""
        model, config = self.model, self.config
        nearest = model.distances(model.backbone(images)).amin((2, 3))
        logits = model.classify(nearest)
        # Prototypes of no class were merged into others.
        counted = nearest.masked_fill(~model.prototypes.classes.any(1), torch.inf)
        # Clst and Sep of section 2.2: smallest squared distances, to own and to foreign prototypes.
        cluster, separation = layers.cluster_and_separation(counted, labels, model.prototypes.classes)
        entropy = nn.functional.cross_entropy(logits, labels)
        # Section 2.2 of the paper: the separation cost is the negative distance, hence the minus.
        loss = entropy + config.cluster * cluster - config.separation * separation
        # In every stage, as in the official code; it trains nothing while the last layer is fixed.
        loss = loss + config.l1 * layers.foreign_weight(model.last_layer, model.prototypes.classes)
        correct = (logits.argmax(1) == labels).float().mean()
        return {
            "loss": loss,
            "cross_entropy": entropy,
            "cluster": cluster,
            "separation": separation,
            "train_accuracy": correct,
        }


class ProtoPNet(PrototypeNetwork):
    """Class-specific prototypes trained with the network and projected onto training patches."""

    name = "protopnet"
    paper = "Chen et al., This Looks Like That: Deep Learning for Interpretable Image Recognition, NeurIPS 2019"
    learner_class = ProtoPNetLearner

    class Config(TrainedConfig):
        """Published defaults; the schedule comes from the recipe.

        Attributes:
            per_class: prototypes of each class.
            depth: channels of the latent space.
            cluster: weight of the cluster term.
            separation: weight of the separation term.
            l1: weight of the L1 term on connections to other classes.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, add_on, prototypes, last_layer``; action ``project``.
        """

        per_class: PositiveInt = 10
        depth: PositiveInt = 128
        cluster: float = 0.8
        separation: float = 0.08
        l1: float = 1e-4
        start: AddOnStart = start_setting(AddOnStart)

    def build(self, task: FitContext) -> ProtoPNetModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone = task.backbone()
        with seeded(derive(task.seed, "protopnet")):
            return ProtoPNetModel(backbone, task.train.classes, task.config.per_class, task.config.depth).eval()
