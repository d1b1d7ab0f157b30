"""Processes that draw pictures side by side: three quarters of a drawing is Python, which threads would not share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from bench.data.synthetic.render import Picture, paint
from bench.data.synthetic.species import SPECIES

Box = tuple[int, int, int, int]
Points = dict[str, tuple[int, int]]

# Of the JPEG files, from 1 to 100.
_QUALITY = 93
# Pictures for which a process is worth its start.
_LEAST = 40
_PROGRAM = "from bench.data.synthetic.workers import work; work()"


def picture(seed: int, label: int, index: int) -> Picture:
    """Return picture `index` of species `label` (both from 0); it depends on nothing but these three numbers."""
    import numpy as np

    return paint(SPECIES[label], np.random.default_rng([seed, label, index]))


def stem(label: int, index: int) -> str:
    """Return a picture's path without its ending, below the folder of images or of masks."""
    name = SPECIES[label].name
    return f"{label + 1:03d}.{name}/{name}_{index + 1:04d}"


def order(classes: int, images: int) -> list[tuple[int, int]]:
    """Return species and number of each picture."""
    return list(product(range(classes), range(images)))


def drawn(root: Path, seed: int, classes: int, images: int) -> Iterator[tuple[Box, Points]]:
    """Draw pictures into a tree, as many at a time as there are processors.

    Yields:
        Box and key-points of each picture, in their order.

    Raises:
        OSError: if a picture cannot be written.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(available, classes * images // _LEAST)
    if count < 2:
        yield from (_draw(root, seed, *one) for one in order(classes, images))
        return
    # Not by `multiprocessing`, which runs a user's script again in each process, or forks one with threads.
    code = str(Path(__file__).resolve().parents[3])
    paths = [code, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(root), *map(str, (seed, classes, images, place, count))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for place in range(count)
    ]  # fmt: skip
    try:
        for number in range(classes * images):
            process = running[number % count]
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            if not line.endswith("\n"):
                reason = process.stderr.read().strip().rpartition("\n")[2]
                raise OSError(f"a picture could not be drawn: {reason or f'exit code {process.wait()}'}")
            box, points = json.loads(line)
            yield box, points
    finally:
        for process in running:
            process.kill()
            process.communicate()


def work() -> None:
    """Draw every so many pictures, as the arguments say; write box and points of each as a line."""
    root, numbers = Path(sys.argv[1]), map(int, sys.argv[2:])
    seed, classes, images, place, count = numbers
    for one in order(classes, images)[place::count]:
        sys.stdout.write(f"{json.dumps(_draw(root, seed, *one))}\n")
        sys.stdout.flush()


def _draw(root: Path, seed: int, label: int, index: int) -> tuple[Box, Points]:
    shot = picture(seed, label, index)
    shot.image.save(root / "images" / f"{stem(label, index)}.jpg", quality=_QUALITY, subsampling=0)
    shot.mask.save(root / "segmentations" / f"{stem(label, index)}.png")
    return shot.box, shot.points
