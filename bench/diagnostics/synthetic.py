"""Synthetic in-memory data sets, features and tiny models for tests and measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.contract import (
    Augment,
    Batch,
    Explanation,
    FitContext,
    InputConfig,
    PartPrototypeModel,
    Progress,
    PrototypeTable,
    Samples,
)
from bench.core.part_model import shapley_of_maxima
from bench.core.seeding import derive
from bench.training.trainer import Trainer


class TensorSamples:
    """Split in memory.

    Args:
        images: ``(m, 3, H, W)``, normalised floats; image ``i`` of the split is image ``i % m`` of these.
        labels: ``(n,)``.
        classes: number of classes.

    None of the key-points of the parts ``one`` and ``two`` is visible, unless ``visible (n, 2)`` is changed.
    """

    parts: Sequence[str] = ("one", "two")
    mean, std = InputConfig.mean, InputConfig.std

    def __init__(self, images: Tensor, labels: Tensor, classes: int) -> None:
        n = len(labels)
        self.images, self.labels, self.classes = images, labels, classes
        self.keypoints = torch.zeros(n, 2, 2, dtype=torch.float64)
        self.visible = torch.zeros(n, 2, dtype=torch.bool)
        self.boxes = torch.zeros(n, 4, dtype=torch.float64)
        self.ids: Sequence[str] = [str(i) for i in range(n)]
        self.size = images.shape[-1]
        self.protocol = f"full-{self.size}"

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        index: Tensor | None = None,
        augment: Augment | None = None,
    ) -> Iterator[Batch]:
        """Yield batches; see :class:`bench.contract.Samples`."""
        order = torch.arange(len(self)) if index is None else index
        for part in order.split(batch_size):
            images = self.images[part % len(self.images)]
            if augment is not None:
                images = augment(images, part)
            yield Batch(images.to(device), self.labels[part].to(device), part)


def stripes(classes: int = 3, per_class: int = 12, size: int = 32, seed: int = 0) -> TensorSamples:
    """Make easy images: each class is bright in another horizontal band."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = 0.3 * torch.randn(len(labels), 3, size, size, generator=generator)
    band = size // classes
    for i, label in enumerate(labels.tolist()):
        images[i, label % 3, label * band : (label + 1) * band] += 2.0
    return TensorSamples(images, labels, classes)


def noise(classes: int, count: int, size: int, seed: int = 0, distinct: int = 64) -> TensorSamples:
    """Make random images of balanced classes; only ``distinct`` of them are in memory, and repeat."""
    generator = torch.Generator().manual_seed(derive(seed, "random images"))
    # The content does not matter for time and memory: a thousand classes of images need not be in memory.
    few = torch.randn(min(count, distinct), 3, size, size, generator=generator)
    return TensorSamples(few, torch.arange(count) % classes, classes)


class SmallNet(nn.Module):
    """Two-layer feature extractor with batch normalisation: 16 channels, an eighth of the side."""

    channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 2, 2), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to features ``(N, 16, H / 8, W / 8)``."""
        return self.body(images)


class PooledColourBackbone(nn.Module):
    """Backbone with the feature shape of a large network at no cost: pooled colours, mixed at random."""

    def __init__(self, channels: int, cells: tuple[int, int], seed: int = 0) -> None:
        super().__init__()
        self.channels, self.cells = channels, cells
        generator = torch.Generator().manual_seed(derive(seed, "stand-in"))
        self.mixture = nn.Parameter(torch.randn(channels, 3, 1, 1, generator=generator), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to non-negative features ``(N, channels, h, w)``."""
        pooled = nn.functional.adaptive_avg_pool2d(images, self.cells)
        return nn.functional.conv2d(pooled, self.mixture).relu()


