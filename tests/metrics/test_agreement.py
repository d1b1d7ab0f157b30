"""Part agreement against both scores computed from counts."""

from math import comb

import numpy as np
import pytest
import torch
from torch import nn

from bench.contract import NotApplicable
from metrics.agreement import PartAgreement
from tests.support.ragged_model import CLASSES, COUNT, NAMES, SumOfMaps, case, measure
from tests.support.samples import TensorSamples


def information(pairs):
    """Normalised mutual information (arithmetic mean of the entropies) from counts."""
    n, one, two = len(pairs), [a for a, _ in pairs], [b for _, b in pairs]

    def entropy(values):
        return -sum(values.count(v) / n * np.log(values.count(v) / n) for v in set(values))

    mutual = entropy(one) + entropy(two) - entropy(pairs)
    return mutual / ((entropy(one) + entropy(two)) / 2) if mutual > 1e-12 else 0.0


def adjusted_rand(pairs):
    """Hubert and Arabie's index from pairs of items: together in both, beyond chance."""
    one, two = [a for a, _ in pairs], [b for _, b in pairs]

    def together(values):
        return sum(comb(values.count(v), 2) for v in set(values))

    expected = together(one) * together(two) / comb(len(pairs), 2)
    return (together(pairs) - expected) / ((together(one) + together(two)) / 2 - expected)


def test_part_agreement():
    model, split, owned = case()
    classes, indices, everything = [], [], []
    for c in range(3):
        pairs = []
        for i in range(COUNT):
            if split.labels[i] != c:
                continue
            exact = nn.functional.interpolate(model.clean[i : i + 1].double(), size=224, mode="bicubic")[0]
            for k in range(4):
                if split.visible[i, k]:
                    y, x = (int(v) for v in split.keypoints[i, k])
                    values = [float(exact[p, y, x]) for p in owned[c]]
                    pairs.append((k, owned[c][int(np.argmax(values))]))
        classes.append(information(pairs))
        indices.append(adjusted_rand(pairs))
        everything += pairs
    found = measure(PartAgreement)
    assert found.value == pytest.approx(100 * np.mean(classes))
    assert found.also["ari"] == pytest.approx(100 * np.mean(indices))
    assert found.also["overall"] == pytest.approx(100 * information(everything))


def test_a_part_per_prototype_agrees_wholly():
    _, split, _ = case()
    maps = torch.zeros(COUNT, 4, 7, 7)
    spots = [(16, 16), (16, 208), (208, 16), (208, 208)]
    for k, (y, x) in enumerate(spots):
        maps[:, k, y // 32, x // 32] = 1
    changed = TensorSamples(split.images, split.labels, CLASSES)
    changed.keypoints = torch.tensor([spots] * COUNT).double()
    changed.visible = torch.ones(COUNT, 4).bool()
    changed.parts = NAMES
    found = measure(PartAgreement, SumOfMaps(torch.ones(4, CLASSES).bool(), maps), changed)
    assert (found.value, found.also["ari"], found.also["overall"]) == (pytest.approx(100),) * 3
    changed.visible[:, 1:] = False
    with pytest.raises(NotApplicable, match="no class shows two parts"):
        measure(PartAgreement, SumOfMaps(torch.ones(4, CLASSES).bool(), maps), changed)
