"""Features of backbones at rest on disk, so that cells that share one pass each image through it once.

A backbone is at rest if it is never trained (``NAME@frozen``), or if a network leaves the black box's as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.files import replacing
from bench.models.fingerprint import fingerprint

# Images of a pass; a processor's cache holds their maps (32 took twice the time an image). Kernels depend on the number
# of images: always the same one, so that the bits of features do not depend on which cell computes them.
_GROUP = 8
# Bytes of stored features of all backbones: eleven times those of 50 species (1,280 channels, 7 x 7 cells).
_MOST = 16 * 2**30


class FeatureStore:
    """Forward pass of a backbone at rest that reads an image's features, or computes and stores them.

    An image is identified by its bits: a mirrored or noisy copy is another image. The folder can be deleted at any
    time; features are then computed again. Nothing is stored for images on a GPU, where a pass is faster than a disk,
    for passes with gradients, in other precisions, or above 16 GiB.
    """

    def __init__(self, backbone: nn.Module, name: str, home: Path) -> None:
        self._compute, self._name, self._home = backbone.forward, name, home
        self._backbone = backbone
        self._weights: tuple[Any, ...] = ()
        self._folder = home
        self._free = 0

    @classmethod
    def attach(cls, backbone: nn.Module, name: str, home: Path) -> None:
        """Let a backbone use the store; neither its state nor its class changes."""
        vars(backbone)["forward"] = cls(backbone, name, home)

    def __call__(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to features ``(N, D, h, w)``."""
        plain = images.device.type == "cpu" and images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not plain or torch.is_grad_enabled() or self._backbone.training or not len(images):
            features: Tensor = self._compute(images)
            return features
        self._open()
        files = [self._folder / f"{_digest(image)}.npy" for image in images]
        known = {i: stored for i, file in enumerate(files) if (stored := _read(file)) is not None}
        missing = [i for i in range(len(images)) if i not in known]
        for start in range(0, len(missing), _GROUP):
            known |= self._store(images, missing[start : start + _GROUP], files)
        return torch.stack([known[i] for i in range(len(images))])

    def _open(self) -> None:
        # Weights that are loaded into the module later change these counters: the folder is then another one.
        weights = tuple((id(tensor), tensor._version) for tensor in self._backbone.state_dict(keep_vars=True).values())
        if weights == self._weights:
            return
        facts = [self._name, fingerprint(self._backbone), torch.__version__, version("timm"), torch.get_num_threads()]
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        self._weights, self._folder = weights, self._home / "features" / digest
        self._free = _MOST - sum(file.stat().st_size for file in self._folder.parent.glob("*/*.npy"))

    def _store(self, images: Tensor, rows: Sequence[int], files: Sequence[Path]) -> dict[int, Tensor]:
        group = images.new_zeros(_GROUP, *images.shape[1:])
        group[: len(rows)] = images[list(rows)]
        features = self._compute(group)[: len(rows)]
        for row, values in zip(rows, features.numpy(), strict=True):
            self._free -= values.nbytes
            if self._free > 0:
                with replacing(files[row], rivals=True) as unfinished, unfinished.open("wb") as file:
                    np.save(file, values)
        return dict(zip(rows, features, strict=True))


def _digest(image: Tensor) -> str:
    return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).hexdigest()


def _read(file: Path) -> Tensor | None:
    try:
        return torch.from_numpy(np.load(file))
    except (OSError, ValueError, EOFError):  # absent, or cut off by a full disk: computed again
        return None
