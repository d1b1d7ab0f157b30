"""Ranks and how often a method is best, against plain loops, and cases worked by hand."""

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli.main import main as bench
from bench.core.errors import RequestError
from bench.results.result_set import ResultSet
from bench.results.stats.bootstrap import resampled, sample
from bench.results.stats.ranking import chosen_blocks, ranked
from tests.support.comparisons import accuracy, drawn, stability

SHARES = {"ours": (0.9, 0.8), "protopnet": (0.6, 0.9), "tesnet": (0.5, 0.5)}


def grid(maker, shares=SHARES):
    cells = [
        accuracy(maker, name, drawn(share, 10 * place + seed, 60), seed=seed)
        for place, (name, own) in enumerate(shares.items()) for seed, share in enumerate(own)
    ]  # fmt: skip
    maker.invocation(cells)


def test_ranks_are_the_means_over_blocks(maker):
    grid(maker)
    (found,) = ranked(maker.store)
    values = {(cell.label, cell.seed): cell.score("accuracy")[1] for row in found.blocks.cells for cell in row}
    ranks = {
        name: np.mean([1 + sum(values[other, seed] > values[name, seed] for other in SHARES) for seed in (0, 1)])
        for name in SHARES
    }
    assert dict(zip(found.methods, found.ranks, strict=True)) == pytest.approx(ranks)
    assert list(found.ranks) == sorted(found.ranks)
    assert found.kind == "images"
    for shares in (found.best, found.best_units, found.best_seeds):
        assert sum(shares) == pytest.approx(1)
    assert all(low <= rank <= high for rank, (low, high) in zip(found.ranks, found.ends, strict=True))


def test_the_share_of_being_best_is_that_of_a_plain_bootstrap(maker):
    shares = {"ours": (0.62,), "protopnet": (0.6,), "tesnet": (0.55,)}
    right = {name: drawn(own[0], place, 40) for place, (name, own) in enumerate(shares.items())}
    cells = [accuracy(maker, name, hits, seed=seed) for name, hits in right.items() for seed in (0, 1)]
    maker.invocation(cells)
    (found,) = ranked(maker.store)
    generator, count = np.random.default_rng(0), np.zeros(3)
    for _ in range(4000):
        images = generator.integers(0, 40, 40)
        means = np.array([right[name][images].mean() for name in found.methods])
        best = np.isclose(means, means.max())
        count += best / best.sum()
    assert found.best_units == pytest.approx(tuple(count / 4000), abs=0.03)
    # Both seeds are equal here: drawing them changes nothing.
    assert found.best == pytest.approx(found.best_units)
    assert sorted(found.best_seeds, reverse=True) == [1, 0, 0]


def test_seeds_are_drawn_together_for_all_methods(maker):
    """One method is best with one seed, the other with the other: each is best in half of the draws of one seed."""
    grid(maker, {"ours": (1.0, 0.0), "protopnet": (0.0, 1.0), "tesnet": (0.0, 0.0)})
    (found,) = ranked(maker.store)
    shares = dict(zip(found.methods, found.best_seeds, strict=True))
    assert shares["ours"] == pytest.approx(0.5, abs=0.05)
    assert shares["tesnet"] == 0
    assert found.best == pytest.approx(found.best_seeds)


def test_equal_methods_share_the_first_place(maker):
    right = drawn(0.7, 4)
    cells = [accuracy(maker, name, right, seed=seed) for name in ("ours", "tesnet") for seed in (0, 1)]
    cells += [accuracy(maker, "protopnet", drawn(0, 1), seed=seed) for seed in (0, 1)]
    maker.invocation(cells)
    (found,) = ranked(maker.store)
    assert found.ranks == (1.5, 1.5, 3)
    assert found.best == found.best_units == found.best_seeds == (0.5, 0.5, 0)


def test_units_of_two_methods_have_to_be_the_same_things(maker):
    """Prototypes cannot be drawn for several methods together, so that only seeds are."""
    names = ("ours", "protopnet", "tesnet")
    metrics = {
        "duplication": {"version": "2", "parameters": {"threshold": 0.95}, "unit": "%", "higher_is_better": False}
    }
    cells = [
        maker.cell(name, {"duplication": 10.0 * place + seed}, metrics=metrics, seed=seed,
                   items={"duplication.prototype": {"prototype": [0, 1], "duplicate": [0, 1]}})
        for place, name in enumerate(names) for seed in (0, 1)
    ]  # fmt: skip
    maker.invocation(cells)
    (found,) = ranked(maker.store, metrics=["duplication"])
    assert (found.methods, found.ranks) == (names, (1, 2, 3))
    assert found.best_units is None
    assert found.reason
    assert found.best == found.best_seeds == (1, 0, 0)


def test_resamples_of_several_numbers_are_of_the_same_units():
    one = sample(range(30), np.arange(30.0))
    two = sample(range(30), 100 - np.arange(30.0))
    values = resampled([one, two], 50)
    assert values.shape == (50, 2)
    assert values.sum(1) == pytest.approx(np.full(50, 100))
    assert np.ptp(values[:, 0]) > 0


def test_what_cannot_be_ranked_is_refused(maker):
    maker.invocation([accuracy(maker, name, drawn(0.5, 1)) for name in ("ours", "tesnet")])
    with pytest.raises(RequestError, match="three methods in the same two blocks"):
        ranked(maker.store)
    with pytest.raises(RequestError, match=r"no result of 'ourss'; did you mean 'ours'\?"):
        ranked(maker.store, ["ourss"])
    with pytest.raises(RequestError, match=r"suite 'defualt' has not been run; did you mean 'default'\?"):
        ranked(maker.store, suites=["defualt"])
    with pytest.raises(RequestError, match=r"stability was not measured .*; there are results of: accuracy"):
        ranked(maker.store, metrics=["stability"])


def test_named_methods_take_part_even_with_fewer_blocks(maker):
    grid(maker)
    maker.invocation([accuracy(maker, "protopool", drawn(0.99, 3, 60), seed=0)], stamp="2")
    (blocks,) = chosen_blocks(ResultSet.of(maker.store), ["accuracy"])
    assert (blocks.left, len(blocks.blocks)) == (("protopool",), 2)
    with pytest.raises(RequestError, match="of ours, tesnet, protopool"):
        ranked(maker.store, ["ours", "tesnet", "protopool"])


def test_the_command_prints_a_table_for_each_metric(maker):
    grid(maker)
    rates = {"ours": [[0.9, 0.9], [0.8]], "protopnet": [[0.2], [0.4]], "tesnet": [[0.1], [0.1]]}
    maker.invocation([stability(maker, name, own, seed=seed) for name, own in rates.items() for seed in (0, 1)],
                     stamp="2", suite="second")  # fmt: skip
    shown = CliRunner().invoke(bench, ["rank", "--out", str(maker.store.root), "--format", "md"])
    assert shown.exit_code == 0, shown.output
    assert "ranks in accuracy" in shown.output
    assert "ranks in stability" in shown.output
    assert "critical difference of two mean ranks (Nemenyi, 0.05): 2.34" in shown.output
    only = CliRunner().invoke(bench, ["rank", "--out", str(maker.store.root), "--suite", "second"])
    assert "accuracy" not in only.output
