"""Sheets as HTML: a table that a screen reader can follow, and a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from bench.core.plain_text import visible
from bench.report.format import has_best, printed, sections
from bench.report.sheet import Sheet

# Names, reasons and settings come from users and plugins: everything is escaped.
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=visible,
    trim_blocks=True,
    lstrip_blocks=True,
)


def sheet_fragment(sheet: Sheet, suffix: str = "") -> str:
    """Return a ``section`` for a page of others; ``suffix`` keeps the ids of sheets of one table distinct."""
    parts = [text.partition(": python -m ") for text in sheet.missing]
    missing = [(reason, f"python -m {rest}" if found else "") for reason, found, rest in parts]
    return _TEMPLATES.get_template("sheet.html").render(
        sheet=sheet,
        anchor=f"table-{sheet.number}{suffix}",
        grouped=any(name for name, _ in sheet.groups),
        sections=sections(printed(sheet)),
        has_best=has_best(sheet),
        missing=missing,
    )


def sheets_as_html(sheets: Sequence[Sheet], title: str) -> str:
    """Return a page of its own: no script, nothing loaded from elsewhere."""
    fragments = [Markup(sheet_fragment(sheet, f"-{place}" if place else "")) for place, sheet in enumerate(sheets)]
    return _TEMPLATES.get_template("page.html").render(title=title, fragments=fragments)
