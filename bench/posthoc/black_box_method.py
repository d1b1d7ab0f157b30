"""The black box as a row of its own in every table: the trained classifier, with one map per class."""

from __future__ import annotations

from typing import Any

import torch

from bench.contract import FitContext, Method
from bench.posthoc.model import DecomposedClassifier


class BlackBox(Method):
    """The classifier as it is. Its row of the last layer is the one prototype of each class (k = 1, the class map)."""

    name = "blackbox"
    needs_black_box = True

    def build(self, task: FitContext) -> DecomposedClassifier:
        """An untrained classifier in the form of a decomposition into one prototype."""
        backbone: Any = task.backbone()
        classes = task.train.classes
        return DecomposedClassifier(backbone, torch.zeros(classes, 1, backbone.channels), torch.zeros(classes)).eval()

    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Take the trained black box."""
        box: Any = task.black_box
        return DecomposedClassifier(box.backbone, box.head.weight.detach()[:, None], box.head.bias).eval()
