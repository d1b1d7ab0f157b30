"""Publications of the methods and data sets: BibTeX entries and years."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from bench.core import __version__

_REFERENCES = Path(__file__).parent / "references.bib"
# Two names of one paper.
_SAME = {"support-st": "st-protopnet", "ibd-keypoints": "ibd"}


def bibtex(names: Iterable[str]) -> str:
    """Return the entries of PartBench and of the methods and data sets that have one.

    Args:
        names: in the catalogue.
    """
    wanted = dict.fromkeys(["partbench", *(_SAME.get(name, name) for name in names)])
    return "\n".join(_entries()[name] for name in wanted if name in _entries())


def year_of(name: str) -> int | None:
    """Return the year in which a method or data set was published; ``None`` for this project's own.

    Example:
        >>> year_of("protopnet"), year_of("cosine-head")
        (2019, None)
    """
    found = re.search(r"^  year = \{(\d{4})\}", _entries().get(_SAME.get(name, name), ""), re.MULTILINE)
    return int(found[1]) if found else None


@cache
def _entries() -> dict[str, str]:
    text = _REFERENCES.read_text(encoding="utf-8").replace("VERSION", __version__)
    return {found[2]: found[1] for found in re.finditer(r"(@\w+\{([\w-]+),\n.*?^\}\n)", text, re.DOTALL | re.MULTILINE)}
