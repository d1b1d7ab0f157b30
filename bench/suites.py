"""The suites and data sets of ``configs/``, by name. Nothing here imports torch: an unknown name is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import registry
from bench.errors import RequestError
from bench.yaml12 import read_mapping

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def datasets() -> list[str]:
    """Names of the data sets: those of ``configs/datasets``, and those of plugins."""
    return sorted({path.stem for path in (CONFIGS / "datasets").glob("*.yaml")} | set(registry.names("datasets")))


def check_dataset(name: str) -> None:
    """Refuse an unknown data set.

    Raises:
        RequestError: naming the nearest ones.
    """
    if name not in datasets():
        raise RequestError(f"unknown dataset {registry.quoted(name)}{registry.nearest(name, datasets(), 'datasets')}")


def suites() -> list[str]:
    """Names of the suites in ``configs/suites``."""
    return sorted(file.stem for file in (CONFIGS / "suites").glob("*.yaml"))


def read_suites(name: str, within: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The fields of a suite: one request, or one for each suite that it ``includes``, all under its own name.

    A suite that ``extends`` another takes over its fields; ``overrides`` are added to the other's.

    Args:
        name: of the file in ``configs/suites``.
        within: suites that lead to this one.

    Raises:
        RequestError: for an unknown name, with the nearest one, or where suites lead in a circle.
    """
    if name not in suites():
        raise RequestError(f"unknown suite {registry.quoted(name)}{registry.nearest(name, suites(), 'suites')}")
    trail = (*within, name)
    if name in within:
        raise RequestError(f"suite {name} extends or includes itself: {' > '.join(trail)}")
    file = CONFIGS / "suites" / f"{name}.yaml"
    content = read_mapping(file)
    extended, included = content.pop("extends", None), content.pop("includes", None)
    others = included or ([extended] if extended else [])
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise RequestError(f"{file}: includes is a list of suites, extends is one")
    for field in ("overrides", "grid"):
        if not isinstance(content.get(field) or {}, dict):
            raise RequestError(f"{file}: {field}: expected names and values, such as {{ours.k: 5}}")
    parts: list[dict[str, Any]] = [part for other in others for part in read_suites(other, trail)] or [{}]
    found = []
    for part in parts:
        overrides = {**(part.get("overrides") or {}), **(content.get("overrides") or {})}
        found.append({**part, **content, **({"overrides": overrides} if overrides else {}), "suite": name})
    return found
