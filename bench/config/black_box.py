"""Recipe of a black box: the origin of a classifier, and the training of its head."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from bench.config.schedule import Schedule
from bench.contract import Settings
from bench.core.imagenet_classes import HeadClasses

# Version of the training: raised when the same settings would train another classifier.
VERSION = 1


class BlackBoxConfig(Settings):
    """Origin of the classifier.

    Attributes:
        head: ``trained``: a new linear layer, trained with the backbone; ``pretrained``: the layer for these classes in
            the file of starting weights, without training (sections 4.3 and 4.4 of the paper, on ImageNet).
        head_classes: of a pretrained head of ImageNet's 1,000 classes on a data set with some of them: ``present``:
            only logits of classes with images count; ``all``: an image is right if its class wins among all 1,000.
        schedule: training schedule, with phases over the groups ``backbone`` and ``head``.
    """

    head: Literal["trained", "pretrained"] = "trained"
    head_classes: HeadClasses = "present"
    schedule: Schedule | None = None

    @field_validator("schedule")
    @classmethod
    def _known(cls, schedule: Schedule | None) -> Schedule | None:
        return schedule and schedule.require(("backbone", "head"))

    @model_validator(mode="after")
    def _trained_by_a_schedule(self) -> BlackBoxConfig:
        if self.head == "trained" and self.schedule is None:
            raise ValueError("a head that is trained needs a schedule")
        if self.head == "trained" and self.head_classes == "all":
            raise ValueError("head_classes=all is about a head that comes with the weights: set head=pretrained")
        return self

    @model_serializer(mode="wrap")
    def _identity(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields that the classifier depends on."""
        # A trained head is identified by its schedule alone: results from before `head` was a setting keep their ids.
        names = ["schedule"] if self.head == "trained" else ["head"]
        names += ["head_classes"] if self.head_classes == "all" else []
        return {name: handler(self)[name] for name in names}
