"""Contrastivity against a loop over pairs of peaks."""

from math import sqrt

import numpy as np
import pytest

from metrics.contrastivity import Contrastivity
from tests.oracle import plain_loops
from tests.support.ragged_model import COUNT, case, measure


def test_contrastivity():
    model, split, owned = case()
    distances, near = [], []
    for i in range(COUNT):
        at = [plain_loops.peak(model.clean[i, p].tolist()) for p in owned[int(split.labels[i])]]
        pairs = [(one, two) for k, one in enumerate(at) for two in at[k + 1 :]]
        distances.append(np.mean([sqrt((a - c) ** 2 + (b - d) ** 2) for (a, b), (c, d) in pairs]))
        near.append(np.mean([abs(a - c) <= 36 and abs(b - d) <= 36 for (a, b), (c, d) in pairs]))
    found = measure(Contrastivity)
    assert found.value == pytest.approx(100 * np.mean(distances) / 224)
    assert found.also["same"] == pytest.approx(100 * np.mean(near))
