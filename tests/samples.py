"""Samples in memory, for tests that train or fit without a data set on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.contract import Batch, Task
from bench.train import Trainer


class Silent:
    """A progress that shows nothing and keeps its notes."""

    def __init__(self):
        self.notes = []

    def track(self, items, what, total=None):
        yield from items

    def note(self, message):
        self.notes.append(message)


class Tensors:
    """A split held in memory: images are given as normalised floats."""

    def __init__(self, images, labels, classes, keypoints=None, visible=None):
        n = len(images)
        self.images, self.labels, self.classes = images, labels, classes
        self.parts = ["one", "two"]
        self.keypoints = torch.zeros(n, 2, 2, dtype=torch.float64) if keypoints is None else keypoints
        self.visible = torch.zeros(n, 2, dtype=torch.bool) if visible is None else visible
        self.boxes = torch.zeros(n, 4, dtype=torch.float64)
        self.ids = [str(i) for i in range(n)]
        self.size = images.shape[-1]

    def __len__(self):
        return len(self.images)

    def batches(self, batch_size, device="cpu", *, index=None, augment=None):
        order = torch.arange(len(self)) if index is None else index
        for part in order.split(batch_size):
            images = self.images[part]
            if augment is not None:
                images = augment(images, part)
            yield Batch(images.to(device), self.labels[part].to(device), part)


def stripes(classes=3, per_class=12, size=32, seed=0):
    """Easy images: each class is bright in another horizontal band."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = 0.3 * torch.randn(len(labels), 3, size, size, generator=generator)
    band = size // classes
    for i, label in enumerate(labels.tolist()):
        images[i, label % 3, label * band : (label + 1) * band] += 2.0
    return Tensors(images, labels, classes)


class SmallNet(torch.nn.Module):
    """A two-layer feature extractor with batch normalisation: 16 channels, an eighth of the side."""

    channels = 16

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 4, 4),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 2, 2),
            torch.nn.ReLU(),
        )

    def forward(self, images):
        return self.body(images)


class Killed(Exception):
    """Stands for SIGKILL: nothing of the loop's own runs after it."""


class Dying(Trainer):
    """Dies after so many checkpoints."""

    lives = 0

    def _save(self, *arguments):
        super()._save(*arguments)
        self.lives -= 1
        if self.lives == 0:
            raise Killed


def task(folder: Path, samples: Any, config: Any, *, black_box: Any = None, seed: int = 0, **rest: Any) -> Task:
    """A task on the CPU with a small network."""

    def backbone():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SmallNet()

    progress = Silent()
    device = torch.device("cpu")
    return Task(
        config=config,
        train=samples,
        seed=seed,
        device=device,
        backbone=backbone,
        black_box=black_box,
        trainer=Trainer(folder, device, "fp32", seed, progress),
        progress=progress,
        **rest,
    )
