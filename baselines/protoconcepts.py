"""ProtoConcepts (Ma et al., NeurIPS 2023; official code: Henrymachiyu/This-looks-like-those_ProtoConcepts).

A prototype is a ball in the latent space: all cells nearer than its radius have the same similarity, and the prototype
is shown by all training patches inside, so nothing is projected. It extends ProtoPNet, TesNet or ProtoPool: their
latent spaces, similarities and slots, the ``network`` of the model here. M is the largest log similarity, log 1e4; a
ball of width w = softplus(cap) cuts similarities at M - w, also TesNet's, whose largest one is another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from baselines import layers, protopool_ops, starts
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.protopnet import ProtoPNetModel
from baselines.protopool import ProtoPoolModel
from baselines.tesnet import TesNetModel, literal_subspace_separation, subspace_separation
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
from bench.core.part_model import shapley_of_maxima
from bench.core.seeding import derive, seeded

Base = Literal["protopnet", "tesnet", "protopool"]
LARGEST = math.log(1 / layers.EPSILON)
_BATCH = 64


class ProtoConceptsModel(PartPrototypeModel):
    """A network whose similarities are cut where a cell is inside the ball of a prototype.

    Args:
        network: the network that it extends.
        cap: starting value of every cap.
    """

    mixes = True
    non_vis_mask: Tensor

    def __init__(self, network: ProtoPNetModel | TesNetModel | ProtoPoolModel, cap: float) -> None:
        super().__init__()
        self.network: Any = network
        count = len(network.prototype_vectors)
        # Named as in the official files.
        self.cap_width_l2 = nn.Parameter(torch.full((1, count), cap))
        self.register_buffer("non_vis_mask", torch.ones(count))
        self.shared = isinstance(network, ProtoPoolModel)
        self.projects = isinstance(network, TesNetModel)

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """Feature extractor of the network."""
        backbone: nn.Module = self.network.backbone
        return backbone

    @property
    def prototypes(self) -> PrototypeTable:  # type: ignore[override]
        """Prototypes of the network; a masked one belongs to no class."""
        table: PrototypeTable = self.network.prototypes
        return table

    @property
    def limit(self) -> Tensor:
        """Similarity ``(1, P)`` from which a cell is inside the ball, and which no score exceeds."""
        # M - c: any patch nearer than that has the same similarity.
        return LARGEST - nn.functional.softplus(self.cap_width_l2)

    def similarities(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the uncut similarities of all cells ``(N, P, h, w)``, and of ProtoPool that of the mean distance."""
        if self.projects:
            return self.network.maps(features), None
        distances = self.network.distances(features)
        average = layers.log_similarity(distances.mean((2, 3))) if self.shared else None
        return layers.log_similarity(distances), average

    def cut(self, top: Tensor) -> Tensor:
        """Cut similarities ``(N, P)`` at the limit; the gradient goes through as if they and the widths were added."""
        # Official: min(a + w, M) with a straight-through gradient, minus w without one.
        width = nn.functional.softplus(self.cap_width_l2)
        return torch.minimum(top, self.limit).detach() + (top - top.detach()) + (width - width.detach())

    def scores_of(self, maps: Tensor, average: Tensor | None) -> Tensor:
        """Return what the weights of classes are applied to ``(N, P)``: 0 for masked prototypes."""
        scores = self.cut(maps.amax((2, 3)))
        return self.non_vis_mask * (scores if average is None else scores - average)

    def classify(self, scores: Tensor, presence: Tensor | None = None) -> Tensor:
        """Return the logits of scores, in ProtoPool by assigned slots or by a soft ``presence``."""
        if self.shared and presence is None:
            scores = scores[:, self.network.slots.flatten()]
        elif self.shared:
            # Similarities are mixed here, where ProtoPool mixes distances.
            scores = protopool_ops.mix(scores, presence).flatten(1)
        logits: Tensor = self.network.last_layer(scores)
        return logits

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits alone."""
        return self.classify(self.scores_of(*self.similarities(features)))

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return uncut similarities as maps: cut ones have plateaus, whose first cell is no peak. Scores are cut."""
        maps, average = self.similarities(features)
        scores = self.scores_of(maps, average)
        logits = self.classify(scores)
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def weights(self, classes: Tensor) -> Tensor:
        """Return the weight of each prototype for ``classes (N,)``, or for weights ``(N, C)``: ``(N, P)``."""
        rows = layers.class_weights(self.network.last_layer.weight, classes)
        return (self.network.weights(rows) if self.shared else rows) * self.non_vis_mask

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return the columns of the network's last layer; the scores of masked prototypes are 0."""
        weights: Tensor = self.network.connections(prototypes)
        return weights

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map: uncut similarities weighted for the class, without masked prototypes."""
        return torch.einsum("nphw,np->nhw", self.similarities(features)[0], self.weights(classes))

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return each prototype's whole term, its cut similarity, in the cell of its largest one."""
        if self.shared:
            raise NotApplicable("its logits are no sums of contributions of cells")
        maps, _ = self.similarities(features)
        return layers.at_maxima(maps, self.weights(classes), self.scores_of(maps, None))

    def shapley(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the Shapley values of the maxima of cut similarities: cells inside a ball have equal ones."""
        if self.shared:
            return super().shapley(features, classes)
        cut = torch.minimum(self.similarities(features)[0], self.limit[:, :, None, None])
        return shapley_of_maxima(cut, self.weights(classes))

    def settle(self) -> None:
        """Assign ProtoPool's slots, and take masked prototypes out of all classes."""
        if self.shared:
            self.network.assign()
        self.mask(self.non_vis_mask.bool())

    def mask(self, inside: Tensor) -> None:
        """Take the prototypes without a training patch inside, bool ``(P,)``, out of all classes and all logits."""
        self.non_vis_mask.copy_(inside)
        self.prototypes.classes.logical_and_(inside[:, None])


class ProtoConceptsLearner(NetworkLearner):
    """Loss of the network that is extended, with more own prototypes in the cluster term, and the norm of the caps."""

    own_slots: Tensor
    patches: Tensor

    def __init__(self, model: ProtoConceptsModel, config: Any, progress: Progress) -> None:
        super().__init__(model, config, progress)
        self.scale = 0.0
        network = model.network
        own = layers.class_identity(*network.slots.shape) if model.shared else network.prototypes.classes.clone()
        self.register_buffer("own_slots", own, persistent=False)
        # Training patches inside each ball, once they were counted.
        self.register_buffer("patches", torch.zeros(len(model.prototypes), dtype=torch.long))

    def prepare(self, start: starts.Start, samples: Samples, seed: int) -> None:
        """Give the network that is extended its start."""
        starts.prepare(self.model.network, start, samples, seed, self.progress)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the groups of the network that is extended, and ``caps``."""
        return layers.parameter_groups(self.model.network) | {"caps": [self.model.cap_width_l2]}

    def before_epoch(self, epoch: int) -> None:
        """Set the scale of the Gumbel-softmax of ProtoPool, and assign its slots if the presence does not learn."""
        if self.model.shared:
            self.scale = protopool_ops.gumbel_scale(epoch, self.config.gumbel_epochs)
            if not self.model.network.proto_presence.requires_grad:
                self.model.settle()

    @torch.no_grad()
    def after_step(self) -> None:
        """Normalise the prototypes of TesNet to length one."""
        if self.model.projects:
            vectors = self.model.network.prototype_vectors
            vectors.copy_(layers.unit(vectors))

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss of the paper with its terms, and the training accuracy."""
        model, config, network = self.model, self.config, self.model.network
        images, others, share = protopool_ops.mixup(images, labels, config.mixup if model.shared else 0.0)
        features = network.backbone(images)
        presence, owners = None, self.own_slots
        if model.projects:
            z = network.add_on_layers(features)
            maps = layers.projections(z, network.prototype_vectors)
            nearest, average = -layers.cosines(z, maps).amax((2, 3)), None
        else:
            distances = network.distances(features)
            maps, nearest, average = layers.log_similarity(distances), distances.amin((2, 3)), None
        if model.shared:
            average = layers.log_similarity(distances.mean((2, 3)))
            owners = network.prototypes.classes
            if network.proto_presence.requires_grad:
                presence = protopool_ops.draw_presence(network.proto_presence, self.scale)
                owners = protopool_ops.most_present(presence)
        logits = model.classify(model.scores_of(maps, average), presence)
        cross_entropy = nn.functional.cross_entropy
        entropy = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, others)
        terms = {
            "cross_entropy": entropy,
            "l1": layers.foreign_weight(network.last_layer, self.own_slots),
            "caps": torch.linalg.vector_norm(model.cap_width_l2),
        }
        loss = entropy + config.l1 * terms["l1"] + config.caps * terms["caps"]
        # Masked prototypes may leave a class of ProtoPool none; these terms teach nothing once the balls are fixed.
        if network.prototype_vectors.requires_grad or network.add_on_layers[0].weight.requires_grad:
            # The mean of several nearest, so that a ball has more than one patch; ProtoPNet takes the nearest one.
            terms["cluster"] = smallest_own(nearest, labels, owners, min(config.nearest, config.per_class))
            _, terms["separation"] = layers.cluster_and_separation(nearest, labels, owners)
            loss = loss + config.cluster * terms["cluster"] - config.separation * terms["separation"]
        if model.projects:
            terms["orthonormality"] = layers.orthonormality(network.bases)
            subspaces = subspace_separation if config.subspace_form == "gram" else literal_subspace_separation
            terms["subspace"] = subspaces(network.bases)
            loss = loss + config.orthonormality * terms["orthonormality"] - config.subspace * terms["subspace"]
        if model.shared:
            terms["orthogonality"] = protopool_ops.orthogonality(network.proto_presence)
            loss = loss + config.orthogonality * terms["orthogonality"]
        guess = logits.argmax(1)
        correct = share * (guess == labels).float().mean() + (1 - share) * (guess == others).float().mean()
        return {"loss": loss, **terms, "train_accuracy": correct}

    def act(self, action: str, samples: Samples) -> None:
        """Run ``mask``: take out the prototypes without a patch of a training image of their class in their ball."""
        if action != "mask":
            super().act(action, samples)
        if self.model.shared:
            self.model.network.assign()
        self.patches.copy_(patches_inside(self.model, samples, self.progress))
        self.model.mask(self.patches > 0)

    def facts(self) -> dict[str, float]:
        """Return facts about the balls; no prototype is a training patch."""
        masked = self.model.non_vis_mask == 0
        counted = {"patches_per_ball": float(self.patches[~masked].float().mean())} if self.patches.any() else {}
        slots = {}
        if self.model.shared:
            assigned = self.model.prototypes.classes.any(1)
            slots = {"unassigned": float((~assigned & ~masked).sum())}
        return {"projected": 0.0, "masked": float(masked.sum()), **counted, **slots}


