"""Finding of a report in words, from its verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.report.html.verdicts import Place, winner

# More methods that do not beat a control are counted instead of named, if others do.
_MOST_NAMES = 4


def finding(places: Sequence[Place]) -> str:
    """Return which methods beat the best content-free control of a metric, in one sentence.

    It is about the methods in the settings of their recipes, on the data of the first place where that was tested; a
    method beats a control if Holm's p and the interval show that it is better. Empty if nothing was tested.
    """
    tested = [(place, one) for place in places for one in place.found["chance"] if one.p is not None]
    if not tested:
        return ""
    title = tested[0][0].title
    won: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for place, one in tested:
        if place.title == title:
            won[one.metric.replace("_", " ")][one.methods[0]].append(winner(one) == 0)
    methods = {label for found in won.values() for label in found}
    controls = dict.fromkeys(one.methods[1] for place, one in tested if place.title == title)
    kinds = {place.control for place, _ in tested if place.title == title}
    rival = f"the best {'control' if 'control' in kinds else 'content-free control'}" + (
        f" ({next(iter(controls))})" if len(controls) == 1 else ""
    )
    never = [metric for metric, found in won.items() if not any(any(own) for own in found.values())]
    parts = []
    if never:
        who = f"none of {len(methods)} methods beats" if len(methods) > 1 else f"{next(iter(methods))} does not beat"
        parts.append(f"{who} {rival} in {listed(never, 'or')}")
    for metric, found in won.items():
        if metric not in never:
            parts.append(f"in {metric}, {_who(found, 'does' if parts else f'beats {rival}')}")
    return f"On {title}, {'; '.join(parts)}."


def _who(found: dict[str, list[bool]], verb: str) -> str:
    """Return who beats the control on some backbone, and who does not; ``verb`` is of one method."""
    winners = {label: own for label, own in found.items() if any(own)}
    losers = [label for label in found if label not in winners]
    told = [label if all(own) else f"{label} (on {sum(own)} of {len(own)} backbones)" for label, own in winners.items()]
    plural = {"does": "do"}.get(verb, verb.replace("beats", "beat", 1))
    text = f"{listed(told)} {plural if len(winners) > 1 else verb}"
    if len(losers) > _MOST_NAMES:
        return f"{text}, the other {len(losers)} do not"
    return f"{text}, {listed(losers)} {'do' if len(losers) > 1 else 'does'} not" if losers else text


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names with commas and an "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
