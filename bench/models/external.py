"""External files and folders that a setting names, identified by content instead of path."""

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
    """File, or folder of source code, of the user's own.

    A cell's id contains the digest and ``cell.json`` the path beside it, so that a moved file changes no id.

    Attributes:
        path: its path on this machine.
        digest: 16 hexadecimal digits of its content (of a folder: of its Python files).
    """

    path: Path
    digest: str

    @classmethod
    def at(cls, path: Path) -> ExternalFile:
        """Return the file or folder at a path with the digest of its present content."""
        path = path.expanduser().resolve()
        return cls(path, content_digest(path, _code(path), None) if path.is_dir() else weights.digest(path))

    def changed(self) -> bool:
        """Return whether it is gone or has other content by now."""
        return not self.path.exists() or ExternalFile.at(self.path) != self

    def record(self) -> dict[str, str]:
        """Return the record of it in a result: path, digest and, for a git checkout, the commit."""
        commit = describe_commit(self.path) if (self.path / ".git").exists() else None
        return {"path": str(self.path), "digest": self.digest, **({"commit": commit} if commit else {})}


def _code(root: Path) -> list[Path]:
    sources = []
    for folder, folders, files in os.walk(root):
        # Hidden folders (.git, .venv) and bytecode are no part of the source.
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        sources += [Path(folder, name) for name in files if name.endswith(".py")]
    return sources


def _external(value: Any, info: ValidationInfo) -> ExternalFile | None:
    if value is None or isinstance(value, ExternalFile):
        return value
    # The settings of a planned cell hold the digest; the context maps digests to paths.
    paths = (info.context or {}).get("given", {})
    if value in paths:
        return ExternalFile(Path(paths[value]), value)
    if not isinstance(value, str | Path):
        raise ValueError("expected a path")
    return ExternalFile.at(Path(value)) if Path(value).expanduser().exists() else None


def _file(value: Any, info: ValidationInfo) -> ExternalFile | None:
    file = _external(value, info)
    if value is not None and (file is None or file.path.is_dir()):
        raise ValueError("no such file")
    return file


def _folder(value: Any, info: ValidationInfo) -> ExternalFile | None:
    folder = _external(value, info)
    if value is not None and (folder is None or folder.path.is_file()):
        raise ValueError("no such folder")
    return folder


_AS_DIGEST = PlainSerializer(lambda file: file and file.digest, return_type=str | None)
ExternalFileSetting = Annotated[ExternalFile | None, PlainValidator(_file), _AS_DIGEST]
ExternalFolderSetting = Annotated[ExternalFile | None, PlainValidator(_folder), _AS_DIGEST]


class NetworkConfig(Settings):
    """Settings of every published network that can be loaded instead of trained.

    Attributes:
        checkpoint: weights written by ``python -m bench import``; they are measured as they are, and their sizes win
            over ``per_class``, ``depth`` and the like. They keep the official tensor names, so that the network here
            and the official code load the same file.
        source: a checkout of the official repository, whose code then runs in place of the code here: with
            ``checkpoint``, or from random weights. Only name code that you trust.
    """

    checkpoint: ExternalFileSetting = None
    source: ExternalFolderSetting = None

    @property
    def given(self) -> dict[str, ExternalFile]:
        """Those of the two that are set; with any, nothing is trained."""
        return {name: value for name in ("checkpoint", "source") if (value := getattr(self, name)) is not None}
