"""Tables that are wider than the page: which columns stand beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def fold(pieces: Iterable[Sequence[int]], sizes: Sequence[int], room: int) -> list[list[int]]:
    """Pieces of columns that fit beside each other, in their order; one that is wider than the room stands alone.

    Args:
        pieces: columns that stay together.
        sizes: of each column, with the blanks beside it.
        room: for all of them.
    """
    found: list[list[int]] = [[]]
    for piece in pieces:
        if found[-1] and sum(sizes[one] for one in [*found[-1], *piece]) > room:
            found.append([])
        found[-1] += piece
    return found
