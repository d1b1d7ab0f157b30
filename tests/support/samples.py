"""Samples in memory, for tests that train or fit without a data set on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.contract import FitContext
from bench.diagnostics import synthetic
from bench.diagnostics.synthetic import SmallNet, TensorSamples, stripes
from bench.training.trainer import Trainer

__all__ = ["Dying", "Killed", "Silent", "SmallNet", "TensorSamples", "stripes", "task"]


class Silent:
    """A progress that shows nothing and keeps its notes."""

    def __init__(self):
        self.notes = []

    def track(self, items, what, total=None):
        yield from items

    def note(self, message):
        self.notes.append(message)


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


def task(folder: Path, samples: Any, config: Any, **rest: Any) -> FitContext:
    """A task on the CPU with a small network."""
    return synthetic.task(folder, samples, config, Silent(), **rest)
