import doctest

import torch

import metrics.noise
from metrics.noise import gaussian_noise

SHAPE = (3, 32, 32)


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics.noise) == (0, 2)


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
