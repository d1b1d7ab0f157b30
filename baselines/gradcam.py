"""Grad-CAM (Selvaraju et al., ICCV 2017) and HiResCAM (Draelos and Carin 2020): one map for each class, by gradients.

For any classifier whose logits have a gradient in the features. Where its head is average pooling and a linear layer,
as those of the harness's own black boxes are, the gradient is v / HW in every cell: HiResCAM's map is that of the
reference ``blackbox``, and Grad-CAM's its positive part. Maps here are HW times the published ones, so that, as for
other methods, the mean over the cells belongs to the logit; the published stretch from 0 to 1 is left to pictures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from baselines.remainder import ExplanationMethod
from bench.contract import Explanation, FitContext, PartPrototypeModel, PrototypeTable


class PooledLinear(nn.Linear):
    """Average pooling over the cells and a linear layer."""

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(N, D, h, w)`` to logits ``(N, C)``."""
        return super().forward(features.mean((2, 3)))


class GradientMaps(PartPrototypeModel):
    """Classifier with a map for each class, from the gradient of its logit in the features.

    Args:
        backbone: feature extractor.
        classifier: features ``(N, D, h, w)`` -> logits ``(N, C)``, each image by itself.
        zero: logits of features that are all zero ``(C,)``: the part that belongs to no cell.
        averaged: Grad-CAM: gradients are averaged over the cells, and the map's negative part is cut off.
    """

    zero: Tensor

    def __init__(self, backbone: nn.Module, classifier: nn.Module, zero: Tensor, averaged: bool) -> None:
        super().__init__()
        self.backbone, self.classifier, self.averaged = backbone, classifier, averaged
        self.prototypes = PrototypeTable(torch.eye(len(zero), dtype=torch.bool, device=zero.device))
        self.register_buffer("zero", zero.detach().clone())

    def logits(self, features: Tensor) -> Tensor:
        """Return the classifier's logits."""
        return self.classifier(features)

    def maps(self, features: Tensor, classes: Tensor) -> Tensor:
        """Compute the map of one class of each image: ``(N,) -> (N, h, w)``."""
        onward = torch.is_grad_enabled() and features.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            x = features if onward else features.detach().clone().requires_grad_()
            # A copy: tensors made in inference mode are no part of a graph.
            chosen = self.classifier(x).gather(1, classes[:, None].clone()).sum()
            (slope,) = torch.autograd.grad(chosen, x, create_graph=onward)
            if self.averaged:
                # Equation 1 of Grad-CAM: a channel's weight is its mean gradient.
                slope = slope.mean((2, 3), keepdim=True)
            # Times HW: a head that averages has 1 / HW in its gradient, and a score is a mean.
            maps = (slope * x).sum(1) * x[0, 0].numel()
            # Equation 2 there; HiResCAM has no ReLU, and so is complete where the head is linear.
            maps = maps.relu() if self.averaged else maps
        return maps if onward else maps.detach()

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the logits, the maps, and as scores their means."""
        if classes is None:
            every = torch.arange(len(self.zero), device=features.device)
            maps = torch.stack([self.maps(features, one.expand(len(features))) for one in every], 1)
        else:
            maps = self.maps(features, classes)[:, None]
        indices = None if classes is None else self.prototypes.of(classes)
        return Explanation(self.logits(features), maps, maps.mean((2, 3)), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map, each cell's part of it."""
        return self.maps(features, classes) / features[0, 0].numel()

    def offset(self, classes: Tensor) -> Tensor:
        """Return the logits of features that are all zero."""
        return self.zero[classes]

    def prototype_logits(self, features: Tensor) -> Tensor:
        """Return what the maps say of the logits."""
        return self.head(features).scores + self.zero


class GradCAM(ExplanationMethod):
    """Maps of mean gradients, without their negative part."""

    name = "gradcam"
    paper = "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, ICCV 2017"
    averaged = True

    def build(self, task: FitContext) -> GradientMaps:
        """Build a model of the fitted shapes."""
        backbone: Any = task.backbone()
        count = task.train.classes + task.absent_classes
        with torch.random.fork_rng(devices=[]):
            return GradientMaps(
                backbone, PooledLinear(backbone.channels, count), torch.zeros(count), self.averaged
            ).eval()

    def fit(self, task: FitContext) -> GradientMaps:
        """Return the black box with its maps; nothing is trained."""
        model: Any = self.build(task).to(task.device)
        black_box: Any = task.black_box
        model.backbone = black_box.eval().backbone
        model.classifier.load_state_dict(black_box.head.state_dict())
        model.zero.copy_(black_box.head.bias.detach())
        return model


class HiResCAM(GradCAM):
    """Maps of each cell's own gradients, with their sign: complete for a head that is linear in the features."""

    name = "hirescam"
    paper = "Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations, 2020"
    averaged = False
