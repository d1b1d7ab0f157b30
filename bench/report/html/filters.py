"""Numbers and verdicts as a page shows them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from bench.report.html.verdicts import QUESTIONS, Place, Question, turned, winner
from bench.report.table import Column, Row, Table, vanishing
from bench.results.aggregate import Entry
from bench.results.stats.compare import explained
from bench.results.stats.contest import Comparison

BAR = 200
"""Width of the drawing of an interval."""
_WORDS = {"oom": "out of memory", "missing": "–"}


def value(entry: Entry, column: Column) -> str:
    """Return a table's entry as text: the mean with its spread, or a word."""
    if entry.value is None:
        return _WORDS.get(entry.status, entry.status)
    if column.vanishes(entry.value):
        return minus(vanishing(entry.value))
    spread = "" if entry.spread is None else f" ± {entry.spread:{column.form}}"
    return minus(f"{entry.value:{column.form}}") + spread


def ends(entry: Entry, column: Column) -> str:
    """Return the interval of an entry, if it has one."""
    if entry.low is None or entry.high is None or (entry.value is not None and column.vanishes(entry.value)):
        return ""
    return minus(f"[{entry.low:{column.form}}, {entry.high:{column.form}}]")


def notes_of(table: Table, rows: Iterable[Row]) -> list[tuple[int, str]]:
    """Return the footnotes that some of a table's rows have, with their numbers."""
    used = {number for row in rows for entry in row.values.values() for number in entry.notes}
    return [(number, note) for number, note in enumerate(table.notes, 1) if number in used]


def minus(text: str) -> str:
    """Return the text with true minus signs."""
    return text.replace("-", "−")


def sortable(number: float | None) -> str:
    """Return the number by which a column is sorted."""
    return "" if number is None else f"{number:.6g}"


def together(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return dotted names with a common beginning as one.

    Example:
        >>> together([("seed", "0"), ("ours.k", "3"), ("data", "cub"), ("ours.solver", "hals")])
        [('seed', '0'), ('ours', 'k=3, solver=hals'), ('data', 'cub')]
    """
    found: dict[str, list[str]] = {}
    for name, text in items:
        start, dot, end = name.rpartition(".")
        found.setdefault(start or name, []).append(f"{end}={text}" if dot else text)
    return [(name, ", ".join(texts)) for name, texts in found.items()]


def p_value(number: float | None) -> str:
    """Return two digits, as far down as the number of swaps can resolve."""
    return "" if number is None else f"{number:.2g}"


@dataclass(frozen=True)
class Verdict:
    """Comparison on a page.

    Attributes:
        kind: ``up`` if the first method is better, ``down`` if the second is, ``level`` if neither is shown to
            be, ``none`` if nothing was tested.
        words: the verdict in words.
        difference: the number with its interval.
        reason: further remarks.
        bar: left end, middle and right end of the interval from 0 to :data:`BAR`, zero in the middle; ``None``
            without an interval.
    """

    kind: str
    words: str
    difference: str
    reason: str
    bar: tuple[float, float, float] | None = None


def verdict(one: Comparison, reach: float = 0.0) -> Verdict:
    """Return the verdict of a comparison about the first method.

    Args:
        one: the comparison.
        reach: end of the axis on which intervals are drawn.
    """
    digits = ".1f" if one.unit == "%" else ".4g"
    told, bar = "", None
    if one.difference is not None:
        told = minus(f"{one.difference:+{digits}}")
        if one.low is not None and one.high is not None:
            told += minus(f" [{one.low:+{digits}}, {one.high:+{digits}}]")
            if reach > 0:
                low, middle, high = (
                    round(BAR / 2 * (1 + end / reach), 1) for end in (one.low, one.difference, one.high)
                )
                bar = (low, middle, high)
    if one.p is None:
        return Verdict("none", one.verdict, told, one.reason, bar)
    better = winner(one)
    if better is None:
        return Verdict("level", one.verdict, told, one.reason, bar)
    # Of further numbers no better direction is defined.
    up, down = ("higher", "lower") if one.verdict.endswith("higher") else ("better", "worse")
    return Verdict(("up", "down")[better], (up, down)[better], told, one.reason, bar)


def reach(found: Iterable[Comparison], unit: str) -> float:
    """Return the end of a common axis for all intervals in one unit: a round number, 0 without any."""
    known = (end for one in found if one.unit == unit for end in (one.low, one.difference, one.high) if end is not None)
    return rounded_up(max(map(abs, known), default=0.0))


def rounded_up(most: float) -> float:
    """Return a round number that is not below another one, for the end of an axis.

    Example:
        >>> rounded_up(73.9), rounded_up(0.02), rounded_up(0.0)
        (80.0, 0.02, 0.0)
    """
    if most == 0:
        return 0.0
    scale = 10.0 ** math.floor(math.log10(most))
    return next(step * scale for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if most <= step * scale * (1 + 1e-9))


def pairwise(place: Place, metric: str) -> dict[tuple[str, str], Comparison]:
    """Return the comparisons between methods in one metric, from both sides."""
    own = [one for one in place.found["methods"] if one.metric == metric]
    return {one.methods: one for one in (*own, *map(turned, own))}


def seen_from(
    found: Iterable[tuple[Place, Question, Comparison]], labels: Container[str]
) -> list[tuple[Place, Question, Comparison]]:
    """Return the comparisons that have one of the labels, turned so that it comes first."""
    own = [one for one in found if any(method in labels for method in one[2].methods)]
    return [(place, question, one if one.methods[0] in labels else turned(one)) for place, question, one in own]


def every(places: Iterable[Place]) -> list[tuple[Place, Question, Comparison]]:
    """Yield all comparisons, in the order of places and questions."""
    return [(place, question, one) for place in places for question, own in place.found.items() for one in own]


def explanations(found: Sequence[tuple[Place, Question, Comparison]]) -> list[str]:
    """Return how the numbers of comparisons were made, and which sides were compared."""
    told: dict[Question, str] = {
        "black box": "each method with the black box in accuracy",
        "chance": "each method with the best content-free control of a metric",
        "methods": "every two methods",
        "black box, changed": "changed settings with the black box",
        "chance, changed": "changed settings with the best control",
    }
    counts = Counter(question for _, question, one in found if one.p is not None)
    parts = [f"{told[question]} ({counts[question]})" for question in QUESTIONS if counts[question]]
    families = f"all tests of one question together, methods in the settings of their recipes: {'; '.join(parts)}"
    return explained([one for *_, one in found], max(counts.values(), default=0), families)
