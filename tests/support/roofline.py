"""Estimated time of a training step on an H200, from the bytes that it moves and the products that it computes.

    python -m tests.support.roofline

Nothing is computed: every operation of a step runs on tensors without content, and its bytes and floating-point
operations are counted. The estimate is the larger of two times: all bytes at the memory's rate, each operation reading
and writing its tensors once, and all products at the rate of the precision. A real step is slower where kernels are
small or the host is late, and faster where operations are fused or find their inputs in the cache.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from bench.contract import PrototypeTable
from bench.diagnostics.synthetic import noise, task
from bench.models.classifier import Classifier
from bench.training.black_box import ClassifierLearner
from tests.support.device_work import TRAINED, Bytes
from tests.support.samples import Silent

# Of the H200 SXM, whose arithmetic is the H100's (https://glennklockwood.com/garden/processors/h100), without sparsity.
BYTES_A_SECOND = 4.8e12
PRODUCTS_A_SECOND = {"fp32": 66.9e12, "tf32": 494.7e12}
CLASSES, BATCH, SIZE = 200, 80, 224


class ResNet34(nn.Module):
    channels = 512

    def __init__(self) -> None:
        super().__init__()
        network = torchvision.models.resnet34(weights=None)
        self.layers = nn.Sequential(*list(network.children())[:-2])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def learner_of(name: str) -> nn.Module:
    """The learner of a method with ResNet-34 at the size of CUB, on the CPU."""
    if name == "blackbox":
        return ClassifierLearner(Classifier(ResNet34(), CLASSES))
    network = TRAINED[name]
    # As published, which the defaults are; but images are not mixed, in a share that is drawn.
    fields = network.method.Config.model_fields
    published = {setting: fields[setting].default for setting in network.settings}
    config = network.config(network.joint(1), **published, **({"mixup": 0} if "mixup" in fields else {}))
    with tempfile.TemporaryDirectory() as folder:
        context = task(Path(folder), noise(CLASSES, CLASSES, 32), config, Silent(), make=ResNet34)
        model: Any = network.method().build(context)
        if name == "deformable":
            model.open_offsets(0)
        learner: nn.Module = network.method().learner(model, context)
    return learner


def step(name: str) -> tuple[float, float]:
    """Return the bytes and the floating-point operations of one training step with Adam."""
    learner = learner_of(name).train()
    learner.before_epoch(1)  # type: ignore[operator]
    for module in learner.modules():
        if isinstance(module, PrototypeTable):
            # The number of prototypes of the largest class, which a table reads once, is content.
            module._width = partial(int, module._width())  # type: ignore[method-assign]
    with FakeTensorMode() as without_content:
        for module in learner.modules():
            for key, parameter in module.named_parameters(recurse=False):
                module._parameters[key] = without_content.from_tensor(parameter)
            for key, buffer in module.named_buffers(recurse=False):
                module._buffers[key] = without_content.from_tensor(buffer)
        optimizer = torch.optim.Adam(learner.parameters(), foreach=False)
        images, labels = torch.empty(BATCH, 3, SIZE, SIZE), torch.empty(BATCH, dtype=torch.long)
        with Bytes("cpu") as traffic, FlopCounterMode(display=False) as products:
            learner(images, labels, "joint")["loss"].backward()
            optimizer.step()
    return traffic.moved, products.get_total_flops()


def main() -> None:
    """Print the table."""
    sys.stdout.write(f"{'':14}{'GB moved':>10}{'TFLOP':>8}{'ms, fp32':>11}{'ms, tf32':>11}{'img/s, tf32':>13}\n")
    for name in (*TRAINED, "blackbox"):
        moved, products = step(name)
        times = {kind: 1e3 * max(moved / BYTES_A_SECOND, products / rate) for kind, rate in PRODUCTS_A_SECOND.items()}
        line = f"{name:14}{moved / 1e9:10.1f}{products / 1e12:8.2f}{times['fp32']:11.1f}{times['tf32']:11.1f}"
        sys.stdout.write(f"{line}{1e3 * BATCH / times['tf32']:13.0f}\n")


if __name__ == "__main__":
    main()
