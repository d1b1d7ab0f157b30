"""The black box: the plain classifier of one data set, backbone, seed and recipe. Trained once, used by many cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.contract import CellError, Progress, Samples, Settings
from bench.core.files import write_json
from bench.core.integrity import Changed, verify_file
from bench.core.seeding import derive
from bench.core.work_dir import WorkDir
from bench.models.classifier import Classifier
from bench.training.schedule import Schedule
from bench.training.trainer import Learner, Trainer

VERSION = 1
"""Raised when the same settings would train another classifier."""


class BlackBoxConfig(Settings):
    """Where the classifier comes from.

    Attributes:
        head: ``trained``: a new linear layer, trained with the backbone; ``pretrained``: the file of starting weights
            has one for these classes, and nothing is trained (sections 4.3 and 4.4 of the paper, on ImageNet).
        schedule: of the training, phases over the groups ``backbone`` and ``head``.
    """

    head: Literal["trained", "pretrained"] = "trained"
    schedule: Schedule | None = None

    @field_validator("schedule")
    @classmethod
    def _known(cls, schedule: Schedule | None) -> Schedule | None:
        return schedule and schedule.require(("backbone", "head"))

    @model_validator(mode="after")
    def _trained_by_a_schedule(self) -> BlackBoxConfig:
        if self.head == "trained" and self.schedule is None:
            raise ValueError("a head that is trained needs a schedule")
        return self

    @model_serializer(mode="wrap")
    def _identity(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What nothing depends on is left out; so results from before there was a choice keep their ids."""
        kept = "schedule" if self.head == "trained" else "head"
        return {kept: handler(self)[kept]}


class ClassifierLearner(Learner):
    """Cross entropy on the whole network, as in section 4.2 of the paper."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """``backbone`` and ``head``."""
        return {
            "backbone": list(self.classifier.backbone.parameters()),
            "head": list(self.classifier.head.parameters()),
        }

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Loss and training accuracy of a batch."""
        logits = self.classifier(images)
        correct = (logits.argmax(1) == labels).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, labels), "train_accuracy": correct}


def obtain(
    folder: WorkDir,
    config: BlackBoxConfig,
    backbone: Callable[[], nn.Module],
    head: Callable[[int, int], tuple[Tensor, Tensor]],
    train: Samples,
    seed: int,
    trainer: Callable[[Path], Trainer],
    progress: Progress,
) -> Classifier:
    """The classifier in eval mode: as given, or from the folder where it is there, else trained and put there.

    Another process that wants the same one waits for it.

    Args:
        folder: its own place.
        config: where it comes from.
        backbone: builds the feature extractor with its starting weights.
        head: gives weight and bias of the head that those weights were trained with, for classes and channels.
        train: training split.
        seed: of the head's start, the order and the augmentation.
        trainer: makes the training loop with its checkpoint in the given folder.
        progress: where it is told.

    Raises:
        CellError: where what was trained before is damaged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "head"))
        classifier = Classifier(backbone(), train.classes)
    if config.schedule is None or config.head == "pretrained":
        weight, bias = head(train.classes, classifier.head.in_features)
        classifier.head.load_state_dict({"weight": weight, "bias": bias})
        return classifier.eval()
    loop = trainer(folder.resume)
    if loop.ranks.rank and not folder.done:
        loop.fit(ClassifierLearner(classifier), config.schedule, train)  # rank 0 has the claim; this ends in `Followed`
    with folder.claim(lambda: progress.note("another process trains the black box: waiting for it")):
        if not folder.done:
            progress.note("training the black box")
            loop.fit(ClassifierLearner(classifier), config.schedule, train)
            folder.work.mkdir(parents=True, exist_ok=True)
            write_json(folder.work / "history.json", loop.history)
            save_file(classifier.state_dict(), folder.work / "model.safetensors")
            folder.finish()
        else:
            progress.note("black box found, not trained again")
            folder.tidy()
    try:
        verify_file(folder.result, "model.safetensors")
        classifier.load_state_dict(load_file(folder.result / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError, Changed) as error:
        # Not trained anew in silence: on a GPU that gives other bits, and finished cells were made with these.
        raise CellError(
            f"the black box in {folder.path} is damaged ({error}); delete that folder and run again to train it anew"
        ) from error
    return classifier.eval()
