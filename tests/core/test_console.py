"""One way to the terminal: nothing printed is markup or moves the cursor, and no module goes another way."""

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table

from bench.core.console import Console, Text
from bench.core.plain_text import printable
from tests.support.evil_names import NAMES, acting

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    file
    for folder in ("bench", "baselines", "metrics")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file != ROOT / "bench" / "core" / "console.py"
]
FORBIDDEN = {"rich": {"print"}, "rich.console": {"Console"}, "rich.text": {"Text"}, "rich.markup": {"escape", "render"}}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_letter_by_letter(name: str) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=400)
    console.print(name, soft_wrap=True)
    console.print(Text(name), soft_wrap=True)
    console.out(name)
    table = Table("name", box=None)
    for cell in (name, Text(name), Text.assemble((name, "red"))):
        table.add_row(cell)
    console.print(table)
    said = stream.getvalue()
    assert not acting(said)
    assert said.replace("\n", "").isprintable()
    for line in printable(name).splitlines():
        assert said.count(line) >= 6


def faults(tree: ast.AST) -> Iterator[int]:
    """Lines that reach a terminal without ``bench.core.console``, or give it markup."""
    for node in ast.walk(tree):
        names = {alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)}
        if isinstance(node, ast.ImportFrom) and names & FORBIDDEN.get(node.module or "", set()):
            yield node.lineno
        if isinstance(node, ast.Import) and names & FORBIDDEN.keys():
            yield node.lineno
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            marked = [word for word in node.keywords if word.arg in ("markup", "emoji", "highlight")]
            if called in ("print", "click.echo", "click.secho") or any(
                not isinstance(word.value, ast.Constant) or word.value.value is not False for word in marked
            ):
                yield node.lineno


def test_no_module_goes_another_way() -> None:
    found = [f"{file}:{line}" for file in FILES for line in faults(ast.parse(file.read_text()))]
    assert not found, "print through bench.core.console"
    for code in ("print(1)", "from rich.console import Console", "click.echo(x)", "c.print(x, markup=True)"):
        assert list(faults(ast.parse(code))), code


@pytest.mark.parametrize("streams", ["utf-8", "ascii"])
def test_data_list_prints_any_path(tmp_path: Path, streams: str) -> None:
    ending = b"data[/x]\x1b[2J\xff"
    root = os.fsencode(tmp_path) + b"/" + ending
    os.makedirs(root)  # noqa: PTH103 (bytes)
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"bench", b"data", b"list", b"--data-root", root],
        capture_output=True, check=False, cwd=ROOT,
        env={**os.environ, "BENCH_HOME": str(tmp_path / "home"), "PYTHONIOENCODING": streams},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode(streams)
    assert f"/{printable(os.fsdecode(ending))} (--data-root)" in said
    assert not acting(said)
