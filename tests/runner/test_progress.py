"""What is told of the work says what it was given, letter by letter."""

import io

import pytest
from rich.console import Console

from bench.runner.progress import ConsoleProgress

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
