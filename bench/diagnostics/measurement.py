"""One measurement of memory and speed, in a process of its own: ``python -m bench.diagnostics.measurement < REQUEST``.

Peaks are clean that way, and what runs out of memory ends only itself.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import bench
from bench.core import environment, registry
from bench.core.memory import AllocationFailure, PeakMemory, is_out_of_memory, memory_limit
from bench.diagnostics import synthetic
from bench.diagnostics.machine import timed
from bench.diagnostics.profiling import Sizes, Subject, parameters
from bench.models.classifier import Classifier, feature_shape

What = Literal["training", "inference", "decomposition"]
FIT_CLASSES, FIT_IMAGES = 20, 30
"""What a decomposition is measured on: it goes class by class, so that more classes take longer, not more."""


@dataclass(frozen=True)
class Measurement:
    """What is measured.

    Attributes:
        what: one training step, inference (logits, and an explanation by the prototypes of each image's class), or the
            decomposition of a classifier whose features cost nothing.
        method: name in the catalogue.
        overrides: settings other than the published ones.
        sizes: backbone, classes, images, device.
        batch_size: images at a time.
        steps: repetitions that are timed, after one that is not.
        memory_limit: bytes; ``None``: all there is.
        plugins: files to load before.
    """

    what: What
    method: str
    overrides: Mapping[str, Any]
    sizes: Sizes
    batch_size: int
    steps: int = 3
    memory_limit: int | None = None
    plugins: tuple[str, ...] = field(default=())


def apart(measurement: Measurement) -> dict[str, Any]:
    """Measure in a new process.

    Returns:
        ``status`` (``ok``, ``oom`` or ``failed``), and the numbers or the reason.
    """
    root = str(Path(bench.__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    process = subprocess.run(
        [sys.executable, "-m", "bench.diagnostics.measurement"],
        input=json.dumps(asdict(measurement)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 0:
        found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        return found
    if process.returncode == -9:
        return {"status": "oom", "reason": "killed by the system, which ran out of memory", "overrun": None}
    last = (process.stderr.strip().splitlines() or [f"ended with code {process.returncode}"])[-1]
    return {"status": "failed", "reason": last}


def measure(measurement: Measurement) -> dict[str, Any]:
    """Measure in this process; see :func:`apart`."""
    device = torch.device(measurement.sizes.device)
    environment.make_deterministic()
    subject = Subject(measurement.method, measurement.sizes, measurement.overrides, max(64, measurement.batch_size))
    run = {"training": _training, "inference": _inference, "decomposition": _decomposition}[measurement.what]
    _warm_up(device)
    with PeakMemory(device) as peak:
        try:
            with memory_limit(device, measurement.memory_limit):
                found = run(subject, measurement, peak)
            peak.check(measurement.memory_limit)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            overrun = AllocationFailure.of(
                error, measurement.what, measurement.batch_size, peak.most, measurement.memory_limit
            )
            return {"status": "oom", "reason": str(overrun), "overrun": asdict(overrun)}
    return {"status": "ok", "batch_size": measurement.batch_size, **found}


def _training(subject: Subject, measurement: Measurement, peak: PeakMemory) -> dict[str, Any]:
    learner, phase, step = subject.step()
    images, labels = subject.batch(measurement.batch_size)
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
def _inference(subject: Subject, measurement: Measurement, peak: PeakMemory) -> dict[str, Any]:
    model = subject.model()
    images, labels = subject.batch(measurement.batch_size)
    model(images)
    seconds = [timed(subject.device, model, images)[1] for _ in range(measurement.steps)]
    model.explain(images, labels)
    return {
        "parameters": parameters(model),
        "state_bytes": sum(value.numel() * value.element_size() for value in model.state_dict().values()),
        "peak_bytes": peak.growth,
        "images_per_second": len(images) / statistics.median(seconds),
    }


def _decomposition(subject: Subject, measurement: Measurement, peak: PeakMemory) -> dict[str, Any]:
    sizes = measurement.sizes
    channels, *cells = feature_shape(sizes.backbone, sizes.size)
    classes = min(sizes.classes, FIT_CLASSES)
    box = Classifier(synthetic.StandIn(channels, tuple(cells), sizes.seed), classes).to(subject.device).eval()
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
    """Bytes that a training step's forward pass keeps for its backward pass, parameters and buffers not counted."""
    own = {value.untyped_storage().data_ptr() for value in [*learner.parameters(), *learner.buffers()]}
    saved: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        step(images, labels)
    return sum(saved.values())


def _warm_up(device: torch.device) -> None:
    """Load what torch loads at its first convolution and its first optimiser step: it is no method's memory."""
    layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(device)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(2, 3, 16, 16, device=device)).square().mean().backward()
    optimizer.step()


def main() -> None:
    """Read a measurement as JSON, print its result as a line of JSON."""
    given = json.load(sys.stdin)
    measurement = Measurement(**{**given, "sizes": Sizes(**given["sizes"])})
    for file in measurement.plugins:
        registry.load_plugin(Path(file))
    sys.stdout.write(json.dumps(measure(measurement)) + "\n")


if __name__ == "__main__":
    main()
