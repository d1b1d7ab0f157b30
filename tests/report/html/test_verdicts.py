"""What the report says about methods: against the black box, against the best control, between them."""

from pathlib import Path

import numpy as np
import pytest

from bench.report.html import words
from bench.report.html.verdicts import turned, verdicts, winner
from bench.report.result_tables import results
from bench.results.result_set import ResultSet
from bench.results.stats.compare import compare
from bench.results.stats.tests import holm
from tests.support.stores import StoreMaker

METRICS = {name: {"version": "1", "parameters": {}} for name in ("accuracy", "stability")}


def cell(maker: StoreMaker, method: str, share: float, stable: float, seed: int, **more: object) -> str:
    """A cell with 200 test images and the stability of a prototype in each of 40 classes."""
    generator = np.random.default_rng(seed)
    hits = (generator.random(200) < share).astype(int)
    rates = np.clip(generator.normal(stable, 0.02, 40), 0, 1)
    items = {
        "accuracy.image": {"index": range(200), "correct": hits.tolist()},
        "stability.prototype": {"prototype": range(40), "class": range(40), "stable": rates.tolist()},
    }
    scores = {"accuracy": 100 * float(hits.mean()), "stability": 100 * float(rates.mean())}
    if more.get("role") == "control":
        items.pop("accuracy.image")
        scores.pop("accuracy")
        more = {**more, "backbone": None, "not_applicable": {"accuracy": f"{method} predicts no class"}}
    return maker.cell(method, scores, metrics=METRICS, items=items, **more)  # type: ignore[arg-type]


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    """Two good methods and a bad one, a black box, a weak control and a strong one."""
    maker = StoreMaker(tmp_path)
    cells = [
        cell(maker, "ours", 0.9, 0.6, 1),
        cell(maker, "protopnet", 0.88, 0.9, 2),
        cell(maker, "tesnet", 0.3, 0.4, 3),
        cell(maker, "blackbox", 0.9, 0.5, 4, role="reference"),
        cell(maker, "random", 0.0, 0.1, 5, role="control"),
        cell(maker, "constant", 0.0, 0.75, 6, role="control"),
    ]
    maker.invocation(cells)
    return maker


def places(maker: StoreMaker, most: int = 100):
    return verdicts(maker.store, results(ResultSet.of(maker.store)), most)


def test_three_questions_are_answered(maker: StoreMaker) -> None:
    (place,) = places(maker)
    assert (place.title, place.backbone, place.methods) == ("demo", "tiny", ["ours", "protopnet", "tesnet"])
    found = {one.methods[0]: one for one in place.found["black box"]}
    assert {one.methods[1] for one in found.values()} == {"blackbox"}
    assert {name: winner(one) for name, one in found.items()} == {"ours": None, "protopnet": None, "tesnet": 1}
    # The best control stands for chance, and only where a control has a value.
    chance = {one.methods[0]: one for one in place.found["chance"]}
    assert {(one.metric, one.methods[1]) for one in chance.values()} == {("stability", "constant")}
    assert {name: winner(one) for name, one in chance.items()} == {"ours": 1, "protopnet": 0, "tesnet": 1}
    assert len(place.found["methods"]) == 6


def test_numbers_are_compares_with_holm_for_each_question(maker: StoreMaker) -> None:
    (place,) = places(maker)
    single = compare(maker.store, ("ours", "tesnet"), metrics=("accuracy",)).comparisons[0]
    own = next(one for one in place.found["methods"] if one.methods == ("ours", "tesnet") and one.metric == "accuracy")
    assert (own.difference, own.low, own.high, own.p) == (single.difference, single.low, single.high, single.p)
    for found in place.found.values():
        assert [one.corrected for one in found] == pytest.approx(holm([one.p for one in found]))


def test_no_more_tests_than_allowed_and_the_rest_is_counted(maker: StoreMaker) -> None:
    (place,) = places(maker, most=4)
    assert {question: len(found) for question, found in place.found.items()} == {
        "black box": 3, "chance": 1, "methods": 0, "black box, changed": 0, "chance, changed": 0,
    }  # fmt: skip
    assert [len(left) for left in place.left.values()] == [0, 2, 6, 0, 0]


