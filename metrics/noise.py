"""Reproducible Gaussian noise, drawn image by image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    with ThreadPoolExecutor() as pool:
        return _Drawing(pool, index, shape, seed, draw, sigma, clip).finished()


class _Drawing:
    """Noise of a batch that the threads of a pool draw, each image for itself."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        index: Tensor,
        shape: tuple[int, ...],
        seed: int,
        draw: int,
        sigma: float,
        clip: float | None,
        pinned: bool = False,
    ) -> None:
        self._noise = torch.empty((len(index), *shape), pin_memory=pinned)
        rows = self._noise.numpy()

        def fill(row: int, position: int) -> None:
            # NumPy releases the interpreter lock meanwhile; a thread of torch would start threads of its own.
            np.random.default_rng((seed, draw, position)).standard_normal(dtype=np.float32, out=rows[row])
            np.multiply(rows[row], sigma, out=rows[row])
            if clip is not None:
                np.clip(rows[row], -clip, clip, out=rows[row])

        self._images = [pool.submit(fill, row, position) for row, position in enumerate(index.tolist())]

    def finished(self) -> Tensor:
        """Return the noise when all of it is drawn."""
        for image in self._images:
            image.result()
        return self._noise


class NoiseAhead:
    """Noise of :func:`gaussian_noise` for the batches of a split in order, the next two drawn while one is in use.

    A GPU is done with a batch sooner than a processor that begins when it is asked. In another order than that of the
    split the noise is the same, and later.

    Args:
        count: number of images of the split.
        shape: shape of one image.
        draws: number of draws for each batch, one after the other.
        pinned: draw into pinned memory, from which a GPU copies while the processor goes on.
        settings: ``sigma``, ``clip`` and ``seed``.

    Example:
        >>> ahead = NoiseAhead(5, (3, 8, 8), sigma=0.2, clip=0.25, seed=0)
        >>> batches = torch.arange(5).split(2)
        >>> all(torch.equal(ahead.of(batch), gaussian_noise(batch, (3, 8, 8))) for batch in batches)
        True
    """

    def __init__(
        self, count: int, shape: tuple[int, ...], draws: int = 1, pinned: bool = False, **settings: Any
    ) -> None:
        self._count, self._shape, self._draws = count, shape, draws
        self._settings = {**settings, "pinned": pinned}
        self._pool = ThreadPoolExecutor()
        self._begun: dict[tuple[int, ...], _Drawing] = {}

    def of(self, index: Tensor, draw: int = 0) -> Tensor:
        """Return the noise of images ``index (N,)``, float32 ``(N, *shape)`` on the CPU."""
        wanted = [(draw, *index.tolist())]
        for _ in range(2):
            wanted.append(self._after(*wanted[-1]))
        self._begun = {key: self._begun.get(key) or self._begin(*key) for key in wanted}
        return self._begun.pop(wanted[0]).finished()

    def _after(self, draw: int, *positions: int) -> tuple[int, ...]:
        """Return what is asked for next: the next draw of a batch, or the first of the next batch."""
        if draw + 1 < self._draws:
            return draw + 1, *positions
        first = positions[-1] + 1 if positions else self._count
        return 0, *range(first, min(first + len(positions), self._count))

    def _begin(self, draw: int, *positions: int) -> _Drawing:
        return _Drawing(self._pool, torch.tensor(positions), self._shape, draw=draw, **self._settings)
