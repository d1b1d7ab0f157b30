"""Escaping of foreign text for each format: names, paths and reasons that users, files and plugins bring.

A reader of a table, a log or a message sees the text as it is stored, and nothing in it acts: no terminal sequence,
no letters in another order, no markup, formula or link. HTML is escaped by jinja2; its templates take :func:`visible`
as their ``finalize``, for characters that HTML has no rule for. JSON needs nothing: it is written in ASCII.

Stored files hold names exactly, since they are read again; only files for people (``results --csv``,
``report --format csv``, ``compare --format csv``) have their cells neutralised.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, overload

_ACTING = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tabulator and line feed: escape sequences begin with one
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they turn the direction of letters (Unicode, annex 9)
    "\u200b\u2060\ufeff\u00ad\ufff9-\ufffb"  # letters without width: two names that look alike would be two
    "\u2028\u2029"  # ends of lines for some readers and not for others
    "\ud800-\udfff"  # halves of letters: how Python holds the bytes of a file name that is no UTF-8
    "\U000e0000-\U000e007f"  # tags, which nothing shows
)
_ANYWHERE, _IN_LINE = re.compile(f"[{_ACTING}]"), re.compile(f"[\t\n{_ACTING}]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
_LATEX = {
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "✓": r"$\checkmark$",
    "–": r"\textendash{}",
    "…": r"\ldots{}",
}
# The last letter that LaTeX's usual fonts have.
_LATIN = 0x17F
# First characters of a cell that a spreadsheet calculates; the wide signs count in East Asian ones.
_FORMULA = "=+-@\t\r\uff1d\uff0b\uff0d\uff20"
_HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")
# Of a link, or of the definition of one that names a scheme.
_LINK = re.compile(r"\](?=[(\[]|:\s*\S*:)")
_MARKED = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)|[*`$]|~(?=~)|:(?=[a-z0-9_+-]+:)|_(?![^\W_])|(?<![^\W_])_|\](?=[(\[:])")


def printable(text: str) -> str:
    r"""Return the text with escapes for every character that acts instead of being seen; its lines stay lines.

    >>> print(printable("red\x1b[31m, bytes \udcff,\n\u202etxt"))
    red\x1b[31m, bytes \udcff,
    \u202etxt
    """
    return _ANYWHERE.sub(_escape, text)


def one_line(text: str) -> str:
    r"""Return :func:`printable` text with line feeds and tabulators escaped too: one line stays one.

    >>> print(one_line("ours\n[2/2] done"))
    ours\n[2/2] done
    """
    return _IN_LINE.sub(_escape, text)


def for_markdown(name: str) -> str:
    r"""Return a name that GitHub's Markdown shows letter by letter, in a table too; HTML and links in it are dead.

    >>> print(for_markdown("a|b <script> [x](javascript:y) **z**"))
    a\|b &lt;script> [x\](javascript:y) \*\*z\*\*
    """
    return _HTML.sub(_entity, _MARKED.sub(r"\\\g<0>", one_line(name))).replace("|", "\\|")


def markdown_prose(text: str) -> str:
    """Return a sentence of the harness, whose emphasis and code stay; HTML and links from a name in it are dead."""
    return _HTML.sub(_entity, _LINK.sub(r"\\]", one_line(text)))


def markdown_code(text: str) -> str:
    """Return the text as code, in enough backticks that nothing in it ends the code."""
    shown = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown else f"`{shown}`"


def for_latex(text: str) -> str:
    r"""Return plain text as LaTeX; letters that LaTeX's fonts lack become question marks.

    >>> for_latex("ours (k=3) & 50 % of _x_")
    'ours (k=3) \\& 50 \\% of \\_x\\_'
    """
    letters = (_LATEX.get(letter) or (letter if ord(letter) <= _LATIN else "?") for letter in one_line(text))
    # Two hyphens would become a dash.
    return "".join(letters).replace("--", "-{}-")


@overload
def for_csv(cell: str) -> str: ...
@overload
def for_csv(cell: Any) -> Any: ...
def for_csv(cell: Any) -> Any:
    """Return a cell that no spreadsheet calculates: a formula gets an apostrophe before it, a number stays one.

    >>> for_csv("=cmd|' /C calc'!A0"), for_csv("-1.5e3"), for_csv(-2.0)
    ("'=cmd|' /C calc'!A0", '-1.5e3', -2.0)
    """
    if not isinstance(cell, str) or not cell.lstrip(" \n").startswith(tuple(_FORMULA)):
        return printable(cell) if isinstance(cell, str) else cell
    with contextlib.suppress(ValueError):
        float(cell)
        return cell
    return f"'{printable(cell)}"


def visible(value: Any) -> Any:
    """Return a template's value, text as :func:`printable`; markup was made of such text and stays as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _escape(match: re.Match[str]) -> str:
    letter = match.group()
    code = ord(letter)
    return _SHORT.get(letter) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def _entity(match: re.Match[str]) -> str:
    return "&lt;" if match.group() == "<" else "&amp;"
