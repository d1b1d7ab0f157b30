"""Context Cluster (Ma et al., "Image as Set of Points", ICLR 2023) as a feature extractor, from the paper's formulas.

Parameter names are those of the authors' repository (ma-xu/Context-Cluster), so that its weight files fit.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contract import CellError
from bench.models.weights import not_downloaded


@dataclass(frozen=True)
class Stage:
    """Stage of ``blocks`` blocks on points of ``channels`` features.

    Attributes:
        blocks: number of blocks.
        channels: features of a point.
        widening: hidden over outer width of the perceptron.
        heads: number of parallel clusterings.
        head_channels: dimensions of each of them.
        regions: the map is cut into ``regions x regions`` parts that are clustered separately.
        centers: ``centers x centers`` clusters in every part.
    """

    blocks: int
    channels: int
    widening: int
    heads: int
    head_channels: int
    regions: int
    centers: int


class Cluster(nn.Module):
    """Feature exchange among the points of a cluster: ``(N, C, H, W) -> (N, C, H, W)`` (section 3.2)."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        inner = stage.heads * stage.head_channels
        self.stage = stage
        self.f = nn.Conv2d(stage.channels, inner, 1)
        self.proj = nn.Conv2d(inner, stage.channels, 1)
        self.v = nn.Conv2d(stage.channels, inner, 1)
        self.sim_alpha = nn.Parameter(torch.ones(1))
        self.sim_beta = nn.Parameter(torch.zeros(1))

    def forward(self, points: Tensor) -> Tensor:
        """Cluster, aggregate and dispatch.

        Raises:
            CellError: if the map cannot be cut into the regions.
        """
        height, width = points.shape[2:]
        regions = self.stage.regions
        if height % regions or width % regions:
            raise CellError(
                f"a map of {height} x {width} points cannot be cut into {regions} x {regions} regions: "
                "Context Cluster wants images of 224 x 224 pixels (coc_tiny: any multiple of 32)"
            )
        keys, values = self._cut(self.f(points)), self._cut(self.v(points))
        centers, center_values = self._centers(keys), self._centers(values)
        keys, values = keys.flatten(2).mT, values.flatten(2).mT
        cosine = functional.normalize(centers, dim=-1) @ functional.normalize(keys, dim=-1).mT
        similarity = torch.sigmoid(self.sim_beta + self.sim_alpha * cosine)  # (B, M, points)
        # Every point belongs to the one centre it is most similar to. The choice has no gradient; the similarity has.
        chosen = similarity.argmax(dim=1, keepdim=True)
        member = torch.zeros_like(similarity).scatter_(1, chosen, 1.0)
        weight = similarity * member
        # Equation 1, with the number of members in place of the sum of their similarities, as in the authors' code with
        # which the published weights (71.8 % on ImageNet) were trained.
        total = center_values + weight @ values
        aggregated = total / (1 + member.sum(dim=2, keepdim=True))
        # Equation 2: each point receives the aggregate of its centre, by similarity.
        dispatched = weight.mT @ aggregated
        return self.proj(self._join(dispatched, height, width))

    def _centers(self, cut: Tensor) -> Tensor:
        """Return the starting centres, means over a grid of cells: ``(B, D, h, w) -> (B, M, D)``."""
        return functional.adaptive_avg_pool2d(cut, self.stage.centers).flatten(2).mT

    def _cut(self, points: Tensor) -> Tensor:
        """Move heads and regions into the batch: ``(N, E * D, H, W) -> (N * E * F * F, D, H / F, W / F)``."""
        heads, regions = self.stage.heads, self.stage.regions
        cut = points.unflatten(1, (heads, -1)).unflatten(3, (regions, -1)).unflatten(5, (regions, -1))
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(0, 3)

    def _join(self, points: Tensor, height: int, width: int) -> Tensor:
        """Undo :meth:`_cut` for points in row-major order: ``(N * E * F * F, h * w, D) -> (N, E * D, H, W)``."""
        heads, regions = self.stage.heads, self.stage.regions
        cut = points.unflatten(1, (height // regions, width // regions)).unflatten(0, (-1, heads, regions, regions))
        # (N, E, F, F, h, w, D): a row of the map is (region, row within it), a column likewise.
        return cut.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4).flatten(1, 2)


class Mlp(nn.Module):
    """Perceptron on every point by itself: ``(N, C, H, W) -> (N, C, H, W)``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor) -> Tensor:
        """Widen, GELU, narrow."""
        return self.fc2(functional.gelu(self.fc1(points.movedim(1, -1)))).movedim(-1, 1)


class Block(nn.Module):
    """Clustering and perceptron, each after a group norm of one group and in a scaled residual connection.

    ``layer_scale_1``, ``layer_scale_2`` ``(C,)`` start near zero, as in the authors' code.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, stage.channels)
        self.token_mixer = Cluster(stage)
        self.norm2 = nn.GroupNorm(1, stage.channels)
        self.mlp = Mlp(stage.channels, stage.widening * stage.channels)
        self.layer_scale_1 = nn.Parameter(torch.full((stage.channels,), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((stage.channels,), 1e-5))

    def forward(self, points: Tensor) -> Tensor:
        """Return points ``(N, C, H, W)`` in the same shape."""
        points = points + self.layer_scale_1.view(-1, 1, 1) * self.token_mixer(self.norm1(points))
        return points + self.layer_scale_2.view(-1, 1, 1) * self.mlp(self.norm2(points))


class ContextCluster(nn.Module):
    """Images ``(N, 3, H, W)`` -> features ``(N, channels, H / 32, W / 32)``, of either sign, after the final norm.

    Their mean under a linear layer (``head`` in the authors' files, left out here) is the authors' classifier.

    Args:
        stages: the stages of the network; between two of them a reducer halves the map.

    Attributes:
        channels: features of a point at the end.
    """

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        self.channels = stages[-1].channels
        # Colour and coordinates of each pixel: a point.
        self.patch_embed = _reducer(3 + 2, stages[0].channels, kernel=4, stride=4, padding=0)
        network: list[nn.Module] = []
        for before, stage in zip((None, *stages), stages, strict=False):
            if before is not None:
                network.append(_reducer(before.channels, stage.channels, kernel=3, stride=2, padding=1))
            network.append(nn.Sequential(*(Block(stage) for _ in range(stage.blocks))))
        self.network = nn.Sequential(*network)
        self.norm = nn.GroupNorm(1, self.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Return features of normalised images."""
        points = torch.cat([images, coordinates(images)], dim=1)
        return self.norm(self.network(self.patch_embed(points)))

    @staticmethod
    def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the authors' first release under the names and shapes of their present code.

        The first release (the published ``coc_tiny``) named the three projections fc1, fc2, fc_v, had 1x1 convolutions
        for linear layers and stored the coordinates; anything newer passes through (their issues 2, 12 and 31).
        """
        names = {"fc1": "f", "fc2": "proj", "fc_v": "v"}
        translated = {}
        for key, value in state.items():
            if key == "fea_pos":
                continue
            key = re.sub(r"(?<=\.token_mixer\.)(fc1|fc2|fc_v)(?=\.)", lambda match: names[match[0]], key)
            pointwise = re.search(r"\.mlp\.fc[12]\.weight$", key) and value.shape[2:] == (1, 1)
            translated[key] = value.flatten(1) if pointwise else value
        return translated


def coordinates(images: Tensor) -> Tensor:
    """Return row and column of every pixel from -0.5 to 0.5: ``(N, 2, H, W)`` for images ``(N, ..., H, W)``."""
    height, width = images.shape[-2:]
    # Computed in single precision and cast: half precision cannot count pixels.
    rows, columns = (
        (torch.arange(side, device=images.device) / max(side - 1, 1) - 0.5).to(images.dtype) for side in (height, width)
    )
    grid = torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)])
    return grid.expand(len(images), -1, -1, -1)


