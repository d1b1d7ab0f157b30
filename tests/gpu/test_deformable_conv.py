"""The deformable convolution on a CUDA device gives the CPU's numbers and gradients, the same bits every time."""

import pytest
import torch

from baselines.deformable_conv import norm_preserving_conv

pytestmark = pytest.mark.gpu


def gradients(device):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 16, 7, 9, generator=generator).relu()
    prototypes = torch.randn(5, 16, 2, 2, generator=generator)
    offsets = torch.randn(3, 8, 7, 9, generator=generator)
    inputs = [tensor.to(device).requires_grad_() for tensor in (z, prototypes, offsets)]
    found = norm_preserving_conv(*inputs)
    return [value.cpu() for value in (found.detach(), *torch.autograd.grad(found.square().sum(), inputs))]


def test_values_and_gradients():
    for one, other in zip(gradients("cpu"), gradients("cuda"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_same_bits_every_time():
    for one, other in zip(gradients("cuda"), gradients("cuda"), strict=True):
        assert torch.equal(one, other)
