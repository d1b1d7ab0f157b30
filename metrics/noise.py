"""Reproducible noise on images, drawn image by image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


def gaussian_noise(
    index: Tensor,
    shape: tuple[int, ...],
    *,
    sigma: float = 0.2,
    clip: float | None = 0.25,
    seed: int = 0,
    draw: int = 0,
) -> Tensor:
    """Independent normal noise per value, clipped to ``[-clip, clip]`` or not at all (metrics.md, section 2.4).

    Every image has a CPU generator of its own, seeded by ``(seed, draw, position in the test split)``: its noise
    depends on neither the batch it comes in, nor its place there, nor the device it goes to.

    Args:
        index: ``(N,)`` positions in the split.
        shape: of one image.
        sigma: standard deviation before clipping.
        clip: largest magnitude; ``None``: any.
        seed: 0 or more.
        draw: 0 or more; each gives other noise.

    Returns:
        float32 ``(N, *shape)`` on the CPU.

    Example:
        >>> both = gaussian_noise(torch.tensor([4, 9]), (3, 8, 8))
        >>> bool((both[1] == gaussian_noise(torch.tensor([9]), (3, 8, 8))[0]).all())
        True
    """
    noise = np.empty((len(index), *shape), dtype=np.float32)

    def fill(row: int, position: int) -> None:
        np.random.default_rng((seed, draw, position)).standard_normal(dtype=np.float32, out=noise[row])

    # NumPy lets go of the interpreter while it draws, so threads help.
    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(index)), index.tolist()))
    drawn = torch.from_numpy(noise).mul_(sigma)
    return drawn if clip is None else drawn.clamp_(-clip, clip)
