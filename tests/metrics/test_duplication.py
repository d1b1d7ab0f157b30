"""Duplication against a loop over pairs of prototypes, and twins made by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from metrics.duplication import Duplication
from tests.support.ragged_model import CLASSES, COUNT, SumOfMaps, case, measure


def correlation(one, two):
    a, b = np.array(one, dtype=float), np.array(two, dtype=float)
    return np.corrcoef(a, b)[0, 1]


def test_duplication():
    model, split, owned = case()
    pairs, repeated = 0, 0
    for c in range(3):
        own = [i for i in range(COUNT) if split.labels[i] == c]
        for p in owned[c]:
            pairs += 1
            means = [
                np.mean([correlation(*(model.clean[i, r].flatten().tolist() for r in (p, q))) for i in own])
                for q in owned[c] if q != p
            ]  # fmt: skip
            repeated += max(means) >= 0.95
    found = measure(Duplication)
    assert (found.value, found.n) == (pytest.approx(100 * repeated / pairs), pairs)
    assert 0 < found.value < 100


def test_a_frame_that_all_maps_have_makes_no_twins():
    """Cells that look beyond the image are always zeros; with them, these maps correlate by 0.97."""
    inner = 1 + 0.2 * torch.rand(COUNT, 5, 5, 5, generator=torch.Generator().manual_seed(1))
    framed = SumOfMaps(torch.ones(5, CLASSES).bool(), nn.functional.pad(inner, (1, 1, 1, 1)))
    assert measure(Duplication, framed).value == 100
    framed.border = 1
    assert measure(Duplication, framed).value == 0
    twins = SumOfMaps(torch.ones(5, CLASSES).bool(), nn.functional.pad(inner[:, [0, 0, 1, 2, 3]], (1, 1, 1, 1)))
    twins.border = 1
    assert measure(Duplication, twins).value == pytest.approx(40)


def test_constant_maps_repeat_each_other_and_nothing_else():
    owners = torch.tensor([[1, 1, 1, 1]] * 3).bool()
    maps = torch.rand(COUNT, 3, 7, 7)
    maps[:, 0], maps[:, 1] = 0.1, -5.0
    table = measure(Duplication, SumOfMaps(owners, maps)).items["prototype"]
    assert {p: set(table["repeated"][table["prototype"] == p].tolist()) for p in range(3)} == {0: {1}, 1: {1}, 2: {0}}


def test_prototypes_from_one_patch_count_as_sources():
    model = SumOfMaps(torch.tensor([[1, 1, 1, 1]] * 3).bool(), torch.rand(COUNT, 3, 7, 7))
    model.prototypes.source_image[:] = torch.tensor([4, 4, 4])
    model.prototypes.source_patch[:] = torch.tensor([[1, 2], [1, 2], [2, 2]])
    assert measure(Duplication, model).also == {"sources": pytest.approx(200 / 3)}
