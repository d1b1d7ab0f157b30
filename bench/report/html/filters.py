"""Numbers and verdicts as a page shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from bench.report.html.verdicts import QUESTIONS, Place, Question, turned, winner
from bench.report.table import Block, Line
from bench.results.aggregate import Column, Entry
from bench.results.stats.compare import explained
from bench.results.stats.contest import Comparison

_WORDS = {"oom": "out of memory", "missing": "–"}


def value(entry: Entry, column: Column) -> str:
    """A place of a table: the mean with its spread, or a word."""
    if entry.value is None:
        return _WORDS.get(entry.status, entry.status)
    spread = "" if entry.spread is None else f" ± {entry.spread:{column.digits}}"
    return minus(f"{entry.value:{column.digits}}") + spread


def ends(entry: Entry, column: Column) -> str:
    """The interval of a place, where it has one."""
    if entry.low is None or entry.high is None:
        return ""
    return minus(f"[{entry.low:{column.digits}}, {entry.high:{column.digits}}]")


def notes_of(block: Block, lines: Iterable[Line]) -> list[tuple[int, str]]:
    """The footnotes that some of a table's lines have, with their numbers."""
    used = {number for line in lines for entry in line.entries.values() for number in entry.notes}
    return [(number, note) for number, note in enumerate(block.notes, 1) if number in used]


def minus(text: str) -> str:
    """With true minus signs."""
    return text.replace("-", "−")


def p_value(number: float | None) -> str:
    """Two digits, as far down as the number of swaps can tell."""
    return "" if number is None else f"{number:.2g}"


@dataclass(frozen=True)
class Verdict:
    """A comparison on a page.

    Attributes:
        kind: ``up`` where the first method is better, ``down`` where the second is, ``level`` where neither is shown to
            be, ``none`` where nothing was tested.
        words: the verdict.
        difference: the number with its interval.
        reason: what else there is to say.
        bar: left end, middle and right end of the interval from 0 to 100, zero at 50; ``None`` without an interval.
    """

    kind: str
    words: str
    difference: str
    reason: str
    bar: tuple[float, float, float] | None = None


def verdict(one: Comparison, reach: float = 0.0) -> Verdict:
    """A comparison as it is said of the first method.

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
    # Of further numbers nobody says which direction is good.
    up, down = ("higher", "lower") if one.verdict.endswith("higher") else ("better", "worse")
    return Verdict(("up", "down")[better], (up, down)[better], told, one.reason, bar)


def reach(found: Iterable[Comparison]) -> float:
    """The largest end of all intervals, and the largest difference."""
    ends = (end for one in found for end in (one.low, one.difference, one.high) if end is not None)
    return max(map(abs, ends), default=0.0)


def seen_from(
    found: Iterable[tuple[Place, Question, Comparison]], labels: Container[str]
) -> list[tuple[Place, Question, Comparison]]:
    """Those with one of the labels, which comes first in them."""
    own = [one for one in found if any(method in labels for method in one[2].methods)]
    return [(place, question, one if one.methods[0] in labels else turned(one)) for place, question, one in own]


def every(places: Iterable[Place]) -> list[tuple[Place, Question, Comparison]]:
    """All comparisons, in the order of places and questions."""
    return [(place, question, one) for place in places for question, own in place.found.items() for one in own]


def explanations(found: Sequence[tuple[Place, Question, Comparison]]) -> list[str]:
    """How the numbers of comparisons were made, and what was compared with what.

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
