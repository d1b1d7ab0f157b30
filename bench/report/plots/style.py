"""Style of the project's pictures: colours, fonts and sizes in one place. Nothing here imports torch.

The first seven colours are those of Okabe and Ito (Color Universal Design, 2008) without black; the other three come
from Tol's muted scheme (SRON/EPS/TN/09-002). Numbers beside the colours repeat the same, for readers who cannot
distinguish two of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.core.plain_text import printable

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


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside: the settings hold here and nowhere else."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return a page of so many inches, which belongs to no window system and no global state, with its title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if title:
        # Labels of cells name every changed setting, and backbones their library and variant, so titles wrap.
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", wrap=True)
    return figure


def tame(figure: Figure) -> None:
    """Make every text of a figure plain: no mathematics in names, no control characters, nor in the ids of an SVG."""
    from matplotlib.text import Text

    for artist in figure.findobj():
        if isinstance(artist, Text):
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
