"""Which seeds, runs and methods a comparison is made of, and their mean ranks."""

from itertools import permutations

import numpy as np
import pytest

from bench.contract import RequestError
from bench.results.stats.compare import compare
from tests.support.comparisons import ACCURACY, accuracy, drawn, only, shown, stability


def test_seeds_widen_the_interval_and_decide_too(maker):
    """Over the images of one network the difference is clear; networks of other seeds differ by more than it."""
    shares = {"ours": (0.95, 0.55, 0.75), "tesnet": (0.55, 0.85, 0.6)}
    cells = [
        accuracy(maker, name, drawn(share, 10 + seed, 400), seed=seed)
        for name, own in shares.items() for seed, share in enumerate(own)
    ]  # fmt: skip
    maker.invocation(cells)
    found = only(maker, "ours", "tesnet")
    assert found.seeds == ((0, 1, 2), (0, 1, 2))
    assert found.spreads[0] == pytest.approx(20, abs=4)
    assert found.p < 0.05
    assert found.low < 0 < found.high
    assert found.verdict == "no difference shown"
    assert not any(fact.startswith("one seed") for fact in compare(maker.store, ("ours", "tesnet")).facts)


def test_unequal_seeds_are_compared_as_they_are(maker):
    cells = [accuracy(maker, "ours", drawn(0.9, seed), seed=seed) for seed in (0, 1)]
    cells += [accuracy(maker, "tesnet", drawn(0.4, 5), seed=7)]
    cells += [maker.cell("ours", metrics=ACCURACY, seed=2, failure=("failed", "NaN"))]
    maker.invocation(cells)
    found = only(maker, "ours", "tesnet")
    assert (found.seeds, found.verdict) == (((0, 1), (7,)), "ours better")
    assert found.spreads[1] is None


def test_seeds_that_only_one_of_two_has_are_left_out(maker):
    """Of an unfinished grid: the seed that both have is the same network in both."""
    right = drawn(0.9, 3)
    cells = [accuracy(maker, "ours", right, seed=0), accuracy(maker, "blackbox", right, seed=0)]
    cells += [accuracy(maker, "ours", drawn(0.5, seed), seed=seed) for seed in (1, 2)]
    maker.invocation(cells)
    found = only(maker, "ours", "blackbox")
    assert (found.seeds, found.verdict) == (((0,), (0,)), "equal in all 200 images")
    assert found.reason == "seeds 1, 2 of ours left out: blackbox has none"


def test_the_newest_run_that_has_all_methods_is_taken(maker):
    old = [accuracy(maker, "ours", drawn(0.9, 11)), accuracy(maker, "tesnet", drawn(0.5, 12))]
    maker.invocation(old, stamp="1")
    new = accuracy(maker, "ours", drawn(0.2, 13), settings={"k": 5})
    maker.invocation([new], stamp="2")
    found = compare(maker.store, ("ours", "tesnet"))
    assert found.comparisons[0].verdict == "ours better"
    assert found.facts[-1] == "cells: run 1, the newest that has all of them"
    with pytest.raises(RequestError, match=r"^tesnet has no results in run 2; there are results of: ours$"):
        compare(maker.store, ("ours", "tesnet"), stamp="2")


def test_a_method_without_results_is_no_misspelling(maker):
    maker.invocation([accuracy(maker, name, drawn(0.5, 1)) for name in ("ours", "protopnet")])
    with pytest.raises(RequestError) as caught:
        compare(maker.store, ("ours", "tesnet"))
    assert str(caught.value) == f"tesnet has no results in {maker.store.root}; there are results of: ours, protopnet"
    with pytest.raises(RequestError, match=r"no result of 'protopnett'; did you mean 'protopnet'\?"):
        compare(maker.store, ("ours", "protopnett"))


def test_a_long_list_of_labels_is_cut(maker):
    maker.invocation([accuracy(maker, "ours", drawn(0.5, k), settings={"k": k}, label=f"ours (k={k})")
                      for k in range(20)])  # fmt: skip
    with pytest.raises(RequestError, match=r"there are results of: .* and 12 more$"):
        compare(maker.store, ("tesnet", "protopnet"))
    with pytest.raises(RequestError, match="no run '3'"):
        compare(maker.store, ("ours", "tesnet"), stamp="3")
    with pytest.raises(RequestError, match="suite 'x' has not been run"):
        compare(maker.store, ("ours", "tesnet"), suite="x")


