"""Intervals beside scipy's from the same resamples, beside closed forms, and how often they hold the truth."""

import dataclasses
import doctest

import numpy as np
import pytest
from scipy import stats

from bench.results.stats import bootstrap
from bench.results.stats.bootstrap import NoInterval, bca, difference, interval, sample


def resamples(units, count=bootstrap.RESAMPLES):
    """Which units each resample holds, written out one by one."""
    counts = np.concatenate(list(bootstrap._draws(units, count))).astype(int)
    return [np.repeat(np.arange(units), row) for row in counts]


def by_scipy(statistic, units):
    """Scipy's BCa interval of a function of positions, from our resamples, each worked out by itself."""
    data = (np.arange(units),)
    few = stats.bootstrap(data, statistic, n_resamples=2, method="percentile", vectorized=False)
    ours = dataclasses.replace(few, bootstrap_distribution=np.array([statistic(own) for own in resamples(units)]))
    found = stats.bootstrap(data, statistic, n_resamples=0, method="BCa", bootstrap_result=ours, vectorized=False)
    return tuple(found.confidence_interval)


def clusters(generator, classes, share=0.5):
    """Rows of classes that differ: class, hit; a class's own rate lies around the share."""
    sizes = generator.integers(3, 11, classes)
    rates = generator.beta(2 * share, 2 * (1 - share), classes)
    label = np.repeat(np.arange(classes), sizes)
    return label, (generator.random(len(label)) < rates[label]).astype(float)


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(bootstrap).failed == 0


def test_a_mean_of_rows_is_resampled_by_class_as_scipy_does():
    label, hit = clusters(np.random.default_rng(1), 40)
    found = interval([sample(label, hit)])

    def mean(classes):
        rows = [value for one in classes for value in hit[label == one]]
        return sum(rows) / len(rows)

    assert (found.low, found.high) == pytest.approx(by_scipy(mean, 40))


def test_what_is_no_mean_is_worked_out_anew_in_every_resample():
    generator = np.random.default_rng(2)
    columns, weight = generator.exponential(size=(30, 2)), generator.integers(1, 5, 30).astype(float)
    one = sample(np.arange(30), columns, weight, lambda means: 100 * means.max(-1))

    def larger(chosen):
        return 100 * max(float((columns[chosen, m] * weight[chosen]).sum() / weight[chosen].sum()) for m in (0, 1))

    assert one.value == pytest.approx(larger(np.arange(30)))
    found = interval([one])
    assert (found.low, found.high) == pytest.approx(by_scipy(larger, 30))


def test_a_paired_difference_is_resampled_in_pairs():
    generator = np.random.default_rng(3)
    first = generator.normal(size=25)
    second = first + generator.normal(0.2, 0.1, 25)
    found = difference([sample(np.arange(25), first)], [sample(np.arange(25), second)])
    assert (found.low, found.high) == pytest.approx(by_scipy(lambda own: (first[own] - second[own]).mean(), 25))
    alone = interval([sample(np.arange(25), first)])
    assert found.high - found.low < (alone.high - alone.low) / 4


def test_binary_images_are_drawn_by_their_counts():
    """What is drawn is binomial then, and BCa ends of that distribution come out."""
    right, images = 700, 1000
    totals = bootstrap._totals(np.column_stack((np.arange(images) < right, np.ones(images))).astype(float), 20_000)
    assert (totals[:, 1] == images).all()
    for level in (0.025, 0.2, 0.5, 0.8, 0.975):
        assert np.quantile(totals[:, 0], level) == pytest.approx(stats.binom.ppf(level, images, right / images), abs=1)
    one_by_one = np.array([(own < right).mean() for own in resamples(images)])
    found = interval([sample(np.arange(images), np.arange(images) < right)])
    expected = bca(one_by_one, right / images, (right - (np.arange(images) < right)) / (images - 1))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize(("right", "images"), [(700, 1000), (40, 1452), (560, 600)])
def test_the_interval_of_an_accuracy_is_nearly_wilsons(right, images):
    found = interval([sample(np.arange(images), np.arange(images) < right)])
    wilson = stats.binomtest(right, images).proportion_ci(method="wilson")
    width = wilson.high - wilson.low
    assert abs(found.low - wilson.low) < 0.12 * width
    assert abs(found.high - wilson.high) < 0.12 * width


def test_interval_holds_the_truth_in_95_of_100_data_sets():
    generator = np.random.default_rng(4)
    by_class = by_row = both = 0
    for _ in range(400):
        label, hit = clusters(generator, 50, share=0.4)
        found = interval([sample(label, hit)])
        rows = interval([sample(np.arange(len(hit)), hit)], resamples=400)
        other = clusters(generator, 50, share=0.4)
        apart = difference([sample(label, hit)], [sample(*other)])
        by_class += found.low <= 0.4 <= found.high
        by_row += rows.low <= 0.4 <= rows.high
        both += apart.low <= 0 <= apart.high
    # The standard error of such a share is 1.1 %.
    assert 0.92 <= by_class / 400 <= 0.98
    assert 0.92 <= both / 400 <= 0.98
    assert by_row / 400 < 0.85  # rows of a class are not independent: intervals over rows are too narrow


