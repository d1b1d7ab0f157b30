"""The greedy basis and the part classifiers of IBD against plain loops."""

from math import sqrt

import pytest
import torch

from baselines.ibd import IBD, greedy_basis, part_cells, part_directions
from bench.models.classifier import Classifier
from tests.support.samples import SmallNet, stripes, task


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a):
    return [x / sqrt(dot(a, a)) for x in a]


def chosen_by_loops(bank, row, k):
    """Concepts are made orthogonal to each choice and one long again; the next has the largest product with the row."""
    left, found = dict(enumerate(bank)), []
    for _ in range(k):
        best = max(left, key=lambda i: dot(left[i], row))
        direction = left.pop(best)
        found.append(best)
        left = {
            i: unit([x - dot(direction, u) * d for x, d in zip(u, direction, strict=True)]) for i, u in left.items()
        }
    return found


def test_basis_is_chosen_as_by_gram_schmidt():
    generator = torch.Generator().manual_seed(2)
    bank = torch.nn.functional.normalize(torch.randn(9, 6, generator=generator, dtype=torch.float64), dim=1)
    rows = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    found = greedy_basis(bank, rows, 4).tolist()
    assert found == [chosen_by_loops(bank.tolist(), row, 4) for row in rows.tolist()]
    assert any(one != sorted(one) for one in found)


def test_copies_and_combinations_come_last():
    bank = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0], [0, 0, 1.0]])
    )
    assert greedy_basis(bank, torch.tensor([[3.0, 2.0, -1.0]]), 3).tolist() == [[3, 0, 4]]


def test_coefficients_are_least_squares_and_the_residual_is_orthogonal(tmp_path):
    torch.manual_seed(0)
    samples, box = stripes(), Classifier(SmallNet(), 3).eval()
    work = task(tmp_path, samples, IBD.Config(k=3, bank=3), black_box=box)
    vectors = IBD().fit(work).prototypes.vectors.unflatten(0, (3, 3))
    rows = box.head.weight.detach().double()
    left = rows - vectors.sum(1)
    assert (left[:, None] @ vectors.mT).abs().max() < 1e-10
    # Concepts are less their mean over the channels.
    assert vectors.sum(2).abs().max() < 1e-10
    assert work.facts["residual_share"] == pytest.approx(float((left.norm(dim=1) / rows.norm(dim=1)).mean()))


def test_cells_of_key_points():
    points = torch.tensor([[[0.0, 31.9], [8.0, 7.9]], [[31.0, 40.0], [16.0, 16.0]]], dtype=torch.float64)
    there = part_cells(points, torch.tensor([[True, True], [True, False]]), 32, (4, 4))
    assert there.nonzero().tolist() == [[0, 0, 0, 3], [0, 1, 1, 0], [1, 0, 3, 3]]


def test_part_classifier_is_regression_with_a_constant():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64) + 2
    y = (torch.rand(40, 2, generator=generator) < 0.3).double()
    found = part_directions(x.T @ x / 40, x.mean(0), x.T @ y / 40, y.mean(0), 0.0)
    design = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(found, torch.linalg.lstsq(design, y).solution[:3].T)
