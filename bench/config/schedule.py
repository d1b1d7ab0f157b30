"""Training schedules: phases, learning rates and their decay, as a recipe's YAML has them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from bench.contract import Settings

Rate = Annotated[float, Field(ge=0)]


class Phase(Settings):
    """Period of training in which the same parameters learn, with an optional action of the method at its end.

    Phases of the same name share one optimiser state and one count of epochs: a later phase continues the earlier one.

    Attributes:
        name: phase name, passed to the method's loss and shown in the log.
        epochs: number of epochs.
        steps: number of optimiser steps, in place of ``epochs``: as many whole epochs as contain them. Epochs over few
            images have few steps, so that a number of epochs means little there.
        lr: learning rate per parameter group; groups that are not named do not learn.
        weight_decay: weight decay per parameter group, default 0.
        optimizer: ``sgd`` (without Nesterov momentum), ``adam`` or ``adamw``.
        momentum: momentum of ``sgd``.
        decay: ``step``: times ``gamma`` every ``step`` epochs; ``cosine``: to zero over the phase.
        step: epochs between two step decays.
        gamma: factor of a step decay.
        lead: epochs by which the first step decay is earlier.
        freeze_norm: keep batch normalisation in evaluation mode.
        action: action of the method at the end, for example ``project``.
    """

    name: str
    epochs: NonNegativeInt = 0
    steps: PositiveInt | None = Field(default=None, exclude_if=lambda steps: steps is None)
    lr: dict[str, Rate] = Field(default_factory=dict)
    weight_decay: dict[str, Rate] = Field(default_factory=dict)
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    decay: Literal["constant", "step", "cosine"] = "constant"
    step: PositiveInt = 30
    gamma: PositiveFloat = 0.1
    lead: NonNegativeInt = 0
    freeze_norm: bool = False
    action: str | None = None

    @model_validator(mode="after")
    def _decayed_groups_learn(self) -> Phase:
        idle = sorted(set(self.weight_decay) - set(self.lr))
        if idle:
            raise ValueError(f"weight_decay names {', '.join(idle)}, which has no learning rate in phase {self.name!r}")
        if self.steps is not None and self.epochs:
            raise ValueError(f"phase {self.name!r} has both epochs and steps: give one of them")
        return self

    def factor(self, epoch: int, within: int) -> float:
        """Return the factor of the learning rates in an epoch.

        Args:
            epoch: index from 0, counted over all phases of this name: ``step`` decay continues over them.
            within: index from 0 in this phase alone, over which ``cosine`` falls.

        Example:
            >>> phase = Phase(name="joint", epochs=4, decay="cosine")
            >>> [round(phase.factor(epoch, epoch), 2) for epoch in range(4)]
            [1.0, 0.85, 0.5, 0.15]
        """
        if self.decay == "step":
            return self.gamma ** ((epoch + self.lead) // self.step)
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * within / max(self.epochs, 1)))
        return 1.0


class Schedule(Settings):
    """Ordered training phases and their shared settings.

    Attributes:
        batch_size: images per optimiser step.
        repeat: passes over the data per epoch; published epochs over an offline-augmented copy are that long.
        augment: augmentation of training images, drawn again for every pass: ``flip`` mirrors half of them (synonym:
            ``paper``); the others are published policies, see :mod:`bench.data.augmentation`.
        phases: phases in order.
    """

    batch_size: PositiveInt = 64
    repeat: PositiveInt = 1
    augment: Literal[
        "none", "flip", "protopnet2019", "tesnet2021", "deformable2022", "prototree2021", "resized_crop"
    ] = "flip"
    phases: tuple[Phase, ...]

    @field_validator("augment", mode="before")
    @classmethod
    def _one_name(cls, name: Any) -> Any:
        return "flip" if name == "paper" else name

    def steps_per_epoch(self, images: int) -> int:
        """Return the number of optimiser steps in an epoch over a split of so many images."""
        return self.repeat * math.ceil(images / self.batch_size)

    def in_epochs(self, images: int) -> Schedule:
        """Return the schedule with the phases that are given in steps in epochs, on a split of so many images.

        Example:
            >>> plan = Schedule(batch_size=10, phases=[Phase(name="warm", steps=25)])
            >>> plan.in_epochs(95).phases[0].epochs
            3
        """

        def counted(phase: Phase) -> Phase:
            if phase.steps is None:
                return phase
            return phase.model_copy(
                update={"epochs": math.ceil(phase.steps / self.steps_per_epoch(images)), "steps": None}
            )

        return self.model_copy(update={"phases": tuple(map(counted, self.phases))})

    def require(self, groups: Collection[str], actions: Collection[str] = ()) -> Schedule:
        """Check that the schedule names only existing parameter groups and actions, and return it.

        Raises:
            ValueError: for the first unknown name.
        """
        for phase in self.phases:
            for name in phase.lr:
                if name not in groups:
                    raise ValueError(f"phase {phase.name!r} has a rate for {name!r}; groups: {', '.join(groups)}")
            if phase.action is not None and phase.action not in actions:
                raise ValueError(f"phase {phase.name!r}: no action {phase.action!r}; actions: {', '.join(actions)}")
        return self
