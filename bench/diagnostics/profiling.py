"""Profiling of methods: memory and speed, each measurement in a process of its own.

``python -m bench.diagnostics.profiling < REQUEST`` measures one: its peaks are not mixed with those of other
measurements, and running out of memory ends only itself.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.config import overrides, schema
from bench.config.black_box import BlackBoxConfig
from bench.config.plan import black_box_config
from bench.config.schedule import Phase
from bench.contract import FitContext, Method, PartPrototypeModel, RequestError
from bench.core import environment, registry
from bench.core.console import Console
from bench.core.memory import AllocationFailure, PeakMemory, is_out_of_memory, memory_limit
from bench.core.paths import config_file
from bench.core.seeding import derive
from bench.diagnostics import synthetic
from bench.diagnostics.measurements import timed
from bench.models.backbones import build
from bench.models.classifier import Classifier, feature_shape
from bench.runner.progress import ConsoleProgress
from bench.training.black_box import ClassifierLearner
from bench.training.trainer import Learner, freeze_norm

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class ProfileSizes:
    """Sizes that all methods of one measurement share.

    Attributes:
        backbone: name in the catalogue; its weights are random.
        classes: number of classes.
        size: side of the square images in pixels.
        device: ``cpu``, ``cuda:0``, ...
        precision: precision of training.
        seed: seed of weights and images.
    """

    backbone: str
    classes: int
    size: int = 224
    device: str = "cpu"
    precision: Literal["fp32", "bf16", "tf32"] = "fp32"
    seed: int = 0


@dataclass
class ProfiledMethod:
    """Method in one form, built on a number of random images in its published settings but for ``overrides``."""

    name: str
    sizes: ProfileSizes
    overrides: Mapping[str, Any] = field(default_factory=dict)
    images: int = 64

    def __post_init__(self) -> None:
        self.method: Method = registry.load("methods", self.name)()
        section = {f"{self.name}.{key}": value for key, value in self.overrides.items()}
        file = config_file("methods", self.name)
        self.config: Any = schema.from_recipe(file, type(self.method).Config, "published", section, self.name)
        self.device = torch.device(self.sizes.device)
        samples = synthetic.noise(self.sizes.classes, self.images, self.sizes.size, self.sizes.seed)
        # A decomposition keeps its finished classes while it runs; the folder is removed with this object.
        self._folder = tempfile.TemporaryDirectory(prefix="bench-subject-")
        self.task: FitContext = synthetic.task(
            Path(self._folder.name),
            samples,
            self.config,
            ConsoleProgress(Console(stderr=True), quiet=True),
            make=partial(build, self.sizes.backbone, self.sizes.size),
            seed=self.sizes.seed,
            device=self.device,
            precision=self.sizes.precision,
        )

    @property
    def trains(self) -> bool:
        """Whether it has training steps of its own; else it starts from the trained black box."""
        return not self.method.needs_black_box

    def model(self) -> PartPrototypeModel:
        """Build the untrained model in eval mode, on its device."""
        return self.method.build(self.task).to(self.device).eval()

    def black_box(self) -> Classifier:
        """Build the plain classifier with random weights, in eval mode, on its device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.sizes.seed, "head"))
            return Classifier(self.task.backbone(), self.sizes.classes).to(self.device).eval()

    def learner(self) -> tuple[Learner, Phase]:
        """Return the learner and the phase in which most parameters learn.

        Raises:
            RequestError: if the method has no ``learner`` or no ``schedule``.
        """
        if not self.trains:
            learner: Learner = ClassifierLearner(self.black_box())
            plain: BlackBoxConfig = black_box_config(self.sizes.backbone, "published", {})
            assert plain.schedule is not None
            phases = plain.schedule.phases
        else:
            own_learner = self.method.learner(self.model(), self.task)
            if own_learner is None or not hasattr(self.config, "schedule"):
                raise RequestError(
                    f"{self.name} has no training step to measure: give the method `learner(model, task)` and its "
                    "Config a `schedule` (bench/contract.py)"
                )
            learner, phases = own_learner, self.config.schedule.phases
        sizes = {name: sum(parameter.numel() for parameter in group) for name, group in learner.groups().items()}
        # A phase of no epochs trains nothing: it only runs its action.
        trained = [phase for phase in phases if phase.lr and (phase.epochs or phase.steps)] or list(phases)
        return learner.to(self.device), max(trained, key=lambda phase: sum(sizes[name] for name in phase.lr))

    def step(self) -> tuple[Learner, Phase, Step]:
        """Return the learner in train mode, its phase, and one step of its optimiser."""
        learner, phase = self.learner()
        _, step = self.task.trainer.stepper(learner, phase)
        learner.train()
        learner.before_epoch(0)
        if phase.freeze_norm:
            freeze_norm(learner)
        return learner, phase, step

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Return ``count`` images and labels, on the device."""
        batch = next(iter(self.task.train.batches(count, self.device, index=torch.arange(count) % self.images)))
        return batch.images, batch.labels


def chosen(names: tuple[str, ...]) -> list[str]:
    """Return names of methods; ``all`` means all registered ones that compete, and the black box.

    Raises:
        RequestError: for an unknown name, and for a content-free control.
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


