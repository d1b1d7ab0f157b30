"""View of a fitted model's prototypes in the test images of a class, and the part metric's verdict on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contract import Metric, NotApplicable, RequestError
from bench.core import registry
from bench.core.files import read_json
from bench.report.plots.overlay import pictures, present, upsampled
from bench.runner.cell import CellRunner
from bench.runner.evaluator import observe

# Images per forward pass.
_BATCH = 64
CANVAS = 224
"""Side of the canvas in pixels where no part metric says another."""


@dataclass(frozen=True)
class Regions:
    """Regions of a part metric in one class's images.

    Attributes:
        metric: name of the metric.
        half: half the side of the region around a peak, in pixels.
        threshold: share of the images from which on a prototype counts as consistent.
        rates: ``(K, parts)`` share of the images showing a part in which the part is in the region; -1 if none
            shows it.
        consistent: bool ``(K,)``.
        parts: names, as the metric counts them.
    """

    metric: str
    half: int
    threshold: float
    rates: Tensor
    consistent: Tensor
    parts: tuple[str, ...]

    def best(self, slot: int, count: int = 3) -> list[tuple[str, float]]:
        """Return the parts that a prototype hits most often, with the share from 0 to 1, without parts never hit."""
        top = self.rates[slot].sort(descending=True, stable=True)
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [(self.parts[part], rate) for part, rate in pairs if rate > 0][:count]


@dataclass(frozen=True)
class Look:
    """The n test images of a class and its K prototypes; pixels are those of the canvas.

    Attributes:
        label: class number.
        class_name: readable name.
        prototypes: ``(K,)`` rows of the prototype table.
        index: ``(n,)`` positions in the test split.
        pictures: ``(n, size, size, 3)`` from 0 to 1.
        maps: ``(n, K, h, w)``.
        peaks: ``(n, K, 2)`` row and column.
        keypoints: ``(n, parts, 2)`` row and column.
        visible: bool ``(n, parts)``.
        predictions: ``(n,)`` classes.
        regions: ``None`` if no part metric was measured.
    """

    label: int
    class_name: str
    prototypes: Tensor
    index: Tensor
    pictures: Tensor
    maps: Tensor
    peaks: Tensor
    keypoints: Tensor
    visible: Tensor
    predictions: Tensor
    regions: Regions | None

    @property
    def size(self) -> int:
        """Side of the canvas."""
        return self.pictures.shape[1]

    @property
    def strengths(self) -> Tensor:
        """Largest value of each map, ``(n, K)``."""
        return self.maps.amax((2, 3))

    @property
    def present(self) -> Tensor:
        """Bool ``(n, K)``: which prototypes have a positive cell in each image; the others are absent from it."""
        return present(self.maps)

    def top(self, count: int) -> Tensor:
        """Return each prototype's images with the largest strength, ``(K, count)``; ties in the order of the split."""
        return self.strengths.sort(dim=0, descending=True, stable=True).indices[:count].T

    def box(self, image: int, slot: int) -> tuple[int, int, int, int]:
        """Return top, left, bottom and right of the metric's region; points on its border are inside."""
        assert self.regions is not None
        corners = torch.stack(
            (self.peaks[image, slot] - self.regions.half, self.peaks[image, slot] + self.regions.half)
        )
        top, left, bottom, right = corners.clamp(0, self.size).flatten().tolist()
        return top, left, bottom, right

    def inside(self, image: int, slot: int) -> Tensor:
        """Return which visible key-points are in that region: bool ``(parts,)``."""
        top, left, bottom, right = self.box(image, slot)
        row, column = self.keypoints[image].unbind(1)
        return (row >= top) & (row <= bottom) & (column >= left) & (column <= right) & self.visible[image]


@dataclass(frozen=True)
class Source:
    """Training patch that a prototype was projected onto.

    Attributes:
        picture: ``(size, size, 3)``.
        map: the prototype's map on it, ``(h, w)``.
        box: top, left, bottom, right of the patch, in pixels of the canvas.
        image: the training image's name.
    """

    picture: Tensor
    map: Tensor
    box: tuple[float, float, float, float]
    image: str


