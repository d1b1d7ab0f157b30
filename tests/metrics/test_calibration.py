"""Expected calibration error against a loop over bins."""

import numpy as np
import pytest

from metrics.calibration import Calibration
from tests.support.ragged_model import COUNT, case, measure


def test_calibration():
    model, split, _ = case()
    rows = []
    for i in range(COUNT):
        exponentials = [np.exp(float(value)) for value in model.answers[i]]
        confidence = max(exponentials) / sum(exponentials)
        rows.append((confidence, int(np.argmax(exponentials)) == int(split.labels[i])))
    error = 0
    for i in range(10):
        inside = [(conf, right) for conf, right in rows if i / 10 < conf <= (i + 1) / 10]
        if inside:
            gap = abs(sum(right for _, right in inside) - sum(conf for conf, _ in inside)) / len(inside)
            error += len(inside) / COUNT * gap
    found = measure(Calibration, bins=10)
    assert found.value == pytest.approx(100 * error)
    assert found.also["confidence"] == pytest.approx(100 * sum(conf for conf, _ in rows) / COUNT)
