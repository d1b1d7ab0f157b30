"""Figure with the texts that belong to it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.core.errors import RequestError
from bench.core.plain_text import one_line
from bench.report.plots.style import darken, styled, tame
from bench.results.cell_record import CellRecord, in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Without dates and versions in it, the same store gives the same bytes.
_OPTIONS: dict[str, dict[str, Any]] = {
    "pdf": {"metadata": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": "partbench"}},
    "svg": {"metadata": {"Date": None, "Creator": "partbench"}},
    "png": {"metadata": {"Software": None}},
    # Photographs take a tenth of the space of a PNG, and letters stay sharp.
    "webp": {"pil_kwargs": {"quality": 90}},
}
FORMATS = tuple(_OPTIONS)


class Missing(NamedTuple):
    """Missing part of a figure: its name, the reason, and the command that would produce it, if one would."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Attributes:
        name: name of its files, without the extension.
        title: one line.
        caption: how it was computed, from which cells, and which parts are missing.
        alt: description, for those who cannot see it.
        figure: matplotlib's figure.
        cells: ids of the cells that it was drawn from.
        missing: the parts that would complete it; the caption names them without the commands.
        guide: how to read figures of this kind; a page prints it once for all of them.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    cells: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    guide: str = ""

    def save(self, folder: Path, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
        """Write a file ``name.format`` for each format, and return the files.

        Raises:
            RequestError: for a format that is not one of ``FORMATS``, or a folder that cannot be written.
        """
        unknown = [one for one in formats if one not in FORMATS]
        if unknown:
            raise RequestError(f"unknown picture format {unknown[0]!r}: write {', '.join(FORMATS)}")
        files = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with styled():
                tame(self.figure)
                # The layout is worked out once; it is the same in every format.
                self.figure.draw_without_rendering()
                self.figure.set_layout_engine("none")
                for one in formats:
                    files.append(folder / f"{self.name}.{one}")
                    self.figure.savefig(files[-1], format=one, **_OPTIONS[one])
        except OSError as error:
            raise RequestError(
                f"{error.filename or folder}: {error.strerror or error}; choose another folder"
            ) from error
        return files

    def save_text(self, folder: Path) -> Path:
        """Write title, caption and alt text to ``name.txt``, for the page on which the figure is printed."""
        parts = {"": self.title, "Caption: ": f"{self.caption} {self.guide}".strip(), "Alt text: ": self.alt}
        file = folder / f"{self.name}.txt"
        file.write_text("\n\n".join(word + one_line(text) for word, text in parts.items()) + "\n", encoding="utf-8")
        return file

    def darkened(self) -> Drawing:
        """Recolour the figure itself for a dark page, and return it under another name; save it before."""
        darken(self.figure)
        return replace(self, name=f"{self.name}-dark")

    @property
    def smallest_letters(self) -> float:
        """Return the size of the smallest letters of a saved figure, in points."""
        from matplotlib.text import Text

        return min(text.get_fontsize() for text in self.figure.findobj(Text) if text.get_text())


def repeated(
    cell: CellRecord, settings: Mapping[str, Any], backbones: str | None = None, method: str | None = None
) -> str:
    """Return the command that runs a cell's method, or another, on the same data with other settings.

    Args:
        cell: to take data, recipe, seed and weights from.
        settings: dotted names as ``--set`` takes them.
        backbones: instead of the cell's own; their weights are not known then.
        method: instead of the cell's own.
    """
    spec, where = cell.spec, cell.written["where"]
    words = ["python", "-m", "bench", "run", "--methods", method or spec["method"], "--datasets", spec["dataset"]]
    if where.get("data_root"):
        words += ["--data-root", where["data_root"]]
    if backbones or spec["backbone"]:
        words += ["--backbones", backbones or spec["backbone"]]
    if where.get("weights") and backbones is None:
        words += ["--weights", f"{spec['backbone']}={where['weights']}"]
    if cell.written.get("recipe"):
        words += ["--recipe", cell.written["recipe"]]
    if spec["seed"]:
        words += ["--seeds", str(spec["seed"])]
    for name, value in settings.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def state_of(cells: Sequence[CellRecord]) -> str:
    """Describe the state of unfinished cells of one kind: failed and why, not finished, or never requested."""
    failed = [cell.state for cell in cells if cell.failure is not None]
    return failed[0] if failed else in_words("missing") if cells else "not run"
