"""The checks of a metric: fed with drawn images, seen through a small model with random prototypes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import (
    CellError,
    Explanation,
    Metric,
    NotApplicable,
    Observation,
    PartPrototypeModel,
    PrototypeTable,
    Score,
    Settings,
)
from bench.core import registry
from bench.core.score import checked
from bench.diagnostics import synthetic
from bench.diagnostics.conformance.methods import KNOWN
from bench.diagnostics.conformance.outcome import Broken, expect
from bench.models.classifier import Classifier
from bench.results.stats.bootstrap import NoInterval
from bench.results.stats.units import sample_of
from bench.runner.metric_guard import Guard, generators

FIRST = "says what it is and what it needs"


class RandomPrototypes(PartPrototypeModel):
    """Two random prototypes for each class, one for all; maxima of scalar products add up to the logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone = synthetic.SmallNet()
            vectors = torch.randn(2 * classes + 1, synthetic.SmallNet.channels)
        own = torch.eye(classes, dtype=torch.bool).repeat_interleave(2, 0)
        self.prototypes = PrototypeTable(torch.cat([own, torch.ones(1, classes, dtype=torch.bool)]), vectors)

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Maps are scalar products of cells and prototypes."""
        maps = torch.einsum("ndhw,pd->nphw", features, self.prototypes.vectors)
        scores = maps.amax((2, 3))
        logits = scores @ self.prototypes.classes.to(scores.dtype)
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """The sum of the class's maps."""
        return self.head(features, classes).maps.sum(1)

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Every maximum, in its cell."""
        maps = self.head(features, classes).maps.flatten(2)
        top, place = maps.max(2, keepdim=True)
        return torch.zeros_like(maps).scatter_(2, place, top).sum(1).unflatten(1, features.shape[2:])


@dataclass
class Measured:
    """A metric and what it looks at."""

    metric: type[Metric]
    config: Any
    samples: synthetic.TensorSamples
    model: nn.Module
    black_box: nn.Module

    def score(self, batches: Iterable[Tensor], guard: Guard | None = None) -> Score:
        """The score of the images at these positions, batch by batch; the guard sees whether anything else changes."""
        samples, name = self.samples, self.metric.name

        def turn() -> AbstractContextManager[None]:
            return guard.turn(name, foreign=True) if guard is not None else nullcontext()

        with turn():
            metric = self.metric(self.config, samples, self.model.prototypes)
            metric.prepare(samples)
        for index in batches:
            seen = Observation(
                self.model,  # type: ignore[arg-type]
                samples.images[index],
                samples.labels[index],
                index,
                samples.keypoints[index],
                samples.visible[index],
                samples.boxes[index],
                self.black_box,
                1.0,
            )
            if guard is not None:
                guard.batch(seen, keep=True)
            with turn():
                metric.update(seen)
        with turn():
            return metric.compute()


def prepare(name: str, folder: Path) -> Measured:
    """What is needed to try the metric of that name."""
    metric: type[Metric] = registry.load("metrics", name)
    expect(issubclass(metric, Metric), f"{metric} is no subclass of bench.contract.Metric")
    preset = dict(registry.entry("metrics", name).preset)
    expect(bool(preset) or metric.name == name, f"its attribute `name` is {metric.name!r}, registered is {name!r}")
    expect(bool(metric.version), "it has no version")
    expect(issubclass(metric.Config, Settings), "its Config is no subclass of bench.contract.Settings")
    expect(metric.needs <= KNOWN, f"needs {sorted(metric.needs - KNOWN)}; known are {sorted(KNOWN)}")
    if "mask" in metric.needs:
        raise Broken("it needs object masks, which drawn images have none of: it cannot be checked here")
    samples = synthetic.stripes(size=64)
    generator = torch.Generator().manual_seed(0)
    samples.keypoints[:] = 64 * torch.rand(samples.keypoints.shape, generator=generator, dtype=torch.float64)
    samples.visible[:] = True
    samples.boxes[:] = torch.tensor([4.0, 4.0, 60.0, 60.0], dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        black_box = Classifier(synthetic.SmallNet(), samples.classes).eval()
    config = metric.Config.model_validate(preset)
    return Measured(metric, config, samples, RandomPrototypes(samples.classes).eval(), black_box)


@torch.no_grad()
def a_score(measured: Measured) -> None:
    """A finite value of some items, and tables whose columns are equally long."""
    score = measured.score(torch.arange(len(measured.samples)).split(16))
    expect(isinstance(score, Score), f"compute returns a {type(score).__name__}, no bench.contract.Score")
    try:
        checked(measured.metric.name, score, measured.metric.unit, measured.metric.aggregates(measured.config))
    except CellError as error:
        raise Broken(str(error)) from error
    expect(score.n > 0, f"n is {score.n}: how many items were averaged")


@torch.no_grad()
def batches_do_not_matter(measured: Measured) -> None:
    """The same value in one batch, in small ones, and in another order."""
    everything = torch.arange(len(measured.samples))
    shuffled = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    one = measured.score([everything]).value
    if not measured.metric.repeatable:
        return
    for what, batches in {"small batches": everything.split(5), "another order": shuffled.split(16)}.items():
        other = measured.score(batches).value
        close = math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)
        expect(close, f"{one:.6g} in one batch, {other:.6g} in {what}")


@torch.no_grad()
def measuring_changes_nothing(measured: Measured) -> None:
    """Batches, splits, models and the process are as before, and a second measurement gives the same."""
    models = {"the model": measured.model, "the black box": measured.black_box}
    guard = Guard(models, {"test": measured.samples}, exact=True)
    batches = torch.arange(len(measured.samples)).split(16)
    try:
        one = measured.score(batches, guard).value
    except NotApplicable:
        raise
    except CellError as error:
        raise Broken(str(error)) from error
    two = measured.score(batches).value
    expect(one == two or not measured.metric.repeatable, f"measured twice: {one:.6g} and {two:.6g}")


@torch.no_grad()
def draws_from_no_global_generator(measured: Measured) -> None:
    """The global generators are as before: else the number depends on what was drawn earlier in the process."""
    before = generators()
    measured.score(torch.arange(len(measured.samples)).split(16))
    drawn_from = [
        name
        for name, one, two in zip(("torch's", "a GPU's", "numpy's", "Python's"), before, generators(), strict=True)
        if str(one) != str(two) or (isinstance(one, Tensor) and not torch.equal(one, two))
    ]
    expect(
        not drawn_from,
        f"it draws from {' and '.join(drawn_from)} global generator: make one, seeded by `seeding.derive`",
    )


@torch.no_grad()
def numbers_follow_from_tables(measured: Measured) -> None:
    """Where the metric says how its numbers follow from its tables, they do: all of them, or it says why not."""
    declared = measured.metric.aggregates(measured.config)
    if not declared:
        return
    score = measured.score(torch.arange(len(measured.samples)).split(16))
    for number, value in {"": score.value, **score.also}.items():
        what = f"its number {number!r}" if number else "its value"
        found = declared.get(number)
        expect(found is not None, f"aggregates() does not tell about {what}")
        if isinstance(found, str):
            continue
        expect(found.table in score.items, f"{what} comes from table {found.table!r}, which the score has not")
        try:
            sample_of(found, score.items[found.table], value)
        except NoInterval as error:
            raise Broken(f"{what} does not follow from table {found.table!r}: {error}") from error


CHECKS: dict[str, Callable[[Measured], None]] = {
    "a finite score, tables in order": a_score,
    "batches and their order do not matter": batches_do_not_matter,
    "measuring changes nothing": measuring_changes_nothing,
    "it draws from no global generator": draws_from_no_global_generator,
    "numbers follow from tables, where it says so": numbers_follow_from_tables,
}
