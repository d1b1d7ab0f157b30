"""Deformable ProtoPNet (Donnelly et al., CVPR 2022; official code: jdonnelly36/Deformable-ProtoPNet)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional

from baselines import layers
from baselines.deformable_conv import DILATION, KERNEL, PADDING, PARTS, Gradient, linear_patches, norm_preserving_conv
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.projection import project
from bench.config.schedule import Schedule
from bench.contract import Explanation, FitContext, PartPrototypeModel, Progress, PrototypeTable, Samples
from bench.core.seeding import derive, seeded

EPSILON = 1e-4
_EPSILON_CHANNELS = 2
_LENGTH = 64.0  # s of the paper: the length of the four parts of a patch together
_SHRINK = 1.01  # keeps cosines away from 1, at which the slope of the arc cosine is infinite
_OFFSET_DEVIATION = 2e-5


def with_epsilon(x: Tensor) -> Tensor:
    """Append two channels of a small constant ``(., D, ., .) -> (., D + 2, ., .)``, so that no vector has length 0."""
    return functional.pad(x, (0, 0, 0, 0, 0, _EPSILON_CHANNELS), value=EPSILON)


def unit_features(z: Tensor) -> Tensor:
    """Return z-hat: epsilon channels appended, every cell of length 32, the four parts of a patch together of 64."""
    z = with_epsilon(z)
    # 64 / 2 for each part: the four squares of length 32 add up to 64^2.
    return z * (_LENGTH / KERNEL / (z.square().sum(1, keepdim=True) + EPSILON).sqrt())


def unit_parts(prototypes: Tensor) -> Tensor:
    """Return prototypes ``(P, D, 2, 2)`` with every part of length 1."""
    return prototypes / ((prototypes.square().sum(1, keepdim=True) + EPSILON).sqrt() + EPSILON)


def with_margin(cosine: Tensor, margin: Tensor) -> Tensor:
    """Return the cosine of an angle made smaller by ``margin`` (radians), but not below 0."""
    # cos(ReLU(arccos(a) - m)): the angular margin, of wrong classes alone and in training alone.
    return torch.cos(functional.relu(torch.arccos(cosine) - margin))


class DeformableProtoPNetModel(PartPrototypeModel):
    """Backbone, upsampling, offsets, cosines of four-part prototypes, one fixed linear layer without bias.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        per_class: prototypes of each class.
        hidden: channels inside the offset network.
        upsampling: cells of the latent map for each cell of the backbone's, each way.
        gradient: see :func:`baselines.deformable_conv.norm_preserving_conv`.

    Attributes:
        deformed: whether offsets are in use; until :meth:`open_offsets` every prototype is rigid. Saved with the state.
    """

    mixes = True
    apart = "its prototypes look at four cells at once, so that a cell's neighbours count"
    border = PADDING

    def __init__(
        self,
        backbone: Any,
        classes: int,
        per_class: int,
        hidden: int,
        upsampling: int,
        gradient: Gradient = "exact",
    ) -> None:
        super().__init__()
        depth = backbone.channels
        self.backbone, self.upsampling, self.gradient = backbone, upsampling, gradient
        self.prototype_vectors = nn.Parameter(torch.rand(classes * per_class, depth, KERNEL, KERNEL))
        self.prototypes = PrototypeTable(layers.class_identity(classes, per_class))
        # Sizes that lead back to the latent map's: h -> h - 1 -> h.
        self.conv_offset = nn.Sequential(
            nn.Conv2d(depth + _EPSILON_CHANNELS, hidden, 4, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * PARTS, 2, padding=1),
        )
        # Official offsets are zero too until training opens them, so that prototypes are rigid at first.
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)
        self.deformed = False
        self.last_layer = layers.class_connection(self.prototypes.classes)

    def get_extra_state(self) -> Tensor:
        """Return ``deformed`` as a tensor that can be saved."""
        return torch.tensor(self.deformed)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore ``deformed`` from a saved state."""
        self.deformed = bool(state)

    @torch.no_grad()
    def open_offsets(self, seed: int) -> None:
        """Draw the offset network's weights, almost 0, and use it from now on."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.conv_offset.parameters():
            if parameter.ndim > 1:
                parameter.copy_(_OFFSET_DEVIATION * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.zero_()
        self.deformed = True

    def latent(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return z-hat ``(N, D + 2, h', w')`` and the offsets ``(N, 8, h', w')``; ``None`` until they are in use."""
        # The official network drops the last max-pooling of VGG, which gives 28 x 28 cells; here VGG keeps it, so that
        # all backbones give 14 x 14 at the published upsampling.
        # In bfloat16 the features keep three digits; lengths and cosines of these are computed in single precision.
        z = functional.interpolate(layers.at_least_single(features), scale_factor=self.upsampling, mode="bilinear")
        z = unit_features(z)
        return z, layers.at_least_single(self.conv_offset(z)) if self.deformed else None

    def cell_numbers(self, channels: int) -> int:
        """Return how many numbers :meth:`logits` holds at a time for each cell of the features."""
        # Of an upsampled map: four copies, and in use three of all four moved parts of each patch (interpolated,
        # clamped, their roots), with the corners that they are interpolated from.
        moved = 3 * PARTS * (channels + _EPSILON_CHANNELS) + 4 * 8 * PARTS if self.deformed else 0
        return self.upsampling**2 * (super().cell_numbers(channels) + moved)

    def patches(self, features: Tensor) -> Tensor:
        """Compute the rigid patches that a prototype can be, four parts of z-hat: ``(N, 4 D, h', w')``."""
        z = self.latent(features)[0][:, :-_EPSILON_CHANNELS]
        # Channels vary slowest and parts fastest, as in a flattened prototype.
        return functional.unfold(z, KERNEL, DILATION, PADDING).unflatten(2, z.shape[2:])

    def cosines(self, z: Tensor, offsets: Tensor | None) -> Tensor:
        """Compute the mean cosine between a prototype's parts and a patch, divided by 1.01: ``(N, P, h', w')``."""
        with torch.autocast(z.device.type, enabled=False):
            prototypes = unit_parts(with_epsilon(self.prototype_vectors)) / KERNEL
            return norm_preserving_conv(z, prototypes, offsets, self.gradient) / (_LENGTH * _SHRINK)

    def classify(self, best: Tensor) -> Tensor:
        """Return the logits of the largest cosines ``(N, P)``."""
        return self.last_layer(functional.relu(best))

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits alone, without margin."""
        return self.classify(self.cosines(*self.latent(features)).amax((2, 3)))

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return cosines, not below 0, as maps (the official ``push_forward``), their maxima as scores; no margin."""
        cosines = self.cosines(*self.latent(features))
        best = cosines.amax((2, 3))
        if classes is None:
            return Explanation(self.classify(best), functional.relu(cosines), functional.relu(best))
        indices = self.prototypes.of(classes)
        maps, scores = (functional.relu(self.pick(values, indices)) for values in (cosines, best))
        return Explanation(self.classify(best), maps, scores, indices)

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return the columns of the last layer."""
        return self.last_layer.weight.T[prototypes]

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map: similarity maps weighted by the class's row of the last layer."""
        maps = functional.relu(self.cosines(*self.latent(features)))
        return torch.einsum("nphw,np->nhw", maps, layers.class_weights(self.last_layer.weight, classes))

    def orthogonality(self, groups: int) -> Tensor:
        """Compute ``||G - I||_F``, G the products of all parts within each of ``groups`` equal blocks of prototypes."""
        parts = unit_parts(self.prototype_vectors).movedim(1, 3)
        parts = parts.reshape(groups, -1, parts.shape[-1])
        # All parts of a block together: with four parts and six prototypes, G is 24 x 24.
        gram = parts @ parts.mT
        return torch.linalg.vector_norm(gram - torch.eye(gram.shape[-1], device=gram.device))


