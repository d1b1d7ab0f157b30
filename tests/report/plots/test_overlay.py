"""Presence maps on pictures."""

import torch

from bench.report.plots.overlay import heat, pictures, present, rgb, tinted, upsampled
from metrics.peaks import interpolation_matrix, peaks


def test_maps_are_upsampled_as_the_part_metrics_do():
    maps = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    down, across = (interpolation_matrix(side, 224, torch.float64) for side in (7, 5))
    torch.testing.assert_close(upsampled(maps, 224), down @ maps.double() @ across.T, rtol=0, atol=1e-12)
    place = heat(maps, 224).flatten(2).argmax(2)
    assert torch.equal(torch.stack((place // 224, place % 224), 2), peaks(maps))


def test_heat_runs_from_zero_to_one_and_a_constant_map_has_none():
    maps = torch.stack((torch.arange(9.0).view(3, 3), torch.full((3, 3), 0.1)))[None]
    found = heat(maps, 30)
    assert (float(found[0, 0].min()), float(found[0, 0].max())) == (0, 1)
    assert not found[0, 1].any()


def test_a_map_that_is_nowhere_positive_has_no_heat():
    falling = -torch.arange(1.0, 10.0).view(3, 3)
    edge = falling + 1  # 0 at its highest
    maps = torch.stack((falling, edge, edge + 1e-6))[None]
    found = heat(maps, 30)
    assert present(maps).tolist() == [[False, False, True]]
    assert not found[0, :2].any()
    assert float(found[0, 2].max()) == 1


def test_pixel_has_the_colour_of_the_nearest_prototype():
    plain = torch.full((1, 1, 4, 3), 0.5)
    warmth = torch.tensor([[1.0, 0.9, 0.4, 0.0], [0.8, 1.0, 0.4, 0.5]]).view(1, 2, 1, 4)
    red, blue = rgb(["#FF0000", "#0000FF"])
    left, middle, neither, edge = tinted(plain, warmth, torch.stack((red, blue)))[0, 0]
    torch.testing.assert_close(left, 0.28 * plain[0, 0, 0] + 0.72 * red)
    torch.testing.assert_close(middle, 0.28 * plain[0, 0, 0] + 0.72 * blue)
    torch.testing.assert_close(neither, plain[0, 0, 0])  # below half of both ranges
    torch.testing.assert_close(edge, plain[0, 0, 0])


def test_each_image_may_have_colours_of_its_own():
    plain, warmth = torch.rand(2, 3, 3, 3), torch.rand(2, 1, 3, 3)
    colours = rgb(["#FF0000", "#0000FF"])[:, None]
    both = tinted(plain, warmth, colours)
    for i in range(2):
        assert torch.equal(both[i], tinted(plain[i : i + 1], warmth[i : i + 1], colours[i])[0])


def test_pictures_undo_the_normalisation():
    plain = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    normal = (plain - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(pictures(normal, 8, mean.tolist(), std.tolist()), plain.movedim(1, -1))
    assert pictures(normal, 16, mean.tolist(), std.tolist()).shape == (2, 16, 16, 3)
