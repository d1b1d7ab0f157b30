"""An exact decomposition that looks for one recurring place per prototype; ours, not the paper's.

Every prototype is an equal share of the classifier's row plus a contrast: ``p~_i = v / k + s (q_i - mean_j q_j)``. The
contrasts sum to zero, so the sum is the row whatever they are. q_i is the unit vector of the mean feature at the places
where the map of p~_i itself peaks, one place per image; that is found by going back and forth between peaks and means,
from the unit NMF prototypes on. Prototypes that mean the same part in every image are fixed points of this; the
contrast with the other prototypes keeps them apart.

The contrasts' maps are scaled to the size of the share's map, so s alone says how far terms cancel: as contrast maps
hardly correlate with the class map, ``sum_i |F p~_i| / |F v|`` is near ``sqrt(1 + s^2)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def contrast(
    F: Tensor, rows: Tensor, v: Tensor, P: Tensor, grid: tuple[int, int], strength: float, rounds: int
) -> Tensor:
    """Prototypes ``(B, k, D)``, float64, of B classes whose sums are the rows of the classifier up to rounding.

    Args:
        F: features ``(B, M, D)``, M = images x cells; rows beyond a class's own are zero.
        rows: own rows per class ``(B,)``.
        v: rows of the classifier ``(B, D)``.
        P: initial prototypes ``(B, k, D)``.
        grid: rows and columns of one image's cells.
        strength: s, size of the contrasts' maps relative to that of the share.
        rounds: how often peaks and means are found anew.
    """
    if F.device.type == "cpu" and len(F) > 1:
        # Class by class, without padding: a class stays in the cache, and is the same to the bit in any company.
        parts = zip(F, rows.tolist(), v, P, strict=True)
        return torch.cat(
            [contrast(f[None, :n], torch.tensor([n]), w[None], p[None], grid, strength, rounds) for f, n, w, p in parts]
        )
    F = F[:, : int(rows.max())]
    share = (v.double() / P.shape[1])[:, None]
    # Only directions count: what a class map that is zero everywhere should be compared with does not matter.
    height = (F @ v.to(F.dtype)[:, :, None]).flatten(1).norm(dim=1).double() / P.shape[1]
    means = P.double()
    for step in range(rounds + 1):
        unit = means / means.norm(dim=2, keepdim=True).clamp(min=1e-30)
        apart = unit - unit.mean(1, keepdim=True)
        size = (F @ apart.to(F.dtype).mT).norm(dim=1).double().mean(1)
        scale = torch.where(size > 0, height / torch.where(size > 0, size, 1.0), 0.0)
        found = share + strength * scale[:, None, None] * apart
        if step < rounds:
            chosen = _peak_cells(F @ found.to(F.dtype).mT, rows, grid)
            means = (chosen.mT @ F).double()
    return found


def _peak_cells(maps: Tensor, rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """1 at the cell where each image's map is highest, else 0: ``(B, M, k)``.

    Highest on the average of a cell and its neighbours: a lone cell that noise would move is no place to look for.
    On grids of less than four rows or columns such averages are nearly all the same, and the cell itself counts.
    """
    B, M, k = maps.shape
    cells = grid[0] * grid[1]
    images = maps.mT.reshape(B * k, M // cells, *grid)
    reach = 1 if min(grid) >= 4 else 0
    smooth = torch.nn.functional.avg_pool2d(images, 2 * reach + 1, 1, reach, count_include_pad=False)
    best = smooth.flatten(2).argmax(2).reshape(B, k, M // cells)
    hot = torch.zeros(B, k, M // cells, cells, dtype=maps.dtype, device=maps.device).scatter_(3, best[..., None], 1)
    own = torch.arange(M, device=maps.device) < rows.to(maps.device)[:, None]
    return (hot.flatten(2) * own[:, None]).mT