class DeformableProtoPNetLearner(NetworkLearner):
    """Cross entropy of the margin logits, cluster, separation, offset penalty, orthogonality and L1 terms."""

    def __init__(self, model: DeformableProtoPNetModel, config: Any, seed: int, progress: Progress) -> None:
        super().__init__(model, config, progress)
        self.seed = seed

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss of the paper with its terms, and the training accuracy."""
        model, config = self.model, self.config
        z, offsets = model.latent(model.backbone(images))
        best = model.cosines(z, offsets).amax((2, 3))
        of_class = model.prototypes.classes.T[labels]
        # The margin keeps the order of cosines: applied to the maxima, it gives the same as applied to every cell.
        active = functional.relu(with_margin(best, config.margin * ~of_class))
        entropy = functional.cross_entropy(model.last_layer(active), labels)
        cluster, separation = (active * of_class).amax(1).mean(), (active * ~of_class).amax(1).mean()
        # Similarities, not distances, so that both signs are those of ProtoPNet turned round.
        loss = entropy - config.cluster * cluster + config.separation * separation
        losses = {"cross_entropy": entropy, "cluster": cluster, "separation": separation}
        if offsets is not None:
            # Official: the offsets of the penalty are computed under no_grad, so that it trains nothing. With its
            # gradient, at the published weight, every part stays at the location of a rigid prototype's.
            penalty = torch.linalg.vector_norm(offsets.detach() if config.official_bugs else offsets)
            # Official: class-major prototypes are viewed as (per class, classes, ...): its groups are blocks of as
            # many consecutive prototypes as there are classes.
            classes = model.prototypes.classes.shape[1]
            orthogonality = model.orthogonality(config.per_class if config.official_bugs else classes)
            loss = loss + config.offset_penalty * penalty + config.orthogonality * orthogonality
            moved = offsets.detach().abs().mean()  # in cells: whether parts move at all
            losses |= {"offset_penalty": penalty, "mean_offset": moved, "orthogonality": orthogonality}
        if model.last_layer.weight.requires_grad:  # a fixed layer makes it a large constant
            loss = loss + config.l1 * layers.foreign_weight(model.last_layer, model.prototypes.classes)
        correct = (model.classify(best).argmax(1) == labels).float().mean()
        return {"loss": loss, **losses, "train_accuracy": correct}

    def act(self, action: str, samples: Samples) -> None:
        """Run ``open_offsets``, or ``project`` the prototypes onto training patches."""
        model = self.model
        if action == "open_offsets":
            model.open_offsets(derive(self.seed, "offsets"))
        elif action == "project":
            project(
                model.prototype_vectors,
                model.prototypes,
                lambda images: model.latent(model.backbone(images)),
                lambda latent, _: -model.cosines(*latent),
                samples,
                self.progress,
                _deformed_patch,
            )
        else:
            super().act(action, samples)


def _deformed_patch(latent: tuple[Tensor, Tensor | None], image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the patches that replace prototypes: z-hat at the moved locations, without its epsilon channels.

    Interpolated linearly, as published, while the forward pass interpolates squares: projection is not exact.
    """
    z, offsets = latent
    if offsets is None:
        offsets = z.new_zeros(len(z), 2 * PARTS, *z.shape[2:])
    return linear_patches(z[:, :-_EPSILON_CHANNELS], offsets, image, row, column)


