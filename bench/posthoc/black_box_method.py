"""Black box as a method: the trained classifier with one map per class, the reference row of every table."""

from __future__ import annotations

from typing import Any

import torch

from bench.contract import FitContext, Method
from bench.posthoc.model import DecomposedClassifier


class BlackBox(Method):
    """Unchanged classifier: the row of its last layer is the one prototype of a class (k = 1, the class map)."""

    name = "blackbox"
    needs_black_box = True

    def build(self, task: FitContext) -> DecomposedClassifier:
        """Build an untrained classifier as a decomposition into one prototype per class."""
        backbone: Any = task.backbone()
        classes, absent = task.train.classes, torch.zeros(task.absent_classes, backbone.channels)
        vectors, bias = torch.zeros(classes, 1, backbone.channels), torch.zeros(classes + len(absent))
        return DecomposedClassifier(backbone, vectors, bias, absent).eval()

    def fit(self, task: FitContext) -> DecomposedClassifier:
        """Return the trained black box as a decomposition into one prototype per class."""
        black_box: Any = task.black_box
        rows, absent = black_box.head.weight.detach().tensor_split([task.train.classes])
        return DecomposedClassifier(black_box.backbone, rows[:, None], black_box.head.bias, absent).eval()
