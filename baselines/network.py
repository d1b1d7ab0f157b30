"""Common part of the published prototype networks: their start, their training, and the states that a fit passes.

The papers report different states of a network: before the projection onto training patches, after it, or after the
last layer was trained once more. A fit keeps all three; the setting ``stage`` chooses the one that is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from baselines import layers, starts
from baselines.projection import project, projection_facts
from bench.config.schedule import Schedule
from bench.contract import FitContext, Method, PartPrototypeModel, Progress, Samples
from bench.models.external import NetworkConfig
from bench.training.trainer import Learner

Stage = Literal["unprojected", "projected", "final"]
_JUDGED_IMAGES = 256
_BATCH = 32


class TrainedConfig(NetworkConfig):
    """Settings of every network that is trained here.

    Attributes:
        start: starting values; fields that differ from the published start enter the id.
        stage: the measured state of the network: ``unprojected``: before the last projection; ``projected``: right
            after it; ``final``: at the end of the schedule. Cells that differ in it share one training.
        schedule: phases of the training, over the groups ``trains`` with ``actions``.
    """

    trains: ClassVar[tuple[str, ...]] = ("backbone", "add_on", "prototypes", "last_layer")
    actions: ClassVar[tuple[str, ...]] = ("project",)

    # Left out of the settings at their defaults, so that cells from before these fields keep their ids.
    start: starts.Start = starts.start_setting(starts.Start)
    stage: Stage = Field(default="final", exclude_if="final".__eq__)
    schedule: Schedule

    @field_validator("schedule")
    @classmethod
    def _known(cls, schedule: Schedule) -> Schedule:
        return schedule.require(cls.trains, cls.actions)

    @model_validator(mode="after")
    def _passes_the_stage(self) -> TrainedConfig:
        if self.stage != "final" and (self.given or not any(one.action == "project" for one in self.schedule.phases)):
            raise ValueError(f"stage {self.stage!r} needs a training with `action: project`")
        return self


class NetworkLearner(Learner):
    """Learner of a prototype network: data-dependent start, projection, sources of projected prototypes."""

    kept_actions: ClassVar = frozenset({"project"})

    def __init__(self, model: Any, config: Any, progress: Progress) -> None:
        super().__init__()
        self.model, self.config, self.progress = model, config, progress

    def prepare(self, start: starts.Start, samples: Samples, seed: int) -> None:
        """Give the model its start; called once, not when a training resumes."""
        starts.prepare(self.model, start, samples, seed, self.progress)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the parameters of the model by the names in schedules."""
        return layers.parameter_groups(self.model)

    def latent(self, images: Tensor) -> Any:
        """Return the latent features onto which prototypes are projected, of images."""
        return self.model.add_on_layers(self.model.backbone(images))

    def distance(self, z: Any, prototypes: Tensor) -> Tensor:
        """Return the distances ``(N, P, h, w)`` of which the smallest decides the patch of a prototype."""
        return layers.squared_distances(z, prototypes)

    def act(self, action: str, samples: Samples) -> None:
        """Run ``project``, which replaces the prototypes by training patches."""
        if action != "project" or action not in self.config.actions:
            super().act(action, samples)
        model = self.model
        project(model.prototype_vectors, model.prototypes, self.latent, self.distance, samples, self.progress)

    def after_step(self) -> None:
        """Clear the sources of prototypes that changed."""
        layers.forget_sources(self.model.prototype_vectors, self.model.prototypes)

    def facts(self) -> dict[str, float]:
        """Return facts about the prototypes of the model in its present state."""
        return projection_facts(self.model.prototypes)