class DeformableProtoPNet(PrototypeNetwork):
    """Class-specific prototypes of four parts, each of which moves with the image."""

    name = "deformable"
    paper = "Donnelly et al., Deformable ProtoPNet: An Interpretable Image Classifier, CVPR 2022"

    class Config(TrainedConfig):
        """Published defaults; the schedule comes from the recipe.

        Attributes:
            per_class: prototypes of each class.
            upsampling: cells of the latent map for each cell of the backbone's, each way.
            hidden: channels inside the offset network.
            margin: radians by which the angles of prototypes of wrong classes are made smaller in training.
            cluster: weight of the largest own-class similarity.
            separation: weight of the largest similarity to another class.
            offset_penalty: weight of the norm of a batch's offsets.
            orthogonality: weight of the products between the parts of a class's prototypes.
            l1: weight of the L1 term on connections to other classes, if the last layer learns.
            official_bugs: compute the loss of the released code, from which the published results are: the offset
                penalty has no gradient, and orthogonality is taken over blocks of prototypes that are no classes.
                Otherwise the penalty, at its published weight, keeps every part at the location of a rigid prototype's.
            gradient: ``exact``, or ``released``: the backward pass of the released CUDA code, which is not the
                derivative of its forward pass; offsets move 2.5 to 4 times as far with it.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, prototypes, offsets, last_layer``; actions ``open_offsets``
                and ``project``.
        """

        per_class: PositiveInt = 6
        upsampling: PositiveInt = 2
        hidden: PositiveInt = 128
        margin: NonNegativeFloat = Field(default=0.1, lt=3.14)
        cluster: float = 0.8
        separation: float = 0.08
        offset_penalty: float = 0.8
        orthogonality: float = 0.1
        l1: float = 1e-2
        official_bugs: bool = True
        gradient: Gradient = Field(default="exact", exclude_if="exact".__eq__)
        trains: ClassVar[tuple[str, ...]] = ("backbone", "prototypes", "offsets", "last_layer")
        actions: ClassVar[tuple[str, ...]] = ("open_offsets", "project")

        @field_validator("schedule")
        @classmethod
        def _known(cls, schedule: Schedule) -> Schedule:
            schedule.require(cls.trains, cls.actions)
            opened = False
            for phase in schedule.phases:
                if "offsets" in phase.lr and not opened:
                    raise ValueError(
                        f"phase {phase.name!r} has a rate for 'offsets', which are not in use yet: "
                        "give an earlier phase `action: open_offsets`"
                    )
                opened |= phase.action == "open_offsets"
            return schedule

    def build(self, task: FitContext) -> DeformableProtoPNetModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config = task.backbone(), task.config
        with seeded(derive(task.seed, "deformable")):
            model = DeformableProtoPNetModel(
                backbone, task.train.classes, config.per_class, config.hidden, config.upsampling, config.gradient
            )
        return model.eval()

    def learner(self, model: DeformableProtoPNetModel, task: FitContext) -> DeformableProtoPNetLearner:
        """Return the learner with the network's loss and projection."""
        return DeformableProtoPNetLearner(model, task.config, task.seed, task.progress)
