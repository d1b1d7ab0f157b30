"""Evaluator of a model on a split: all metrics observe the same batches, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import (
    Batch,
    Metric,
    NotApplicable,
    Observation,
    PartPrototypeModel,
    Progress,
    Refused,
    Samples,
    Score,
    require_all,
)
from bench.core import registry
from bench.core.memory import to_device
from bench.core.score import check_unique_names, validated
from bench.runner.metric_guard import Guard, PluginObservation


def compares_black_box(metrics: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether any of the metrics compares a model with its black box."""
    return any("black_box" in registry.load("metrics", name).needs for name in metrics)


def observe(
    model: PartPrototypeModel,
    samples: Samples,
    batch: Batch,
    black_box: nn.Module | None = None,
    fit_seconds: float | None = None,
) -> Observation:
    """Return a batch of a split with its annotations, all on the device of its images."""
    positions, device = batch.index.cpu(), batch.images.device
    annotations = (part[positions] for part in (samples.keypoints, samples.visible, samples.boxes))
    index, *annotations = (to_device(part, device) for part in (positions, *annotations))
    masks = getattr(samples, "masks", None)
    if masks is not None:
        masks = to_device(torch.as_tensor(masks[positions.numpy()]), device)
    seen = Observation(model, batch.images, batch.labels, index, *annotations, black_box, fit_seconds, masks)
    seen.once("positions", lambda: positions)
    return seen


@torch.no_grad()  # not inference mode: a metric may ask for gradients
def evaluate(
    model: PartPrototypeModel,
    wanted: Mapping[str, Mapping[str, Any]],
    train: Samples,
    split: Samples,
    name: str,
    batch_size: int,
    device: torch.device,
    progress: Progress,
    black_box: nn.Module | None = None,
    fit_seconds: float | None = None,
) -> tuple[dict[str, Score], dict[str, str]]:
    """Compute the metrics of a model on a split.

    From the training split a metric may learn, such as the controls' locations; ``wanted`` has the ``parameters`` of
    each metric, and ``name`` is that of the measured split. The batch size changes no number.

    Returns:
        Scores by metric, and for each metric that does not apply the reason.

    Raises:
        CellError: if a metric has no finite value, breaks the contract of scores, or changes state that others see.
    """
    foreign = {metric: code.digest for metric in wanted if (code := registry.code("metrics", metric)) is not None}
    guard = Guard(
        {"the model": model, "the black box": black_box}, {"training": train, name: split}, exact=bool(foreign)
    )
    metrics: dict[str, Metric] = {}
    scores: dict[str, Score] = {}
    refused: dict[str, str] = {}

    def attempt(name: str, step: Callable[[], None]) -> None:
        try:
            with guard.step(name, name in foreign):
                step()
        except NotApplicable as error:
            refused[name] = str(error)
            metrics.pop(name, None)

    def begin(name: str, parameters: Mapping[str, Any]) -> None:
        kind = registry.load("metrics", name)
        metrics[name] = kind(kind.Config.model_validate(parameters), split, model.prototypes)
        metrics[name].prepare(train)

    def end(name: str) -> None:
        metric = metrics[name]
        scores[name] = validated(name, metric.compute(), metric.unit, metric.aggregates(metric.config))

    for metric, facts in wanted.items():
        attempt(metric, partial(begin, metric, facts["parameters"]))
    lasting: dict[object, Any] = {}
    total = -(-len(split) // batch_size)  # rounded up
    for batch in progress.track(split.batches(batch_size, device), f"{name} batches", total):
        seen = observe(model, split, batch, black_box, fit_seconds)
        seen.lasting = lasting
        # Before the first metric: its copies are those of an unchanged batch.
        guard.batch(seen)
        memos: dict[str, dict[object, Any]] = {}
        for metric in list(metrics):
            # A plugin shares cached values only with itself: it may use the names of ours for other values.
            shown = PluginObservation(seen, memos.setdefault(foreign[metric], {})) if metric in foreign else seen
            attempt(metric, partial(metrics[metric].update, shown))
    deferred: list[tuple[Tensor, Refused]] = lasting.get("deferred", [])
    if deferred and not torch.stack([fine.all() for fine, _ in deferred]).all():
        for fine, refused_as in deferred:
            require_all(fine, refused_as)
    for metric in list(metrics):  # a copy: metrics that do not apply are removed
        attempt(metric, partial(end, metric))
    check_unique_names(scores)
    return scores, refused
