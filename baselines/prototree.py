"""ProtoTree (Nauta et al., CVPR 2021; official code: M-Nauta/ProtoTree).

The nodes of a binary tree are prototypes: an image turns right where the prototype is present. Its prediction is the
mean of the leaves' distributions, weighted by the probabilities of arriving there; leaves learn without derivatives.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from baselines import layers, soft_tree
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.projection import project
from baselines.starts import AddOnStart, start_setting
from bench.contract import Explanation, FitContext, PartPrototypeModel, Progress, PrototypeTable, Samples
from bench.core.seeding import derive, seeded

_TINY = 1e-300
"""Least probability of a class in a leaf: the softmax of parameters that are 750 apart is 0, which has no logarithm."""


class ProtoTreeModel(PartPrototypeModel):
    """Backbone, one add-on layer without bias, distances to the nodes' prototypes, a tree.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        turns: the tree, see :mod:`baselines.soft_tree`.
        depth: channels of the latent space.
        route: how the tree predicts; see :class:`ProtoTree.Config`.
    """

    turns: Tensor
    leaves: Tensor

    not_additive = "not additive: its probabilities are products along paths"

    def __init__(
        self, backbone: Any, classes: int, turns: Tensor, depth: int, route: soft_tree.Route = "distributed"
    ) -> None:
        super().__init__()
        self.backbone, self.route = backbone, route
        convolution = nn.Conv2d(backbone.channels, depth, 1, bias=False)
        # Xavier with the gain of a sigmoid, as published.
        nn.init.xavier_normal_(convolution.weight, gain=nn.init.calculate_gain("sigmoid"))
        self.add_on_layers = nn.Sequential(convolution, nn.Sigmoid())
        self.prototype_vectors = nn.Parameter(0.5 + 0.1 * torch.randn(turns.shape[1], depth, 1, 1))
        self.register_buffer("turns", turns)
        self.register_buffer("leaves", torch.zeros(len(turns), classes))
        self.prototypes = PrototypeTable(torch.zeros(turns.shape[1], classes))
        self.assign()

    @torch.no_grad()
    def assign(self) -> None:
        """Update the table of prototypes by class: the classes that a leaf below the node predicts."""
        self.prototypes.classes.copy_(soft_tree.reachable(self.turns, self.leaves))

    def distances(self, features: Tensor) -> Tensor:
        """Compute the Euclidean distances of every cell to every prototype ``(N, P, h, w)``."""
        # The addend keeps the slope of the root finite.
        return (layers.squared_distances(self.add_on_layers(features), self.prototype_vectors) + 1e-14).sqrt()

    def paths(self, nearest: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probabilities of the leaves and of the classes, ``(N, L)`` and ``(N, C)``, in double precision.

        Args:
            nearest: ``(N, P)``, smallest distances; exp(-d) is the probability of turning right.
        """
        with torch.autocast(nearest.device.type, enabled=False):
            # Leaves at depth 9 have tiny probabilities, and their classes others.
            log_right, log_left = soft_tree.turning(nearest.double())
            paths = soft_tree.log_paths(log_right, log_left, self.turns)
            best = paths.amax(1, keepdim=True)
            distributions = self.leaves.double().softmax(1).clamp(min=_TINY)
            return paths, best + ((paths - best).exp() @ distributions).log()

    def classify(self, nearest: Tensor) -> Tensor:
        """Return the log probabilities of the classes ``(N, C)``, by the route of the model."""
        if self.route == "distributed":
            return self.paths(nearest)[1].to(nearest.dtype)
        leaf = soft_tree.leaves_of(*soft_tree.turning(nearest.double()), self.turns, self.route)
        return self.leaves.double().log_softmax(1)[leaf].to(nearest.dtype)

    def logits(self, features: Tensor) -> Tensor:
        """Return the log probabilities alone."""
        return self.classify(self.distances(features).amin((2, 3)))

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the similarities exp(-d) as maps, the probabilities of turning right as scores."""
        distances = self.distances(features)
        logits, maps = self.classify(distances.amin((2, 3))), torch.exp(-distances)
        if classes is None:
            return Explanation(logits, maps, maps.amax((2, 3)))
        indices = self.prototypes.of(classes)
        maps = self.pick(maps, indices)
        return Explanation(logits, maps, maps.amax((2, 3)), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the sum of the maps of the prototypes that are found on the way to the class.

        The official local explanation shows the maps of a path node by node.
        """
        distances = self.distances(features)
        found = soft_tree.found(distances.amin((2, 3)), self.turns, self.leaves, classes)
        return torch.einsum("nphw,np->nhw", torch.exp(-distances), found.to(distances))


