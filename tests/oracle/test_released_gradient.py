"""The released backward of the norm-preserving deformable convolution, location by location in double precision."""

from math import floor, sqrt

import pytest
import torch

from baselines.deformable_conv import norm_preserving_conv

HEIGHT, WIDTH, DEPTH, COUNT = 3, 4, 2, 3


def corners_of(y, x):
    """The cells around a location with their shares, and the slopes of these by row and by column."""
    if y <= -1 or x <= -1 or y >= HEIGHT or x >= WIDTH:
        return
    low_y, low_x = floor(y), floor(x)
    down, right = y - low_y, x - low_x
    for row, share_y, slope_y in ((low_y, 1 - down, -1), (low_y + 1, down, 1)):
        for column, share_x, slope_x in ((low_x, 1 - right, -1), (low_x + 1, right, 1)):
            if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                yield row, column, share_y * share_x, slope_y * share_x, share_y * slope_x


def released(z, prototypes, offsets, upstream):
    """Outputs and gradients by loops over outputs, parts and channels."""
    output = torch.zeros_like(upstream)
    of_z, of_prototypes, of_offsets = (torch.zeros_like(value) for value in (z, prototypes, offsets))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for part in range(4):
                i, j = divmod(part, 2)
                at_y = y - 1 + 2 * i + float(offsets[0, 2 * part, y, x])
                at_x = x - 1 + 2 * j + float(offsets[0, 2 * part + 1, y, x])
                around = list(corners_of(at_y, at_x))
                for d in range(DEPTH):
                    feature = {(row, column): float(z[0, d, row, column]) for row, column, *_ in around}
                    square = sum(share * feature[row, column] ** 2 for row, column, share, *_ in around)
                    linear = sum(share * feature[row, column] for row, column, share, *_ in around)
                    output[0, :, y, x] += sqrt(square) * prototypes[:, d, i, j]
                    of_prototypes[:, d, i, j] += upstream[0, :, y, x] * linear
                    sample = float((upstream[0, :, y, x] * prototypes[:, d, i, j]).sum())
                    sample /= 2 * sqrt(square) + 1e-8
                    for row, column, share, slope_y, slope_x in around:
                        value = feature[row, column]
                        of_z[0, d, row, column] += 2 * value * share * sample
                        of_offsets[0, 2 * part, y, x] += sample * slope_y * value
                        of_offsets[0, 2 * part + 1, y, x] += sample * slope_x * value
    return output, of_z, of_prototypes, of_offsets


def inputs(kind):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    z = draw(1, DEPTH, HEIGHT, WIDTH).abs()
    offsets = 0.8 * draw(1, 8, HEIGHT, WIDTH)
    if kind == "unmoved beside zeros":
        z[z < 0.7] = 0.0
        offsets = torch.zeros_like(offsets)
    return z, draw(COUNT, DEPTH, 2, 2), offsets, draw(1, COUNT, HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", ["moved", "unmoved beside zeros"])
def test_released_gradients_are_those_of_the_loops(kind):
    z, prototypes, offsets, upstream = inputs(kind)
    output, *gradients = released(z, prototypes, offsets, upstream)
    leaves = [value.clone().requires_grad_() for value in (z, prototypes, offsets)]
    mine = norm_preserving_conv(*leaves, gradient="released")
    torch.testing.assert_close(mine, output, rtol=1e-12, atol=1e-12)
    mine.backward(upstream)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-9, atol=1e-9)


def test_released_gradient_is_not_the_exact_one():
    z, prototypes, offsets, upstream = inputs("moved")
    found = {}
    for gradient in ("exact", "released"):
        leaves = [value.clone().requires_grad_() for value in (z, prototypes, offsets)]
        values = norm_preserving_conv(*leaves, gradient=gradient)
        values.backward(upstream)
        found[gradient] = values.detach(), [leaf.grad for leaf in leaves]
    torch.testing.assert_close(found["exact"][0], found["released"][0])
    of_features, of_prototypes, of_offsets = zip(found["exact"][1], found["released"][1], strict=True)
    torch.testing.assert_close(*of_features, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(*of_prototypes, rtol=0.01)
    assert not torch.allclose(*of_offsets, rtol=0.1)


def test_tiny_offsets_vanish_in_single_precision():
    """At cell 2 an offset of 1e-8 is lost in the sum: there the square of a zero feature is 0, and the factor 1e8."""
    z = torch.zeros(1, 1, HEIGHT, WIDTH)
    z[0, 0, 2, 2] = 1.0
    offsets = torch.full((1, 8, HEIGHT, WIDTH), 1e-8, requires_grad=True)
    norm_preserving_conv(z, torch.ones(1, 1, 2, 2), offsets, gradient="released").sum().backward()
    assert offsets.grad.abs().max() > 1e7
