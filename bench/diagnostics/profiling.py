"""A method ready to be measured: built on random images in its published settings, with one training step of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.config import schema
from bench.config.plan import black_box_config
from bench.contract import FitContext, Method, PartPrototypeModel, RequestError
from bench.core import registry
from bench.core.console import Console
from bench.core.paths import config_file
from bench.core.seeding import derive
from bench.diagnostics import synthetic
from bench.models.classifier import Classifier
from bench.runner.progress import ConsoleProgress
from bench.training.black_box import BlackBoxConfig, ClassifierLearner
from bench.training.schedule import Phase
from bench.training.trainer import Learner, freeze_norm

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Sizes:
    """What all methods of one measurement have in common.

    Attributes:
        backbone: name in the catalogue; its weights are random.
        classes: how many.
        size: side of the square images in pixels.
        device: ``cpu``, ``cuda:0``, ...
        precision: of training.
        seed: of weights and images.
    """

    backbone: str
    classes: int
    size: int = 224
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0


@dataclass
class Subject:
    """One method in one form.

    Attributes:
        name: of the method in the catalogue.
        sizes: what it is built for.
        overrides: settings other than the published ones, dotted names without the method's.
        images: how many images the training split has.
    """

    name: str
    sizes: Sizes
    overrides: Mapping[str, Any] = field(default_factory=dict)
    images: int = 64

    def __post_init__(self) -> None:
        self.method: Method = registry.load("methods", self.name)()
        section = {f"{self.name}.{key}": value for key, value in self.overrides.items()}
        file = config_file("methods", self.name)
        self.config: Any = schema.from_recipe(file, type(self.method).Config, "published", section, self.name)
        self.device = torch.device(self.sizes.device)
        samples = synthetic.noise(self.sizes.classes, self.images, self.sizes.size, self.sizes.seed)
        # A decomposition keeps its finished classes while it runs; the folder goes with the subject.
        self._folder = tempfile.TemporaryDirectory(prefix="bench-subject-")
        self.task: FitContext = synthetic.task(
            Path(self._folder.name),
            samples,
            self.config,
            ConsoleProgress(Console(stderr=True), quiet=True),
            make=registry.load("backbones", self.sizes.backbone),
            seed=self.sizes.seed,
            device=self.device,
            precision=self.sizes.precision,
        )

    @property
    def trains(self) -> bool:
        """Whether it has training steps of its own; where not, it starts from the trained black box."""
        return not self.method.needs_black_box

    def model(self) -> PartPrototypeModel:
        """The untrained model in eval mode, on its device."""
        return self.method.build(self.task).to(self.device).eval()

    def black_box(self) -> Classifier:
        """The plain classifier with random weights, in eval mode, on its device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.sizes.seed, "head"))
            return Classifier(self.task.backbone(), self.sizes.classes).to(self.device).eval()

    def learner(self) -> tuple[Learner, Phase]:
        """What is trained, and the phase in which most parameters learn.

        Raises:
            RequestError: where the method does not say what it trains with.
        """
        if not self.trains:
            learner: Learner = ClassifierLearner(self.black_box())
            plain: BlackBoxConfig = black_box_config(self.sizes.backbone, "published", {})
            assert plain.schedule is not None
            phases = plain.schedule.phases
        else:
            found = self.method.learner(self.model(), self.task)
            if found is None or not hasattr(self.config, "schedule"):
                raise RequestError(
                    f"{self.name} has no training step to measure: give the method `learner(model, task)` and its "
                    "Config a `schedule` (bench/contract.py)"
                )
            learner, phases = found, self.config.schedule.phases
        sizes = {name: sum(one.numel() for one in group) for name, group in learner.groups().items()}
        # A phase of no epochs trains nothing: it is there for its action.
        trained = [phase for phase in phases if phase.lr and phase.epochs] or list(phases)
        return learner.to(self.device), max(trained, key=lambda phase: sum(sizes[name] for name in phase.lr))

    def step(self) -> tuple[Learner, Phase, Step]:
        """The learner in train mode, its phase, and one step of its optimiser."""
        learner, phase = self.learner()
        _, step = self.task.trainer.stepper(learner, phase)
        learner.train()
        learner.before_epoch(0)
        if phase.freeze_norm:
            freeze_norm(learner)
        return learner, phase, step

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """So many images and labels, on the device."""
        one = next(iter(self.task.train.batches(count, self.device, index=torch.arange(count) % self.images)))
        return one.images, one.labels


def chosen(names: tuple[str, ...]) -> list[str]:
    """Names of methods; ``all`` stands for every registered one that competes, and the black box.

    Raises:
        RequestError: for a name that no catalogue holds, and for a content-free control.
    """
    if names == ("all",):
        return [*registry.chosen_methods(names), black_box()]
    for name in names:
        try:
            entry = registry.entry("methods", name)
        except registry.UnknownName as error:
            raise RequestError(f"--methods: {error}") from error
        if entry.role == "control":
            raise RequestError(f"--methods {name}: a content-free control has no network to measure")
    return list(names)


def black_box() -> str:
    """The name of the method that is the plain classifier itself."""
    return next(name for name, entry in registry.names("methods").items() if entry.role == "reference")


def forms(name: str) -> dict[str, Mapping[str, Any]]:
    """Settings of a method as it runs here (``""``) and in the forms that its published code computes the same in."""
    method: type[Method] = registry.load("methods", name)
    return {"": {}, **method.published_forms}


def parameters(module: nn.Module) -> int:
    """How many numbers learn."""
    return sum(parameter.numel() for parameter in module.parameters())
