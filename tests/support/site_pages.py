"""What tests look at in the pages of a report: balanced tags, ids, links, what a screen reader is told."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

VOID = {"meta", "br", "img", "link", "hr", "input", "wbr", "circle", "path", "rect", "polyline", "source"}


class Page(HTMLParser):
    """One page, parsed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def said(self) -> str:
        """All text, blanks put together."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of all elements of a kind."""
        return [given for name, given in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        """What the page leads to or loads."""
        return [given[name] for _, given in self.tags for name in ("href", "src", "srcset") if name in given]


def read_site(folder: Path) -> dict[str, Page]:
    """All pages: path in the folder -> page."""
    return {
        file.relative_to(folder).as_posix(): Page(file.read_text(encoding="utf-8")) for file in folder.rglob("*.html")
    }


def broken_links(folder: Path) -> list[str]:
    """Links that lead nowhere, or out of the folder."""
    pages = {(folder / name).resolve(): page for name, page in read_site(folder).items()}
    broken = []
    for file, page in pages.items():
        for link in page.links:
            path, _, anchor = link.partition("#")
            if path == "data:,":
                continue
            target = (file.parent / unquote(path)).resolve() if path else file
            inside = target.is_relative_to(folder.resolve()) and target.is_file()
            if not inside or (anchor and anchor not in pages[target].ids):
                broken.append(f"{file.name}: {link}")
    return broken
