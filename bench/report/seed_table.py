"""Table of how far the trainings of a method with several seeds agree."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.table import Column, Row, Table, Word
from bench.results.aggregate import Entry
from bench.results.stats.seed_agreement import Agreement

_COLUMNS = (
    Column("seeds", words=True),
    Column("parts", "%"),
    Column("chance", "%"),
    Column("above chance", words=True),
    Column("places", "%"),
    Column("chance", "%", group="of places"),
    Column("above chance", group="of places", words=True),
)


def seed_table(found: Sequence[Agreement]) -> Table:
    """Return a row for each method whose seeds were compared."""
    rows = []
    for one in found:
        places = (
            Word(", ".join(map(str, one.seeds))),
            Entry("ok", one.parts),
            Entry("ok", one.parts_chance),
            _difference(one.parts - one.parts_chance, one.above),
            Entry("ok", one.places),
            Entry("ok", one.places_chance),
            _difference(one.places - one.places_chance, one.place_above),
        )
        values = {column.key: place for column, place in zip(_COLUMNS, places, strict=True)}
        rows.append(Row(f"{one.row.first.dataset}: {one.row.label}", values, one.row.role, one.row.backbone))
    facts = (
        "parts: prototypes that a best matching of two seeds pairs with one that hits the same part most often",
        "chance of parts: the same with the prototypes of other classes",
        "places: images in which matched prototypes peak within the region's half side; chance: each image's peaks "
        "against those of the next image of its class",
        "intervals of 95 % are over classes: about other classes, not about further seeds",
    )
    return Table("agreement of seeds", _COLUMNS, tuple(rows), ("method", "backbone"), facts=facts)


def _difference(value: float, ends: tuple[float, float] | str) -> Word:
    """Return a difference with its interval, or the reason why it has none."""
    return Word(f"{value:+.1f} ({ends if isinstance(ends, str) else f'{ends[0]:+.1f} to {ends[1]:+.1f}'})")
