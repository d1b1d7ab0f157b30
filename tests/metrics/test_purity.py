"""Purity against a loop over the images of the highest scores."""

import numpy as np
import pytest

from metrics.purity import Purity
from tests.oracle import plain_loops
from tests.support.ragged_model import COUNT, NAMES, case, measure


def test_purity():
    model, split, owned = case()
    units = [(p, c) for p in range(5) for c in range(3) if p in owned[c]]
    expected = {}
    for p, c in units:
        own = [i for i in range(COUNT) if split.labels[i] == c]
        own = sorted(own, key=lambda i: (-float(model.clean[i, p].max()), i))[:3]
        shares = dict.fromkeys(("eye", "beak", "tail"), 0)
        for i in own:
            at = plain_loops.peak(model.clean[i, p].tolist())
            hit = plain_loops.hit_vector(at, split.keypoints[i].tolist(), split.visible[i].tolist(), half=16)
            for name in shares:
                shares[name] += any(h and name in part for h, part in zip(hit, NAMES, strict=True))
        expected[p, c] = max(shares.values()) / len(own)
    found = measure(Purity, top=3)
    table = found.items["prototype"]
    keys = zip(table["prototype"].tolist(), table["class"].tolist(), strict=True)
    assert dict(zip(keys, table["purity"].tolist(), strict=True)) == pytest.approx(expected)
    assert found.value == pytest.approx(100 * np.mean(list(expected.values())))
    assert 0 < found.value < 100
