"""Two methods class by class, against plain loops over the rows of their tables."""

from pathlib import Path

import numpy as np
import pytest

from bench.report.html import write_site
from bench.report.html.per_class import pairs
from bench.report.html.verdicts import verdicts
from bench.report.result_tables import results
from bench.results.result_set import ResultSet
from tests.support.site_pages import broken_links, read_site
from tests.support.stores import StoreMaker

METRICS = {name: {"version": "1", "parameters": {}} for name in ("accuracy", "consistency")}
LABELS = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
OWN = [0, 0, 1, 1, 2]


def cell(maker: StoreMaker, method: str, seed: int, labels: list[int]) -> tuple[list[int], list[int]]:
    """Write a cell, and return what is right and consistent in it."""
    generator = np.random.default_rng([seed, len(method)])
    right, consistent = (generator.integers(0, 2, count).tolist() for count in (len(labels), len(OWN)))
    items = {
        "accuracy.image": {"index": range(len(labels)), "label": labels, "correct": right},
        "consistency.prototype": {"prototype": range(len(OWN)), "class": OWN, "consistent": consistent},
    }
    scores = {"accuracy": 100 * float(np.mean(right)), "consistency": 100 * float(np.mean(consistent))}
    maker.invocation([maker.cell(method, scores, metrics=METRICS, items=items, seed=seed)], f"2026030{seed}-{method}")
    return right, consistent


def test_shares_and_images_are_those_of_plain_loops(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "home")
    known = {(method, seed): cell(maker, method, seed, LABELS) for method in ("ours", "protopnet") for seed in (0, 1)}
    found = results(ResultSet.of(maker.store))
    (pair,) = pairs(maker.store, found, verdicts(maker.store, found))
    assert (pair.methods, pair.seeds, pair.metrics) == (("ours", "protopnet"), (0, 1), ("accuracy", "consistency"))
    assert {row.number for row in pair.rows} == {0, 1, 2}
    sizes = [abs(row.difference) for row in pair.rows]
    assert sizes == sorted(sizes, reverse=True)
    for row in pair.rows:
        for place, method in enumerate(pair.methods):
            for metric, groups, which in (("accuracy", LABELS, 0), ("consistency", OWN, 1)):
                total = count = 0
                for seed in (0, 1):
                    for group, value in zip(groups, known[method, seed][which], strict=True):
                        total, count = total + value * (group == row.number), count + (group == row.number)
                assert row.values[metric][place] == pytest.approx(100 * total / count)
        for place, (one, other) in enumerate((("ours", "protopnet"), ("protopnet", "ours"))):
            alone = {
                image: sum(known[one, seed][0][image] and not known[other, seed][0][image] for seed in (0, 1)) / 2
                for image, label in enumerate(LABELS) if label == row.number
            }  # fmt: skip
            assert row.only[place][0] == pytest.approx(sum(alone.values()))
            assert set(row.only[place][1]) == {image for image, share in alone.items() if share}
    write_site(maker.store, tmp_path / "site")
    assert broken_links(tmp_path / "site") == []
    pages = read_site(tmp_path / "site")
    assert pair.address in pages["index.html"].links
    lines = (tmp_path / "site" / "downloads").glob("*class-by-class*.csv")
    text = next(lines).read_text().splitlines()
    assert text[0] == "class,accuracy ours,accuracy protopnet,consistency ours,consistency protopnet"
    assert len(text) == 4


def test_methods_that_were_tested_on_other_images_are_no_pair(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "home")
    cell(maker, "ours", 0, LABELS)
    cell(maker, "protopnet", 0, LABELS[::-1])
    found = results(ResultSet.of(maker.store))
    assert pairs(maker.store, found, verdicts(maker.store, found)) == []
