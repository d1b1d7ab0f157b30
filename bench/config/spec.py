"""Specification of a cell: its inputs, their locations on this machine, and its label."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from bench.core import __version__
from bench.core.errors import RequestError
from bench.core.files import first_problem
from bench.core.integrity import fingerprint
from bench.core.settings import Settings

# Setting of methods that chooses among the states which one fit passes.
STAGE = "stage"

_OF_BLACK_BOX = ("dataset", "backbone")


class SpecFields(BaseModel):
    """Fields that a specification has as it is planned and as any version of this program has stored it."""

    method: str
    method_version: int
    settings: dict[str, Any]
    dataset: str
    data_digest: str
    protocol: dict[str, Any]
    on_bad_image: str
    backbone: str | None
    weights_digest: str
    black_box: dict[str, Any] | None
    seed: int
    precision: str
    split: str


class CellSpec(SpecFields, Settings):
    """Inputs that change a cell's result, and nothing else: their hash is the cell's id."""

    metrics: dict[str, dict[str, Any]]
    code: dict[str, str] = Field(default_factory=dict)
    """Digests of the source code of plugins (``method``, ``dataset``, ``backbone``, ``checkpoint``); that of a metric
    is in ``metrics``."""

    @classmethod
    def of(cls, written: Mapping[str, Any], file: Path) -> CellSpec:
        """Return the specification in the content of a ``cell.json``.

        Raises:
            RequestError: if another version wrote the file, with unknown or missing fields.
        """
        try:
            return cls.model_validate(written["spec"])
        except ValidationError as error:
            raise RequestError(
                f"{file} is no cell as this version writes them ({first_problem(error)}); its numbers can be read, "
                "and `run` plans it again"
            ) from error

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """Return all inputs, ready for JSON; not to be changed."""
        content = self.model_dump(mode="json")
        if not self.code:
            del content["code"]  # cells without plugins keep the ids that they had before this field
        return content

    @functools.cached_property
    def id(self) -> str:
        """Return the id of the cell: twelve hexadecimal digits."""
        return fingerprint(self.content)

    @functools.cached_property
    def fit_id(self) -> str:
        """Return the id of the fit: the same for all cells that differ only in metrics, split and measured stage."""
        return fit_id(self.content)

    @functools.cached_property
    def black_box_id(self) -> str:
        """Return the id of the black box of this cell, the same for all cells that can share it."""
        inputs = {**self.content, "code": {part: code for part, code in self.code.items() if part in _OF_BLACK_BOX}}
        others = ("method", "method_version", "settings", "split", "metrics", *([] if inputs["code"] else ["code"]))
        return fingerprint({name: value for name, value in inputs.items() if name not in others})

    @property
    def trains_black_box(self) -> bool:
        """Return whether the black box is trained, and not given with its starting weights."""
        return self.black_box is not None and self.black_box.get("head") != "pretrained"


def fit_id(content: Mapping[str, Any]) -> str:
    """Return the id of the fit of a specification: the same where only metrics, split or measured stage differ."""
    settings = {name: value for name, value in content.get("settings", {}).items() if name != STAGE}
    kept = {name: value for name, value in content.items() if name not in ("split", "metrics")}
    return fingerprint({**kept, "settings": settings} if "settings" in kept else kept)


@dataclass(frozen=True)
class InputLocations:
    """Locations of a cell's inputs on this machine. They do not enter the id."""

    data_root: str | None
    folder: str | None
    reader: str
    options: dict[str, Any]
    weights: str | None
    plugins: tuple[str, ...]
    given: dict[str, str]
    code: dict[str, str]
    """Source files of plugins, by the names in :attr:`CellSpec.code` and ``metrics.NAME``."""


@dataclass(frozen=True)
class PlannedCell:
    """Cell with the facts that are needed to run and to print it.

    Attributes:
        label: the method with its settings on the command line; the same cell may have another label in another run.
        changed: names of settings that differ from the recipe.
    """

    spec: CellSpec
    where: InputLocations
    label: str
    role: str
    recipe: str
    changed: tuple[str, ...]
    not_applicable: dict[str, dict[str, str]]


def describe(cell: PlannedCell, command: str) -> dict[str, Any]:
    """Return the content of ``cell.json``."""
    where = {**cell.where.__dict__, "plugins": list(cell.where.plugins)}
    if not where["code"]:
        del where["code"]
    return {
        "spec": cell.spec.content,
        "where": where,
        "black_box_id": cell.spec.black_box_id if cell.spec.black_box else None,
        "fit_id": cell.spec.fit_id,
        "label": cell.label,
        "role": cell.role,
        "recipe": cell.recipe,
        "changed": list(cell.changed),
        "not_applicable": cell.not_applicable,
        "command": command,
        "bench_version": __version__,
    }
