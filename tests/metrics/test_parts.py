import doctest

import pytest
import torch

import metrics.parts
from bench.contract import NotApplicable
from metrics.parts import Region, Units, class_hits, columns, hits, merge_sides, overlaps, to_canvas
from tests.support.scripted_model import ScriptedModel, images, observe


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(metrics.parts)
    assert result.attempted >= 4
    assert result.failed == 0


@pytest.mark.parametrize(
    ("peak", "inside", "outside"),
    [
        (111, (75, 147), (74, 148)),  # 73 pixels wide
        (5, (0, 41), (-1, 42)),  # cut off at 0
        (218, (182, 224), (181, 225)),  # cut off at 224, which itself belongs to it
        (47, (11, 83), (10, 84)),
    ],
)
def test_regions_are_inclusive_and_clipped(peak, inside, outside):
    for other in (111, peak):
        points = torch.tensor([[(value, other) for value in inside + outside]], dtype=torch.float64)
        seen = torch.ones(1, 4, dtype=torch.bool)
        at = torch.tensor([[[peak, other]]])
        assert hits(at, points, seen).tolist() == [[[True, True, False, False]]]
        assert hits(at.flip(2), points.flip(2), seen).tolist() == [[[True, True, False, False]]]


def test_a_part_that_is_invisible_is_not_hit():
    points = torch.full((1, 2, 2), 111.0)
    assert hits(torch.tensor([[[111, 111]]]), points, torch.tensor([[False, True]])).tolist() == [[[False, True]]]


def test_keypoints_are_truncated_on_the_canvas_by_hand():
    # 224 * 63 / 64 = 220.5; 224 * 31.5 / 64 = 110.25; 224 * 176 / 227 = 173.67; 224 * -1 / 227 = -0.99 (toward zero)
    assert to_canvas(torch.tensor([63.0, 31.5]).double(), 64).tolist() == [220, 110]
    assert to_canvas(torch.tensor([176.0, 115.0, -1.0]).double(), 227).tolist() == [173, 113, 0]
    assert to_canvas(torch.tensor([12.75]).double(), 224).tolist() == [12.75]


def test_units_follow_the_table():
    units = Units(torch.tensor([[True, False, True], [False, False, False], [False, True, True]]))
    assert units.prototype.tolist() == [0, 0, 2, 2]
    assert units.label.tolist() == [0, 2, 1, 2]
    assert units.rows(torch.tensor([2, 0, 1]), torch.tensor([2, 0, 0])).tolist() == [3, 0, -1]


def test_class_hits_drop_padding_and_are_computed_once():
    classes = torch.tensor([[True, False], [True, False], [False, True]])
    maps = torch.zeros(2, 3, 7, 7)
    maps[0, 0, 3, 3] = maps[0, 1, 1, 3] = maps[1, 2, 6, 6] = 1
    model = ScriptedModel(classes, maps)
    points = torch.full((2, 1, 2), 111.0).double()
    [seen] = observe(model, images(2), torch.tensor([0, 1]), points, torch.ones(2, 1).bool(), [[0, 1]])
    found = class_hits(seen, Region())
    assert found.image.tolist() == [0, 0, 1]
    assert found.prototype.tolist() == [0, 1, 2]
    assert found.peaks.tolist() == [[111, 111], [47, 111], [218, 218]]
    assert found.hits.tolist() == [[True], [False], [False]]
    assert class_hits(seen, Region()) is found
    assert class_hits(seen, Region(half=64)).hits.tolist() == [[True], [True], [False]]


def test_class_hits_of_an_explanation_of_all_prototypes():
    # A model may ignore the restriction to a class; the prototypes of other classes are then left out here.
    class Plain(ScriptedModel):
        def head(self, features, classes=None):
            return super().head(features)

    maps = torch.eye(49).reshape(1, 49, 7, 7)[:, [24, 10]].repeat(2, 1, 1, 1)
    model = Plain(torch.eye(2, dtype=torch.bool), maps)
    labels, visible = torch.tensor([1, 0]), torch.ones(2, 1).bool()
    [seen] = observe(model, images(2), labels, torch.zeros(2, 1, 2), visible, [[0, 1]])
    found = class_hits(seen, Region())
    assert found.prototype.tolist() == [1, 0]
    assert found.peaks.tolist() == [[47, 111], [111, 111]]


def test_columns_sort_by_the_keys():
    rows = [torch.tensor([[3, 1, 7]]), torch.tensor([[3, 0, 8], [1, 5, 9]])]
    table = columns(rows, ("index", "prototype", "hit"), keys=2)
    assert {name: column.tolist() for name, column in table.items()} == {
        "index": [1, 3, 3], "prototype": [5, 0, 1], "hit": [9, 8, 7],
    }  # fmt: skip
    assert [len(column) for column in columns([], ("index", "hit"), keys=1).values()] == [0, 0]


def test_boxes_of_one_pixel_overlap_an_open_region():
    # The region of a peak at 111 is [75, 147]: a box [y, y + 1] shares area with it for y in (74, 147).
    points = torch.tensor([[(value, 111) for value in (74, 75, 146, 147)]]).double()
    seen = torch.ones(1, 4, dtype=torch.bool)
    assert overlaps(torch.tensor([[[111, 111]]]), points, seen).tolist() == [[[False, True, True, False]]]
    # At the lower border nothing is cut off: 218 + 36 = 254.
    low = torch.tensor([[(223, 111), (-1, 111)]]).double()
    assert overlaps(torch.tensor([[[218, 111]]]), low, seen[:, :2]).tolist() == [[[True, False]]]
    assert not overlaps(torch.tensor([[[111, 111]]]), points, ~seen).any()


def test_sides_are_merged_by_name():
    assert merge_sides(["back", "left eye", "left leg", "right eye", "right leg"]) == (0, 1, 2, 1, 2)


def test_merged_parts_are_hit_and_seen_by_either_side():
    maps = torch.zeros(3, 1, 7, 7)
    maps[:, 0, 3, 3] = 1
    model = ScriptedModel(torch.ones(1, 1).bool(), maps)
    points = torch.tensor([[(111, 111), (0, 0)], [(0, 0), (111, 111)], [(0, 0), (111, 111)]]).double()
    visible = torch.tensor([[True, True], [True, True], [True, False]])
    [seen] = observe(model, images(3), torch.zeros(3).long(), points, visible, [[0, 1, 2]])
    found = class_hits(seen, Region(merged=(0, 0)))
    assert found.hits.tolist() == [[True], [True], [False]]
    assert found.visible.tolist() == [[True]] * 3


def test_pooled_units_are_prototypes_with_a_class():
    units = Units(torch.tensor([[True, False, True], [False, False, False], [False, True, True]]), pooled=True)
    assert units.prototype.tolist() == [0, 2]
    assert units.rows(torch.tensor([2, 0, 2]), torch.tensor([2, 0, 0])).tolist() == [1, 0, -1]
    assert {name: column.tolist() for name, column in units.columns().items()} == {
        "prototype": [0, 2],
        "classes": [2, 2],
    }
    with pytest.raises(NotApplicable, match="nothing to pool"):
        Units(torch.eye(3).bool(), pooled=True)
