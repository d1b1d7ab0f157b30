from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from bench.contract import CellError
from metrics.controlled import ControlledConsistency
from metrics.fixed_positions import best_positions, fixed_hits, grid
from tests.support.scripted_model import ScriptedModel, images, observe

CENTRE, CORNER = 24, 0  # cells of a 7 x 7 map: peaks at (111, 111) and (5, 5)


def hot(cells):
    return torch.eye(49)[torch.tensor(cells)].unflatten(2, (7, 7))


def split(points, labels, classes):
    """Annotations of images whose parts are all visible."""
    points = torch.tensor(points, dtype=torch.float64)
    return SimpleNamespace(
        keypoints=points, visible=torch.ones(points.shape[:2], dtype=torch.bool), labels=torch.tensor(labels),
        size=224, classes=classes, parts=["part"] * points.shape[1],
    )  # fmt: skip


def measure(cells, test, train, **settings):
    """One prototype per class, peaking in ``cells`` (one per image and class)."""
    model = ScriptedModel(torch.eye(test.classes).bool(), hot(cells))
    metric = ControlledConsistency(ControlledConsistency.Config(**settings), test, model.prototypes)
    metric.prepare(train)
    data = images(len(test.labels)), test.labels, test.keypoints, test.visible
    for seen in observe(model, *data, [range(len(test.labels))]):
        metric.update(seen)
    return metric.compute()


def test_a_fixed_place_of_its_own_class_counts_nothing():
    # The part is always near (111, 111): a fixed place hits it every time, and so does the prototype.
    still = split([[(111, 111)]] * 4, [0] * 4, 1)
    found = measure([[CENTRE]] * 4, still, still)
    assert (found.value, found.also["every"], found.n) == (0.0, 0.0, 1)


def test_a_prototype_that_follows_its_part_counts():
    # The part jumps between two corners; a fixed place hits it in half of the images.
    corners = [(5, 5), (218, 218)] * 2
    moving = split([[at] for at in corners], [0] * 4, 1)
    found = measure([[0], [48], [0], [48]], moving, moving)
    assert (found.value, found.also["every"]) == (100.0, 100.0)


def test_lucky_place_beats_the_training_place_not_every_place():
    # In training the part is at the lower right, in the test images at the upper left, near the peak.
    train, test = split([[(218, 218)]] * 4, [0] * 4, 1), split([[(5, 5)]] * 4, [0] * 4, 1)
    found = measure([[CORNER]] * 4, test, train)
    assert (found.value, found.also["every"]) == (100.0, 0.0)
    assert found.items["prototype"]["row"].tolist() == [208]


def test_it_has_to_be_consistent_in_the_first_place():
    # Three of four images: more than a fixed place's one, but below 80 %.
    points = [[(5, 5)], [(218, 218)], [(5, 218)], [(218, 5)]]
    spread = split(points, [0] * 4, 1)
    assert measure([[0], [48], [6], [24]], spread, spread).value == 0
    assert measure([[0], [48], [6], [24]], spread, spread, threshold=0.75).value == 100


def test_parts_are_compared_one_by_one():
    # Part 0 is always in the middle; part 1 jumps, and the prototype follows it.
    points = [[(111, 111), (5, 5)], [(111, 111), (218, 218)]] * 2
    both = split(points, [0] * 4, 1)
    assert measure([[0], [48], [0], [48]], both, both).value == 100
    assert measure([[CENTRE]] * 4, both, both).value == 0


def test_classes_have_places_of_their_own():
    train = split([[(5, 5)], [(218, 218)]], [0, 1], 2)
    assert measure([[CORNER, 48], [CORNER, 48]], train, train).items["prototype"]["row"].tolist() == [32, 208]


def test_fixed_hits_are_those_of_plain_loops():
    generator = torch.Generator().manual_seed(0)
    some = split(torch.randint(0, 225, (12, 3, 2), generator=generator).tolist(), [0, 1, 2] * 4, 4)
    some.visible = torch.rand(12, 3, generator=generator) < 0.7
    pixels = grid(32)
    hit, visible = fixed_hits(some, pixels)
    assert hit.shape == (4, 49, 3)
    for c in range(4):
        for k in range(3):
            own = [i for i in range(12) if some.labels[i] == c and some.visible[i, k]]
            assert visible[c, k] == len(own)
            for g, (row, column) in enumerate(pixels.tolist()):
                inside = 0
                for i in own:
                    y, x = some.keypoints[i, k].tolist()
                    inside += abs(y - row) <= 36 and abs(x - column) <= 36
                assert hit[c, g, k] == inside


def test_parts_that_few_images_show_do_not_choose_the_place():
    hit = torch.tensor([[[9, 1], [8, 0]], [[1, 0], [0, 2]]])  # two classes, two places, two parts
    assert best_positions(hit, torch.tensor([[10, 1], [3, 3]]), enough=3).tolist() == [0, 1]
    assert best_positions(hit, torch.tensor([[2, 1], [0, 0]]), enough=3).tolist() == [0, 1]


def test_broken_maps_and_nothing_to_score():
    still = split([[(111, 111)]], [0], 1)
    model = ScriptedModel(torch.ones(1, 1).bool(), torch.full((1, 1, 7, 7), float("nan")))
    metric = ControlledConsistency(ControlledConsistency.Config(), still, model.prototypes)
    metric.prepare(still)
    with pytest.raises(CellError, match="NaN"):
        [metric.update(seen) for seen in observe(model, images(1), still.labels, still.keypoints, still.visible, [[0]])]
    none = ScriptedModel(torch.zeros(0, 1).bool(), torch.zeros(1, 0, 7, 7))
    metric = ControlledConsistency(ControlledConsistency.Config(), still, none.prototypes)
    metric.prepare(still)
    with pytest.raises(CellError, match="no prototype"):
        metric.compute()


@pytest.mark.parametrize("settings", [{"threshold": 0}, {"grid": 0}, {"half_size": -1}, {"enough": -1}])
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ValidationError):
        ControlledConsistency.Config(**settings)
