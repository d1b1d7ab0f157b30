import doctest

import pytest
import torch
from oracle.scripted import ScriptedModel, images, observe
from torch.nn.functional import interpolate

import metrics.parts
from bench.contract import CellError
from metrics.parts import Pairs, columns, hits, interpolation_matrix, own_hits, peaks, to_canvas

HOT_7 = (5, 47, 79, 111, 143, 175, 218)  # metrics.md, section 2.2


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(metrics.parts)
    assert result.attempted >= 6
    assert result.failed == 0


@pytest.mark.parametrize("source", [1, 2, 3, 7, 13, 14, 28, 56, 224, 300])
def test_interpolation_matrix_is_torchs_bicubic(source):
    maps = torch.randn(4, 1, source, source, dtype=torch.float64, generator=torch.Generator().manual_seed(source))
    matrix = interpolation_matrix(source, 224, torch.float64)
    expected = interpolate(maps, size=224, mode="bicubic", align_corners=False)
    torch.testing.assert_close(matrix @ maps @ matrix.T, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix.sum(1), torch.ones(224, dtype=torch.float64), rtol=0, atol=1e-15)


def test_interpolation_matrix_of_seven_cells_by_hand():
    # Pixel 111 lies 1/64 of a cell before the centre of cell 3, pixel 112 as far behind it.
    matrix = interpolation_matrix(7, 224, torch.float64)
    t = 1 / 64
    assert matrix[111, 3] == matrix[112, 3] == 1.25 * t**3 - 2.25 * t**2 + 1
    assert interpolation_matrix(7, 224).dtype == torch.float32
    assert torch.equal(matrix, matrix.flip(0, 1))


def test_interpolation_matrix_is_a_copy():
    interpolation_matrix(7, 224, torch.float64).zero_()
    assert interpolation_matrix(7, 224, torch.float64).sum() == 224