def choices(names: tuple[str, ...], pairs: Iterable[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what is measured, by label: name and settings of a method; a setting of several values makes several."""
    single, several = overrides.parse_overrides(pairs)
    found = {}
    for name in chosen(names):
        for choice in overrides.combinations(several, name):
            own = overrides.for_section({**single, **choice}, name)
            label = f"{name} ({', '.join(f'{key}={value}' for key, value in own.items())})" if own else name
            found[label] = name, own
    return found


def black_box() -> str:
    """Return the name of the method that is the plain classifier itself."""
    return next(name for name, entry in registry.names("methods").items() if entry.role == "reference")


def forms(name: str) -> dict[str, Mapping[str, Any]]:
    """Return the settings of a method as run here (``""``) and in the equivalent forms of its published code."""
    method: type[Method] = registry.load("methods", name)
    return {"": {}, **method.published_forms}


def parameters(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


What = Literal["training", "inference", "decomposition"]
# Classes and images per class of a measured decomposition: more classes take more time, not more memory.
FIT_CLASSES, FIT_IMAGES = 20, 30


@dataclass(frozen=True)
class Measurement:
    """Request of one measurement.

    Attributes:
        what: one training step, inference (logits, and an explanation by the prototypes of each image's class), or the
            decomposition of a classifier whose features cost nothing.
        method: name in the catalogue.
        overrides: settings other than the published ones.
        sizes: backbone, classes, images, device.
        batch_size: images per batch.
        steps: timed repetitions, after one that is not timed.
        memory_limit: bytes; ``None``: no limit.
        plugins: files that register methods.
    """

    what: What
    method: str
    overrides: Mapping[str, Any]
    sizes: ProfileSizes
    batch_size: int
    steps: int = 3
    memory_limit: int | None = None
    plugins: tuple[str, ...] = field(default=())


def in_new_process(measurement: Measurement) -> dict[str, Any]:
    """Measure in a new process.

    Returns:
        ``status`` (``ok``, ``oom`` or ``failed``), and the numbers or the reason.
    """
    # Not `python -m bench`, which keeps the memory that it frees: peaks here are of requested memory.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    process = subprocess.run(
        [sys.executable, "-m", "bench.diagnostics.profiling"],
        input=json.dumps(asdict(measurement)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 0:
        result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        return result
    if process.returncode == -9:  # SIGKILL, by the kernel when memory runs out
        return {"status": "oom", "reason": "killed by the system, which ran out of memory", "overrun": None}
    last = (process.stderr.strip().splitlines() or [f"ended with code {process.returncode}"])[-1]
    return {"status": "failed", "reason": last}


def measure(measurement: Measurement) -> dict[str, Any]:
    """Measure in this process; see :func:`in_new_process`."""
    device = torch.device(measurement.sizes.device)
    environment.make_deterministic()
    subject = ProfiledMethod(
        measurement.method, measurement.sizes, measurement.overrides, max(64, measurement.batch_size)
    )
    run = {"training": _training, "inference": _inference, "decomposition": _decomposition}[measurement.what]
    _warm_up(device)
    with PeakMemory(device) as peak:
        try:
            with memory_limit(device, measurement.memory_limit):
                numbers = run(subject, measurement, peak)
            peak.check(measurement.memory_limit)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            overrun = AllocationFailure.of(
                error, measurement.what, measurement.batch_size, peak.most, measurement.memory_limit
            )
            return {"status": "oom", "reason": str(overrun), "overrun": asdict(overrun)}
    return {"status": "ok", "batch_size": measurement.batch_size, **numbers}


def _training(subject: ProfiledMethod, measurement: Measurement, peak: PeakMemory) -> dict[str, Any]:
    learner, phase, step = subject.step()
    images, labels = subject.batch(measurement.batch_size)
    # The first step, which is not timed, also warms up.
    activations = _saved_bytes(learner, step, images, labels)
    seconds = [timed(subject.device, step, images, labels)[1] for _ in range(measurement.steps)]
    return {
        "parameters": parameters(learner),
        "activation_bytes": activations,
        "peak_bytes": peak.growth,
        "images_per_second": len(images) / statistics.median(seconds),
        "phase": phase.name,
        "of_the_black_box": not subject.trains,
    }


@torch.no_grad()
def _inference(subject: ProfiledMethod, measurement: Measurement, peak: PeakMemory) -> dict[str, Any]:
    model = subject.model()
    images, labels = subject.batch(measurement.batch_size)
    model(images)  # warm-up
    seconds = [timed(subject.device, model, images)[1] for _ in range(measurement.steps)]
    model.explain(images, labels)
    return {
        "parameters": parameters(model),
        "state_bytes": sum(value.numel() * value.element_size() for value in model.state_dict().values()),
        "peak_bytes": peak.growth,
        "images_per_second": len(images) / statistics.median(seconds),
    }


def _decomposition(subject: ProfiledMethod, measurement: Measurement, peak: PeakMemory) -> dict[str, Any]:
    sizes = measurement.sizes
    channels, *cells = feature_shape(sizes.backbone, sizes.size)
    classes = min(sizes.classes, FIT_CLASSES)
    box = (
        Classifier(synthetic.PooledColourBackbone(channels, tuple(cells), sizes.seed), classes)
        .to(subject.device)
        .eval()
    )
    task = subject.task
    task.black_box = box
    task.train = synthetic.noise(classes, classes * FIT_IMAGES, sizes.size, sizes.seed)
    _, seconds = timed(subject.device, subject.method.fit, task)
    return {
        "peak_bytes": peak.growth,
        "classes": classes,
        "images": classes * FIT_IMAGES,
        "seconds_per_class": seconds / classes,
    }


def _saved_bytes(learner: nn.Module, step: Callable[..., Any], images: Tensor, labels: Tensor) -> int:
    """Count the bytes that a forward pass keeps for its backward pass, besides parameters and buffers."""
    state = {value.untyped_storage().data_ptr() for value in [*learner.parameters(), *learner.buffers()]}
    saved: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        # Views share a storage, which is counted once.
        storage = value.untyped_storage()
        if storage.data_ptr() not in state:
            saved[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        step(images, labels)
    return sum(saved.values())


def _warm_up(device: torch.device) -> None:
    """Run one convolution and one optimiser step: the libraries that torch then loads are no method's memory."""
    layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(device)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(2, 3, 16, 16, device=device)).square().mean().backward()
    optimizer.step()


def main() -> None:
    """Read a measurement as JSON, print its result as a line of JSON."""
    request = json.load(sys.stdin)
    measurement = Measurement(**{**request, "sizes": ProfileSizes(**request["sizes"])})
    for file in measurement.plugins:
        registry.load_plugin(Path(file))
    sys.stdout.write(json.dumps(measure(measurement)) + "\n")


if __name__ == "__main__":
    main()
