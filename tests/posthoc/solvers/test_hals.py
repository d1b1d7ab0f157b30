"""HALS and starting points against written-out coordinate descent, exact SVD and multiplicative updates."""

import numpy as np
import pytest
import torch

from bench.diagnostics.synthetic import class_features
from bench.posthoc.solvers.hals import descend, sweep
from bench.posthoc.solvers.init import clusters, initialise, nndsvd
from bench.posthoc.solvers.nmf import factorise

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def ragged():
    """Return four classes of synthetic features with 8, 5, 3 and 8 images of 16 cells and 40 channels."""
    counts = torch.tensor([8, 5, 3, 8]) * 16
    F = torch.zeros(4, 128, 40)
    for b, n in enumerate(counts):
        F[b, :n] = class_features(b, int(n) // 16, 16, 40, 0)[0]
    return F, counts


def test_descend_is_coordinate_descent_written_out():
    g = torch.Generator().manual_seed(0)
    G = torch.rand(2, 3, 5, generator=g, dtype=DOUBLE)
    G = G @ G.mT
    A = torch.randn(2, 3, 7, generator=g, dtype=DOUBLE)
    X = torch.rand(2, 3, 7, generator=g, dtype=DOUBLE)
    expected = X.numpy().copy()
    for _ in range(2):
        for b in range(2):
            for j in range(3):
                for n in range(7):
                    others = sum(G[b, j, m].item() * expected[b, m, n] for m in range(3) if m != j)
                    expected[b, j, n] = max(0, (A[b, j, n].item() - others) / G[b, j, j].item())
    np.testing.assert_allclose(descend(A, G, X, 2).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_descend_leaves_a_row_without_equation_as_it_is():
    G = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    A = torch.tensor([[[4.0], [0.0]]])
    assert descend(A, G, torch.tensor([[[9.0], [5.0]]]), 1).flatten().tolist() == [2.0, 5.0]


def test_sweep_never_raises_the_error(ragged):
    F, rows = ragged
    Et, P = initialise(F, rows, 4, 0, [0, 1, 2, 3])
    errors = []
    for _ in range(15):
        Et, P = sweep(F, Et, P)
        errors.append((F - Et.mT @ P).flatten(1).norm(dim=1))
    assert (torch.stack(errors).diff(dim=0) <= 1e-4).all()
    assert (errors[-1] < 0.99 * errors[0]).all()


@pytest.mark.parametrize("init", ["random", "nndsvd"])
def test_lower_error_than_multiplicative_updates_in_fewer(ragged, init):
    F, rows = ragged
    chosen = {"seed": 0, "classes": [0, 1, 2, 3], "init": init}
    slow, fast = (factorise(F, rows, 4, solver=solver, **chosen) for solver in ("mu", "hals"))
    assert fast.error.mean() < slow.error.mean()
    assert fast.updates.sum() < slow.updates.sum()
    assert (fast.E >= 0).all()
    assert (fast.P >= 0).all()
    torch.testing.assert_close(fast.error, (F - fast.E @ fast.P).flatten(1).norm(dim=1), rtol=1e-5, atol=0.0)
    for b, n in enumerate(rows):
        assert not fast.E[b, n:].any()


def test_reaches_a_stationary_point(ragged):
    """Karush-Kuhn-Tucker: no gradient where a factor is positive, none that points inwards where it is zero."""
    F, rows = ragged
    F = F.double()
    result = factorise(F, rows, 3, seed=1, classes=[0, 1, 2, 3], solver="hals", max_iter=3000, tol=0.0)
    E, P = result.E, result.P
    for factor, gradient in ((P, E.mT @ (E @ P - F)), (E, (E @ P - F) @ P.mT)):
        scale = gradient.abs().mean() + (E.mT @ F).abs().mean() * 1e-4
        inside = factor > 1e-3 * factor.amax((1, 2), keepdim=True)
        assert gradient[inside].abs().max() < scale
        assert gradient[factor == 0].min() > -scale


@pytest.mark.parametrize("solver", ["mu", "hals"])
@pytest.mark.parametrize("init", ["random", "nndsvd"])
def test_company_order_and_padding_change_nothing(ragged, solver, init):
    F, rows = ragged
    chosen = {"seed": 3, "solver": solver, "init": init}
    together = factorise(F, rows, 3, classes=[9, 2, 7, 4], **chosen)
    turned = factorise(F.flip(0), rows.flip(0), 3, classes=[4, 7, 2, 9], **chosen)
    assert torch.equal(turned.P.flip(0), together.P)
    for b, label in enumerate([9, 2, 7, 4]):
        alone = factorise(F[b : b + 1, : rows[b]], rows[b : b + 1], 3, classes=[label], **chosen)
        assert torch.equal(alone.P[0], together.P[b])
        assert torch.equal(alone.E[0], together.E[b, : rows[b]])
        assert alone.updates[0] == together.updates[b]


@pytest.mark.parametrize("solver", ["mu", "hals"])
def test_updates_are_counted(ragged, solver):
    F, rows = ragged
    chosen = {"seed": 0, "classes": [2], "solver": solver}
    given = F[2:3], rows[2:3], 3
    result = factorise(*given, **chosen)
    count = int(result.updates)
    assert 1 < count < 200
    assert torch.equal(factorise(*given, max_iter=count, **chosen).P, result.P)
    assert not torch.equal(factorise(*given, max_iter=count - 1, **chosen).P, result.P)
    assert factorise(*given, max_iter=7, tol=0.0, **chosen).updates.tolist() == [7]


def test_threads_do_not_change_the_result(ragged):
    F, rows = ragged
    before = torch.get_num_threads()
    result = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            result.append(factorise(F, rows, 3, seed=0, classes=[0, 1, 2, 3], solver="hals"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(result[0].P, result[1].P)


@pytest.mark.parametrize("solver", ["mu", "hals"])
def test_as_one_batch_the_result_is_the_same(ragged, solver, monkeypatch):
    """The batch of a GPU: all classes at once, from which those that have stopped are removed."""
    from bench.posthoc.solvers import nmf

    F, rows = ragged
    F = F.double()
    chosen = {"seed": 0, "classes": [0, 1, 2, 3], "solver": solver}
    alone = factorise(F, rows, 3, **chosen)
    monkeypatch.setattr(nmf, "factorise_by_class", lambda together, *given: together(*given))
    batch = factorise(F, rows, 3, **chosen)
    assert torch.equal(batch.updates, alone.updates)
    assert len(set(batch.updates.tolist())) > 1  # classes did leave at different times
    torch.testing.assert_close(batch.P, alone.P, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(batch.E, alone.E, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(batch.error, alone.error)


@pytest.mark.parametrize("solver", ["mu", "hals"])
@pytest.mark.parametrize("init", ["random", "nndsvd"])
@pytest.mark.parametrize("case", ["dead channel", "zero rows", "rank one", "few rows", "all zero", "tiny"])
def test_degenerate_features_stay_finite_and_non_negative(solver, init, case):
    F = torch.rand(1, 12, 6, generator=torch.Generator().manual_seed(0))
    if case == "dead channel":
        F[:, :, 2] = 0
    elif case == "zero rows":
        F[:, 3:9] = 0
    elif case == "rank one":
        F = F[:, :, :1] @ F[:, :1]
    elif case == "few rows":
        F = F[:, :2]
    elif case == "all zero":
        F = torch.zeros_like(F)
    else:
        F = F * 1e-12
    result = factorise(F, torch.tensor([F.shape[1]]), 4, seed=0, classes=[0], solver=solver, init=init)
    for part in (result.E, result.P, result.error):
        assert torch.isfinite(part).all()
        assert (part >= 0).all()
    assert result.error[0] <= F.norm()
    if case == "rank one":
        assert result.error[0] < 0.02 * F.norm()
    if case == "dead channel":
        assert (result.E @ result.P)[0, :, 2].max() < 1e-3


def test_nndsvd_is_the_published_rule_on_the_exact_svd():
    """Boutsidis and Gallopoulos, algorithm 1, on NumPy's SVD; a spectrum that falls, so that the sketch is exact."""
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((30, 12)))[0], np.linalg.qr(rng.standard_normal((20, 12)))[0]
    F = np.abs(left * 0.3 ** np.arange(12) @ right.T)
    U, s, V = np.linalg.svd(F, full_matrices=False)
    Et, P = nndsvd(torch.from_numpy(F)[None], torch.tensor([30]), 3, 0, [0])
    for j in range(3):
        halves = [(np.maximum(sign * U[:, j], 0), np.maximum(sign * V[j], 0)) for sign in (1, -1)]
        u, v = max(halves, key=lambda half: np.linalg.norm(half[0]) * np.linalg.norm(half[1]))
        size = np.linalg.norm(u) * np.linalg.norm(v)
        np.testing.assert_allclose(Et[0, j], np.sqrt(s[j] * size) * u / np.linalg.norm(u), rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(P[0, j], np.sqrt(s[j] * size) * v / np.linalg.norm(v), rtol=1e-2, atol=1e-3)


def test_nndsvd_zeros_are_filled_for_multiplicative_updates(ragged):
    F, rows = ragged
    plain = initialise(F, rows, 4, 0, [0, 1, 2, 3], "nndsvd")
    filled = initialise(F, rows, 4, 0, [0, 1, 2, 3], "nndsvd", fill=True)
    assert (plain[1] == 0).any()
    assert (filled[1] > 0).all()
    mean = F[2].sum() / (int(rows[2]) * 40)
    torch.testing.assert_close(filled[1][2][plain[1][2] == 0].max(), mean)
    for Et, _ in (plain, filled):
        assert not Et[2, :, int(rows[2]) :].any()


def test_nndsvd_starts_below_random(ragged):
    F, rows = ragged
    errors = [
        (F - E.mT @ P).norm()
        for E, P in (initialise(F, rows, 4, 0, [0, 1, 2, 3], init) for init in ("random", "nndsvd"))
    ]
    assert errors[1] < errors[0]


def test_clusters_of_three_heaps():
    g = torch.Generator().manual_seed(1)
    heaps = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    F = torch.cat([heaps.repeat_interleave(4, 0) + torch.rand(12, 3, generator=g), torch.zeros(2, 3)])[None]
    result = clusters(F, torch.tensor([12]), 3, 2, [0])[0]
    assert (result[:, :12].sum(0) == 1).all()
    assert not result[:, 12:].any()
    for heap in range(3):
        own = result[:, 4 * heap : 4 * heap + 4]
        assert (own == own[:, :1]).all()