def _reducer(inputs: int, outputs: int, *, kernel: int, stride: int, padding: int) -> nn.Module:
    """Return a points reducer: each new point is a linear function of the k x k points around it, so a convolution."""
    return nn.Sequential(OrderedDict(proj=nn.Conv2d(inputs, outputs, kernel, stride, padding)))


@dataclass(frozen=True)
class ContextClusterNet:
    """Variant by name; calling it builds the feature extractor. Variants differ in regions and centres only."""

    name: str
    regions: tuple[int, int, int, int]
    centers: tuple[int, int, int, int]
    channels: int = 320

    def __call__(self) -> ContextCluster:
        """Build the feature extractor with random weights."""
        sizes = zip((3, 4, 5, 2), (32, 64, 196, self.channels), (8, 8, 4, 4), (4, 4, 8, 8), strict=True)
        cuts = zip(self.regions, self.centers, strict=True)
        return ContextCluster(tuple(Stage(*size, 24, *cut) for size, cut in zip(sizes, cuts, strict=True)))

    def fetch(self, folder: Path) -> Path:
        """Refuse to download: the authors' weights are in folders without a fixed address or a hash."""
        raise not_downloaded(self.name, "get them from the table in github.com/ma-xu/Context-Cluster")


coc_tiny = ContextClusterNet("coc_tiny", regions=(8, 4, 2, 1), centers=(2, 2, 2, 2))
coc_tiny2 = ContextClusterNet("coc_tiny2", regions=(7, 7, 1, 1), centers=(4, 2, 7, 4))
coc_tiny_plain = ContextClusterNet("coc_tiny_plain", regions=(1, 1, 1, 1), centers=(4, 4, 2, 2))
