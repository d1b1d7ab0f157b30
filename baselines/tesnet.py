"""TesNet: Wang et al., Interpretable Image Recognition by Constructing Transparent Embedding Space, ICCV 2021
(spec/baselines.md, section 6).

Where the paper and its official code differ, the paper is followed unless ``official_bugs`` is set. Two habits of the
code have no setting: it picks its epoch by test accuracy, which nothing here does, and the 128 channels that stand in a
default of its constructor are the 64 of its settings here (``depth``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn

from baselines import layers
from bench.contract import (
    Explanation,
    FitContext,
    Method,
    PartPrototypeModel,
    Progress,
    PrototypeTable,
    RequestError,
    Samples,
    Sizes,
)
from bench.core.seeding import derive
from bench.models.external import NetworkConfig
from bench.training.schedule import Schedule
from bench.training.trainer import Learner


def subspace_separation(bases: Tensor) -> Tensor:
    """Sum over ordered pairs of classes of ``|A_c - A_d|_F / (2 sqrt 2)``, with ``A = B^T B`` of shape ``(D, D)``.

    The squared norms come from the Gram matrix of the C flattened A: ``C D^2 + C^2`` numbers, where the differences
    have ``C^2 D^2`` and the inner products of all vectors ``(C K)^2``. Squares of near numbers are subtracted, so it
    runs in double precision, which autocast leaves alone. Classes that single precision cannot tell apart have
    distance and gradient 0, as in the published form.

    Args:
        bases: ``(C, K, D)``, one vector a row.
    """
    rows = bases.double()
    flat = (rows.mT @ rows).flatten(1)
    gram = flat @ flat.T
    lengths = gram.diagonal()
    both = lengths[:, None] + lengths
    squared = both - 2 * gram
    # A change in the last digit of every single-precision number makes 1.4e-14 of it, rounding makes about 1e-16.
    apart = squared > 1e-14 * both
    # The root has no slope at zero: those pairs get another number before it and are left out after it.
    distances = squared.where(apart, 1.0).sqrt().where(apart, 0.0)
    return (distances.sum() / (2 * 2**0.5)).to(bases.dtype)


def literal_subspace_separation(bases: Tensor) -> Tensor:
    """The same as the official code computes it, from the ``(C, C, D, D)`` tensor of differences."""
    operators = bases.mT @ bases
    # The 1e-10 keeps the root away from zero; it is part of the code, not of the paper.
    differences = operators[:, None] - operators + 1e-10
    return torch.linalg.vector_norm(differences, dim=(2, 3)).sum() / (2 * 2**0.5)


class TesNetModel(PartPrototypeModel):
    """Backbone, add-on layers, projections onto unit prototypes, their maxima, one linear layer without bias.

    Args:
        backbone: with attribute ``channels``.
        classes: how many.
        per_class: prototypes of each class.
        depth: channels of the latent space.
    """

    mixes = True

    def __init__(self, backbone: Any, classes: int, per_class: int, depth: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.add_on_layers = layers.add_on(backbone.channels, depth)
        self.prototype_vectors = nn.Parameter(torch.rand(classes * per_class, depth, 1, 1))
        self.prototypes = PrototypeTable(layers.class_identity(classes, per_class))
        self.last_layer = layers.class_connection(self.prototypes.classes)

    @property
    def bases(self) -> Tensor:
        """The prototypes by class ``(C, K, D)``, as they are stored."""
        return self.prototype_vectors.reshape(self.prototypes.classes.shape[1], -1, self.prototype_vectors.shape[1])

    def maps(self, features: Tensor) -> Tensor:
        """Projections of every cell onto every prototype ``(N, P, h, w)`` (spec/baselines.md, 4.1)."""
        return layers.projections(self.add_on_layers(features), self.prototype_vectors)

    def logits(self, features: Tensor) -> Tensor:
        """Logits alone."""
        return self.last_layer(self.maps(features).amax((2, 3)))

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Maps are projections, scores their maxima."""
        maps = self.maps(features)
        scores = maps.amax((2, 3))
        logits = self.last_layer(scores)
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """The displayed reading: projections weighted by the class's row of the last layer."""
        weights = layers.class_weights(self.last_layer, classes)
        return torch.einsum("nphw,np->nhw", self.maps(features), weights)

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Each prototype's whole term, in the cell where its projection is largest."""
        return layers.at_maxima(self.maps(features), layers.class_weights(self.last_layer, classes))


