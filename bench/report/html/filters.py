"""Numbers and verdicts as a page shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from bench.report.html.verdicts import QUESTIONS, Place, Question, turned, winner
from bench.report.table import Column, Row, Table
from bench.results.aggregate import Entry
from bench.results.stats.compare import explained
from bench.results.stats.contest import Comparison

_WORDS = {"oom": "out of memory", "missing": "–"}


def value(entry: Entry, column: Column) -> str:
    """Return a table's entry as text: the mean with its spread, or a word."""
    if entry.value is None:
        return _WORDS.get(entry.status, entry.status)
    spread = "" if entry.spread is None else f" ± {entry.spread:{column.form}}"
    return minus(f"{entry.value:{column.form}}") + spread


def ends(entry: Entry, column: Column) -> str:
    """Return the interval of an entry, if it has one."""
    if entry.low is None or entry.high is None:
        return ""
    return minus(f"[{entry.low:{column.form}}, {entry.high:{column.form}}]")


def notes_of(table: Table, rows: Iterable[Row]) -> list[tuple[int, str]]:
    """Return the footnotes that some of a table's rows have, with their numbers."""
    used = {number for row in rows for entry in row.values.values() for number in entry.notes}
    return [(number, note) for number, note in enumerate(table.notes, 1) if number in used]


def minus(text: str) -> str:
    """Return the text with true minus signs."""
    return text.replace("-", "−")


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
        bar: left end, middle and right end of the interval from 0 to 100, zero at 50; ``None`` without an interval.
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
        reach: the largest end of the intervals that are drawn beside each other.
    """
    digits = ".1f" if one.unit == "%" else ".4g"
    told, bar = "", None
    if one.difference is not None:
        told = minus(f"{one.difference:+{digits}}")
        if one.low is not None and one.high is not None:
            told += minus(f" [{one.low:+{digits}}, {one.high:+{digits}}]")
            if reach > 0:
                low, middle, high = (round(50 + 50 * end / reach, 1) for end in (one.low, one.difference, one.high))
                bar = (low, middle, high)
    if one.p is None:
        return Verdict("none", one.verdict, told, one.reason, bar)
    better = winner(one)
    if better is None:
        return Verdict("level", one.verdict, told, one.reason, bar)
    # Of further numbers no better direction is defined.
    up, down = ("higher", "lower") if one.verdict.endswith("higher") else ("better", "worse")
    return Verdict(("up", "down")[better], (up, down)[better], told, one.reason, bar)


def reach(found: Iterable[Comparison]) -> float:
    """Return the largest end of all intervals, or the largest difference."""
    ends = (end for one in found for end in (one.low, one.difference, one.high) if end is not None)
    return max(map(abs, ends), default=0.0)


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
    """Return how the numbers of comparisons were made, and which sides were compared.

    Args:
        found: all comparisons.
    """
    told = {
        "black box": "each method with the black box in accuracy",
        "chance": "each method with the best content-free control of a metric",
        "methods": "every two methods that come with the settings of their recipe",
    }
    counts = Counter(question for _, question, one in found if one.p is not None)
    parts = [f"{told[question]} ({counts[question]})" for question in QUESTIONS if counts[question]]
    families = f"all tests of one question together: {'; '.join(parts)}"
    return explained([one for *_, one in found], max(counts.values(), default=0), families)
