"""Suites and data sets of ``configs/`` by name. No import of torch: an unknown name is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.errors import RequestError
from bench.core.paths import config_files
from bench.core.yaml12 import read_mapping


def datasets() -> list[str]:
    """Return the names of the data sets that are configured, and of those of plugins."""
    return sorted({*config_files("datasets"), *registry.names("datasets")})


def check_dataset(name: str) -> None:
    """Refuse an unknown data set.

    Raises:
        RequestError: naming the nearest ones.
    """
    if name not in datasets():
        raise RequestError(f"unknown dataset {registry.quoted(name)}{registry.nearest(name, datasets(), 'datasets')}")


def suites() -> list[str]:
    """Return the names of the suites of the user and of the package."""
    return list(config_files("suites"))


def read_suites(name: str, within: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return the fields of a suite: one request, or one for each suite that it ``includes``, all under its name.

    A suite that ``extends`` another takes over its fields (:func:`replaced`); ``overrides`` are added to the other's.

    Args:
        name: name of a file in ``configs/suites``, or the path of a YAML file; its stem is then the suite's name.
        within: suites that extend or include this one.

    Raises:
        RequestError: for an unknown name, with the nearest one, or if a suite includes itself.
    """
    file = _suite_file(name)
    name = file.stem
    trail = (*within, name)
    if name in within:
        raise RequestError(f"suite {name} extends or includes itself: {' > '.join(trail)}")
    content = read_mapping(file)
    extended, included = content.pop("extends", None), content.pop("includes", None)
    others = included or ([extended] if extended else [])
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise RequestError(f"{file}: includes is a list of suites, extends is one")
    for field in ("overrides", "grid"):
        if not isinstance(content.get(field) or {}, dict):
            raise RequestError(f"{file}: {field}: expected names and values, such as {{ours.k: 5}}")
    parts: list[dict[str, Any]] = [part for other in others for part in read_suites(other, trail)] or [{}]
    requests = []
    for part in parts:
        request = replaced(part, content)
        overrides = {**(request.get("overrides") or {}), **(content.get("overrides") or {})}
        requests.append({**request, **content, **({"overrides": overrides} if overrides else {}), "suite": name})
    return requests


def replaced(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request without its settings of methods and data sets that other ``fields`` leave out.

    >>> replaced({"methods": ["ours", "tesnet"], "grid": {"tesnet.depth": [8, 16]}}, {"methods": ["ours"]})
    {'methods': ['ours', 'tesnet'], 'grid': {}}
    """
    gone: set[str] = set()
    for name in ("methods", "datasets"):
        before, after = values.get(name), fields.get(name)
        if isinstance(before, list) and isinstance(after, list | tuple) and after:
            gone |= {*registry.chosen_methods(before)} - {*registry.chosen_methods(after)}
    kept = {
        field: {name: value for name, value in values[field].items() if str(name).partition(".")[0] not in gone}
        for field in ("overrides", "grid")
        if values.get(field)
    }
    return {**values, **kept}


def _suite_file(name: str) -> Path:
    known = config_files("suites")
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
        if not file.is_file():
            raise RequestError(f"--suite {registry.quoted(name)}: no such file")
        return file
    hint = "; a file of your own: --suite FILE.yaml"
    raise RequestError(f"unknown suite {registry.quoted(name)}{registry.nearest(name, known, 'suites')}{hint}")
