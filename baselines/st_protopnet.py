"""ST-ProtoPNet (Wang et al., ICCV 2023; official code: cwangrun/ST-ProtoPNet), and its support prototypes alone.

Two branches share the backbone, each a TesNet with add-on layers, prototypes and last layer of its own; their logits
are added. Trivial prototypes of different classes are pushed apart, support prototypes are pulled together, as support
vectors are near the boundary between classes. The official code has two forms: ``cropped``, for images cropped to their
box, and ``full``. If the paper and the code differ, the paper is followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from baselines import layers, starts
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.projection import cell, project
from bench.contract import FitContext, Progress, PrototypeTable, RequestError, Samples, Sizes
from bench.core.seeding import derive, seeded

Form = Literal["cropped", "full"]
Branches = Literal["both", "trivial", "support"]


def names(branches: Branches) -> tuple[str, ...]:
    """Return the names of the branches, in the order of their prototypes and of their training steps."""
    return ("trivial", "support") if branches == "both" else (branches,)


def products(bases: Tensor) -> Tensor:
    """Compute the inner products of all vectors of all classes ``(C, K, D)``, by pairs of classes: ``(C, C, K K)``."""
    with torch.autocast(bases.device.type, enabled=False):
        rows = layers.at_least_single(bases)
        return torch.einsum("ckd,eld->cekl", rows, rows).flatten(2)


def literal_products(bases: Tensor) -> Tensor:
    """Compute :func:`products` as the official code, from all ``C K D C K`` products of two numbers."""
    # (C, K, D, 1, 1) times (1, 1, D, C, K): memory grows with the square of the prototypes.
    terms = bases[:, :, :, None, None] * bases.permute(2, 0, 1)[None, None]
    return terms.sum(2).permute(0, 2, 1, 3).flatten(2)


def mean_over_pairs(values: Tensor) -> Tensor:
    """Return the mean of ``(C, C)`` over the ordered pairs of different classes."""
    classes = len(values)
    return values.masked_fill(torch.eye(classes, dtype=torch.bool, device=values.device), 0.0).sum() / (
        classes * (classes - 1)
    )


class Branch(nn.Module):
    """Add-on layers, prototypes at length one and a last layer; the similarity is fixed by the form.

    Args:
        channels: channels of the backbone.
        identity: prototypes by class, bool ``(P, C)``.
        depth: channels of the latent space.
        form: ``cropped``: tanh in the add-on layers, projections of unnormalised cells; ``full``: twice as many cells
            each way, no activations, cosines not below 0.
    """

    def __init__(self, channels: int, identity: Tensor, depth: int, form: Form) -> None:
        super().__init__()
        self.form = form
        first, second = nn.Conv2d(channels, depth, 1), nn.Conv2d(depth, depth, 1)
        # The official network of full images drops the last max-pooling of VGG in place of the upsampling.
        self.add_on_layers = layers.initialised(
            nn.Sequential(first, nn.Tanh(), second, nn.Tanh())
            if form == "cropped"
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), first, second)
        )
        self.prototype_vectors = nn.Parameter(torch.rand(len(identity), depth, 1, 1))
        self.last_layer = layers.class_connection(identity)

    def similarities(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is largest at the cell to project onto, and the cosines: both ``(N, P, h, w)``."""
        # z is not normalised: cropped images are scored by projections, whole ones by cosines.
        projected = layers.projections(z, self.prototype_vectors)
        cosines = layers.cosines(z, projected)
        return (projected if self.form == "cropped" else cosines), cosines

    def maps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the similarities of every cell to every prototype, and the cosines of the loss: ``(N, P, h, w)``."""
        maps, cosines = self.similarities(self.add_on_layers(features))
        return (maps, cosines) if self.form == "cropped" else (maps.relu(), cosines.relu())


class STProtoPNetModel(layers.MaximaModel):
    """Backbone and one or two branches, whose maps stand one after the other and whose logits are added.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        per_class: prototypes of each class in each branch.
        depth: channels of the latent space.
        form: see :class:`Branch`.
        branches: the branches that the network has.
    """

    def __init__(
        self,
        backbone: Any,
        classes: int,
        per_class: int,
        depth: int,
        form: Form = "cropped",
        branches: Branches = "both",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        identity = layers.class_identity(classes, per_class)
        self.branches = nn.ModuleDict(
            {name: Branch(backbone.channels, identity, depth, form) for name in names(branches)}
        )
        self.prototypes = PrototypeTable(identity.repeat(len(self.branches), 1))

    @property
    def parts(self) -> list[SimpleNamespace]:
        """Views of the branches as networks of one branch, with their rows of the table of prototypes."""
        table, found, first = self.prototypes, [], 0
        for name, branch in self.branches.items():
            rows = slice(first, first := first + len(branch.prototype_vectors))
            own = SimpleNamespace(
                classes=table.classes[rows],
                source_image=table.source_image[rows],
                source_patch=table.source_patch[rows],
            )
            members = {key: getattr(branch, key) for key in ("add_on_layers", "prototype_vectors", "last_layer")}
            found.append(SimpleNamespace(name=name, backbone=self.backbone, prototypes=own, **members))
        return found

    def cell_numbers(self, channels: int) -> int:
        """Return how many numbers :meth:`logits` holds at a time for each cell of the features."""
        # The form for full images has twice as many cells each way.
        full = any(branch.form == "full" for branch in self.branches.values())
        return super().cell_numbers(channels) * (4 if full else 1)

    @property
    def weight(self) -> Tensor:
        """Weights of all last layers side by side ``(C, P)``."""
        return torch.cat([branch.last_layer.weight for branch in self.branches.values()], 1)

    def maps(self, features: Tensor) -> Tensor:
        """Return the similarities of every cell to the prototypes of all branches ``(N, P, h, w)``."""
        # The official `push_forward` functions return them with the opposite sign.
        return torch.cat([branch.maps(features)[0] for branch in self.branches.values()], 1)


class STProtoPNetLearner(NetworkLearner):
    """Cross entropy, cluster, separation, orthonormality and L1 terms of one branch; distances between classes.

    The branches take turns, step by step; a branch rests while the other learns.
    """

    def __init__(self, model: STProtoPNetModel, config: Any, progress: Progress) -> None:
        super().__init__(model, config, progress)
        self.step = 0

    def prepare(self, start: starts.Start, samples: Samples, seed: int) -> None:
        """Give each branch its start, from draws of its own."""
        for part in self.model.parts:
            starts.prepare(part, start, samples, derive(seed, part.name), self.progress)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the groups ``backbone``, and of all branches ``add_on``, ``prototypes``, ``last_layer``."""
        first, *others = map(layers.parameter_groups, self.model.parts)
        return {
            name: own + [one for other in others for one in other[name] if name != "backbone"]
            for name, own in first.items()
        }

    def before_epoch(self, epoch: int) -> None:
        """Begin with the first branch: official steps are counted within an epoch."""
        self.step = 0

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss of the branch whose turn it is, and the training accuracy of that branch."""
        model, config = self.model, self.config
        name, branch = list(model.branches.items())[self.step % len(model.branches)]
        maps, cosines = branch.maps(model.backbone(images))
        logits = branch.last_layer(maps.amax((2, 3)))
        identity = model.parts[0].prototypes.classes
        cluster, separation = layers.cluster_and_separation(-cosines.amax((2, 3)), labels, identity)
        bases = branch.prototype_vectors.flatten(1).unflatten(0, (identity.shape[1], -1))
        pairs = (products if config.pairs_form == "gram" else literal_products)(bases)
        # Classes of trivial prototypes are parted by their nearest vectors, those of support ones drawn together by
        # their farthest: the discrimination and the closeness loss of the paper.
        support = name == "support"
        between = mean_over_pairs(-pairs.amin(2) if support else pairs.amax(2))
        terms = {
            "cross_entropy": nn.functional.cross_entropy(logits, labels),
            "cluster": cluster,
            "separation": separation,
            "orthonormality": layers.orthonormality(bases),
            "between_classes": between,
            "l1": layers.foreign_weight(branch.last_layer, identity),
        }
        loss = terms["cross_entropy"] + config.cluster * cluster
        # Published: 0.48 for support prototypes, 0.08 for trivial ones.
        loss = loss - (config.support_separation if support else config.separation) * separation
        loss = loss + config.orthonormality * terms["orthonormality"] + config.l1 * terms["l1"]
        loss = loss + (config.closeness if support else config.discrimination) * between
        return {"loss": loss, **terms, "train_accuracy": (logits.argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Normalise the prototypes of all branches to length one, clear the sources of those that learn, count on."""
        self.step += 1
        for part in self.model.parts:
            # After every step, as in official code, also in a stage in which they do not learn.
            part.prototype_vectors.copy_(layers.unit(part.prototype_vectors))
            layers.forget_sources(part.prototype_vectors, part.prototypes)

    def act(self, action: str, samples: Samples) -> None:
        """Run ``project``, which replaces the prototypes of each branch by training patches of length one."""
        if action != "project":
            super().act(action, samples)
        for part in self.model.parts:
            branch = self.model.branches[part.name]
            project(
                part.prototype_vectors,
                part.prototypes,
                nn.Sequential(self.model.backbone, branch.add_on_layers),
                lambda z, _, branch=branch: -branch.similarities(z)[0],
                samples,
                self.progress,
                lambda z, *at: layers.unit(cell(z, *at)),
            )


