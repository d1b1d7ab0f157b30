"""Classifier on the features of a backbone, and the shape of those features before anything is trained."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.contract import BenchError, BlackBox, RequestError
from bench.core import __version__, registry
from bench.core.files import read_json, write_json
from bench.models.backbones import NamedBackbone, build
from bench.models.library import LibraryNet, on_meta


class Classifier(BlackBox):
    """Black box: feature extractor, global average pooling, one linear layer.

    Its logits are means over cells plus a bias, ``logit[c] = mean(weight[c] @ features[cell]) + bias[c]``, so that each
    cell has an exact contribution, which the decomposition takes apart.
    """

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.channels), classes)  # type: ignore[arg-type]

    def logits(self, features: Tensor) -> Tensor:
        """Return logits ``(N, classes)`` of features ``(N, D, h, w)``."""
        return self.head(features.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, classes)`` of normalised images ``(N, 3, H, W)``."""
        return self.logits(self.backbone(images))


def feature_shape(backbone: str, side: int) -> tuple[int, int, int]:
    """Return channels, rows and columns of a backbone's features of square images.

    Raises:
        RequestError: if the backbone cannot take images of that size.

    Example:
        >>> feature_shape("resnet18", 224)
        (512, 7, 7)
    """
    try:
        # On the meta device shapes are computed without memory or arithmetic.
        net = on_meta(lambda: build(backbone, side))
        with torch.device("meta"):
            _, channels, rows, columns = net(torch.empty(1, 3, side, side)).shape
    except (RuntimeError, AssertionError, BenchError) as error:
        raise RequestError(f"{backbone} cannot take images of {side} pixels: {str(error).splitlines()[0]}") from error
    return channels, rows, columns


def cached_feature_shape(backbone: str, side: int, home: Path) -> tuple[int, int, int]:
    """Return :func:`feature_shape` from ``home/shapes`` if the backbone's code is unchanged, else compute and store it.

    Computing it makes torch import its compiler, which takes longer than planning a whole grid.

    Raises:
        RequestError: if the backbone cannot take images of that size.
    """
    factory = registry.load("backbones", backbone)
    # Of a library's network: the library's version, and the code that finds the map in it.
    network = factory.source if isinstance(factory, NamedBackbone) else factory
    source = Path(str(sys.modules[network.__module__].__file__))
    code = registry.code("backbones", backbone)
    version = code.digest if code else source.stat().st_mtime_ns
    facts = [backbone, side, str(source), version, torch.__version__, __version__]
    if isinstance(network, LibraryNet):
        facts.append(sys.modules[network.library].__version__)
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    file = home / "shapes" / f"{key}.json"
    try:
        record = read_json(file)
    except RequestError:
        channels, rows, columns = feature_shape(backbone, side)
        with contextlib.suppress(OSError):  # a home that cannot be written costs time at the next call, nothing else
            write_json(file, {"backbone": backbone, "side": side, "shape": [channels, rows, columns]})
        return channels, rows, columns
    channels, rows, columns = record["shape"]
    return channels, rows, columns
