"""Pydantic models of a run: requests (from the command line or a suite), data sets, method recipes.

Every value comes from, in rising order: the plugin's defaults, ``configs/``, ``--set KEY=VALUE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from bench.config.overrides import combinations as combinations
from bench.config.overrides import for_section as for_section
from bench.config.overrides import merge as merge
from bench.config.overrides import parse_overrides as parse_overrides
from bench.config.overrides import with_settings as with_settings
from bench.config.suites import check_dataset
from bench.config.suites import read_suites as read_suites
from bench.config.suites import suites as suites
from bench.contract import RequestError, Settings
from bench.core import registry
from bench.core.paths import config_file
from bench.core.yaml12 import read_mapping as read_yaml
from bench.data.download import Source
from bench.data.preprocessing import PRESETS, Preprocessing

Recipe = Literal["published", "small", "demo"]
M = TypeVar("M", bound=BaseModel)


class DatasetConfig(Settings):
    """Reader, folder and preprocessing of a data set: ``configs/datasets/NAME.yaml``.

    Attributes:
        reader: name in the catalogue of data sets; default: the data set's name.
        folder: its usual folder name under ``--data-root``; ``None``: synthetic data.
        options: settings of the reader.
        source: downloads, or advice how to get it.
        protocol: crop, size and rounding, or the name of a preset: ``huang2023``, ``whole``, ``torchvision``.
        backbones: default backbones.
        recipe: default training schedules.
        recipes: changes of a recipe on this data set: its name -> ``--set`` pairs.
        pretrained: whether backbones start from ImageNet weights.
        on_bad_image: ``error`` fails the cell, ``skip`` leaves the image out and records it.
    """

    reader: str | None = None
    folder: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    source: Source = Source()
    protocol: Preprocessing = Preprocessing()
    backbones: tuple[str, ...]
    recipe: Recipe = "published"
    recipes: dict[Recipe, dict[str, Any]] = Field(default_factory=dict)
    pretrained: bool = True
    on_bad_image: Literal["error", "skip"] = "error"


class Request(Settings):
    """Request for a run; a suite file has the same fields.

    Attributes:
        suite: the name under which results are grouped.
        methods: names in the catalogue; ``all``: every method, without controls.
        datasets: names in ``configs/datasets``.
        backbones: names in the catalogue; empty: each data set's default.
        seeds: random seeds, one cell for each.
        recipe: training schedules of all methods; ``None``: each data set's default.
        precision: precision of training; measuring is always in fp32.
        metrics: names or groups in the catalogue, or ``all``; empty: those that every run has.
        controls: add the black box and the content-free controls as rows.
        split: split on which the metrics are measured; choose settings on ``train``.
        overrides: ``--set`` pairs, dotted name -> value.
        grid: ``--set`` pairs with several values, dotted name -> values; a method runs once for each combination,
            and so does a data set.
    """

    suite: str = "default"
    methods: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[str, ...] = Field(min_length=1)
    backbones: tuple[str, ...] = ()
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    recipe: Recipe | None = None
    precision: Literal["fp32", "bf16", "tf32"] = "fp32"
    metrics: tuple[str, ...] = ()
    controls: bool = True
    split: Literal["test", "train"] = "test"
    overrides: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)


def validate(model: type[M], values: Mapping[str, Any], section: str) -> M:
    """Validate values as a pydantic model.

    Raises:
        RequestError: one line naming the first wrong field, and the nearest known name for an unknown one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(step) for step in first["loc"])
        hint = registry.nearest(name, model.model_fields) if first["type"] == "extra_forbidden" else ""
        message = "unknown setting" if hint else first["msg"]
        shown = repr(first["input"])
        shown = shown if len(shown) <= 80 else f"{shown[:60]}..."
        given = "" if first["type"] in ("extra_forbidden", "missing") else f" (got {shown})"
        place = ".".join(part for part in (section, name) if part)
        raise RequestError(f"{place}: {message}{given}{hint}") from error


def dataset_config(name: str, overrides: Mapping[str, Any]) -> DatasetConfig:
    """Return the configuration of a data set.

    Raises:
        RequestError: for an unknown name, with the nearest one.
    """
    file = config_file("datasets", name)
    check_dataset(name)
    values = read_yaml(file) if file.is_file() else {"folder": name, "backbones": ["resnet34"]}
    settings = for_section(overrides, name)
    chosen = settings.pop("protocol", values.get("protocol", {}))
    if isinstance(chosen, str):
        if chosen not in PRESETS:
            raise RequestError(f"{name}.protocol: unknown protocol {chosen!r}{registry.nearest(chosen, PRESETS)}")
        chosen = dict(PRESETS[chosen])
    return validate(DatasetConfig, merge({**values, "protocol": chosen}, settings, name), name)


def from_recipe(file: Path, model: type[M], recipe: Recipe, overrides: Mapping[str, Any], section: str) -> M:
    """Return settings for a recipe: the file's ``defaults``, then its ``recipes``, then the section's overrides.

    ``variants`` of a recipe are further values by those of a setting: ``base: {tesnet: {...}}`` counts if the setting
    ``base``, in the recipe or overridden, is ``tesnet``.

    Raises:
        RequestError: naming the wrong field, or the missing recipe.
    """
    content = read_yaml(file) if file.is_file() else {}
    recipes = content.get("recipes") or {}
    if recipes and recipe not in recipes:
        raise RequestError(f"{section} has no recipe {recipe!r}; it has {', '.join(sorted(recipes))}")
    values = {**(content.get("defaults") or {}), **recipes.get(recipe, {})}
    settings = for_section(overrides, section)
    for setting, choices in (values.pop("variants", None) or {}).items():
        values |= choices.get(settings.get(setting, values.get(setting)), {})
    return validate(model, merge(values, settings, section), section)
