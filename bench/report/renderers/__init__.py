"""Tables as text, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.core.console import Console
from bench.core.errors import RequestError
from bench.report.renderers.html import as_html
from bench.report.renderers.latex import as_latex
from bench.report.renderers.markdown import as_markdown
from bench.report.renderers.records import as_csv, as_json
from bench.report.renderers.text import as_text
from bench.report.table import Table

__all__ = ["FORMATS", "as_csv", "as_html", "as_json", "as_latex", "as_markdown", "as_text", "write"]

FORMATS = ("text", "md", "latex", "html", "csv", "json")


def write(tables: Sequence[Table], fmt: str = "text", console: Console | None = None, title: str = "Tables") -> None:
    """Print tables in one of :data:`FORMATS`.

    Args:
        tables: at least one.
        fmt: the format.
        console: output; of its settings only the text format depends.
        title: of an HTML page.

    Raises:
        RequestError: for another format.
    """
    console = console or Console()
    if fmt == "text":
        as_text(tables, console)
        return
    forms: dict[str, Callable[[Sequence[Table]], str]] = {
        "md": as_markdown, "latex": as_latex, "html": lambda own: as_html(own, title), "csv": as_csv, "json": as_json
    }  # fmt: skip
    if fmt not in forms:
        raise RequestError(f"--format {fmt!r}: write {', '.join(FORMATS)}")
    # Untouched by the console: no wrapping, no colours, no markup.
    console.out(forms[fmt](tables), end="")
