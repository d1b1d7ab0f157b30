"""Rows of a head of ImageNet's 1,000 classes for a data set that has some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from bench.contract import RequestError
from bench.core.imagenet_classes import HeadClasses, rows_of, wnids

Head = tuple[Tensor, Tensor]


def head_for(names: Sequence[str], which: HeadClasses, read: Callable[[int], Head]) -> Head:
    """Return weight ``(C, D)`` and bias ``(C,)`` of a head whose first rows are those of the data set's classes.

    A head of exactly these classes is taken as it is. Of a head of the 1,000 classes, rows are found by WordNet id.

    Args:
        names: class names of the data set, in the order of its labels.
        which: ``present``: C is the number of names; ``all``: C is 1,000, the rows of absent classes come last, so that
            the labels remain those of the data set.
        read: reads the head of so many classes, or raises :class:`RequestError`.

    Raises:
        RequestError: if there is no such head, or ``all`` is asked for names that are no WordNet ids.
    """
    # Without a second of timm's import: a name of another form is no WordNet id.
    rows = rows_of(names) if all(name[:1] == "n" and name[1:].isdigit() for name in names) else None
    if rows is None and which == "all":
        raise RequestError(
            "classifier.head_classes=all: this data set's classes are not named by WordNet ids (n01440764), so their "
            "rows among the 1,000 are not known; rename the class folders, or leave the setting out"
        )
    if rows is None or (len(rows) == len(wnids()) and rows == sorted(rows)):
        return read(len(names))
    try:
        weight, bias = read(len(wnids()))
    except RequestError:
        if which == "all":
            raise
        return read(len(names))  # a head that was trained on these classes alone
    order = rows_of(head_names(names, which))
    return weight[order], bias[order]


def head_names(names: Sequence[str], which: HeadClasses) -> list[str]:
    """Return the class of each row of :func:`head_for`: the data set's, then those that it does not have."""
    return [*names, *(wnid for wnid in wnids() if wnid not in names)] if which == "all" else list(names)
