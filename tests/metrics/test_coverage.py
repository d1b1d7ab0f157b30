"""Coverage against loops over prototypes and parts, and cases worked by hand."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from metrics.coverage import Coverage
from tests.oracle import plain_loops
from tests.support.ragged_model import CLASSES, COUNT, case, measure
from tests.support.scripted_model import ScriptedModel, images, score

PLACES = {0: (5, 5), 24: (111, 111), 48: (218, 218)}  # peaks of hot cells of a 7 x 7 map


@pytest.mark.parametrize("threshold", [0.8, 0.3])
def test_coverage_is_that_of_the_loops(threshold):
    model, split, owned = case()
    limit, rows = Fraction(str(threshold)), []
    for label in range(CLASSES):
        own = [i for i in range(COUNT) if int(split.labels[i]) == label]
        stands, near, count = [], set(), 0
        for p in owned[label]:
            hit, shown = np.zeros(4, int), np.zeros(4, int)
            for i in own:
                at = plain_loops.peak(model.clean[i, p].tolist())
                hit += plain_loops.hit_vector(at, split.keypoints[i].tolist(), split.visible[i].tolist())
                shown += split.visible[i].numpy()
            rates = [Fraction(int(h), int(s)) if s else Fraction(-1) for h, s in zip(hit, shown, strict=True)]
            near |= {part for part, rate in enumerate(rates) if rate >= limit}
            if max(rates) >= limit:
                stands.append(rates.index(max(rates)))
                count += 1
        if owned[label]:
            rows.append((len(set(stands)), len(near), count))
    parts, near, count = np.array(rows).T
    found = measure(Coverage, threshold=threshold)
    assert (found.value, found.also["near"], found.n) == (parts.mean(), near.mean(), len(rows))
    assert found.also.get("repeated", -1) == pytest.approx(100 * (1 - parts.sum() / count.sum()) if count.sum() else -1)
    assert found.items["prototype"]["consistent"].sum() == count.sum()


def measured(cells, parts):
    """One class of two images; each prototype always peaks in its cell, each part is always at its place."""
    maps = torch.eye(49)[torch.tensor(cells)].unflatten(1, (7, 7)).expand(2, -1, -1, -1)
    model = ScriptedModel(torch.ones(len(cells), 1).bool(), maps)
    return score(Coverage, model, images(2), [0, 0], [parts] * 2, [[True] * len(parts)] * 2)


def test_one_part_found_six_times_counts_once():
    found = measured([24] * 6, [PLACES[24], PLACES[0]])
    assert (found.value, found.also["near"]) == (1, 1)
    assert found.also["repeated"] == pytest.approx(100 * 5 / 6)


def test_two_places_are_two_parts():
    found = measured([24, 24, 0], [PLACES[24], PLACES[0], PLACES[48]])
    assert (found.value, found.also["repeated"]) == (2, pytest.approx(100 / 3))


def test_one_prototype_near_three_parts_stands_for_one():
    found = measured([24], [(111, 111), (120, 111), (90, 100)])
    assert (found.value, found.also["near"], found.also["repeated"]) == (1, 3, 0)


def test_nothing_consistent():
    found = measured([0, 48], [PLACES[24]])
    assert (found.value, found.also) == (0, {"near": 0})
