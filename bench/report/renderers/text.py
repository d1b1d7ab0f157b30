"""Tables for a terminal: numbers are never cut, decimals are below each other."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import rich.table
from rich import box
from rich.cells import cell_len

from bench.core.console import Console, Text
from bench.report.table import Table
from bench.report.table_layout import Layout, Shown, fold, layout, shortened

_SUPERSCRIPT = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
# Characters that names and backbones get at least if they need them; blanks between columns; longest whole heading.
_NAMES, _GAP, _LONG = (15, 10), 2, 14


def as_text(tables: Sequence[Table], console: Console) -> None:
    """Print the tables, the best of a column with a star; columns that find no room continue below.

    The settings of long labels are listed under the table. The console's width decides about folding.
    """
    for table in map(shortened, tables):
        console.print(Text(table.title, style="bold"))
        beside, below = _Grid(layout(table, True)), None
        if table.foldable and beside.width > console.width:
            below = _Grid(layout(table, False))
        grid = below or beside
        for columns in grid.parts(console.width - 1) if table.foldable else [list(range(len(table.columns)))]:
            grid.show(columns, console)
        remarks = [("! ", text, "yellow") for text in table.cautions]
        remarks += [("", "", "")] if remarks else []
        remarks += [(f"{raised((number,))} ", note, "dim") for number, note in enumerate(grid.layout.notes, 1)]
        remarks += [("* ", "best of the methods", "dim")] * table.has_best
        remarks += [("  ", text, "dim") for text in table.facts]
        for mark, text, style in remarks:
            console.print(Text(_hanging(mark, text, console.width), style=style))
        for text in table.missing:
            # A command in one piece can be copied, however long it is.
            console.print(Text(f"- {text}"), soft_wrap=True)
        console.print()


class _Grid:
    """A layout as padded texts: ``names`` are columns of words on the left of each part."""

    def __init__(self, found: Layout) -> None:
        self.layout = found
        names = [[("  " * line.below if not place else "") + line.names[place] for line in found.lines]
                 for place in range(len(found.stub))]  # fmt: skip
        self.names = [[heading, *column] for heading, column in zip(found.stub, names, strict=True)]
        self.columns = [self._column(place) for place in range(len(found.columns))]
        self.sizes = [max(map(cell_len, "\n".join(column).split("\n"))) + _GAP for column in self.columns]
        self.whole = [max(map(cell_len, names)) + _GAP for names in self.names]
        self.width = sum(self.whole) + sum(self.sizes)

    def _column(self, place: int) -> list[str]:
        """Return heading and texts of a column; group, name and unit of the heading are on lines of their own."""
        column = self.layout.columns[place]
        texts = aligned([line.places[place] for line in self.layout.lines], ("", "*"))
        if column.words:
            return [column.name, *map(str.strip, texts)]
        # The name of a group is above its first column.
        first = not place or self.layout.columns[place - 1].group != column.group
        heading = [column.group * first] if any(name for name, _ in self.layout.groups) else []
        heading += re.split(r"(?<=_)", column.name) if len(column.name) > _LONG else [column.name]
        heading += [column.unit] if column.unit else []
        width = max(map(cell_len, [*heading, *texts]))
        # Padded here: rich drops the blanks at the end of right-aligned text, and with them the alignment.
        return ["\n".join(fill(text, width, right=True) for text in heading),
                *(fill(text, width, right=True) for text in texts)]  # fmt: skip

    def parts(self, width: int) -> list[list[int]]:
        """Return the columns of each part; names are broken where that saves a part."""
        least = [min(whole, most + _GAP) for whole, most in zip(self.whole, _NAMES, strict=False)]
        whole, narrow = (fold(self.layout.pieces, self.sizes, width - sum(names)) for names in (self.whole, least))
        return narrow if len(narrow) < len(whole) else whole

    def show(self, columns: Sequence[int], console: Console) -> None:
        """Print a part; if it does not fit, lines are broken at blanks, then long words at underscores too."""
        table = rich.table.Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        texts = [*self.names, *(self.columns[place] for place in columns)]
        words = [True] * len(self.names) + [self.layout.columns[place].words for place in columns]
        widths = [max(map(cell_len, "\n".join(column).split("\n"))) for column in texts]
        for broken in (r"(?!)", r"_(?=.)"):
            excess = sum(widths) + _GAP * len(widths) - console.width
            if excess > 0:
                for place in (place for place, word in enumerate(words) if word):
                    room = widths[place] - excess
                    texts[place] = [_broken(text, broken, room) for text in texts[place]]
                    widths[place] = max(cell_len(word) for text in texts[place] for word in text.split() or [""])
        for column, width in zip(texts, widths, strict=True):
            # A column at its least width does not count as one to be narrowed: rich would try it in place of another,
            # which then stays too wide, and cut off the last column.
            whole = max(map(cell_len, "\n".join(column).split("\n"))) == width
            table.add_column(Text(column[0]), no_wrap=whole, vertical="bottom", min_width=width)
        lines = self.layout.lines
        for number, line in enumerate(lines, 1):
            if not any(line.places[place].text for place in columns):
                continue  # the paper has nothing in these columns
            last = number == len(lines) or lines[number].role != line.role
            styles = [""] * len(self.names) + ["bold" * line.places[place].best for place in columns]
            cells = (Text(column[number], style="dim" if line.below else style)
                     for column, style in zip(texts, styles, strict=True))  # fmt: skip
            table.add_row(*cells, end_section=last)
        least = sum(widths) + _GAP * len(widths)
        # Where the console is narrower than the numbers, it wraps the lines itself: nothing is cut off.
        table.width = least if least > console.width else None
        console.print(table, soft_wrap=table.width is not None)


def _broken(text: str, at: str, room: int) -> str:
    """Break words that are longer than the room behind each place of a pattern."""
    return " ".join(re.sub(at, "_\n", word) if cell_len(word) > room else word for word in text.split(" "))


def aligned(places: Sequence[Shown], mark: tuple[str, str]) -> list[str]:
    """Align decimals below each other, with the text after a number behind; a word is at the right edge.

    Args:
        places: a column from top to bottom.
        mark: letters before and behind the best number.
    """
    before, after = mark if any(place.best for place in places) else ("", "")
    parts: list[tuple[str, str | None]] = []
    for place in places:
        notes = f" {raised(place.notes)}" if place.notes else ""
        if not place.number:
            parts.append((f"{place.text}{notes}", None))
            continue
        # A number that is not the best leaves room for the mark before its deviation.
        behind = after if place.best else " " * len(after) * bool(place.tail)
        parts.append((f"{before * place.best}{place.head}", f"{behind}{place.tail}{notes}"))
    widest = max((cell_len(tail) for _, tail in parts if tail is not None), default=0)
    texts = [head if tail is None else head + fill(tail, widest) for head, tail in parts]
    width = max(map(cell_len, texts), default=0)
    return [fill(text, width, right=True) for text in texts]


def fill(text: str, width: int, right: bool = False) -> str:
    """Pad a text to a width on the screen."""
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def raised(notes: tuple[int, ...]) -> str:
    """Return numbers of footnotes as superscripts."""
    return ",".join(map(str, notes)).translate(_SUPERSCRIPT)


def _hanging(mark: str, text: str, width: int) -> str:
    """Wrap a paragraph, its later lines beginning below the first word."""
    return textwrap.fill(text, width, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)
