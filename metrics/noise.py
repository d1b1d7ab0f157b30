"""Reproducible Gaussian noise, drawn image by image."""

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
    """Draw independent normal noise for each value, clipped to ``[-clip, clip]`` or not at all.

    The defaults are those of version 2 of ``util/eval_interpretability.py`` in hqhQAQ/EvalProtoPNet (Huang et al.,
    ICCV 2023), which sets no seed. Here every image has its own CPU generator, seeded by ``(seed, draw, position in the
    test split)``: its noise depends on neither the batch, nor the position in it, nor the device.

    Args:
        index: ``(N,)`` positions in the split.
        shape: shape of one image.
        sigma: standard deviation before clipping.
        clip: largest magnitude; ``None``: no clipping.
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

    # NumPy releases the interpreter lock while it draws, so threads help.
    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(index)), index.tolist()))
    drawn = torch.from_numpy(noise).mul_(sigma)
    return drawn if clip is None else drawn.clamp_(-clip, clip)
