"""Shapley values of maxima against their definition: the mean, over all orders of the cells, of what each one adds."""

import doctest
from itertools import permutations

import pytest
import torch

from baselines.protoconcepts import ProtoConceptsModel
from baselines.protopnet import ProtoPNetModel
from bench.contract import NotApplicable
from bench.core import part_model
from bench.core.part_model import shapley_of_maxima
from tests.support.networks import NETWORKS
from tests.support.samples import SmallNet, stripes, task


def by_orders(maps, weights, limits=None):
    """Values of the cells of ``maps[j][u]`` for ``sum_j w_j min(limit_j, max m_j)``, which is 0 without any cell."""
    limits, cells = limits or [float("inf")] * len(maps), len(maps[0])
    found, orders = [0.0] * cells, list(permutations(range(cells)))
    for order in orders:
        before = 0.0
        for count, u in enumerate(order, 1):
            seen = [max(m[v] for v in order[:count]) for m in maps]
            worth = sum(w * min(limit, top) for w, limit, top in zip(weights, limits, seen, strict=True))
            found[u] += (worth - before) / len(orders)
            before = worth
    return found


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(part_model) == (0, 1)


def test_values_of_maps_with_signs_and_ties():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 4, 2, 3, generator=generator, dtype=torch.float64)
    maps[0] = maps[0].abs()
    maps[1, 0] = -maps[1, 0].abs()  # below the value of no cell
    maps[2, 1:] = torch.randint(0, 3, (3, 2, 3), generator=generator).double()
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    found = shapley_of_maxima(maps, weights)
    torch.testing.assert_close(found.sum((1, 2)), (weights * maps.amax((2, 3))).sum(1))
    for n in range(3):
        assert found[n].flatten().tolist() == pytest.approx(by_orders(maps[n].flatten(1).tolist(), weights[n].tolist()))
    alone = torch.stack([shapley_of_maxima(maps[:, j, None], torch.ones(3, 1))[:, None] for j in range(4)], 2)[:, 0]
    values, cells = alone.flatten(2), maps.flatten(2)
    # In the order of the map: the same peak, and equal values for equal cells.
    above, higher = (one[..., :, None] - one[..., None, :] for one in (values, cells))
    assert (above.sign() * (above.abs() > 1e-12) == higher.sign()).all()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_networks(name, tmp_path):
    torch.manual_seed(1)
    network = NETWORKS[name]
    model = network.method().build(task(tmp_path, stripes(), network.config())).double().eval()
    # The network for full images makes four cells of one.
    side, classes = 1 if name == "support-st" else 2, torch.tensor([0, 2])
    features = torch.rand(2, model.backbone.channels, side, side, dtype=torch.float64)
    if name in ("protopool", "deformable", "prototree"):
        with pytest.raises(NotApplicable):
            model.shapley(features, classes)
        return
    found, seen = model.shapley(features, classes), model.head(features)
    weights = model.connections(torch.arange(len(model.prototypes)).expand(2, -1)).double()
    for n, c in enumerate(classes.tolist()):
        expected = by_orders(seen.maps[n].flatten(1).tolist(), weights[n, :, c].tolist())
        assert found[n].flatten().tolist() == pytest.approx(expected)
        assert sum(expected) == pytest.approx(float(seen.logits[n, c]))


@torch.no_grad()
def test_balls_are_cut():
    torch.manual_seed(1)
    model = ProtoConceptsModel(ProtoPNetModel(SmallNet(), 3, 2, 5), 6.0).double().eval()
    features, classes = torch.rand(2, model.backbone.channels, 2, 2, dtype=torch.float64), torch.tensor([0, 2])
    maps = model.head(features).maps.flatten(2)
    # Half of the prototypes have several cells inside their balls, which have equal values.
    model.cap_width_l2.copy_((9.2103403719761840 - maps.mean((0, 2)).where(torch.arange(6) % 2 > 0, 9)).expm1().log())
    model.non_vis_mask[0] = 0
    found, logits = model.shapley(features, classes), model.logits(features)
    for n, c in enumerate(classes.tolist()):
        weights = (model.network.last_layer.weight[c] * model.non_vis_mask).tolist()
        assert found[n].flatten().tolist() == pytest.approx(
            by_orders(maps[n].tolist(), weights, model.limit[0].tolist())
        )
        assert float(found[n].sum()) == pytest.approx(float(logits[n, c]))
