"""Tables in MATLAB files, as Stanford Cars, Stanford Dogs and ImageNet annotate their images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.reader_reports import fault, gone


def column(file: Path, variable: str) -> NDArray[Any]:
    """Return a variable of the file as a row of values.

    Raises:
        RequestError: if the file is missing, is no MATLAB file, or has no such variable.
    """
    from scipy.io import loadmat  # half a second

    try:
        # Opened before: loadmat reports a missing file as another error.
        with file.open("rb") as stream:
            content = loadmat(stream, squeeze_me=True, chars_as_strings=True, variable_names=[variable])
    except FileNotFoundError:
        raise gone(file, "the folder passed must be the data set's whole folder") from None
    except Exception as error:  # broken bytes lead the reader into any error
        raise fault(file, None, f"cannot be read as a MATLAB file ({type(error).__name__}: {error})") from error
    if variable not in content:
        raise fault(file, None, f"has no variable {variable!r}")
    return np.atleast_1d(content[variable])


def entries(file: Path, variable: str, fields: tuple[str, ...]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name of each entry of a table, and the values of the fields.

    Raises:
        RequestError: if a field is missing.
    """
    table = column(file, variable)
    missing = [name for name in fields if name not in (table.dtype.names or ())]
    if missing:
        raise fault(file, None, f"{variable} has no field {missing[0]!r}")
    for number, row in enumerate(table, 1):
        yield f"entry {number}", [row[name] for name in fields]


def whole_number(file: Path, place: str, value: Any, what: str, most: int) -> int:
    """Return a whole number from 1 to ``most``.

    Raises:
        RequestError: for anything else.
    """
    value = value.item() if isinstance(value, np.generic) else value
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if number != value or not 1 <= number <= most:
        raise fault(file, place, f"{what} {value!r} is not a whole number from 1 to {most}")
    return number
