"""Text for each format, against readers of that format which are not ours."""

import csv
import io
import re

import pytest
from markdown_it import MarkdownIt

from bench.core.plain_text import (
    for_csv,
    for_latex,
    for_markdown,
    markdown_code,
    markdown_prose,
    one_line,
    printable,
    visible,
)
from tests.support.evil_names import NAMES, acting

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def html_of(markdown: str) -> str:
    return MARKDOWN.render(markdown)


def text_of(markdown: str) -> str:
    """What a reader sees."""
    found = []

    def walk(tokens: list) -> None:
        for token in tokens:
            if token.type in ("text", "code_inline", "html_inline", "html_block"):
                found.append(token.content)
            walk(token.children or [])

    walk(MARKDOWN.parse(markdown))
    return "".join(found)


@pytest.mark.parametrize("name", NAMES)
def test_text_has_nothing_that_acts(name: str) -> None:
    for shown in (printable(name), one_line(name), for_markdown(name), markdown_prose(name), markdown_code(name)):
        assert not acting(shown)
        assert shown.replace("\n", "").isprintable()
        shown.encode()
    assert "\n" not in one_line(name)
    assert printable(printable(name)) == printable(name)


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        "ours (k=3)",
        "Ångström 鳥 ±",
        "a\tb\nc",
        "नमस्ते",
        "consistency_controlled",
        "p < 0.05 & more",
        "a - b",
    ):
        assert printable(text) == text
        assert for_markdown(text.replace("\t", " ").replace("\n", " ")) == text.replace("\t", " ").replace("\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_letter_by_letter(name: str) -> None:
    assert text_of(for_markdown(name)) == one_line(name)
    assert text_of(markdown_code(name)) == one_line(name)
    for shown in (for_markdown(name), markdown_prose(name)):
        made = html_of(f"- {shown}\n- [y] [x]\n")
        assert not re.search(r"<(script|b|a|img|em\s|javascript)\b", made), made
    table = html_of(f"| a | b |\n|---|---|\n| {for_markdown(name)} | {for_markdown(name)} |\n")
    assert (table.count("<tr>"), table.count("<td>")) == (2, 2)


@pytest.mark.parametrize(
    "target", ["javascript:x", "javascript\\:x", "<javascript:x>", "javascript&colon;x", " data:x"]
)
def test_markdown_defines_no_link(target: str) -> None:
    made = html_of(f"- {markdown_prose(f'[y]:{target}')}\n\n[y]\n")
    assert "javascript:" not in re.sub(r">[^<]*<", "><", made)
    assert "<a" not in made or 'href="javascript&amp;' in made
    assert markdown_prose("[low, high]: 95 % interval") == "[low, high]: 95 % interval"


def test_markdown_code_in_our_sentences_stays_code() -> None:
    assert html_of(markdown_prose("run `python -m bench`, **now**")).startswith(
        "<p>run <code>python -m bench</code>, <strong>now</strong>"
    )


@pytest.mark.parametrize("cell", ["=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", " =1", "\uff1d1"])
def test_csv_has_no_formula(cell: str) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerow([for_csv(cell), "b"])
    ((first, second),) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert (first[0], second) == ("'", "b")


@pytest.mark.parametrize("cell", ["-1.5", "+3", "-1e-3", "ours", "", "n/a", -2.0, 3, None, True])
def test_csv_keeps_numbers_and_names(cell: object) -> None:
    assert for_csv(cell) == cell


@pytest.mark.parametrize("name", NAMES)
def test_latex_has_no_command_of_a_name(name: str) -> None:
    shown = for_latex(name)
    assert shown.isascii() or set(shown) - set(map(chr, range(128))) <= {"é"}
    known = r"\\(textbackslash|textasciitilde|textasciicircum|textasciigrave|textless|textgreater|textbar)\{\}"
    rest = re.sub(rf"{known}|\\[{{}}$&#%_]|-\{{\}}", "", shown)
    assert not set(rest) & set("\\{}$&#%_~^|\n"), rest


def test_templates_show_markup_as_it_is() -> None:
    from jinja2 import Environment

    page = Environment(autoescape=True, finalize=visible).from_string('<a title="{{ name }}">{{ name }}{{ 3 }}</a>')
    shown = "\\x1b&lt;b&gt;&#34;\\udcff"
    assert page.render(name='\x1b<b>"\udcff').replace(shown, "*") == '<a title="*">*3</a>'
