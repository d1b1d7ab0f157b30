"""Commands on the published results in a text, and their output below.

``python -m tests.support.documented FILE...`` writes what they print now.

A block is indented by four columns and begins with a command that reads them: ``--out reports/results``. The command
ends at the first empty line; the rest of the block is its output.
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
TEXTS = (
    ROOT / "README.md",
    *(
        ROOT / "reports" / f"{name}.md"
        for name in ("STUDY", "axioms", "backbones", "cars_dogs", "imagenet", "refinement", "related")
    ),
)
RESULTS = "reports/results"
_BLOCK = re.compile(r"(?m)^    python -m bench (?:report|compare|results) .*(?:\n(?:    .*)?)*")


@dataclass(frozen=True)
class Documented:
    """One block: the command, and its output as the text has it."""

    command: str
    output: str

    def now(self) -> str:
        """What the command prints; the folder of results lies in the working directory.

        Raises:
            RuntimeError: where it fails.
        """
        words = shlex.split(self.command.replace("\\\n", " "))[3:]
        found = CliRunner().invoke(bench, words, env={"COLUMNS": None})
        if found.exit_code:
            raise RuntimeError(f"{self.command}: exit code {found.exit_code}\n{found.output}")
        return plain(found.stdout)


def plain(text: str) -> str:
    """Without blanks at the ends of lines, and without empty lines around."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def documented(text: str) -> Iterator[tuple[re.Match[str], Documented]]:
    """The blocks of a text, and where they are."""
    for found in _BLOCK.finditer(text):
        block = "\n".join(line.removeprefix("    ") for line in found[0].splitlines())
        command, _, output = block.partition("\n\n")
        if f"--out {RESULTS}" in command and output.strip():
            yield found, Documented(command, plain(output))


def rewrite(file: Path) -> None:
    """Put in what the commands print now."""
    text = file.read_text()
    for found, block in reversed(list(documented(text))):
        lines = [*block.command.splitlines(), "", *block.now().splitlines()]
        fresh = "\n".join(f"    {line}".rstrip() for line in lines)
        text = text[: found.start()] + fresh + "\n\n" + text[found.end() :].lstrip("\n")
    file.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
