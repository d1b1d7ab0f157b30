"""Orders of class folders: the ways in which training scripts assign a classifier's rows to them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from bench.contract import RequestError

TIMM, TORCHVISION = "timm", "torchvision"


def arranged(names: Sequence[str], order: str) -> list[str]:
    """Return class names as a library numbers their folders.

    Args:
        names: names of the folders.
        order: ``timm``: natural sort in lower case (``2`` before ``10``, ``beagle`` before ``Bengal``), as its own
            training script reads folders; ``torchvision``: by code points (``10`` before ``2``, ``Bengal`` before
            ``beagle``), as ``ImageFolder`` does.

    Raises:
        RequestError: if timm leaves the order of two names to chance.
    """
    if order == TORCHVISION:
        return sorted(names)
    from timm.utils.misc import natural_key

    try:
        keyed = sorted((natural_key(name), name) for name in names)
    except ValueError as error:  # int() refuses digits such as a superscript two
        raise RequestError(f"timm cannot number these class folders ({error}); give --class-order FILE") from error
    for (before, first), (after, second) in pairwise(keyed):
        if before == after:
            raise RequestError(
                f"timm numbers {first} and {second} by chance, for they differ only in capitals or leading zeros: give "
                "--class-order FILE, with one name per line in the order of the classifier's rows"
            )
    return [name for _, name in keyed]


def spelled(lines: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Return the names of a list in the folders' spelling: Unicode can store the same accents in two ways."""
    known = {unicodedata.normalize("NFC", name): name for name in folders}
    return [known.get(unicodedata.normalize("NFC", line), line) for line in lines]


def rows(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the row of each label in each other order of the classes.

    Returns:
        ``timm`` and ``torchvision``, if they exist and differ from the labels; ``from 1``: labels that are one too
        large; ``from 0``: one too small.
    """
    given = list(names)
    ways = {}
    for order in (TIMM, TORCHVISION):
        try:
            row_of = {name: row for row, name in enumerate(arranged(given, order))}
        except RequestError:
            continue
        if len(row_of) == len(given) and list(row_of) != given:
            ways[order] = [row_of[name] for name in given]
    ways["from 1"] = [label - 1 for label in range(len(given))]
    ways["from 0"] = [label + 1 for label in range(len(given))]
    return ways
