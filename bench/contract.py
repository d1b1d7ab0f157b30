"""The page that every plugin author reads: what a method, a metric and a data set are.

Tensors are ``(N, P, H, W)``; positions ``(row, column)``; image coordinates in pixels as the model sees the image.

A *method* is fitted on a :class:`FitContext` and gives a :class:`PartPrototypeModel`. A *metric* looks at
:class:`Observation` after observation (one batch of test images, seen through that model) and gives a
:class:`Score`. A *data set* is a list of :class:`Record` in named splits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError as BenchError
from bench.core.errors import CellError as CellError
from bench.core.errors import NotApplicable as NotApplicable
from bench.core.errors import RequestError as RequestError
from bench.core.score import Aggregate as Aggregate
from bench.core.score import Score as Score
from bench.core.score import share as share
from bench.core.settings import Settings as Settings

T = TypeVar("T")
Augment = Callable[[Tensor, Tensor], Tensor]
"""Images ``(N, 3, H, W)`` from 0 to 1, which it may overwrite, and their positions ``(N,)`` in the split -> images."""

# Of the pixels in [0, 1], per channel: what every ImageNet weight of torchvision expects, and so every batch here has.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PrototypeTable(nn.Module):
    """Which classes each of P prototypes speaks for, and where it comes from.

    Args:
        classes: bool ``(P, C)``.
        vectors: ``(P, ...)`` or ``None`` where the method has none.

    The sources (index of the training image, row and column of its latent patch; -1 = none) are filled by
    methods that project their prototypes onto training patches.
    """

    classes: Tensor
    vectors: Tensor | None
    source_image: Tensor
    source_patch: Tensor

    def __init__(self, classes: Tensor, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("classes", classes.bool())
        self.register_buffer("vectors", vectors)
        self.register_buffer("source_image", torch.full((len(classes),), -1, dtype=torch.long))
        self.register_buffer("source_patch", torch.full((len(classes), 2), -1, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.classes)

    def of(self, classes: Tensor) -> Tensor:
        """Rows of the prototypes of each of N classes: ``(N,) -> (N, K)``, padded with -1 on the right."""
        owned = self.classes.T[classes]
        width = int(self.classes.sum(0).max()) if self.classes.numel() else 0
        # A stable sort keeps the table's order and moves the prototypes that a class owns to the front.
        order = torch.sort(owned.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :width]
        return torch.where(owned.gather(1, order), order, -1)


@dataclass(frozen=True)
class Explanation:
    """What a model shows for a batch of N images.

    Attributes:
        logits: ``(N, C)``.
        maps: ``(N, P, h', w')``, one presence map per prototype, larger = more present. When it was asked for
            with ``classes``, ``(N, K, h', w')``: the prototypes of each image's class, padded.
        scores: ``(N, P)`` or ``(N, K)``: what enters the class weights.
        indices: ``(N, K)`` row of the prototype table behind each map, -1 where padded; ``None``: all, in order.
    """

    logits: Tensor
    maps: Tensor
    scores: Tensor
    indices: Tensor | None = None


class PartPrototypeModel(nn.Module, ABC):
    """A fitted method: ``backbone`` (images -> features) and ``head`` (features -> explanation).

    Subclasses set ``backbone`` and ``prototypes`` and define :meth:`head` and :meth:`attribute`. What they say beyond
    that lets axioms be measured: ``mixes`` (:meth:`attribute` also takes weights ``(N, C)`` for a combination of
    logits), ``apart`` (why cells do not all play the same role, if so), :meth:`contributions`, :meth:`offset`. And
    ``border``: how many rings of cells at the edge of its maps look partly beyond the image, whatever the image shows.
    """

    backbone: nn.Module
    prototypes: PrototypeTable
    mixes: ClassVar[bool] = False
    apart: ClassVar[str] = ""
    border: int = 0

    @abstractmethod
    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Features ``(N, D, h, w)`` -> explanation, of all prototypes or of those of ``classes (N,)`` only."""

    @abstractmethod
    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """The "where" map the method shows for the logit of ``classes (N,)``: ``(N, h', w')``."""

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """What each cell adds to the logit of ``classes (N,)``, exactly: ``(N, h, w)``."""
        raise NotApplicable("its logits are no sums of contributions of cells")

    def offset(self, classes: Tensor) -> Tensor:
        """What of the logits of ``classes (N,)`` belongs to no cell, such as a bias: ``(N,)``."""
        return torch.zeros(len(classes), device=classes.device)

    def logits(self, features: Tensor) -> Tensor:
        """Class scores ``(N, C)`` from features, for callers that need no maps."""
        return self.head(features).logits

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, 3, H, W)``, normalised -> logits ``(N, C)``."""
        return self.logits(self.backbone(images))

    def explain(self, images: Tensor, classes: Tensor | None = None) -> Explanation:
        """Logits and presence maps of images ``(N, 3, H, W)``; with ``classes (N,)`` of those classes only."""
        return self.head(self.backbone(images), classes)

    def pick(self, values: Tensor, indices: Tensor) -> Tensor:
        """Select ``(N, K, ...)`` of ``values (N, P, ...)`` by padded rows ``indices (N, K)``; padding gives zeros."""
        shape = indices.shape + (1,) * (values.ndim - 2)
        chosen = values.gather(1, indices.clamp(min=0).reshape(shape).expand(*indices.shape, *values.shape[2:]))
        return chosen * (indices >= 0).reshape(shape)


@dataclass(frozen=True)
class Record:
    """One image of a data set as its annotation files describe it, in pixels of the stored image.

    Attributes:
        id: the data set's own name for the image, unique.
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
    """Images and annotations of one data set on disk.

    ``provides`` names what it can feed to a metric: ``image, label, bbox, keypoints, mask``.
    """

    provides: frozenset[str]
    classes: Sequence[str]
    parts: Sequence[str]
    digest: str

    def split(self, name: str) -> Sequence[Record]:
        """Records of ``train`` or ``test``, in the data set's own order."""


