"""Folding of tables that are wider than the page: groups of columns beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def fold(pieces: Iterable[Sequence[int]], sizes: Sequence[int], room: int) -> list[list[int]]:
    """Return pieces of columns that fit beside each other, in their order; one wider than the room is alone.

    Args:
        pieces: columns that stay together.
        sizes: width of each column, with the blanks beside it.
        room: width for all of them.
    """
    found: list[list[int]] = [[]]
    for piece in pieces:
        if found[-1] and sum(sizes[one] for one in [*found[-1], *piece]) > room:
            found.append([])
        found[-1] += piece
    return found
