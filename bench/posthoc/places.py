"""Exact decomposition into prototypes at places apart from each other; this project's, not the paper's.

As in `contrast.py` every prototype is an equal share of the classifier's row plus a contrast, and the contrasts sum to
zero: ``p~_i = v / k + s (d_i - mean_j d_j)``. What differs is where the contrasts come from:

- The places are found in all classes together, one after the other (:func:`discover`): a bird's head recurs in every
  species, and the few images of one class do not tell it from a recurring background. A place found is closed to the
  later ones, so that no two are the same.
- ``d_i = S^-1 m_i``, the linear discriminant of the mean feature ``m_i`` at a place against the covariance S of the
  features of all training images (Hariharan, Malik and Ramanan, ECCV 2012): of all directions with this contrast its
  map has the least energy elsewhere, and the energy is what cancellation counts.
- The maps of a class's d_i are decorrelated in part (:func:`decorrelated`), so that they do not repeat each other.

No key-point, and nothing but class labels of the training images, is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import RequestError, Settings
from bench.core.seeding import derive
from bench.posthoc.feature_source import FeatureSource

# Starting points of a place, of which the best is taken.
_POOL = 24
# Updates of peaks and means of a starting point.
_STEPS = 10
# Locations that are clustered into starting points.
_SAMPLE = 15_000
# Added to the variances in the search, relative to a channel's mean variance.
_SEARCH_RIDGE = 0.3


class PlacesConfig(Settings):
    """Settings, all by measurement on training images (reports/search.md).

    Attributes:
        k: prototypes per class.
        apart: least distance of two places of an image, in sevenths of the map's side (cells of the usual 7 x 7);
            ``None``: 2 for up to four prototypes, else 1.
        choose: best starting point of a place; ``None``: ``margin`` for up to five prototypes, else ``height``.
        components: principal components in which everything but the row is computed.
        ridge: added to the variances of the discriminants, relative to a channel's mean variance.
        own: weight of the class's own mean at a place; that of all classes has the rest.
        keep: correlation of a class's maps that is kept; 0: none, large: all of it.
        strength: size of the contrasts' maps relative to that of the share, and so the cancellation.
        rounds: updates of the peaks of each class.
    """

    k: PositiveInt = 3
    apart: PositiveInt | None = None
    choose: Literal["margin", "height"] | None = None
    components: PositiveInt = 256
    ridge: NonNegativeFloat = 3.0
    own: float = Field(default=0.5, ge=0, le=1)
    keep: NonNegativeFloat = 1.0
    strength: NonNegativeFloat = 1.6
    rounds: NonNegativeInt = 5

    @property
    def sevenths(self) -> int:
        """Least distance of two places in sevenths of the map's side."""
        return self.apart or (2 if self.k <= 4 else 1)


@dataclass
class Reduced:
    """Features of the training images in coordinates of their first principal components.

    Attributes:
        Y: centred features ``(n, L, r)``, sorted by class.
        evidence: map of the image's own class ``(n, L)``.
        labels: ``(n,)``.
        index: of each image in the split ``(n,)``.
        basis: components ``(D, r)``.
        variance: along each ``(r,)``, and ``level``, the mean variance of a channel.
        mean: of the features ``(D,)``.
        grid: height and width of a feature map.
    """

    Y: Tensor
    evidence: Tensor
    labels: Tensor
    index: Tensor
    basis: Tensor
    variance: Tensor
    level: float
    mean: Tensor
    grid: tuple[int, int]

    def per_class(self, values: Tensor) -> list[Tensor]:
        """Split values of images into those of each class."""
        return list(values.split(torch.bincount(self.labels).tolist()))

    def within(self) -> Tensor:
        """Return the features minus their class's mean: what is left tells places, not species, apart."""
        return torch.cat([y - y.flatten(0, 1).mean(0) for y in self.per_class(self.Y)])

    def whitening(self, ridge: float) -> Tensor:
        """Return the factor ``(r,)`` of each component that makes all variances alike, up to a ridge."""
        return (self.variance + ridge * self.level).rsqrt()