def test_a_run_that_has_the_metrics_goes_before_a_newer_one(maker):
    hits = {"ours": drawn(0.9, 11), "tesnet": drawn(0.5, 12)}
    maker.invocation([accuracy(maker, name, own) for name, own in hits.items()], stamp="1")
    rates = {name: own.reshape(20, 10).astype(float) for name, own in hits.items()}
    maker.invocation([stability(maker, name, own) for name, own in rates.items()], stamp="2")
    for metric, stamp in (("accuracy", "1"), ("stability", "2"), ("all", "2")):
        found = compare(maker.store, ("ours", "tesnet"), metrics=(metric,))
        assert found.facts[-1] == f"cells: run {stamp}, the newest that has all of them in these metrics"
    with pytest.raises(RequestError, match=r"\(cells: run 2, the newest that has all of them\)"):
        compare(maker.store, ("ours", "tesnet"), metrics=("purity",))


def test_first_is_compared_with_the_others_and_corrected(maker):
    names = ("ours", "tesnet", "protopnet")
    cells = [
        accuracy(maker, name, drawn(0.9 - place / 10, place), backbone=net)
        for net in ("resnet34", "vgg19")
        for place, name in enumerate(names)
    ]
    maker.invocation(cells)
    every, first = compare(maker.store, names), compare(maker.store, names, first_only=True)
    assert [one.methods for one in first.comparisons] == [("ours", "tesnet")] * 2 + [("ours", "protopnet")] * 2
    assert [one.p for one in first.comparisons] == [one.p for one in every.comparisons[:4]]
    smallest = min(first.comparisons, key=lambda one: one.p)
    assert smallest.corrected == pytest.approx(4 * smallest.p)
    assert not first.rankings
    assert every.rankings


@pytest.mark.parametrize("newer", [0, 1])
@pytest.mark.parametrize("k", range(6))  # other ids in another order, which must not decide
def test_without_a_whole_run_a_method_keeps_its_black_box(maker, newer, k):
    """The same settings twice, measured for other metrics, of two trainings: one has its black box in the same run."""
    more = {**ACCURACY, "cost": {"version": "2", "parameters": {}, "unit": "s"}}
    hits, fewer = [1] * 90 + [0] * 10, {"index": range(100), "correct": [1] * 80 + [0] * 20}
    own = accuracy(maker, "ours", hits, settings={"k": k}), accuracy(maker, "blackbox", hits, role="reference")
    scores, items = {"accuracy": 80.0, "cost": 1.0}, {"accuracy.image": fewer}
    alone = maker.cell("ours", scores, metrics=more, items=items, settings={"k": k})
    stamps = ["20260301-000000-000", "20260302-000000-000"]
    maker.invocation(own, stamps[newer])
    maker.invocation([alone], stamps[1 - newer])
    maker.invocation([accuracy(maker, "tesnet", [1] * 50 + [0] * 50)], "20260303-000000-000")
    assert only(maker, "ours", "tesnet", metrics=["accuracy"]).values == (90.0, 50.0)


def test_names_of_the_same_method_are_the_nearest(maker):
    labels = {"ours": "ours (k=5, x=1)", "ours-contrast": "ours-contrast (k=5)"}
    maker.invocation([accuracy(maker, name, drawn(0.9, 1), label=label) for name, label in labels.items()])
    with pytest.raises(RequestError, match=r"no result of 'ours \(k=5\)'; did you mean 'ours \(k=5, x=1\)'"):
        compare(maker.store, ("ours (k=5)", "ours-contrast (k=5)"))


def test_one_name_for_two_settings_has_to_be_told_apart(maker):
    cells = [accuracy(maker, "ours", drawn(0.9, 14), settings={"k": k}) for k in (3, 5)]
    maker.invocation([*cells, accuracy(maker, "tesnet", drawn(0.5, 15))])
    with pytest.raises(
        RequestError, match=f"stands for 2 different settings on demo, tiny: write .*ours#{cells[0][:6]}"
    ):
        compare(maker.store, ("ours", "tesnet"))
    with pytest.raises(RequestError, match="no result of 'tesnett'; did you mean 'tesnet'"):
        compare(maker.store, ("ours", "tesnett"))
    found = only(maker, f"ours#{cells[1][:6]}", "tesnet")
    assert found.methods == (f"ours#{cells[1][:6]}", "tesnet")
    assert only(maker, *(f"ours#{name[:6]}" for name in cells)).verdict == "equal in all 200 images"


