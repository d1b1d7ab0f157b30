"""Agreement of trainings: whether the prototypes of two seeds find the same parts, from stored tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import RequestError
from bench.core.integrity import Changed
from bench.results.aggregate import SeedGroup
from bench.results.cell_record import CellRecord
from bench.results.result_set import ResultSet
from bench.results.stats.bootstrap import NoInterval, interval, sample
from bench.results.store import Store

METRIC = "consistency"
"""Metric whose tables have the part that a prototype stands for, and its peak in each image."""

Array = NDArray[np.float64]
Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Agreement:
    """Agreement of the seeds of one row, mean over pairs of seeds and classes, in percent.

    Attributes:
        row: the row.
        seeds: those that were compared.
        classes: number of classes.
        parts: share of the prototypes that a best matching pairs with one of the same part.
        parts_chance: the same for the prototypes of two different classes.
        places: share of the images in which matched prototypes peak at one place, of a best matching.
        places_chance: the same with the images of a class in another order for the second seed.
        above: ``parts`` less its chance, with both ends of its interval over classes; the reason if it has none.
        place_above: ``places`` less its chance, likewise.
    """

    row: SeedGroup
    seeds: tuple[int, ...]
    classes: int
    parts: float
    parts_chance: float
    places: float
    places_chance: float
    above: tuple[float, float] | str
    place_above: tuple[float, float] | str


def shared_parts(one: Columns, two: Columns) -> tuple[NDArray[np.int64], Array, Array]:
    """Match the prototypes of each class by the part that they hit most often.

    Prototypes of equal parts are interchangeable, so a best matching pairs ``min`` of their numbers, part by part.

    Args:
        one: columns ``class`` and ``best_part`` of a prototype's table.
        two: those of the other seed.

    Returns:
        The classes ``(C,)`` that both have, the share of the larger number of prototypes that is paired ``(C,)``, and
        the mean share that is paired with the prototypes of another class ``(C,)``.

    Example:
        >>> one = {"class": np.array([0, 0, 1]), "best_part": np.array([2, 5, 1])}
        >>> two = {"class": np.array([0, 0, 1]), "best_part": np.array([5, 5, 2])}
        >>> _, same, chance = shared_parts(one, two)
        >>> same.tolist(), chance.tolist()
        ([0.5, 0.0], [0.5, 0.0])
    """
    classes = np.intersect1d(one["class"], two["class"])
    # Parts begin at -1, of prototypes whose class shows none: these stand for no part and match nothing.
    parts = 1 + max(int(table["best_part"].max()) for table in (one, two))
    counts, sizes = [], []
    for table in (one, two):
        row = np.searchsorted(classes, table["class"]).clip(max=len(classes) - 1)
        known = classes[row] == table["class"]
        sizes.append(np.bincount(row[known], minlength=len(classes)))
        held = known & (table["best_part"] >= 0)
        count = np.zeros((len(classes), max(parts, 1)), dtype=np.int64)
        np.add.at(count, (row[held], table["best_part"][held]), 1)
        counts.append(count)
    shared = np.zeros((len(classes), len(classes)))
    for part in range(counts[0].shape[1]):
        shared += np.minimum(counts[0][:, None, part], counts[1][None, :, part])
    # Over the larger number: a seed with more prototypes cannot match better for it.
    shared /= np.maximum(sizes[0][:, None], sizes[1][None])
    same = shared.diagonal().copy()
    others = max(1, len(classes) - 1)
    return classes, same, (shared.sum(1) - same) / others


def shared_places(one: Columns, two: Columns, half: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Match the prototypes of each class by the images in which they peak at one place.

    Args:
        one: columns ``index``, ``prototype``, ``class``, ``row`` and ``column`` of an image's table.
        two: those of the other seed.
        half: distance in pixels, in each direction, up to which two peaks are one place.

    Returns:
        The classes ``(C,)``, the share of images in which matched prototypes are at one place, over the larger number
        of prototypes ``(C,)``, and the same if the second seed has each image's peaks from the next image of the class.
    """
    # Imported here, for it takes as long as all else that reads results.
    from scipy.optimize import linear_sum_assignment

    classes = np.intersect1d(one["class"], two["class"])
    found = np.zeros((2, len(classes)))
    for number, label in enumerate(classes):
        first, second = (_peaks(table, label) for table in (one, two))
        count = min(len(first), len(second))
        for shift, values in enumerate(found):
            moved = np.roll(second[:count], shift, axis=0)
            near = (np.abs(first[:count, :, None] - moved[:, None]) <= half).all(3).mean(0)
            rows, columns = linear_sum_assignment(near, maximize=True)
            values[number] = near[rows, columns].sum() / max(near.shape)
    return classes, found[0], found[1]


