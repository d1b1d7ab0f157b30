"""Compactness against a loop over sorted scores."""

import numpy as np
import pytest

from metrics.compactness import Compactness
from tests.support.ragged_model import CLASSES, COUNT, case, measure
from tests.support.samples import TensorSamples


def test_compactness():
    model, split, owned = case()
    needed, areas = [], []
    for i in range(COUNT):
        own = owned[int(split.labels[i])]
        sizes = sorted((abs(float(model.clean[i, p].max())) for p in own), reverse=True)
        count = next(k for k in range(1, len(sizes) + 1) if sum(sizes[:k]) >= 0.9 * sum(sizes))
        needed.append(count)
        shown = sum(model.clean[i, p] for p in own)
        areas.append(float((shown > (shown.min() + shown.max()) / 2).double().mean()))
    found = measure(Compactness)
    assert found.value == pytest.approx(np.mean(needed))
    assert found.also == {"whole": 5.0, "area": pytest.approx(100 * np.mean(areas))}


def test_compactness_omits_classes_without_prototypes():
    model, split, _ = case()
    changed = TensorSamples(split.images, split.labels.clone(), CLASSES)
    changed.labels[::2] = 3  # the class without one
    found = measure(Compactness, model, changed)
    kept = changed.labels != 3
    assert found.n == int(kept.sum())
    assert found.items["image"]["needed"].tolist() == measure(Compactness).items["image"]["needed"][kept].tolist()
