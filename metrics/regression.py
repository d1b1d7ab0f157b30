"""Key-point regression from the centroids of prototype maps (van der Klis et al., PDiscoNet, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.contract import Aggregate, Explanation, NotApplicable, Observation, PrototypeTable, Samples, Score
from metrics.parts import class_maps, require_parts, require_prototypes
from metrics.tables import ImageMetric

# Images per forward pass.
_BATCH = 32
# Directions in which centroids move less than this, relative to the largest, are not used.
_SINGULAR = 1e-6


def centroids(maps: Tensor) -> Tensor:
    """Compute the centroids of maps ``(N, K, h, w)``: ``(N, K, 2)`` row and column from 0 to 1.

    A centroid is the mean of the cells, weighted by their height above the map's minimum; that of a constant map is in
    the middle.

    Example:
        >>> centroids(torch.tensor([[[[0.0, 0.0], [1.0, 3.0]]]])).tolist()
        [[[0.75, 0.625]]]
    """
    high = maps.double() - maps.double().amin((2, 3), keepdim=True)
    # Constant but for rounding: all cells then weigh the same.
    flat = high.amax((2, 3), keepdim=True) <= 1e-12 * maps.double().abs().amax((2, 3), keepdim=True)
    high = torch.where(flat, 1.0, high)
    weight = high / high.sum((2, 3), keepdim=True)
    coordinates = []
    for axis in (2, 3):
        cells = maps.shape[axis]
        middle = (torch.arange(cells, dtype=torch.float64, device=maps.device) + 0.5) / cells
        coordinates.append((weight.sum(5 - axis) * middle).sum(2))
    return torch.stack(coordinates, 2)


def fitted(inputs: Tensor, points: Tensor, known: Tensor) -> Tensor:
    """Fit linear maps without a constant term from inputs to points: least squares, of least norm.

    Args:
        inputs: ``(n, 2K)``.
        points: ``(n, parts, 2)``.
        known: bool ``(n, parts)``, points that count.

    Returns:
        ``(parts, 2K, 2)``.
    """
    # Points that do not count have weight 0 on both sides of the equations.
    seen = known.T[:, :, None].to(inputs.dtype)
    return torch.linalg.pinv(inputs * seen, rtol=_SINGULAR) @ (points.transpose(0, 1) * seen)


class KeypointRegression(ImageMetric):
    """Mean distance of the parts from their positions predicted by the class's prototypes, in percent of the side.

    For each class, the centroids of its K prototypes' maps are the 2K inputs of one linear map per part, without a
    constant term, fitted by least squares on the class's training images that show the part; the value is the mean
    distance over the visible key-points of the test images. After ``eval_kpr`` of ananthu-aniraj/pdiscoformer.

    Table of the score: ``image``.
    """

    name = "keypoint_regression"
    version = "1"
    higher_is_better = False
    needs = frozenset({"image", "label", "keypoints"})
    empty = "no test image shows a part that a training image of its class shows"

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the mean that the number is."""
        return {"": Aggregate("image", "distance", "class", weight="parts")}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        require_parts(samples)
        require_prototypes(prototypes, "fit linear maps on")
        self._train: Samples | None = None
        self._maps: Tensor | None = None
        self._fitted = torch.zeros(0)

    def prepare(self, train: Samples) -> None:
        """Keep the training split, on which the linear maps are fitted."""
        self._train = train

    def update(self, seen: Observation) -> None:
        """Predict the parts of one batch."""
        if self._maps is None:
            self._fit(seen)
        assert self._maps is not None
        indices, maps, _ = class_maps(seen)
        inputs = _inputs(indices, maps)
        predicted = torch.einsum("nk,npkd->npd", inputs, self._maps[seen.labels])
        counted = seen.visible & self._fitted[seen.labels]
        # Normalised by the image's side, as `eval_kpr` of ananthu-aniraj/pdiscoformer.
        distance = 100 * (predicted - seen.keypoints.double() / seen.size).norm(dim=2)
        parts = counted.sum(1)
        kept = parts > 0
        mean = torch.where(counted, distance, 0.0).sum(1) / parts
        self._rows.add(kept, **{"index": seen.index, "class": seen.labels, "distance": mean, "parts": parts})

    def _fit(self, seen: Observation) -> None:
        """Fit the linear maps on the training split."""
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
        self._fitted = torch.zeros(shape, dtype=torch.bool, device=device)
        # PDiscoNet has one map for all classes, because its parts are shared; a class's own prototypes need a map for
        # each class, which is our reading.
        for label in labels.unique().tolist():
            of_class = labels == label
            self._maps[label] = fitted(known[of_class], points[of_class], visible[of_class])
            self._fitted[label] = visible[of_class].any(0) & bool(self.prototypes.classes[:, label].any())

    def compute(self) -> Score:
        """Return the mean over the visible key-points of all test images."""
        table = self._rows.arrays()
        value = float((table["distance"] * table["parts"]).sum() / table["parts"].sum())
        return Score(value, int(table["parts"].sum()), {"image": table})


def _inputs(indices: Tensor, maps: Tensor) -> Tensor:
    """Return the centroids of the prototypes ``(N, 2K)``; 0 for padding."""
    return (centroids(maps) * (indices >= 0)[:, :, None]).flatten(1)
