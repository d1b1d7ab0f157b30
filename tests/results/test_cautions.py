"""Signs that a number says little about its method."""

import pytest

from bench.results.cautions import collapsed, empty_regions, odd_facts, undertrained

SOUND = {
    "saturated": 5.0, "z_deviation": 0.2, "accuracy_unprojected": 95.0, "accuracy_projected": 92.0,
    "border_peaks": 50.0, "border_cells": 49.0, "kept_slots": 20.0,
}  # fmt: skip


def test_sound_fit_has_no_odd_facts():
    assert odd_facts(SOUND) == []
    assert odd_facts({}) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"saturated": 45.0}, "add-on layers are saturated"),
        ({"z_deviation": 0.04}, "latent space has shrunk"),
        ({"accuracy_projected": 61.0}, "95 -> 61 %"),
        ({"border_peaks": 80.0}, "border ring"),
        ({"kept_slots": 97.0}, "assignment was not learnt"),
    ],
)
def test_odd_fact_is_named_alone(facts, words):
    (sentence,) = odd_facts({**SOUND, **facts})
    assert words in sentence


@pytest.mark.parametrize(("accuracy", "warned"), [(82.5, False), (82.3, True), (95.0, False)])
def test_ten_points_behind_the_black_box_are_undertrained(accuracy, warned):
    assert bool(undertrained(accuracy, 92.4)) == warned


def test_empty_regions_are_named_above_a_quarter():
    assert empty_regions([20.0, 30.0]) == ""
    assert empty_regions([]) == ""
    assert empty_regions([40.0, 41.0]).startswith("40 % of its regions")


def test_collapse_is_a_quarter_of_empty_regions():
    assert collapsed([38.0, 40.1])
    assert collapsed([20.0, 31.0])
    assert not collapsed([24.0, 25.9])
    assert not collapsed([])
