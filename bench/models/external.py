"""Files and folders of the user's own that a setting names. Their content counts, their place does not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, ValidationInfo

from bench.contract import Settings
from bench.core.content_digest import content_digest
from bench.core.environment import describe_commit
from bench.models import weights


@dataclass(frozen=True)
class ExternalFile:
    """A file, or a folder of source code.

    Attributes:
        path: where it lies here.
        digest: 16 hexadecimal digits of its content (of a folder: of its Python files); it stands in the cell's id.
    """

    path: Path
    digest: str

    @classmethod
    def at(cls, path: Path) -> ExternalFile:
        """What lies there now."""
        path = path.expanduser().resolve()
        return cls(path, content_digest(path, _code(path), None) if path.is_dir() else weights.digest(path))

    def changed(self) -> bool:
        """Whether it is gone or has other content by now."""
        return not self.path.exists() or ExternalFile.at(self.path) != self

    def record(self) -> dict[str, str]:
        """What a result says of it: path, digest and, where it is a git checkout, the commit."""
        commit = describe_commit(self.path) if (self.path / ".git").exists() else None
        return {"path": str(self.path), "digest": self.digest, **({"commit": commit} if commit else {})}


def _code(root: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return found


def _look(value: Any, info: ValidationInfo) -> ExternalFile | None:
    if value is None or isinstance(value, ExternalFile):
        return value
    # A planned cell holds the digest; where its content lies comes beside it.
    places = (info.context or {}).get("given", {})
    if value in places:
        return ExternalFile(Path(places[value]), value)
    if not isinstance(value, str | Path):
        raise ValueError("expected a path")
    return ExternalFile.at(Path(value)) if Path(value).expanduser().exists() else None


def _file(value: Any, info: ValidationInfo) -> ExternalFile | None:
    found = _look(value, info)
    if value is not None and (found is None or found.path.is_dir()):
        raise ValueError("no such file")
    return found


def _folder(value: Any, info: ValidationInfo) -> ExternalFile | None:
    found = _look(value, info)
    if value is not None and (found is None or found.path.is_file()):
        raise ValueError("no such folder")
    return found


_AS_DIGEST = PlainSerializer(lambda given: given and given.digest, return_type=str | None)
ExternalFileSetting = Annotated[ExternalFile | None, PlainValidator(_file), _AS_DIGEST]
ExternalFolderSetting = Annotated[ExternalFile | None, PlainValidator(_folder), _AS_DIGEST]


class NetworkConfig(Settings):
    """What every published network can be told instead of being trained.

    Attributes:
        checkpoint: weights written by ``python -m bench import``; they are measured as they are, and their sizes win
            over ``per_class``, ``depth`` and the like.
        source: a checkout of the official repository, whose code is then run in place of ours: with ``checkpoint``, or
            from random weights. Only name code that you trust.
    """

    checkpoint: ExternalFileSetting = None
    source: ExternalFolderSetting = None

    @property
    def given(self) -> dict[str, ExternalFile]:
        """Those of the two that are set; where there is one, nothing is trained."""
        return {name: value for name in ("checkpoint", "source") if (value := getattr(self, name)) is not None}