class Viewer:
    """Finished cell, opened to be looked at.

    Args:
        cell: the cell, with its folder and specification.

    Raises:
        RequestError: if it is not finished, or was saved without its model.
    """

    def __init__(self, cell: CellRunner) -> None:
        name = cell.folder.path.name
        archived = cell.store.archived(name) is not None
        if not cell.folder.done and not archived:
            raise RequestError(f"cell {name} is not finished: python -m bench cell {cell.folder.path}")
        if archived or not (cell.folder.result / "model.safetensors").is_file():
            runs = [content["command"] for content in cell.store.invocations().values() if name in content["cells"]]
            # The last of an option that is given twice counts.
            only = f"--methods {cell.spec.method} --seeds {cell.spec.seed} --no-controls --existing rerun"
            raise RequestError(
                f"cell {name} is here without its fit, which makes the maps; to fit it again: "
                f"{runs[-1] if runs else 'python -m bench run ...'} {only}"
            )
        self.cell, self.name = cell, name
        self.label: str = read_json(cell.folder.path / "cell.json")["label"]
        self._splits: dict[str, Any] = cell.inputs.data()
        self.model = cell.load(self.train)

    @property
    def train(self) -> Any:
        """Training split."""
        return self._splits["train"]

    @property
    def test(self) -> Any:
        """Test split."""
        return self._splits["test"]

    @property
    def class_names(self) -> list[str]:
        """Readable names of the classes."""
        return [readable(name) for name in self.cell.inputs.head_names]

    @property
    def title(self) -> str:
        """Method, data set, backbone and seed."""
        spec = self.cell.spec
        return ", ".join(part for part in (self.label, spec.dataset, spec.backbone, f"seed {spec.seed}") if part)

    @torch.no_grad()
    def look(self, label: int) -> Look:
        """Return the test images and prototypes of one class.

        Raises:
            RequestError: if the class has no test image or no prototype.
        """
        test, device = self.test, self.cell.device
        index = (test.labels == label).nonzero()[:, 0]
        prototypes = self.model.prototypes.classes[:, label].nonzero()[:, 0].cpu()
        for what, there in (("test image", index), ("prototype", prototypes)):
            if not len(there):
                raise RequestError(f"class {label} ({self.class_names[label]}) has no {what} to draw")
        metric = self._metric()
        size = metric[1].config.size if metric else CANVAS
        rows: list[tuple[Tensor, ...]] = []
        for batch in test.batches(_BATCH, device, index=index):
            seen = observe(self.model, test, batch)
            if metric:
                metric[1].update(seen)
            # All images are of one class. Its rows are padded if another class has more prototypes.
            own = prototypes.to(device) if seen.own.indices is None else seen.own.indices[0] >= 0
            maps = seen.own.maps[:, own]
            rows.append(
                (pictures(batch.images, size, test.mean, test.std).cpu(), maps.cpu(), seen.own.logits.argmax(1).cpu())
            )
        shown, maps, predictions = (torch.cat(parts) for parts in zip(*rows, strict=True))
        peaks, regions = self._judged(metric, label, prototypes) if metric else (_highest(maps, size), None)
        scale = 1.0 if test.size == size else size / test.size
        points = test.keypoints[index] if scale == 1.0 else torch.trunc(test.keypoints[index] * scale)
        return Look(
            label, self.class_names[label], prototypes, index, shown, maps, peaks.reshape(*maps.shape[:2], 2),
            points, test.visible[index], predictions, regions,
        )  # fmt: skip

    @torch.no_grad()
    def source(self, prototype: int, label: int, size: int = CANVAS) -> Source | None:
        """Return the training patch of a prototype; ``None`` if it comes from no training image."""
        table = self.model.prototypes
        image, (row, column) = int(table.source_image[prototype]), table.source_patch[prototype].tolist()
        if image < 0:
            return None
        batch = next(iter(self.train.batches(1, self.cell.device, index=torch.tensor([image]))))
        shown = self.model.explain(batch.images, torch.tensor([label], device=batch.images.device))
        indices = torch.arange(shown.maps.shape[1]) if shown.indices is None else shown.indices[0].cpu()
        found = shown.maps[0, int((indices == prototype).nonzero()[0])].cpu()
        height, width = (size / cells for cells in found.shape)
        box = (row * height, column * width, (row + 1) * height, (column + 1) * width)
        return Source(
            pictures(batch.images, size, self.train.mean, self.train.std)[0].cpu(),
            found,
            box,
            str(self.train.ids[image]),
        )

    def _metric(self) -> tuple[str, Any] | None:
        """Return the cell's first metric of the parts around peaks, prepared on the training split."""
        for name, facts in self.cell.spec.metrics.items():
            kind = registry.load("metrics", name)
            if not hasattr(kind, "rates") or facts["parameters"].get("pooled"):
                continue
            metric: Metric = kind(kind.Config.model_validate(facts["parameters"]), self.test, self.model.prototypes)
            try:
                metric.prepare(self.train)
            except NotApplicable:
                continue
            return name, metric
        return None

    def _judged(self, metric: tuple[str, Any], label: int, prototypes: Tensor) -> tuple[Tensor, Regions]:
        """Return peaks ``(n K, 2)``, image by image, and the metric's verdict on the class's prototypes."""
        name, found = metric
        tables = found.compute().items
        own = tables["prototype"]["class"] == label
        # The tables are in the order of images and of the prototype table, as everything else here.
        peaks = torch.stack([torch.from_numpy(tables["image"][axis]) for axis in ("row", "column")], 1)
        rates = found.rates().cpu()[torch.from_numpy(own)]
        passed = torch.from_numpy(tables["prototype"]["consistent"][own]).bool()
        assert tables["prototype"]["prototype"][own].tolist() == prototypes.tolist()
        return peaks, Regions(
            name, found.config.half_size, found.config.threshold, rates, passed, tuple(found.counted_parts)
        )


