"""Per-item tables gathered over batches, and the base of metrics with one row per test image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.contract import Aggregate, Metric, NotApplicable, PrototypeTable, Samples, Score
from bench.core.score import column_of
from metrics.masks import require_objects
from metrics.parts import require_parts, require_prototypes

_REQUIRED: dict[str, Callable[[Samples, PrototypeTable], None]] = {
    "parts": lambda samples, _: require_parts(samples),
    "objects": lambda samples, _: require_objects(samples),
    "prototypes": lambda _, prototypes: require_prototypes(prototypes),
}
_KEPT = " kept"  # no column of a metric has this name


class Table:
    """Named columns that grow batch by batch, sorted at the end.

    Args:
        keys: names of the columns to sort by.
        empty: reason to give if no item was added.

    Example:
        >>> table = Table("index")
        >>> table.add(index=torch.tensor([7]), hit=torch.tensor([0]))
        >>> table.add(index=torch.tensor([2]), hit=torch.tensor([1]))
        >>> table.arrays()["hit"].tolist()
        [1, 0]
    """

    def __init__(self, *keys: str, empty: str = "there is no test image to measure it on") -> None:
        self._keys, self._empty = keys, empty
        self._parts: list[dict[str, Tensor]] = []

    def add(self, kept: Tensor | None = None, **columns: Tensor) -> None:
        """Append columns of equal length, or their rows that are ``kept``: bool, of that length."""
        # They stay on the device until the end, and so do rows that are not kept: their number is not known here.
        part = {name: values.detach() for name, values in columns.items()}
        self._parts.append(part if kept is None else {_KEPT: kept, **part})

    def arrays(self) -> dict[str, Any]:
        """Return all columns as sorted arrays.

        Raises:
            NotApplicable: if there is no item.
        """
        if not self._parts:
            raise NotApplicable(self._empty)
        whole = {name: torch.cat([part[name] for part in self._parts]).cpu().numpy() for name in self._parts[0]}
        kept = whole.pop(_KEPT, None)
        if kept is not None:
            whole = {name: values[kept] for name, values in whole.items()}
        if not len(next(iter(whole.values()))):
            raise NotApplicable(self._empty)
        # Sorting makes the table, and every sum over it, independent of the order and size of the batches.
        order = np.lexsort([whole[name] for name in reversed(self._keys)])
        return {name: values[order] for name, values in whole.items()}


class ImageMetric(Metric):
    """Metric with one row per test image, in the table ``image`` of its score.

    Attributes:
        empty: reason to give if no image could be measured.
        requires: what data set and model must have, of ``parts``, ``objects`` and ``prototypes``.
    """

    empty: ClassVar[str] = "there is no test image to measure it on"
    requires: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        for kind in self.requires:
            _REQUIRED[kind](samples, prototypes)
        self._rows = Table("index", empty=self.empty)

    def means(self, table: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers that are declared as plain means over the rows of a table, by their names."""
        return {
            name: one.scale * float(column_of(table, one.column).mean())
            for name, one in self.aggregates(self.config).items()
            if isinstance(one, Aggregate) and one.weight is None and one.combine is None
        }

    def compute(self) -> Score:
        """Return the means over all rows that ``aggregates`` declares."""
        table = self._rows.arrays()
        numbers = self.means(table)
        return Score(numbers.pop(""), len(table["index"]), {"image": table}, numbers)
