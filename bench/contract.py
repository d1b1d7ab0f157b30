"""Contract of plugins: the interfaces of methods, metrics and data sets.

Tensors are ``(N, P, H, W)``; positions ``(row, column)``; image coordinates in pixels as the model sees the image.

A *method* is fitted on a :class:`FitContext` and returns a :class:`PartPrototypeModel`. A *metric* is updated with
one :class:`Observation` after another (a batch of test images seen through that model) and returns a :class:`Score`.
A *data set* is a list of :class:`Record` in named splits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

# Handed on, so that a plugin's class imports this module alone.
from bench.core.errors import BenchError as BenchError
from bench.core.errors import CellError as CellError
from bench.core.errors import NotApplicable as NotApplicable
from bench.core.errors import RequestError as RequestError
from bench.core.input_config import InputConfig as InputConfig
from bench.core.input_config import Triple as Triple
from bench.core.part_model import Explanation as Explanation
from bench.core.part_model import PartPrototypeModel as PartPrototypeModel
from bench.core.part_model import PrototypeTable as PrototypeTable
from bench.core.score import Aggregate as Aggregate
from bench.core.score import Score as Score
from bench.core.score import share as share
from bench.core.settings import Settings as Settings

T = TypeVar("T")
Augment = Callable[[Tensor, Tensor], Tensor]
"""Images ``(N, 3, H, W)`` from 0 to 1, which it may overwrite, and their positions ``(N,)`` in the split -> images."""

# Of pixels in [0, 1], per channel: the values of torchvision's ImageNet weights, in whose units noise is given.
IMAGENET_MEAN, IMAGENET_STD = InputConfig.mean, InputConfig.std


@dataclass(frozen=True)
class Record:
    """Image of a data set with its annotations, in pixels of the stored image.

    Attributes:
        id: the data set's unique name of the image.
        path: the image file.
        label: class index from 0.
        box: ``(x, y, width, height)`` or ``None``.
        keypoints: ``(x, y, visible)`` per part, or empty.
        mask: file of the object mask or ``None``.
    """

    id: str
    path: Path
    label: int
    box: tuple[float, float, float, float] | None = None
    keypoints: tuple[tuple[float, float, bool], ...] = ()
    mask: Path | None = None


class Dataset(Protocol):
    """Images and annotations on disk; ``provides`` names these, of ``image, label, bbox, keypoints, mask``."""

    provides: frozenset[str]
    classes: Sequence[str]
    parts: Sequence[str]
    digest: str

    def split(self, name: str) -> Sequence[Record]:
        """Return the records of ``train`` or ``test``, in the data set's own order."""


@dataclass(frozen=True)
class Batch:
    """Images ``(N, 3, H, W)`` normalised float, labels ``(N,)``, and their positions in the split ``(N,)``."""

    images: Tensor
    labels: Tensor
    index: Tensor


class Samples(Protocol):
    """Split that is decoded and resized once, and read in batches.

    Attributes:
        labels: ``(n,)`` int64.
        keypoints: ``(n, parts, 2)`` float64 as ``(row, column)`` in pixels of the prepared image.
        visible: bool ``(n, parts)``.
        boxes: ``(n, 4)`` float64 ``(top, left, bottom, right)`` in the prepared image.
        ids: ``id`` of each record.
        size: side of the square prepared image in pixels.
        classes: number of classes; parts: names of the annotated parts.
        masks: optional: grey levels of the object masks, uint8 ``(n, size, size)``, for metrics that need ``mask``.
        protocol: name of the preprocessing (crop, size, rounding), for example ``bbox-224-truncated``.
        mean, std: of each RGB channel, with which pixels in [0, 1] are normalised: those of the backbone's weights.
    """

    labels: Tensor
    keypoints: Tensor
    visible: Tensor
    boxes: Tensor
    ids: Sequence[str]
    size: int
    classes: int
    parts: Sequence[str]
    protocol: str
    mean: Triple
    std: Triple

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, device: torch.device | str = "cpu", *, index: Tensor | None = None,
        augment: Augment | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        """Yield batches in the order of ``index`` (default: all, in order), augmented before normalisation."""


