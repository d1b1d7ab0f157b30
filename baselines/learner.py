"""Learner of a network with prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from baselines import layers
from bench.contract import Progress
from bench.training.trainer import Learner


class PrototypeLearner(Learner):
    """Loss of a network with ``prototype_vectors`` and a table ``prototypes``; :meth:`forward` is the network's own.

    Args:
        model: network that learns.
        config: settings of its method, with the weights of the loss terms.
        progress: receives the progress of projections.
    """

    def __init__(self, model: Any, config: Any, progress: Progress) -> None:
        super().__init__()
        self.model, self.config, self.progress = model, config, progress

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the groups ``backbone``, ``add_on``, ``prototypes``, ``last_layer``."""
        return layers.parameter_groups(self.model)

    def after_step(self) -> None:
        """Clear the sources of prototypes that changed."""
        layers.forget_sources(self.model.prototype_vectors, self.model.prototypes)
