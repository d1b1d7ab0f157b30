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
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from bench.diagnostics.synthetic import noise, task
from bench.models.classifier import Classifier
from bench.training.black_box import ClassifierLearner
from tests.support.device_work import Bytes
from tests.support.networks import NETWORKS
from tests.support.samples import Silent

# Of the H200 SXM, not checked against NVIDIA's data sheet; TF32 without sparsity.
BYTES_A_SECOND = 4.8e12
PRODUCTS_A_SECOND = {"fp32": 67e12, "tf32": 494e12}
CLASSES, BATCH, SIZE = 200, 80, 224
# As published, for CUB; but images are not mixed, in a share that is drawn.
SETTINGS: dict[str, dict[str, Any]] = {
    "protopnet": {"per_class": 10, "depth": 128},
    "tesnet": {"per_class": 10, "depth": 64},
    "protopool": {"prototypes": 202, "slots": 10, "depth": 256, "mixup": 0},
    "deformable": {"per_class": 6, "hidden": 128},
}


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
    network = NETWORKS[name]
    config = network.config(network.joint(1), **SETTINGS[name])
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
    sys.stdout.write(f"{'':12}{'GB moved':>10}{'TFLOP':>8}{'ms, fp32':>11}{'ms, tf32':>11}{'img/s, tf32':>13}\n")
    for name in (*NETWORKS, "blackbox"):
        moved, products = step(name)
        times = {kind: 1e3 * max(moved / BYTES_A_SECOND, products / rate) for kind, rate in PRODUCTS_A_SECOND.items()}
        line = f"{name:12}{moved / 1e9:10.1f}{products / 1e12:8.2f}{times['fp32']:11.1f}{times['tf32']:11.1f}"
        sys.stdout.write(f"{line}{1e3 * BATCH / times['tf32']:13.0f}\n")


if __name__ == "__main__":
    main()
