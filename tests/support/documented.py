"""Commands on the published results in a text, and their output below.

``python -m tests.support.documented FILE...`` writes what they print now.

A block is indented by four columns and begins with a command that reads them: ``--out reports/FOLDER``. The command
ends at the first empty line; the rest of the block is its output. Or it is a comment with the command, and below it the
first table that the command prints as Markdown.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from bench.cli.main import main as bench

ROOT = Path(__file__).resolve().parents[2]
_PAGES = [
    "STUDY",
    "axioms",
    "backbones",
    "cars_dogs",
    "chance",
    "differences",
    "imagenet",
    "metrics_worth",
    "refinement",
    "related",
    "rivals",
    "search",
]
TEXTS = (ROOT / "README.md", *(ROOT / "reports" / f"{name}.md" for name in _PAGES))
RESULTS = "reports/results"
FINDINGS = ROOT / "reports" / "findings.md"
_TABLE = re.compile(r"(?m)^<!-- (python -m bench (?:report|rank|variance) .*) -->\n\n((?:\|.*\n)+)")
_FIGURE = re.compile(r"(?m)^    python -m bench (figure (?:.*\\\n)*.*)$")
_BLOCK = re.compile(r"(?m)^    python -m bench (?:report|compare|rank|results|variance) .*(?:\n(?:    .*)?)*")


@dataclass(frozen=True)
class Documented:
    """One block: the command, and its output as the text has it, all of it or the first table."""

    command: str
    output: str
    table: bool = False

    def now(self) -> str:
        """What the command prints; the folder of results lies in the working directory.

        Raises:
            RuntimeError: where it fails.
        """
        words = shlex.split(self.command.replace("\\\n", " "))[3:]
        found = CliRunner().invoke(bench, words, env={"COLUMNS": None})
        if found.exit_code:
            raise RuntimeError(f"{self.command}: exit code {found.exit_code}\n{found.output}")
        if self.table:
            return plain(re.search(r"(?:^\|.*\n)+", found.stdout, re.MULTILINE)[0])
        return plain(found.stdout)

    def text(self, output: str) -> str:
        """The block with that output."""
        if self.table:
            return f"<!-- {self.command} -->\n\n{output}\n"
        lines = [*self.command.splitlines(), "", *output.splitlines()]
        return "\n".join(f"    {line}".rstrip() for line in lines) + "\n\n"


def plain(text: str) -> str:
    """Without blanks at the ends of lines, and without empty lines around."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def documented(text: str) -> Iterator[tuple[re.Match[str], Documented]]:
    """The blocks of a text, and where they are."""
    for found in _BLOCK.finditer(text):
        block = "\n".join(line.removeprefix("    ") for line in found[0].splitlines())
        command, _, output = block.partition("\n\n")
        if "--out reports/" in command and output.strip():
            yield found, Documented(command, plain(output))
    for found in _TABLE.finditer(text):
        yield found, Documented(found[1], plain(found[2]), table=True)


def figures(file: Path) -> list[list[str]]:
    """The words of each command of a text, in a block of its own, that draws figures from the published results."""
    commands = (found[1].replace("\\\n", " ") for found in _FIGURE.finditer(file.read_text()))
    return [shlex.split(command) for command in commands if "--out reports/" in command]


def rewrite(file: Path) -> None:
    """Put in what the commands print now."""
    text = file.read_text()
    for found, block in sorted(documented(text), key=lambda pair: pair[0].start(), reverse=True):
        text = text[: found.start()] + block.text(block.now()) + text[found.end() :].lstrip("\n" * (not block.table))
    file.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
