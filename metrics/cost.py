"""Cost of an explanation: time, parameters and memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch

from bench.contract import Aggregate, Metric, NotApplicable, Observation, PrototypeTable, Samples, Score


class Cost(Metric):
    """Milliseconds to explain an image: logits and the maps of its class's prototypes, from pixels.

    The median over batches, the first left out if there are others. ``parameters`` of the whole model; ``fit``: the
    seconds of the fit, if the cell knows them; ``peak_bytes``: the most memory that a batch took on a GPU beyond the
    memory in use before it. Numbers of other machines, batch sizes or loads do not compare.
    """

    name = "cost"
    version = "2"
    unit = "ms"
    higher_is_better = False
    repeatable = False
    needs = frozenset({"image"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the reason for which the numbers have no intervals."""
        return dict.fromkeys(("", "parameters", "fit", "peak_bytes"), "it is measured once, not per image")

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._times: list[float] = []
        self._images = 0
        self._also: dict[str, float] = {}

    def update(self, seen: Observation) -> None:
        """Explain one batch a second time, and measure it."""
        cuda = seen.images.device.type == "cuda"
        # Kernels run asynchronously: without waiting, only their launch would be timed.
        if cuda:
            torch.cuda.synchronize(seen.images.device)
            torch.cuda.reset_peak_memory_stats(seen.images.device)
            before = torch.cuda.memory_allocated(seen.images.device)
        # `seen.own` may have been computed already, so the batch is explained again.
        began = perf_counter()
        seen.model.explain(seen.images, seen.labels)
        if cuda:
            torch.cuda.synchronize(seen.images.device)
            peak = torch.cuda.max_memory_allocated(seen.images.device) - before
            self._also["peak_bytes"] = max(self._also.get("peak_bytes", 0.0), float(peak))
        self._times.append(1e3 * (perf_counter() - began) / max(1, len(seen.images)))
        self._images += len(seen.images)
        self._also["parameters"] = float(sum(parameter.numel() for parameter in seen.model.parameters()))
        if seen.fit_seconds is not None:
            self._also["fit"] = seen.fit_seconds

    def compute(self) -> Score:
        """Return the median over the batches."""
        if not self._images:
            raise NotApplicable("there is no test image to explain")

        return Score(statistics.median(self._times[1:] or self._times), self._images, also=self._also)