class ProtoTreeLearner(NetworkLearner):
    """Likelihood of the classes; after every step the leaves' update without derivatives."""

    def __init__(self, model: ProtoTreeModel, config: Any, progress: Progress, batches: int) -> None:
        super().__init__(model, config, progress)
        self.batches = batches
        self._arrived: tuple[Tensor, Tensor, Tensor] | None = None
        self._old = model.leaves.clone()

    def before_epoch(self, epoch: int) -> None:
        """Remember the leaves as they are when the epoch begins."""
        self._old = self.model.leaves.clone()

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the negative log likelihood and the training accuracy."""
        model = self.model
        paths, classes = model.paths(model.distances(model.backbone(images)).amin((2, 3)))
        # The probability of the true class, before the step: both the loss and the leaves' update use it.
        likelihood = classes.gather(1, labels[:, None])[:, 0]
        self._arrived = paths.detach().exp(), likelihood.detach().exp(), labels
        return {"loss": -likelihood.mean().float(), "train_accuracy": (classes.argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the leaves by the paths from before the step, and clear the sources of prototypes that changed."""
        super().after_step()
        assert self._arrived is not None
        soft_tree.update_leaves(self.model.leaves, self._old, self.batches, *self._arrived)

    def act(self, action: str, samples: Samples) -> None:
        """Run ``prune``, which removes nodes above vague leaves alone, or ``project``.

        A prototype is projected onto a patch of the classes that the leaves below it predict. Removed nodes are left as
        they are; the official code projects them too, and never uses them.
        """
        model = self.model
        if action == "prune":
            before = model.turns.any(0).sum()
            model.turns.copy_(soft_tree.prune(model.turns, model.leaves, self.config.pruning))
            model.assign()
            self.progress.note(f"{int(before - model.turns.any(0).sum())} of {int(before)} prototypes pruned")
        elif action == "project":
            model.assign()
            latent = nn.Sequential(model.backbone, model.add_on_layers)
            distance = layers.squared_distances
            project(model.prototype_vectors, model.prototypes, latent, distance, samples, self.progress)
        else:
            super().act(action, samples)

    def facts(self) -> dict[str, float]:
        """Return facts about the prototypes that are left, and the number of those."""
        kept = self.model.turns.any(0)
        return super().facts() | {"nodes": float(kept.sum())}


class TreeStart(AddOnStart):
    """Starting values of a tree.

    Attributes:
        prototypes: ``normal``: around 0.5 with deviation 0.1, as published; ``patches``: training patches of all
            classes; ``kmeans``: the means of clusters of them.
    """

    shared: ClassVar[bool] = True
    prototypes: Literal["normal", "patches", "kmeans"] = "normal"  # type: ignore[assignment]


class ProtoTree(PrototypeNetwork):
    """Decision tree whose nodes ask for the presence of a prototype."""

    name = "prototree"
    paper = "Nauta et al., Neural Prototype Trees for Interpretable Fine-grained Image Recognition, CVPR 2021"
    class_specific = False

    class Config(TrainedConfig):
        """Published defaults (CUB); the schedule comes from the recipe.

        Attributes:
            levels: number of decisions on every path: ``2^levels`` leaves, a prototype less.
            depth: channels of the latent space.
            pruning: subtrees go in which no leaf has a class of a larger probability.
            route: prediction: ``distributed``: mean over the leaves; ``sample_max``: the leaf of the most probable
                path; ``greedy``: the leaf found by taking the more probable child at every node.
            start: starting values; see :class:`TreeStart`.
            schedule: phases over the groups ``backbone, add_on, prototypes``; actions ``prune``, ``project``.
        """

        levels: Annotated[int, Field(ge=1, le=12)] = 9
        depth: PositiveInt = 256
        pruning: Annotated[float, Field(ge=0, lt=1)] = 0.01
        route: soft_tree.Route = "distributed"
        start: TreeStart = start_setting(TreeStart)

        trains: ClassVar[tuple[str, ...]] = ("backbone", "add_on", "prototypes")
        actions: ClassVar[tuple[str, ...]] = ("prune", "project")

    def settle(self, model: ProtoTreeModel) -> None:
        """Find the classes that the leaves below each node predict."""
        model.assign()

    def build(self, task: FitContext) -> ProtoTreeModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config = task.backbone(), task.config
        with seeded(derive(task.seed, "prototree")):
            turns = soft_tree.complete_tree(config.levels)
            return ProtoTreeModel(backbone, task.train.classes, turns, config.depth, config.route).eval()

    def learner(self, model: ProtoTreeModel, task: FitContext) -> ProtoTreeLearner:
        """Return the learner with the tree's loss, leaf update, pruning and projection."""
        batches = task.config.schedule.steps_per_epoch(len(task.train))
        return ProtoTreeLearner(model, task.config, task.progress, batches)
