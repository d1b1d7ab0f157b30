"""Networks of timm by name, as feature extractors: its ``forward_features`` as a feature map."""

from __future__ import annotations

import difflib
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from bench.contract import RequestError
from bench.core.input_config import InputConfig
from bench.models.library import LibraryFeatures, LibraryNet, on_meta
from bench.models.weights import not_downloaded


@dataclass(frozen=True)
class Layout:
    """Layout of the result of ``forward_features``.

    Attributes:
        channels_last: whether channels are the last dimension, also of tokens.
        prefix: tokens before those of the patches: class, distillation and register tokens. They take part in every
            attention and are left out at the end; a single vector has no location that a prototype could have.
        grid: rows and columns of the patches; ``None``: the result is a map.
    """

    channels_last: bool
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the feature map ``(N, channels, h, w)`` of images."""
        values: Tensor = network.forward_features(images)  # type: ignore[operator]
        if self.grid is None:
            return values.permute(0, 3, 1, 2) if self.channels_last else values
        tokens = values.mT if self.channels_last else values
        return tokens[:, :, self.prefix :].unflatten(2, self.grid)


class TimmFeatures(LibraryFeatures):
    """Features of timm's network, which also reads the older and foreign layouts that timm reads."""

    def translate(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors under timm's names: those of the authors (DINOv2, ConvNeXt ...), other grids of positions."""
        convert = getattr(sys.modules[type(self.network).__module__], "checkpoint_filter_fn", None)
        try:
            return dict(state) if convert is None else dict(convert(dict(state), self.network))
        except (KeyError, AttributeError, RuntimeError, ValueError, IndexError, AssertionError):
            # Of another network than this: the names that do not fit are listed by the reader.
            return dict(state)


@dataclass(frozen=True)
class TimmNet(LibraryNet):
    """Network of timm by name, such as ``convnext_atto`` or ``vit_small_patch14_reg4_dinov2``."""

    library = "timm"

    def classifier(self, classes: int, size: int | None = None) -> nn.Module:
        """Build timm's own classifier; see the base class."""
        return self._build(size, num_classes=classes)

    def __call__(self, size: int | None = None) -> LibraryFeatures:
        """Build the feature extractor with random weights; see the base class."""
        network = self._build(size, num_classes=0)
        channels, layout = _layout(self, size or self.input_config.size)
        return TimmFeatures(network, layout, channels, self.head(size).norm)

    @property
    def input_config(self) -> InputConfig:
        """Return mean, deviation, interpolation, crop share and size of ``pretrained_cfg``."""
        published = self.published()
        facts = resolve_data_config({}, pretrained_cfg={} if published is None else published.to_dict())
        mean, std = (tuple(float(value) for value in facts[key]) for key in ("mean", "std"))
        kind = "bilinear" if facts["interpolation"] == "bilinear" else "bicubic"
        return InputConfig(mean, std, kind, float(facts["crop_pct"]), int(facts["input_size"][-1]))  # type: ignore[arg-type]

    def fetch(self, folder: Path) -> Path:
        """Refuse to download: no address of these weights carries a hash."""
        published = self.published()
        source = published and (published.hf_hub_id or published.url)
        found = f"get model.safetensors of {source} from huggingface.co" if source else "timm has none"
        raise not_downloaded(f"timm:{self.name}", found)

    def published(self) -> Any:
        """Return timm's configuration of the published weights; ``None`` if there are none.

        Raises:
            RequestError: for an unknown name, with the nearest ones.
        """
        if not timm.is_model(self.name):
            near = ", ".join(difflib.get_close_matches(self.name.partition(".")[0], timm.list_models(), 4))
            raise RequestError(f"timm has no model {self.name!r}" + (f"; did you mean one of {near}?" if near else ""))
        return timm.get_pretrained_cfg(self.name)

    def _build(self, size: int | None, **options: Any) -> nn.Module:
        usual = self.input_config.size
        published = self.published()
        # Only networks with one position embedding or window per place of the map are built for a size.
        try:
            if size is None or size == usual:
                return timm.create_model(self.name, **options)
            try:
                return timm.create_model(self.name, img_size=size, **options)
            except TypeError:
                if getattr(published, "fixed_input_size", False):
                    raise RequestError(f"timm:{self.name} takes images of {usual} pixels alone, not {size}") from None
                return timm.create_model(self.name, **options)
        except (AssertionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RequestError(
                f"timm cannot build {self.name} for images of {size or usual} pixels: {reason}"
            ) from error


@functools.cache
def _layout(net: TimmNet, size: int) -> tuple[int, Layout]:
    """Return channels and layout of a network's features of square images.

    Raises:
        RequestError: if they are no map, or the images do not fit.
    """
    network: Any = on_meta(lambda: net._build(size, num_classes=0))
    try:
        with torch.device("meta"), torch.no_grad():
            values = network.forward_features(torch.empty(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(f"timm:{net.name} cannot take images of {size} pixels: {reason}") from error
    channels = int(network.num_features)
    if not isinstance(values, Tensor) or values.ndim not in (3, 4) or channels not in values.shape[1:]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else f"{len(values)} results"
        raise RequestError(f"timm:{net.name} has no single feature map ({shape}), so prototypes have no location in it")
    # A map of as many rows as channels is channels first, as in most of timm.
    last = values.shape[1] != channels
    if values.ndim == 4:
        return channels, Layout(last)
    count = values.shape[1] if last else values.shape[2]
    tokens = int(getattr(network, "num_prefix_tokens", hasattr(network, "cls_token")))
    side = int((count - tokens) ** 0.5)
    if side < 2 or side * side != count - tokens:
        raise RequestError(f"timm:{net.name}: its {count} tokens, {tokens} of them no patches, are no square grid")
    return channels, Layout(last, tokens, (side, side))
