"""What moves a score: variance components of method, backbone and seed, and differences that single settings make."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import RequestError
from bench.results.cell_record import CellRecord
from bench.results.labels import text_of
from bench.results.result_set import ResultSet, wanted_metrics
from bench.results.stats.ranking import Blocks, chosen_blocks
from bench.results.store import Store

Array = NDArray[np.float64]
SOURCES = ("method", "backbone", "method x backbone", "seed", "training")
"""Components: ``seed`` is shared by all methods of a backbone (its black box), ``training`` is what is left."""


@dataclass(frozen=True)
class Components:
    """Standard deviation that each source adds to one metric on one data set, in the metric's unit.

    Attributes:
        metric: its name.
        data: name of the data set.
        methods: number of methods.
        backbones: number of backbones.
        seeds: number of seeds of each backbone.
        deviations: by source; those of the backbone are missing with one backbone.
    """

    metric: str
    data: str
    methods: int
    backbones: int
    seeds: int
    deviations: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """Two cells that differ in one setting alone.

    Attributes:
        setting: its name.
        change: both values, in words.
        before: the cell with the first.
        after: the cell with the second.
    """

    setting: str
    change: tuple[str, str]
    before: CellRecord
    after: CellRecord


@dataclass(frozen=True)
class Move:
    """What one change of a setting does to one metric, over all cells that differ in nothing else.

    Attributes:
        setting: its name.
        change: both values, in words.
        metric: its name.
        pairs: number of pairs of cells.
        mean: mean difference, second minus first.
        size: root of the mean squared difference.
    """

    setting: str
    change: tuple[str, str]
    metric: str
    pairs: int
    mean: float
    size: float


def explained(
    store: Store, metrics: Sequence[str] = (), suites: Sequence[str] = (), settings: Sequence[str] = ()
) -> tuple[list[Components], list[Move], dict[str, str]]:
    """Return the components of each metric, the moves of settings, and the unit of each metric.

    Args:
        store: contains the results.
        metrics: names or groups; by default the usual ones.
        suites: whose cells count; by default all.
        settings: whose moves are returned; ``all`` for every setting, by default none.

    Raises:
        RequestError: if there is neither.
    """
    cells = ResultSet.of(store).required().of_suites(suites)
    names = wanted_metrics(cells, metrics, f"in {store.root}", usual=True)
    found = [one for blocks in chosen_blocks(cells, names) for one in components(blocks)]
    moved = moves(cells, names, () if "all" in settings else settings) if settings else []
    if not found and not moved:
        raise RequestError("no metric has values of three methods with two seeds on the same data and backbone")
    units = {name: str(facts["unit"]) for cell in cells for name, facts in cell.spec.get("metrics", {}).items()}
    return found, moved, units


def variance_components(values: Array) -> dict[str, float]:
    """Estimate the variance that each source adds, from the mean squares of a balanced table; none is below 0.

    The model is y = mean + method + backbone + method x backbone + seed within backbone + rest, all random (Searle,
    Casella and McCulloch, Variance Components, 1992, chapter 4: the equations of expected mean squares).

    Args:
        values: ``(M, B, S)`` of M methods on B backbones with S seeds; B may be 1.

    Raises:
        ValueError: with fewer than two methods or seeds.

    Example:
        >>> found = variance_components(np.array([[[1.0, 3.0]], [[5.0, 7.0]]]))
        >>> found["method"], found["seed"], found["training"]
        (8.0, 2.0, 0.0)
    """
    methods, backbones, seeds = values.shape
    if methods < 2 or seeds < 2:
        raise ValueError("needs two methods and two seeds")
    whole, by_method, by_backbone = values.mean(), values.mean((1, 2)), values.mean((0, 2))
    by_both, by_seed = values.mean(2), values.mean(0)
    of_method = backbones * seeds * ((by_method - whole) ** 2).sum() / (methods - 1)
    of_seed = methods * ((by_seed - by_backbone[:, None]) ** 2).sum() / (backbones * (seeds - 1))
    rest = values - by_both[:, :, None] - by_seed + by_backbone[:, None]
    of_rest = (rest**2).sum() / (backbones * (methods - 1) * (seeds - 1))
    # E[MS seed] = rest + M seed, E[MS method] = rest + S (method x backbone) + B S method, and so on: each is solved
    # for its component.
    found = {"seed": (of_seed - of_rest) / methods, "training": of_rest}
    if backbones == 1:
        found["method"] = (of_method - of_rest) / seeds
    else:
        apart = by_both - by_method[:, None] - by_backbone + whole
        of_both = seeds * (apart**2).sum() / ((methods - 1) * (backbones - 1))
        of_backbone = methods * seeds * ((by_backbone - whole) ** 2).sum() / (backbones - 1)
        found["method"] = (of_method - of_both) / (backbones * seeds)
        found["method x backbone"] = (of_both - of_rest) / seeds
        found["backbone"] = (of_backbone - of_both - of_seed + of_rest) / (methods * seeds)
    return {name: max(0.0, float(value)) for name, value in found.items()}


def components(blocks: Blocks) -> list[Components]:
    """Return the components of a metric on each data set that has two seeds of each backbone."""
    tables: dict[str, list[Array]] = defaultdict(list)
    names: dict[str, str] = {}
    for ((data, *_), rows), table in zip(blocks.places, blocks.tables, strict=True):
        names[data] = rows[0][0].dataset
        tables[data].append(table.T)
    found = []
    for data, own in tables.items():
        # The same number of seeds of each backbone: the first ones of each.
        seeds = min(table.shape[1] for table in own)
        if seeds < 2:
            continue
        values = np.stack([table[:, :seeds] for table in own], 1)
        deviations = {name: math.sqrt(value) for name, value in variance_components(values).items()}
        found.append(Components(blocks.metric, names[data], *values.shape, deviations))
    return found


def moves(cells: Iterable[CellRecord], metrics: Sequence[str], settings: Sequence[str] = ()) -> list[Move]:
    """Return what each change of one setting does to each metric, from pairs of cells that differ in nothing else.

    By default all settings that make a difference between two cells are looked at.
    """
    gaps: dict[tuple[str, tuple[str, str], str], list[float]] = defaultdict(list)
    for pair in pairs(cells, settings):
        for metric in metrics:
            before, after = pair.before.score(metric)[1], pair.after.score(metric)[1]
            if before is not None and after is not None:
                gaps[pair.setting, pair.change, metric].append(after - before)
    return [
        Move(*key, len(own), float(np.mean(own)), float(np.sqrt(np.mean(np.square(own)))))
        for key, own in sorted(gaps.items())
    ]


def pairs(
    cells: Iterable[CellRecord], settings: Sequence[str] = (), roles: Collection[str] = ("method",)
) -> Iterator[Pair]:
    """Yield the pairs of finished cells of one method, data set, backbone and seed that differ in one setting alone.

    By default that may be any setting.
    """
    alike: dict[tuple[Any, ...], list[tuple[CellRecord, dict[str, str]]]] = defaultdict(list)
    for cell in cells:
        if cell.result is not None and cell.role in roles:
            key = (cell.dataset, cell.spec["method"], cell.backbone, cell.seed)
            alike[key].append((cell, _flat(cell)))
    for members in alike.values():
        for (one, first), (two, second) in combinations(members, 2):
            names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
            if len(names) == 1 and (not settings or names[0] in settings):
                ends = [(first.get(names[0], "default"), one), (second.get(names[0], "default"), two)]
                (low, before), (high, after) = sorted(ends, key=lambda end: _order(end[0]))
                yield Pair(names[0], (low, high), before, after)


def _order(text: str) -> tuple[bool, float, str]:
    """Return the place of a setting's value: numbers by size, before words."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _flat(cell: CellRecord) -> dict[str, str]:
    """Return everything but seed and metrics that makes a cell, one text for each setting."""
    found: dict[str, str] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else str(key), inner)
        else:
            found[name] = value if isinstance(value, str) else text_of(value)

    walk("", {**cell.spec["settings"], **cell.spec["protocol"], "black box": cell.spec["black_box"]})
    for name in ("data_digest", "split", "on_bad_image", "precision", "weights_digest", "method_version"):
        walk(name, cell.spec.get(name))
    return found
