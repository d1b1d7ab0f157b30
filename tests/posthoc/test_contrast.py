"""Contrast decomposition against plain loops, and on features with known parts."""

import math

import pytest
import torch

from bench.posthoc.contrast import contrast


def loops(F, v, P, grid, strength, rounds):
    """Decompose one class, image by image and location by location, in plain numbers."""
    k, cells = len(P), grid[0] * grid[1]
    reach = 1 if min(grid) >= 4 else 0
    images = [F[start : start + cells] for start in range(0, len(F), cells)]

    def built(means):
        unit = [m / m.norm() for m in means]
        apart = [u - sum(unit) / k for u in unit]
        share = v / k
        size = sum((F @ a).norm() for a in apart) / k
        return [share + strength * (F @ share).norm() / size * a for a in apart]

    means = list(P)
    for _ in range(rounds):
        result, sums = built(means), [torch.zeros_like(v) for _ in range(k)]
        for x in images:
            for i, p in enumerate(result):
                best, peak = -math.inf, None
                for r in range(grid[0]):
                    for c in range(grid[1]):
                        near = [
                            float(x[a * grid[1] + b] @ p)
                            for a in range(max(0, r - reach), min(grid[0], r + reach + 1))
                            for b in range(max(0, c - reach), min(grid[1], c + reach + 1))
                        ]
                        if sum(near) / len(near) > best:
                            best, peak = sum(near) / len(near), r * grid[1] + c
                sums[i] = sums[i] + x[peak]
        means = sums
    return torch.stack(built(means))


@pytest.mark.parametrize("rounds", [0, 1, 4])
@pytest.mark.parametrize("grid", [(4, 5), (1, 6), (2, 2)])
def test_equals_plain_loops_for_ragged_classes(rounds, grid):
    g = torch.Generator().manual_seed(rounds)
    cells, counts, k, D = grid[0] * grid[1], [3, 5], 3, 7
    F = torch.zeros(2, max(counts) * cells, D, dtype=torch.float64)
    for b, n in enumerate(counts):
        F[b, : n * cells] = torch.rand(n * cells, D, generator=g, dtype=torch.float64)
    v = torch.randn(2, D, generator=g, dtype=torch.float64)
    P = torch.rand(2, k, D, generator=g, dtype=torch.float64)
    result = contrast(F, torch.tensor(counts) * cells, v, P, grid, 1.7, rounds)
    for b, n in enumerate(counts):
        torch.testing.assert_close(result[b], loops(F[b, : n * cells], v[b], P[b], grid, 1.7, rounds))


def test_the_sum_is_the_row_and_strength_is_the_cancellation():
    g = torch.Generator().manual_seed(1)
    F, v = torch.rand(1, 20 * 9, 64, generator=g), torch.randn(1, 64, generator=g)
    P = torch.rand(1, 4, 64, generator=g)
    for strength in (0.0, 1.0, 3.0):
        result = contrast(F, torch.tensor([180]), v, P, (3, 3), strength, 5)
        torch.testing.assert_close(result.sum(1), v.double())
        maps = F[0].double() @ result[0].T
        ratio = float(maps.norm(dim=0).sum() / (F[0].double() @ v[0].double()).norm())
        assert 1 - 1e-6 <= ratio <= 1 + strength
    torch.testing.assert_close(contrast(F, torch.tensor([180]), v, P, (3, 3), 0.0, 5)[0, 2], v[0].double() / 4)


def test_prototypes_find_the_parts_that_recur():
    """Two parts at random locations on a noisy ground, which NMF mixes into both starting prototypes."""
    g = torch.Generator().manual_seed(0)
    D, n, grid = 12, 30, (5, 5)
    part = torch.zeros(2, D)
    part[0, :3], part[1, 3:6] = 1.0, 1.0
    F = 0.3 * torch.rand(n, 25, D, generator=g)
    locations = torch.stack([torch.randperm(25, generator=g)[:2] for _ in range(n)])
    for i in range(n):
        F[i, locations[i, 0]] += 2 * part[0]
        F[i, locations[i, 1]] += 2 * part[1]
    start = torch.stack([part[0] + 0.7 * part[1] + 0.5, part[1] + 0.7 * part[0] + 0.5])[None]
    result = contrast(F.reshape(1, -1, D), torch.tensor([n * 25]), 0.1 * torch.ones(1, D), start, grid, 1.7, 10)
    peaks = (F.double() @ result[0].T).argmax(1)
    assert (peaks[:, 0] == locations[:, 0]).float().mean() > 0.9
    assert (peaks[:, 1] == locations[:, 1]).float().mean() > 0.9


def test_equal_prototypes_stay_plain_shares():
    F = torch.rand(1, 8, 3)
    same = torch.ones(1, 2, 3)
    v = torch.tensor([[1.0, -2.0, 0.5]])
    result = contrast(F, torch.tensor([8]), v, same, (2, 2), 1.7, 3)
    torch.testing.assert_close(result[0], (v.double() / 2).expand(2, -1))
    dark = contrast(F, torch.tensor([8]), torch.zeros(1, 3), torch.rand(1, 2, 3), (2, 2), 1.7, 3)
    torch.testing.assert_close(dark, torch.zeros(1, 2, 3, dtype=torch.float64))