def _highest(maps: Tensor, size: int) -> Tensor:
    """Return the first highest pixel of each upsampled map ``(n, K, h, w)``: ``(n K, 2)``, image by image."""
    place = torch.cat([upsampled(chunk, size).flatten(2).argmax(2) for chunk in maps.split(16)]).flatten()
    return torch.stack((place // size, place % size), 1)


def readable(name: str) -> str:
    """Return a class's folder as a readable name.

    >>> readable("001.Black_footed_Albatross"), readable("n02085620-Chihuahua"), readable("b00")
    ('Black footed Albatross', 'Chihuahua', 'b00')
    """
    head, dot, tail = name.partition(".")
    if dot and head.isdigit() and tail:
        name = tail
    head, dash, tail = name.partition("-")
    if dash and head[:1] == "n" and head[1:].isdigit() and tail:
        name = tail
    return name.replace("_", " ").strip() or name


def chosen_classes(viewer: Viewer, wanted: tuple[str, ...], count: int) -> list[int]:
    """Return classes by number or name, or ``count`` of them spread evenly over the data set, so that none is picked.

    Raises:
        RequestError: for an unknown class, with the nearest name.
    """
    names = list(viewer.test.class_names)
    if not wanted:
        owned = viewer.model.prototypes.classes.cpu()
        shown = torch.bincount(viewer.test.labels, minlength=owned.shape[1]) > 0
        usable = (shown & owned.any(0)).nonzero()[:, 0].tolist()
        count = min(count, len(usable))
        return [usable[i * len(usable) // count] for i in range(count)]
    known = {**{readable(name): i for i, name in enumerate(names)}, **{name: i for i, name in enumerate(names)}}
    return by_name_or_number("class", wanted, known, len(names))


def by_name_or_number(kind: str, wanted: Sequence[str], known: Mapping[str, int], count: int) -> list[int]:
    """Return the numbers of the named classes or images; a name counts before a number, for names may be digits.

    Args:
        kind: singular of the named things, for the error.
        wanted: names, or numbers from 0.
        known: name -> number.
        count: how many there are.

    Raises:
        RequestError: for one that is neither, with the nearest name.
    """
    found = []
    for one in wanted:
        if one not in known and not (one.isdigit() and int(one) < count):
            near = registry.nearest(one, list(known))
            raise RequestError(f"no {kind} {one!r}{near}; write a name, or a number from 0 to {count - 1}")
        found.append(known[one] if one in known else int(one))
    return found
