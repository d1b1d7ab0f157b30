import doctest

import pytest
import torch
from torch.nn.functional import interpolate

import metrics.peaks
from bench.contract import CellError
from metrics.peaks import centres, interpolation_matrix, peaks

HOT_7 = (5, 47, 79, 111, 143, 175, 218)  # of cv2.resize with bicubic interpolation


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(metrics.peaks)
    assert result.attempted >= 4
    assert result.failed == 0


@pytest.mark.parametrize("source", [1, 2, 3, 7, 13, 14, 28, 56, 224, 300])
def test_interpolation_matrix_is_torchs_bicubic(source):
    maps = torch.randn(4, 1, source, source, dtype=torch.float64, generator=torch.Generator().manual_seed(source))
    matrix = interpolation_matrix(source, 224, torch.float64)
    expected = interpolate(maps, size=224, mode="bicubic", align_corners=False)
    torch.testing.assert_close(matrix @ maps @ matrix.T, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix.sum(1), torch.ones(224, dtype=torch.float64), rtol=0, atol=1e-15)


def test_interpolation_matrix_of_seven_cells_by_hand():
    # Pixel 111 is 1/64 of a cell before the centre of cell 3, pixel 112 as far behind it.
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
def test_a_single_hot_cell_peaks_as_in_opencv(height):
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


def test_no_tie_if_one_cell_is_higher_by_a_single_bit():
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_it_is_refused_without_interpolation_too(value):
    maps = torch.zeros(1, 2, 224, 224)
    maps[0, 1, 100, 100] = value
    with pytest.raises(CellError, match="map 1 of image 0"):
        peaks(maps)


def test_no_images_and_no_maps():
    assert peaks(torch.zeros(0, 4, 7, 7)).shape == (0, 4, 2)
    assert peaks(torch.zeros(2, 0, 7, 7)).shape == (2, 0, 2)


@pytest.mark.parametrize("side", [7, 14, 28, 56])
def test_searched_peaks_are_those_of_all_pixels(side):
    # Smooth, rough and nearly flat maps, some with many equal maxima: the search and the whole image agree.
    generator = torch.Generator().manual_seed(side)
    smooth = interpolate(torch.randn(1, 40, 4, 4, generator=generator), size=side, mode="bicubic")
    rough = torch.randn(1, 40, side, side, generator=generator)
    tied = torch.randint(0, 2, (1, 40, side, side), generator=generator).float()
    flat = 1 + 1e-6 * rough
    maps = torch.cat((smooth, rough, tied, flat, -smooth.exp(), 1e30 * rough, 1e-30 * rough), 1)
    places, tops = metrics.peaks._whole(maps[0], 224, 2**22)
    assert torch.equal(peaks(maps)[0], torch.stack((places // 224, places % 224), 1))
    assert torch.isfinite(tops).all()


def test_centres_of_cells():
    maps = torch.zeros(1, 3, 13, 7)
    maps[0, 0, 6, 3] = maps[0, 1, 12, 0] = maps[0, 1, 12, 1] = 1
    # (6 + 1/2) 224 / 13 = 112; (12 + 1/2) 224 / 13 = 215.4; (3 + 1/2) 224 / 7 = 112. Of equals the first.
    assert centres(maps).tolist() == [[[112, 112], [215, 16], [9, 16]]]
    maps[0, 1, 0, 0] = float("inf")
    with pytest.raises(CellError, match=r"1 of 3 .* map 1 of image 0"):
        centres(maps)