def test_a_comparison_seen_from_the_other_side(maker: StoreMaker) -> None:
    (place,) = places(maker)
    for one in place.found["methods"]:
        other = turned(one)
        assert other.methods == one.methods[::-1]
        assert (other.low, other.difference, other.high) == (-one.high, -one.difference, -one.low)
        assert turned(other) == one
        assert winner(other) == {None: None, 0: 1, 1: 0}[winner(one)]


def test_the_finding_names_who_beats_the_best_control(maker: StoreMaker) -> None:
    assert words.finding(places(maker)) == (
        "On demo, in stability, protopnet beats the best content-free control (constant), ours and tesnet do not."
    )
    strong = cell(maker, "center", 0.0, 0.99, 9, role="control")
    maker.invocation([strong], stamp="20260305-000000-000")
    assert words.finding(places(maker)) == (
        "On demo, none of 3 methods beats the best content-free control (center) in stability."
    )


def test_changed_settings_alter_no_verdict_on_the_others(maker: StoreMaker) -> None:
    (before,) = places(maker)
    extra = [
        cell(maker, "ours", 0.8, 0.7, k, label=f"ours (k={k})", settings={"k": k}, changed=["k"]) for k in (5, 7, 10)
    ]
    maker.invocation(extra, stamp="20260305-000000-000")
    (after,) = places(maker)
    for question in ("black box", "chance", "methods"):
        assert after.found[question] == before.found[question]
        assert after.tests[question] == before.tests[question] == len(before.found[question])
    assert after.tests["chance, changed"] == len(after.found["chance, changed"]) == 3
    found, family = after.of("chance", "ours (k=5)", "stability")
    assert (found.methods, family) == (("ours (k=5)", "constant"), 3)
    assert after.of("chance", "ours", "stability")[1] == 3
    assert (after.methods, after.changed) == (["ours", "protopnet", "tesnet"], [f"ours (k={k})" for k in (10, 5, 7)])


def test_changed_settings_are_compared_with_chance_only(maker: StoreMaker) -> None:
    extra = cell(maker, "ours", 0.8, 0.7, 7, label="ours (k=5)", settings={"k": 5}, changed=["k"])
    maker.invocation([extra], stamp="20260305-000000-000")
    (place,) = places(maker)
    assert {one.methods[0] for one in place.found["chance, changed"]} == {"ours (k=5)"}
    assert not any("ours (k=5)" in one.methods for one in place.found["methods"])


def test_changed_settings_are_the_first_to_be_left_out(maker: StoreMaker) -> None:
    """Twelve tests are about methods as they come; three rows of changed settings ask for six more."""
    plain = sum(map(len, places(maker)[0].found.values()))
    extra = [
        cell(maker, "ours", 0.8, 0.7, k, label=f"ours (k={k})", settings={"k": k}, changed=["k"]) for k in (5, 7, 10)
    ]
    maker.invocation(extra, stamp="20260305-000000-000")
    for most in (plain, plain + 2):
        (place,) = places(maker, most)
        assert sum(map(len, place.found.values())) == most
        assert place.left["methods"] == []
        assert {label for own in place.left.values() for label in own} <= {f"ours (k={k})" for k in (5, 7, 10)}
        for found in place.found.values():
            assert [one.corrected for one in found] == pytest.approx(holm([one.p for one in found]))


def test_cells_without_tables_are_not_tested_and_say_why(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path)
    metrics = {"accuracy": METRICS["accuracy"]}
    maker.invocation([maker.cell(name, {"accuracy": 50.0}, metrics=metrics) for name in ("ours", "tesnet")])
    (place,) = places(maker)
    (one,) = place.found["methods"]
    assert (one.verdict, one.p) == ("not tested", None)
    assert "no column 'correct'" in one.reason
    assert words.finding([place]) == ""
