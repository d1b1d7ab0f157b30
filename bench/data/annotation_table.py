"""``annotations.csv``: boxes and key-points of a user's images, as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from bench.data.base import Box, CheckedNames, box_of_corners
from bench.data.class_folders import nfc
from bench.data.reader_reports import Fault, Faults, fault
from bench.data.text_files import read_text

CURE = "mend the table"
_BOX = ("x", "y", "width", "height")
_SEPARATORS = ",;\t|"
Annotation = tuple[Box | None, tuple[tuple[float, float, bool], ...]]


class AnnotationTable:
    r"""Boxes and key-points of each image.

    The table has a line for each image: ``image`` (its path in the table's folder, with ``/`` or ``\``), a box as ``x,
    y, width, height`` in pixels of the stored image, and for each part ``PART.x, PART.y`` (both empty for a part that
    is not visible). Columns are separated by commas, semicolons, tabs or bars; the text is UTF-8, or UTF-16 or UTF-32
    with its byte order mark. A comma in a number is a decimal comma if it can be nothing else.

    Args:
        file: path of the table.
        images: ids of the images, each of which must have a line.
        faults: collects the problems.

    Attributes:
        parts: part names in the order of their columns.
        provides: ``bbox`` and ``keypoints``, if the table has them.
        rows: annotations by image id.

    Raises:
        RequestError: naming the table, the line and the problem.
    """

    def __init__(self, file: Path, images: Sequence[str], faults: Faults) -> None:
        self.file, self._faults = file, faults
        self.parts: list[str] = []
        self.provides: frozenset[str] = frozenset()
        self.rows: dict[str, Annotation] = {}
        self._exact = set(images)
        # Names that differ in their Unicode form alone are matched if only one of the images has such a name.
        counts = Counter(nfc(name) for name in images)
        self._folded = {nfc(name): name for name in images if counts[nfc(name)] == 1}
        self._commas: list[int] = []
        self._points: list[int] = []
        with faults:
            lines, header, first = self._opened()
            boxed = self._columns(header, first)
            self._read(lines, header, boxed)
            self._complete(images)

    def _fault(self, line: int | None, what: str) -> Fault:
        return fault(self.file, line, what, CURE)

    def _opened(self) -> tuple[Iterator[tuple[int, list[str]]], list[str], int]:
        """Return the lines below the header with their numbers, the header, and its number."""
        try:
            text = read_text(self.file)
        except (OSError, ValueError) as error:
            raise self._fault(None, f"cannot be read as a table ({error})") from error
        # Excel states the separator of a file by a first line such as sep=;
        hint = re.match(r'"?sep=(.)"?[ ;,\t]*(\r\n|\r|\n)', text, re.IGNORECASE)
        first = 2 if hint else 1
        text = text[hint.end() :] if hint else text
        head = next((line for line in text.splitlines() if line.strip()), "")
        separators = {len(row): mark for mark in reversed(_SEPARATORS) if "image" in (row := _fields(head, mark))}
        self._separator = separators[max(separators)] if separators else ","
        lines = self._lines(text, first - 1)
        number, row = next(lines, (first, []))
        return lines, [name.strip() for name in row], number

    def _lines(self, text: str, before: int) -> Iterator[tuple[int, list[str]]]:
        """Yield number and fields of each line that is not empty."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self._separator, strict=True)
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise self._fault(before + reader.line_num, f"cannot be read as a table ({error})") from error
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield before + reader.line_num, row

    def _columns(self, header: list[str], line: int) -> bool:
        """Set the parts and return whether there are boxes."""
        while header and not header[-1]:  # a spreadsheet's empty columns
            header.pop()
        self.parts = [name.removesuffix(".x") for name in header if name.endswith(".x")]
        boxed = "x" in header
        expected = {"image", *(_BOX if boxed else ()), *(f"{part}.{axis}" for part in self.parts for axis in "xy")}
        wrong = sorted(expected.symmetric_difference(header)) or [name for name in header if header.count(name) > 1]
        if wrong:
            self.parts = []
            raise self._fault(
                line,
                f"column {wrong[0]!r} is missing, unknown or twice there (image, {', '.join(_BOX)}, PART.x, PART.y)",
            )
        if not boxed and not self.parts:
            raise self._fault(
                line,
                f"has the column image and no other, so nothing to read (add {', '.join(_BOX)}, or PART.x, PART.y)",
            )
        self.provides = frozenset(["bbox"] * boxed + ["keypoints"] * bool(self.parts))
        return boxed

    def _read(self, lines: Iterable[tuple[int, list[str]]], header: list[str], boxed: bool) -> None:
        """Read all lines below the header."""
        names, strangers, count = CheckedNames(self.file, CURE), list[tuple[int, str]](), 0
        numbers: dict[str, int] = {}
        column = header.index("image")
        for line, row in lines:
            count += 1
            with self._faults:
                while len(row) > len(header) and not row[-1].strip():
                    row.pop()
                written = row[column] if column < len(row) else ""
                name = self._image(written)
                if name is not None:
                    numbers.setdefault(name, line)
                if len(row) != len(header):
                    raise self._fault(line, f"{len(header)} fields belong here")
                fields = dict(zip(header, row, strict=True))
                if name is None:
                    path = written.strip().replace("\\", "/")
                    names.check(path, line)
                    # Images that the folder's reader leaves out, such as those of a third split, may have a line.
                    if not os.path.isfile(self.file.parent / path):  # noqa: PTH113 (names may be too long for a file)
                        strangers.append((line, written))
                    continue
                names.check(name, line)
                self.rows[name] = self._annotation(line, fields, boxed)
        self._seen = set(numbers)
        if strangers and not self._faults.collecting:
            line, name = strangers[0]
            what = f"{len(strangers)} of {count} lines name images" if len(strangers) > 1 else "names an image"
            raise self._fault(line, f"{what} not on disk: {name!r}")
        for line, name in strangers:
            self._faults.report(self._fault(line, f"names an image not on disk: {name!r}"))
        if self._commas and self._points:
            raise self._fault(
                self._commas[0], f"a decimal comma, but line {self._points[0]} has a decimal point: write all alike"
            )
        self._check_scale(numbers)

    def _complete(self, images: Sequence[str]) -> None:
        """Refuse a table in which an image has no line."""
        bare = [name for name in images if name not in self._seen]
        if bare and not self._faults.collecting:
            raise self._fault(None, f"has no line for {bare[0]}" + (f" (nor {len(bare) - 1} more)" if bare[1:] else ""))
        for name in bare:
            self._faults.report(self._fault(None, f"has no line for {name}"))

    def _image(self, written: str) -> str | None:
        """Return the id of the image that a line names."""
        for name in dict.fromkeys((written, written.strip(), written.strip().replace("\\", "/"))):
            path = PurePosixPath(name).as_posix()
            if path in self._exact:
                return path
            if nfc(path) in self._folded:
                return self._folded[nfc(path)]
        return None

    def _annotation(self, line: int, fields: Mapping[str, str], boxed: bool) -> Annotation:
        box = None
        if boxed:
            x, y, width, height = (self._number(line, fields[name], name) for name in _BOX)
            box = box_of_corners(self.file, str(line), x, y, x + width, y + height, CURE)
            if max(x, y, width, height) <= 1 and min(x, y) >= 0:
                raise self._fault(
                    line,
                    f"the box ({x:g}, {y:g}, {width:g}, {height:g}) seems to be in fractions of the image: boxes are "
                    "in pixels of the stored image",
                )
        return box, tuple(self._point(line, fields, part) for part in self.parts)

    def _point(self, line: int, fields: Mapping[str, str], part: str) -> tuple[float, float, bool]:
        if not fields[f"{part}.x"].strip() and not fields[f"{part}.y"].strip():
            return 0.0, 0.0, False
        x, y = (self._number(line, fields[f"{part}.{axis}"], f"{part}.{axis}") for axis in "xy")
        return x, y, True

    def _check_scale(self, numbers: Mapping[str, int]) -> None:
        """Refuse key-points that are all fractions of the image."""
        seen = [
            (line, x, y)
            for name, line in numbers.items()
            for x, y, there in self.rows.get(name, (None, ()))[1]
            if there
        ]
        if seen and all(0 <= x <= 1 and 0 <= y <= 1 for _, x, y in seen):
            line, x, y = seen[0]
            raise self._fault(
                line,
                f"the key-point ({x:g}, {y:g}) and all others seem to be in fractions of the image: key-points are in "
                "pixels of the stored image",
            )

    def _number(self, line: int, text: str, what: str) -> float:
        plain = text.strip()
        if "," in plain:
            # Between semicolons a comma is a decimal comma; with other separators 1,234 may be a thousand.
            clear = r"[+-]?\d*,\d+" if self._separator == ";" else r"[+-]?\d*,(\d{1,2}|\d{4,})"
            if not re.fullmatch(clear, plain):
                raise self._fault(line, f"{what} {text!r} may be read in two ways: write it with a decimal point")
            self._commas.append(line)
            plain = plain.replace(",", ".")
        elif "." in plain:
            self._points.append(line)
        try:
            value = float(plain) if "_" not in plain else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._fault(line, f"{what} {text!r} is not a finite number")
        return value


def _fields(line: str, separator: str) -> list[str]:
    """Return the fields of a line; none if the separator does not divide it."""
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=separator, strict=True), [])]
    except csv.Error:
        return []
