import doctest

import numpy as np
import pytest
import torch

import metrics.noise
from metrics.noise import NoiseAhead, gaussian_noise

SHAPE = (3, 32, 32)


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics.noise) == (0, 5)


def test_noise_depends_on_the_image_alone():
    index = torch.tensor([5, 0, 17, 3])
    whole = gaussian_noise(index, SHAPE)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(whole[order], gaussian_noise(index[order], SHAPE))
    assert torch.equal(whole[1:2], gaussian_noise(torch.tensor([0]), SHAPE))


def test_images_draws_and_seeds_differ():
    index = torch.tensor([1])
    made = [gaussian_noise(index + image, SHAPE, seed=seed, draw=draw)
            for image in range(2) for seed in range(2) for draw in range(2)]  # fmt: skip
    for first in range(8):
        for second in range(first):
            product = (made[first] * made[second]).mean() / made[first].var()
            assert abs(product) < 0.08  # 4.4 standard errors of 3,072 values


def test_the_distribution_is_that_of_the_specification():
    noise = gaussian_noise(torch.arange(40), SHAPE).double()  # 122,880 values
    assert noise.abs().max() == 0.25
    assert abs((noise.abs() == 0.25).double().mean() - 0.2113) < 0.006  # P(|z| > 1.25)
    assert abs(noise.std() - 0.163) < 0.002
    assert abs(noise.mean()) < 0.003
    inner = noise[noise.abs() < 0.25]
    assert abs((inner.abs() < 0.1).double().sum() / noise.numel() - 0.3829) < 0.007  # P(|z| < 0.5)


def test_sigma_and_clip():
    noise = gaussian_noise(torch.arange(4), SHAPE, sigma=0.05, clip=10.0)
    assert abs(noise.std() - 0.05) < 0.002
    assert noise.abs().max() > 0.15
    assert (gaussian_noise(torch.arange(2), SHAPE, sigma=0.0) == 0).all()
    assert gaussian_noise(torch.arange(0), SHAPE).shape == (0, *SHAPE)


def test_each_image_has_a_generator_of_its_own():
    drawn = np.random.default_rng((3, 1, 7)).standard_normal(SHAPE, dtype=np.float32)
    expected = torch.from_numpy(drawn).mul(0.2).clamp(-0.25, 0.25)
    assert torch.equal(gaussian_noise(torch.tensor([7]), SHAPE, seed=3, draw=1)[0], expected)


SETTINGS = {"sigma": 0.2, "clip": 0.25, "seed": 3}


@pytest.mark.parametrize(
    ("draws", "asked"),
    [
        (1, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        (3, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        (1, [[5, 2], [6, 7], [0, 1], [2, 3], [2, 3], []]),  # another order than that of the split
        (2, [[4, 5, 6, 7], [0], [1, 2]]),
    ],
)
def test_noise_that_is_drawn_ahead_is_the_same(draws, asked):
    ahead = NoiseAhead(8, SHAPE, draws, **SETTINGS)
    for index in map(torch.tensor, asked):
        for draw in range(draws):
            assert torch.equal(ahead.of(index, draw), gaussian_noise(index, SHAPE, draw=draw, **SETTINGS))


@pytest.mark.parametrize(("draws", "following"), [(1, [([2, 3], 0), ([4], 0)]), (2, [([0, 1], 1), ([2, 3], 0)])])
def test_the_next_two_need_no_drawing(draws, following, monkeypatch):
    ahead = NoiseAhead(5, SHAPE, draws, **SETTINGS)
    ahead.of(torch.tensor([0, 1]))
    ahead._pool.shutdown()  # when all that was begun is drawn
    monkeypatch.setattr(ahead, "_begin", lambda *key: None)
    for index, draw in following:
        expected = gaussian_noise(torch.tensor(index), SHAPE, draw=draw, **SETTINGS)
        assert torch.equal(ahead.of(torch.tensor(index), draw), expected)
