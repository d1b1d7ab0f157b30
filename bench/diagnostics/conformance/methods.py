"""Conformance checks of a method, fitted on a few easy images and called in all ways of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from scipy.stats import binom

from bench.config.plan import ALWAYS_PROVIDED
from bench.config.schema import from_recipe
from bench.contract import CellError, FitContext, Method, NotApplicable, PartPrototypeModel, Settings
from bench.core import registry
from bench.core.console import Console
from bench.core.paths import config_file
from bench.diagnostics import synthetic
from bench.diagnostics.conformance.outcome import Broken, expect, expect_close
from bench.models.classifier import Classifier
from bench.runner.evaluator import observe
from bench.runner.metric_guard import Guard
from bench.runner.progress import ConsoleProgress

KNOWN = frozenset({"image", "label", "bbox", "keypoints", "mask"}) | ALWAYS_PROVIDED
FIRST = "is fitted on a few synthetic images, one epoch of each phase"
LAST = "its demo recipe learns synthetic images"


@dataclass
class Fitted:
    """Method fitted on synthetic images: ``config`` has one epoch for each phase, ``whole`` is the demo recipe."""

    method: type[Method]
    config: Any
    whole: Any
    samples: synthetic.TensorSamples
    task: FitContext
    model: PartPrototypeModel
    folder: Path

    def another_task(self, config: Any = None) -> FitContext:
        """Build the same task again, with other settings if given."""
        return _task(self.method, self.config if config is None else config, self.samples, self.folder / "again")


def prepare(name: str, folder: Path, settings: Mapping[str, Any] | None = None) -> Fitted:
    """Fit the method of a name, in its demo settings but for these, by their dotted names."""
    method: type[Method] = registry.load("methods", name)
    expect(issubclass(method, Method), f"{method} is no subclass of bench.contract.Method")
    preset = {f"{name}.{key}": value for key, value in registry.entry("methods", name).preset}
    # An entry with settings of its own is one of several of the same class.
    expect(bool(preset) or method.name == name, f"its attribute `name` is {method.name!r}, registered is {name!r}")
    expect(issubclass(method.Config, Settings), "its Config is no subclass of bench.contract.Settings")
    expect(method.needs <= KNOWN, f"needs {sorted(method.needs - KNOWN)}; known are {sorted(KNOWN)}")
    config: Any = from_recipe(config_file("methods", name), method.Config, "demo", preset | dict(settings or {}), name)
    whole = config
    if hasattr(config, "schedule"):
        phases = [
            phase.model_copy(update={"epochs": int(phase.epochs > 0 or phase.steps is not None), "steps": None})
            for phase in config.schedule.phases
        ]
        config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"phases": tuple(phases)})})
    samples = synthetic.stripes(size=64)
    samples.keypoints[:] = torch.tensor([[10.0, 20.0], [50.0, 40.0]], dtype=torch.float64)
    samples.visible[:] = True
    task = _task(method, config, samples, folder / "fit")
    return Fitted(method, config, whole, samples, task, method().fit(task), folder)


def _task(method: type[Method], config: Any, samples: synthetic.TensorSamples, folder: Path) -> FitContext:
    box = None
    if method.starts_from_black_box(config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            box = Classifier(synthetic.SmallNet(), samples.classes).eval()
    return synthetic.task(folder, samples, config, ConsoleProgress(Console(stderr=True), quiet=True), black_box=box)


@torch.no_grad()
def shapes(fitted: Fitted) -> None:
    """Check the shapes of prototypes, classes and explanations."""
    model, samples = fitted.model, fitted.samples
    expect(isinstance(model, PartPrototypeModel), "fit returns no bench.contract.PartPrototypeModel")
    expect(not model.training, "fit returns a model in train mode: end with `.eval()`")
    count, table = len(model.prototypes), model.prototypes.classes
    expect(table.shape == (count, samples.classes), f"prototypes.classes is {tuple(table.shape)}")
    expect(bool(table.any(0).all()), "some class has no prototype")
    if fitted.method.class_specific:
        expect(bool((table.sum(1) == 1).all()), "class_specific, but some prototype belongs to no or several classes")
    explanation = model.explain(samples.images[:5])
    expected = {"logits": (5, samples.classes), "scores": (5, count)}
    for name, shape in expected.items():
        actual = tuple(getattr(explanation, name).shape)
        expect(actual == shape, f"{name} of 5 images are {actual}, expected {shape}")
    maps = explanation.maps
    expect(maps.ndim == 4 and maps.shape[:2] == (5, count), f"maps of 5 images are {tuple(maps.shape)}")
    rings, sides = model.border, maps.shape[2:]
    expect(
        isinstance(rings, int) and 0 <= 2 * rings < min(sides),
        f"border is {rings!r}: how many rings of cells look partly beyond the image, of maps {tuple(sides)}",
    )


@torch.no_grad()
def finite(fitted: Fitted) -> None:
    """Check that nothing is NaN or infinite."""
    images, labels = fitted.samples.images, fitted.samples.labels
    explanation = fitted.model.explain(images)
    attribution = fitted.model.attribute(fitted.model.backbone(images), labels)
    for name, value in {**explanation.__dict__, "attribution": attribution}.items():
        if value is not None:
            expect(bool(torch.isfinite(value).all()), f"{name} are not all finite")


@torch.no_grad()
def calls_agree(fitted: Fitted) -> None:
    """Check that logits and maps are equal for all ways to compute them."""
    model, images, labels = fitted.model, fitted.samples.images[10:16], fitted.samples.labels[10:16]
    everything, own = model.explain(images), model.explain(images, labels)
    expect_close("logits of model(images) and explain(images)", model(images), everything.logits, 1e-5, 1e-5)
    expect_close("logits of explain(images, classes) and explain(images)", own.logits, everything.logits, 1e-5, 1e-5)
    attribution = model.attribute(model.backbone(images), labels)
    expect(attribution.ndim == 3 and len(attribution) == 6, f"attribute of 6 images is {tuple(attribution.shape)}")
    expect(own.indices is not None, "explain(images, classes) gives no indices")
    assert own.indices is not None
    expect(torch.equal(own.indices, model.prototypes.of(labels)), "indices are not prototypes.of(classes)")
    valid = own.indices >= 0
    for name in ("maps", "scores"):
        chosen, whole = getattr(own, name), model.pick(getattr(everything, name), own.indices)
        title = f"{name} of explain(images, classes) and explain(images)"
        expect_close(title, chosen[valid], whole[valid], 1e-4, 1e-5)


@torch.no_grad()
def axioms_can_be_measured(fitted: Fitted) -> None:
    """Check that contributions and Shapley values, if any, sum to the logit with the offset; combined logits."""
    model, images, labels = fitted.model, fitted.samples.images[10:16], fitted.samples.labels[10:16]
    features = model.backbone(images)
    logits, offset = model.logits(features), model.offset(labels)
    expect(offset.shape == labels.shape, f"offset of {len(labels)} images is {tuple(offset.shape)}")
    expect(isinstance(model.apart, str), "apart is no text: why cells do not all play the same role, if so")
    for name in ("contributions", "shapley"):
        with suppress(NotApplicable):
            total = getattr(model, name)(features, labels).sum((1, 2)) + offset
            logit = logits.gather(1, labels[:, None])[:, 0]
            expect_close(f"{name} and offset, summed, and the logit", total, logit, 1e-3, 1e-3)
    if model.mixes:
        weights = torch.nn.functional.one_hot(labels, fitted.samples.classes).to(features.dtype)
        first, second = model.attribute(features, labels), model.attribute(features, weights)
        expect_close("attribute of a class and of the weights that choose it", second, first, 1e-4, 1e-4)


@torch.no_grad()
def batch_does_not_matter(fitted: Fitted) -> None:
    """Check that an image's explanation does not depend on the other images of its batch."""
    images, labels = fitted.samples.images, fitted.samples.labels
    together = fitted.model.explain(images[:8], labels[:8])
    alone = fitted.model.explain(images[3:4], labels[3:4])
    # A prototype projected onto this very image is at distance 0, where the log similarity has slope 1e4: rounding
    # of the distance (1e-7) shows there as 1e-3.
    expect_close("maps of an image alone and among others", alone.maps[0], together.maps[3], 1e-3, 1e-2)
    expect_close("logits of an image alone and among others", alone.logits[0], together.logits[3], 1e-3, 1e-2)


