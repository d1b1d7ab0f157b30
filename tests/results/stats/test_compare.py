"""Which differences hold: from stored cells, paired by image or class, in the metric's direction, or refused."""

import numpy as np
import pytest
from scipy import stats

from bench.results.stats.compare import compare
from tests.support.comparisons import ACCURACY, LESS, accuracy, drawn, only, stability


def test_a_clear_difference_is_shown_with_its_direction(maker):
    first, second = drawn(0.9, 0), drawn(0.5, 1)
    maker.invocation([accuracy(maker, "ours", first), accuracy(maker, "tesnet", second)])
    found = only(maker, "ours", "tesnet")
    assert found.verdict == "ours better"
    assert found.difference == pytest.approx(100 * (first.mean() - second.mean()))
    assert found.low < found.difference < found.high
    assert found.low > 0
    wins = [int((one & ~other).sum()) for one, other in ((first, second), (second, first))]
    assert found.corrected == found.p == pytest.approx(stats.binomtest(wins[0], sum(wins)).pvalue)
    assert (found.units, found.kind) == (200, "images")
    turned = only(maker, "tesnet", "ours")
    assert turned.verdict == "ours better"
    assert (turned.difference, turned.p) == (pytest.approx(-found.difference), found.p)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1)


def test_pairs_are_of_the_same_images_whatever_their_order(maker):
    """30 images turn from right to wrong and 5 the other way: McNemar's test sees it, two shares alone do not."""
    first = np.array([1] * 100 + [1] * 15 + [0] * 3 + [0] * 82)
    second = np.array([1] * 100 + [0] * 15 + [1] * 3 + [0] * 82)
    order = np.random.default_rng(2).permutation(200)
    cells = [accuracy(maker, "ours", first), accuracy(maker, "tesnet", second[order], index=order.tolist())]
    maker.invocation(cells)
    found = only(maker, "ours", "tesnet")
    assert found.p == pytest.approx(stats.binomtest(3, 18).pvalue, abs=0.004)
    assert found.verdict == "ours better"
    assert stats.chi2_contingency([[115, 85], [103, 97]]).pvalue > 0.05


def test_less_is_better_where_the_metric_says_so(maker):
    values = {"ours": np.arange(1, 31.0), "tesnet": np.arange(1, 31.0) + 5}
    cells = [
        maker.cell(name, {"cancellation": float(own.mean())}, metrics=LESS,
                   items={"cancellation.image": {"index": range(30), "ratio": own.tolist()}})
        for name, own in values.items()
    ]  # fmt: skip
    maker.invocation(cells)
    found = only(maker, "tesnet", "ours")
    assert (found.difference, found.verdict, found.higher_is_better) == (pytest.approx(5), "ours better", False)


def test_without_a_difference_none_is_shown(maker):
    maker.invocation([accuracy(maker, "ours", drawn(0.7, 3)), accuracy(maker, "tesnet", drawn(0.7, 4))])
    found = only(maker, "ours", "tesnet")
    assert found.verdict == "no difference shown"
    assert found.low < 0 < found.high


def test_the_same_predictions_are_said_to_be_the_same(maker):
    hits = drawn(0.7, 5)
    maker.invocation([accuracy(maker, "ours", hits), accuracy(maker, "blackbox", hits)])
    found = only(maker, "ours", "blackbox")
    assert (found.verdict, found.p, found.difference) == ("equal in all 200 images", 1, 0)
    # 200 images alike do not exclude that one in a hundred others differs.
    assert (found.low, found.high) == (pytest.approx(-1.49, abs=0.01), pytest.approx(1.49, abs=0.01))


def test_prototypes_are_compared_class_by_class(maker):
    """Three prototypes per class against one: the classes are the units, and rows weigh as in the score."""
    generator = np.random.default_rng(6)
    many = [list(np.round(generator.beta(8, 2, 3), 3)) for _ in range(12)]
    one = [[round(float(np.mean(own)) - 0.1, 3)] for own in many]
    maker.invocation([stability(maker, "ours", many), stability(maker, "blackbox", one)])
    found = only(maker, "ours", "blackbox")
    assert (found.units, found.kind, found.verdict) == (12, "classes", "ours better")
    assert found.p == pytest.approx(2 / 2**12)
    assert found.low == pytest.approx(10, abs=0.2)


def test_one_class_cannot_be_tested(maker):
    maker.invocation([stability(maker, "ours", [[0.9, 0.8]]), stability(maker, "tesnet", [[0.1, 0.2]])])
    found = only(maker, "ours", "tesnet")
    assert (found.verdict, found.p, found.difference) == ("not tested", None, pytest.approx(70))
    assert "only one of its classes" in found.reason


def test_other_images_are_no_pairs(maker):
    hits = drawn(0.7, 7, 20)
    cells = [accuracy(maker, "ours", hits), accuracy(maker, "tesnet", hits, index=range(15, 35))]
    maker.invocation(cells)
    found = only(maker, "ours", "tesnet")
    assert found.verdict == "not tested"
    assert "only 5 of 35 images have a value in both" in found.reason