@pytest.mark.parametrize("side", [7, 13, 14, 28, 224])
def test_peaks_of_random_maps_are_those_of_torch(side):
    maps = torch.randn(20, 5, side, side, generator=torch.Generator().manual_seed(side))
    flat = interpolate(maps.double(), size=224, mode="bicubic", align_corners=False).flatten(2).argmax(2)
    assert torch.equal(peaks(maps), torch.stack((flat // 224, flat % 224), 2))


def test_peaks_of_oblong_maps_and_other_canvases():
    maps = torch.randn(3, 4, 5, 9, generator=torch.Generator().manual_seed(0))
    flat = interpolate(maps.double(), size=100, mode="bicubic", align_corners=False).flatten(2).argmax(2)
    assert torch.equal(peaks(maps, size=100), torch.stack((flat // 100, flat % 100), 2))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -7.3, 1 / 3, 1e-42, 3e38, -1e-30])
@pytest.mark.parametrize("side", [1, 6, 7, 13, 14, 28, 224])
def test_a_constant_map_peaks_in_the_first_pixel(side, value):
    assert peaks(torch.full((1, 1, side, side), value)).tolist() == [[[0, 0]]]


@pytest.mark.parametrize("height", [1.0, 0.1, 1 / 3, 1e-20, 7e30])
def test_a_single_hot_cell_peaks_where_the_specification_says(height):
    maps = (height * torch.eye(49)).reshape(1, 49, 7, 7)
    assert peaks(maps)[0].tolist() == [[row, column] for row in HOT_7 for column in HOT_7]


@pytest.mark.parametrize(("base", "rise"), [(0.1, 0.3), (-5.7, 1.1), (100.0, 2.0**-17), (-1e4, 3.0)])
def test_a_hot_cell_on_any_ground_peaks_in_the_same_place(base, rise):
    maps = base + (rise * torch.eye(49)).reshape(1, 49, 7, 7)
    assert peaks(maps)[0].tolist() == [[row, column] for row in HOT_7 for column in HOT_7]


@pytest.mark.parametrize("value", [1.0, 0.1, 0.7, 1e-9])
def test_of_two_equal_hot_cells_the_first_wins(value):
    # Far enough apart that neither bends the other's top; mirror images, so that their heights are equal.
    for first, second in [((1, 1), (5, 5)), ((1, 5), (5, 1)), ((3, 1), (3, 5)), ((1, 3), (5, 3)), ((0, 6), (6, 0))]:
        maps = torch.zeros(1, 1, 7, 7)
        maps[0, 0][first] = maps[0, 0][second] = value
        assert peaks(maps).tolist() == [[[HOT_7[first[0]], HOT_7[first[1]]]]]


def test_no_tie_where_one_cell_is_higher_by_a_single_bit():
    maps = torch.zeros(1, 1, 7, 7)
    maps[0, 0, 1, 1], maps[0, 0, 5, 5] = 1.0, 1.0 + 2.0**-23
    assert peaks(maps).tolist() == [[[175, 175]]]


@pytest.mark.parametrize("budget", [1, 10**6, 10**9])
def test_the_memory_budget_does_not_change_peaks(budget):
    maps = torch.randint(0, 3, (2, 5, 14, 14), generator=torch.Generator().manual_seed(3)).float()
    assert torch.equal(peaks(maps, budget=budget), peaks(maps))
    wide = maps.repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert torch.equal(peaks(wide, budget=budget), peaks(wide))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maps_of_any_precision(dtype):
    maps = torch.eye(49, dtype=dtype).reshape(1, 49, 7, 7)
    assert peaks(maps)[0].tolist() == [[row, column] for row in HOT_7 for column in HOT_7]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("cell", [(0, 0), (3, 4), (6, 6)])
def test_a_map_that_is_not_finite_is_refused_by_name(value, cell):
    maps = torch.zeros(3, 4, 7, 7)
    maps[2, 1][cell] = value
    with pytest.raises(CellError, match=r"1 of 12 .* map 1 of image 2 in the batch"):
        peaks(maps)


def test_a_nan_is_refused_where_nothing_is_interpolated():
    maps = torch.zeros(1, 2, 224, 224)
    maps[0, 1, 100, 100] = float("nan")
    with pytest.raises(CellError, match="map 1 of image 0"):
        peaks(maps)


def test_no_images_and_no_maps():
    assert peaks(torch.zeros(0, 4, 7, 7)).shape == (0, 4, 2)
    assert peaks(torch.zeros(2, 0, 7, 7)).shape == (2, 0, 2)


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


def test_pairs_follow_the_table():
    pairs = Pairs(torch.tensor([[True, False, True], [False, False, False], [False, True, True]]))
    assert pairs.prototype.tolist() == [0, 0, 2, 2]
    assert pairs.label.tolist() == [0, 2, 1, 2]
    assert pairs.rows(torch.tensor([2, 0, 1]), torch.tensor([2, 0, 0])).tolist() == [3, 0, -1]


def test_own_hits_drop_padding_and_are_computed_once():
    classes = torch.tensor([[True, False], [True, False], [False, True]])
    maps = torch.zeros(2, 3, 7, 7)
    maps[0, 0, 3, 3] = maps[0, 1, 1, 3] = maps[1, 2, 6, 6] = 1
    model = ScriptedModel(classes, maps)
    points = torch.full((2, 1, 2), 111.0).double()
    [seen] = observe(model, images(2), torch.tensor([0, 1]), points, torch.ones(2, 1).bool(), [[0, 1]])
    found = own_hits(seen)
    assert found.image.tolist() == [0, 0, 1]
    assert found.prototype.tolist() == [0, 1, 2]
    assert found.peaks.tolist() == [[111, 111], [47, 111], [218, 218]]
    assert found.hits.tolist() == [[True], [False], [False]]
    assert own_hits(seen) is found
    assert own_hits(seen, half=64).hits.tolist() == [[True], [True], [False]]


def test_own_hits_of_an_explanation_of_all_prototypes():
    # A model may ignore the restriction to a class; the prototypes of other classes are then left out here.
    class Plain(ScriptedModel):
        def head(self, features, classes=None):
            return super().head(features)

    maps = torch.eye(49).reshape(1, 49, 7, 7)[:, [24, 10]].repeat(2, 1, 1, 1)
    model = Plain(torch.eye(2, dtype=torch.bool), maps)
    labels, visible = torch.tensor([1, 0]), torch.ones(2, 1).bool()
    [seen] = observe(model, images(2), labels, torch.zeros(2, 1, 2), visible, [[0, 1]])
    found = own_hits(seen)
    assert found.prototype.tolist() == [1, 0]
    assert found.peaks.tolist() == [[47, 111], [111, 111]]


def test_columns_sort_by_the_keys():
    rows = [torch.tensor([[3, 1, 7]]), torch.tensor([[3, 0, 8], [1, 5, 9]])]
    table = columns(rows, ("index", "prototype", "hit"), keys=2)
    assert {name: column.tolist() for name, column in table.items()} == {
        "index": [1, 3, 3], "prototype": [5, 0, 1], "hit": [9, 8, 7],
    }  # fmt: skip
    assert [len(column) for column in columns([], ("index", "hit"), keys=1).values()] == [0, 0]
