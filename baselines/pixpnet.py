"""PixPNet (Carmichael et al., WACV 2024; official code: merlresearch/PixPNet), written from its formulas."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from baselines import layers, pixel_maps
from baselines.network import NetworkLearner, PrototypeNetwork, TrainedConfig
from baselines.starts import AddOnStart, start_setting
from bench.contract import Explanation, FitContext, PartPrototypeModel, Progress, PrototypeTable, Samples
from bench.core.part_model import shapley_of_maxima
from bench.core.seeding import derive, seeded

_EPSILON = 1e-6
_PUSH_BATCH = 64
"""The published batch, within which an image may give one prototype alone."""


def similarity(distance: Tensor) -> Tensor:
    """Compute ``log(1 / (d + eps) + 1)``, large for small distances.

    Example:
        >>> round(float(similarity(torch.tensor(1.0))), 4)
        0.6931
    """
    # Not ProtoPNet's log((d + 1) / (d + eps)): here (d + 1 + eps) / (d + eps), eps = 1e-6 as configured.
    return torch.log(1 / (distance + _EPSILON) + 1)


def cosine_distances(z: Tensor, prototypes: Tensor) -> Tensor:
    """Compute one minus the cosine of every cell and every prototype, from 0 to 2: ``(N, P, h, w)``."""
    # A distance of 1e-3 is the difference of cosines near 1: bfloat16 has three digits.
    with torch.autocast(z.device.type, enabled=False):
        z, prototypes = layers.at_least_single(z), layers.at_least_single(prototypes)
        return 1 - layers.projections(layers.unit(z), prototypes).clamp(-1, 1)


class PixPNetModel(PartPrototypeModel):
    """Backbone, add-on layers, cosine distances; a logit is the sum of the class's similarities, without weights.

    Args:
        backbone: feature extractor with attribute ``channels``.
        classes: number of classes.
        per_class: prototypes of each class.
        depth: channels of the latent space.
        size: side of the images in pixels.
        display: maps that are shown; see :class:`PixPNet.Config`.
    """

    rows: Tensor
    columns: Tensor

    mixes = True

    def __init__(
        self, backbone: Any, classes: int, per_class: int, depth: int, size: int, display: pixel_maps.Display = "cells"
    ) -> None:
        super().__init__()
        self.backbone, self.display = backbone, display
        self.add_on_layers = layers.add_on(backbone.channels, depth)
        nn.init.xavier_normal_(self.add_on_layers[2].weight)  # before the sigmoid
        self.prototype_vectors = nn.Parameter(torch.rand(classes * per_class, depth, 1, 1))
        self.prototypes = PrototypeTable(layers.class_identity(classes, per_class))
        shown = display != "cells"
        rows, columns = pixel_maps.windows(backbone, size) if shown else (torch.empty(0), torch.empty(0))
        self.register_buffer("rows", rows, persistent=shown)
        self.register_buffer("columns", columns, persistent=shown)

    def similarities(self, features: Tensor) -> Tensor:
        """Compute the log similarities of every cell to every prototype ``(N, P, h, w)``."""
        return similarity(self.distances(features))

    def distances(self, features: Tensor) -> Tensor:
        """Compute the cosine distances of every cell to every prototype ``(N, P, h, w)``."""
        return cosine_distances(self.add_on_layers(features), self.prototype_vectors)

    def classify(self, scores: Tensor) -> Tensor:
        """Return the logits of the largest similarities ``(N, P)``."""
        # Readout `proto` of the official code: the plain sum of own similarities.
        return scores @ self.prototypes.classes.to(scores.dtype)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits alone."""
        return self.classify(similarity(self.distances(features).amin((2, 3))))

    def _shown(self, cells: Tensor) -> Tensor:
        return cells if self.display == "cells" else pixel_maps.spread(cells, self.rows, self.columns, self.display)

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return log similarities as maps, of cells or spread over pixels, and their maxima over cells as scores."""
        cells = self.similarities(features)
        scores = cells.amax((2, 3))
        logits = self.classify(scores)
        if classes is None:
            return Explanation(logits, self._shown(cells), scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self._shown(self.pick(cells, indices)), self.pick(scores, indices), indices)

    def _weights(self, classes: Tensor) -> Tensor:
        members = self.prototypes.classes.T
        return members[classes].double() if classes.ndim == 1 else classes.double() @ members.double()

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return 1 for the class of a prototype and 0 for the others."""
        return self.prototypes.classes[prototypes].to(self.prototype_vectors.dtype)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map: the sum of the maps of the class's prototypes."""
        cells = self.similarities(features)
        weights = self._weights(classes).to(cells)
        if self.display == "cells":
            return torch.einsum("nphw,np->nhw", cells, weights)
        # Spreading is not linear (largest values, means), so it comes before the sum; image by image for memory.
        shown = [
            torch.einsum("phw,p->hw", self._shown(one[None, own.bool()])[0], own[own.bool()])
            for one, own in zip(cells, weights, strict=True)
        ]
        return torch.stack(shown)

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return each own prototype's whole term in the cell most similar to it."""
        cells = self.similarities(features)
        return layers.at_maxima(cells, self._weights(classes).to(cells))

    def shapley(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the Shapley values of the maxima over cells, whatever is displayed."""
        cells = self.similarities(features)
        return shapley_of_maxima(cells, self._weights(classes).to(cells))


class PixPNetLearner(NetworkLearner):
    """Cross entropy; cluster and separation terms, which the published settings do not use."""

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute the loss with its terms, and the training accuracy."""
        model, config = self.model, self.config
        nearest = model.distances(model.backbone(images)).amin((2, 3))
        logits = model.classify(similarity(nearest))
        cluster, separation = layers.cluster_and_separation(nearest, labels, model.prototypes.classes)
        entropy = nn.functional.cross_entropy(logits, labels)
        # Published settings have 0 for both weights; the command line's defaults are ProtoPNet's.
        loss = entropy + config.cluster * cluster - config.separation * separation
        correct = (logits.argmax(1) == labels).float().mean()
        terms = {"cross_entropy": entropy, "cluster": cluster, "separation": separation}
        return {"loss": loss, **terms, "train_accuracy": correct}

    def act(self, action: str, samples: Samples) -> None:
        """Run ``project``, in which an image gives at most one prototype."""
        if action != "project":
            super().act(action, samples)
        model = self.model
        latent = nn.Sequential(model.backbone, model.add_on_layers)
        project_apart(model.prototype_vectors, model.prototypes, latent, samples, self.progress)


@torch.no_grad()
def project_apart(
    prototypes: nn.Parameter, table: PrototypeTable, latent: nn.Module, samples: Samples, progress: Progress
) -> None:
    """Replace each prototype by the nearest training patch of its class that no other prototype took from its image.

    In every batch of 64 images, in the order of the data, pairs of a prototype and an image of its class are passed
    from the nearest to the farthest: a prototype counts in its first pair alone, and takes the patch, and with it the
    image, if that is nearer than its best one of earlier batches. Prototypes that find no patch are left as they are;
    the official code makes them zero.

    Args:
        prototypes: ``(P, D, 1, 1)``, changed in place.
        table: receives the source image and the source cell of each prototype.
        latent: images -> z ``(N, D, h, w)``.
        samples: the training split, without augmentation.
        progress: reporter of the images that are done.
    """
    best = [float("inf")] * len(prototypes)
    patches = prototypes.detach().clone()
    batches = samples.batches(_PUSH_BATCH, prototypes.device)
    for batch in progress.track(batches, "projection", -(-len(samples) // _PUSH_BATCH)):
        z = latent(batch.images)
        indices = table.of(batch.labels)
        maps = cosine_distances(z, prototypes).flatten(2)
        rows = indices.clamp(min=0)
        nearest, cell = maps.gather(1, rows[:, :, None].expand(-1, -1, maps.shape[2])).min(2)
        pairs = nearest.masked_fill(indices < 0, torch.inf).flatten()
        order = pairs.argsort(stable=True)[: int(pairs.isfinite().sum())]
        width = indices.shape[1]
        taken: set[int] = set()
        passed: set[int] = set()
        picked = (order // width, indices.flatten()[order], cell.flatten()[order], pairs[order])
        for image, row, place, distance in zip(*(values.tolist() for values in picked), strict=True):
            if image in taken or row in passed:
                continue
            passed.add(row)
            if distance < best[row]:
                taken.add(image)
                best[row] = distance
                y, x = divmod(place, z.shape[3])
                patches[row, :, 0, 0] = z[image, :, y, x]
                table.source_image[row] = batch.index[image].to(table.source_image)
                table.source_patch[row] = torch.tensor([y, x])
    prototypes.copy_(patches)


class PixPNet(PrototypeNetwork):
    """Class-specific prototypes whose similarities add up, with maps that can be spread over receptive fields."""

    name = "pixpnet"
    paper = "Carmichael et al., Pixel-Grounded Prototypical Part Networks, WACV 2024"
    learner_class = PixPNetLearner

    class Config(TrainedConfig):
        """Published defaults (CUB); the schedule comes from the recipe.

        Attributes:
            per_class: prototypes of each class.
            depth: channels of the latent space.
            cluster: weight of the cluster term.
            separation: weight of the separation term.
            display: maps that are shown and measured: ``cells``: similarities of the cells; ``max``, ``mean``, ``sum``:
                of each cell spread over its receptive field by a Gaussian kernel, joined in every pixel.
            start: starting values; see :mod:`baselines.starts`.
            schedule: phases over the groups ``backbone, add_on, prototypes``; action ``project``.
        """

        per_class: PositiveInt = 10
        depth: PositiveInt = 192
        cluster: float = 0.0
        separation: float = 0.0
        display: Literal["cells", "max", "mean", "sum"] = "cells"
        start: AddOnStart = start_setting(AddOnStart)

        trains: ClassVar[tuple[str, ...]] = ("backbone", "add_on", "prototypes")

    def build(self, task: FitContext) -> PixPNetModel:
        """Return the network with its initial weights, drawn from the task's seed."""
        backbone, config = task.backbone(), task.config
        with seeded(derive(task.seed, "pixpnet")):
            classes, size = task.train.classes, task.train.size
            return PixPNetModel(backbone, classes, config.per_class, config.depth, size, config.display).eval()
