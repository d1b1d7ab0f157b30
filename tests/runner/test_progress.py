"""What is told of the work says what it was given, letter by letter."""

import io
import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.cli.main import main
from bench.runner.progress import ConsoleProgress
from tests.support.small_birds import QUICK, few_birds

MESSAGES = [
    "RuntimeError: [enforce fail at inline_container.cc:595] . unexpected pos: once more",
    "test: 1 of 9 images left out, the first: birds[small]/1.jpg",
    "RuntimeError: bad layer [/conv1]: once more",
    "[bold]a folder[/bold] :smile: C:\\",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_note_with_brackets_is_told_whole(message):
    console = Console(file=io.StringIO(), width=200)
    with ConsoleProgress(console) as progress:
        progress.note(message)
    assert console.file.getvalue() == f"  {message}\n"


@pytest.mark.parametrize("what", MESSAGES)
def test_a_bar_with_brackets_is_told_whole(what):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with ConsoleProgress(console) as progress:
        for _ in progress.track([1], what):
            progress._bars.refresh()
    assert what in console.file.getvalue()


def screen(output):
    """The lines that a terminal shows in the end, of what rich sends it."""
    lines, row = [""], 0
    for text, count, command in re.findall(r"([^\x1b\r\n]+|[\r\n])|\x1b\[\??([0-9;]*)([A-Za-z])", output):
        if command == "A":
            row -= int(count or 1)
        elif command == "K" or text == "\r":
            lines[row] = "" if command == "K" else lines[row]
        elif text == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif text:
            # Each text begins its line: rich goes back to the beginning before it writes anew.
            lines[row] += text
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_shows_one_line_for_each_cell_and_the_log_all(tmp_path, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120", "BENCH_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    request = ["run", "--methods", "constant,center", *QUICK[:4], "--device", "cpu", "--metrics", "consistency"]
    words = [*request, "--data-root", str(few_birds(tmp_path)), "--no-controls", "--no-tracking"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    lines = screen(done.output)
    cells = [
        line for line in lines if re.match(r"\[[12]/2\] (constant|center) · cub · no backbone · seed 0  done in", line)
    ]
    assert len(cells) == 2
    assert not any("test batches" in line for line in lines)
    logs = [file.read_text() for file in tmp_path.glob("cells/*/*/log.txt")]
    assert len(logs) == 2
    assert all("test batches" in log for log in logs)