class STProtoPNet(PrototypeNetwork):
    """Class-specific prototypes in two branches: far from the boundary between classes, and near it."""

    name = "st-protopnet"
    paper = "Wang et al., Learning Support and Trivial Prototypes for Interpretable Image Classification, ICCV 2023"
    learner_class = STProtoPNetLearner

    published_forms: ClassVar = {"literal": {"pairs_form": "literal"}}

    class Config(TrainedConfig):
        """Published defaults of cropped images; the schedule comes from the recipe.

        Attributes:
            branches: ``both``; ``trivial`` or ``support``: that branch alone, also of a checkpoint with both. A single
                branch that is trained here learns in every step.
            form: ``cropped``, or ``full``: twice as many cells each way, no tanh, cosines in place of projections.
            per_class: prototypes of each class in each branch.
            depth: channels of the latent space.
            cluster: weight of the cluster term.
            separation: weight of the separation term of trivial prototypes.
            support_separation: weight of the separation term of support prototypes.
            orthonormality: weight of the term that makes a class's prototypes an orthonormal basis.
            discrimination: weight of the term that parts the trivial prototypes of different classes.
            closeness: weight of the term that draws the support prototypes of different classes together.
            l1: weight of the L1 term on connections to other classes.
            pairs_form: ``gram``, or ``literal``: from the published tensor of all products, 6 GB at 1,000 classes.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, add_on, prototypes, last_layer``; action ``project``.
        """

        branches: Branches = "both"
        form: Form = "cropped"
        per_class: PositiveInt = 5
        depth: PositiveInt = 64
        cluster: float = 0.8
        separation: float = 0.08
        support_separation: float = 0.48
        orthonormality: float = 1e-3
        discrimination: float = 1.0
        closeness: float = 1.0
        l1: float = 1e-4
        pairs_form: Literal["gram", "literal"] = "gram"
        start: starts.AddOnStart = starts.start_setting(starts.AddOnStart)

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a single class, which has no pair of classes."""
        if sizes.classes < 2:
            raise RequestError(f"{cls.name} compares the prototypes of different classes: it needs two or more classes")

    def build(self, task: FitContext) -> STProtoPNetModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config = task.backbone(), task.config
        with seeded(derive(task.seed, "st-protopnet")):
            return STProtoPNetModel(
                backbone, task.train.classes, config.per_class, config.depth, config.form, config.branches
            ).eval()


class SupportST(STProtoPNet):
    """Support prototypes alone, "SUPPORT ST" of Tan et al. 2024: one of the two branches of ST-ProtoPNet."""

    name = "support-st"

    class Config(STProtoPNet.Config):
        """Settings of ST-ProtoPNet; whether the published branch was trained alone is not known.

        Attributes:
            branches: as there.
        """

        branches: Branches = "support"