@dataclass(frozen=True)
class Batch:
    """Images ``(N, 3, H, W)`` normalised float, labels ``(N,)``, and their positions in the split ``(N,)``."""

    images: Tensor
    labels: Tensor
    index: Tensor


class Samples(Protocol):
    """One split, decoded and resized once, ready to be read in batches by any stage.

    Attributes:
        labels: ``(n,)`` int64.
        keypoints: ``(n, parts, 2)`` float64 as ``(row, column)`` in pixels of the prepared image.
        visible: bool ``(n, parts)``.
        boxes: ``(n, 4)`` float64 ``(top, left, bottom, right)`` in the prepared image.
        ids: the records' names.
        size: side of the square prepared image in pixels.
        classes: how many classes there are.
        parts: names of the annotated parts.
        protocol: how images were cut and scaled, for example ``bbox-224-truncated``.
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

    def __len__(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        index: Tensor | None = None,
        augment: Augment | None = None,
    ) -> Iterator[Batch]:
        """Batches in the order of ``index`` (default: all, in order), changed by ``augment`` before normalisation."""


class Progress(Protocol):
    """Where long work tells how far it is."""

    def track(self, items: Iterator[T] | Sequence[T], what: str, total: int | None = None) -> Iterator[T]:
        """Pass the items through and show how many of ``total`` have gone by."""

    def note(self, message: str) -> None:
        """One line that stays in the log."""


class Learner(Protocol):
    """A module that a trainer trains: a model together with its loss (base class: :mod:`bench.training.trainer`)."""

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Return named scalar losses of one batch; ``loss`` is minimised, the others are recorded."""

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return parameters by the names that a schedule uses."""


class Trainer(Protocol):
    """The phased training loop of a cell (:class:`bench.training.trainer.Trainer`).

    Attributes:
        folder: keeps checkpoints of this fit until the cell is done.
        history: a row for each finished epoch: phase, epoch, losses, seconds.
        earlier_seconds: time that interrupted attempts at this fit took.
    """

    folder: Path
    history: list[dict[str, Any]]
    earlier_seconds: float

    def fit(self, learner: Any, schedule: Any, samples: Samples) -> None:
        """Train the learner in place, from the checkpoint if there is one; it ends in eval mode."""


@dataclass(frozen=True)
class Sizes:
    """The sizes a method's configuration must fit, known before anything is trained."""

    classes: int
    images_per_class: int
    channels: int
    cells: int
    backbone: str = ""


