"""The shape of a backbone's features, known before anything is trained."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import torch

import bench
from bench.contract import BenchError, RequestError
from bench.core import registry
from bench.core.files import read_json, write_json


def feature_shape(backbone: str, side: int) -> tuple[int, int, int]:
    """Channels, rows and columns of a backbone's features of square images.

    Raises:
        RequestError: where it cannot take images of that size.
    """
    try:
        with torch.device("meta"):
            net = registry.load("backbones", backbone)().eval()
            _, channels, rows, columns = net(torch.empty(1, 3, side, side)).shape
    except (RuntimeError, BenchError) as error:
        raise RequestError(f"{backbone} cannot take images of {side} pixels: {str(error).splitlines()[0]}") from error
    return channels, rows, columns


def remembered_shape(backbone: str, side: int, home: Path) -> tuple[int, int, int]:
    """As :func:`feature_shape`, for which torch imports its compiler: that takes longer than planning a whole grid."""
    source = Path(str(sys.modules[registry.load("backbones", backbone).__module__].__file__))
    code = registry.code("backbones", backbone)
    changed = code.digest if code else source.stat().st_mtime_ns
    facts = [backbone, side, str(source), changed, torch.__version__, bench.__version__]
    known = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    file = home / "shapes" / f"{known}.json"
    try:
        found = read_json(file)
    except RequestError:
        channels, rows, columns = feature_shape(backbone, side)
        with contextlib.suppress(OSError):  # a home that cannot be written costs time at the next call, nothing else
            write_json(file, {"backbone": backbone, "side": side, "shape": [channels, rows, columns]})
        return channels, rows, columns
    channels, rows, columns = found["shape"]
    return channels, rows, columns
