"""Verdicts in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.report.html.verdicts import Left, winner
from bench.results.stats.contest import Comparison

# More pairs without a difference are counted instead of named.
_MOST_PAIRS = 4


def between(found: Sequence[Comparison], left: Sequence[Left] = ()) -> list[tuple[str, str]]:
    """Return which differences between methods are shown, metric by metric.

    Args:
        found: comparisons of methods in one place.
        left: comparisons that were left out there: they qualify the sentence that one method is the best.

    Returns:
        Metric and sentence.
    """
    metrics = dict.fromkeys(one.metric for one in (*found, *left))
    return [
        (metric, _sentence([one for one in found if one.metric == metric], sum(one.metric == metric for one in left)))
        for metric in metrics
    ]


def _sentence(own: Sequence[Comparison], left: int) -> str:
    beaten: dict[str, list[str]] = defaultdict(list)
    alike: list[str] = []
    untested = []
    for one in own:
        better = winner(one)
        if better is not None:
            beaten[one.methods[better]].append(one.methods[1 - better])
        elif one.p is not None:
            alike.append(" and ".join(one.methods))
        else:
            untested.append(" and ".join(one.methods))
    ordered = sorted(beaten.items(), key=lambda pair: -len(pair[1]))
    parts = [f"{method} is better than {listed(others)}" for method, others in ordered]
    if alike and len(alike) == len(own):
        names = list(dict.fromkeys(method for one in own for method in one.methods))
        parts.append(f"no difference is shown between {'' if len(names) == 2 else 'any two of '}{listed(names)}")
    elif len(alike) > _MOST_PAIRS:
        parts.append(f"no difference is shown between the two of the other {len(alike)} pairs")
    elif alike:
        parts.append(f"no difference is shown between {', or between '.join(alike)}")
    parts += [f"not tested: {', '.join(untested)}"] if untested else []
    parts += [f"{left} {'more ' if own else ''}pair{'s' if left > 1 else ''} left out"] if left else []
    return f"{'; '.join(parts)}."


def listed(names: Sequence[str]) -> str:
    """Return names with commas and an "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
