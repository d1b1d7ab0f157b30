"""ProtoPool (Rymarczyk et al., ECCV 2022; official code: gmum/ProtoPool).

A pool of P prototypes is shared by all classes; each class has K slots, and each slot a distribution over the pool. As
in the paper, q is the presence ``(C, P, K)`` and d are distances.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from baselines import layers, protopool_ops
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.starts import PoolStart, start_setting
from bench.config.schedule import Schedule
from bench.contract import (
    Explanation,
    FitContext,
    NotApplicable,
    PartPrototypeModel,
    Progress,
    PrototypeTable,
    RequestError,
    Samples,
    Sizes,
)
from bench.core.seeding import derive, seeded


class ProtoPoolModel(PartPrototypeModel):
    """Backbone, one add-on layer, a pool of prototypes, K slots for each class, one linear layer over all slots.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        prototypes: size of the pool.
        slots: number of slots of each class.
        depth: channels of the latent space.
        mixing: see :class:`ProtoPool.Config`.
        noise_seed: ``None``: a slot contains the prototype of its largest presence. A number: Gumbel noise is added at
            inference as in the official code, the same noise in every call.
    """

    slots: Tensor

    mixes = True

    def __init__(
        self,
        backbone: Any,
        classes: int,
        prototypes: int,
        slots: int,
        depth: int,
        mixing: protopool_ops.Mixing = "factored",
        noise_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.mixing, self.noise_seed = backbone, mixing, noise_seed
        self.add_on_layers = layers.add_on(backbone.channels, depth, convolutions=1)
        self.prototype_vectors = nn.Parameter(torch.rand(prototypes, depth, 1, 1))
        self.proto_presence = nn.Parameter(nn.init.xavier_normal_(torch.empty(classes, prototypes, slots)))
        self.last_layer = layers.class_connection(layers.class_identity(classes, slots), other=0.0)
        self.prototypes = PrototypeTable(torch.zeros(prototypes, classes))
        self.register_buffer("slots", torch.zeros(classes, slots, dtype=torch.long))
        self.assign()

    @torch.no_grad()
    def assign(self) -> None:
        """Put into every slot the prototype that inference uses, and update the table of prototypes by class."""
        # The largest presence, without noise: the official code draws Gumbel noise at inference too, and of untrained
        # presences 1.2 % of the slots differ between two of its calls.
        presence = self.proto_presence if self.noise_seed is None else self._noisy_presence()
        self.slots.copy_(presence.argmax(1))
        owners = self.prototypes.classes
        owners.copy_(torch.zeros_like(owners.T).scatter(1, self.slots, True).T)

    def _noisy_presence(self) -> Tensor:
        # Drawn on the CPU, so that every device sees the same noise.
        generator = torch.Generator().manual_seed(self.noise_seed or 0)
        drawn = protopool_ops.draw_presence(
            self.proto_presence.detach().cpu(), protopool_ops.SCALE_OF_THE_CODE, generator
        )
        return drawn.to(self.proto_presence.device)

    def distances(self, features: Tensor) -> Tensor:
        """Compute the squared distances of every cell to every prototype ``(N, P, h, w)``."""
        return layers.squared_distances(self.add_on_layers(features), self.prototype_vectors)

    def classify(self, nearest: Tensor, average: Tensor, presence: Tensor | None = None) -> Tensor:
        """Return the logits of smallest and mean distances ``(N, P)``, by assigned slots or by a soft ``presence``."""
        if presence is None:
            return self.last_layer(protopool_ops.focal_similarity(nearest, average)[:, self.slots.flatten()])
        mixed = protopool_ops.mix(torch.stack([nearest, average]), presence, self.mixing)
        return self.last_layer(protopool_ops.focal_similarity(mixed[0], mixed[1]).flatten(1))

    def _infer(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and each prototype's input to the slots that contain it ``(N, P)``."""
        nearest, average = distances.amin((2, 3)), distances.mean((2, 3))
        # A bug of the official code, with `official_bugs` only: evaluation draws its presence like training does. There
        # the draw is another one in every call; here it is one, from the fit's seed, so that a score can be repeated.
        presence = None if self.noise_seed is None else self._noisy_presence()
        return self.classify(nearest, average, presence), protopool_ops.focal_similarity(nearest, average)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits alone."""
        return self._infer(self.distances(features))[0]

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return log similarities of each prototype's distances as maps, focal similarities as scores."""
        # The official visualisation displays log similarities of a prototype's distances too, not focal values.
        distances = self.distances(features)
        logits, scores = self._infer(distances)
        maps = layers.log_similarity(distances)
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return the columns of the last layer, those of all slots of a prototype together."""
        if self.noise_seed is not None:
            raise NotApplicable("its slots mix the distances of several prototypes, as the official code's do")
        return self.weights(self.last_layer.weight).T[prototypes]

    def weights(self, rows: Tensor) -> Tensor:
        """Return the weights of prototypes ``(N, P)`` for those of slots: of several slots, the sum."""
        return rows.new_zeros(len(rows), len(self.prototype_vectors)).index_add(1, self.slots.flatten(), rows)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map: similarity maps weighted by the class's row of the last layer, slot by slot."""
        maps = layers.log_similarity(self.distances(features))
        return torch.einsum("nphw,np->nhw", maps, self.weights(layers.class_weights(self.last_layer.weight, classes)))


