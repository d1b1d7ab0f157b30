"""Source code of a plugin: the files that it consists of, and a digest of their content."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(_ROOT / name for name in ("bench", "baselines", "metrics"))
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Code:
    """Code of one plugin.

    Attributes:
        file: its main file.
        digest: 16 hexadecimal digits of the content of all its Python files and, if it is installed, of the
            distribution's name and version.
    """

    file: str
    digest: str

    @classmethod
    def of(cls, file: Path, contents: Mapping[Path, bytes], distribution: str = "") -> Code:
        """Return the code in these files; renaming or moving the main file together with the others changes nothing."""
        names = {path: "" if path == file else Path(os.path.relpath(path, file.parent)).as_posix() for path in contents}
        listing = "".join(
            f"{names[path]}\0{hashlib.sha256(contents[path]).hexdigest()}\n"
            for path in sorted(contents, key=lambda path: names[path])
        )
        content = hashlib.sha256(f"{distribution}\n{listing}".encode("utf-8", "surrogateescape"))
        return cls(str(file), content.hexdigest()[:16])


def is_ours(file: Path) -> bool:
    """Return whether a file belongs to the harness itself, whose definitions carry versions instead of digests."""
    return file.resolve().is_relative_to(_ROOT) and any(file.resolve().is_relative_to(folder) for folder in _OURS)


def read_with_imports(file: Path) -> dict[Path, bytes]:
    """Return a file's content, and that of the Python files of its own folder that it imports, directly or not.

    Installed modules and those in other folders are not part of it.

    Raises:
        OSError: if the file cannot be read.
    """
    file = file.resolve()
    contents = {file: file.read_bytes()}
    if is_ours(file) or file.parent.name in _INSTALLED:
        return contents
    waiting = [file]
    while waiting:
        path = waiting.pop()
        for other in _imported(path, contents[path], file.parent):
            if other not in contents and not is_ours(other):
                contents[other] = other.read_bytes()
                waiting.append(other)
    return contents


def code_of_module(module: str, distribution: str) -> Code | None:
    """Return the code of an installed module: all of its package; ``None`` if the module is the harness's own.

    Raises:
        ModuleNotFoundError: if there is no such module.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"no module {module}")
    file = Path(spec.origin or module)
    if is_ours(file):
        return None
    # The outermost folder that is a package: its other modules may be imported, too.
    top = file
    while (top.parent / "__init__.py").is_file():
        top = top.parent
    files = sorted(top.rglob("*.py")) if top.is_dir() else []
    return Code.of(file, {path: path.read_bytes() for path in {*files, file} if path.is_file()}, distribution)


def _imported(path: Path, source: bytes, root: Path) -> Iterator[Path]:
    """Yield the files below ``root`` that a file's import statements may mean."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # running the file reports the error
        return
    for node in ast.walk(tree):
        base, names = root, []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if 0 < node.level <= len(path.parents) else root
            names = [".".join(filter(None, (node.module, alias.name))) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names = [node.args[0].value.lstrip(".")]
        for name in names:
            path_of_module = base
            for part in name.split("."):
                path_of_module /= part
                for file in (path_of_module.with_name(f"{path_of_module.name}.py"), path_of_module / "__init__.py"):
                    if file.is_file():
                        yield file.resolve()
