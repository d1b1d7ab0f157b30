"""Words and digits of each place of a sheet, independent of the output format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report.fold import fold
from bench.report.sheet import Field, Role, Sheet

NOTHING = "–"
_WORDS = {"oom": "OOM"}


@dataclass(frozen=True)
class Shown:
    """One place of a sheet.

    Attributes:
        head: the number, a word, or nothing.
        tail: text after a number: deviation or difference.
        notes: numbers of its footnotes.
        best: whether it is emphasised.
        number: whether ``head`` has decimals to line up.
    """

    head: str
    tail: str = ""
    notes: tuple[int, ...] = ()
    best: bool = False
    number: bool = False

    @property
    def text(self) -> str:
        """Text without footnotes and emphasis."""
        return self.head + self.tail


@dataclass(frozen=True)
class Printed:
    """One printed row: measured values, or the paper's below them.

    Attributes:
        below: whether it belongs to the row above it.
    """

    name: str
    role: Role
    below: bool
    places: tuple[Shown, ...]


def printed(sheet: Sheet) -> list[Printed]:
    """Return the rows of a sheet as they are printed: the paper's numbers follow the measured ones."""
    return [one for row in sheet.rows for one in _rows(row.name, row.role, row.fields)]


def sections(rows: list[Printed]) -> list[list[Printed]]:
    """Return rows with a rule between neighbours of different roles."""
    found: list[list[Printed]] = []
    for row in rows:
        if found and found[-1][-1].role == row.role:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def parts(sheet: Sheet, sizes: Sequence[int], stub: int, width: int) -> list[list[int]]:
    """Return columns that fit beside each other and the rows' names; groups are kept together.

    Args:
        sheet: sheet with the columns.
        sizes: width of each column, with the blanks beside it.
        stub: width of the names.
        width: total width; a group that is wider is alone.
    """
    pieces: list[list[int]] = []
    place = 0
    for name, count in sheet.groups:
        group = list(range(place, place + count))
        pieces += [group] if name else [[one] for one in group]
        place += count
    return fold(pieces, sizes, width - stub)


def has_best(sheet: Sheet) -> bool:
    """Return whether some place is emphasised."""
    return any(field.entry is not None and field.entry.best for row in sheet.rows for field in row.fields)


def _rows(name: str, role: Role, fields: tuple[Field, ...]) -> Iterator[Printed]:
    title = f"{name} ({role})" if role in ("reference", "control") else name
    measured = any(field.entry is not None for field in fields)
    published = any(field.published is not None for field in fields)
    if measured or not published:
        yield Printed(title, role, False, tuple(map(_measured, fields)))
    if any(field.entry is not None and field.entry.low is not None for field in fields):
        yield Printed("95 % interval", role, True, tuple(map(_interval, fields)))
    if published:
        differs = any(field.difference is not None for field in fields)
        below = "paper (difference)" if differs else "paper"
        yield Printed(below if measured else f"{title} (paper)", role, measured, tuple(map(_published, fields)))


def _measured(field: Field) -> Shown:
    entry = field.entry
    if entry is None:
        return Shown(NOTHING)
    if entry.value is None:
        return Shown(_WORDS.get(entry.status, entry.status), notes=entry.notes)
    if field.tolerance is not None:
        return Shown(f"{_tick(field.holds)} {_residual(entry.value, field.tolerance)}", notes=entry.notes)
    spread = "" if entry.spread is None else f" ± {entry.spread:{field.digits.lstrip('+')}}"
    return Shown(_number(entry.value, field.digits), spread, entry.notes, entry.best, True)


def _interval(field: Field) -> Shown:
    entry = field.entry
    if entry is None or entry.low is None or entry.high is None:
        return Shown("")
    return Shown(f"[{_number(entry.low, field.digits)}, {_number(entry.high, field.digits)}]")


def _published(field: Field) -> Shown:
    said = field.published
    if said is None:
        return Shown("")
    if said.value is None:
        return Shown("OOM" if said.status == "oom" else NOTHING)
    if field.tolerance is not None:
        other = field.holds is not None and field.holds != bool(said.value)
        return Shown(_tick(bool(said.value)), " (differs)" if other else "")
    difference = "" if field.difference is None else f" ({_number(field.difference, '+.1f')})"
    return Shown(_number(said.value, field.digits), difference, number=True)


def _tick(holds: bool | None) -> str:
    return "✓" if holds else "×"


def _number(value: float, digits: str) -> str:
    """Format with a true minus sign, and without one before a number that rounds to zero."""
    text = format(value, digits)
    if float(text) == 0:
        text = format(0.0, digits)
    return text.replace("-", "−")


def _residual(value: float, tolerance: float) -> str:
    """Format with as many digits as show on which side of the tolerance it is."""
    form = "f" if value == 0 or value >= 0.01 else "e"
    texts = (format(value, f".{digits}{form}") for digits in range(2 if form == "f" else 0, 17))
    return next(text for text in texts if value <= tolerance or float(text) > tolerance)