@torch.no_grad()
def survives_saving(fitted: Fitted) -> None:
    """Check that the model of ``build`` loads the saved state and explains like the fitted model."""
    file, images = fitted.folder / "model.safetensors", fitted.samples.images[:4]
    save_file({name: value.contiguous() for name, value in fitted.model.state_dict().items()}, file)
    other = fitted.method().build(fitted.task)
    other.load_state_dict(load_file(file))
    first, second = fitted.model.explain(images), other.eval().explain(images)
    expect(torch.equal(first.maps, second.maps), "maps of the saved and loaded model differ")
    expect(torch.equal(first.logits, second.logits), "logits of the saved and loaded model differ")


def same_seed_same_model(fitted: Fitted) -> None:
    """Check that a second fit with the same seed gives the same state, bit by bit."""
    torch.rand(7)  # another state of the global generator
    samples = fitted.samples
    names = ("images", "labels", "keypoints", "visible", "boxes")
    before = {name: getattr(samples, name).clone() for name in names}
    again = fitted.method().fit(fitted.another_task()).state_dict()
    written = [name for name in names if not torch.equal(getattr(samples, name), before[name])]
    expect(not written, f"fitting writes into the training split's {', '.join(written)}: work on copies")
    differ = [name for name, value in fitted.model.state_dict().items() if not torch.equal(value, again[name])]
    expect(not differ, f"fitted twice with one seed, these differ: {', '.join(differ[:4])} (seed draws with `derive`)")


