"""Variance components against plain loops and known truths, and what a setting moves."""

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli.main import main as bench
from bench.core.errors import RequestError
from bench.results.stats.variance import explained, variance_components
from tests.support.comparisons import accuracy, drawn

NAMES = ("ours", "protopnet", "tesnet")


def by_loops(y):
    """The mean squares and their equations, written out."""
    methods, backbones, seeds = y.shape
    whole = y.mean()
    squares = dict.fromkeys(("m", "b", "mb", "s", "e"), 0.0)
    for m in range(methods):
        for b in range(backbones):
            for s in range(seeds):
                squares["m"] += (y[m].mean() - whole) ** 2 / (methods - 1)
                squares["b"] += (y[:, b].mean() - whole) ** 2 / (backbones - 1)
                squares["mb"] += (y[m, b].mean() - y[m].mean() - y[:, b].mean() + whole) ** 2 / (
                    (methods - 1) * (backbones - 1)
                )
                squares["s"] += (y[:, b, s].mean() - y[:, b].mean()) ** 2 / (backbones * (seeds - 1))
                squares["e"] += (y[m, b, s] - y[m, b].mean() - y[:, b, s].mean() + y[:, b].mean()) ** 2 / (
                    backbones * (methods - 1) * (seeds - 1)
                )
    return {
        "training": squares["e"],
        "seed": (squares["s"] - squares["e"]) / methods,
        "method x backbone": (squares["mb"] - squares["e"]) / seeds,
        "method": (squares["m"] - squares["mb"]) / (backbones * seeds),
        "backbone": (squares["b"] - squares["mb"] - squares["s"] + squares["e"]) / (methods * seeds),
    }


def model(sizes, deviations, generator):
    methods, backbones, seeds = sizes
    method, backbone, both, seed, rest = (
        deviation * generator.standard_normal(shape)
        for deviation, shape in zip(
            deviations,
            ((methods, 1, 1), (backbones, 1), (methods, backbones, 1), (backbones, seeds), sizes),
            strict=True,
        )
    )
    return 50 + method + backbone + both + seed + rest


def test_components_are_those_of_the_plain_loops():
    y = model((4, 3, 3), (5, 3, 2, 1, 0.5), np.random.default_rng(1))
    expected = {name: max(0.0, value) for name, value in by_loops(y).items()}
    assert variance_components(y) == pytest.approx(expected)


def test_components_are_right_on_average():
    generator = np.random.default_rng(2)
    found = [by_loops(model((5, 4, 3), (5, 3, 2, 1, 0.5), generator)) for _ in range(400)]
    means = {name: np.mean([one[name] for one in found]) for name in found[0]}
    truth = {"method": 25, "backbone": 9, "method x backbone": 4, "seed": 1, "training": 0.25}
    assert means == pytest.approx(truth, rel=0.15)


def test_worked_by_hand():
    # Only the method: it differs by 10 between two methods, a variance of 50.
    y = np.array([[[10.0, 10.0], [10.0, 10.0]], [[20.0, 20.0], [20.0, 20.0]]])
    found = variance_components(y)
    assert found.pop("method") == 50
    assert set(found.values()) == {0}
    # Only the black box's seed, which all methods share.
    found = variance_components(np.array([[[0.0, 2.0], [1.0, 3.0]]] * 3))
    assert found["seed"] == 2
    assert (found["method"], found["training"], found["backbone"]) == (0, 0, 0)
    with pytest.raises(ValueError, match="two methods and two seeds"):
        variance_components(np.zeros((3, 2, 1)))


def test_components_of_stored_cells(maker):
    shares = {"ours": 0.9, "protopnet": 0.6, "tesnet": 0.3}
    maker.invocation([accuracy(maker, name, drawn(share, seed), seed=seed)
                      for name, share in shares.items() for seed in (0, 1, 2)])  # fmt: skip
    (found,), moved, units = explained(maker.store)
    assert (found.metric, found.data, found.methods, found.backbones, found.seeds) == ("accuracy", "demo", 3, 1, 3)
    assert found.deviations["method"] == pytest.approx(30, abs=3)
    assert found.deviations.keys() == {"method", "seed", "training"}
    assert (moved, units["accuracy"]) == ([], "%")


def test_a_setting_moves_what_its_pairs_show(maker):
    cells = [accuracy(maker, "ours", np.arange(100) < 50 + 10 * k + seed, seed=seed, settings={"k": k},
                      label=f"ours (k={k})") for k in (2, 3) for seed in (0, 1)]  # fmt: skip
    # Two settings are changed here: it belongs to no pair.
    cells.append(accuracy(maker, "ours", np.arange(100) < 1, settings={"k": 4, "x": 1}, label="ours (k=4, x=1)"))
    cells.append(accuracy(maker, "ours", np.arange(100) < 66, seed=1, settings={"k": 10}, label="ours (k=10)"))
    maker.invocation(cells)
    _, moved, _ = explained(maker.store, settings=["k"])
    by_change = {one.change: (one.pairs, one.mean, one.size) for one in moved}
    assert by_change == {
        ("2", "3"): (2, pytest.approx(10), pytest.approx(10)),
        ("2", "10"): (1, pytest.approx(-5), pytest.approx(5)),
        ("3", "10"): (1, pytest.approx(-15), pytest.approx(15)),
    }
    with pytest.raises(RequestError, match="three methods with two seeds"):
        explained(maker.store, settings=["stage"])
    shown = CliRunner().invoke(bench, ["variance", "--settings", "all", "--out", str(maker.store.root)])
    assert shown.exit_code == 0, shown.output
    assert "k: 2 > 3" in shown.output
