"""Distinctiveness against loops over pairs of boxes, and its chance levels."""

from itertools import combinations, product

import numpy as np
import pytest
import torch

from bench.contract import NotApplicable
from metrics.distinctiveness import Distinctiveness, overlap
from tests.oracle import plain_loops
from tests.support.chance_levels import CELLS, distinctiveness_of, drawn_peaks
from tests.support.ragged_model import CLASSES, COUNT, SumOfMaps, case, measure


def shared(one, two, cut):
    """Intersection over union of two boxes, each as its set of rows and its set of columns of whole pixels."""
    sides = []
    for axis in (0, 1):
        ranges = [range(max(0, p[axis] - 36) if cut else p[axis] - 36,
                        min(224, p[axis] + 36) if cut else p[axis] + 36) for p in (one, two)]  # fmt: skip
        sides.append([set(pixels) for pixels in ranges])
    (r1, r2), (c1, c2) = sides
    both = len(r1 & r2) * len(c1 & c2)
    return both / (len(r1) * len(c1) + len(r2) * len(c2) - both)


def official_peak(cells):
    """First maximum of a map that is pooled 2 x 2 and enlarged bilinearly, in plain Python."""
    rows, columns = len(cells) // 2, len(cells[0]) // 2
    small = [[sum(cells[2 * r + i][2 * c + j] for i, j in product((0, 1), (0, 1))) / 4 for c in range(columns)]
             for r in range(rows)]  # fmt: skip

    def between(pixel, count):
        at = min(max((pixel + 0.5) * count / 224 - 0.5, 0), count - 1)
        return int(at), min(int(at) + 1, count - 1), at - int(at)

    best, where = -np.inf, None
    for y in range(224):
        r, below, down = between(y, rows)
        for x in range(224):
            c, beside, right = between(x, columns)
            value = (1 - down) * ((1 - right) * small[r][c] + right * small[r][beside])
            value += down * ((1 - right) * small[below][c] + right * small[below][beside])
            if value > best + 1e-12:  # equal but for rounding
                best, where = value, (y, x)
    return where


@pytest.mark.parametrize(("settings", "top", "cut"), [({}, 9, True), ({"top": 2}, 2, True)])
def test_distinctiveness_is_that_of_the_loops(settings, top, cut):
    model, split, owned = case()
    expected, same = [], []
    for i in range(COUNT):
        own = sorted(owned[int(split.labels[i])], key=lambda p: -float(model.clean[i, p].max()))[:top]
        at = [plain_loops.peak(model.clean[i, p].tolist()) for p in own]
        pairs = list(combinations(at, 2))
        expected.append(1 - np.mean([shared(*pair, cut) for pair in pairs]))
        same.append(np.mean([one == two for one, two in pairs]))
    found = measure(Distinctiveness, **settings)
    assert (found.value, found.also["same"]) == pytest.approx((100 * np.mean(expected), 100 * np.mean(same)))


def test_official_variant_pools_and_lets_boxes_leave_the_image():
    model, split, owned = case()
    expected = []
    for i in range(COUNT):
        at = [official_peak(model.clean[i, p].tolist()) for p in owned[int(split.labels[i])]]
        expected.append(1 - np.mean([shared(*pair, cut=False) for pair in combinations(at, 2)]))
    assert measure(Distinctiveness, variant="official", top=5).value == pytest.approx(100 * np.mean(expected))
    with pytest.raises(NotApplicable, match="2 x 2"):
        measure(Distinctiveness, SumOfMaps(model.prototypes.classes, model.clean[:, :, :1]), variant="official")


def test_boxes_worked_by_hand():
    # Half of each is shared: 36 of 72 columns, so 1/3. In the corner (0, 0) 36 x 36 pixels of a box are left.
    peaks = torch.tensor([[[100, 100], [100, 136], [0, 0], [0, 36], [200, 20]]])
    found = overlap(peaks)[0]
    assert found[0, 1] == pytest.approx(1 / 3)
    assert found[2, 3] == pytest.approx(0.5)
    assert (found[0, 4], found[0, 0]) == (0, 1)
    assert overlap(peaks, size=None)[0, 2, 3] == pytest.approx(1 / 3)


def test_one_place_for_all_is_not_distinct():
    _, split, _ = case()
    maps = torch.zeros(COUNT, 3, 7, 7)
    maps[..., 3, 3] = 1
    found = measure(Distinctiveness, SumOfMaps(torch.ones(3, CLASSES).bool(), maps), split)
    assert (found.value, found.also["same"]) == (0, 100)


# Quoted in the literature's review for K = 2 to 10, of which the expectation does not depend.
@pytest.mark.parametrize(
    ("where", "level"), [("pixels", 0.940), ("cells", 0.930), ("distinct", 0.950), ("middle", 0.724)]
)
def test_chance_levels_of_random_places(where, level):
    assert distinctiveness_of(drawn_peaks(where, 4000, 5)) == pytest.approx(level, abs=0.004)
    assert len(CELLS) == 7
