"""Chance levels of metrics from drawn places and from annotations alone, as the tables of reports/chance.md.

    python -m tests.support.chance_levels [--data-root DIR]

prints them. Nothing is trained: places are drawn, or every pixel of a grid is a prototype that never moves.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from bench.core.seeding import derive
from metrics.distinctiveness import overlap

CELLS = [32 * cell + 15 for cell in range(7)]
"""Pixels in the middle of the cells of a 7 x 7 map."""
PLACES = {
    "pixels": "uniform pixels",
    "cells": "cells of 7 x 7, with replacement",
    "distinct": "different cells of 7 x 7",
    "middle": "the 3 x 3 cells in the middle, with replacement",
}


def drawn_peaks(where: str, images: int, count: int) -> Tensor:
    """Return ``count`` random places in each of so many images ``(images, count, 2)``, by a name of ``PLACES``."""
    generator = torch.Generator().manual_seed(derive(0, "chance levels", where))
    if where == "pixels":
        return torch.randint(0, 224, (images, count, 2), generator=generator)
    if where == "distinct":
        cell = torch.rand(images, 49, generator=generator).argsort(1)[:, :count]
        cells = torch.stack((cell // 7, cell % 7), 2)
    else:
        low, high = (2, 5) if where == "middle" else (0, 7)
        cells = torch.randint(low, high, (images, count, 2), generator=generator)
    return torch.tensor(CELLS)[cells]


def distinctiveness_of(peaks: Tensor, size: int | None = 224) -> float:
    """Return the distinctiveness of peaks ``(images, K, 2)``, from 0 to 1."""
    row, column = torch.triu_indices(peaks.shape[1], peaks.shape[1], 1)
    return 1 - float(overlap(peaks, size=size)[:, row, column].mean())


def main() -> None:
    """Print the tables."""
    write = sys.stdout.write
    write("| distinctiveness of random places | 2 prototypes | 5 | 10 | boxes not cut off, 5 |\n")
    write("|---|" + 4 * "---:|" + "\n")
    for where, title in PLACES.items():
        levels = [distinctiveness_of(drawn_peaks(where, 20_000, count)) for count in (2, 5, 10)]
        levels.append(distinctiveness_of(drawn_peaks(where, 20_000, 5), size=None))
        write(f"| {title} | {' | '.join(f'{level:.3f}' for level in levels)} |\n")


if __name__ == "__main__":
    main()
