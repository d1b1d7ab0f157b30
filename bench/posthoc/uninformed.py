"""Controls that know no class: the decomposition of a classifier that has learned nothing about the labels."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.contract import CellError, FitContext, Samples
from bench.core.seeding import derive
from bench.models.classifier import Classifier
from bench.posthoc.decompose_class import DecompositionConfig
from bench.posthoc.method import PostHocPPN, decompose_black_box
from bench.posthoc.model import DecomposedClassifier

# Weight of the penalty on the head, relative to the mean variance of a feature.
_RIDGE = 1e-3


class Uninformed(PostHocPPN):
    """``ours`` on a classifier without knowledge: as many prototypes, from the same images, in a model of one shape.

    ``untrained``: all layers have new random weights. ``random_head``: the black box's features, under its head's own
    weights in random order (one model of the cascade of Adebayo et al., NeurIPS 2018). ``shuffled_labels``: the black
    box's features, under a linear head fitted to the training labels in random order (ridge regression): a network
    trained on such labels would cost as much as the black box. A metric that cannot tell these from a method measures
    nothing that the method has learned, or only what its backbone sees anyway.
    """

    name = "uninformed"
    paper = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018"
    needs_black_box: ClassVar[bool] = False

    class Config(DecompositionConfig):
        """Settings as for ``ours``, and what the classifier lacks."""

        kind: Literal["untrained", "random_head", "shuffled_labels"] = "untrained"

    @classmethod
    def starts_from_black_box(cls, config: Any) -> bool:
        """Return whether it keeps the features of the black box."""
        return bool(config.kind != "untrained")

    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Decompose the classifier without knowledge.

        Raises:
            CellError: if the backbone has no layer whose weights can be drawn again.
        """
        kind = task.config.kind
        made = {"untrained": untrained, "random_head": random_head, "shuffled_labels": shuffled_labels}[kind](task)
        return decompose_black_box(replace(task, black_box=made.to(task.device).eval()))


def untrained(task: FitContext) -> Classifier:
    """Return a classifier on the task's backbone with new weights in every layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(task.seed, "untrained"))
        classifier = Classifier(task.backbone(), task.train.classes + task.absent_classes)
        layers = [module for module in classifier.backbone.modules() if hasattr(module, "reset_parameters")]
        if not layers:
            raise CellError("no layer of the backbone can be reset, so there is no untrained network of its shape")
        for layer in layers:
            layer.reset_parameters()
    return classifier


def random_head(task: FitContext) -> Classifier:
    """Return the black box with the weights of its head in random order, so that they keep their distribution."""
    classifier: Any = copy.deepcopy(task.black_box)
    generator = torch.Generator().manual_seed(derive(task.seed, "random head"))
    for values in classifier.head.parameters():
        order = torch.randperm(values.numel(), generator=generator).to(values.device)
        values.data = values.data.flatten()[order].view_as(values)
    return classifier


def shuffled_labels(task: FitContext) -> Classifier:
    """Return the black box with a head fitted to the training labels in random order."""
    classifier: Any = copy.deepcopy(task.black_box)
    classifier.to(task.device).eval()
    generator = torch.Generator().manual_seed(derive(task.seed, "shuffled labels"))
    labels = task.train.labels[torch.randperm(len(task.train), generator=generator)]
    weight, bias = ridge(classifier.backbone, task.train, labels, task.device)
    # Classes that the data set does not have keep their rows.
    classifier.head.weight.data[: len(weight)] = weight
    classifier.head.bias.data[: len(bias)] = bias
    return classifier


@torch.no_grad()
def ridge(backbone: nn.Module, train: Samples, labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Fit a linear head to labels by least squares with a penalty, from pooled features read once.

    The labels are ``(n,)``, of all images of the split.

    Returns:
        Weight ``(C, D)`` and bias ``(C,)``.
    """
    products, targets = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in train.batches(64, device):
        pooled = backbone(batch.images).mean((2, 3)).double()
        ones = torch.cat((pooled, torch.ones_like(pooled[:, :1])), 1)
        hot = nn.functional.one_hot(labels[batch.index.cpu()].to(device), train.classes).double()
        products, targets = ones.T @ ones + products.to(device), ones.T @ hot + targets.to(device)
    penalty = torch.ones_like(products[0]) * _RIDGE * products.diagonal()[:-1].mean()
    penalty[-1] = 0  # the bias is free
    solved = torch.linalg.solve(products + penalty.diag(), targets).float()
    return solved[:-1].T, solved[-1]
