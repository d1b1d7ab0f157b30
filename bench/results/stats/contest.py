"""Results of a comparison of methods, before it is text, Markdown or anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Comparison:
    """Comparison of two methods in one metric on one data set with one backbone; differences: first minus second.

    Attributes:
        methods: their labels.
        dataset: its name.
        backbone: of both, or of the one that has any.
        protocol: how images were cut and scaled.
        metric: or ``METRIC.NUMBER``; empty if nothing can be compared.
        definition: its version and parameters.
        unit: of the values.
        higher_is_better: direction; ``None`` if none is declared.
        values: means over seeds.
        spreads: standard deviations over seeds (n - 1), if there are several.
        seeds: those behind the values.
        by_seed: value with each seed, also with those that the other method lacks.
        difference: of the values.
        low: lower end of its interval.
        high: upper end.
        p: of the paired test.
        corrected: for all tests of the contest, by Holm.
        units: in how many units both were measured.
        kind: name of the units.
        verdict: in words.
        reason: why something is missing.
    """

    methods: tuple[str, str]
    dataset: str
    backbone: str
    protocol: str
    metric: str = ""
    definition: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    values: tuple[float | None, float | None] = (None, None)
    spreads: tuple[float | None, float | None] = (None, None)
    seeds: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    by_seed: tuple[Mapping[int, float], Mapping[int, float]] = field(default_factory=lambda: ({}, {}))
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    corrected: float | None = None
    units: int | None = None
    kind: str = ""
    verdict: str = ""
    reason: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Data set, backbone and protocol of the measurement."""
        return self.dataset, self.backbone, self.protocol


@dataclass(frozen=True)
class Ranking:
    """Mean ranks (1 is best) in one metric over the places in which all methods have a value; ``p`` by Friedman."""

    metric: str
    places: int
    ranks: tuple[float, ...]
    p: float | None


@dataclass(frozen=True)
class Tally:
    """Wins of each of two methods over places; ``p`` by Wilcoxon's signed-rank test over them."""

    methods: tuple[str, str]
    metric: str
    places: int
    ahead: tuple[int, int]
    p: float | None


@dataclass(frozen=True)
class Contest:
    """Comparisons, rankings and tallies of some methods; ``facts`` are the lines under the tables."""

    methods: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    rankings: tuple[Ranking, ...]
    tallies: tuple[Tally, ...]
    facts: tuple[str, ...]
