"""Fidelity to a black box against a loop over images."""

import numpy as np
import pytest
from torch import nn

from bench.contract import NotApplicable
from metrics.fidelity import Fidelity
from tests.support.ragged_model import COUNT, case, measure


def test_fidelity():
    model, split, _ = case()
    answers = model.answers.clone()
    answers[3] = -answers[3]
    answers[5, 0] += 0.25
    other = nn.Module()
    other.forward = lambda pictures: answers[(pictures[:, 0, 0, 0] / 10).round().long()]
    found = measure(Fidelity, black_box=other)
    same = [int(model.answers[i].argmax() == answers[i].argmax()) for i in range(COUNT)]
    right = [int(which[i].argmax() == split.labels[i]) for which in (model.answers, answers) for i in range(COUNT)]
    assert found.value == pytest.approx(100 * np.mean(same))
    assert found.also["accuracy_gain"] == pytest.approx(100 * (np.mean(right[:COUNT]) - np.mean(right[COUNT:])))
    assert found.also["logit_difference"] == pytest.approx(float((model.answers - answers).abs().max()))
    with pytest.raises(NotApplicable, match="black box"):
        measure(Fidelity)
