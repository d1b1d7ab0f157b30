"""Numbers per item, gathered over batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contract import NotApplicable


class Table:
    """Named columns that grow batch by batch; the batches have no say in the order of the whole.

    Args:
        keys: names of the columns to sort by.
    """

    def __init__(self, *keys: str) -> None:
        self._keys = keys
        self._parts: list[dict[str, Tensor]] = []

    def add(self, **columns: Tensor) -> None:
        """Take in columns of equal length."""
        self._parts.append({name: values.detach().cpu() for name, values in columns.items()})

    def arrays(self) -> dict[str, Any]:
        """All of them as arrays, sorted.

        Raises:
            NotApplicable: where there is no item.
        """
        if not sum(len(next(iter(part.values()))) for part in self._parts):
            raise NotApplicable("there is no test image to measure it on")
        whole = {name: torch.cat([part[name] for part in self._parts]).numpy() for name in self._parts[0]}
        order = np.lexsort([whole[name] for name in reversed(self._keys)])
        return {name: values[order] for name, values in whole.items()}
