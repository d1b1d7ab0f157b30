"""Cancellation against norms written out, and maps that cancel by hand."""

from math import sqrt

import pytest
import torch

from bench.contract import NotApplicable
from metrics.cancellation import Cancellation
from tests.support.ragged_model import COUNT, SumOfMaps, case, measure


def test_cancellation():
    model, split, owned = case()
    ratios = []
    for i in range(COUNT):
        own = [model.clean[i, p].flatten().tolist() for p in owned[int(split.labels[i])]]
        parts = sum(sqrt(sum(v * v for v in one)) for one in own)
        whole = sqrt(sum(sum(column) ** 2 for column in zip(*own, strict=True)))
        ratios.append(parts / whole)
    assert measure(Cancellation).value == pytest.approx(sum(ratios) / COUNT)


def test_cancellation_is_one_without_and_large_with():
    ones = torch.ones(COUNT, 2, 7, 7)
    owners = torch.tensor([[1, 1, 1, 1]] * 2).bool()
    assert measure(Cancellation, SumOfMaps(owners, ones)).value == pytest.approx(1)
    ones[:, 1] = -0.9
    assert measure(Cancellation, SumOfMaps(owners, ones)).value == pytest.approx(19)
    with pytest.raises(NotApplicable, match="other than zero"):
        measure(Cancellation, SumOfMaps(owners, 0 * ones))
