"""PIP-Net (Nauta et al., CVPR 2023; official code: M-Nauta/PIPNet), written from its formulas.

Each cell is divided among P shared prototypes by a softmax, an image has the largest share of each, and a non-negative
sparse linear layer adds up a class's evidence. Prototypes are channels: they are taught, without labels, to be the same
in two views of an image, are never projected, and have no vectors but the weights before the softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from baselines import layers
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from bench.contract import FitContext, Progress, PrototypeTable, RequestError, Samples, Sizes
from bench.core.colours import jitter
from bench.core.memory import to_device
from bench.core.seeding import derive, seeded
from bench.training.feature_cache import mirrored

PRESENT = 0.1
"""Share of a cell below which a prototype is absent: at inference, and where it is pruned."""
_USED = 1e-3
"""Weight from which a prototype counts as one of a class, in the published sizes of explanations."""
_BATCH = 64


class PIPNetModel(layers.MaximaModel):
    """Backbone, a softmax over prototypes in each cell, the maxima that are present, a non-negative linear layer.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        count: number of prototypes, made by a 1x1 convolution; 0: the channels of the backbone.
        own: most prototypes that a class is explained by, those of its largest weights.
    """

    def __init__(self, backbone: Any, classes: int, count: int, own: int) -> None:
        super().__init__()
        self.backbone, self.own = backbone, own
        made = [nn.Conv2d(backbone.channels, count, 1)] if count else []
        for layer in made:
            nn.init.xavier_uniform_(layer.weight)
        self.to_shares = nn.Sequential(*made, nn.Softmax(1))
        count = count or backbone.channels
        self.last_layer = nn.Linear(count, classes, bias=False)
        # N(1, 0.1) as published; negative evidence is never allowed.
        nn.init.normal_(self.last_layer.weight, 1.0, 0.1).data.clamp_(min=0)
        self.prototypes = PrototypeTable(torch.zeros(count, classes, dtype=torch.bool))
        self.assign()

    def maps(self, features: Tensor) -> Tensor:
        """Compute the share of every prototype in every cell, 1 in sum: ``(N, P, h, w)``."""
        maps: Tensor = self.to_shares(features)
        return maps

    def counted(self, maps: Tensor) -> Tensor:
        """Return the shares that count at inference: small ones are 0."""
        return maps.where(maps >= PRESENT, 0.0)

    @torch.no_grad()
    def assign(self) -> None:
        """Give each class the prototypes of its largest weights, if they are above 0."""
        weight = self.last_layer.weight.T
        best = weight.topk(min(self.own, len(weight)), dim=0).indices
        self.prototypes.classes.copy_(torch.zeros_like(weight, dtype=torch.bool).scatter_(0, best, True) & (weight > 0))


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Compute the mean over cells of ``-log <z, z'>`` for two views ``(N, P, h, w)``; only the first is taught."""
    # L_A for one direction; 1e-12 keeps the logarithm finite where no share is common.
    return -((first * second.detach()).sum(1) + 1e-12).log().mean()


def presence(scores: Tensor) -> Tensor:
    """Compute the mean over prototypes of ``-log tanh`` of the sum of their scores ``(N, P)`` in the batch.

    Example:
        >>> round(float(presence(torch.tensor([[2.0, 0.1], [1.0, 0.1]]))), 4)
        0.8138
    """
    # L_T: tanh saturates, so that a prototype has to be present in some images of a batch, not in all.
    return -(scores.sum(0).tanh() + 1e-8).log().mean()


