"""Every variant of consistency and stability against plain loops, on made-up maps full of ties and borders."""

from functools import cache
from math import isnan

import numpy as np
import pytest
import torch

from metrics.consistency import Consistency
from metrics.stability import Stability
from tests.oracle import plain_loops, variant_loops
from tests.oracle.test_interpretability import made_up
from tests.support.scripted_model import ScriptedModel, images, score

NAMES = ["left eye", "beak", "right eye", "tail", "left wing", "right wing", "back"]


@cache
def case(side, seed):
    """A model with scripted maps, its annotations, and the hits of plain loops at each peak."""
    labels, classes, maps, noisy, points, visible = made_up(side, seed)
    if seed % 2:
        visible = np.where(visible.any(1, keepdims=True), True, visible)  # some classes show all parts, one shows none
    owned = [(int(p), int(c)) for p, c in zip(*np.nonzero(classes), strict=True)]
    own = [[p for p, c in owned if c == labels[i]] for i in range(20)]

    def look(shown, find, hit):
        return [{p: hit(find(shown[i, p]), points[i], visible[i]) for p in own[i]} for i in range(20)]

    def pixpnet(at, places, shown):
        return variant_loops.pixpnet_hits(at, places, shown, NAMES)

    found = {
        "plain": [look(shown, plain_loops.peak, variant_loops.plain_hits) for shown in (maps, noisy)],
        "pixpnet": [look(shown, lambda m: variant_loops.hot_centre(m.tolist()), pixpnet) for shown in (maps, noisy)],
    }
    model = ScriptedModel(torch.as_tensor(classes), torch.as_tensor(maps), torch.as_tensor(noisy))
    return (model, images(20), labels, points, visible), owned, labels, found


CASES = [(7, 0), (7, 1), (14, 2), (28, 3)]


@pytest.mark.parametrize(("side", "seed"), CASES)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("variant", ["v1", "v2", "protopformer", "pixpnet"])
def test_consistency(variant, pooled, side, seed):
    data, owned, labels, found = case(side, seed)
    own = variant == "pixpnet"
    kept = [i for i, row in enumerate(found["plain"][0]) if row]
    rows = [found["pixpnet" if own else "plain"][0][i] for i in kept]
    units = variant_loops.units_of(owned, pooled)
    hard, soft = variant_loops.consistency(rows, units, labels[kept], strict=own)
    result = score(Consistency, *data, names=NAMES, variant=variant, pooled=pooled)
    assert (result.value, result.n) == (pytest.approx(hard, abs=1e-12), len(units))
    if own and not isnan(soft):
        assert result.also["soft"] == pytest.approx(soft, abs=1e-9)
    else:
        assert result.also == {}


@pytest.mark.parametrize(("side", "seed"), CASES)
@pytest.mark.parametrize("pooled", [False, True])
def test_stability(pooled, side, seed):
    data, owned, labels, found = case(side, seed)
    units = variant_loops.units_of(owned, pooled)

    def hits(kind):
        return [[{p: hit for p, (hit, _) in row.items()} for row in rows] for rows in found[kind]]

    for variant, kind in (("v2", "plain"), ("pixpnet", "pixpnet")):
        before, after = hits(kind)
        result = score(Stability, *data, names=NAMES, variant=variant, pooled=pooled)
        expected = variant_loops.stability(before, after, units, labels, lambda one, two: one == two)
        assert result.value == pytest.approx(expected, abs=1e-12)
        soft = variant_loops.soft_stability(before, after, units, labels)
        assert result.also.get("soft", float("nan")) == pytest.approx(soft if variant == "pixpnet" else float("nan"),
                                                                      abs=1e-9, nan_ok=True)  # fmt: skip


@pytest.mark.parametrize(("side", "seed"), CASES)
def test_stability_version_1(side, seed):
    data, owned, labels, found = case(side, seed)
    before, after = (
        [{p: list(hit.values()) for p, (hit, _) in row.items()} for row in rows] for rows in found["plain"]
    )
    expected = variant_loops.stability_v1(before, after, owned, labels)
    result = score(Stability, *data, variant="v1")
    assert result.value == pytest.approx(expected, abs=1e-12)
    assert result.value >= score(Stability, *data).value - 20  # other averages, but never a stricter test


def test_the_cases_tell_the_variants_apart():
    data, *_ = case(7, 1)
    found = {variant: score(Consistency, *data, names=NAMES, variant=variant).value for variant in ("v2", "pixpnet")}
    assert len(set(found.values())) == 2
    stable = {variant: score(Stability, *data, names=NAMES, variant=variant) for variant in ("v2", "v1", "pixpnet")}
    assert len({one.value for one in stable.values()}) == 3
    assert stable["v1"].items["image"]["stable"].sum() >= stable["v2"].items["image"]["stable"].sum()
    assert score(Stability, *data, pooled=True).value != stable["v2"].value
