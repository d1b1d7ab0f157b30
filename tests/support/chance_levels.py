"""Chance levels of metrics from drawn places and from annotations alone, as the tables of reports/chance.md.

    python -m tests.support.chance_levels [CUB]

prints them; CUB is a tree of CUB-200-2011 with whole images, by default the three species of the shared data. Nothing
is trained: places are drawn, or every pixel of a grid is a prototype that never moves.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from bench.contract import Samples
from bench.core.seeding import derive
from bench.data.cache import prepare
from bench.data.cub import Cub
from bench.data.preprocessing import Preprocessing
from metrics.consistency import consistent
from metrics.distinctiveness import overlap
from metrics.fixed_positions import best_positions, fixed_hits, grid
from metrics.parts import hits, to_canvas
from tests.support.cub_trees import REAL
from tests.support.samples import Silent

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


def place_levels(train: Samples, test: Samples) -> dict[str, list[float]]:
    """Return what places without content reach on annotations: a number, or one for each class."""
    pixels, centre = grid(8), torch.tensor([[112, 112]])
    hit, visible = fixed_hits(test, pixels)
    chosen = best_positions(*fixed_hits(train, pixels))
    of_class = torch.arange(test.classes)

    def rate(counts: Tensor) -> list[float]:
        return (counts / visible.clamp(min=1)).amax(1).tolist()

    points = to_canvas(test.keypoints, test.size)
    # A box laid on each visible key-point, and the visible ones in it.
    inside = hits(points.long(), points, test.visible)[test.visible].sum(1).double()
    cells = torch.cartesian_prod(torch.tensor(CELLS), torch.tensor(CELLS)).expand(len(test), -1, -1)
    found = hits(cells, points, test.visible)
    same = (found[:, :, None] == found[:, None]).all(3).double()
    return {
        "consistent constant pixels, %": [100 * float(consistent(hit, visible[:, None]).double().mean())],
        "best part's rate of the pixel chosen in training": rate(hit[of_class, chosen]),
        "best part's rate of the middle": rate(fixed_hits(test, centre)[0][:, 0]),
        "key-points around a key-point": [float(inside.mean())],
        "stability of two independent cells, %": [100 * float(same.mean())],
    }


def main() -> None:
    """Print the tables."""
    write = sys.stdout.write
    write("| distinctiveness of random places | 2 prototypes | 5 | 10 | boxes not cut off, 5 |\n")
    write("|---|" + 4 * "---:|" + "\n")
    for where, title in PLACES.items():
        levels = [distinctiveness_of(drawn_peaks(where, 4_000, count)) for count in (2, 5, 10)]
        levels.append(distinctiveness_of(drawn_peaks(where, 4_000, 5), size=None))
        write(f"| {title} | {' | '.join(f'{level:.3f}' for level in levels)} |\n")
    dataset = Cub(Path(sys.argv[1]) if len(sys.argv) > 1 else REAL / "cub3_full")
    found = {}
    with tempfile.TemporaryDirectory() as home:
        for crop in ("bbox", "full"):
            splits = prepare(dataset, Preprocessing(crop=crop), Path(home), Silent())
            found[crop] = place_levels(splits["train"], splits["test"])
    write("\n| places without content | images cut to the box | whole images |\n|---|---:|---:|\n")
    for name, values in found["bbox"].items():
        both = [" / ".join(f"{value:.2f}" for value in one) for one in (values, found["full"][name])]
        write(f"| {name} | {both[0]} | {both[1]} |\n")


if __name__ == "__main__":
    main()