@dataclass
class FitContext:
    """All that a method is given to fit itself.

    Attributes:
        config: the method's own ``Config``.
        train: the training split.
        seed: of everything random in the fit.
        device: where tensors go.
        backbone: builds a fresh feature extractor with its starting weights (``channels`` attribute, eval output
            non-negative where the architecture allows it); ``backbone_name``: as in the catalogue.
        black_box: the trained classifier of this data set and backbone, where the method ``needs_black_box``.
        trainer: the phased training loop, with a checkpoint of its own that survives a kill.
        progress: where long work tells how far it is.
        memory_limit: bytes that features may take at a time.
    """

    config: Any
    train: Samples
    seed: int
    device: torch.device
    backbone: Callable[[], nn.Module]
    black_box: nn.Module | None
    trainer: Trainer
    progress: Progress
    memory_limit: int = 2**30
    backbone_name: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers about the fit that the method wants on record (for example a completeness residual)."""


Task = FitContext
"""Former name of :class:`FitContext`, for plugins."""


class Method(ABC):
    """A way to get part-prototypes. Subclasses are small: facts as class attributes, ``build`` and ``fit``.

    Attributes:
        name: as in the catalogue.
        paper: its source.
        version: raised when the same settings would give another model.
        needs_backbone: whether it looks at images through a backbone.
        needs_black_box: whether it starts from the trained classifier.
        class_specific: whether each prototype belongs to one class.
        predicts: whether its logits mean anything; content-free controls have none.
        needs: what the training data must provide beyond images and labels.
        published_forms: name -> settings that compute the same as the published code does; rows of ``bench scale``.
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
        """The method's settings, with the published defaults."""

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Raise :class:`RequestError` where the configuration cannot work on data of these sizes."""

    @abstractmethod
    def build(self, task: FitContext) -> PartPrototypeModel:
        """The model with untrained weights, of the shapes that the fitted one has: what a saved model loads into."""

    def learner(self, model: Any, task: FitContext) -> Learner | None:
        """What :meth:`fit` trains a model of :meth:`build` with (steps are measured by it); ``None``: nothing."""

    @abstractmethod
    def fit(self, task: FitContext) -> PartPrototypeModel:
        """The fitted model, in eval mode, on ``task.device``."""


class Observation:
    """One batch of test images seen through a model. Everything is computed once, when first asked for.

    Attributes:
        model: the fitted model, in eval mode.
        images: ``(N, 3, H, W)``, normalised.
        labels: ``(N,)``.
        index: ``(N,)`` position in the test split: the seed of whatever is drawn per image.
        keypoints: ``(N, parts, 2)`` ``(row, column)``; visible: bool ``(N, parts)``; boxes: ``(N, 4)``.
        size: side of the images in pixels.
        black_box: the classifier that the method started from, where a metric needs it and the method has one.
        fit_seconds: what the fit took, where it is known.
    """

    def __init__(
        self,
        model: PartPrototypeModel,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        keypoints: Tensor,
        visible: Tensor,
        boxes: Tensor,
        black_box: nn.Module | None = None,
        fit_seconds: float | None = None,
    ) -> None:
        self.black_box, self.fit_seconds = black_box, fit_seconds
        self.model, self.images, self.labels, self.index = model, images, labels, index
        self.keypoints, self.visible, self.boxes = keypoints, visible, boxes
        self.size = images.shape[-1]
        self._memo: dict[object, Any] = {}
        self.made: Callable[[object, Any], None] = lambda key, value: None  # told of every value of `once`

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """The value of ``compute()``, shared by all metrics that name the same key."""
        if key not in self._memo:
            self._memo[key] = compute()
            self.made(key, self._memo[key])
        found: T = self._memo[key]
        return found

    @property
    def features(self) -> Tensor:
        """The backbone's features ``(N, D, h, w)``."""
        found: Tensor = self.once("features", lambda: self.model.backbone(self.images))
        return found

    @property
    def own(self) -> Explanation:
        """Logits, and the maps of the prototypes of each image's true class."""
        return self.once("own", lambda: self.model.head(self.features, self.labels))


class Metric(ABC):
    """A number about a fitted model on the test split. State lives in the instance; one instance per cell.

    It changes nothing of what it is shown (batch, splits, model, settings of the process): then its cell has failed.
    Where it means nothing for the model or the data, any of its methods raises :class:`NotApplicable`.

    Attributes:
        name: as in the catalogue.
        version: of the definition; numbers of different versions never meet in one table.
        unit: of the value.
        needs: of ``image, label, bbox, keypoints, mask`` (from the data), ``prediction, black_box`` (from the method),
            ``noise``, ``gradient``.
        higher_is_better: direction.
        repeatable: whether a second measurement gives the same number; times do not.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    unit: ClassVar[str] = "%"
    needs: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    higher_is_better: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True

    class Config(Settings):
        """The metric's parameters; they are part of its identity."""

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        self.config, self.samples, self.prototypes = config, samples, prototypes

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """How the value (``""``) and each further number (by its name) follow from the tables, or why one does not.

        Without it the metric's numbers have no intervals and methods are not tested against each other in it.
        """
        return {}

    def prepare(self, train: Samples) -> None:
        """Look at the training split, before the first batch: for choices that the test split must not make."""

    @abstractmethod
    def update(self, seen: Observation) -> None:
        """Take in one batch."""

    @abstractmethod
    def compute(self) -> Score:
        """The score over all batches taken in."""
