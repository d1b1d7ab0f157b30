"""Environment of a result: versions, hardware, commit, and the switches of determinism."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import torch

from bench.core import __version__
from bench.core.errors import CellError, RequestError

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "lightning-fabric", "cvxpy")


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA if available.

    Raises:
        RequestError: if torch does not know the device or does not see it.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"--device {name!r}: write auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise RequestError(f"--device {name}: torch sees {count} CUDA devices here; use --device cpu")
        return torch.device("cuda", device.index or 0)
    return device


def lost(device: torch.device) -> bool:
    """Return whether CUDA refuses all further work of this process, as after an illegal access in a kernel."""
    if device.type != "cuda":
        return False
    try:
        # Such an error sticks to the process: every later call returns it, while any other error is over by now.
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that torch sees, as ``CUDA_VISIBLE_DEVICES`` has them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def describe_commit(folder: Path) -> str | None:
    """Return the commit that a git checkout is at, with ``-dirty`` if files differ; ``None`` for other folders."""
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def make_deterministic() -> None:
    """Ask for algorithms that give the same bits every time; those that have none warn."""
    # cuBLAS gives the same bits every time only with a workspace of fixed size (its manual, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As `use_deterministic_algorithms(True, warn_only=True)`, without importing the compiler, which takes a second.
    torch.set_deterministic_debug_mode("warn")
    # It writes into every new tensor before it is used, a third of the time of decoding and a kernel each on a GPU. It
    # helps to find code that reads what it has not written, and changes no other number.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # Benchmarking chooses algorithms by their speed, which differs from run to run.
    torch.backends.cudnn.benchmark = False
    # fp32 means fp32: TF32 convolutions keep 10 bits, too few for squared distances near zero.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextlib.contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Let products and convolutions on a GPU round their factors to 10 bits, inside the context.

    Raises:
        CellError: on another device.
    """
    if device.type != "cuda":
        raise CellError("tf32 is a precision of NVIDIA GPUs: write --precision fp32, or --device cuda")
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def record(device: torch.device) -> dict[str, Any]:
    """Return versions, hardware and commit, for the result."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "bench": __version__,
        "git": describe_commit(Path(__file__).resolve().parent),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": str(device),
        "hardware": hardware,
        "cuda": _cuda(device),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "determinism": _determinism(),
        "arguments": sys.argv[1:],
    }


def packages() -> str:
    """Return everything installed as a constraints file: ``pip install -c`` installs the same versions again."""
    pinned = {item.name.lower(): f"{item.name}=={item.version}" for item in distributions() if item.name}
    return "".join(f"{pinned[name]}\n" for name in sorted(pinned))


def _determinism() -> dict[str, Any]:
    """Return the switches of torch that decide whether a repetition gives the same bits."""
    return {
        "algorithms": ("default", "warn", "error")[torch.get_deterministic_debug_mode()],
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "float32_products": torch.get_float32_matmul_precision(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def _cuda(device: torch.device) -> dict[str, Any] | None:
    if device.type != "cuda":
        return None
    capability = ".".join(str(part) for part in torch.cuda.get_device_capability(device))
    return {"runtime": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "capability": capability}


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