def reduce(source: FeatureSource, rows: Tensor, components: int, memory_limit: int, device: torch.device) -> Reduced:
    """Read the features of all classes for their covariance, and again to project them on its first components.

    They are held in memory in between if the limit allows it, and else computed twice.

    Args:
        source: source of the features.
        rows: rows of the classifier ``(C, D)``.
        components: number of components r, at most D.
        memory_limit: bytes that features may take.
        device: device of the computation.

    Raises:
        RequestError: if the projected ones take more.
    """
    D, cells = source.channels, source.grid[0] * source.grid[1]
    images = sum(source.count(label) for label in range(len(rows)))
    r = min(components, D)
    # The projected features, and a copy of them without their classes' means that is whitened.
    need = 3 * 4 * images * cells * r
    if need > memory_limit:
        raise RequestError(
            f"{images} images in {r} components need {need / 2**30:.1f} GiB and {memory_limit / 2**30:.1f} GiB of the "
            f"memory limit are for that; set components={memory_limit // (3 * 4 * images * cells)} or fewer"
        )
    square = torch.zeros(D, D, dtype=torch.float64, device=device)
    total = torch.zeros(D, dtype=torch.float64, device=device)
    held: dict[int, tuple[Tensor, Tensor]] = {}
    fits = need + 4 * images * cells * D <= memory_limit
    for label in range(len(rows)):
        x, index = source.of(label)
        if fits:
            held[label] = x, index
        flat = x.to(device).flatten(0, 1)
        square += (flat.mT @ flat).double()
        total += flat.double().sum(0)
    mean = total / (images * cells)
    covariance = square / (images * cells) - mean.outer(mean)
    variance, basis = torch.linalg.eigh(covariance)
    variance, basis = variance.flip(0)[:r].clamp(min=0), basis.flip(1)[:, :r]
    kept: list[tuple[Tensor, ...]] = []
    for label in range(len(rows)):
        x, index = held.pop(label) if fits else source.of(label)
        x = x.to(device)
        kept.append(((x - mean.float()) @ basis.float(), x @ rows[label].to(x), torch.full_like(index, label), index))
    Y, evidence, labels, index = (torch.cat(parts) for parts in zip(*kept, strict=True))
    level = float(covariance.diagonal().mean())
    return Reduced(Y, evidence, labels, index, basis, variance.float(), level, mean, source.grid)


def distances(grid: tuple[int, int]) -> Tensor:
    """Return the number of steps, diagonal ones included, between every two cells ``(L, L)``."""
    cells = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))
    return (cells[:, None] - cells[None]).abs().amax(2)


def discover(data: Reduced, k: int, apart: int, near: int, choose: str, seed: int) -> Tensor:
    """Find k places that recur in the images of all classes: their cells ``(n, k)``.

    From each starting point, a direction and its peaks, one an image, are computed in turn. The best is kept, and its
    peaks and all cells within ``apart`` steps are closed to the next place.

    Args:
        data: reduced features.
        k: number of places.
        apart: least distance of two places of an image in cells.
        near: distance up to which a cell is next to a peak.
        choose: ``margin``: the best has the peaks that are highest above the open cells that are not next to them, in
            standard deviations of the map; ``height``: the highest peaks.
        seed: of the clusters.
    """
    Z = data.within() * data.whitening(_SEARCH_RIDGE)
    n, L, _ = Z.shape
    steps, image = distances(data.grid).to(Z.device), torch.arange(n, device=Z.device)[:, None]
    pool = _directions(Z.flatten(0, 1), seed)
    open_, places = torch.ones(n, L, dtype=torch.bool, device=Z.device), []
    for _ in range(k):
        U = pool
        for _ in range(_STEPS):
            peaks = (Z @ U.mT).masked_fill(~open_[:, :, None], -torch.inf).argmax(1)
            U = torch.nn.functional.normalize(Z[image, peaks].mean(0), dim=1)
        # The heights are those of the last directions at the peaks of the ones before them, which hardly differ.
        maps = Z @ U.mT
        height = maps.gather(1, peaks[:, None])[:, 0]
        value = height.mean(0)
        if choose == "margin":
            value = torch.stack(
                [_margin(maps[:, :, j], height[:, j], peaks[:, j], open_, steps, near) for j in range(len(U))]
            )
        places.append(peaks[:, int(value.argmax())])
        open_ = open_ & (steps[places[-1]] >= apart)
        # Where everything is closed, places may be closer.
        open_ |= ~open_.any(1, keepdim=True)
    return torch.stack(places, 1)


def _margin(values: Tensor, height: Tensor, peaks: Tensor, open_: Tensor, steps: Tensor, near: int) -> Tensor:
    rest = values.masked_fill((steps[peaks] <= near) | ~open_, -torch.inf).amax(1)
    some = rest.isfinite()
    return ((height - rest) / values.std(1).clamp(min=1e-12))[some].mean().nan_to_num(-torch.inf)


def _directions(points: Tensor, seed: int) -> Tensor:
    """Cluster some of the points ``(m, r)`` by their cosine: the clusters' unit mean vectors."""
    generator = torch.Generator().manual_seed(derive(seed, "places"))
    drawn = torch.randperm(len(points), generator=generator)[:_SAMPLE].to(points.device)
    points = torch.nn.functional.normalize(points[drawn], dim=1)
    means = points[:_POOL]
    for _ in range(_STEPS):
        members = torch.nn.functional.one_hot((points @ means.mT).argmax(1), len(means)).to(points)
        means = torch.nn.functional.normalize(members.mT @ points, dim=1)
    return means


def decorrelated(D: Tensor, Y: Tensor, keep: float) -> Tensor:
    """Turn directions ``(k, r)`` so that their maps on ``Y (m, r)`` correlate less, each staying as near as it can.

    With C the correlation of the maps these are the rows of ``(C + keep I)^-1/2 D``, Loewdin's symmetric
    orthogonalisation for ``keep = 0``.
    """
    maps = Y @ D.mT
    maps = maps - maps.mean(0)
    size = maps.norm(dim=0).clamp(min=1e-30)
    D, maps = D / size[:, None], maps / size
    values, vectors = torch.linalg.eigh((maps.mT @ maps).double())
    root = vectors * (values.clamp(min=0) + max(keep, 1e-6)).rsqrt()
    return (root @ vectors.mT).to(D) @ D


