"""Text files that people write with their own programs: UTF-8 with or without a mark, UTF-16 and UTF-32."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(file: Path) -> str:
    """Return the content of a text file, without its byte order mark; line ends stay as they are.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no text in one of these encodings, with the cause and the cure.
    """
    data = file.read_bytes()
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "")
    if not encoding and len(data) > 1 and 0 in data[:2] and any(data[:2]):
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"  # without a mark, beginning with a Latin letter
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding and encoding != "utf-8-sig":
            raise ValueError(f"it begins as {encoding.upper()} but continues in another encoding") from error
        number = data.count(b"\n", 0, error.start) + 1
        line = data.splitlines()[number - 1][:60].decode("cp1252", "replace")
        # A code page of Windows is not guessed: names would silently become others.
        raise ValueError(
            f"line {number} holds the byte 0x{data[error.start]:02x}, which is not UTF-8 (in Windows' code page 1252 "
            f"the line is {line!r}): save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError("it holds NUL characters, so it is no text")
    return text
