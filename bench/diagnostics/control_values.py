"""Value of a metric on the controls, on the demo birds: its chance level there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.config.schema import dataset_config
from bench.contract import NotApplicable, Progress
from bench.core import registry
from bench.core.seeding import derive
from bench.data.cache import cache_folder, prepare
from bench.data.datasets import open_dataset
from bench.data.object_masks import with_masks
from bench.diagnostics import synthetic
from bench.models.backbones import build
from bench.runner.evaluator import evaluate


def on_controls(metric: str, home: Path, progress: Progress) -> Iterator[tuple[str, str]]:
    """Measure a metric on every control that needs no trained classifier.

    Yields:
        The name of a control, and the value with its unit, or the reason why there is none.
    """
    settings = dataset_config("demo", {})
    dataset = open_dataset("demo", settings.reader or "demo", settings.folder, None, home, progress)
    protocol, folder = settings.protocol, cache_folder(dataset.digest, settings.protocol, home)
    splits = prepare(dataset, protocol, home, progress)
    train, test = splits["train"], splits["test"]
    kind, preset = registry.load("metrics", metric), dict(registry.entry("metrics", metric).preset)
    if "mask" in kind.needs:
        test = with_masks(test, "test", dataset, protocol, folder, progress)
    wanted = {metric: {"parameters": kind.Config(**preset).model_dump(mode="json")}}
    for name, entry in registry.names("methods").items():
        method = entry.load() if entry.role == "control" else None
        if method is None or method.starts_from_black_box(config := method.Config(**dict(entry.preset))):
            continue
        if "prediction" in kind.needs and not method.predicts:
            yield name, "n/a: it predicts no class"
            continue
        with tempfile.TemporaryDirectory() as place:
            work = synthetic.task(Path(place), train, config, progress, seed=derive(0, name),
                                  make=lambda: build(settings.backbones[0], protocol.size))  # fmt: skip
            try:
                model = method().fit(work)
                found, refused = evaluate(
                    model, wanted, train, test, "test", 64, torch.device("cpu"), progress, fit_seconds=0.0
                )
            except NotApplicable as error:
                found, refused = {}, {metric: str(error)}
        yield name, f"{found[metric].value:.4g} {kind.unit}" if found else f"n/a: {refused[metric]}"
