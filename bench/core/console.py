"""Console output, the only way to a terminal: nothing printed is markup or moves the cursor.

Styles are given by :class:`Text`, never by markup; ``tests/test_console.py`` refuses modules that print in another way.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from typing import Any

import click
import rich.console
import rich.text
from rich.segment import Segment

from bench.core.plain_text import printable


class Console(rich.console.Console):
    """Console of rich that reads no markup, colours nothing by itself and lets no control character through."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **settings})

    def render_str(self, text: str, **settings: Any) -> rich.text.Text:
        """Return the text of a plain string, escaped before its width is measured."""
        return super().render_str(printable(text), **settings)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Yield the printed segments; all but the console's own control segments are escaped."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text is segment.text else Segment(text, segment.style)

    def out(self, *objects: Any, **settings: Any) -> None:
        """Print as it is, without wrapping."""
        super().out(*(printable(str(each)) for each in objects), **{"highlight": False, **settings})

    def on_broken_pipe(self) -> None:
        """End the program quietly if nobody reads on, as after ``| head``: raised here, it is no plugin's SystemExit.

        Raises:
            SystemExit: with the code that rich ends with.
        """
        try:
            super().on_broken_pipe()
        except SystemExit as error:
            raise SystemExit(error.code) from None


class Text(rich.text.Text):
    """Styled text whose control characters are escaped before its width is measured."""

    def __init__(self, text: str = "", *settings: Any, **more: Any) -> None:
        super().__init__(printable(text), *settings, **more)

    def append(self, text: Any, style: Any = None) -> Text:
        """Add a string or another text at the end."""
        super().append(printable(text) if isinstance(text, str) else text, style)
        return self


def say(text: object = "", err: bool = False, nl: bool = True) -> None:
    """Print text in one piece, without wrapping and styles: for programs, and if rich is not worth its import."""
    click.echo(printable(str(text)), err=err, nl=nl)


def settle_streams() -> None:
    """Let output that has no such letters (``LANG=C``) get escapes for them instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            with contextlib.suppress(ValueError):  # already closed
                stream.reconfigure(errors="backslashreplace")
