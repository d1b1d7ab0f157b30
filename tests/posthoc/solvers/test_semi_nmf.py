"""Semi-NMF and convex-NMF against the updates of Ding et al. written out entry by entry."""

import numpy as np
import pytest
import torch

from bench.posthoc.solvers.init import clusters
from bench.posthoc.solvers.semi_nmf import factorise_convex, factorise_semi

BOTH = [factorise_semi, factorise_convex]


@pytest.fixture(scope="module")
def signed():
    """Three classes with 30, 18 and 10 rows of features of both signs, around three centres."""
    rng = np.random.default_rng(0)
    F = torch.zeros(3, 30, 8, dtype=torch.float64)
    for b, n in enumerate((30, 18, 10)):
        rows = rng.standard_normal((3, 8))[rng.integers(3, size=n)] * (0.5 + rng.random((n, 1)))
        F[b, :n] = torch.from_numpy(rows + 0.1 * rng.standard_normal((n, 8)))
    return F, torch.tensor([30, 18, 10])


def positive(x):
    return (np.abs(x) + x) / 2


def negative(x):
    return (np.abs(x) - x) / 2


def start(F, k, label):
    H = clusters(torch.from_numpy(F)[None], torch.tensor([len(F)]), k, 0, [label])[0].numpy().T
    return H, H + 0.2


def stop(error, step, memory, tol=1e-4):
    """DFF's rule; memory = [first, previous]."""
    if step % 10:
        return False
    ends = (memory[1] - error) < tol * memory[0]
    memory[1] = error
    return ends


def semi(F, k, label):
    """In the paper's own letters: X (D, M) ~ F G^T."""
    X, G = F.T, start(F, k, label)[1]
    first = np.linalg.norm(X - X @ G @ np.linalg.inv(G.T @ G) @ G.T)
    memory = [first, first]
    for step in range(200):
        C = X @ G @ np.linalg.inv(G.T @ G)
        A, B = X.T @ C, C.T @ C
        G = G * np.sqrt((positive(A) + G @ negative(B)) / (negative(A) + G @ positive(B)))
        if stop(np.linalg.norm(X - C @ G.T), step, memory):
            break
    return G, (X @ G @ np.linalg.inv(G.T @ G)).T


def convex(F, k, label):
    X = F.T
    H, G = start(F, k, label)
    W = G / H.sum(0)
    Y = X.T @ X
    first = np.linalg.norm(X - X @ W @ G.T)
    memory = [first, first]
    for step in range(200):
        above = positive(Y) @ W + G @ (W.T @ negative(Y) @ W)
        below = negative(Y) @ W + G @ (W.T @ positive(Y) @ W)
        G = G * np.sqrt(above / below)
        above = positive(Y) @ G + negative(Y) @ W @ (G.T @ G)
        below = negative(Y) @ G + positive(Y) @ W @ (G.T @ G)
        W = W * np.sqrt(above / below)
        if stop(np.linalg.norm(X - X @ W @ G.T), step, memory):
            break
    return G, (X @ W).T


@pytest.mark.parametrize(("function", "plain"), [(factorise_semi, semi), (factorise_convex, convex)])
def test_same_result_as_the_published_updates(signed, function, plain):
    F, rows = signed
    result = function(F, rows, 3, seed=0, classes=[5, 6, 7])
    for b, n in enumerate(rows):
        E, P = plain(F[b, :n].numpy(), 3, 5 + b)
        np.testing.assert_allclose(result.P[b].numpy(), P, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(result.E[b, :n].numpy(), E, rtol=1e-6, atol=1e-9)
        assert result.error[b].item() == pytest.approx(np.linalg.norm(F[b, :n].numpy() - E @ P), rel=1e-9)
        assert not result.E[b, n:].any()


@pytest.mark.parametrize("function", BOTH)
def test_negative_features_are_explained_not_clamped(signed, function):
    F, rows = signed
    result = function(F, rows, 3, seed=0, classes=[0, 1, 2])
    assert (result.E >= 0).all()
    assert (result.P < 0).any()
    clamped = (F - F.clamp(min=0)).flatten(1).norm(dim=1)  # the least that any NMF of clamped features leaves
    assert (result.error < clamped).all()


def test_convex_prototypes_are_mixtures_of_cells(signed):
    import scipy.optimize

    F, rows = signed
    result = factorise_convex(F, rows, 3, seed=0, classes=[0, 1, 2])
    for b, n in enumerate(rows):
        for p in result.P[b].numpy():
            assert scipy.optimize.nnls(F[b, :n].numpy().T, p)[1] < 1e-8
    # Semi-NMF is free of that, and so can only do better from the same start.
    assert (factorise_semi(F, rows, 3, seed=0, classes=[0, 1, 2]).error <= result.error * 1.02).all()


@pytest.mark.parametrize("function", BOTH)
def test_company_changes_nothing(signed, function, monkeypatch):
    from bench.posthoc.solvers import semi_nmf as module

    F, rows = signed
    together = function(F, rows, 3, seed=0, classes=[4, 8, 1])
    alone = function(F[1:2, :18], rows[1:2], 3, seed=0, classes=[8])
    assert torch.equal(alone.P[0], together.P[1])
    monkeypatch.setattr(module, "factorise_by_class", lambda together, *given: together(*given))
    batch = function(F, rows, 3, seed=0, classes=[4, 8, 1])
    torch.testing.assert_close(batch.P, together.P, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize("case", ["dead channel", "zero rows", "two rows", "all zero"])
def test_degenerate_features_stay_finite(function, case):
    F = torch.randn(1, 12, 6, generator=torch.Generator().manual_seed(0))
    if case == "dead channel":
        F[:, :, 2] = 0
    elif case == "zero rows":
        F[:, 3:9] = 0
    elif case == "two rows":
        F = F[:, :2]
    else:
        F = torch.zeros_like(F)
    result = function(F, torch.tensor([F.shape[1]]), 4, seed=0, classes=[0])
    assert all(torch.isfinite(part).all() for part in (result.E, result.P, result.error))
    assert (result.E >= 0).all()
    assert result.error[0] <= F.norm() * (1 + 1e-5)
