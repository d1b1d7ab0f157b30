"""Scaling and residual distribution: hand-made cases, independent solvers, the sum that must hold."""

import numpy as np
import pytest
import scipy.optimize
import torch

from bench.posthoc.refinement import Alignment, distribute, naive
from bench.posthoc.scaling import scale
from bench.posthoc.solvers.lbfgs import minimise

DOUBLE = torch.float64


@pytest.fixture
def case():
    """Two classes, 3 prototypes, 10 channels, 4 images of 6 cells (the second class has 3 images)."""
    g = torch.Generator().manual_seed(3)
    F = torch.rand(2, 24, 10, generator=g, dtype=DOUBLE)
    F[1, 18:] = 0
    P = torch.rand(2, 3, 10, generator=g, dtype=DOUBLE)
    v = torch.randn(2, 10, generator=g, dtype=DOUBLE)
    return F, torch.tensor([24, 18]), P, v


def literal(F, p, r, norm, cells):
    """Compute equation 6 for one class, one prototype and one group of images at a time."""
    total = 0.0
    groups = [slice(None)] if cells is None else [slice(i, i + cells) for i in range(0, len(F), cells)]
    for i in range(len(p)):
        for rows in groups:
            a, b = F[rows] @ p[i], F[rows] @ r[i]
            if norm == "l2":
                a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
            elif norm == "zscore":
                a, b = ((x - x.mean()) / x.std() for x in (a, b))
            else:
                a, b = ((x - x.min()) / (x.max() - x.min()) for x in (a, b))
            total += ((a - b) ** 2).sum()
    return total


@pytest.mark.parametrize("norm", ["l2", "minmax", "zscore"])
@pytest.mark.parametrize("over", ["class", "image"])
def test_objective_is_equation_6(case, norm, over):
    F, rows, P, _ = case
    r = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    result = Alignment(F, rows, P, 6, norm, over)(r)
    for b in range(2):
        expected = literal(F[b, : rows[b]].numpy(), P[b].numpy(), r[b].numpy(), norm, 6 if over == "image" else None)
        assert result[b].item() == pytest.approx(expected, rel=1e-9)


def test_scaling_by_hand():
    # p1 and p2 are orthogonal: each coefficient is v.p / |p|^2.
    P = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
    v = torch.tensor([[3.0, 5.0, 4.0]])
    torch.testing.assert_close(scale(v, P), torch.tensor([[4.0, 2.0]], dtype=DOUBLE))


def test_scaling_of_dependent_prototypes_shares():
    P = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(scale(torch.tensor([[6.0, 1.0]]), P), torch.tensor([[3.0, 3.0]], dtype=DOUBLE))


def test_closed_form_agrees_with_cvxpy(case):
    _, _, P, v = case
    torch.testing.assert_close(scale(v, P), scale(v, P, "cvxpy"), rtol=1e-4, atol=1e-5)


def test_naive_split_by_hand():
    R = torch.tensor([[2.0, 4.0]], dtype=DOUBLE)
    alpha = torch.tensor([[1.0, 3.0]], dtype=DOUBLE)
    torch.testing.assert_close(naive(R, alpha), torch.tensor([[[0.5, 1.0], [1.5, 3.0]]], dtype=DOUBLE))


def test_naive_split_where_coefficients_cancel():
    R = torch.tensor([[2.0, 4.0]], dtype=DOUBLE)
    split = naive(R, torch.tensor([[1.0, -1.0]], dtype=DOUBLE))
    torch.testing.assert_close(split, torch.tensor([[[1.0, 2.0], [1.0, 2.0]]], dtype=DOUBLE))


@pytest.mark.parametrize("solver", ["naive", "nelder-mead", "lbfgs"])
@pytest.mark.parametrize("start", ["equal", "naive", "prototype"])
def test_parts_sum_to_the_residual(case, solver, start):
    F, rows, P, v = case
    alpha = scale(v, P)
    R = v - (alpha[:, :, None] * P).sum(1)
    r = distribute(R, alpha, P, Alignment(F, rows, P, 6), solver, start)
    torch.testing.assert_close(r.sum(1), R, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "minmax", "zscore"])
@pytest.mark.parametrize("over", ["class", "image"])
@pytest.mark.parametrize("space", ["full", "span"])
def test_objective_of_coefficients_equals_autograd(case, norm, over, space):
    """Through the Gram matrix or not, c -> objective(c basis), differentiated by autograd through the features."""
    F, rows, P, _ = case
    g = torch.Generator().manual_seed(8)
    objective = Alignment(F, rows, P, 6, norm, over)
    basis = torch.randn(2, 4, 10, generator=g, dtype=DOUBLE) if space == "span" else None
    c = torch.randn(2, 3, 4 if space == "span" else 10, generator=g, dtype=DOUBLE)
    values, gradients = [], []
    for function in (objective.within(basis), lambda c: objective(c if basis is None else c @ basis)):
        x = c.clone().requires_grad_(True)
        value = function(x)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value.sum(), x)[0])
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-8)


