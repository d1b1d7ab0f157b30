"""EvalProtoPNet (Huang et al., ICCV 2023; official code: hqhQAQ/EvalProtoPNet), "EVAL." in Tan et al. 2024.

The network is TesNet's with one convolution before the sigmoid and without a last layer: a class's logit is a weighted
sum of its own prototypes' maxima. The paper adds the alignment of shallow and deep features (SDFA) to the loss and
calls the weighted sum score aggregation (SA). Prototypes are free unit vectors: the official code never projects them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from baselines import layers
from baselines.network import PrototypeNetwork, TrainedConfig
from baselines.starts import AddOnStart, start_setting
from baselines.tesnet import TesNetLearner, TesNetModel
from bench.contract import CellError, FitContext
from bench.core.seeding import derive, seeded
from bench.training.distributed import gather_rows

_SHALLOW_STRIDE = 4
"""Pixels between two cells of the shallow layer: 56 x 56 cells of 224 pixels, as in all official backbones."""


class Aggregation(nn.Module):
    """Weighted sum of each class's own scores; the weights of a class are a softmax times their number.

    Args:
        classes: number of classes C.
        per_class: prototypes of each class K.
    """

    def __init__(self, classes: int, per_class: int) -> None:
        super().__init__()
        self.per_class = per_class
        self.activation_weight = nn.Parameter(torch.ones(classes * per_class))

    @property
    def own(self) -> Tensor:
        """Weights of each class's own prototypes ``(C, K)``, 1 on average."""
        return self.activation_weight.view(-1, self.per_class).softmax(1) * self.per_class

    @property
    def weight(self) -> Tensor:
        """Weights as those of a linear layer ``(C, P)``: zeros between a class and the prototypes of others."""
        return torch.block_diag(*self.own)

    def forward(self, scores: Tensor) -> Tensor:
        """Return the logits ``(N, C)`` of scores ``(N, P)``."""
        # SA: logit_c = sum of softmax(a_c)_k K score_ck, K times the softmax so that weights of 1 are the plain sum.
        return (scores.unflatten(1, (-1, self.per_class)) * self.own).sum(2)


def alignment(deep: Tensor, shallow: Tensor, cells: Tensor, tolerance: float) -> Tensor:
    """Compute the mean difference beyond the tolerance between the self-similarities of deep and shallow features.

    Args:
        deep: ``(N, D, h, w)``.
        shallow: cosines between all cells of the folded shallow features ``(N, h w, h w)``.
        cells: ``(N, K)``, the rows of the two matrices that count, each as often as it occurs.
        tolerance: difference that costs nothing.
    """
    # Rows of the cells in which own prototypes are largest, once for each prototype.
    rows = cells[:, :, None].expand(-1, -1, shallow.shape[2])
    # SDFA: mean of ReLU(|S_deep - S_shallow| - t), t = 0.1 as published.
    return ((self_similarity(deep) - shallow).gather(1, rows).abs() - tolerance).relu().mean()


def self_similarity(features: Tensor) -> Tensor:
    """Compute the cosines between all cells of features ``(N, D, h, w)``: ``(N, h w, h w)``."""
    z = nn.functional.normalize(layers.at_least_single(features).flatten(2), dim=1)
    return z.mT @ z


