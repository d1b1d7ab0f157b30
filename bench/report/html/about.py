"""Title, authors, date and licence of a report, and what its authors say about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bench.core.errors import RequestError
from bench.core.registry import nearest
from bench.core.yaml12 import parse
from bench.results.cell_record import CellRecord

TITLE = "Part-prototype methods, measured"
_FIELDS = ("title", "authors", "date", "licence")
# As Pandoc and forges write it: a block of names and values between two lines of three hyphens.
_HEADER = re.compile(r"---\n(.*?)\n---(?:\n|$)(.*)", re.DOTALL)


@dataclass(frozen=True)
class About:
    """Facts about a report; those that are empty are left out of it.

    Attributes:
        title: headline of the first page.
        authors: names.
        date: of the report; by default the day of the newest run.
        licence: of the numbers and texts.
        text: Markdown for the end of the first page.
    """

    title: str = TITLE
    authors: str = ""
    date: str = ""
    licence: str = ""
    text: str = ""

    def dated(self, stamp: str) -> About:
        """Return it with the day of a run's time stamp, if it has no date."""
        day = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}" if re.match(r"\d{8}", stamp) else ""
        return self if self.date else replace(self, date=day)

    @property
    def html(self) -> Markup:
        """Return the text as HTML: headings below those of the page; markup, pictures and links to files stay text."""
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark", {"html": False}).disable("image")
        parser.validateLink = lambda address: re.match(r"(?:https?|mailto):", address) is not None  # type: ignore[method-assign]
        tokens = parser.parse(self.text)
        for token in tokens:
            if token.type in ("heading_open", "heading_close"):
                token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        return Markup(parser.renderer.render(tokens, parser.options, {}))


def read_about(file: Path | None, title: str = "") -> About:
    """Return the facts in a Markdown file that may begin with a header, and a title that counts instead of its own.

    Args:
        file: ``---``, lines such as ``authors: A. Author, B. Author``, ``---``, and text; ``None``: no file.
        title: instead of that of the file.

    Raises:
        RequestError: if the file cannot be read, or its header has other names than ``title``, ``authors``, ``date``
            and ``licence``.
    """
    found: dict[str, Any] = {}
    text = ""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--about {file}: cannot be read ({error})") from error
        header = _HEADER.match(text)
        if header:
            found, text = parse(header[1], f"--about {file}") or {}, header[2]
        if not isinstance(found, dict):
            raise RequestError(f"--about {file}: between the lines of --- write lines such as authors: A. Author")
        for name in found:
            if name not in _FIELDS:
                raise RequestError(f"--about {file}: no field {name!r}{nearest(name, _FIELDS)}")
    given = {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
             for name, value in found.items() if value is not None}  # fmt: skip
    return About(**{**given, **({"title": title} if title else {}), "text": text.strip()})


def hardware(cells: Iterable[CellRecord]) -> list[str]:
    """Return the hardware of the finished cells, with their number if there are several; the commonest first."""
    counts = Counter(cell.result["environment"]["hardware"] for cell in cells if cell.result)
    return [f"{name} ({count} cells)" if len(counts) > 1 else name for name, count in counts.most_common()]