def test_zero_maps_count_the_same_through_the_gram_matrix(case):
    F, rows, P, _ = case
    F = F.clone()
    F[:, :, 4] = 0
    P = P.clone()
    P[0, 1] = 0
    r = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    r[1, 0] = 0
    r[0, 0] = torch.eye(10, dtype=DOUBLE)[4]  # only the dead channel: a zero map
    for norm in ("l2", "zscore"):
        objective = Alignment(F, rows, P, 6, norm)
        result = objective.within()(r.requires_grad_(True))
        torch.testing.assert_close(result, objective(r))
        assert torch.isfinite(torch.autograd.grad(result.sum(), r)[0]).all()


@pytest.mark.parametrize("norm", ["l2", "minmax", "zscore"])
@pytest.mark.parametrize("start", ["equal", "naive", "prototype"])
@pytest.mark.parametrize("solver", ["lbfgs", "nelder-mead"])
def test_search_in_the_span_stays_there(case, norm, start, solver):
    F, rows, P, v = case
    alpha = scale(v, P)
    R = v - (alpha[:, :, None] * P).sum(1)
    objective = Alignment(F, rows, P, 6, norm)
    begin = {
        "equal": (R / 3)[:, None].expand(-1, 3, -1),
        "naive": naive(R, alpha),
        "prototype": torch.cat([P[:, :2], (R - P[:, :2].sum(1))[:, None]], 1),
    }[start]
    r = distribute(R, alpha, P, objective, solver, start, "span")
    torch.testing.assert_close(r.sum(1), R, rtol=0, atol=1e-10)
    assert (objective(r) < objective(begin)).all()
    span = torch.cat([P, R[:, None]], 1)
    outside = r - r @ torch.linalg.pinv(span) @ span
    assert outside.abs().max() < 1e-9


@pytest.mark.parametrize("norm", ["l2", "zscore"])
def test_leaving_the_span_cannot_help_where_maps_correlate(case, norm):
    """Claim in ``distribute``: the projection of any parts onto the span, in the metric of F, is as good."""
    F, rows, P, _ = case
    objective = Alignment(F, rows, P, 6, norm)
    r = P + 0.2 * torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    R = r.sum(1)
    for b in range(2):
        X = F[b, : rows[b]]
        X = X - X.mean(0) if norm == "zscore" else X
        G = X.T @ X
        S = torch.cat([P[b], R[b : b + 1]])
        projected = r[b] @ G @ S.T @ torch.linalg.inv(S @ G @ S.T) @ S
        assert (((X @ P[b].T) * (X @ r[b].T)).sum(0) > 0).all()
        torch.testing.assert_close(projected.sum(0), R[b])
        both = torch.stack([r[b], projected])[:, None].expand(-1, 2, -1, -1)
        before, after = (objective(x)[b] for x in both)
        assert after < before


def test_no_refinement_leaves_the_residual_out(case):
    F, rows, P, v = case
    alpha = scale(v, P)
    assert not distribute(v, alpha, P, Alignment(F, rows, P, 6), "none", "equal").any()


@pytest.mark.parametrize("norm", ["l2", "minmax"])
def test_gradient_solver_finds_what_scipy_finds(case, norm):
    F, rows, P, v = case
    alpha = scale(v, P)
    R = v - (alpha[:, :, None] * P).sum(1)
    objective = Alignment(F, rows, P, 6, norm)
    begin = objective((R / 3)[:, None].expand(-1, 3, -1))
    result = objective(distribute(R, alpha, P, objective, "lbfgs", "equal"))
    assert (result < begin).all()
    if norm == "minmax":  # not smooth where the extreme cell changes: only the decrease is promised
        return
    for b in range(2):

        def of_class(x, b=b):
            parts = torch.from_numpy(x).reshape(2, 10)
            r = torch.stack([torch.cat([parts, (R[b] - parts.sum(0))[None]])] * 2)
            return objective(r)[b].item()

        free = (R[b] / 3).repeat(2).numpy()
        reference = scipy.optimize.minimize(of_class, free, method="L-BFGS-B", options={"maxiter": 500})
        assert result[b].item() <= reference.fun * 1.05 + 1e-6


def test_nelder_mead_never_ends_above_its_start(case):
    F, rows, P, v = case
    alpha = scale(v, P)
    R = v - (alpha[:, :, None] * P).sum(1)
    objective = Alignment(F, rows, P, 6)
    begin = objective((R / 3)[:, None].expand(-1, 3, -1))
    assert (objective(distribute(R, alpha, P, objective, "nelder-mead", "equal")) <= begin).all()


def test_lbfgs_on_many_quadratics():
    g = torch.Generator().manual_seed(0)
    A = torch.randn(5, 8, 8, generator=g, dtype=DOUBLE)
    A = A @ A.mT + torch.eye(8, dtype=DOUBLE)
    b = torch.randn(5, 8, generator=g, dtype=DOUBLE)

    def f(x):
        return 0.5 * torch.einsum("bi,bij,bj->b", x, A, x) - (b * x).sum(1) + 100

    x = minimise(f, torch.ones(5, 8, dtype=DOUBLE), max_iter=300, tol=1e-14)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-3, atol=1e-3)


def test_lbfgs_problems_are_independent():
    def rosenbrock(x):
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)

    starts = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, 2.0]], dtype=DOUBLE)
    together = minimise(rosenbrock, starts, max_iter=200)
    for b in range(3):
        torch.testing.assert_close(minimise(rosenbrock, starts[b : b + 1], max_iter=200)[0], together[b])