def test_units_that_are_all_alike_leave_room_for_others():
    perfect = interval([sample(np.arange(50), np.full(50, 100.0), limits=(0.0, 100.0))])
    assert (perfect.low, perfect.high) == (pytest.approx(100 * stats.beta.ppf(0.05, 50, 1)), 100)
    never = interval([sample(np.arange(50), np.zeros(50), limits=(0.0, 100.0))])
    assert (never.low, never.high) == (0, pytest.approx(100 - perfect.low))
    same = [sample(np.arange(50), np.full(50, 100.0), limits=(0.0, 100.0))]
    apart = difference(same, same)
    assert (apart.low, apart.high) == (pytest.approx(perfect.low - 100), pytest.approx(100 - perfect.low))


def test_without_limits_they_say_nothing():
    with pytest.raises(NoInterval, match="all 9 images are alike"):
        interval([sample(np.arange(9), np.zeros(9), kind="images")])


def test_one_class_says_nothing():
    with pytest.raises(NoInterval, match="one of its classes"):
        interval([sample([3, 3, 3], [1.0, 0.0, 1.0], kind="classes", limits=(0.0, 1.0))])


def test_what_is_not_finite_is_not_averaged():
    with pytest.raises(NoInterval, match="not finite"):
        sample([0, 1], [1.0, np.nan])
    assert sample([0, 1], [1.0, np.nan], weight=[1, 0]).value == 1
    with pytest.raises(NoInterval, match="no row that counts"):
        sample([0, 1], [1.0, 2.0], weight=[0, 0])
    with pytest.raises(NoInterval, match="no row that counts"):
        sample([], [])


def test_resamples_without_a_value():
    few = sample(np.arange(5), [1.0, 2.0, 3.0, 4.0, 5.0]).over(np.arange(40))
    assert interval([few]).low < 3 < interval([few]).high  # some 0.5 % of the resamples hold none of the five
    fewer = sample(np.arange(2), [1.0, 2.0]).over(np.arange(40))
    with pytest.raises(NoInterval, match="leave nothing to average"):
        interval([fewer])


def test_a_bias_beyond_the_spread_is_refused():
    values = np.random.default_rng(9).normal(size=40)
    one = sample(np.arange(40), values - values.mean(), combine=lambda means: np.abs(means[..., 0]))
    with pytest.raises(NoInterval, match="bias is larger"):
        interval([one])


def test_seeds_are_resampled_too():
    still = [sample(np.arange(30), np.full(30, value)) for value in (10.0, 20.0, 30.0)]
    found = interval(still)
    assert found.low < 20 < found.high
    generator = np.random.default_rng(5)
    noise = generator.normal(size=200)
    near = [sample(np.arange(200), noise + shift) for shift in (-1.0, 0.0, 1.0)]
    wide, narrow = interval(near), interval(near[1:2])
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    # Paired seeds that differ alike cancel; others do not.
    other = noise + 0.5 + generator.normal(0, 0.1, 200)
    higher = [sample(np.arange(200), other + shift) for shift in (-1.0, 0.0, 1.0)]
    together, alone = difference(higher, near, paired=True), difference(higher, near)
    assert alone.low < 0 < 0.4 < together.low < 0.5 < together.high < 0.6


def test_spread_of_the_seed_mean_is_a_standard_error():
    values = np.array([10.0, 14.0, 15.0, 25.0])
    weights = bootstrap._seed_weights((4,), 20_000, False)
    assert (weights @ values).std() == pytest.approx(values.std(ddof=1) / 2, rel=0.03)


def test_large_data_is_resampled_in_blocks(monkeypatch):
    values = np.random.default_rng(6).normal(size=300)
    whole = interval([sample(np.arange(300), values)])
    monkeypatch.setattr(bootstrap, "_KEPT", 10)
    monkeypatch.setattr(bootstrap, "_BLOCK", 30_000)
    parts = interval([sample(np.arange(300), values)])
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02)
    assert [len(own) for own in resamples(300, 250)] == [300] * 250


def test_the_same_numbers_come_out_every_time():
    one = [sample(np.arange(60), np.random.default_rng(7).random(60))]
    first = interval(one)
    np.random.default_rng(8).random(100)
    bootstrap._kept.cache_clear()
    assert interval(one) == first


def test_interval_holds_the_value_if_bca_turns_round():
    drawn = np.linspace(0, 1, 101)
    jackknife = np.array([0.0] * 99 + [1000.0])
    low, high = bca(drawn, 0.9, jackknife)
    assert low <= 0.9 <= high
