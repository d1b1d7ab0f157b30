"""Species: the variant (shape, colour, pattern) of each part of a bird.

Every variant belongs to several species, so that the combination of parts identifies a species and no single part
does.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

COLOURS: dict[str, tuple[int, int, int]] = {
    "slate": (86, 110, 146),
    "olive": (134, 146, 70),
    "umber": (156, 108, 74),
    "teal": (40, 136, 142),
    "crimson": (214, 44, 52),
    "golden": (247, 190, 38),
    "violet": (134, 74, 178),
    "black": (40, 38, 46),
    "white": (248, 246, 238),
    "cream": (246, 230, 198),
    "lemon": (250, 222, 96),
    "rosy": (240, 156, 140),
    "rust": (198, 96, 48),
    "orange": (244, 132, 36),
    "coral": (232, 104, 84),
    "coal": (58, 56, 62),
    "sky": (126, 200, 238),
}


@dataclass(frozen=True)
class Species:
    """Species, part by part. Colours are keys of `COLOURS`.

    Attributes:
        name: Its name as in the file tree, without the number.
        upper: Back, nape, sides and the ground colour of the wings.
        crown: Colour of the crown and forehead, and `crest` its shape: cap, peak, tuft or mohawk.
        mask: Whether a black stripe runs through the eye.
        ring: Colour of the ring round the eye, or None.
        beak: Shape of the beak: cone, needle, hook or sickle; `beak_colour` its colour.
        throat: Colour of the throat.
        breast: Ground colour of the breast; `marks` its pattern: plain, streaks, spots or band.
        belly: Colour of the belly.
        wing: Pattern of the wing: bars, patch, scales or spots, in the colour `accent`.
        tail: Shape of the tail: square, fork, fan, streamer or wedge; `tip` the colour of its end, or None.
        legs: Colour of the legs.
    """

    name: str
    upper: str
    crown: str
    crest: str
    mask: bool
    ring: str | None
    beak: str
    beak_colour: str
    throat: str
    breast: str
    marks: str
    belly: str
    wing: str
    accent: str
    tail: str
    tip: str | None
    legs: str


# Name, then the fields in the order of `Species`; "-" for none.
_ROWS = """
Crimson_crested_Streakling slate crimson peak - white cone orange white cream streaks cream bars white fork - coral
Golden_capped_Bandit olive golden cap mask - needle coal lemon cream plain lemon bars white square white coal
Ruby_throated_Plumelet umber violet tuft - golden needle coal crimson cream spots cream patch golden fan - coral
Black_hooded_Hookbill teal black cap - golden hook orange crimson rosy plain rust scales white streamer white golden
White_crowned_Sicklebill slate white mohawk mask - sickle orange black lemon band lemon patch golden wedge - golden
Scarlet_capped_Thrushling umber crimson cap - white cone golden lemon cream spots rust bars sky square rust coal
Violet_plumed_Lakebird teal violet peak mask - sickle coal white rosy streaks cream spots white fan white coral
Golden_crested_Bandbreast slate golden mohawk - golden hook coal crimson cream band rust spots sky fork rust coal
Black_tufted_Streamertail olive black tuft - white cone golden black lemon streaks lemon scales golden streamer - golden
White_peaked_Rosebreast umber white peak mask - needle golden white rosy spots cream patch sky wedge rust coral
Crimson_tufted_Marshbird teal crimson tuft - golden sickle golden lemon lemon plain cream bars golden square - coal
Violet_capped_Hookbill slate violet cap - white hook golden white rosy band lemon scales white fan white golden
Golden_plumed_Glenbird umber golden peak mask - cone coal black cream streaks rust spots white wedge white coral
Black_crested_Fernbird olive black mohawk - golden needle orange crimson rosy plain cream bars sky fork rust coal
White_tufted_Rustbelly teal white tuft mask - hook coal black cream spots rust patch golden square white golden
Scarlet_maned_Olivet olive crimson mohawk - white sickle orange white lemon band lemon scales sky streamer rust coral
"""


def _read(row: str) -> Species:
    values = {field.name: text for field, text in zip(fields(Species), row.split(), strict=True)}
    named: dict[str, Any] = {name: None if text == "-" else text for name, text in values.items()}
    return Species(**{**named, "mask": values["mask"] == "mask"})


SPECIES: tuple[Species, ...] = tuple(_read(row) for row in _ROWS.strip().splitlines())