class Progress(Protocol):
    """Reporter of the progress of long work."""

    def track(self, items: Iterator[T] | Sequence[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items and show how many of ``total`` are done; ``what`` names them."""

    def note(self, message: str) -> None:
        """Write a line to the log."""


class Learner(Protocol):
    """Model together with its loss, trained by a trainer (base class: :mod:`bench.training.trainer`)."""

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Return named scalar losses of one batch; ``loss`` is minimised, the others are recorded."""

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return parameters by the names that a schedule uses."""


class Trainer(Protocol):
    """Phased training loop of a cell (:class:`bench.training.trainer.Trainer`).

    It has the ``folder`` of this fit's checkpoints, a ``history`` with a row for each epoch, and ``earlier_seconds``.
    """

    folder: Path
    history: list[dict[str, Any]]
    earlier_seconds: float

    def fit(self, learner: Any, schedule: Any, samples: Samples, prepare: Callable[[], Any] = lambda: None) -> None:
        """Train the learner in place, from the checkpoint or else from where ``prepare`` puts it, to eval mode."""

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """Return the learner's state ``before ACTION`` or ``after ACTION``, if it keeps those of the action."""


class BlackBox(nn.Module):
    """Trained classifier: features of a backbone, their mean over the cells, one linear layer.

    Attributes:
        backbone: images ``(N, 3, H, W)`` -> features ``(N, D, h, w)``; its attribute ``channels`` is D.
        head: from D to the classes, followed by the absent classes of a pretrained head that count.
    """

    backbone: nn.Module
    head: nn.Linear


@dataclass(frozen=True)
class Sizes:
    """Sizes that a method's configuration must fit, known before anything is trained."""

    classes: int
    images_per_class: int
    channels: int
    cells: int
    backbone: str = ""


@dataclass
class FitContext:
    """Inputs of :meth:`Method.fit`.

    Attributes:
        config: the method's ``Config``.
        train: the training split.
        seed: seed of everything random in the fit.
        device: device of all tensors.
        backbone: factory of a fresh feature extractor with its starting weights (attribute ``channels``, non-negative
            output in eval mode if the architecture allows it); ``backbone_name``: its name in the catalogue.
        black_box: the trained classifier of this data set and backbone, if the method ``needs_black_box``.
        trainer: the phased training loop, whose checkpoints survive a kill.
        progress: reporter of long work.
        memory_limit: bytes that features may take at a time.
        absent_classes: classes of a pretrained head that the data set does not have and whose logits count.
    """

    config: Any
    train: Samples
    seed: int
    device: torch.device
    backbone: Callable[[], nn.Module]
    black_box: BlackBox | None
    trainer: Trainer
    progress: Progress
    memory_limit: int = 2**30
    backbone_name: str = ""
    absent_classes: int = 0
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers about the fit that the method records (for example a completeness residual)."""
    states: dict[str, tuple[dict[str, Tensor], dict[str, float]]] = field(default_factory=dict)
    """Weights and facts of the states that the fit passed, by the values of the method's ``stage``, if it has one."""


Task = FitContext
"""Former name of :class:`FitContext`, for plugins."""


class Method(ABC):
    """Method that fits part-prototypes. Subclasses are small: facts as class attributes, ``build`` and ``fit``.

    Attributes:
        name: its name in the catalogue.
        paper: its source.
        version: raised when the same settings would give another model.
        needs_backbone: whether it looks at images through a backbone.
        needs_black_box: whether it starts from the trained classifier.
        class_specific: whether each prototype belongs to one class.
        predicts: whether its logits mean anything; content-free controls have none.
        needs: annotations that the training data must provide beyond images and labels.
        published_forms: name -> settings under which it computes as the published code does; rows of ``bench scale``.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    version: ClassVar[int] = 1
    needs_backbone: ClassVar[bool] = True
    needs_black_box: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    predicts: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    published_forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    class Config(Settings):
        """Settings of the method, with the published defaults."""

    @classmethod
    def starts_from_black_box(cls, config: Any) -> bool:
        """Return whether the fit with these settings needs the trained classifier."""
        return cls.needs_black_box

    @classmethod
    def keeps_its_backbone(cls, config: Any) -> bool:
        """Return whether the network of these settings has the black box's backbone, unchanged: features are shared."""
        return False

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Raise :class:`RequestError` if the configuration cannot work on data of these sizes."""

    @abstractmethod
    def build(self, task: FitContext) -> PartPrototypeModel:
        """Return the model with untrained weights, in the shapes of the fitted one, to load a saved model into."""

    def learner(self, model: Any, task: FitContext) -> Learner | None:
        """Return the learner with which :meth:`fit` trains a model of :meth:`build`; ``None`` if nothing is trained."""

    @abstractmethod
    def fit(self, task: FitContext) -> PartPrototypeModel:
        """Return the fitted model, in eval mode, on ``task.device``."""


Refused = Callable[[list[int]], Exception]


def require_all(fine: Tensor, refused: Refused) -> None:
    """Raise ``refused(rows)`` if some rows of ``fine (n,)`` are false."""
    if not fine.all():
        raise refused((~fine).nonzero()[:, 0].tolist())


class Observation:
    """Batch of test images seen through a model. Everything is computed once, at its first use.

    Attributes:
        model: the fitted model, in eval mode.
        images: ``(N, 3, H, W)``, normalised; labels: ``(N,)``.
        index: ``(N,)`` position in the test split, part of the seed of every draw per image.
        keypoints: ``(N, parts, 2)`` ``(row, column)``; visible: bool ``(N, parts)``; boxes: ``(N, 4)``.
        masks: uint8 ``(N, H, W)``, grey levels of the object masks, if a metric needs them and the data set has them.
        size: side of the images in pixels.
        black_box: the classifier that the method started from, if a metric needs it and the method has one.
        fit_seconds: duration of the fit, if it is known.
    """

    def __init__(
        self, model: PartPrototypeModel, images: Tensor, labels: Tensor, index: Tensor, keypoints: Tensor,
        visible: Tensor, boxes: Tensor, black_box: BlackBox | None = None, fit_seconds: float | None = None,
        masks: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.black_box, self.fit_seconds, self.masks = black_box, fit_seconds, masks
        self.model, self.images, self.labels, self.index = model, images, labels, index
        self.keypoints, self.visible, self.boxes, self.size = keypoints, visible, boxes, images.shape[-1]
        self._memo: dict[object, Any] = {}
        self.lasting: dict[object, Any] | None = None  # what the batches of an evaluation share
        self.made: Callable[[object, Any], None] = lambda key, value: None  # called with every value of `once`

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """Return the value of ``compute()``, shared by all metrics that use the same key."""
        if key not in self._memo:
            self._memo[key] = compute()
            self.made(key, self._memo[key])
        value: T = self._memo[key]
        return value

    def throughout(self, key: object, compute: Callable[[], T]) -> T:
        """Return the value of ``compute()``, shared by all batches of an evaluation."""
        lasting = self._memo if self.lasting is None else self.lasting
        value: T = lasting[key] if key in lasting else lasting.setdefault(key, compute())
        return value

    @property
    def positions(self) -> Tensor:
        """Positions in the test split ``(N,)`` on the CPU, for what is chosen or drawn there."""
        return self.once("positions", self.index.cpu)

    def require(self, fine: Tensor, refused: Refused) -> None:
        """Raise ``refused(rows)`` if some rows of ``fine (n,)`` are false; it must not hold images or maps.

        An evaluation on a GPU looks at its end: at once, the host would wait for the device.
        """
        if self.lasting is None or not fine.is_cuda:
            require_all(fine, refused)
        else:
            self.lasting.setdefault("deferred", []).append((fine, refused))

    @property
    def features(self) -> Tensor:
        """Features of the backbone, ``(N, D, h, w)``."""
        value: Tensor = self.once("features", lambda: self.model.backbone(self.images))
        return value

    @property
    def own(self) -> Explanation:
        """Explanation with the maps of the prototypes of each image's own, that is true, class."""
        return self.once("own", lambda: self.model.head(self.features, self.labels))


class Metric(ABC):
    """Metric of a fitted model on the test split. State is in the instance; each cell has its own instance.

    A metric must not change its inputs (batch, splits, model, settings of the process), else its cell fails. If it has
    no meaning for the model or the data, any of its methods raises :class:`NotApplicable`.

    Attributes:
        name: its name in the catalogue.
        version: version of the definition; numbers of different versions are never in one table.
        unit: unit of the value.
        needs: inputs, of ``image, label, bbox, keypoints, mask`` (from the data; boxes do for masks), ``prediction,
            black_box`` (from the method), ``noise``, ``gradient``.
        higher_is_better: direction of the value.
        repeatable: whether a second measurement gives the same number; times do not.
        changes_images: whether it passes images through the model that depend on the model, which no other cell sees.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    unit: ClassVar[str] = "%"
    needs: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    higher_is_better: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True
    changes_images: ClassVar[bool] = False

    class Config(Settings):
        """Parameters of the metric; they are part of its identity."""

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        self.config, self.samples, self.prototypes = config, samples, prototypes

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return how the value (``""``) and each further number follow from the tables, or why one does not.

        Numbers that are not in it have no intervals, and methods are not tested against each other in them.
        """
        return {}

    def prepare(self, train: Samples) -> None:
        """Use the training split, before the first batch, for choices that must not depend on the test split."""

    @abstractmethod
    def update(self, seen: Observation) -> None:
        """Add one batch."""

    @abstractmethod
    def compute(self) -> Score:
        """Return the score of all batches."""
