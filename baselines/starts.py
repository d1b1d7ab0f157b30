"""Data-dependent starts of prototype networks: prototypes, add-on layers and presences that fit the training images.

The published starts are drawn without looking at the data: prototypes uniformly in [0, 1), far from most latent cells,
where the log similarity is nearly flat, and add-on layers whose sigmoids saturate on features of many channels. With
few training steps much of a network never leaves them.

A prototype of V numbers can be any of the latent patches ``(N, V, h, w)``: the output of the add-on layers, or that of
the model's method ``patches(features)`` if it has one.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contract import Progress, Samples, Settings
from bench.core.seeding import derive

_RESCALING_IMAGES = 128
_MOST_IMAGES = 100
"""Images of each class whose cells are gathered: a bound on memory that does not depend on the size of the data set."""
_BATCH = 32
_ROUNDS = 15
_FOREGROUND = 4
"""One in so many cells of an image, those of the largest summed features, is taken for foreground."""
_PRESENCE = 0.15
"""Advantage of a class's nearest prototypes: several deviations of the random presence (0.03 at 50 classes)."""


class Start(Settings):
    """Starting values of a network.

    Attributes:
        prototypes: ``uniform`` in [0, 1), as published; ``patches``: training patches of the prototype's class drawn at
            random; ``kmeans``: the means of clusters of them.
        backbone: ``imagenet``: the starting weights of the backbone; ``blackbox``: those of the trained black box.
    """

    shared: ClassVar[bool] = False
    """Whether prototypes are drawn for all classes together."""
    prototypes: Literal["uniform", "patches", "kmeans"] = "uniform"
    backbone: Literal["imagenet", "blackbox"] = "imagenet"


class AddOnStart(Start):
    """Starting values of a network with add-on layers.

    Attributes:
        add_on: ``published``: Kaiming's initialisation; ``rescaled``: each convolution then divided so that each
            channel of its output has mean 0 and deviation 1 on 128 training images.
    """

    add_on: Literal["published", "rescaled"] = "published"


class PoolStart(AddOnStart):
    """Starting values of a network whose prototypes are shared through slots.

    Attributes:
        presence: ``random``, as published; ``data``: larger for the prototypes nearest to the patches of the class.
    """

    shared: ClassVar[bool] = True
    presence: Literal["random", "data"] = "random"


def start_setting(kind: type[Start]) -> Any:
    """Return the field of a ``Config`` for a start; the published one is not serialised: older cells keep their ids."""
    return Field(default=kind(), exclude_if=kind().__eq__)


