"""Conformance checks of a metric on synthetic images and a small model with random prototypes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import schema
from bench.contract import CellError, Metric, NotApplicable, PartPrototypeModel, Score, Settings
from bench.core import registry
from bench.core.score import validated
from bench.diagnostics import synthetic
from bench.diagnostics.conformance.methods import KNOWN
from bench.diagnostics.conformance.outcome import Broken, expect
from bench.models.classifier import Classifier
from bench.results.stats.bootstrap import NoInterval
from bench.results.stats.units import sample_of
from bench.runner.evaluator import observe
from bench.runner.metric_guard import Guard, generators

FIRST = "declares its name, settings and needs"


@dataclass
class Measured:
    """Metric with its samples, model and black box."""

    metric: type[Metric]
    config: Any
    samples: synthetic.TensorSamples
    model: PartPrototypeModel
    black_box: nn.Module

    def score(self, batches: Iterable[Tensor], guard: Guard | None = None) -> Score:
        """Compute the score of batches of image positions; the guard checks whether anything else changes."""
        samples, name = self.samples, self.metric.name

        def step() -> AbstractContextManager[None]:
            return guard.step(name, foreign=True) if guard is not None else nullcontext()

        with step():
            metric = self.metric(self.config, samples, self.model.prototypes)
            metric.prepare(samples)
        for index in batches:
            batch = next(samples.batches(len(index), index=index))
            seen = observe(self.model, samples, batch, self.black_box, fit_seconds=1.0)
            if guard is not None:
                guard.batch(seen, keep=True)
            with step():
                metric.update(seen)
        with step():
            return metric.compute()


def prepare(name: str, folder: Path, settings: Mapping[str, Any] | None = None) -> Measured:
    """Build the samples and models to check the metric of a name, in these settings, by their dotted names."""
    metric: type[Metric] = registry.load("metrics", name)
    expect(issubclass(metric, Metric), f"{metric} is no subclass of bench.contract.Metric")
    preset = dict(registry.entry("metrics", name).preset)
    expect(bool(preset) or metric.name == name, f"its attribute `name` is {metric.name!r}, registered is {name!r}")
    expect(bool(metric.version), "it has no version")
    expect(issubclass(metric.Config, Settings), "its Config is no subclass of bench.contract.Settings")
    expect(metric.needs <= KNOWN, f"needs {sorted(metric.needs - KNOWN)}; known are {sorted(KNOWN)}")
    samples = synthetic.stripes(size=64)
    generator = torch.Generator().manual_seed(0)
    samples.keypoints[:] = 64 * torch.rand(samples.keypoints.shape, generator=generator, dtype=torch.float64)
    samples.visible[:] = True
    samples.boxes[:] = torch.tensor([4.0, 4.0, 60.0, 60.0], dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        black_box = Classifier(synthetic.SmallNet(), samples.classes).eval()
    values = schema.merge(preset, schema.for_section(settings or {}, name), name)
    config = schema.validate(metric.Config, values, name)
    return Measured(metric, config, samples, synthetic.RandomPrototypes(samples.classes).eval(), black_box)


@torch.no_grad()
def a_score(measured: Measured) -> None:
    """Check that the score has a finite value of some items, and tables with columns of equal length."""
    score = measured.score(torch.arange(len(measured.samples)).split(16))
    expect(isinstance(score, Score), f"compute returns a {type(score).__name__}, no bench.contract.Score")
    try:
        validated(measured.metric.name, score, measured.metric.unit, measured.metric.aggregates(measured.config))
    except CellError as error:
        raise Broken(str(error)) from error
    expect(score.n > 0, f"n is {score.n}: how many items were averaged")


@torch.no_grad()
def batches_do_not_matter(measured: Measured) -> None:
    """Check that one batch, small batches and another order give the same value."""
    everything = torch.arange(len(measured.samples))
    shuffled = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    whole = measured.score([everything]).value
    if not measured.metric.repeatable:
        return
    for title, batches in {"small batches": everything.split(5), "another order": shuffled.split(16)}.items():
        other = measured.score(batches).value
        close = math.isclose(whole, other, rel_tol=1e-4, abs_tol=1e-6)
        expect(close, f"{whole:.6g} in one batch, {other:.6g} in {title}")


@torch.no_grad()
def measuring_changes_nothing(measured: Measured) -> None:
    """Check that batches, splits, models and the process stay unchanged, and a second measurement is equal."""
    models = {"the model": measured.model, "the black box": measured.black_box}
    guard = Guard(models, {"test": measured.samples}, exact=True)
    batches = torch.arange(len(measured.samples)).split(16)
    try:
        first = measured.score(batches, guard).value
    except NotApplicable:
        raise
    except CellError as error:
        raise Broken(str(error)) from error
    second = measured.score(batches).value
    expect(first == second or not measured.metric.repeatable, f"measured twice: {first:.6g} and {second:.6g}")


@torch.no_grad()
def draws_from_no_global_generator(measured: Measured) -> None:
    """Check that the global generators stay unchanged: else the number depends on earlier draws in the process."""
    before = generators()
    measured.score(torch.arange(len(measured.samples)).split(16))
    drawn_from = [
        name
        for name, old, new in zip(("torch's", "a GPU's", "numpy's", "Python's"), before, generators(), strict=True)
        if str(old) != str(new) or (isinstance(old, Tensor) and not torch.equal(old, new))
    ]
    expect(
        not drawn_from,
        f"it draws from {' and '.join(drawn_from)} global generator: make one, seeded by `seeding.derive`",
    )


@torch.no_grad()
def numbers_follow_from_tables(measured: Measured) -> None:
    """Check that all numbers follow from the tables as the metric declares in ``aggregates``."""
    declared = measured.metric.aggregates(measured.config)
    if not declared:
        return
    score = measured.score(torch.arange(len(measured.samples)).split(16))
    for number, value in {"": score.value, **score.also}.items():
        title = f"its number {number!r}" if number else "its value"
        aggregate = declared.get(number)
        expect(aggregate is not None, f"aggregates() does not declare {title}")
        if isinstance(aggregate, str):
            continue
        expect(aggregate.table in score.items, f"{title} comes from table {aggregate.table!r}, which the score lacks")
        try:
            sample_of(aggregate, score.items[aggregate.table], value)
        except NoInterval as error:
            raise Broken(f"{title} does not follow from table {aggregate.table!r}: {error}") from error


CHECKS: dict[str, Callable[[Measured], None]] = {
    "a finite score, tables in order": a_score,
    "batches and their order do not matter": batches_do_not_matter,
    "measuring changes nothing": measuring_changes_nothing,
    "it draws from no global generator": draws_from_no_global_generator,
    "numbers follow from tables as declared": numbers_follow_from_tables,
}
