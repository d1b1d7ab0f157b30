"""Tables as HTML: a table that a screen reader can follow, and a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from bench.core.plain_text import visible
from bench.report.table import Table
from bench.report.table_layout import layout

# Names, reasons and settings come from users and plugins: everything is escaped.
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=visible,
    trim_blocks=True,
    lstrip_blocks=True,
)


def fragment(table: Table, suffix: str = "") -> str:
    """Return a ``section`` for a page of others; ``suffix`` keeps the ids of tables of one number distinct."""
    parts = [text.partition(": python -m ") for text in table.missing]
    missing = [(reason, f"python -m {rest}" if found else "") for reason, found, rest in parts]
    return _TEMPLATES.get_template("table.html").render(
        table=table, layout=layout(table, typeset=True), anchor=f"table-{table.number}{suffix}", missing=missing
    )


def fragments(tables: Sequence[Table]) -> list[str]:
    """Return the sections of tables that are on one page."""
    return [fragment(table, f"-{place}" if place else "") for place, table in enumerate(tables)]


def as_html(tables: Sequence[Table], title: str) -> str:
    """Return a page of its own: no script, nothing loaded from elsewhere."""
    sections = [Markup(section) for section in fragments(tables)]
    return _TEMPLATES.get_template("page.html").render(title=title, fragments=sections)
