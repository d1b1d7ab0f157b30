"""TesNet (Wang et al., ICCV 2021; official code: JackeyWang96/TesNet).

If the paper and its official code differ, the paper is followed unless ``official_bugs`` is set. Two habits of the code
have no setting: it picks its epoch by test accuracy, which nothing here does, and its constructor has a default of 128
channels, while ``depth`` here is the 64 of its settings.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from baselines import layers
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.starts import AddOnStart, start_setting
from bench.config.schedule import Schedule
from bench.contract import FitContext, PrototypeTable, RequestError, Sizes
from bench.core.seeding import derive, seeded


def subspace_separation(bases: Tensor) -> Tensor:
    """Compute the sum over ordered pairs of classes of ``|A_c - A_d|_F / (2 sqrt 2)``, ``A = B^T B`` ``(D, D)``.

    The squared norms are from the Gram matrix of the C flattened A: ``C D^2 + C^2`` numbers, while the differences have
    ``C^2 D^2`` and the inner products of all vectors ``(C K)^2``. Classes that single precision cannot distinguish have
    distance and gradient 0, as in the published form.

    Args:
        bases: ``(C, K, D)``, one vector a row.
    """
    # Squares of near numbers are subtracted, so in double precision, which autocast leaves alone.
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
    """Compute :func:`subspace_separation` as the official code, from the ``(C, C, D, D)`` tensor of differences."""
    # Projection operators B^T B of all classes, D x D each.
    operators = bases.mT @ bases
    # The 1e-10 keeps the root away from zero; it is part of the code, not of the paper.
    differences = operators[:, None] - operators + 1e-10
    return torch.linalg.vector_norm(differences, dim=(2, 3)).sum() / (2 * 2**0.5)


class TesNetModel(layers.MaximaModel):
    """Backbone, add-on layers, projections onto unit prototypes, their maxima, one linear layer without bias.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        per_class: prototypes of each class.
        depth: channels of the latent space.
        convolutions: number of convolutions in the add-on layers.
        last_layer: layer from scores to logits with a ``weight (C, P)``; default: TesNet's.
    """

    def __init__(
        self,
        backbone: Any,
        classes: int,
        per_class: int,
        depth: int,
        convolutions: int = 2,
        last_layer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.add_on_layers = layers.add_on(backbone.channels, depth, convolutions)
        self.prototype_vectors = nn.Parameter(torch.rand(classes * per_class, depth, 1, 1))
        self.prototypes = PrototypeTable(layers.class_identity(classes, per_class))
        self.last_layer: Any = last_layer or layers.class_connection(self.prototypes.classes)

    @property
    def bases(self) -> Tensor:
        """Prototypes by class ``(C, K, D)``, as they are stored."""
        return self.prototype_vectors.reshape(self.prototypes.classes.shape[1], -1, self.prototype_vectors.shape[1])

    def maps(self, features: Tensor) -> Tensor:
        """Compute the projections of every cell onto every prototype ``(N, P, h, w)``, larger = more present."""
        # The official `push_forward` returns them with the opposite sign.
        return layers.projections(self.add_on_layers(features), self.prototype_vectors)


class TesNetLearner(NetworkLearner):
    """Cross entropy, cluster, separation and L1 terms; orthonormality within classes, separation between them."""

    def classify(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the maps, the logits, and the cross entropy, cluster and separation terms."""
        model = self.model
        z = model.add_on_layers(features)
        maps = layers.projections(z, model.prototype_vectors)
        logits = model.last_layer(maps.amax((2, 3)))
        # Only these two terms use cosines; logits and maps keep the length of z.
        nearest = -layers.cosines(z, maps).amax((2, 3))
        cluster, separation = layers.cluster_and_separation(nearest, labels, model.prototypes.classes)
        # Official terms add 64 to these negative cosines and subtract it again.
        entropy = nn.functional.cross_entropy(logits, labels)
        return maps, logits, {"cross_entropy": entropy, "cluster": cluster, "separation": separation}

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss of the paper with its terms, and the training accuracy."""
        model, config = self.model, self.config
        _, logits, terms = self.classify(model.backbone(images), labels)
        subspaces = subspace_separation if config.subspace_form == "gram" else literal_subspace_separation
        terms |= {
            "l1": layers.foreign_weight(model.last_layer, model.prototypes.classes),
            "orthonormality": layers.orthonormality(model.bases),
            "subspace": subspaces(model.bases),
        }
        loss = terms["cross_entropy"] + config.cluster * terms["cluster"] - config.separation * terms["separation"]
        # Orthonormality within a class, and minus the distance between classes: signs of the official loss.
        loss = loss + config.l1 * terms["l1"] + config.orthonormality * terms["orthonormality"]
        loss = loss - config.subspace * terms["subspace"]
        return {"loss": loss, **terms, "train_accuracy": (logits.argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Normalise the prototypes to length one, also if they do not learn, and clear the sources of those that do."""
        # A projected patch is copied at its length, and official code normalises after every step, of any stage.
        prototypes = self.model.prototype_vectors
        prototypes.copy_(layers.unit(prototypes))
        layers.forget_sources(prototypes, self.model.prototypes)

    def distance(self, z: Tensor, prototypes: Tensor) -> Tensor:
        """Return the negative projections onto prototypes at length one."""
        # Of unnormalised z, so that long patches win, as published; the patch is copied at its length.
        return -layers.projections(z, prototypes)


class TesNet(PrototypeNetwork):
    """Class-specific prototypes that span one subspace for each class, trained with the network and projected."""

    name = "tesnet"
    paper = "Wang et al., Interpretable Image Recognition by Constructing Transparent Embedding Space, ICCV 2021"
    learner_class = TesNetLearner

    published_forms: ClassVar = {"literal": {"subspace_form": "literal"}}

    class Config(TrainedConfig):
        """Published defaults; the schedule comes from the recipe.

        Attributes:
            per_class: prototypes of each class.
            depth: channels of the latent space.
            cluster: weight of the cluster term.
            separation: weight of the separation term.
            l1: weight of the L1 term on connections to other classes.
            orthonormality: weight of the term that makes a class's prototypes an orthonormal basis.
            subspace: weight of the term that parts the classes' subspaces.
            subspace_form: ``gram``, or ``literal``: from the published tensor, 16 GB at 1,000 classes.
            official_bugs: batch normalisation moves in every phase, also in the last-layer one, in which the projected
                prototypes stop being training patches; the schedule's ``freeze_norm`` is not followed.
            start: starting values; see :mod:`baselines.starts`.
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
        start: AddOnStart = start_setting(AddOnStart)

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse more prototypes of a class than can be orthonormal."""
        if config.per_class > config.depth:
            raise RequestError(
                f"tesnet.per_class is {config.per_class}: so many prototypes cannot be orthonormal in tesnet.depth = "
                f"{config.depth} dimensions; lower the one or raise the other"
            )

    def schedule(self, config: Any) -> Schedule:
        """Return the schedule of the settings, with ``official_bugs`` without frozen batch normalisation."""
        schedule: Schedule = config.schedule
        if not config.official_bugs:
            return schedule
        moving = tuple(phase.model_copy(update={"freeze_norm": False}) for phase in schedule.phases)
        return schedule.model_copy(update={"phases": moving})

    def build(self, task: FitContext) -> TesNetModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone = task.backbone()
        with seeded(derive(task.seed, "tesnet")):
            return TesNetModel(backbone, task.train.classes, task.config.per_class, task.config.depth).eval()
