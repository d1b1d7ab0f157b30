"""ViT-B/32 as a feature extractor: the patch tokens of the last layer as a feature map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision import models

from bench.contract import IMAGENET_MEAN, IMAGENET_STD, CellError
from bench.models.torchvision import TorchvisionNet
from bench.models.weights import not_downloaded


class PatchTokens(nn.Module):
    """Images ``(N, 3, S, S)`` -> features ``(N, channels, S / patch, S / patch)``, of either sign.

    Dosovitskiy et al. 2021, equations 1 to 4, read at the patches: the class token takes part in every attention and is
    left out at the end. Cell (row, column) is the token of the patch at that location, after the final layer norm. Tan
    et al. 2024 (section 4.4) put a linear layer on the mean of these tokens, the averaged features of the last layer.
    The parts of torchvision's network keep their names; ``heads`` is left out.

    Attributes:
        channels: width of a token.
        image_size: the only side S that the position embedding fits.
    """

    def __init__(self, net: models.VisionTransformer) -> None:
        super().__init__()
        self.channels, self.image_size = net.hidden_dim, net.image_size
        self.class_token = net.class_token
        self.conv_proj = net.conv_proj
        self.encoder = net.encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return features of normalised images.

        Raises:
            CellError: for images of another size.
        """
        _check_size(images, self.image_size)
        patches = self.conv_proj(images)
        tokens = patches.flatten(2).transpose(1, 2)
        # torchvision's encoder adds the position embedding before the layers and a layer norm after them.
        tokens = self.encoder(torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1))
        return _as_map(tokens[:, 1:], patches.shape[2:])


class AugregTokens(nn.Module):
    """Feature map as of :class:`PatchTokens` from timm's ViT-B/32, under timm's parameter names (without ``head``).

    Attributes:
        channels: width of a token.
        image_size: the only side of images that fits.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.channels, self.image_size = net.embed_dim, net.patch_embed.img_size[0]
        # Only parts with weights: the others are inactive in ViT-B/32 (dropout 0, no norm before the blocks).
        self.cls_token, self.pos_embed = net.cls_token, net.pos_embed
        self.patch_embed, self.blocks, self.norm = net.patch_embed, net.blocks, net.norm
        # These weights expect pixels as (p - 0.5) / 0.5 and the data come as (p - mean) / std: one affine map.
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (2 * std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (2 * mean - 1).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``(N, channels, 7, 7)`` of images ``(N, 3, 224, 224)``, normalised like all others here.

        Raises:
            CellError: for images of another size.
        """
        _check_size(images, self.image_size)
        tokens = self.patch_embed(images * self.scale + self.shift)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1) + self.pos_embed
        tokens = self.norm(self.blocks(tokens))
        return _as_map(tokens[:, 1:], self.patch_embed.grid_size)


@dataclass(frozen=True)
class TorchvisionViT(TorchvisionNet):
    """Vision transformer of torchvision by name; calling it builds the feature extractor.

    torchvision's weights were trained on pixels normalised as here, and their address carries a hash.
    """

    image_size: int = 224

    def __call__(self) -> PatchTokens:  # type: ignore[override]
        """Build the feature extractor with random weights."""
        return PatchTokens(models.get_model(self.name, weights=None, image_size=self.image_size))


@dataclass(frozen=True)
class TimmViT:
    """Vision transformer of timm; calling it builds the feature extractor.

    The accuracies in the paper (80.7 with the class token, 76.3 with averaged tokens) are out of reach of torchvision's
    weights (75.9 with the class token); timm's, pretrained on ImageNet-21k, are the likely ones.

    Attributes:
        converts_input: its network takes images in ImageNet's normalisation alone, and converts them itself.
    """

    converts_input: ClassVar[bool] = True
    name: str
    model: str
    source: str
    channels: int

    def __call__(self) -> AugregTokens:
        """Build the feature extractor with random weights."""
        import timm  # not at the top: it takes a second, and torchvision's variant does not need it

        return AugregTokens(timm.create_model(self.model, num_classes=0, global_pool=""))

    def fetch(self, folder: Path) -> Path:
        """Refuse to download: no address of these weights carries a hash."""
        raise not_downloaded(self.name, f"get model.safetensors of {self.source} from huggingface.co")


def _check_size(images: Tensor, size: int) -> None:
    if images.shape[2:] != (size, size):
        height, width = images.shape[2:]
        raise CellError(
            f"this vision transformer takes images of {size} x {size} pixels, not {height} x {width}: "
            f"one position embedding per patch; set the protocol's size to {size}"
        )


def _as_map(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return tokens ``(N, h * w, D)`` in row-major order as a map ``(N, D, h, w)``."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))


vit_b_32 = TorchvisionViT("vit_b_32", 768)
vit_b_32_augreg = TimmViT(
    "vit_b_32_augreg", "vit_base_patch32_224", "timm/vit_base_patch32_224.augreg_in21k_ft_in1k", 768
)