def exclusive(maps: Tensor, apart: int, steps: Tensor) -> Tensor:
    """Return the peak of each map ``(n, L, k)``, the highest first, at cells at least ``apart`` steps from each other.

    Heights are in standard deviations of the map. Where no cell is that far away, a closed one is taken.
    """
    n, _, k = maps.shape
    left = (maps - maps.mean(1, keepdim=True)) / maps.std(1, keepdim=True).clamp(min=1e-12)
    peaks, image = torch.zeros(n, k, dtype=torch.long, device=maps.device), torch.arange(n, device=maps.device)
    closed = torch.zeros_like(left, dtype=torch.bool)
    for _ in range(k):
        # Closed cells are below all open ones and keep their order.
        best = torch.where(closed, left - 1e6, left).flatten(1).argmax(1)
        cell, which = best // k, best % k
        peaks[image, which] = cell
        closed |= (steps[cell] < apart)[:, :, None]
        left[image, :, which] = -torch.inf
    return peaks


def place_classes(data: Reduced, rows: Tensor, peaks: Tensor, config: PlacesConfig, apart: int) -> Tensor:
    """Compute the prototypes of all classes from the places found in them.

    Args:
        data: reduced features.
        rows: rows of the classifier ``(C, D)``.
        peaks: cell of each place in each image ``(n, k)``.
        config: settings.
        apart: least distance of two places of an image in cells.

    Returns:
        Prototypes ``(C, k, D)``, float64, whose sums are the rows.
    """
    k, centred, steps = peaks.shape[1], data.within(), distances(data.grid).to(peaks.device)
    image = torch.arange(len(peaks), device=peaks.device)[:, None]
    # A map is that of the centred features plus the constant of their mean.
    offset = data.mean.float() @ data.basis.float()
    factor = data.whitening(config.ridge).square()
    for step in range(config.rounds + 1):
        means = torch.stack([part.mean(0) for part in data.per_class(centred[image, peaks])])
        # The place as all classes show it steadies that of one class, which has few images.
        directions = (config.own * means + (1 - config.own) * means.mean(0)) * factor
        contrasts, maps = [], []
        for D, Y, evidence in zip(directions, data.per_class(data.Y), data.per_class(data.evidence), strict=True):
            D = decorrelated(D, Y.flatten(0, 1), config.keep)
            contrasts.append(_scaled(D, (Y + offset).flatten(0, 1), evidence, config.strength))
            maps.append((Y + offset) @ contrasts[-1].float().mT + evidence[:, :, None] / k)
        if step < config.rounds:
            peaks = exclusive(torch.cat(maps), apart, steps)
    refined = rows.double()[:, None] / k + torch.stack(contrasts) @ data.basis.mT
    # The rounding error goes into the last prototype, so that the sum is the row itself.
    refined[:, -1] += rows.double() - refined.sum(1)
    return refined


def _scaled(D: Tensor, Y: Tensor, evidence: Tensor, strength: float) -> Tensor:
    """Make the maps of directions ``(k, r)`` equally large, their sum zero, and their mean size s times the share's."""
    D = D / (Y @ D.mT).norm(dim=0).clamp(min=1e-30)[:, None]
    D = D - D.mean(0)
    size = (Y @ D.mT).norm(dim=0).mean()
    # Equal places leave no contrast: only the share is left.
    scale = torch.where(size > 1e-6, evidence.norm() / len(D) / size.clamp(min=1e-6), 0.0)
    D = strength * (scale * D).double()
    return D - D.mean(0)


def describe(data: Reduced, rows: Tensor, vectors: Tensor) -> tuple[float, Tensor]:
    """Compute the mean cancellation over classes, and where each prototype is strongest.

    Args:
        data: reduced features.
        rows: rows of the classifier ``(C, D)``.
        vectors: prototypes ``(C, k, D)``.

    Returns:
        Mean of ``sum_i |F p~_i| / |F v|``, and image, row and column ``(C k, 3)``.
    """
    k = vectors.shape[1]
    contrasts = ((vectors - rows.double()[:, None] / k) @ data.basis).float()
    offset = data.mean.float() @ data.basis.float()
    ratios, strongest = [], []
    classes = zip(*map(data.per_class, (data.Y, data.evidence, data.index.to(rows.device))), contrasts, strict=True)
    for Y, evidence, index, d in classes:
        maps = ((Y + offset) @ d.mT + evidence[:, :, None] / k).flatten(0, 1)
        ratios.append(maps.norm(dim=0).sum() / evidence.norm().clamp(min=1e-30))
        best = maps.argmax(0)
        cell = best % Y.shape[1]
        strongest.append(torch.stack((index[best // Y.shape[1]], cell // data.grid[1], cell % data.grid[1]), 1))
    return float(torch.stack(ratios).mean()), torch.cat(strongest)
