"""Settings by dotted name, as ``--set`` and suites give them: parsing, merging, selection by section.

Nothing in this module imports torch: a wrong setting is refused at once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bench.core.errors import RequestError
from bench.core.yaml12 import copied, parse

_COMMENT = re.compile(r"(?:^|\s)#")


def parse_overrides(pairs: Iterable[str]) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Return settings of one value, and those of several values; values are YAML, the last of a name counts.

    >>> parse_overrides(("ours.k=3,5", "ours.norm=l2"))
    ({'ours.norm': 'l2'}, {'ours.k': (3, 5)})

    Raises:
        RequestError: if a pair is not NAME=VALUE, or its value no YAML.
    """
    single: dict[str, Any] = {}
    several: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        name, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not name:
            raise RequestError(f"--set {_cut(pair)}: write NAME=VALUE, for example ours.k=5")
        check_name(name)
        if "," in value and value[0] not in "[{\"'":
            several[name] = tuple(_value(pair, part.strip()) for part in value.split(","))
            single.pop(name, None)
        else:
            single[name] = _value(pair, value)
            several.pop(name, None)
    return single, several


def _value(pair: str, text: str) -> Any:
    value = None
    if text and text[0] not in "[{\"'" and _COMMENT.search(text):
        raise RequestError(f"--set {_cut(pair)}: # begins a comment; write the value in quotes")
    if text:
        value = parse(text, f"--set {_cut(pair)}")
    if value is None and text not in ("~", "null", "Null", "NULL"):
        raise RequestError(f"--set {_cut(pair)}: a value is missing; write null for none")
    return value


def check_name(name: str) -> None:
    """Refuse a dotted name that is no setting of any section.

    Raises:
        RequestError: if a part of it is empty, or there are too many.
    """
    parts = name.split(".")
    if not all(parts) or len(parts) > 32 or len(name) > 200 or any(not part.isprintable() for part in parts):
        raise RequestError(f"--set {_cut(name)}: write SECTION.NAME=VALUE, for example ours.k=5")


def parse_single(pairs: Iterable[str]) -> dict[str, Any]:
    """Return settings of one value each.

    Raises:
        RequestError: if a setting has several values.
    """
    single, several = parse_overrides(pairs)
    for name in several:
        raise RequestError(f"--set {name}: one value at a time; write a text with commas in quotes")
    return single


def only_about(settings: Mapping[str, Any], sections: Iterable[str]) -> None:
    """Refuse settings of other sections, which would have no effect.

    Raises:
        RequestError: for any other.
    """
    sections = list(sections)
    for name in settings:
        section, dot, _ = name.partition(".")
        if not dot or section not in sections:
            raise RequestError(f"--set {name}: this command takes settings of {', '.join(sections)} alone")


def single_about(pairs: Iterable[str], sections: Iterable[str]) -> dict[str, Any]:
    """Return settings of one value each, which may only be about these sections."""
    single = parse_single(pairs)
    only_about(single, sections)
    return single


def with_settings(
    values: Mapping[str, Any], single: Mapping[str, Any], several: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """Return the fields of a request with settings of the command line, which replace the request's.

    >>> with_settings({"grid": {"ours.k": [3, 5]}}, {"ours.k": 7}, {})
    {'grid': {}, 'overrides': {'ours.k': 7}}
    """
    overrides, grid = values.get("overrides") or {}, values.get("grid") or {}
    return {
        **values,
        # A grid takes precedence over overrides, so a setting must not stay in one when the other is given.
        "grid": {**{name: values for name, values in grid.items() if name not in single}, **several},
        "overrides": {**{name: value for name, value in overrides.items() if name not in several}, **single},
    }


def by_dataset(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of a request once for each choice among several values of its data sets' settings.

    >>> both = by_dataset({"datasets": ["cub"], "grid": {"cub.protocol": ["huang2023", "whole"]}})
    >>> [one["overrides"] for one in both]
    [{'cub.protocol': 'huang2023'}, {'cub.protocol': 'whole'}]
    """
    names, grid = values.get("datasets"), values.get("grid") or {}
    several = {
        name: chosen
        for name, chosen in grid.items()
        if isinstance(names, (list, tuple)) and name.partition(".")[0] in names and isinstance(chosen, (list, tuple))
    }
    if not several:
        return [dict(values)]
    rest = {name: chosen for name, chosen in grid.items() if name not in several}
    own = values.get("overrides") or {}
    return [
        {**values, "grid": rest, "overrides": {**own, **dict(zip(several, one, strict=True))}}
        for one in itertools.product(*several.values())
    ]


def combinations(grid: Mapping[str, tuple[Any, ...]], section: str) -> list[dict[str, Any]]:
    """Return every choice of one value for each grid entry of a section; one empty choice if it has none."""
    axes = {name: values for name, values in grid.items() if name.startswith(section + ".")}
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def for_section(overrides: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return the overrides whose dotted name begins with the section, without that prefix."""
    return {name[len(section) + 1 :]: value for name, value in overrides.items() if name.startswith(section + ".")}


def merge(base: dict[str, Any], overrides: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return a copy of nested ``base`` with dotted names set; a number, from 0, picks an item of a list.

    >>> merge({"schedule": {"phases": [{"epochs": 3}]}}, {"schedule.phases.0.epochs": 1}, "ours")
    {'schedule': {'phases': [{'epochs': 1}]}}

    Raises:
        RequestError: if a dotted name is no setting.
    """
    result: dict[str, Any] = copied(base)
    for dotted, value in overrides.items():
        check_name(f"{section}.{dotted}")
        *path, last = dotted.split(".")
        place: Any = result
        for step in path:
            step = _step(place, step, section, dotted)
            place = place[step] if isinstance(place, list) else place.setdefault(step, {})
        # A copy: a later name may lead into it, and the value serves other cells too.
        place[_step(place, last, section, dotted)] = copied(value)
    return result


def _step(place: Any, step: str, section: str, dotted: str) -> Any:
    """Return the key or index of a step."""
    if isinstance(place, dict):
        return step
    problem = "there is no such setting"
    if isinstance(place, list):
        # Of decimal digits alone: int() takes -1 for the last item, and digits of any script.
        if re.fullmatch(r"[0-9]{1,9}", step) and int(step) < len(place):
            return int(step)
        problem = f"{step!r} is none of its items, which are 0 to {len(place) - 1}" if place else "it has no items"
    raise RequestError(f"--set {_cut(f'{section}.{dotted}')}: {problem}")


def _cut(text: str) -> str:
    """Return a text quoted and shortened for one line of an error."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else f"{text[:60]}..."