def test_what_never_came_to_a_result_stands_for_nothing(maker):
    cells = [accuracy(maker, "ours", drawn(0.9, 33)), accuracy(maker, "tesnet", drawn(0.5, 34))]
    cells.append(maker.cell("ours", metrics=ACCURACY, settings={"k": 9}))
    maker.invocation(cells)
    assert only(maker, "ours", "tesnet").verdict == "ours better"


def test_the_same_settings_with_other_metrics_are_one_method(maker):
    """A cell that measured less, of another run, belongs to the same row."""
    runs = [[accuracy(maker, "ours", drawn(0.9, 16)), stability(maker, "ours", [[0.5], [0.6]] * 10)]]
    runs.append([accuracy(maker, "tesnet", drawn(0.5, 17))])
    for stamp, cells in enumerate(runs):
        maker.invocation(cells, stamp=str(stamp))
    found = compare(maker.store, ("ours", "tesnet"))
    assert {one.metric: one.verdict for one in found.comparisons} == {
        "accuracy": "ours better", "stability": "cannot compare",
    }  # fmt: skip
    assert found.facts[-1] == "cells: all in the store, for no run has all of them"


def test_wrong_requests_name_the_nearest(maker):
    with pytest.raises(RequestError, match="nothing has been run yet"):
        compare(maker.store, ("ours", "tesnet"))
    maker.invocation([accuracy(maker, "ours", drawn(0.9, 18)), accuracy(maker, "tesnet", drawn(0.5, 19))])
    with pytest.raises(RequestError, match="no result of 'tesnett'; did you mean 'tesnet'"):
        compare(maker.store, ("ours", "tesnett"))
    with pytest.raises(RequestError, match=r"no result of metric 'acuracy' \(cells: run .*\); did you mean 'accuracy'"):
        compare(maker.store, ("ours", "tesnet"), metrics=("acuracy",))
    with pytest.raises(RequestError, match=r"purity was not measured \(cells: run .*\): run .* --metrics purity"):
        compare(maker.store, ("ours", "tesnet"), metrics=("purity",))
    with pytest.raises(RequestError, match="two or more different methods"):
        compare(maker.store, ("ours", "ours"))


def test_ranks_over_data_sets_and_backbones(maker):
    shares = {"ours": 0.9, "tesnet": 0.6, "protopnet": 0.3}
    cells = [
        accuracy(maker, name, drawn(share, 20 + place, 100), dataset=dataset, backbone=net)
        for dataset in ("cub", "cars")
        for place, net in enumerate(("resnet34", "vgg19", "densenet121"))
        for name, share in shares.items()
    ]
    maker.invocation(cells)
    found = compare(maker.store, tuple(shares))
    (ranking,) = found.rankings
    assert (ranking.metric, ranking.ranks, ranking.places) == ("accuracy", (1, 2, 3), 6)
    assert ranking.p == pytest.approx(np.exp(-6))  # chi-square of 12 with two degrees of freedom
    assert [tally.ahead for tally in found.tallies] == [(6, 0)] * 3
    assert [tally.p for tally in found.tallies] == pytest.approx([2 / 64] * 3)
    text = shown(found, 100)
    assert "mean rank" in text
    assert "over data sets and backbones" in text


def test_ranks_use_shared_seeds_under_any_label(maker):
    """By pairs other seeds are in common: 0 for all three, 1 for the last two only, where they are best."""
    shares = {"ours": {0: 0.8}, "protopnet": {0: 0.6, 1: 0.95}, "tesnet": {0: 0.7, 1: 0.9}}
    cells = [
        accuracy(maker, name, [1] * round(100 * share) + [0] * round(100 - 100 * share), backbone=net, seed=seed)
        for net in ("resnet34", "vgg19")
        for name, own in shares.items()
        for seed, share in own.items()
    ]
    maker.invocation(cells)
    for names in permutations(shares):
        (ranking,) = compare(maker.store, names).rankings
        assert dict(zip(names, ranking.ranks, strict=True)) == {"ours": 1, "tesnet": 2, "protopnet": 3}


def test_the_ranks_of_one_place_say_nothing_new(maker):
    names = ("ours", "tesnet", "protopnet")
    maker.invocation([accuracy(maker, name, drawn(0.9 - place / 10, place)) for place, name in enumerate(names)])
    assert "mean rank" not in shown(compare(maker.store, names), 100)