class RandomPrototypes(PartPrototypeModel):
    """Model with random prototypes; the maxima of inner products over the locations add up to the logits.

    Each class has ``per_class`` prototypes, and ``shared`` further ones belong to every class; the backbone is a
    :class:`SmallNet` by default.
    """

    mixes = True

    def __init__(self, classes: int, backbone: Any = None, per_class: int = 2, shared: int = 1, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = SmallNet() if backbone is None else backbone
            vectors = torch.randn(per_class * classes + shared, self.backbone.channels)
        owner = torch.eye(classes, dtype=torch.bool).repeat_interleave(per_class, 0)
        self.prototypes = PrototypeTable(torch.cat([owner, torch.ones(shared, classes, dtype=torch.bool)]), vectors)

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Explain by maps of inner products of locations and prototypes."""
        maps = self._maps(features)
        scores = maps.amax((2, 3))
        logits = scores @ self.prototypes.classes.to(scores.dtype)
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def prototype_logits(self, features: Tensor) -> Tensor:
        """Return the logits, in which every term is a prototype of the class."""
        return self.logits(features)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Sum the maps of the class, or of all classes by their weights."""
        members = self.prototypes.classes.T.to(features.dtype)
        weights = members[classes] if classes.ndim == 1 else classes.to(members.dtype) @ members
        return torch.einsum("nphw,np->nhw", self._maps(features), weights)

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Put each maximum at its location."""
        maps = self.head(features, classes).maps.flatten(2)
        top, location = maps.max(2, keepdim=True)
        return torch.zeros_like(maps).scatter_(2, location, top).sum(1).unflatten(1, features.shape[2:])

    def shapley(self, features: Tensor, classes: Tensor) -> Tensor:
        """Share each maximum among the cells."""
        maps = self.head(features, classes).maps
        return shapley_of_maxima(maps, torch.ones_like(maps[:, :, 0, 0]))

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return 1 for the classes of a prototype and 0 for the others."""
        return self.prototypes.classes[prototypes].float()

    def _maps(self, features: Tensor) -> Tensor:
        return torch.einsum("ndhw,pd->nphw", features, self.prototypes.vectors)


def task(
    folder: Path,
    samples: Samples,
    config: Any,
    progress: Progress,
    *,
    make: Callable[[], nn.Module] = SmallNet,
    black_box: nn.Module | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    precision: Literal["fp32", "bf16", "tf32"] = "fp32",
    **rest: Any,
) -> FitContext:
    """Build the input of a method's ``fit`` on synthetic images.

    Weights of the feature extractor that ``make`` builds are drawn from the seed; ``rest`` are other fields of the
    task.
    """
    device = device or torch.device("cpu")

    def backbone() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make()

    return FitContext(
        config=config,
        train=samples,
        seed=seed,
        device=device,
        backbone=backbone,
        black_box=black_box,
        trainer=Trainer(folder, device, precision, seed, progress),
        progress=progress,
        **rest,
    )


_PARTS = 6


def class_features(label: int, images: int, hw: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw features of one class as after a last ReLU, and the classifier's row of the class.

    Six parts, each a sparse profile over the channels, are smooth blobs at other locations in each image, over a common
    background; noise and a ReLU follow. About half of the entries are zero.

    Args:
        label: number of the class, from which the seed is derived.
        images: number of images.
        hw: locations per image.
        features: number of channels D.
        seed: seed of all classes.

    Returns:
        Features ``(images hw, D)`` and the row ``(D,)``.
    """
    g = torch.Generator().manual_seed(derive(seed, "speed", label))
    side = math.ceil(math.sqrt(hw))

    def sparse(rows: int, density: float) -> Tensor:
        return torch.randn(rows, features, generator=g).square() * (torch.rand(rows, features, generator=g) < density)

    profiles, background = sparse(_PARTS, 0.25), sparse(1, 0.1)
    cells = torch.arange(hw)
    grid = torch.stack([cells // side, cells % side], 1) + 0.5
    centres = torch.rand(images, 1, _PARTS, 2, generator=g) * side
    widths = 0.5 + 1.5 * torch.rand(_PARTS, generator=g)
    heights = 0.5 + torch.rand(images, 1, _PARTS, generator=g)
    blobs = heights * torch.exp(-(grid[:, None] - centres).square().sum(3) / (2 * widths**2))
    x = blobs @ profiles + 0.3 * background
    x = x * (1 + 0.3 * torch.randn(x.shape, generator=g)) + 0.3 * torch.randn(x.shape, generator=g) - 0.1
    F = x.clamp(min=0).reshape(-1, features)
    return F, F.mean(0) - F.mean() + F.mean(0).std() * torch.randn(features, generator=g)