def folded(shallow: Tensor, height: int, width: int) -> Tensor:
    """Stack the neighbourhood of each of ``height x width`` cells into channels: ``(N, D a b, height, width)``."""
    # Of 56 x 56 cells of `layer1` 8 x 8 are in each of the 7 x 7: their channels stacked (SDFA).
    return shallow.unflatten(3, (width, -1)).unflatten(2, (height, -1)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers and blocks that a backbone applies one after the other; plain sequences are opened."""
    children = list(module.children())
    for child in children:
        if type(child) is nn.Sequential or len(children) == 1:
            yield from blocks(child) if next(child.children(), None) else [child]
        else:
            yield child


class EvalProtoPNetLearner(TesNetLearner):
    """Cross entropy, cluster, separation and orthonormality terms; alignment of shallow and deep features."""

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return deep features, and those of the backbone's last block with a quarter of the image's side, if any."""
        side, shallow = images.shape[-1], []

        def look(_block: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] * _SHALLOW_STRIDE == side:
                shallow[:] = [output.detach()]

        hooks = [block.register_forward_hook(look) for block in blocks(self.model.backbone)]
        try:
            deep = self.model.backbone(images)
        finally:
            for hook in hooks:
                hook.remove()
        return deep, shallow[0] if shallow else None

    def _alignment(self, deep: Tensor, shallow: Tensor | None, cells: Tensor) -> Tensor:
        height, width = deep.shape[2:]
        if shallow is None or shallow.shape[2] % height or shallow.shape[3] % width:
            raise CellError(
                "evalprotopnet.alignment needs a backbone with a block of a quarter of the image's side, whose cells "
                f"divide among its {height} x {width} features: --set evalprotopnet.alignment=0 trains without it"
            )
        similarity = self_similarity(folded(shallow, height, width))
        if len(similarity) < len(deep):
            # Under torchrun the blocks of the backbone see one shard of the images.
            import torch.distributed as dist

            before = len(deep) * dist.get_rank() // dist.get_world_size()
            similarity = gather_rows(similarity, before, len(deep) - before - len(similarity))
        return alignment(deep, similarity, cells, self.config.tolerance)

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss of the paper with its terms, and the training accuracy."""
        model, config = self.model, self.config
        features, shallow = self._features(images)
        maps, logits, terms = self.classify(features, labels)
        terms["orthonormality"] = layers.orthonormality(model.bases)
        loss = terms["cross_entropy"] + config.cluster * terms["cluster"] - config.separation * terms["separation"]
        loss = loss + config.orthonormality * terms["orthonormality"]
        # It teaches the backbone alone, so it is left out while that is at rest, as in the official warm-up.
        if config.alignment and features.requires_grad:
            cells = model.pick(maps, model.prototypes.of(labels)).flatten(2).argmax(2)
            terms["alignment"] = self._alignment(features, shallow, cells)
            loss = loss + config.alignment * terms["alignment"]
        return {"loss": loss, **terms, "train_accuracy": (logits.argmax(1) == labels).float().mean()}


class EvalProtoPNet(PrototypeNetwork):
    """Class-specific prototypes with weighted scores, trained to look alike in shallow and deep features."""

    name = "evalprotopnet"
    paper = (
        "Huang et al., Evaluation and Improvement of Interpretability for Self-Explainable Part-Prototype Networks, "
        "ICCV 2023"
    )
    learner_class = EvalProtoPNetLearner

    class Config(TrainedConfig):
        """Published defaults; the schedule comes from the recipe.

        Attributes:
            per_class: prototypes of each class.
            depth: channels of the latent space.
            cluster: weight of the cluster term.
            separation: weight of the separation term.
            orthonormality: weight of the term that makes a class's prototypes an orthonormal basis.
            alignment: weight of the alignment of shallow and deep features; 0 is the "base version" of Tan et al. 2024
                as far as it can be inferred.
            tolerance: difference of their similarities that costs nothing.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, add_on, prototypes, last_layer`` (the weights of the scores);
                action ``project``, which the published schedule does not have.
        """

        per_class: PositiveInt = 10
        depth: PositiveInt = 64
        cluster: float = 0.8
        separation: float = 0.08
        orthonormality: float = 1e-4
        alignment: Annotated[float, Field(ge=0)] = 0.5
        tolerance: Annotated[float, Field(ge=0)] = 0.1
        start: AddOnStart = start_setting(AddOnStart)

    def build(self, task: FitContext) -> TesNetModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config, classes = task.backbone(), task.config, task.train.classes
        with seeded(derive(task.seed, "evalprotopnet")):
            last = Aggregation(classes, config.per_class)
            return TesNetModel(backbone, classes, config.per_class, config.depth, 1, last).eval()
