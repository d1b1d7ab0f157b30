"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

# Two test processes with as many threads each wait for one another more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import torch

import bench.models  # noqa: F401  before anything that imports torchvision
from tests.support.stores import StoreMaker

torch.set_num_threads(1)
# Else each child process would compile the project again, and each session all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with many slow tests come first in a distributed session; ``gpu`` tests are skipped without a GPU."""
    if hasattr(config, "workerinput"):
        # Else a process would still work on the longest file when the other has nothing left to do.
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    """A store to fill."""
    return StoreMaker(tmp_path)


@pytest.fixture(scope="session")
def cub50() -> Path:
    """The 50-species subset of CUB, where it is at hand."""
    folder = SHARED / "data" / "cub50"
    if not folder.is_dir():
        pytest.skip("the real-bird subset is not at hand (../shared/data/cub50)")
    return folder


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """ImageNet weights of mobilenet_v2, where they are at hand."""
    return _weights("mobilenet_v2_features.pth")


@pytest.fixture(scope="session")
def efficientnet_weights() -> Path:
    """ImageNet weights of timm's tf_efficientnet_lite0 with its head, where they are at hand."""
    return _weights("tf_efficientnet_lite0.safetensors")


def _weights(name: str) -> Path:
    file = SHARED / "weights" / name
    if not file.is_file():
        pytest.skip("the pretrained weights are not at hand (../shared/weights)")
    return file


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Some photographs of ImageNet, where they are at hand."""
    files = sorted((SHARED / "data" / "imagenet200" / "val").rglob("*.JPEG"))[::125]
    if not files:
        pytest.skip("ImageNet's photographs are not at hand (../shared/data/imagenet200)")
    return files
