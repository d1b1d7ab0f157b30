"""Consistency and stability against exact plain loops, on made-up maps and on real CUB annotations."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.contract import FitContext
from metrics.consistency import Consistency
from metrics.controls import Constant, ControlModel, FixedPixel, Random
from metrics.parts import peaks
from metrics.stability import Stability
from tests.oracle import plain_loops
from tests.support.scripted_model import ScriptedModel, images, score

CUB = Path(__file__).resolve().parents[3] / "shared" / "data" / "cub50"
real = pytest.mark.skipif(not CUB.is_dir(), reason="../shared/data/cub50 is absent: no real CUB annotations")

HOT_7 = (5, 47, 79, 111, 143, 175, 218)


# ------------------------------------------------------------------------------------------------ peaks


def agree(maps):
    """Peaks of maps ``(n, h, w)`` are those of exact arithmetic."""
    maps = torch.as_tensor(np.asarray(maps), dtype=torch.float32)
    found = [tuple(at) for at in peaks(maps[None])[0].tolist()]
    assert found == [plain_loops.peak(cells.numpy()) for cells in maps]


def test_the_loops_know_the_published_positions():
    for cell in range(7):
        one = np.zeros((7, 7))
        one[cell, 6 - cell] = 1
        assert plain_loops.peak(one) == (HOT_7[cell], HOT_7[6 - cell])
    assert plain_loops.peak(np.full((7, 7), 0.1)) == (0, 0)


@pytest.mark.parametrize("side", [7, 13, 14])
def test_peaks_of_random_maps(side):
    agree(np.random.default_rng(side).normal(size=(5, side, side)))


@pytest.mark.parametrize("side", [7, 13, 14])
def test_peaks_of_hot_cells(side):
    cells = [0, 1, side // 2, side - 2, side - 1]
    maps = np.zeros((10, side, side))
    for place, cell in enumerate(cells):
        maps[place, cell, side // 2] = 0.1
        maps[5 + place, cell, cell] = maps[5 + place, cell, side - 1 - cell] = 1 / 3
    agree(maps)


@pytest.mark.parametrize("side", [7, 13, 14])
def test_peaks_of_plateaus(side):
    maps = np.full((8, side, side), -0.7)
    for place in range(8):
        top, left, height, width = np.random.default_rng(place).integers(1, 5, size=4)
        maps[place, top : top + height, left : left + width] = 0.3
    agree(maps)


@pytest.mark.parametrize("side", [7, 14])
def test_peaks_of_maps_full_of_ties(side):
    random = np.random.default_rng(side)
    whole = random.integers(0, 2, size=(6, side, side))
    mirrored = np.maximum(whole, whole[:, ::-1, ::-1])  # each maximum has a twin of exactly the same height
    agree(0.1 * np.concatenate((whole, mirrored, mirrored | whole[:, :, ::-1] | whole[:, ::-1])))


def test_peaks_of_checkerboards_ramps_and_borders():
    row, column = np.mgrid[:7, :7]
    agree([
        (row + column) % 2, row, -row, column, -column, row + column, -(row - 3) ** 2 - (column - 3) ** 2,
        (row == 0) * 0.1, (column == 6) * 0.1, (row % 6 == 0) | (column % 6 == 0), (row == 3) | (column == 3),
        1e4 + 1e-3 * (row == 5), -1e6 * (row != 2),
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------- both scores


def made_up(side, seed):
    """Ragged classes (0, 1, 5, 6 and 8 images), shared prototypes, invisible parts, key-points on region borders."""
    random = np.random.default_rng(seed)
    labels = np.repeat([1, 2, 3, 4], [1, 5, 6, 8])[random.permutation(20)]
    classes = np.zeros((6, 5), dtype=bool)
    classes[[0, 0, 1, 2, 2, 3, 4, 4, 5], [0, 1, 2, 2, 3, 3, 1, 4, 4]] = True
    maps = random.integers(0, 3, size=(20, 6, side, side)).astype(np.float32) / 10
    maps[:, 0] = 0.1  # constant: peaks at (0, 0)
    maps[:, 2], maps[:, 3] = 0, 0
    maps[:, 2, side // 2, 2] = 1  # always the same cell
    maps[np.arange(20), 3, random.integers(0, 2, 20), 0] = 1  # one of two cells at the left border
    noisy = np.where(random.random((20, 6, 1, 1)) < 0.4, maps[:, :, ::-1], maps)
    points = random.choice([0, 5, 36, 37, 41, 42, 75, 74, 79, 115, 116, 147, 148, 182, 218, 224], size=(20, 7, 2))
    points[:, 0] = (0, 20)
    points[:, 1] = (115, 75)  # near the peak of prototype 2
    visible = random.random((20, 7)) < 0.7
    visible[:, 6] = False
    visible[labels == 2, :3] = True
    visible[labels == 1] = False
    return labels, classes, maps, noisy, points, visible


@pytest.mark.parametrize(("side", "seed"), [(7, 0), (14, 2)])
def test_scores_are_those_of_the_loops(side, seed):
    labels, classes, maps, noisy, points, visible = made_up(side, seed)
    owned = [(int(p), int(c)) for p, c in zip(*np.nonzero(classes), strict=True)]
    own = {(i, p) for i in range(20) for p, c in owned if c == labels[i]}

    def all_peaks(shown):
        return [{p: plain_loops.peak(shown[i, p]) for p in range(6) if (i, p) in own} for i in range(20)]

    before, after = all_peaks(maps), all_peaks(noisy)
    model = ScriptedModel(torch.as_tensor(classes), torch.as_tensor(maps), torch.as_tensor(noisy))
    for batches in (None, [[i] for i in range(19, -1, -1)], [range(0, 20, 2), range(1, 20, 2)]):
        found = score(Consistency, model, images(20), labels, points, visible, batches)
        value, units = plain_loops.consistency(before, owned, labels, points, visible)
        table = found.items["prototype"]
        keys = list(zip(table["prototype"].tolist(), table["class"].tolist(), strict=True))
        assert dict(zip(keys, table["consistent"].tolist(), strict=True)) == units
        assert (found.value, found.n) == (pytest.approx(value, abs=1e-12), len(owned))
        assert 0 < value < 100

        found = score(Stability, model, images(20), labels, points, visible, batches)
        value, units = plain_loops.stability(before, after, owned, labels, points, visible)
        table = found.items["prototype"]
        keys = list(zip(table["prototype"].tolist(), table["class"].tolist(), strict=True))
        assert dict(zip(keys, table["stable"].tolist(), strict=True)) == pytest.approx(units, abs=1e-12)
        assert (found.value, found.n) == (pytest.approx(value, abs=1e-12), len(units))
        assert 0 < value < 100


# ---------------------------------------------------------------------------------- real annotations


@pytest.fixture(scope="module")
def cub():
    return {split: plain_loops.read_cub(CUB, train=split == "train") for split in ("train", "test")}


def constant_peak(cub, row, column):
    labels, points, visible = cub["test"]
    model = ControlModel(50, 1, FixedPixel((row, column)))
    batches = torch.arange(len(labels)).split(256)
    return score(Consistency, model, torch.zeros(len(labels), 1, 1, 224), labels, points, visible, batches)


@real
def test_keypoints_are_truncated_twice(cub):
    # Image 1, beak: x = 176.0123 -> 176 -> 224 * 176 / 227 = 173.7 -> 173; y = 115.7401 -> 115 -> 113.5 -> 113.
    # (Truncated once, y would be 224 * 115.7401 / 227 = 114.2 -> 114.)
    labels, points, visible = cub["test"]
    assert (labels[0], points[0][1], visible[0][1]) == (0, (113, 173), True)
    assert len(labels) + len(cub["train"][0]) == 2952


@real
def test_constant_peak_scores_58_percent_and_transposed_none(cub):
    assert constant_peak(cub, 64, 112).value == 58.0
    assert constant_peak(cub, 112, 64).value <= 4.0
    labels, points, visible = cub["test"]
    owned, at = [(c, c) for c in range(50)], [[(64, 112)] * 50] * len(labels)
    assert plain_loops.consistency(at, owned, labels, points, visible)[0] == 58.0


@real
def test_the_constant_chosen_on_train_is_that_pixel(cub):
    labels, points, visible = cub["train"]
    train = SimpleNamespace(
        labels=torch.tensor(labels), keypoints=torch.tensor(points).double(), visible=torch.tensor(visible),
        size=224, classes=50, parts=[""] * 15,
    )  # fmt: skip
    task = FitContext(Constant.Config(), train, 0, torch.device("cpu"), None, None, None, None)
    Constant().fit(task)
    assert (task.facts["row"], task.facts["column"]) == (64, 112)
    owned, at = [(c, c) for c in range(50)], [[(64, 112)] * 50] * len(labels)
    assert task.facts["train_consistency"] == plain_loops.consistency(at, owned, labels, points, visible)[0]


@real
def test_random_peaks_score_the_chance_level(cub):
    # The chance that two cells drawn for an image have the same hit vector, counted over all 49 x 49. On all of CUB it
    # is 21.9 % if border cells peak at their centres. Hot border cells really peak at 5 or 218, so their regions are
    # smaller and more often empty.
    labels, points, visible = (column[::4] for column in cub["test"])
    chances = []
    for at, shown in zip(points, visible, strict=True):
        vectors = [tuple(plain_loops.hit_vector((y, x), at, shown)) for y in HOT_7 for x in HOT_7]
        chances.append(sum(vectors.count(vector) for vector in vectors) / 49**2)
    expected = 100 * sum(chances) / len(chances)
    assert 23 < expected < 26

    task = FitContext(Random.Config(per_class=4), SimpleNamespace(classes=50), 0, torch.device("cpu"), *[None] * 4)
    model = Random().fit(task)
    pictures = torch.randn(len(labels), 1, 1, 224, generator=torch.Generator().manual_seed(0))
    found = score(Stability, model, pictures, labels, points, visible)
    assert len(found.items["image"]["stable"]) == 4 * len(labels)
    # About 1,450 draws, so a standard error of 1.1 points.
    assert abs(100 * found.items["image"]["stable"].mean() - expected) < 3.3
    assert score(Consistency, model, pictures, labels, points, visible).value <= 10
