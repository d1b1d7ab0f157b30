"""The literal pipeline is what the paper says, and ours is the same thing computed otherwise."""

import numpy as np
import pytest
import torch

from bench.diagnostics import reference_pipeline
from bench.diagnostics.synthetic import class_features
from bench.posthoc.decompose_class import DecompositionConfig, decompose_classes
from bench.posthoc.refinement import Alignment


@pytest.fixture(scope="module")
def drawn():
    """Features ``(80, 14)`` and a row, float64."""
    F, v = class_features(3, 5, 16, 14, 0)
    return F.double().numpy(), v.double().numpy()


def test_one_update_by_hand():
    F, E, P = np.array([[1.0, 2.0]]), np.array([[1.0]]), np.array([[1.0, 1.0]])
    # E <- 1 * (1 + 2) / (1 * 2) = 1.5, then P <- (1.5, 3) / (1.5^2, 1.5^2).
    E, P = reference_pipeline.multiply(F, E, P, max_iter=1)
    np.testing.assert_allclose(E, [[1.5]])
    np.testing.assert_allclose(P, [[1 / 1.5, 2 / 1.5]])


def test_objective_by_hand():
    # F p = (3, 4) -> (0.6, 0.8); F r = (1, 0).
    F, P, r = np.eye(2), np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]])
    assert reference_pipeline.objective(F, P, r) == pytest.approx(0.4**2 + 0.8**2)


def test_parts_add_up_and_the_pipeline_holds_together(drawn):
    F, v = drawn
    found = reference_pipeline.decompose(F, v, 3)
    np.testing.assert_allclose(found.refined.sum(0), v, atol=1e-9)
    np.testing.assert_allclose(found.alpha, np.linalg.lstsq(found.P.T, v, rcond=None)[0], rtol=1e-4, atol=1e-5)
    assert found.error == pytest.approx(np.linalg.norm(F - found.E @ found.P))
    R = v - found.alpha @ found.P
    equal = reference_pipeline.objective(F, found.P, np.tile(R / 3, (3, 1)))
    assert found.objective <= equal  # the simplex keeps its best corner
    assert set(found.seconds) == {"nmf", "scaling", "refinement"}


def test_objective_is_ours(drawn):
    F, _ = drawn
    rng = np.random.default_rng(0)
    P, r = rng.random((3, 14)), rng.standard_normal((3, 14))
    ours = Alignment(*(torch.from_numpy(x)[None] for x in (F, np.array(80), P)), 16)(torch.from_numpy(r)[None])
    assert ours.item() == pytest.approx(reference_pipeline.objective(F, P, r), rel=1e-9)


def test_ours_with_the_papers_solvers_is_the_literal_pipeline(drawn, monkeypatch):
    """The same start of the factorisation: the same prototypes, coefficients and simplex."""
    F, v = drawn
    k, given = 2, torch.from_numpy(F)[None]
    from bench.posthoc.solvers.init import initialise

    Et, P0 = initialise(given, torch.tensor([80]), k, 0, [3])
    monkeypatch.setattr(
        reference_pipeline, "nmf", lambda F, k, seed: reference_pipeline.multiply(F, Et[0].T.numpy(), P0[0].numpy())
    )
    literal = reference_pipeline.decompose(F, v, k)
    config = DecompositionConfig(
        k=k, nmf_init="random", scaling="cvxpy", refinement="nelder-mead", norm="l2", start="equal", space="full"
    )
    refined, numbers = decompose_classes(config, given, torch.tensor([80]), torch.from_numpy(v)[None], (4, 4), 0, [3])
    np.testing.assert_allclose(refined[0].numpy(), literal.refined, rtol=1e-3, atol=1e-4)
    assert numbers["nmf_relative_error"].item() * np.linalg.norm(F) == pytest.approx(literal.error, rel=1e-6)
    assert numbers["objective"].item() == pytest.approx(literal.objective, rel=1e-3)


@pytest.mark.parametrize("space", ["full", "span"])
def test_gradient_solvers_end_below_the_simplex(drawn, space):
    F, v = drawn
    literal = reference_pipeline.decompose(F, v, 3)
    config = DecompositionConfig(nmf_solver="hals", norm="l2", start="equal", space=space)
    _, numbers = decompose_classes(
        config, torch.from_numpy(F)[None], torch.tensor([80]), torch.from_numpy(v)[None], (4, 4), 0, [3]
    )
    assert numbers["objective"].item() < 0.7 * literal.objective
    assert numbers["nmf_relative_error"].item() * np.linalg.norm(F) < 1.01 * literal.error


def test_negative_features_count_as_zero_for_nmf_alone(drawn):
    F, v = (torch.from_numpy(x)[None] for x in drawn)
    signed = F - 0.3
    given = torch.tensor([80]), v, (4, 4), 0, [3]
    for factorisation, same in (("nmf", True), ("semi", False), ("convex", False)):
        config = DecompositionConfig(k=2, factorisation=factorisation)
        found, clamped = (decompose_classes(config, x, *given)[0] for x in (signed, signed.clamp(min=0)))
        assert torch.equal(found, clamped) == same


def test_one_prototype_takes_everything(drawn):
    F, v = drawn
    np.testing.assert_allclose(reference_pipeline.decompose(F, v, 1).refined[0], v, atol=1e-9)