class ProtoPoolLearner(NetworkLearner):
    """Cross entropy of mixed images, cluster, separation, L1 and slot orthogonality.

    While the presence learns, every step draws it from torch's default generator, which the trainer seeds for each
    epoch. In a phase that does not train it, the slots are those of inference.
    """

    own_slots: Tensor

    steps: Tensor
    first_slots: Tensor

    def __init__(self, model: ProtoPoolModel, config: Any, progress: Progress) -> None:
        super().__init__(model, config, progress)
        self.scale = 0.0
        classes, slots = model.slots.shape
        self.register_buffer("own_slots", layers.class_identity(classes, slots), persistent=False)
        # In checkpoints only where they cannot be computed again, so that those from before these buffers are readable.
        self.register_buffer("first_slots", model.slots.clone(), persistent=config.start.presence != "random")
        self.register_buffer("steps", torch.zeros((), dtype=torch.long), persistent=config.gumbel_steps is not None)

    def prepare(self, start: PoolStart, samples: Samples, seed: int) -> None:  # type: ignore[override]
        """Give the model its start, and remember the prototypes in its slots."""
        super().prepare(start, samples, seed)
        self.first_slots.copy_(self.model.slots)

    def before_epoch(self, epoch: int) -> None:
        """Set the scale of the Gumbel-softmax; assign the slots if the presence does not learn."""
        if self.config.gumbel_steps is None:
            # The official code's epoch 0 trains nothing (see ProtoPool.schedule): its first training epoch is number 1.
            self.scale = protopool_ops.gumbel_scale(epoch + self.config.official_bugs, self.config.gumbel_epochs)
        if not self.model.proto_presence.requires_grad:
            self.model.assign()

    def after_step(self) -> None:
        """Clear the sources of prototypes that changed; with ``gumbel_steps``, set the scale for the next step."""
        super().after_step()
        self.steps += 1

    def _presence(self) -> Tensor | None:
        logits = self.model.proto_presence
        if logits.requires_grad:
            if self.config.gumbel_steps is not None:
                self.scale = protopool_ops.gumbel_scale(int(self.steps), self.config.gumbel_steps)
            return protopool_ops.draw_presence(logits, self.scale)
        # A bug of the official code: its last-layer stage draws noise over the settled presence.
        return (
            protopool_ops.draw_presence(logits, protopool_ops.SCALE_OF_THE_CODE) if self.config.official_bugs else None
        )

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss of the paper with its terms, and the training accuracy."""
        model, config = self.model, self.config
        images, others, share = protopool_ops.mixup(images, labels, config.mixup)
        presence = self._presence()
        distances = model.distances(model.backbone(images))
        nearest = distances.amin((2, 3))
        logits = model.classify(nearest, distances.mean((2, 3)), presence)
        owners = model.prototypes.classes if presence is None else protopool_ops.most_present(presence)
        # For a blended image these two count the first label only, as published.
        cluster, separation = layers.cluster_and_separation(nearest, labels, owners)
        cross_entropy = nn.functional.cross_entropy
        entropy = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, others)
        overlap = protopool_ops.orthogonality(model.proto_presence, model.mixing)
        # Published weights: 0.8, 0.08, 1 and, below, 1e-4.
        loss = entropy + config.cluster * cluster - config.separation * separation + config.orthogonality * overlap
        loss = loss + config.l1 * layers.foreign_weight(model.last_layer, self.own_slots)
        guess = logits.argmax(1)
        correct = share * (guess == labels).float().mean() + (1 - share) * (guess == others).float().mean()
        return {
            "loss": loss,
            "cross_entropy": entropy,
            "cluster": cluster,
            "separation": separation,
            "orthogonality": overlap,
            "train_accuracy": correct,
        }

    def act(self, action: str, samples: Samples) -> None:
        """Run ``project``, with the training patches of the classes that have a prototype in any slot."""
        model = self.model
        model.assign()
        super().act(action, samples)
        if self.config.official_bugs:
            # A bug of the official code: the buffer of a prototype in no slot is never filled, and copied.
            with torch.no_grad():
                model.prototype_vectors[~model.prototypes.classes.any(1)] = 0.0

    def facts(self) -> dict[str, float]:
        """Return facts about the prototypes that are in a slot, and about the slots."""
        model, table = self.model, self.model.prototypes
        assigned = table.classes.any(1)
        # Unassigned prototypes are projected onto nothing, and would count as copies of each other.
        sources = torch.cat([table.source_image[:, None], table.source_patch], 1)[assigned]
        return {
            # Prototypes in no slot are kept as they are and counted; the official code makes them zero vectors.
            "unassigned": float((~assigned).sum()),
            "repeated_slots": 1 - float(table.classes.sum()) / model.slots.numel(),
            "kept_slots": 100 * float((model.slots == self.first_slots).float().mean()),
            "projected": float((table.source_image[assigned] >= 0).float().mean()),
            "duplicate_share": 1 - len(torch.unique(sources, dim=0)) / len(sources),
        }


class ProtoPool(PrototypeNetwork):
    """Pool of prototypes shared by the classes, with a learnt assignment to the classes' slots."""

    name = "protopool"
    paper = "Rymarczyk et al., Interpretable Image Classification with Differentiable Prototypes Assignment, ECCV 2022"
    learner_class = ProtoPoolLearner
    class_specific = False

    published_forms: ClassVar = {"literal": {"mixing": "literal"}}

    class Config(TrainedConfig):
        """Published defaults (CUB); the schedule comes from the recipe.

        Attributes:
            prototypes: size of the pool.
            slots: number of slots of each class.
            depth: channels of the latent space.
            cluster: weight of the cluster term.
            separation: weight of the separation term.
            l1: weight of the L1 term on connections to slots of other classes.
            orthogonality: weight of the term that keeps the slots of a class apart.
            mixup: both parameters of the Beta distribution of the first image's share; 0 = images are not blended.
            gumbel_epochs: epochs until the scale of the Gumbel-softmax has its last value.
            gumbel_steps: optimiser steps until then, in place of ``gumbel_epochs``: the scale then grows from step to
                step. Published epochs have 2,000 steps; a scale for each epoch of 40 leaves no time to learn the slots.
            mixing: ``factored`` never allocates classes x prototypes x slots x images (nor x slots x slots for the
                orthogonality); ``literal`` computes the same sums term by term, for comparison.
            official_bugs: follow the official code if it departs from its paper: Gumbel noise at inference and in the
                last-layer stage, zeros for prototypes without a class, a first epoch that trains nothing.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, add_on, prototypes, presence, last_layer``; action ``project``.
        """

        prototypes: PositiveInt = 202
        slots: PositiveInt = 10
        depth: PositiveInt = 256
        cluster: float = 0.8
        separation: float = 0.08
        l1: float = 1e-4
        orthogonality: float = 1.0
        mixup: Annotated[float, Field(ge=0)] = 0.5
        gumbel_epochs: PositiveInt = 30
        gumbel_steps: PositiveInt | None = Field(default=None, exclude_if=lambda steps: steps is None)
        mixing: protopool_ops.Mixing = "factored"
        official_bugs: bool = False
        start: PoolStart = start_setting(PoolStart)

        trains: ClassVar[tuple[str, ...]] = ("backbone", "add_on", "prototypes", "presence", "last_layer")

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a pool that one class could fill alone: separation needs a prototype of other classes."""
        if config.prototypes <= config.slots:
            raise RequestError(
                f"protopool.prototypes={config.prototypes} must exceed protopool.slots={config.slots}: "
                "the separation term needs prototypes outside a class's slots"
            )

    def schedule(self, config: Any) -> Schedule:
        """Return the schedule of the settings, with ``official_bugs`` without its first epoch."""
        schedule: Schedule = config.schedule
        if not config.official_bugs or not schedule.phases:
            return schedule
        # A bug of the official code: its loop passes over epoch 0, which counts but trains nothing.
        first, *rest = schedule.phases
        shorter = first.model_copy(update={"epochs": max(first.epochs - 1, 0)})
        return schedule.model_copy(update={"phases": (shorter, *rest)})

    def settle(self, model: ProtoPoolModel) -> None:
        """Put the prototype of the largest presence into each slot."""
        model.assign()

    def build(self, task: FitContext) -> ProtoPoolModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config = task.backbone(), task.config
        noise_seed = derive(task.seed, "protopool", "noise at inference") if config.official_bugs else None
        with seeded(derive(task.seed, "protopool")):
            return ProtoPoolModel(
                backbone, task.train.classes, config.prototypes, config.slots, config.depth, config.mixing, noise_seed
            ).eval()