class TesNetLearner(Learner):
    """Cross entropy, cluster, separation and L1 terms; orthonormality within classes, separation between them."""

    def __init__(self, model: TesNetModel, config: Any, progress: Progress) -> None:
        super().__init__()
        self.model, self.config, self.progress = model, config, progress
        self.subspaces = subspace_separation if config.subspace_form == "gram" else literal_subspace_separation

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """``backbone``, ``add_on``, ``prototypes``, ``last_layer``."""
        return layers.parameter_groups(self.model)

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """The loss of section 6 with its terms, and the training accuracy."""
        model, config = self.model, self.config
        z = model.add_on_layers(model.backbone(images))
        maps = layers.projections(z, model.prototype_vectors)
        logits = model.last_layer(maps.amax((2, 3)))
        # Only these two terms look at cosines; logits and maps keep the length of z.
        nearest = -layers.cosines(z, maps).amax((2, 3))
        cluster, separation = layers.cluster_and_separation(nearest, labels, model.prototypes.classes)
        terms = {
            "cross_entropy": nn.functional.cross_entropy(logits, labels),
            "cluster": cluster,
            "separation": separation,
            "l1": layers.foreign_weight(model.last_layer, model.prototypes.classes),
            "orthonormality": layers.orthonormality(model.bases),
            "subspace": self.subspaces(model.bases),
        }
        loss = terms["cross_entropy"] + config.cluster * cluster - config.separation * separation
        loss = loss + config.l1 * terms["l1"] + config.orthonormality * terms["orthonormality"]
        loss = loss - config.subspace * terms["subspace"]
        return {"loss": loss, **terms, "train_accuracy": (logits.argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring the prototypes back to length one, also where they do not learn: a projected patch comes as it is."""
        prototypes = self.model.prototype_vectors
        prototypes.copy_(layers.unit(prototypes))
        layers.forget_sources(prototypes, self.model.prototypes)

    def act(self, action: str, samples: Samples) -> None:
        """``project`` the prototypes onto training patches."""
        if action != "project":
            super().act(action, samples)
        model = self.model
        layers.project(
            model.prototype_vectors,
            model.prototypes,
            lambda images: model.add_on_layers(model.backbone(images)),
            # At the length that z has, so that long patches win; the patch is copied with its length.
            lambda z, prototypes: -layers.projections(z, prototypes),
            samples,
            self.progress,
        )


class TesNet(Method):
    """Class-specific prototypes that span one subspace for each class, trained with the network and projected."""

    name = "tesnet"
    paper = "Wang et al., Interpretable Image Recognition by Constructing Transparent Embedding Space, ICCV 2021"

    published_forms: ClassVar = {"literal": {"subspace_form": "literal"}}

    class Config(NetworkConfig):
        """Published defaults; the schedule comes from the recipe.

        Attributes:
            per_class: prototypes of each class.
            depth: channels of the latent space.
            cluster: weight of the cluster term.
            separation: weight of the separation term.
            l1: weight of the L1 term on connections to other classes.
            orthonormality: weight of the term that makes a class's prototypes an orthonormal basis.
            subspace: weight of the term that parts the classes' subspaces.
            subspace_form: ``gram``, or ``literal``: the published tensor, 16 GB at 1,000 classes.
            official_bugs: batch normalisation moves in every phase, also in the last-layer one, where the projected
                prototypes stop being training patches; the schedule's ``freeze_norm`` is not followed.
            schedule: phases over the groups ``backbone, add_on, prototypes, last_layer``; action ``project``.
        """

        per_class: PositiveInt = 10
        depth: PositiveInt = 64
        cluster: float = 0.8
        separation: float = 0.08
        l1: float = 1e-4
        orthonormality: float = 1e-4
        subspace: float = 1e-7
        subspace_form: Literal["gram", "literal"] = "gram"
        official_bugs: bool = False
        schedule: Schedule

        @field_validator("schedule")
        @classmethod
        def _known(cls, schedule: Schedule) -> Schedule:
            return schedule.require(("backbone", "add_on", "prototypes", "last_layer"), ("project",))

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """The prototypes of a class must be able to be orthonormal."""
        if config.per_class > config.depth:
            raise RequestError(
                f"tesnet.per_class is {config.per_class}: so many prototypes cannot be orthonormal in tesnet.depth = "
                f"{config.depth} dimensions; lower the one or raise the other"
            )

    def build(self, task: FitContext) -> TesNetModel:
        """The network with its starting weights, drawn from the task's seed."""
        backbone = task.backbone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(task.seed, "tesnet"))
            return TesNetModel(backbone, task.train.classes, task.config.per_class, task.config.depth).eval()

    def learner(self, model: TesNetModel, task: FitContext) -> TesNetLearner:
        """Its loss and the projection."""
        return TesNetLearner(model, task.config, task.progress)

    def fit(self, task: FitContext) -> TesNetModel:
        """Train through the phases of the schedule."""
        model, schedule = self.build(task), task.config.schedule
        if task.config.official_bugs:
            moving = tuple(phase.model_copy(update={"freeze_norm": False}) for phase in schedule.phases)
            schedule = schedule.model_copy(update={"phases": moving})
        task.trainer.fit(self.learner(model, task), schedule, task.train)
        task.facts.update(layers.projection_facts(model.prototypes))
        return model.eval()
