"""Non-negative scaling against SciPy's active set, and cases worked by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from bench.posthoc import scaling
from bench.posthoc.scaling import scale

DOUBLE = torch.float64


def case(B, k, D, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=g, dtype=DOUBLE), torch.rand(B, k, D, generator=g, dtype=DOUBLE)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 10, 12])
def test_non_negative_scaling_is_scipys(k):
    v, P = case(6, k, 20, k)
    result = scale(v + 0.3, P, "nonnegative")
    for b in range(6):
        expected, _ = nnls(P[b].numpy().T, v[b].numpy() + 0.3)
        torch.testing.assert_close(result[b], torch.from_numpy(expected), rtol=1e-7, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_no_other_non_negative_coefficients_are_better(k, D, seed):
    """Also where there are more prototypes than channels: the objective is SciPy's, the coefficients need not be."""
    v, P = case(2, k, D, seed)
    result = scale(v, P, "nonnegative")
    assert (result >= 0).all()
    for b in range(2):
        _, expected = nnls(P[b].numpy().T, v[b].numpy())
        assert (v[b] - result[b] @ P[b]).norm().item() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_by_hand():
    # Orthogonal prototypes: max(0, v.p / |p|^2) each.
    P = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
    v = torch.tensor([[3.0, 5.0, -4.0]])
    torch.testing.assert_close(scale(v, P, "nonnegative"), torch.tensor([[4.0, 0.0]], dtype=DOUBLE))
    torch.testing.assert_close(scale(v, P), torch.tensor([[4.0, -2.0]], dtype=DOUBLE))


def test_nonnegative_is_not_the_clamped_minimiser():
    P = torch.tensor([[[1.0, 0.0], [1.0, 0.1]]])
    v = torch.tensor([[1.0, -1.0]])
    assert (scale(v, P) < 0).any()
    torch.testing.assert_close(scale(v, P, "nonnegative"), torch.tensor([[1.0, 0.0]], dtype=DOUBLE))


def test_equal_where_nothing_is_negative():
    P = case(3, 3, 20, 0)[1]
    v = (torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)[:, None] * P).sum(1)
    torch.testing.assert_close(scale(v, P, "nonnegative"), torch.tensor([[1.0, 2.0, 3.0]] * 3, dtype=DOUBLE))
    torch.testing.assert_close(scale(v, P, "nonnegative"), scale(v, P))


@pytest.mark.parametrize("solver", ["closed", "nonnegative"])
@pytest.mark.parametrize("zero", [[0], [0, 1, 2]])
def test_dead_prototypes_get_nothing(solver, zero):
    v, P = case(2, 3, 8, 4)
    P[:, zero] = 0
    result = scale(v, P, solver)
    assert torch.isfinite(result).all()
    assert not result[:, zero].any()


def test_blocks_of_supports_do_not_matter(monkeypatch):
    v, P = case(5, 6, 12, 1)
    whole = scale(v, P, "nonnegative")
    monkeypatch.setattr(scaling, "_ELEMENTS", 1)
    assert torch.equal(scale(v, P, "nonnegative"), whole)


def test_a_class_does_not_depend_on_its_company():
    v, P = case(5, 4, 12, 2)
    for solver in ("closed", "nonnegative"):
        together = scale(v, P, solver)
        torch.testing.assert_close(scale(v[3:4], P[3:4], solver)[0], together[3], rtol=1e-12, atol=1e-12)
