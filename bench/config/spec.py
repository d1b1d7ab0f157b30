"""What a cell is: everything that its result depends on, where that lies on this machine, and how it is called."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

import bench
from bench.core.errors import RequestError
from bench.core.integrity import fingerprint
from bench.core.settings import Settings

_OF_BLACK_BOX = ("dataset", "backbone")


class CellSpec(Settings):
    """Everything that changes a cell's result, and nothing else: its hash is the cell's id."""

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
    metrics: dict[str, dict[str, Any]]
    code: dict[str, str] = Field(default_factory=dict)
    """Of what plugins provide (``method``, ``dataset``, ``backbone``, ``checkpoint``), the digest of its source code;
    that of a metric is in its own facts."""

    @classmethod
    def of(cls, written: Mapping[str, Any], file: Path) -> CellSpec:
        """What the content of a ``cell.json`` says.

        Raises:
            RequestError: where another version wrote the file, with fields that this one does not know or lacks.
        """
        try:
            return cls.model_validate(written["spec"])
        except ValidationError as error:
            about = error.errors()[0]
            place = ".".join(map(str, about["loc"]))
            raise RequestError(
                f"{file} is no cell as this version writes them ({place}: {about['msg']}); its numbers can be read, "
                "and `run` plans it anew"
            ) from error

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """All of it, ready for JSON; not to be changed."""
        content = self.model_dump(mode="json")
        if not self.code:
            del content["code"]  # cells of nothing but our own code have the ids that they had before there was this
        return content

    @functools.cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits."""
        return fingerprint(self.content)

    @functools.cached_property
    def fit_id(self) -> str:
        """The id of what is fitted: the same for all cells that differ only in what is measured on it."""
        return self._without("split", "metrics")

    @functools.cached_property
    def black_box_id(self) -> str:
        """The id of the classifier that this cell decomposes or shows: the same for all cells that can share it."""
        left = {**self.content, "code": {name: one for name, one in self.code.items() if name in _OF_BLACK_BOX}}
        names = ("method", "method_version", "settings", "split", "metrics", *([] if left["code"] else ["code"]))
        return fingerprint({name: value for name, value in left.items() if name not in names})

    @property
    def trains_black_box(self) -> bool:
        """Whether that classifier is trained, and not given with its starting weights."""
        return self.black_box is not None and self.black_box.get("head") != "pretrained"

    def _without(self, *names: str) -> str:
        return fingerprint({name: value for name, value in self.content.items() if name not in names})


@dataclass(frozen=True)
class Where:
    """Where a cell's inputs lie on this machine. It does not enter the id."""

    data_root: str | None
    folder: str | None
    reader: str
    options: dict[str, Any]
    weights: str | None
    plugins: tuple[str, ...]
    given: dict[str, str]
    code: dict[str, str]
    """Of what plugins provide, as in :attr:`CellSpec.code` and ``metrics.NAME``: the file that its digest is of."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell with what is needed to run and to print it.

    Attributes:
        label: the method and what was said about it; the same cell may be asked for under another one.
        changed: the settings that are not those of the recipe.
    """

    spec: CellSpec
    where: Where
    label: str
    role: str
    recipe: str
    changed: tuple[str, ...]
    not_applicable: dict[str, dict[str, str]]


def describe(cell: PlannedCell, command: str) -> dict[str, Any]:
    """What ``cell.json`` holds."""
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
        "bench_version": bench.__version__,
    }
