"""Networks of torchvision by name, as feature extractors: the last map before the head, found in the graph."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.transforms import InterpolationMode

from bench.contract import RequestError
from bench.core.input_config import InputConfig
from bench.models.checkpoint_forms import HEADS
from bench.models.library import LibraryFeatures, LibraryNet, on_meta
from bench.models.torchvision import TorchvisionNet
from bench.models.vit import PatchTokens


@dataclass(frozen=True)
class TorchvisionByName(LibraryNet):
    """Image classifier of torchvision by name, such as ``convnext_tiny`` or ``mobilenet_v3_small``."""

    library = "torchvision"

    def classifier(self, classes: int, size: int | None = None) -> nn.Module:
        """Build torchvision's own classifier; see the base class."""
        # Only vision transformers have position embeddings of one size.
        sized = {"image_size": size} if size and self.name.startswith("vit_") else {}
        # These two draw their weights for half a minute, and have a second head for their training alone.
        quick = {"init_weights": False, "aux_logits": False} if self.name in ("googlenet", "inception_v3") else {}
        net: nn.Module = self.builder()(weights=None, num_classes=classes, **sized, **quick)
        return net

    def __call__(self, size: int | None = None) -> LibraryFeatures:
        """Build the feature extractor with random weights; see the base class."""
        net = self.classifier(2, size)
        if isinstance(net, models.VisionTransformer):
            tokens = PatchTokens(net)
            return LibraryFeatures(tokens, nn.Module.__call__, tokens.channels, None)
        node, channels = _last_map(self, size or self.input_config.size)
        graph = create_feature_extractor(net, {node: "map"})
        return LibraryFeatures(graph, _map, channels, self.head(size).norm)

    @property
    def input_config(self) -> InputConfig:
        """Return what the transforms of torchvision's best weights do."""
        self.builder()
        transform: Any = models.get_model_weights(self.name).DEFAULT.transforms()
        size, resized = transform.crop_size[0], transform.resize_size[0]
        kind = "bicubic" if transform.interpolation is InterpolationMode.BICUBIC else "bilinear"
        return InputConfig(tuple(transform.mean), tuple(transform.std), kind, size / resized, size)  # type: ignore[arg-type]

    def fetch(self, folder: Path) -> Path:
        """Return the file of torchvision's best weights; see :meth:`TorchvisionNet.fetch`."""
        best = models.get_model_weights(self.name).DEFAULT.name
        return TorchvisionNet(self.name, 0).fetch(folder, best, f"torchvision:{self.name}")

    def builder(self) -> Any:
        """Return torchvision's function that builds the network.

        Raises:
            RequestError: if there is none of that name, or it is no image classifier.
        """
        try:
            build = models.get_model_builder(self.name)
        except ValueError as error:
            raise RequestError(f"torchvision has no model {self.name!r}; `bench ls backbones torchvision:*`") from error
        if build.__module__.rpartition(".")[0] != models.__name__:
            raise RequestError(f"torchvision's {self.name} is no image classifier")
        return build


def _map(graph: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = graph(images)["map"]
    return features


@functools.cache
def _last_map(net: TorchvisionByName, size: int) -> tuple[str, int]:
    """Return name and channels of the last node of the graph that is a map outside the head."""
    whole = on_meta(lambda: net.classifier(2, size))
    nodes = [node for node in get_graph_node_names(whole)[1] if not f"{node}.".startswith(HEADS)]
    try:
        with torch.no_grad():
            values = create_feature_extractor(whole, nodes)(torch.empty(1, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"torchvision:{net.name} cannot take images of {size} pixels: {reason}") from error
    maps = [name for name in nodes if isinstance(values[name], Tensor) and values[name].ndim == 4]
    spatial = [name for name in maps if values[name].shape[2] > 1 and values[name].shape[3] > 1]
    if not spatial:
        raise RequestError(f"torchvision:{net.name} has no map of more than one cell of images of {size} pixels")
    return spatial[-1], int(values[spatial[-1]].shape[1])
