"""Do a class's prototypes tell where its parts are? (Key-point regression; van der Klis et al., ICCV 2023.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.contract import (
    Aggregate,
    Explanation,
    Metric,
    NotApplicable,
    Observation,
    PrototypeTable,
    Samples,
    Score,
)
from metrics.parts import class_maps
from metrics.tables import Table

_BATCH = 32
_SINGULAR = 1e-6
"""Directions in which centroids move less than this, relative to the largest, are not used."""


def centroids(maps: Tensor) -> Tensor:
    """Where maps ``(N, K, h, w)`` are, ``(N, K, 2)`` row and column from 0 to 1.

    It is the mean of the cells, weighted by how far each is above the map's minimum; a constant map is in the middle.

    Example:
        >>> centroids(torch.tensor([[[[0.0, 0.0], [1.0, 3.0]]]])).tolist()
        [[[0.75, 0.625]]]
    """
    high = maps.double() - maps.double().amin((2, 3), keepdim=True)
    flat = high.amax((2, 3), keepdim=True) <= 1e-12 * maps.double().abs().amax((2, 3), keepdim=True)
    high = torch.where(flat, 1.0, high)
    weight = high / high.sum((2, 3), keepdim=True)
    found = []
    for axis in (2, 3):
        cells = maps.shape[axis]
        place = (torch.arange(cells, dtype=torch.float64, device=maps.device) + 0.5) / cells
        found.append((weight.sum(5 - axis) * place).sum(2))
    return torch.stack(found, 2)


def fitted(inputs: Tensor, points: Tensor, known: Tensor) -> Tensor:
    """The linear maps, without a constant term, that tell points from inputs best in least squares, of least norm.

    Args:
        inputs: ``(n, 2K)``.
        points: ``(n, parts, 2)``.
        known: bool ``(n, parts)``, which of them count.

    Returns:
        ``(parts, 2K, 2)``.
    """
    seen = known.T[:, :, None].to(inputs.dtype)
    return torch.linalg.pinv(inputs * seen, rtol=_SINGULAR) @ (points.transpose(0, 1) * seen)


class KeypointRegression(Metric):
    """Mean distance of the parts from where the class's prototypes say they are, in percent of the image's side.

    For each class, the centroids of its K prototypes' maps are the 2K inputs of one linear map per part, without a
    constant term, fitted by least squares on the class's training images that show the part; the value is the mean
    distance over the visible key-points of the test images. PDiscoNet has one map for all classes, because its parts
    are shared; a class's own prototypes need a map of their own, which is our reading. Table of the score: ``image``.
    """

    name = "keypoint_regression"
    version = "1"
    higher_is_better = False
    needs = frozenset({"image", "label", "keypoints"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        return {"": Aggregate("image", "distance", "class", weight="parts")}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        if not len(samples.parts):
            raise NotApplicable("the data set has no part key-points")
        if not prototypes.classes.any():
            raise NotApplicable("the model has no prototype that speaks for a class, so nothing tells where parts are")
        self._train: Samples | None = None
        self._maps: Tensor | None = None
        self._told = torch.zeros(0)
        self._rows = Table("index")

    def prepare(self, train: Samples) -> None:
        """Remember where the linear maps are fitted."""
        self._train = train

    def update(self, seen: Observation) -> None:
        """Say where the parts of one batch are."""
        if self._maps is None:
            self._fit(seen)
        assert self._maps is not None
        indices, maps, _ = class_maps(seen)
        inputs = _inputs(indices, maps)
        said = torch.einsum("nk,npkd->npd", inputs, self._maps[seen.labels])
        counted = seen.visible & self._told[seen.labels]
        distance = 100 * (said - seen.keypoints.double() / seen.size).norm(dim=2)
        parts = counted.sum(1)
        kept = parts > 0
        mean = torch.where(counted, distance, 0.0).sum(1)[kept] / parts[kept]
        table = {"index": seen.index[kept], "class": seen.labels[kept], "distance": mean, "parts": parts[kept]}
        self._rows.add(**table)

    def _fit(self, seen: Observation) -> None:
        """Look at the training split through the model."""
        train = self._train
        assert train is not None, "prepare() comes first"
        device = seen.images.device
        inputs = []
        for batch in train.batches(_BATCH, device):
            shown: Explanation = seen.model.explain(batch.images, batch.labels)
            indices, maps = shown.indices, shown.maps
            if indices is None:
                indices = seen.model.prototypes.of(batch.labels)
                maps = seen.model.pick(maps, indices)
            inputs.append(_inputs(indices, maps))
        if not inputs:
            raise NotApplicable("there is no training image to fit linear maps on")
        known, labels = torch.cat(inputs), train.labels.to(device)
        points, visible = train.keypoints.to(device).double() / train.size, train.visible.to(device)
        shape = (self.samples.classes, points.shape[1])
        self._maps = known.new_zeros(*shape, known.shape[1], 2)
        self._told = torch.zeros(shape, dtype=torch.bool, device=device)
        # A loop over classes: each has as many training images as it has, and is fitted once.
        for label in labels.unique().tolist():
            own = labels == label
            self._maps[label] = fitted(known[own], points[own], visible[own])
            self._told[label] = visible[own].any(0) & bool(self.prototypes.classes[:, label].any())

    def compute(self) -> Score:
        """The mean over the visible key-points of all test images."""
        try:
            table = self._rows.arrays()
        except NotApplicable as error:
            raise NotApplicable("no test image shows a part that a training image of its class shows") from error
        value = float((table["distance"] * table["parts"]).sum() / table["parts"].sum())
        return Score(value, int(table["parts"].sum()), {"image": table})


def _inputs(indices: Tensor, maps: Tensor) -> Tensor:
    """Centroids of the prototypes that are there ``(N, 2K)``; padding says 0."""
    return (centroids(maps) * (indices >= 0)[:, :, None]).flatten(1)