class PrototypeNetwork(Method):
    """Method that trains a network through the phases of its schedule. Subclasses define ``build``.

    Attributes:
        learner_class: the loss and the actions of the network.
        stages: values of the setting ``stage``.
        kept: names of the states that the trainer keeps around the last projection.
    """

    learner_class: ClassVar[Any]
    stages: ClassVar = ("unprojected", "projected", "final")
    kept: ClassVar = {"unprojected": "before project", "projected": "after project"}

    @classmethod
    def starts_from_black_box(cls, config: Any) -> bool:
        """Return whether the backbone starts from the weights of the trained black box."""
        return not config.given and config.start.backbone == "blackbox"

    @classmethod
    def keeps_its_backbone(cls, config: Any) -> bool:
        """Return whether the backbone starts from the black box, and no phase trains it or moves its statistics."""
        phases = config.schedule.phases
        return cls.starts_from_black_box(config) and not any(
            "backbone" in one.lr or not one.freeze_norm for one in phases
        )

    def schedule(self, config: Any) -> Schedule:
        """Return the schedule of the settings."""
        schedule: Schedule = config.schedule
        return schedule

    def learner(self, model: Any, task: FitContext) -> NetworkLearner:
        """Return the learner of a model, with which :meth:`fit` trains."""
        learner: NetworkLearner = self.learner_class(model, task.config, task.progress)
        return learner

    def settle(self, model: Any) -> None:
        """Update what follows from the weights of a model and is not learnt."""

    def fit(self, task: FitContext) -> PartPrototypeModel:
        """Train through the phases of the schedule, and return the network in the wanted state."""
        model: Any = self.build(task)
        learner: Any = self.learner(model, task)
        start = task.config.start
        if start.backbone == "blackbox":
            black_box: Any = task.black_box
            model.backbone.load_state_dict(black_box.backbone.state_dict())
        prepare = partial(learner.prepare, start, task.train, task.seed)
        task.trainer.fit(learner, self.schedule(task.config), task.train, prepare)
        self._keep_states(model, learner, task)
        weights, facts = task.states[task.config.stage]
        model.load_state_dict(weights)
        task.facts.update(facts)
        return model.eval()

    def _keep_states(self, model: Any, learner: Any, task: FitContext) -> None:
        """Record the states that the training passed, the final one last, with facts about each of them."""
        final = {name: value.detach().clone() for name, value in learner.state_dict().items()}
        kept = {stage: task.trainer.kept(name) for stage, name in self.kept.items()}
        common = dict(task.facts)
        for stage, state in {**kept, "final": final}.items():
            if state is None:  # a schedule without a projection passes none of these states
                continue
            learner.load_state_dict(state)
            self.settle(model)
            facts = state_facts(model, task.train, task.device)
            common[f"accuracy_{stage}"] = facts.pop("accuracy")
            weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            task.states[stage] = weights, facts | learner.facts()
        for _, facts in task.states.values():
            facts.update(common)


@torch.no_grad()
def state_facts(model: Any, samples: Samples, device: torch.device) -> dict[str, float]:
    """Measure facts that show a badly trained network, on training images without augmentation.

    Args:
        model: network in eval mode on ``device``.
        samples: the training split; some images from all over it are looked at.
        device: of the model.

    Returns:
        ``accuracy``, ``border_peaks`` (share of the largest similarities that are on the outermost ring of cells) and
        ``border_cells`` (share of the cells that are) in percent; of a network with add-on layers also ``saturated``
        (percent of the latent numbers within 0.02 of 0 or 1) and ``z_deviation`` (their standard deviation).
    """
    index = torch.linspace(0, len(samples) - 1, min(len(samples), _JUDGED_IMAGES)).long()
    correct, peaks, latent = [], [], []
    cells = 0.0
    for batch in samples.batches(_BATCH, device, index=index):
        features = model.backbone(batch.images)
        seen = model.head(features, batch.labels)
        correct.append(seen.logits.argmax(1) == batch.labels)
        height, width = seen.maps.shape[2:]
        ring = torch.ones(height, width, dtype=torch.bool, device=features.device)
        ring[1:-1, 1:-1] = False
        cells = float(ring.float().mean())
        shown = torch.ones_like(seen.scores, dtype=torch.bool) if seen.indices is None else seen.indices >= 0
        peaks.append(ring.flatten()[seen.maps.flatten(2).argmax(2)][shown])
        if hasattr(model, "add_on_layers"):
            latent.append(model.add_on_layers(features).flatten().cpu())
    facts = {"accuracy": percent(torch.cat(correct)), "border_cells": 100 * cells}
    if sum(map(len, peaks)):
        facts["border_peaks"] = percent(torch.cat(peaks))
    if latent:
        z = torch.cat(latent)
        facts |= {"saturated": percent((z - 0.5).abs() > 0.48), "z_deviation": float(z.std())}
    return facts


def percent(mask: Tensor) -> float:
    """Return the share of true values in percent."""
    return 100 * float(mask.float().mean())