class PIPNetLearner(NetworkLearner):
    """Alignment of two views, presence of every prototype, and cross entropy of squared, flattened scores.

    Phases differ by what learns. Without ``last_layer`` the prototypes are pretrained: no cross entropy, and a weight
    of the alignment that grows to 1. With ``last_layer`` alone: cross entropy alone.
    """

    def __init__(self, model: PIPNetModel, config: Any, progress: Progress, samples: Samples) -> None:
        super().__init__(model, config, progress)
        phases = config.schedule.in_epochs(len(samples)).phases
        self.pretraining = sum(phase.epochs for phase in phases if "last_layer" not in phase.lr)
        self.scale = 0.0
        mean, deviation = torch.tensor([samples.mean, samples.std])[:, :, None, None].unbind()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the groups ``backbone``, ``add_on``, ``last_layer``."""
        model = self.model
        return {
            "backbone": list(model.backbone.parameters()),
            "add_on": list(model.to_shares.parameters()),
            "last_layer": list(model.last_layer.parameters()),
        }

    def before_epoch(self, epoch: int) -> None:
        """Raise the weight of the alignment in pretraining, in equal steps from epoch to epoch."""
        self.scale = min(1.0, (epoch + 1) / max(1, self.pretraining))

    def views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps of two views of images, cell by cell at the same places."""
        model = self.model
        if self.config.views == "mirror":
            return model.maps(model.backbone(images)), model.maps(model.backbone(mirrored(images))).flip(-1)
        pixels = images * self.deviation + self.mean
        made = []
        for _ in range(2):
            factors = 1 + 0.4 * (2 * torch.rand(len(images), 3) - 1)
            turns = 0.1 * (2 * torch.rand(len(images), 1) - 1)
            drawn = torch.cat([factors, turns], 1).to(images.dtype)
            view = jitter(pixels.clamp(0, 1), to_device(drawn, images.device))
            made.append(model.maps(model.backbone((view - self.mean) / self.deviation)))
        return made[0], made[1]

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss with the terms of the phase, and the training accuracy."""
        model, config = self.model, self.config
        weight = model.last_layer.weight
        first, second = map(layers.at_least_single, self.views(images))
        scores = [view.amax((2, 3)) for view in (first, second)]
        # Without the threshold of inference; the ReLU gives a weight that has fallen to 0 no gradient.
        evidence = nn.functional.linear(torch.cat(scores), weight.relu())
        both = labels.repeat(2)
        terms = {}
        loss = torch.zeros((), device=images.device)
        if first.requires_grad:
            terms["alignment"] = (alignment(first, second) + alignment(second, first)) / 2
            terms["presence"] = (presence(scores[0]) + presence(scores[1])) / 2
            share = (config.alignment, config.presence) if weight.requires_grad else (self.scale, config.pretraining)
            loss = share[0] * terms["alignment"] + share[1] * terms["presence"]
        if weight.requires_grad:
            # The square and the logarithm reward few prototypes with large evidence; inference leaves them out.
            terms["cross_entropy"] = nn.functional.cross_entropy(evidence.square().log1p(), both)
            loss = loss + config.cross_entropy * terms["cross_entropy"]
        return {"loss": loss, **terms, "train_accuracy": (evidence.argmax(1) == both).float().mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Make all weights of classes smaller, down to 0, if they learn."""
        weight = self.model.last_layer.weight
        if weight.requires_grad:
            # 1e-3 a step; the official test code does it too, at every batch, which is left out here.
            weight.copy_((weight - self.config.shrinkage).clamp(min=0))

    @torch.no_grad()
    def act(self, action: str, samples: Samples) -> None:
        """Run ``prune``: take prototypes that are present in no training image out of all classes that have others."""
        if action != "prune":
            super().act(action, samples)
        model = self.model
        weight = model.last_layer.weight
        top = torch.zeros(weight.shape[1], device=weight.device)
        for batch in self.progress.track(samples.batches(_BATCH, weight.device), "prune", -(-len(samples) // _BATCH)):
            top = torch.maximum(top, model.maps(model.backbone(batch.images)).amax((0, 2, 3)))
        left = weight * (top > PRESENT)
        # A class without any keeps its weights: it could not be explained, nor ever be predicted.
        weight.copy_(left.where(left.any(1, keepdim=True), weight))

    def facts(self) -> dict[str, float]:
        """Return the published sizes: prototypes of any class, weights of a class, zeros among weights in percent."""
        used = self.model.last_layer.weight > _USED
        per_class = float(used.sum(1).float().mean())
        sparsity = 100 * float((self.model.last_layer.weight == 0).float().mean())
        return {"projected": 0.0, "used": float(used.any(0).sum()), "per_class": per_class, "sparsity": sparsity}


class PIPNet(PrototypeNetwork):
    """Prototypes shared by all classes, taught by two views of each image, with non-negative sparse weights."""

    name = "pipnet"
    paper = "Nauta et al., PIP-Net: Patch-Based Intuitive Prototypes for Interpretable Image Classification, CVPR 2023"
    class_specific = False

    class Config(TrainedConfig):
        """Published defaults; the schedule comes from the recipe.

        Attributes:
            prototypes: number of prototypes, made by a 1x1 convolution; 0: the channels of the backbone.
            own: most prototypes that a class is explained by, those of its largest weights.
            views: ``colours``: an image twice in other colours; ``mirror``: it and its mirror image, mapped back. Of a
                backbone at rest mirror images are computed once, with the augmentation ``flip``.
            alignment: weight of the alignment of the views, once classes are learnt.
            presence: weight of the presence of every prototype in a batch, once classes are learnt.
            pretraining: the same weight before that; the alignment then has at most 1.
            cross_entropy: weight of the cross entropy.
            shrinkage: what every step takes from every weight of a class.
            start: starting values; of these, only the backbone's can be chosen.
            schedule: phases over the groups ``backbone, add_on, last_layer``; action ``prune``.
        """

        prototypes: NonNegativeInt = 0
        own: PositiveInt = 10
        views: Literal["colours", "mirror"] = "colours"
        alignment: Annotated[float, Field(ge=0)] = 5.0
        presence: Annotated[float, Field(ge=0)] = 2.0
        pretraining: Annotated[float, Field(ge=0)] = 5.0
        cross_entropy: Annotated[float, Field(ge=0)] = 2.0
        shrinkage: Annotated[float, Field(ge=0)] = 1e-3
        trains: ClassVar[tuple[str, ...]] = ("backbone", "add_on", "last_layer")
        actions: ClassVar[tuple[str, ...]] = ("prune",)

        @model_validator(mode="after")
        def _no_vectors(self) -> PIPNet.Config:
            if self.start.prototypes != "uniform":
                raise ValueError("pipnet has no prototype vectors: leave start.prototypes out")
            return self

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a class with more prototypes than there are."""
        if config.own > (count := config.prototypes or sizes.channels):
            raise RequestError(f"pipnet.own={config.own} exceeds the {count} prototypes")

    def settle(self, model: PIPNetModel) -> None:
        """Give each class its prototypes."""
        model.assign()

    def build(self, task: FitContext) -> PIPNetModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config = task.backbone(), task.config
        with seeded(derive(task.seed, "pipnet")):
            return PIPNetModel(backbone, task.train.classes, config.prototypes, config.own).eval()

    def learner(self, model: PIPNetModel, task: FitContext) -> PIPNetLearner:
        """Return the learner with the losses and the pruning."""
        return PIPNetLearner(model, task.config, task.progress, task.train)
