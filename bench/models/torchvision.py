"""torchvision's networks without their pooling and classification layers, under torchvision's parameter names."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.contract import RequestError


class Features(nn.Sequential):
    """Feature extractor: images ``(N, 3, H, W)`` -> ``(N, channels, h, w)``, non-negative."""

    def __init__(self, layers: OrderedDict[str, nn.Module], channels: int) -> None:
        super().__init__(layers)
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Run the layers in order."""
        return super().forward(images)

    def translate(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors under torchvision's names, of the ResNet-50 trained on iNaturalist (Zhou et al., CVPR 2020).

        That file of the ProtoPNet family has two last blocks, ``cb_block`` for the conventional branch, which ProtoTree
        and its successors use as ``layer4.2``, and ``rb_block`` for the re-balancing branch, which they leave out.
        """
        return {
            re.sub(r"^cb_block\.", "layer4.2.", key): value
            for key, value in state.items()
            if not key.startswith("rb_block.")
        }


@dataclass(frozen=True)
class TorchvisionNet:
    """Network of torchvision by name; calling it builds the feature extractor.

    Every network ends in a ReLU (ReLU6 for MobileNetV2), so features are non-negative. DenseNet has its final ReLU
    outside ``features``; it is added here. VGG keeps its last max-pooling: 7x7 cells at 224 pixels.
    """

    name: str
    channels: int

    def __call__(self) -> Features:
        """Build the feature extractor with random weights."""
        from torchvision import models  # not at the top: it takes a second, and a plan or a control needs none

        net = models.get_model(self.name, weights=None)
        # ResNet has no module of all its features; the others call theirs `features`.
        if self.name.startswith("resnet"):
            layers = OrderedDict((name, child) for name, child in net.named_children() if name not in ("avgpool", "fc"))
        else:
            layers = OrderedDict(features=net.features)
        if self.name.startswith("densenet"):
            layers["final_relu"] = nn.ReLU(inplace=True)
        return Features(layers, self.channels)

    def fetch(self, folder: Path, version: str = "IMAGENET1K_V1", title: str = "") -> Path:
        """Return the file of torchvision's weights of a version, downloaded once into the folder.

        Raises:
            RequestError: if it cannot be downloaded; the message names the options to use instead.
        """
        from torchvision import models

        title, url = title or self.name, models.get_model_weights(self.name)[version].url
        file = folder / url.rsplit("/", 1)[1]
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                # The hash in the file's name is checked before the file gets its name.
                expected = file.stem.rsplit("-", 1)[1]
                torch.hub.download_url_to_file(url, str(file), hash_prefix=expected, progress=False)
            except (OSError, RuntimeError) as error:
                raise RequestError(
                    f"no pretrained weights for {title}: download failed ({error}); "
                    f"pass --weights {title}=PATH, or --set pretrained=false to start from random weights"
                ) from error
        return file


resnet18 = TorchvisionNet("resnet18", 512)
resnet34 = TorchvisionNet("resnet34", 512)
resnet50 = TorchvisionNet("resnet50", 2048)
resnet152 = TorchvisionNet("resnet152", 2048)
vgg19 = TorchvisionNet("vgg19", 512)
densenet121 = TorchvisionNet("densenet121", 1024)
densenet161 = TorchvisionNet("densenet161", 2208)
mobilenet_v2 = TorchvisionNet("mobilenet_v2", 1280)
squeezenet1_1 = TorchvisionNet("squeezenet1_1", 512)