def test_a_few_missing_units_are_told(maker):
    rates = [[0.9], [0.8], [0.7], [0.9], [0.85], [0.8], [0.75], [0.7]]
    maker.invocation([stability(maker, "ours", rates), stability(maker, "tesnet", rates[:-1])])
    found = only(maker, "ours", "tesnet")
    assert (found.units, found.verdict) == (7, "no difference shown")
    assert found.reason == "7 of 8 classes have a value in both"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": "another"}, "data 5d41402abc4b2a76 / data another"),
        ({"protocol": {"crop": "full", "size": 224, "coordinates": "truncated"}},
         "protocol bbox-224-truncated / protocol full-224-truncated"),
        ({"metrics": {"accuracy": {"version": "2", "parameters": {}}}}, "differently: accuracy v1 / accuracy v2"),
        ({"metrics": {"accuracy": {"version": "1", "parameters": {"k": 5}}}}, "accuracy v1 / accuracy v1, k 5"),
        ({"dataset": "cars"}, "no result of tesnet here"),
        ({"backbone": "resnet34"}, "no result of tesnet here"),
    ],
)  # fmt: skip
def test_what_differs_is_not_compared(maker, change, reason):
    hits = drawn(0.7, 8)
    maker.invocation([accuracy(maker, "ours", hits), accuracy(maker, "tesnet", hits, **change)])
    found = compare(maker.store, ("ours", "tesnet")).comparisons
    assert {one.verdict for one in found} == {"cannot compare"}
    assert reason in found[0].reason
    assert all(one.p is None and one.difference is None for one in found)


def test_each_protocol_is_compared_with_itself(maker):
    full = {"crop": "full", "size": 224, "coordinates": "truncated"}
    cells = [accuracy(maker, name, drawn(share, 30)) for name, share in (("ours", 0.9), ("tesnet", 0.5))]
    cells.append(accuracy(maker, "tesnet", drawn(0.7, 31), protocol=full))
    maker.invocation(cells)
    for methods in (("ours", "tesnet"), ("tesnet", "ours")):
        found = {one.protocol: one for one in compare(maker.store, methods).comparisons}
        assert found["bbox-224-truncated"].verdict == "ours better"
        assert found["full-224-truncated"].verdict == "cannot compare"
        assert "bbox-224-truncated" in found["full-224-truncated"].reason


def test_other_starting_weights_are_told(maker, tmp_path):
    rows = (("ours", 0.9, "random"), ("tesnet", 0.5, "abc"))
    cells = [accuracy(maker, name, drawn(share, 32), weights=weights) for name, share, weights in rows]
    maker.invocation(cells)
    found = only(maker, "ours", "tesnet")
    assert (found.verdict, found.reason) == ("ours better", "they start from different weights")


def test_what_has_no_value_is_not_compared(maker):
    hits = drawn(0.7, 9)
    refused = maker.cell("constant", {}, backbone=None, role="control", metrics=ACCURACY,
                         not_applicable={"accuracy": "constant predicts no class"})  # fmt: skip
    failed = maker.cell("tesnet", metrics=ACCURACY, failure=("oom", "tried 40 GiB"))
    maker.invocation([accuracy(maker, "ours", hits), refused, failed])
    assert only(maker, "ours", "constant").reason == "n/a for constant: predicts no class"
    assert only(maker, "ours", "tesnet").reason == "out of memory for tesnet: tried 40 GiB"


def test_controls_stand_beside_every_backbone(maker):
    rates = [[0.1], [0.2], [0.1], [0.3]] * 5
    cells = [stability(maker, "ours", rates, backbone=name) for name in ("resnet34", "vgg19")]
    cells.append(stability(maker, "constant", [[1.0]] * 20, backbone=None, role="control"))
    maker.invocation(cells)
    found = compare(maker.store, ("ours", "constant")).comparisons
    assert [one.backbone for one in found] == ["resnet34", "vgg19"]
    assert {one.verdict for one in found} == {"constant better"}


def test_p_values_are_corrected_over_all_tests_of_the_call(maker):
    first = np.array([1] * 100 + [1] * 9 + [0] * 1 + [0] * 90)
    second = np.array([1] * 100 + [0] * 9 + [1] * 1 + [0] * 90)
    both = {"ours": first, "tesnet": second}
    nets = ("resnet34", "vgg19", "tiny")
    cells = [accuracy(maker, name, hits, backbone=net) for net in nets for name, hits in both.items()]
    maker.invocation(cells)
    found = compare(maker.store, ("ours", "tesnet"))
    p = stats.binomtest(1, 10).pvalue
    assert [one.p for one in found.comparisons] == pytest.approx([p] * 3)
    assert [one.corrected for one in found.comparisons] == pytest.approx([3 * p] * 3)
    assert {one.verdict for one in found.comparisons} == {"no difference shown"}
    assert any("corrected for the 3 tests" in fact for fact in found.facts)
