"""The 1,000 classes of ImageNet, by WordNet id, in the order of the rows of classifiers that were trained on them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

# Classes of a head that count on a data set with some of its classes.
HeadClasses = Literal["present", "all"]


@functools.cache
def wnids() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids in the order of a classifier's rows, which is alphabetical.

    Source: the list that timm ships (``timm.data.ImageNetInfo``); torchvision's weights have the same order.

    Example:
        >>> wnids()[:2]
        ('n01440764', 'n01443537')
    """
    from timm.data import ImageNetInfo  # not at the top: it takes a second

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def rows_of(names: Sequence[str]) -> list[int] | None:
    """Return the row of each class in a classifier of the 1,000; ``None`` if a name is not one of their WordNet ids.

    Example:
        >>> rows_of(["n01443537", "n15075141"])
        [1, 999]
    """
    place = {wnid: row for row, wnid in enumerate(wnids())}
    return [place[name] for name in names] if all(name in place for name in names) else None
