"""Backbones by full name: of the catalogue, ``timm:NAME``, ``torchvision:NAME``, each with ``@`` and its variants.

A variant is part of the name (``resnet50@stride=16@frozen``), so that ids, tables and drawings keep it apart from the
plain one, and names without variants are what they always were.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt, ValidationError
from torch import Tensor, nn

from bench.contract import RequestError, Settings
from bench.core import registry
from bench.core.files import first_problem
from bench.core.input_config import InputConfig
from bench.models import weights
from bench.models.library import Head, LibraryNet
from bench.models.stride import set_stride
from bench.models.torchvision import TorchvisionNet


class BackboneVariant(Settings):
    """Settings of the section ``backbone``.

    Attributes:
        stride: pixels between two cells of the map; ``None``: the network's own.
        frozen: the backbone is not trained, in no phase; features are computed once where images have few versions.
    """

    stride: PositiveInt | None = None
    frozen: bool = False

    @classmethod
    def of(cls, name: str) -> BackboneVariant:
        """Return the variant in a full name.

        >>> BackboneVariant.of("resnet50@stride=16@frozen")
        BackboneVariant(stride=16, frozen=True)

        Raises:
            RequestError: for an unknown setting or value.
        """
        pairs = [part.partition("=") for part in name.split("@")[1:]]
        try:
            return cls.model_validate({key: value if equals else True for key, equals, value in pairs})
        except ValidationError as error:
            raise RequestError(f"backbone {name}: {first_problem(error)}; write NAME@stride=16@frozen") from error

    def named(self, name: str) -> str:
        """Return the full name of a backbone with this variant, or its own where it has one."""
        changed = [
            key if value is True else f"{key}={value}" for key, value in self.model_dump(exclude_defaults=True).items()
        ]
        return name if "@" in name else "@".join([name, *changed])


@dataclass(frozen=True)
class NamedBackbone:
    """Factory of the feature extractor of a full name; calling it builds it with random weights."""

    name: str

    @property
    def source(self) -> Any:
        """Return the catalogue's factory without the variant, or the library's network."""
        base = self.name.partition("@")[0]
        library, colon, name = base.partition(":")
        if not colon:
            return registry.load("backbones", base)
        from bench.models.timm_nets import TimmNet  # not at the top: timm takes a second
        from bench.models.torchvision_nets import TorchvisionByName

        return {"timm": TimmNet, "torchvision": TorchvisionByName}[library](name)

    def __call__(self, size: int | None = None) -> nn.Module:
        """Build the feature extractor for images of ``size`` pixels, by default those of the published weights."""
        source, variant = self.source, BackboneVariant.of(self.name)
        net: nn.Module = source(size) if isinstance(source, LibraryNet) else source()
        if variant.stride:
            set_stride(net, variant.stride, size or input_config(self.name).size)
        net.frozen = variant.frozen  # type: ignore[assignment]
        return net

    def __getattr__(self, attribute: str) -> Any:
        # `fetch`, `input_config` and `channels`, where the source has them.
        if attribute.startswith("__") or attribute == "name":
            raise AttributeError(attribute)
        return getattr(self.source, attribute)


def build(name: str, size: int) -> nn.Module:
    """Build the feature extractor of a full name for images of a size, with random weights.

    Raises:
        RequestError: if there is no such network, or none for that size.
    """
    factory = registry.load("backbones", name)
    net: nn.Module = factory(size) if isinstance(factory, NamedBackbone) else factory()
    net.input_config = input_config(name)  # type: ignore[assignment]
    return net


def input_config(name: str) -> InputConfig:
    """Return the preprocessing of a backbone's published weights, without building the network.

    >>> input_config("resnet18") == InputConfig()
    True
    >>> input_config("timm:tf_efficientnet_lite0").mean
    (0.5, 0.5, 0.5)
    """
    config: InputConfig = getattr(registry.load("backbones", name), "input_config", None) or InputConfig()
    return config


def pretrained_head(name: str, file: Path, classes: int, channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Return weight ``(classes, channels)`` and bias ``(classes,)`` of the head that comes with a file of weights.

    Raises:
        RequestError: if it has none of that size, or it is no linear layer on averaged features.
    """
    factory = registry.load("backbones", name)
    if isinstance(factory, NamedBackbone) and isinstance(factory.source, LibraryNet):
        return factory.source.pretrained_head(file, classes, size)
    return weights.head(build(name, size), file, name, classes, channels)


@dataclass(frozen=True)
class Description:
    """Facts about a backbone, of which those about values are measured with random weights on random pixels.

    Attributes:
        channels: of the map.
        rows: and columns of the map of square images.
        signed: whether features are negative somewhere.
        parameters: of the feature extractor, in millions.
        input: preprocessing of the published weights.
        head: the norm between pooling and linear layer in the network's own head; ``none``.
        refusal: why that head cannot be decomposed exactly; empty if it can.
    """

    channels: int
    rows: int
    signed: bool
    parameters: float
    input: InputConfig
    head: str
    refusal: str


def describe(name: str, size: int | None = None) -> Description:
    """Return the facts about a backbone.

    Raises:
        RequestError: if there is no such network, or none for that size.
    """
    config = input_config(name)
    size = size or config.size
    net = build(name, size).eval()
    with torch.no_grad():
        features = net(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    factory = registry.load("backbones", name)
    source = factory.source if isinstance(factory, NamedBackbone) else factory
    if isinstance(source, TorchvisionNet):
        source = NamedBackbone(f"torchvision:{source.name}").source  # the same network, with its head
    own = source.head(size) if isinstance(source, LibraryNet) else Head(None, "its head is not known to this command")
    count = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    norm = own.norm.kind if own.norm else "none"
    return Description(features.shape[1], features.shape[2], bool(features.min() < 0), count, config, norm, own.refusal)


@functools.cache
def library_names(library: str) -> list[str]:
    """Return the names of all image classifiers of ``timm`` or ``torchvision``."""
    if library == "timm":
        import timm

        return list(timm.list_models())
    from torchvision import models

    return list(models.list_models(module=models))
