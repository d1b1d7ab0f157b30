"""Metrics of a model in memory, without a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.api.results import separated
from bench.core.compat import freed_memory_kept
from bench.core.score import Score

if TYPE_CHECKING:
    from torch import nn

    from bench.contract import Metric, PartPrototypeModel, Samples


class Evaluation(dict[str, Score]):
    """Scores by metric.

    Attributes:
        not_applicable: of metrics that mean nothing for this model or these samples, the reason.
    """

    def __init__(self, scores: Mapping[str, Score], not_applicable: Mapping[str, str]) -> None:
        super().__init__(scores)
        self.not_applicable = dict(not_applicable)


@freed_memory_kept()
def evaluate(
    model: PartPrototypeModel,
    samples: Samples,
    metrics: str | Sequence[str] = (),
    *,
    train: Samples | None = None,
    black_box: nn.Module | None = None,
    set: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> Evaluation:
    """Measure a model on samples, on the device that it is on; nothing is written.

    >>> import bench
    >>> scores = bench.evaluate(model, samples, ["consistency"])  # doctest: +SKIP
    >>> scores["consistency"].value  # doctest: +SKIP

    Args:
        model: a fitted model; it is measured in eval mode and returned to its mode.
        samples: a split: images with labels, key-points and boxes (:class:`bench.contract.Samples`).
        metrics: names or groups in the catalogue, or ``all``; default: those of every run.
        train: the training split, for metrics that choose something before they see ``samples``.
        black_box: the classifier that the method started from, for metrics that compare with it.
        set: parameters of metrics by dotted name, for example ``{"consistency.half": 36}``.
        batch_size: images at a time; it does not change the numbers.

    Returns:
        Mapping of metrics to their scores; ``not_applicable`` of it has the reasons of the others.

    Raises:
        RequestError: if an argument is wrong.
        UnknownName: if a metric is unknown, with the nearest one.
        CellError: if a metric has no finite value or changes the inputs of others.
    """
    import torch

    from bench.config import overrides, schema
    from bench.contract import PartPrototypeModel, RequestError
    from bench.core import registry
    from bench.core.console import Console
    from bench.runner.evaluator import evaluate as measure
    from bench.runner.progress import ConsoleProgress

    if not isinstance(model, PartPrototypeModel):
        raise RequestError(f"evaluate: model is a {type(model).__name__}; write a bench.contract.PartPrototypeModel")
    if not len(samples):
        raise RequestError("evaluate: there are no samples")
    if batch_size < 1:
        raise RequestError(f"evaluate: batch_size is {batch_size}; write 1 or more")
    names = registry.chosen_metrics(separated(metrics), shared=True)
    kinds = {name: registry.load("metrics", name) for name in names}
    given = dict(set or {})
    for name in given:
        if not isinstance(name, str) or name.partition(".")[0] not in kinds:
            raise RequestError(f"set: {name!r}: write METRIC.NAME of a metric that is measured: {', '.join(kinds)}")
    wanted, refused = {}, {}
    for name, kind in kinds.items():
        reason = _lacking(kind, samples, train, black_box)
        if reason:
            refused[name] = reason
            continue
        preset = dict(registry.entry("metrics", name).preset)
        values = overrides.merge(preset, overrides.for_section(given, name), name)
        wanted[name] = {"parameters": schema.validate(kind.Config, values, name).model_dump(mode="json")}
    device = next((tensor.device for tensor in _tensors(model)), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    progress = ConsoleProgress(Console(quiet=True), quiet=True)
    try:
        model.eval()
        scores, unmeasured = measure(
            model, wanted, samples if train is None else train, samples, "evaluation", batch_size, device, progress,
            black_box,
        )  # fmt: skip
    finally:
        for module, training in modes.items():
            module.training = training
    return Evaluation(scores, {**refused, **unmeasured})


def _lacking(kind: type[Metric], samples: Samples, train: Samples | None, black_box: Any) -> str:
    """Return the reason why a metric cannot be measured, if it cannot."""
    from bench.contract import Metric

    if "keypoints" in kind.needs and not samples.visible.any():
        return "the samples have no visible key-points"
    boxes = bool((samples.boxes[:, 2:] > samples.boxes[:, :2]).all())
    if "bbox" in kind.needs and not boxes:
        return "the samples have no bounding boxes"
    if "mask" in kind.needs and not boxes and getattr(samples, "masks", None) is None:
        return "the samples have neither object masks nor bounding boxes"
    if "black_box" in kind.needs and black_box is None:
        return "it compares with the black box: pass black_box="
    # A choice made on the samples that are measured would favour some methods.
    if train is None and kind.prepare is not Metric.prepare:
        return "it chooses on the training split: pass train="
    return ""


def _tensors(model: nn.Module) -> Iterable[Any]:
    yield from model.parameters()
    yield from model.buffers()