def _peaks(table: Columns, label: int) -> NDArray[np.int64]:
    """Return the peaks of a class ``(images, prototypes, 2)``, both in their order."""
    own = table["class"] == label
    prototypes = len(np.unique(table["prototype"][own]))
    return np.stack((table["row"][own], table["column"][own]), 1).reshape(-1, prototypes, 2)


def seed_agreement(
    store: Store, methods: Sequence[str] = (), stamp: str | None = None, suite: str | None = None
) -> list[Agreement]:
    """Return the agreement of the seeds of each row with several, that differ in nothing else.

    Args:
        store: results.
        methods: labels of rows; by default all.
        stamp: a run; by default all cells.
        suite: a suite, whose newest run is taken.

    Raises:
        RequestError: if no row has two seeds in which consistency was measured.
    """
    found = []
    for group in ResultSet.of(store, stamp, suite).required().groups([METRIC]):
        for row in group.rows:
            cells = {seed: cell for seed, cell in row.speaking(METRIC).items() if cell.score(METRIC)[0] == "ok"}
            if len(cells) > 1 and (not methods or row.label in methods):
                found.append(_agreement(store, row, cells))
    if not found:
        named = f" of {', '.join(methods)}" if methods else ""
        raise RequestError(f"no cells{named} with two seeds have a {METRIC}: run them with --seeds 0,1")
    return found


def _agreement(store: Store, row: SeedGroup, cells: Mapping[int, CellRecord]) -> Agreement:
    half = int(row.spec["metrics"][METRIC]["parameters"]["half_size"])
    tables = {
        seed: {name: _table(store, cell, name) for name in ("prototype", "image")} for seed, cell in cells.items()
    }
    parts, places = [], []
    for one, two in combinations(tables.values(), 2):
        parts.append(shared_parts(one["prototype"], two["prototype"]))
        places.append(shared_places(one["image"], two["image"], half))
    numbers = [
        100 * np.stack([pair[column] for pair in pairs]).mean(0) for pairs in (parts, places) for column in (1, 2)
    ]
    means = [float(values.mean()) for values in numbers]
    ends = [_ends(pairs[0][0], numbers[place] - numbers[place + 1]) for pairs, place in ((parts, 0), (places, 2))]
    return Agreement(row, tuple(sorted(cells)), len(parts[0][0]), *means, *ends)


def _table(store: Store, cell: CellRecord, name: str) -> Columns:
    file = f"items/{METRIC}.{name}.csv"
    try:
        return store.files(cell.name).table(file)
    except (Changed, OSError, ValueError) as error:
        raise RequestError(
            f"{cell.name}: {file} cannot be read ({error}): `run --existing rerun` writes it again"
        ) from error


def _ends(classes: NDArray[np.int64], values: Array) -> tuple[float, float] | str:
    """Return the ends of the interval of a mean over classes: about other classes, not about further seeds."""
    try:
        ends = interval([sample(classes, values, kind="classes")])
    except NoInterval as error:
        return str(error)
    return ends.low, ends.high
