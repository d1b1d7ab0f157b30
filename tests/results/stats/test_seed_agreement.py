"""Agreement of seeds against every possible matching, and cases worked by hand."""

from itertools import permutations

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli.main import main as bench
from bench.core.errors import RequestError
from bench.report.renderers import as_markdown
from bench.report.seed_table import seed_table
from bench.results.stats.seed_agreement import seed_agreement, shared_parts, shared_places

DRAW = np.random.default_rng(3)


def prototypes(parts):
    """Table of prototypes: parts by class."""
    rows = [(label, part) for label, own in enumerate(parts) for part in own]
    labels, best = np.array(rows).T
    return {"prototype": np.arange(len(rows)), "class": labels, "best_part": best}


def images(peaks):
    """Table of peaks ``(classes, images, prototypes, 2)``."""
    classes, count, own = peaks.shape[:3]
    label, image, prototype = (grid.ravel() for grid in np.indices((classes, count, own)))
    row, column = peaks.reshape(-1, 2).T
    return {"index": label * count + image, "prototype": label * own + prototype, "class": label, "row": row,
            "column": column}  # fmt: skip


def best(alike):
    """The largest mean of a matching, by trying all of them; both sides have as many."""
    return max(np.mean([alike[i][j] for i, j in enumerate(order)]) for order in permutations(range(len(alike))))


def test_parts_are_matched_in_the_best_way():
    one, two = DRAW.integers(0, 4, (2, 5, 4))
    classes, same, chance = shared_parts(prototypes(one), prototypes(two))
    shares = [[best(a[:, None] == b) for b in two] for a in one]
    assert classes.tolist() == list(range(5))
    assert same.tolist() == pytest.approx([shares[c][c] for c in range(5)])
    others = [[shares[c][d] for d in range(5) if d != c] for c in range(5)]
    assert chance.tolist() == pytest.approx([np.mean(row) for row in others])


def test_places_are_matched_in_the_best_way():
    one, two = DRAW.integers(0, 224, (2, 3, 6, 3, 2))
    _, same, chance = shared_places(images(one), images(two), half=60)

    def share(first, second):
        near = [[np.mean([max(abs(first[i, a] - second[i, b])) <= 60 for i in range(6)]) for b in range(3)]
                for a in range(3)]  # fmt: skip
        return best(near)

    assert same.tolist() == pytest.approx([share(a, b) for a, b in zip(one, two, strict=True)])
    assert chance.tolist() == pytest.approx([share(a, b[[5, 0, 1, 2, 3, 4]]) for a, b in zip(one, two, strict=True)])


def test_worked_by_hand():
    # Two of three, whatever their order; a prototype without a part matches nothing, not even its like.
    _, same, _ = shared_parts(prototypes([[1, 2, 3]]), prototypes([[3, 4, 1]]))
    assert same.tolist() == [pytest.approx(2 / 3)]
    _, same, _ = shared_parts(prototypes([[-1, -1]]), prototypes([[-1, -1]]))
    assert same.tolist() == [0]
    # One prototype against two: at most half of the larger number is paired.
    _, same, _ = shared_parts(prototypes([[1]]), prototypes([[1, 1]]))
    assert same.tolist() == [0.5]


def test_a_place_that_never_moves_is_no_evidence():
    still = np.full((2, 4, 2, 2), 100)
    _, same, chance = shared_places(images(still), images(still), half=36)
    assert same.tolist() == chance.tolist() == [1, 1]


def cells(maker, *seeds):
    metrics = {"consistency": {"version": "1", "parameters": {"half_size": 36}}}
    for seed, parts in enumerate(seeds):
        peaks = np.full((2, 3, 2, 2), 100) + 100 * (np.indices((2, 3, 2, 2))[2] == 1)
        items = {"consistency.prototype": prototypes(parts), "consistency.image": images(peaks)}
        maker.cell("ours", {"consistency": 50.0}, seed=seed, metrics=metrics, items=items)


def test_seeds_of_a_store_are_compared(maker):
    cells(maker, [[1, 2], [3, 4]], [[2, 1], [3, 5]], [[1, 2], [3, 4]])
    (found,) = seed_agreement(maker.store)
    # Pairs of seeds: 1 and 1/2 twice, 1 and 1 once.
    assert found.parts == pytest.approx(100 * np.mean([1, 0.5, 1, 0.5, 1, 1]))
    assert (found.parts_chance, found.places, found.seeds, found.classes) == (0, 100, (0, 1, 2), 2)
    assert "demo: ours" in as_markdown([seed_table([found])])
    printed = CliRunner().invoke(bench, ["seeds", "ours", "--out", str(maker.store.root), "--format", "md"])
    assert "| demo: ours | tiny" in printed.stdout, printed.output


def test_one_seed_has_nothing_to_agree_with(maker):
    cells(maker, [[1, 2], [3, 4]])
    with pytest.raises(RequestError, match="--seeds 0,1"):
        seed_agreement(maker.store)
