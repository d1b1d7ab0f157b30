"""Networks of timm and torchvision by name, ``timm:NAME`` and ``torchvision:NAME``: what is common to both."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.contract import RequestError
from bench.core.input_config import InputConfig
from bench.models.split.features import Features
from bench.models.split.find import Norm, find
from bench.models.split.verify import verify
from bench.models.weights import fitting


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a module in eval mode without memory for its weights: it has shapes and the order of operations."""
    try:
        with torch.device("meta"):
            return make().eval()
    except RuntimeError:  # NotImplementedError, which the meta device raises, is one
        # Some constructors read numbers out of tensors, which the meta device does not have.
        with torch.device("cpu"):
            return make().to("meta").eval()


class LibraryFeatures(nn.Module):
    """Feature extractor: images ``(N, 3, H, W)`` -> features ``(N, channels, h, w)``, of either sign.

    Where the network's own head has a layer or RMS norm between pooling and linear layer, an image's features are
    divided by the spread of their mean: the logits of that head are then linear in the averaged features, so that the
    harness's classifier holds it exactly (see ``split.find``). A new head gets the same features.

    Args:
        network: the library's network, under whose parameter names weight files are read.
        maps: computes its feature maps from images.
        channels: number of channels.
        norm: norm between pooling and linear layer in the network's own head.
    """

    def __init__(
        self, network: nn.Module, maps: Callable[[nn.Module, Tensor], Tensor], channels: int, norm: Norm | None
    ) -> None:
        super().__init__()
        self.network, self.channels, self.norm, self._maps = network, channels, norm, maps

    @property
    def named_as_in_files(self) -> nn.Module:
        """Library's own network: files of weights have its names, without this module around it."""
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        """Return features of normalised images."""
        features = self._maps(self.network, images)
        strength = None if self.norm is None else self.norm.strength(features)
        return features if strength is None else features * strength.to(features.dtype)

    def translate(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a weight file's tensors under the present names and shapes of the network."""
        # GoogLeNet and Inception have auxiliary heads, which their training alone looks at.
        return {key: value for key, value in state.items() if not key.lower().startswith("aux")}


@dataclass(frozen=True)
class Head:
    """What is known of a network's own head without its weights.

    Attributes:
        norm: norm between pooling and linear layer; ``None`` if there is none, or the head is refused.
        refusal: the reason why the head cannot be taken apart exactly; empty if it can.
    """

    norm: Norm | None
    refusal: str


@dataclass(frozen=True)
class LibraryNet(ABC):
    """Network by name; calling it builds the feature extractor. Names are the library's, checked when it is used."""

    name: str
    library: ClassVar[str]

    @abstractmethod
    def classifier(self, classes: int, size: int | None = None) -> nn.Module:
        """Build the library's own classifier with random weights.

        Args:
            classes: number of classes.
            size: side of the images in pixels; ``None``: that of the published weights.

        Raises:
            RequestError: for an unknown name, or a size that the network does not take.
        """

    @abstractmethod
    def __call__(self, size: int | None = None) -> LibraryFeatures:
        """Build the feature extractor with random weights; arguments and errors as of :meth:`classifier`."""

    @property
    @abstractmethod
    def input_config(self) -> InputConfig:
        """Return the preprocessing of the published weights, without building the network."""

    def head(self, size: int | None = None) -> Head:
        """Return what is known of the network's own head."""
        return _head_of(self, size or self.input_config.size)

    def pretrained_head(self, file: Path, classes: int, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Return weight ``(classes, channels)`` and bias ``(classes,)`` on averaged features, from a file's own head.

        Raises:
            RequestError: if the file does not fit, or its head cannot be exact: the logits are compared.
        """
        title = f"{self.library}:{self.name}"
        net, backbone = self.classifier(classes, size).eval(), self(size).eval()
        advice = "; its head must have the data set's classes, or train one: --set classifier.head=trained"
        state = net.state_dict()  # filled, not replaced: MNASNet asks for the version that is kept beside the tensors
        state.update(fitting(file, state, title, backbone.translate, heads=(), advice=advice))
        net.load_state_dict(state)
        shared = {key: value for key, value in state.items() if key in backbone.network.state_dict()}
        backbone.network.load_state_dict(shared, strict=False)
        side = size or self.input_config.size
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        features = Features(net, find(net, images))
        verify(features, images)
        rows, bias = features.rows()
        with torch.no_grad():
            ours, theirs = backbone(images).double().mean((2, 3)) @ rows.T + bias, net(images).double()
        if float((ours - theirs).abs().max()) > 1e-4 * float(theirs.abs().max()):
            raise RequestError(f"{title}: its head does more to the features than norm and linear layer; train a head")
        return rows.float(), bias.float()


@functools.cache
def _head_of(net: LibraryNet, size: int) -> Head:
    try:
        split = find(on_meta(lambda: net.classifier(2, size)), torch.empty(2, 3, size, size, device="meta"))
    except RequestError as refusal:
        return Head(None, str(refusal).partition(" cannot be decomposed: ")[2] or str(refusal))
    return Head(split.norm, "")
