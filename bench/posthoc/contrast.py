"""Exact decomposition into prototypes that peak at one recurring location each; this project's, not the paper's.

Every prototype is an equal share of the classifier's row plus a contrast: ``p~_i = v / k + s (q_i - mean_j q_j)``. The
contrasts sum to zero, so the prototypes sum to the row for any q. q_i is the unit vector of the mean feature at the
peaks of the map of p~_i itself, one location per image; peaks and means are computed in turn, from the unit NMF
prototypes on. Prototypes that mean the same part in every image are fixed points of this iteration; the contrast with
the other prototypes keeps them different.

The contrasts' maps are scaled to the size of the share's map, so s alone sets how far terms cancel: as contrast maps
hardly correlate with the class map, ``sum_i |F p~_i| / |F v|`` is near ``sqrt(1 + s^2)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def contrast(
    F: Tensor, rows: Tensor, v: Tensor, P: Tensor, grid: tuple[int, int], strength: float, rounds: int
) -> Tensor:
    """Compute prototypes of B classes whose sums are the rows of the classifier up to rounding.

    Args:
        F: features ``(B, M, D)``, M = images x locations, zero beyond a class's valid rows.
        rows: number of valid rows per class ``(B,)``.
        v: rows of the classifier ``(B, D)``.
        P: initial prototypes ``(B, k, D)``.
        grid: height and width of a feature map.
        strength: s, size of the contrasts' maps relative to that of the share.
        rounds: number of updates of peaks and means.

    Returns:
        Prototypes ``(B, k, D)``, float64.
    """
    if F.device.type == "cpu" and len(F) > 1:
        # Class by class, without padding: a class stays in the cache, and its bits do not depend on the other classes.
        parts = zip(F, rows.tolist(), v, P, strict=True)
        return torch.cat(
            [contrast(f[None, :n], torch.tensor([n]), w[None], p[None], grid, strength, rounds) for f, n, w, p in parts]
        )
    F = F[:, : int(rows.max())]
    share = (v.double() / P.shape[1])[:, None]
    # Of a class map that is zero everywhere the height is 0, and with it the scale: only the share is left.
    height = (F @ v.to(F.dtype)[:, :, None]).flatten(1).norm(dim=1).double() / P.shape[1]
    means = P.double()
    for step in range(rounds + 1):
        unit = means / means.norm(dim=2, keepdim=True).clamp(min=1e-30)
        contrasts = unit - unit.mean(1, keepdim=True)
        size = (F @ contrasts.to(F.dtype).mT).norm(dim=1).double().mean(1)
        scale = torch.where(size > 0, height / torch.where(size > 0, size, 1.0), 0.0)
        prototypes = share + strength * scale[:, None, None] * contrasts
        if step < rounds:
            peaks = _peaks(F @ prototypes.to(F.dtype).mT, rows, grid)
            means = (peaks.mT @ F).double()  # sums over images: the length does not matter
    return prototypes


def _peaks(maps: Tensor, rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return 1 at the highest location of each image's map, else 0: ``(B, M, k)``.

    The height is the average over a location and its neighbours.
    """
    B, M, k = maps.shape
    locations = grid[0] * grid[1]
    images = maps.mT.reshape(B * k, M // locations, *grid)
    # Smoothed, because noise moves a single high location. In grids of less than four rows or columns such averages
    # are nearly all the same, so there the location itself counts.
    reach = 1 if min(grid) >= 4 else 0
    smooth = torch.nn.functional.avg_pool2d(images, 2 * reach + 1, 1, reach, count_include_pad=False)
    best = smooth.flatten(2).argmax(2).reshape(B, k, M // locations)
    one_hot = torch.zeros(B, k, M // locations, locations, dtype=maps.dtype, device=maps.device)
    one_hot.scatter_(3, best[..., None], 1)
    valid = torch.arange(M, device=maps.device) < rows.to(maps.device)[:, None]
    return (one_hot.flatten(2) * valid[:, None]).mT
