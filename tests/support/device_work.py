"""Kernels, waits and copies of a training step, a projection and an evaluation batch, as a table.

    python ../shared/tools/pretend_cuda.py -m tests.support.device_work

prints the table of reports/cost.md. A kernel is an operation of ATen on the device. A wait lets the host stand still
until the device has caught up; every copy to the host is one, and every copy to the device from memory that is not
pinned. What is counted once a fit or an evaluation cancels: of two runs that differ in batches alone, the difference.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.protoconcepts import ProtoConcepts
from bench.contract import InputConfig, PartPrototypeModel
from bench.core import environment, registry
from bench.data.cache import CachedSplit
from bench.diagnostics.synthetic import SmallNet, task
from bench.models.classifier import Classifier
from bench.posthoc.decompose_class import DecompositionConfig, decompose_classes
from bench.runner.evaluator import evaluate
from tests.support.networks import NETWORKS
from tests.support.samples import Silent

SIZE, CLASSES, PARTS = 32, 4, 3
# It has a mask instead of a projection.
_CONCEPTS = replace(
    NETWORKS["protopnet"],
    method=ProtoConcepts,
    settings={"base": "protopnet", "per_class": 2, "depth": 8, "cap": 6.0},
    rates={**NETWORKS["protopnet"].rates, "caps": 0.01},
)
TRAINED = {**NETWORKS, "protoconcepts": _CONCEPTS}
CUDA = torch.device("cuda", 0)
Counts = dict[str, float]


def split(count: int, size: int = SIZE, classes: int = CLASSES) -> CachedSplit:
    """A split of random images as the harness reads them: stored pixels, pinned when they are copied."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator).numpy()
    points = torch.randint(0, size, (count, PARTS, 2), generator=generator).double()
    corner = torch.randint(0, size // 3, (count, 2), generator=generator).double()
    boxes = torch.cat((corner, corner + size // 2), 1)
    names, rows = [str(number) for number in range(count)], torch.arange(count)
    visible = torch.rand(count, PARTS, generator=generator) < 0.8
    mean, std = InputConfig.mean, InputConfig.std
    return CachedSplit(
        images, rows, rows % classes, points, visible, boxes, names, [str(c) for c in range(classes)],
        [f"part {number}" for number in range(PARTS)], "none", f"full-{size}-truncated", mean, std, [],
    )  # fmt: skip


def pretended() -> bool:
    """Return whether the CUDA device is one that counts what it does."""
    return torch.cuda.is_available() and torch.cuda.get_device_name() == "Pretended CUDA device"


class Bytes(TorchDispatchMode):
    """Context that sums the bytes that operations read and write; views move none.

    Args:
        device: kind of the device whose tensors are counted.

    Attributes:
        moved: the bytes, each tensor once for each operation that has it as an argument or a result.
    """

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device, self.moved = device, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [*_tensors(args), *_tensors(list((kwargs or {}).values())), *_tensors([found])]
            self.moved += sum(t.numel() * t.element_size() for t in tensors if t.device.type == self.device)
        return found


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what the device does inside the context; the counts are there at its end."""
    import pretend_cuda

    found: Counts = {}
    with Bytes() as traffic:
        pretend_cuda.reset()
        yield found
        counts = pretend_cuda.counts()
    copies = counts["to_device"] + counts["to_host"]
    found.update(kernels=counts["kernels"], waits=counts["syncs"], copies=copies, bytes=traffic.moved)


def per_batch(work: Callable[[int], Any]) -> Counts:
    """Return the counts of one batch more: the difference between four batches and two, halved."""
    work(2)  # what is made at the first use, such as matrices of an interpolation
    two, four = {}, {}
    for found, batches in ((two, 2), (four, 4)):
        with counted() as counts:
            work(batches)
        found.update(counts)
    return {name: (four[name] - two[name]) / 2 for name in two}


def training_step(name: str, batch: int = 8) -> Counts:
    """Counts of one step in which everything learns."""
    network = TRAINED[name]

    def work(batches: int) -> None:
        config = network.config(network.joint(1))
        config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"batch_size": batch})})
        with tempfile.TemporaryDirectory() as folder:
            context = task(Path(folder), split(batches * batch), config, Silent(), device=CUDA)
            learner = network.method().learner(network.method().build(context), context)
            context.trainer.fit(learner, config.schedule, context.train)

    return per_batch(work)


def fitted(name: str, device: torch.device = CUDA) -> PartPrototypeModel:
    """An untrained network, or a decomposition of an untrained classifier."""
    with tempfile.TemporaryDirectory() as folder:
        if name in TRAINED:
            context = task(Path(folder), split(2 * CLASSES), TRAINED[name].config(), Silent(), device=device)
            model = TRAINED[name].method().build(context)
            if name == "deformable":
                model.open_offsets(0)
            return model.to(device).eval()
        torch.manual_seed(0)
        box = Classifier(SmallNet(), CLASSES).eval().to(device)
        method = registry.load("methods", name)
        context = task(Path(folder), split(6 * CLASSES), method.Config(k=2), Silent(), black_box=box, device=device)
        return method().fit(context).to(device).eval()


def projection_batch(name: str) -> Counts:
    """Counts of one batch of the projection onto training patches."""
    model = fitted(name)
    learner = NETWORKS[name].method().learner(model, task(Path(), split(4), NETWORKS[name].config(), Silent()))
    return per_batch(lambda batches: learner.act("project", split(64 * batches)))


def evaluation_batch(name: str, *metrics: str, batch: int = 16) -> Counts:
    """Counts of one evaluation batch, all metrics together, of which each looks at every image."""
    model = fitted(name)
    presets = {metric: dict(registry.entry("metrics", metric).preset) for metric in metrics}
    wanted = {metric: {"parameters": preset} for metric, preset in presets.items()}

    def work(batches: int) -> None:
        images = split(batch * batches)
        evaluate(model, wanted, images, images, "test", batch, CUDA, Silent(), fit_seconds=1.0)

    return per_batch(work)


def decomposition(classes: int) -> Counts:
    """Counts of one class of a chunk of so many that are decomposed together, by the defaults of `ours`."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(classes, 30, 16, generator=generator).to(CUDA)
    rows = torch.full((classes,), 30)
    weights = torch.randn(classes, 16, generator=generator).to(CUDA)
    config = DecompositionConfig()
    with counted() as counts, torch.no_grad():
        decompose_classes(config, features, rows, weights, (2, 3), 0, list(range(classes)))
    return {name: value / classes for name, value in counts.items()}


def rows() -> Iterator[tuple[str, Counts]]:
    """Yield the lines of the table."""
    for name in TRAINED:
        yield f"{name}, training step", training_step(name)
    for name in NETWORKS:
        yield f"{name}, projection batch", projection_batch(name)
    # As many classes as 1 GiB holds of ResNet-50's features of CUB (30 images, 49 cells, 2,048 channels).
    for together in (22, 200):
        yield f"ours, one of {together} classes at a time", decomposition(together)
    for name in (*TRAINED, "ours", "ours-contrast"):
        yield (
            f"{name}, batch of consistency, stability, axioms",
            evaluation_batch(name, "consistency", "stability", "sensitivity", "completeness", "linearity"),
        )
    for metric in registry.names("metrics"):
        if metric not in ("fidelity", "misalignment"):
            yield f"ours, batch of {metric}", evaluation_batch("ours", metric)


def write(line: str) -> None:
    """Write a line at once: a table takes minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table, or its lines as JSON after ``--json``."""
    environment.make_deterministic()
    as_json = "--json" in sys.argv
    if not as_json:
        write(f"{'':52}{'kernels':>10}{'waits':>8}{'copies':>8}{'MiB moved':>11}")
    for name, counts in rows():
        if as_json:
            write(json.dumps([name, counts]))
            continue
        numbers = (
            f"{counts['kernels']:10.0f}{counts['waits']:8.1f}{counts['copies']:8.1f}{counts['bytes'] / 2**20:11.1f}"
        )
        write(f"{name:52}{numbers}")


if __name__ == "__main__":
    main()