@torch.no_grad()
def prepare(model: Any, start: Start, samples: Samples, seed: int, progress: Progress) -> None:
    """Give a network in eval mode its data-dependent start, in place.

    Features are computed in batches of a fixed size and clusters on the CPU, so that neither the batch size of the
    training nor the memory limit changes the result beyond rounding.

    Args:
        model: network on its device, with its published starting values.
        start: the wanted start.
        samples: the training split, without augmentation.
        seed: seed of all draws.
        progress: reporter.
    """
    generator = torch.Generator().manual_seed(derive(seed, "start"))
    # All draws are made whether they are used or not: one part of the start does not change another.
    order = torch.randperm(len(samples), generator=generator)
    if isinstance(start, AddOnStart) and start.add_on == "rescaled":
        _rescale(model, samples, order[:_RESCALING_IMAGES].sort().values)
    by_presence = isinstance(start, PoolStart) and start.presence == "data"
    drawn = start.prototypes not in ("patches", "kmeans")
    if drawn and not by_presence:
        return
    vectors, owners = model.prototype_vectors, model.prototypes.classes
    shared = start.shared
    classes = owners.shape[1]
    counts = [-(-len(vectors) // classes)] * classes if shared else owners.sum(0).tolist()
    rounds = 0 if start.prototypes == "patches" else _ROUNDS
    centres = [
        cluster(cells, count, rounds, generator) if len(cells) else cells
        for count, cells in zip(counts, _class_cells(model, samples, generator, progress), strict=True)
    ]
    if not drawn:
        if shared:
            pool = torch.cat(centres)
            chosen = pool if len(pool) == len(vectors) else cluster(pool, len(vectors), rounds, generator)
            vectors.copy_(chosen.view_as(vectors))
        else:
            for label, own in enumerate(centres):
                if len(own):  # a class without training images keeps its drawn prototypes
                    vectors[owners[:, label]] = own.to(vectors).view(-1, *vectors.shape[1:])
    if by_presence:
        _favour_nearest(model, centres)
        model.assign()


def cluster(points: Tensor, count: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Compute the means of clusters (Lloyd's k-means), from points drawn at random.

    Args:
        points: ``(n, V)``; if fewer than ``count``, some are repeated.
        count: number of clusters.
        rounds: number of times that points are assigned; 0 returns the drawn points.
        generator: of the draw.

    Returns:
        ``(count, V)``; a cluster that lost all its points keeps its last mean.

    Example:
        >>> points = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
        >>> cluster(points, 2, 5, torch.Generator().manual_seed(0)).sort(0).values.flatten().tolist()
        [0.10000000149011612, 5.099999904632568]
    """
    drawn = torch.randperm(len(points), generator=generator)
    means = points[drawn[torch.arange(count) % len(points)]]
    for _ in range(rounds):
        nearest = torch.cdist(points, means).argmin(1)
        sizes = nearest.bincount(minlength=count)[:, None]
        sums = torch.zeros_like(means).index_add_(0, nearest, points)
        means = torch.where(sizes > 0, sums / sizes.clamp(min=1), means)
    return means


def foreground(features: Tensor, patches: Tensor) -> Tensor:
    """Return the patches at the quarter of each image's cells with the largest summed features.

    Args:
        features: ``(N, D, h, w)``.
        patches: ``(N, V, h', w')``.

    Returns:
        ``(N m, V)``, m the number of chosen cells, at least 1.
    """
    energy = nn.functional.interpolate(features.sum(1, keepdim=True), patches.shape[2:]).flatten(1)
    best = energy.topk(max(1, energy.shape[1] // _FOREGROUND), dim=1).indices
    cells = patches.flatten(2).gather(2, best[:, None].expand(-1, patches.shape[1], -1))
    return cells.transpose(1, 2).flatten(0, 1)


def _class_cells(model: Any, samples: Samples, generator: torch.Generator, progress: Progress) -> Any:
    """Yield the foreground patches ``(n, V)`` of each class, on the CPU."""
    device = model.prototype_vectors.device
    latent = getattr(model, "patches", None) or model.add_on_layers
    for label in progress.track(range(samples.classes), "starts of classes", samples.classes):
        images = (samples.labels == label).nonzero().flatten()
        images = images[torch.randperm(len(images), generator=generator)[:_MOST_IMAGES]].sort().values
        cells = [model.prototype_vectors.new_empty(0, model.prototype_vectors[0].numel(), device="cpu")]
        if len(images):
            for batch in samples.batches(_BATCH, device, index=images):
                features = model.backbone(batch.images)
                cells.append(foreground(features, latent(features)).cpu())
        yield torch.cat(cells)


def _rescale(model: Any, samples: Samples, index: Tensor) -> None:
    """Divide the convolutions of the add-on layers one after the other: each sees the rescaled output of the last."""
    layers, device = model.add_on_layers, model.prototype_vectors.device
    for position, layer in enumerate(layers):
        if not isinstance(layer, nn.Conv2d):
            continue
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for batch in samples.batches(_BATCH, device, index=index):
            # Sums in double precision: the variance is a difference of large numbers.
            values = layers[: position + 1](model.backbone(batch.images)).double().movedim(1, 0).flatten(1)
            count += values.shape[1]
            total, squares = total.to(values) + values.sum(1), squares.to(values) + values.square().sum(1)
        mean = total / count
        # A channel that is constant on these images has no deviation to divide by.
        deviation = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
        layer.weight.div_(deviation[:, None, None, None])
        if layer.bias is not None:
            layer.bias.copy_((layer.bias - mean) / deviation)


def _favour_nearest(model: Any, centres: list[Tensor]) -> None:
    """Raise the presence, in all slots of a class, of its nearest prototypes, as many as it has slots."""
    presence = model.proto_presence
    vectors = model.prototype_vectors.flatten(1).cpu()
    for label, own in enumerate(centres):
        if len(own):
            nearest = torch.cdist(own, vectors).amin(0).argsort(stable=True)[: presence.shape[2]]
            presence[label, nearest.to(presence.device)] += _PRESENCE
