"""What a run is made of, as pydantic models: requests (from the command line or a suite), data sets, method recipes.

Every value comes from, in rising order: the plugin's own defaults, ``configs/``, ``--set KEY=VALUE``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from bench.contract import RequestError, Settings
from bench.core import registry
from bench.core.paths import config_file, config_files
from bench.data.download import Source
from bench.data.preprocessing import PRESETS, Protocol

Recipe = Literal["published", "small", "demo"]
M = TypeVar("M", bound=BaseModel)


class DatasetConfig(Settings):
    """How a data set is found and looked at: ``configs/datasets/NAME.yaml``.

    Attributes:
        reader: name in the catalogue of data sets, by default the data set's own.
        folder: its usual folder name under ``--data-root``; ``None``: the project draws it itself.
        options: settings of the reader.
        source: where it can be downloaded from.
        protocol: crop, size and rounding, or the name of a preset: ``huang2023``, ``whole``, ``torchvision``.
        backbones: used where none is asked for.
        recipe: training schedules where none is asked for.
        recipes: what a recipe sets differently on this data set: its name -> ``--set`` pairs.
        pretrained: whether backbones start from ImageNet weights.
        on_bad_image: ``error`` fails the cell, ``skip`` leaves the image out and records it.
    """

    reader: str | None = None
    folder: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    source: Source = Source()
    protocol: Protocol = Protocol()
    backbones: tuple[str, ...]
    recipe: Recipe = "published"
    recipes: dict[Recipe, dict[str, Any]] = Field(default_factory=dict)
    pretrained: bool = True
    on_bad_image: Literal["error", "skip"] = "error"


class Request(Settings):
    """What to run; the fields of a suite file are the same.

    Attributes:
        suite: the name under which results are grouped.
        methods: names in the catalogue; ``all``: every one that competes.
        datasets: names in ``configs/datasets``.
        backbones: names in the catalogue; empty: each data set's default.
        seeds: one cell for each.
        recipe: training schedules of all methods; ``None``: each data set's default.
        precision: of training; measuring is always in fp32.
        metrics: names or groups in the catalogue, or ``all``; empty: those that every run has.
        controls: add the black box and the content-free controls as rows.
        split: on which the metrics are measured; choices belong on ``train``.
        overrides: ``--set`` pairs, dotted name -> value.
        grid: ``--set`` pairs with several values, dotted name -> values; a method runs once for each combination.
    """

    suite: str = "default"
    methods: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[str, ...] = Field(min_length=1)
    backbones: tuple[str, ...] = ()
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    recipe: Recipe | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    metrics: tuple[str, ...] = ()
    controls: bool = True
    split: Literal["test", "train"] = "test"
    overrides: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a file that has not changed since the last call is not read again.

    Raises:
        RequestError: naming the file and line where it is no YAML, or no mapping.
    """
    about = file.stat()
    return _copy(_parsed(file, about.st_mtime_ns, about.st_size))  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=256)
def _parsed(file: Path, _changed: int, _size: int) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise RequestError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(content, dict):
        raise RequestError(f"{file}: expected names and values, found a {type(content).__name__}")
    return content


def suites() -> list[str]:
    """Return the names of the suites of the user and of the package."""
    return list(config_files("suites"))


