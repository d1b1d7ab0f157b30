"""Style of the project's pictures: colours, fonts and sizes in one place. Nothing here imports torch.

The first seven colours are those of Okabe and Ito (Color Universal Design, 2008) without black; the other three come
from Tol's muted scheme (SRON/EPS/TN/09-002). Numbers beside the colours repeat the same, for readers who cannot
distinguish two of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.core.errors import RequestError
from bench.core.plain_text import printable
from bench.core.registry import nearest, quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERMILLION, BLUE, GREEN, ORANGE = "#D55E00", "#0072B2", "#009E73", "#E69F00"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
PALETTE = (VERMILLION, BLUE, ORANGE, GREEN, SKY, PURPLE, YELLOW, "#882255", "#332288", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
TEXT, MUTED, RULE = "#1A1A1A", "#595959", "#D0D0D0"
DARK = {"#ffffff": "#14171b", "#1a1a1a": "#e7e9ec", "#595959": "#a9b1bc", "#d0d0d0": "#363d47", "#000000": "#e7e9ec"}
"""White, black and greys -> those of a dark page, with the same contrast; the other colours read on both."""
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a picture is the same everywhere
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": TEXT,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.0,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # letters stay letters
    "svg.hashsalt": "partbench",
}


def colour(number: int) -> str:
    """Return the colour of the prototype or method of that number from 0; after the last one they come again."""
    return PALETTE[number % len(PALETTE)]


def ink(background: str) -> str:
    """Return black or white, the one that reads better on a colour (WCAG 2 relative luminance).

    >>> ink(BLUE), ink(YELLOW)
    ('white', 'black')
    """
    channels = [int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    # Equal contrast to both: (l + 0.05) / 0.05 = 1.05 / (l + 0.05).
    return "black" if luminance > 0.179 else "white"


class Page(NamedTuple):
    """Wishes of a publication: width in inches (by default each figure's own), title, font family."""

    width: float | None = None
    titled: bool = True
    font: str = ""


_OWN = Page()
_page: ContextVar[Page] = ContextVar("page", default=_OWN)
# Narrowest panel beside another one, in inches: the names of controls at its right need 0.7 of them.
_NARROWEST = 2.2


@contextlib.contextmanager
def on_page(page: Page) -> Iterator[None]:
    """Draw and save figures inside for a publication.

    Raises:
        RequestError: if this machine has no such font.
    """
    from matplotlib.font_manager import findfont, get_font_names

    _own_fonts_first()
    try:
        findfont(page.font or "DejaVu Sans", fallback_to_default=False)
    except ValueError as error:
        raise RequestError(f"no font {quoted(page.font)}{nearest(page.font, get_font_names())}") from error
    token = _page.set(page)
    try:
        yield
    finally:
        _page.reset(token)


@functools.cache
def _own_fonts_first() -> None:
    """Let matplotlib's copy of DejaVu Sans go before the machine's, which may be of another version."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    own = {str(file) for file in Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuSans*.ttf")}
    # The list may be another program's, whose matplotlib came without fonts: all of a user's programs share one file.
    for file in sorted(own - {font.fname for font in fontManager.ttflist}):
        fontManager.addfont(file)
    fontManager.ttflist.sort(key=lambda font: font.fname not in own)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside: the settings hold here and nowhere else."""
    import matplotlib

    _own_fonts_first()
    font = _page.get().font
    with matplotlib.rc_context({**_SETTINGS, **({"font.family": font} if font else {})}):
        yield


def panels_across(columns: int, side: float, margin: float) -> tuple[int, float]:
    """Return how many panels are beside each other, and the width of each, in inches.

    Args:
        columns: the most panels, and as many as there are without a page.
        side: width of a panel without a page.
        margin: inches beside the panels.
    """
    width = _page.get().width
    if width is None:
        return columns, side
    columns = max(1, min(columns, int(width / _NARROWEST)))
    return columns, (width - margin) / columns


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return a page of so many inches, which belongs to no window system and no global state, with its title.

    On a page of another width it is scaled to it; :func:`tame` scales its letters.
    """
    from matplotlib.figure import Figure

    page = _page.get()
    scale = page.width / width if page.width else 1.0
    figure = Figure(figsize=(width * scale, height * scale), layout="constrained", facecolor="white")
    figure.letters = scale  # type: ignore[attr-defined]
    if title and page.titled:
        # Labels of cells name every changed setting, and backbones their library and variant, so titles wrap.
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", wrap=True)
    return figure


def tame(figure: Figure) -> None:
    """Make every text of a figure plain: no mathematics in names, no control characters, nor in the ids of an SVG.

    The letters of a figure that was scaled to a page are scaled with it, once.
    """
    from matplotlib.text import Text

    scale, figure.letters = getattr(figure, "letters", 1.0), 1.0  # type: ignore[attr-defined]
    for artist in figure.findobj():
        if isinstance(artist, Text):
            if abs(scale - 1) > 1e-6:
                artist.set_fontsize(artist.get_fontsize() * scale)
            artist.set_parse_math(False)
            artist.set_text(printable(artist.get_text()))
        if artist.get_gid() is not None:
            artist.set_gid(printable(artist.get_gid()))


def darken(figure: Figure) -> None:
    """Recolour a figure for a dark page: texts, axes and paper; marks on photographs and letters on discs stay."""
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    def dark(colour: Any) -> Any:
        seen = colour != "none" and (isinstance(colour, str) or tuple(colour[3:]) != (0.0,))
        return DARK.get(to_hex(colour), colour) if seen else colour

    for artist in figure.findobj():
        on_photograph = bool(getattr(artist.axes, "images", ()))
        if isinstance(artist, Text):
            if artist.get_bbox_patch() is None:
                artist.set_color(dark(artist.get_color()))
        elif isinstance(artist, Line2D) and not on_photograph:
            artist.set_color(dark(artist.get_color()))
        elif isinstance(artist, Patch) and not on_photograph:
            artist.set_facecolor(dark(artist.get_facecolor()))
            artist.set_edgecolor(dark(artist.get_edgecolor()))


def picture_only(axes: Axes) -> None:
    """Remove ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def blank(axes: Axes) -> None:
    """Turn axes into an empty space for text, from 0 to 1 on both sides."""
    picture_only(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def numbered(axes: Axes, x: float, y: float, number: int, size: float = 7.0, inside: bool = True) -> Any:
    """Draw the number of a prototype, from 0, on a disc of its colour; it is printed counting from 1."""
    fill = colour(number)
    return axes.text(
        x, y, str(number + 1), fontsize=size, color=ink(fill), ha="center", va="center", fontweight="bold",
        clip_on=inside, bbox={"boxstyle": "circle,pad=0.22", "facecolor": fill, "edgecolor": "white", "linewidth": 0.7},
    )  # fmt: skip