def smallest_own(nearest: Tensor, labels: Tensor, owners: Tensor, count: int) -> Tensor:
    """Compute the mean of the ``count`` smallest distances ``(N, P)`` to prototypes of the image's class, or of all."""
    own = nearest.masked_fill(~owners.T[labels], torch.inf).topk(count, dim=1, largest=False).values
    found = own.isfinite()
    return own.where(found, 0.0).sum() / found.sum()


@torch.no_grad()
def patches_inside(model: ProtoConceptsModel, samples: Samples, progress: Progress) -> Tensor:
    """Count the cells of training images of a prototype's classes that are inside its ball ``(P,)``."""
    limit = model.limit[:, :, None, None].clamp(min=0)
    counts = torch.zeros(limit.shape[1], dtype=torch.long, device=limit.device)
    classes = model.prototypes.classes
    for batch in progress.track(samples.batches(_BATCH, limit.device), "balls", -(-len(samples) // _BATCH)):
        inside = (model.similarities(model.backbone(batch.images))[0] > limit).sum((2, 3))
        # Own classes alone, un-augmented images: the patches that visualise a ball.
        counts += (inside * classes.T[batch.labels]).sum(0)
    return counts


class ProtoConcepts(PrototypeNetwork):
    """Prototypes that are balls, shown by all training patches inside, in place of those of another network."""

    name = "protoconcepts"
    paper = (
        "Ma et al., This Looks Like Those: Illuminating Prototypical Concepts Using Multiple Visualizations, "
        "NeurIPS 2023"
    )
    learner_class = ProtoConceptsLearner
    # Masked prototypes belong to no class, those of ProtoPool to several.
    class_specific = False

    class Config(TrainedConfig):
        """Published defaults of ProtoPNet's extension; those of the others come with the recipe.

        Attributes:
            base: the network that is extended.
            per_class: prototypes of each class, of ProtoPool: slots.
            prototypes: size of ProtoPool's pool.
            depth: channels of the latent space.
            cap: starting value of the caps; a ball's width is its softplus.
            cluster: weight of the cluster term.
            nearest: own prototypes of an image in the cluster term, the nearest of them.
            separation: weight of the separation term.
            l1: weight of the L1 term on connections to other classes.
            caps: weight of the norm of all caps.
            orthonormality: weight of TesNet's term within classes.
            subspace: weight of TesNet's term between classes.
            subspace_form: ``gram``, or ``literal``: from the published tensor, 16 GB at 1,000 classes.
            orthogonality: weight of ProtoPool's term within the slots of a class.
            mixup: both parameters of the Beta distribution of ProtoPool's blended images; 0 = not blended.
            gumbel_epochs: epochs until the scale of ProtoPool's Gumbel-softmax has its last value.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, add_on, prototypes, caps, presence, last_layer``; action
                ``mask``.
        """

        base: Base = "protopnet"
        per_class: PositiveInt = 10
        prototypes: PositiveInt = 202
        depth: PositiveInt = 128
        cap: float = 6.0
        cluster: float = 0.8
        nearest: PositiveInt = 10
        separation: float = 0.08
        l1: float = 1e-4
        caps: float = 0.01
        orthonormality: float = 5e-3
        subspace: float = 5e-5
        # Left out of the settings at its default, so that cells from before this field keep their ids.
        subspace_form: Literal["gram", "literal"] = Field(default="gram", exclude_if="gram".__eq__)
        orthogonality: float = 1.0
        mixup: Annotated[float, Field(ge=0)] = 0.5
        gumbel_epochs: PositiveInt = 30
        start: starts.PoolStart = starts.start_setting(starts.PoolStart)

        trains: ClassVar[tuple[str, ...]] = ("backbone", "add_on", "prototypes", "caps", "presence", "last_layer")
        actions: ClassVar[tuple[str, ...]] = ("mask",)

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a presence without ProtoPool, a pool for one class alone, and bases of too few channels."""
        learns = config.start.presence != "random" or any("presence" in phase.lr for phase in config.schedule.phases)
        if config.base != "protopool" and learns:
            raise RequestError(f"protoconcepts.base={config.base} has no presence: take it from start and schedule")
        if config.base == "protopool" and config.prototypes <= config.per_class:
            raise RequestError("protoconcepts.prototypes must exceed protoconcepts.per_class, the slots of one class")
        if config.base == "tesnet" and config.per_class > config.depth:
            raise RequestError("protoconcepts.per_class exceeds protoconcepts.depth: no orthonormal basis is so large")

    def settle(self, model: ProtoConceptsModel) -> None:
        """Put the prototype of the largest presence into each slot; masked ones belong to no class."""
        model.settle()

    def build(self, task: FitContext) -> ProtoConceptsModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config, classes = task.backbone(), task.config, task.train.classes
        with seeded(derive(task.seed, "protoconcepts")):
            network: Any
            if config.base == "protopool":
                network = ProtoPoolModel(backbone, classes, config.prototypes, config.per_class, config.depth)
            else:
                kind = TesNetModel if config.base == "tesnet" else ProtoPNetModel
                network = kind(backbone, classes, config.per_class, config.depth)
            return ProtoConceptsModel(network, config.cap).eval()
