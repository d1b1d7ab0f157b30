"""Labels against a classifier's answers: chance and other orders, with binomials counted by hand."""

from math import comb

import numpy as np
import pytest

from bench.models.confusion import CHANCE_LEVEL, ORDER_LEVEL, judge


def tail(n, p, most):
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(most + 1))


def images(classes, each):
    return np.repeat(np.arange(classes), each)


def test_a_classifier_that_knows_its_labels_is_left_alone():
    y = images(6, 5)
    answers = np.where(np.arange(len(y)) % 3, y, (y + 1) % 6)
    fit = judge(y, answers, 6, {"other": [5, 4, 3, 2, 1, 0]})
    assert (fit.order, fit.rows, fit.near_chance, fit.at_chance) == ("", None, False, False)
    assert fit.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(("images_of_each", "sure"), [(4, False), (40, True)])
def test_chance_is_refused_where_a_binomial_says_so(images_of_each, sure):
    y = images(5, images_of_each)
    fit = judge(y, np.zeros(len(y), int), 5)  # always the same answer: one in five is right
    assert fit.near_chance
    assert fit.at_chance == sure == (tail(len(y), 0.4, len(y) // 5) < CHANCE_LEVEL)


@pytest.mark.parametrize(("classes", "each"), [(2, 3), (3, 3), (30, 2)])
def test_few_images_are_never_chance_for_sure(classes, each):
    y = images(classes, each)
    assert not judge(y, (y + 1) % classes, classes).at_chance or classes == 30
    assert not judge(y, np.zeros(len(y), int), classes).at_chance


@pytest.mark.parametrize(("moved", "found"), [(9, False), (12, True)])
def test_a_named_order_wins_by_a_sign_test(moved, found):
    y = images(20, 3)
    rows = np.arange(20)
    rows[:4] = [1, 2, 3, 0]
    answers = np.where(np.arange(60) < moved, rows[y], y)
    answers[moved:12] = 19  # of the other images of moved classes none is right in either order
    assert found == (2**-moved < ORDER_LEVEL)
    fit = judge(y, answers, 20, {"named": rows})
    assert (fit.order == "named") == found
    if found:
        assert fit.reached == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_best_order_is_found_in_the_images_alone(seed):
    rows = np.random.default_rng(seed).permutation(12)
    y = images(12, 4)
    fit = judge(y, rows[y], 12)
    assert fit.order == "best"
    assert fit.reached == 1.0
    np.testing.assert_array_equal(fit.rows, rows)


@pytest.mark.parametrize(("classes", "each"), [(3, 3), (5, 10), (30, 2), (200, 10)])
def test_no_order_wins_by_having_been_picked(classes, each):
    generator = np.random.default_rng(0)
    y = images(classes, each)
    for _ in range(20):
        assert judge(y, generator.integers(0, classes, len(y)), classes).order == ""


def test_confused_pairs_are_no_other_order():
    generator = np.random.default_rng(0)
    y = images(50, 20)
    for _ in range(10):
        chosen = generator.random(len(y))
        answers = np.where(chosen < 0.45, y, np.where(chosen < 0.9, y ^ 1, 0))
        assert judge(y, answers, 50).order == ""


def test_one_class_or_no_image_says_nothing():
    assert not judge([0, 0], [0, 0], 1).near_chance
    assert judge([], [], 3).accuracy == 0
