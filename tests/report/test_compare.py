"""Which differences hold: from stored cells, paired by image or class, in the metric's direction, or refused."""

import csv
import io
import json
from itertools import permutations

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from scipy import stats
from stores import StoreMaker

from bench.cli import main
from bench.contract import RequestError
from bench.report import contest_text
from bench.report.compare import compare

ACCURACY = {"accuracy": {"version": "1", "parameters": {}}}
STABILITY = {"stability": {"version": "1", "parameters": {}}}
LESS = {"cancellation": {"version": "1", "parameters": {}, "unit": "", "higher_is_better": False}}


@pytest.fixture
def maker(tmp_path):
    return StoreMaker(tmp_path)


def accuracy(maker, method, hits, metrics=ACCURACY, index=None, **more):
    """A cell with an accuracy of these images."""
    hits = np.asarray(hits, dtype=int)
    index = range(len(hits)) if index is None else index
    items = {"accuracy.image": {"index": index, "correct": hits.tolist()}}
    return maker.cell(method, {"accuracy": 100 * float(hits.mean())}, metrics=metrics, items=items, **more)


def stability(maker, method, rates, **more):
    """A cell with stabilities of prototypes: ``rates[class]``, as many as the class has."""
    rows = [(place, label, rate) for label, own in enumerate(rates) for place, rate in enumerate(own)]
    table = dict(zip(("prototype", "class", "stable"), zip(*rows, strict=True), strict=True))
    value = 100 * float(np.mean([rate for _, _, rate in rows]))
    return maker.cell(method, {"stability": value}, metrics=STABILITY, items={"stability.prototype": table}, **more)


def drawn(share, seed, count=200):
    return np.random.default_rng(seed).random(count) < share


def only(maker, *methods, **more):
    (found,) = compare(maker.store, methods, **more).comparisons
    return found


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
    cells = [accuracy(maker, name, drawn(share, 32)) for name, share in (("ours", 0.9), ("tesnet", 0.5))]
    file = maker.store.cell(cells[1]).path / "cell.json"
    file.write_text(file.read_text().replace('"weights_digest": "random"', '"weights_digest": "abc"'))
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
    with pytest.raises(RequestError, match=r"no result of 'tesnet'"):
        compare(maker.store, ("ours", "tesnet"), stamp="2")
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


def test_ranks_are_of_the_seeds_that_all_have_however_the_methods_are_named(maker):
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


def shown(found, width):
    stream = io.StringIO()
    contest_text.as_text(found, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.fixture
def small(maker):
    """A store with a difference, none, and something that cannot be compared."""
    both = {**ACCURACY, "consistency_controlled": {"version": "1", "parameters": {}}}
    cells = []
    for name, share in (("ours", 0.9), ("protopnet", 0.5), ("tesnet", 0.5)):
        hits = drawn(share, len(name)).astype(int)
        table = {"prototype": range(60), "class": [place // 3 for place in range(60)], "counted": hits[:60].tolist()}
        items = {
            "accuracy.image": {"index": range(200), "correct": hits.tolist()},
            "consistency_controlled.prototype": table,
        }
        scores = {"accuracy": 100 * hits.mean(), "consistency_controlled": 100 * hits[:60].mean()}
        cells.append(maker.cell(name, scores, metrics=both, items=items))
    cells.append(
        maker.cell("constant", {"consistency_controlled": 10.0}, backbone=None, role="control", metrics=both,
                   not_applicable={"accuracy": "constant predicts no class"})
    )  # fmt: skip
    maker.invocation(cells)
    return maker


@pytest.mark.parametrize("width", [100, 140])
def test_text_fits_and_keeps_numbers_whole(small, width):
    found = compare(small.store, ("ours", "protopnet", "constant"))
    text = shown(found, width)
    assert max(map(len, text.splitlines())) <= width
    for said in (
        "ours against protopnet: demo, tiny (bbox-224-truncated)",
        "ours better",
        "cannot compare",
        "¹ n/a for constant: predicts no class",
        "no column 'counted'",
        "Holm: p corrected for the 2 tests",
    ):
        assert said.replace(" ", "") in text.replace("\n", "").replace(" ", "")  # fmt: skip
    one = found.comparisons[0]
    assert f"{one.difference:+.1f} [{one.low:+.1f}, {one.high:+.1f}]" in text


def test_markdown_columns_line_up(small):
    text = contest_text.as_markdown(compare(small.store, ("ours", "protopnet")))
    table = [row for row in text.splitlines() if row.startswith("|")]
    assert len(table) == 4
    assert len({tuple(place for place, letter in enumerate(row) if letter == "|") for row in table}) == 1


def test_json_and_csv_hold_everything(small, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(small.store.root))
    result = CliRunner().invoke(main, ["compare", "ours", "protopnet", "--format", "json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    first = found["comparisons"][0]
    assert (first["methods"], first["metric"], first["verdict"]) == (["ours", "protopnet"], "accuracy", "ours better")
    assert first["low"] < first["difference"] < first["high"]
    result = CliRunner().invoke(main, ["compare", "ours", "protopnet", "--metrics", "accuracy", "--format", "csv"])
    (row,) = csv.DictReader(result.stdout.splitlines())
    assert float(row["value_1"]) == first["values"][0]
    assert (row["method_1"], row["method_2"], row["seed_1"], row["verdict"]) == (
        "ours",
        "protopnet",
        "0",
        "ours better",
    )


def test_exit_codes_and_help(small, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(small.store.root))

    def call(*arguments):
        return CliRunner().invoke(main, ["compare", *arguments])

    assert call("ours", "tesnet").exit_code == 0
    assert call("ours", "constant").exit_code == 1  # nothing of it could be tested
    wrong = call("ours")
    assert wrong.exit_code == 2
    assert "two or more different methods" in wrong.stderr
    assert call("ours", "tesnett").exit_code == 2
    assert "python -m bench compare ours protopnet" in call("--help").stdout
    assert "accuracy" not in call("ours", "tesnet", "--metrics", "keypoints").stdout
