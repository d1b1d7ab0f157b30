"""Projection of prototypes onto training patches, called "push" in the official code.

Shapes: latent features z ``(N, D, h, w)``, prototypes ``(P, D, 1, 1)``. Source: ``push.py`` of cfchen-duke/ProtoPNet
(Chen et al., NeurIPS 2019) and of JackeyWang96/TesNet (Wang et al., ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.contract import Progress, PrototypeTable, Samples
from bench.core.memory import to_device

L = TypeVar("L")

_PUSH_BATCH = 64


def projection_facts(table: PrototypeTable) -> dict[str, float]:
    """Return the share of the prototypes of a class that are training patches, and of these that repeat another's."""
    known = table.source_image >= 0
    facts = {"projected": float(known[table.classes.any(1)].float().mean())}
    if known.any():
        sources = torch.cat([table.source_image[:, None], table.source_patch], 1)[known]
        facts["duplicate_share"] = 1 - len(torch.unique(sources, dim=0)) / len(sources)
    return facts


def cell(z: Tensor, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return single cells of z as prototypes ``(B, D, 1, 1)``; image, row and column are ``(B,)``."""
    return z[image, :, row, column][:, :, None, None]


@torch.no_grad()
def project(
    prototypes: nn.Parameter,
    table: PrototypeTable,
    latent: Callable[[Tensor], L],
    distance: Callable[[L, Tensor], Tensor],
    samples: Samples,
    progress: Progress,
    patch: Callable[[L, Tensor, Tensor, Tensor], Tensor] = cell,  # type: ignore[assignment]  # L is Tensor then
) -> None:
    """Replace each prototype by the nearest latent patch of the training images of its class ("push").

    One pass over the data; only the best patch of each prototype is kept. If several patches are equally near, the
    first in the order of the data wins (the strict comparison of the official ``push.py``). Prototypes of no class, or
    of one without images, are not changed.

    Args:
        prototypes: ``(P, D, 1, 1)``, or of another size that ``patch`` returns; changed in place.
        table: receives the source image and the source cell of each prototype.
        latent: images -> z ``(N, D, h, w)``, or any argument of ``distance`` and ``patch``.
        distance: ``(z, prototypes) -> (N, P, h, w)``.
        samples: the training split, without augmentation.
        progress: reporter of the images that are done.
        patch: ``(z, image, row, column)``, the latter ``(B,)`` -> B new prototypes.
    """
    device = prototypes.device
    best = torch.full((len(prototypes),), torch.inf, device=device)
    patches = prototypes.detach().clone()
    identity = table.classes.to(device)
    batches = samples.batches(_PUSH_BATCH, device)
    total = -(-len(samples) // _PUSH_BATCH)
    for batch in progress.track(batches, "projection", total):
        z = latent(batch.images)
        d = distance(z, prototypes)
        height, width = d.shape[2:]
        # Patches of images of other classes are never nearest.
        d = d.masked_fill(~identity.T[batch.labels][:, :, None, None], torch.inf)
        # (P, N h w) with images outermost: the first minimum is the first in the order of the data.
        nearest, index = d.permute(1, 0, 2, 3).flatten(1).min(1)
        image, row, column = index // (height * width), index // width % height, index % width
        better = nearest < best
        best = torch.where(better, nearest, best)
        # Of all prototypes: for those that are better alone, a GPU would wait to know their number.
        chosen = patch(z, image, row, column).to(patches.dtype)
        patches = torch.where(better[:, None, None, None], chosen, patches)
        table.source_image.copy_(torch.where(better, to_device(batch.index, device)[image], table.source_image))
        place = torch.stack([row, column], 1)
        table.source_patch.copy_(torch.where(better[:, None], place, table.source_patch))
    prototypes.copy_(patches)
