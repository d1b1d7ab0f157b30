"""Tests between methods beside enumeration, McNemar's test and scipy; corrections and ranks worked by hand."""

import doctest
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bench.results.stats import tests
from bench.results.stats.bootstrap import sample
from bench.results.stats.tests import alike, friedman, holm, mean_ranks, signed_rank, swap_test


def one(values, **more):
    return [sample(np.arange(len(values)), values, **more)]


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(tests).failed == 0


def test_every_swap_of_few_units():
    first, second = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0], [2.0, 7.0, 1.0, 1.0, 2.0, 8.0]
    found = abs(sum(first) - sum(second))
    hits = 0
    for swaps in product((0, 1), repeat=6):
        pairs = [(b, a) if swap else (a, b) for a, b, swap in zip(first, second, swaps, strict=True)]
        hits += abs(sum(a for a, _ in pairs) - sum(b for _, b in pairs)) >= found - 1e-12
    assert swap_test(one(first), one(second)) == pytest.approx(hits / 64)


def test_it_is_scipys_permutation_test():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=9), generator.normal(1, 1, 9)

    def apart(a, b, axis):
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    expected = stats.permutation_test((first, second), apart, permutation_type="samples", vectorized=True).pvalue
    assert swap_test(one(first), one(second)) == pytest.approx(expected)


def test_ratios_are_swapped_class_by_class():
    """Classes of one and of ten rows: swapped as wholes, each method's rows weighing the same in sum."""
    weights = [[1.0, 2.0, 1.0, 3.0], [10.0, 10.0, 20.0, 10.0]]
    rates = [[1.0, 0.5, 0.0, 1.0], [0.2, 0.4, 0.1, 0.0]]
    samples = [one(rate, weight=weight) for rate, weight in zip(rates, weights, strict=True)]

    def ratio(pairs):
        return sum(hits for hits, _ in pairs) / sum(weight for _, weight in pairs)

    rows = [
        [(r * w / (sum(weight) / 4), w / (sum(weight) / 4)) for r, w in zip(rate, weight, strict=True)]
        for rate, weight in zip(rates, weights, strict=True)
    ]
    found = abs(ratio(rows[0]) - ratio(rows[1]))
    assert found == pytest.approx(abs(samples[0][0].value - samples[1][0].value))
    hits = 0
    for swaps in product((0, 1), repeat=4):
        sides = [[rows[place ^ swap][unit] for unit, swap in enumerate(swaps)] for place in (0, 1)]
        hits += abs(ratio(sides[0]) - ratio(sides[1])) >= found - 1e-12
    assert swap_test(*samples) == pytest.approx(hits / 16)


@pytest.mark.parametrize(("only_first", "only_second"), [(1, 8), (0, 5), (6, 6), (60, 10), (40, 20), (9, 5), (0, 900)])
def test_for_accuracy_it_is_mcnemars_exact_test(only_first, only_second):
    first = np.array([1] * 50 + [1] * only_first + [0] * only_second + [0] * 30, float)
    second = np.array([1] * 50 + [0] * only_first + [1] * only_second + [0] * 30, float)
    expected = stats.binomtest(only_first, only_first + only_second).pvalue
    assert swap_test(one(first), one(second)) == pytest.approx(expected, rel=1e-9)
    assert swap_test(one(-3 * first), one(-3 * second)) == pytest.approx(expected, rel=1e-9)


def test_permutation_is_exact_for_ratios_of_equal_difference():
    """Beside plain enumeration: what one method has once and the other not, in a quotient of two means."""
    first = np.array([[1.0, 2.0]] * 6 + [[1.0, 1.0]] * 3 + [[0.0, 1.0]] * 9)
    second = np.array([[0.0, 1.0]] * 6 + [[2.0, 2.0]] * 3 + [[0.0, 1.0]] * 9)

    def quotient(means):
        return means[..., 0] / means[..., 1]

    def value(rows):
        return quotient(rows.mean(0))

    found = abs(value(first) - value(second))
    differ = [i for i in range(18) if (first[i] != second[i]).any()]
    reached = []
    for swaps in product((False, True), repeat=len(differ)):
        turned = np.zeros(18, bool)
        turned[differ] = swaps
        pair = [np.where(turned[:, None] ^ side, second, first) for side in (False, True)]
        reached.append(abs(value(pair[0]) - value(pair[1])) >= found - 1e-12)
    assert 0.01 < np.mean(reached) < 1
    assert swap_test(one(first, combine=quotient), one(second, combine=quotient)) == pytest.approx(np.mean(reached))


def test_an_exact_p_value_is_never_zero():
    assert 0 < swap_test(one(np.ones(5000)), one(np.zeros(5000))) < 1e-300


def test_random_swaps_are_near_the_exact_p_value():
    first, second = np.array([1.0] * 12 + [0.0] * 28), np.array([0.0] * 12 + [1.0] * 28)
    second[-1] += 1e-6  # so that they do not all differ by as much
    expected = stats.binomtest(12, 40).pvalue
    assert swap_test(one(first), one(second)) == pytest.approx(expected, abs=0.004)
    assert swap_test(one(first + 5), one(second - 5)) == 1 / (tests.SWAPS + 1)


def test_p_values_without_a_difference_are_uniform():
    generator = np.random.default_rng(1)
    found = []
    for _ in range(300):
        shared = generator.normal(size=30)
        pair = [one(shared + generator.exponential(size=30)) for _ in range(2)]
        found.append(swap_test(*pair, swaps=499))
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.085
    assert 0.4 < np.mean(found) < 0.6


def test_units_without_a_difference_leave_nothing_to_swap():
    values = np.random.default_rng(2).random(20)
    assert alike(one(values), one(values.copy()))
    assert swap_test(one(values), one(values.copy())) == 1
    assert not alike(one(values), one(values + np.eye(20)[3]))
    assert swap_test(one([5.0]), one([1.0])) == 1  # one unit: either way round is as large


def test_seeds_are_averaged_in_every_unit():
    first, second = np.random.default_rng(3).random((2, 8))
    spread = [*one(first + 0.25), *one(first - 0.25)]
    assert swap_test(spread, one(second)) == pytest.approx(swap_test(one(first), one(second)))


def test_units_that_one_of_them_lacks_are_swapped_too():
    first = [sample([0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0])]
    second = [sample([0, 1, 2], [0.0, 0.0, 0.0])]
    assert 0 < swap_test(first, second) <= 1


def test_holm_by_hand():
    assert holm([0.03, 0.005, 0.02, 0.01]) == pytest.approx([0.04, 0.02, 0.04, 0.03])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_mean_ranks_by_hand():
    values = np.array([[90.0, 80.0, 80.0], [70.0, 75.0, 60.0]])
    assert mean_ranks(values, True).tolist() == [1.5, 1.75, 2.75]
    assert mean_ranks(values, False).tolist() == [2.5, 2.25, 1.25]


def test_friedman_needs_enough_places_and_methods():
    values = np.random.default_rng(4).random((6, 4))
    assert friedman(values) == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
    assert friedman(values[:4]) is None
    assert friedman(values[:, :2]) is None
    assert friedman(np.ones((6, 3))) == 1


def test_signed_ranks_need_enough_places():
    assert signed_rank([1.0, 2, 3, 4, 5]) is None
    assert signed_rank([1.0, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    assert signed_rank(np.zeros(7)) == 1