def read_suites(name: str, within: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The fields of a suite: one request, or one for each suite that it ``includes``, all under its own name.

    A suite that ``extends`` another takes over its fields; ``overrides`` are added to the other's.

    Args:
        name: of a file in ``configs/suites``, or the path of a YAML file; its stem is then the suite's name.
        within: suites that lead to this one.

    Raises:
        RequestError: for an unknown name, with the nearest one, or where suites lead in a circle.
    """
    file = _suite_file(name)
    name = file.stem
    trail = (*within, name)
    if name in within:
        raise RequestError(f"suite {name} extends or includes itself: {' > '.join(trail)}")
    content = read_yaml(file)
    extended, included = content.pop("extends", None), content.pop("includes", None)
    parts: list[dict[str, Any]] = [{}]
    if included or extended:
        parts = [part for other in included or [extended] for part in read_suites(other, trail)]
    found = []
    for part in parts:
        overrides = {**(part.get("overrides") or {}), **(content.get("overrides") or {})}
        found.append({**part, **content, **({"overrides": overrides} if overrides else {}), "suite": name})
    return found


def _suite_file(name: str) -> Path:
    known = config_files("suites")
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
        if not file.is_file():
            raise RequestError(f"--suite {name}: no such file")
        return file
    raise RequestError(f"unknown suite {name!r}{registry.nearest(name, known)}; a file of your own: --suite FILE.yaml")


def parse_overrides(pairs: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Settings, and those given several values at once; values are read as YAML.

    >>> parse_overrides(("ours.k=3,5", "ours.norm=l2"))
    ({'ours.norm': 'l2'}, {'ours.k': (3, 5)})

    Raises:
        RequestError: where a pair is not NAME=VALUE.
    """
    single: dict[str, Any] = {}
    several: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        name, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not name:
            raise RequestError(f"--set {pair!r}: write NAME=VALUE, for example ours.k=5")
        try:
            if "," in value and value[0] not in "[{\"'":
                several[name] = tuple(yaml.safe_load(part) for part in value.split(","))
                single.pop(name, None)  # the last word on a setting counts
            else:
                single[name] = yaml.safe_load(value)
                several.pop(name, None)
        except yaml.YAMLError as error:
            raise RequestError(f"--set {pair!r}: the value is not valid YAML") from error
    return single, several


def with_settings(
    values: Mapping[str, Any], single: Mapping[str, Any], several: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The fields of a request with settings of the command line, which count more than those it has.

    >>> with_settings({"grid": {"ours.k": [3, 5]}}, {"ours.k": 7}, {})
    {'grid': {}, 'overrides': {'ours.k': 7}}
    """
    overrides, grid = values.get("overrides") or {}, values.get("grid") or {}
    return {
        **values,
        # A grid goes before overrides: a setting must not stay in the one where the other is given.
        "grid": {**{name: own for name, own in grid.items() if name not in single}, **several},
        "overrides": {**{name: own for name, own in overrides.items() if name not in several}, **single},
    }


def combinations(grid: Mapping[str, tuple[Any, ...]], section: str) -> list[dict[str, Any]]:
    """Every choice of one value for each grid entry of a section; one empty choice where it has none."""
    own = {name: values for name, values in grid.items() if name.startswith(section + ".")}
    return [dict(zip(own, chosen, strict=True)) for chosen in itertools.product(*own.values())]


def for_section(overrides: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Those overrides whose dotted name begins with the section, without it."""
    return {name[len(section) + 1 :]: value for name, value in overrides.items() if name.startswith(section + ".")}


def merge(base: dict[str, Any], overrides: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy of nested ``base`` with dotted names set; a number picks an item of a list.

    >>> merge({"schedule": {"phases": [{"epochs": 3}]}}, {"schedule.phases.0.epochs": 1}, "ours")
    {'schedule': {'phases': [{'epochs': 1}]}}

    Raises:
        RequestError: where a dotted name leads nowhere.
    """
    result = _copy(base)
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        place: Any = result
        try:
            for step in path:
                place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
            place[int(last) if isinstance(place, list) else last] = value
        except (ValueError, IndexError, AttributeError, TypeError) as error:
            raise RequestError(f"--set {what}.{dotted}: there is no such setting") from error
    return result


def validate(model: type[M], values: Mapping[str, Any], what: str) -> M:
    """The values as that model.

    Raises:
        RequestError: one line naming the first wrong field, with the nearest known name where it is unknown.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(step) for step in first["loc"])
        hint = registry.nearest(name, model.model_fields) if first["type"] == "extra_forbidden" else ""
        message = "unknown setting" if hint else first["msg"]
        given = "" if first["type"] in ("extra_forbidden", "missing") else f" (got {first['input']!r})"
        place = ".".join(part for part in (what, name) if part)
        raise RequestError(f"{place}: {message}{given}{hint}") from error


def dataset_config(name: str, overrides: Mapping[str, Any]) -> DatasetConfig:
    """The configuration of a data set.

    Raises:
        RequestError: for an unknown name, with the nearest one.
    """
    file = config_file("datasets", name)
    known = sorted({*config_files("datasets"), *registry.names("datasets")})
    if name not in known:
        raise RequestError(f"unknown dataset {name!r}{registry.nearest(name, known)}")
    values = read_yaml(file) if file.is_file() else {"folder": name, "backbones": ["resnet34"]}
    own = for_section(overrides, name)
    chosen = own.pop("protocol", values.get("protocol", {}))
    if isinstance(chosen, str):
        if chosen not in PRESETS:
            raise RequestError(f"{name}.protocol: unknown protocol {chosen!r}{registry.nearest(chosen, PRESETS)}")
        chosen = dict(PRESETS[chosen])
    return validate(DatasetConfig, merge({**values, "protocol": chosen}, own, name), name)


def from_recipe(file: Path, model: type[M], recipe: Recipe, overrides: Mapping[str, Any], what: str) -> M:
    """Settings for a recipe: the file's ``defaults``, then its ``recipes``, then the overrides of that section.

    Raises:
        RequestError: naming the wrong field, or the missing recipe.
    """
    content = read_yaml(file) if file.is_file() else {}
    recipes = content.get("recipes") or {}
    if recipes and recipe not in recipes:
        raise RequestError(f"{what} has no recipe {recipe!r}; it has {', '.join(sorted(recipes))}")
    values = {**(content.get("defaults") or {}), **recipes.get(recipe, {})}
    return validate(model, merge(values, for_section(overrides, what), what), what)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
