"""NMF against a plain NumPy transcription of the update rules, class by class."""

import numpy as np
import pytest
import torch

from bench.posthoc.solvers.nmf import factorise


def plain(F, E, P, max_iter=200, tol=1e-4):
    """Run Lee and Seung's updates in float64 with the stopping rule of DFF (edocollins/DFF, ``nmf.py``)."""
    F, E, P = (x.astype(np.float64) for x in (F, E, P))
    first = previous = np.linalg.norm(F - E @ P)
    for step in range(max_iter):
        below = E @ P @ P.T
        below[below == 0] = 1e-7
        E = E * (F @ P.T) / below
        below = E.T @ E @ P
        below[below == 0] = 1e-7
        P = P * (E.T @ F) / below
        if step % 10 == 0:
            error = np.linalg.norm(F - E @ P)
            if (previous - error) / first < tol:
                break
            previous = error
    return E, P, np.linalg.norm(F - E @ P)


def start(F, k, seed, label):
    """Draw the documented starting point of one class."""
    from bench.core.seeding import derive

    generator = torch.Generator().manual_seed(derive(seed, "nmf", label))
    scale = np.sqrt(F.mean() / k)
    E = torch.randn(len(F), k, generator=generator).abs().numpy() * scale
    return E, torch.randn(k, F.shape[1], generator=generator).abs().numpy() * scale


@pytest.fixture
def ragged():
    """Three classes with 40, 24 and 8 rows of parts-like non-negative data, padded with zero rows."""
    rng = np.random.default_rng(0)
    blocks = [
        (rng.random((n, 3)) ** 3 @ rng.random((3, 20)) ** 3 + 0.02 * rng.random((n, 20))).astype(np.float32)
        for n in (40, 24, 8)
    ]
    F = torch.zeros(3, 40, 20)
    for b, block in enumerate(blocks):
        F[b, : len(block)] = torch.from_numpy(block)
    return blocks, F, torch.tensor([40, 24, 8])


def test_same_result_as_the_plain_rules(ragged):
    blocks, F, rows = ragged
    result = factorise(F, rows, 3, seed=5, classes=[7, 1, 4])
    for b, (block, label) in enumerate(zip(blocks, (7, 1, 4), strict=True)):
        E, P, error = plain(block, *start(block, 3, 5, label))
        assert result.error[b].item() == pytest.approx(error, rel=1e-3)
        np.testing.assert_allclose(result.P[b].numpy(), P, rtol=0.02, atol=2e-3)
        np.testing.assert_allclose(result.E[b, : len(block)].numpy(), E, rtol=0.02, atol=5e-3)
        assert not result.E[b, len(block) :].any()


def test_a_class_does_not_depend_on_its_company(ragged):
    blocks, F, rows = ragged
    together = factorise(F, rows, 3, seed=5, classes=[7, 1, 4])
    alone = factorise(torch.from_numpy(blocks[2])[None], rows[2:], 3, seed=5, classes=[4])
    torch.testing.assert_close(alone.P[0], together.P[2], rtol=1e-4, atol=1e-5)


def test_another_seed_starts_elsewhere(ragged):
    _, F, rows = ragged
    one, other = (factorise(F, rows, 3, seed=s, classes=[0, 1, 2], max_iter=1).P for s in (0, 1))
    assert not torch.allclose(one, other)


def test_error_is_that_of_the_factors(ragged):
    _, F, rows = ragged
    result = factorise(F, rows, 2, seed=0, classes=[0, 1, 2])
    expected = torch.linalg.matrix_norm((F - result.E @ result.P).double())
    torch.testing.assert_close(result.error.double(), expected, rtol=1e-5, atol=0.0)
    assert (result.E >= 0).all()
    assert (result.P >= 0).all()


def test_dead_channels_stay_finite():
    F = torch.rand(1, 12, 6, generator=torch.Generator().manual_seed(0))
    F[:, :, 2] = 0
    result = factorise(F, torch.tensor([12]), 2, seed=0, classes=[0])
    assert torch.isfinite(result.P).all()
    assert result.P[0, :, 2].max() < 1e-4


def test_denominators_that_underflow_leave_the_factors_finite():
    """A component fades from one image's cell: 0 times infinity must not arise."""
    F = torch.tensor([[2.2921, 0, 0.0536, 0], [2.3315, 0, 0.4406, 0.0161], [0, 0, 0, 0.2469], [0, 0, 0, 0]])[None]
    for seed in (0, 27):
        result = factorise(F, torch.tensor([4]), 2, seed=seed, classes=[0], max_iter=200, tol=0)
        assert torch.isfinite(result.E).all()
        assert torch.isfinite(result.P).all()