@torch.no_grad()
def explaining_changes_nothing(fitted: Fitted) -> None:
    """Check that two explanations are equal and leave the model's state unchanged."""
    model, images, labels = fitted.model, fitted.samples.images[:4], fitted.samples.labels[:4]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (model.explain(images, labels).maps for _ in range(2))
    expect(torch.equal(first, second), "the same images are explained differently the second time")
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed, f"explaining changes {', '.join(changed[:4])}")


@torch.no_grad()
def calls_change_nothing(fitted: Fitted) -> None:
    """Check that no call of the model changes its inputs or the process."""
    model, samples = fitted.model, fitted.samples
    seen = observe(model, samples, next(samples.batches(4)))
    guard = Guard({"the model": model}, {"test": samples}, exact=True)
    guard.batch(seen)
    ways: dict[str, Callable[[], object]] = {
        "backbone and head": lambda: seen.own,
        "head": lambda: model.head(seen.features),
        "attribute": lambda: model.attribute(seen.features, seen.labels),
        "logits": lambda: model.logits(seen.features),
        "explain": lambda: model.explain(seen.images, seen.labels),
        "contributions": lambda: model.contributions(seen.features, seen.labels),
        "shapley": lambda: model.shapley(seen.features, seen.labels),
        "offset": lambda: model.offset(seen.labels),
    }
    for name, call in ways.items():
        try:
            with guard.step(f"its {name}", foreign=True), suppress(NotApplicable):
                call()
        except CellError as error:
            raise Broken(str(error)) from error


def steps_can_be_measured(fitted: Fitted) -> None:
    """Check that a method with a schedule returns its learner."""
    if hasattr(fitted.config, "schedule"):
        _loss(fitted, fitted.config)


def published_forms_are_equal(fitted: Fitted) -> None:
    """Check that the loss equals that of the published code's form."""
    for form, overrides in fitted.method.published_forms.items():
        values = {**fitted.config.model_dump(), **overrides}
        literal = _loss(fitted, fitted.method.Config.model_validate(values))
        expect_close(f"the loss here and in the form {form!r}", _loss(fitted, fitted.config), literal, 1e-4, 1e-5)


def _loss(fitted: Fitted, config: Any) -> torch.Tensor:
    """Compute the loss of the first images before any training."""
    task, samples = fitted.another_task(config), fitted.samples
    method = fitted.method()
    learner: Any = method.learner(method.build(task), task)
    expect(learner is not None, "Config has a schedule, but `learner(model, task)` returns nothing: fit's own learner")
    phase = next((phase for phase in config.schedule.phases if phase.lr), config.schedule.phases[0])
    learner.eval()
    learner.before_epoch(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss: torch.Tensor = learner(samples.images[::5], samples.labels[::5], phase.name)["loss"]
    expect(loss.requires_grad and loss.ndim == 0, "the learner's `loss` is no scalar with a gradient")
    return loss.detach()


def at_chance(fitted: Fitted) -> str:
    """Fit new images by the whole demo recipe; return a warning if others are then predicted no better than by chance.

    The images are easy (a bright band is at another height in each class), and so is learning to tell them apart.
    """
    train, test = synthetic.stripes(per_class=100, size=64), synthetic.stripes(per_class=20, size=64, seed=1)
    task = _task(fitted.method, fitted.whole, train, fitted.folder / "whole")
    if task.black_box is not None:
        optimiser = torch.optim.Adam(task.black_box.train().parameters(), lr=0.01)
        for batch in (batch for _ in range(5) for batch in train.batches(30, index=_shuffled(len(train)))):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(task.black_box(batch.images), batch.labels).backward()
            optimiser.step()
        task.black_box.eval()
    model = fitted.method().fit(task)
    with torch.no_grad():
        right = int((model(test.images).argmax(1) == test.labels).sum())
    # The binomial test: guessing is right as often in one of a hundred fits.
    if binom.sf(right - 1, len(test), 1 / test.classes) < 0.01:
        return ""
    return (
        f"{right} of {len(test)} new images are predicted, where guessing predicts {len(test) // test.classes}: "
        "look at the losses of a run on demo"
    )


def _shuffled(count: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


CHECKS: dict[str, Callable[[Fitted], None]] = {
    "shapes": shapes,
    "nothing is NaN or infinite": finite,
    "all calls give the same": calls_agree,
    "contributions and offsets are consistent": axioms_can_be_measured,
    "an image does not depend on its batch": batch_does_not_matter,
    "saved and loaded, it is the same": survives_saving,
    "the same seed fits the same model": same_seed_same_model,
    "explaining changes nothing": explaining_changes_nothing,
    "calling it changes nothing": calls_change_nothing,
    "its training steps can be measured": steps_can_be_measured,
    "published forms give the same loss": published_forms_are_equal,
}
