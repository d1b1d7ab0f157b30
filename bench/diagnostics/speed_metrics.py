"""Time of metrics, compared with the forward passes that they need and with a literal published evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import Explanation, Metric, Observation, PartPrototypeModel, PrototypeTable, RequestError, Score
from bench.core import registry
from bench.core.memory import PeakMemory
from bench.core.seeding import derive
from bench.diagnostics.profiling import timed
from bench.models.backbones import build

MEASURED = ("consistency", "stability", "sensitivity", "completeness", "linearity", "symmetry")
SCORED = ("consistency", "stability")
PARTS, SIDE, HALF = 15, 224, 36


class DrawnModel(PartPrototypeModel):
    """Backbone with random prototypes: inner products at every location, their maxima, one linear layer."""

    mixes = True

    def __init__(self, backbone: Any, classes: int, prototypes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.backbone = backbone
        owner = torch.arange(prototypes) * classes // prototypes
        self.prototypes = PrototypeTable(owner[:, None] == torch.arange(classes))
        self.vectors = nn.Parameter(torch.randn(prototypes, backbone.channels, generator=generator))
        self.weight = nn.Parameter(torch.where(self.prototypes.classes.T, 1.0, -0.5))

    def _maps(self, features: Tensor) -> Tensor:
        return nn.functional.conv2d(features, self.vectors[:, :, None, None])

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Explain features by prototypes; see :class:`bench.contract.PartPrototypeModel`."""
        maps = self._maps(features)
        scores = maps.amax((2, 3))
        logits = scores @ self.weight.T
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Weight the maps by the row of the class."""
        rows = self.weight[classes] if classes.ndim == 1 else classes.to(self.weight) @ self.weight
        return torch.einsum("nphw,np->nhw", self._maps(features), rows)


@dataclass(frozen=True)
class DrawnSplit:
    """Split of annotations without images, as metrics read it."""

    labels: Tensor
    keypoints: Tensor
    visible: Tensor
    classes: int
    parts: tuple[str, ...] = tuple(f"part {number}" for number in range(PARTS))
    size: int = SIDE
    protocol: str = "full-224-truncated"

    def __len__(self) -> int:
        return len(self.labels)


def draw_split(images: int, classes: int, seed: int) -> DrawnSplit:
    """Draw random key-points, four of five visible."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(0, SIDE, (images, PARTS, 2), generator=generator).double()
    visible = torch.rand(images, PARTS, generator=generator) < 0.8
    return DrawnSplit(torch.arange(images) * classes // images, points, visible, classes)


def literal(maps: Tensor, points: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Find peaks and hit parts as the published evaluation does, one map and one part at a time.

    Bicubic upsampling of one map, its argmax, then a loop over the parts. Only this measurement uses it.

    Args:
        maps: ``(N, K, h, w)``.
        points: key-points ``(N, PARTS, 2)`` as (row, column) in pixels.
        visible: bool ``(N, PARTS)``.

    Returns:
        Peaks ``(N, K, 2)`` as (row, column), and hits, bool ``(N, K, PARTS)``.
    """
    peaks = torch.zeros(*maps.shape[:2], 2, dtype=torch.long)
    hits = torch.zeros(*maps.shape[:2], PARTS, dtype=torch.bool)
    for image in range(len(maps)):
        for prototype in range(maps.shape[1]):
            small = maps[image, prototype][None, None]
            large = nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
            pixels = large[0, 0].numpy()
            row, column = divmod(int(pixels.argmax()), SIDE)
            peaks[image, prototype, 0], peaks[image, prototype, 1] = row, column
            top, bottom = max(0, row - HALF), min(SIDE, row + HALF)
            left, right = max(0, column - HALF), min(SIDE, column + HALF)
            for part in range(PARTS):
                if visible[image, part]:
                    y, x = points[image, part].tolist()
                    hits[image, prototype, part] = top <= y <= bottom and left <= x <= right
    return peaks, hits


@torch.no_grad()
def measure(
    backbone: str = "resnet34",
    prototypes: int = 2000,
    images: int = 1000,
    classes: int = 200,
    device: str | torch.device = "cpu",
    *,
    batch_size: int = 32,
    sample: int = 32,
    seed: int = 0,
    memory_limit: int | None = None,
    note: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Time the metrics on random images, batch by batch beside two bare forward passes of the same batch.

    Args:
        backbone: name in the catalogue; its weights are random.
        prototypes: number of prototypes of all classes together.
        images: number of images.
        classes: number of classes.
        device: device of the metrics and the forward passes; the literal loop runs on the CPU.
        batch_size: images per batch.
        sample: images that the literal loop scores; its time is extrapolated.
        seed: seed of all random numbers.
        memory_limit: bytes that the metrics may take beyond the model, for ``within_limit``; ``None``: any.
        note: called with messages about the progress.

    Returns:
        ``over_forward`` (metrics and their forward passes over two bare ones), ``over_loop`` (the literal loop's time
        over that of the same scoring here, without the network) and their ingredients, ready for JSON.
    """
    if min(prototypes, images, classes, batch_size, sample) < 1 or prototypes % classes:
        raise RequestError("speed metrics: every size is at least 1, and --prototypes is a multiple of --classes")
    device, load = torch.device(device), os.getloadavg()[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(backbone, SIDE)
    model = DrawnModel(net, classes, prototypes, seed).to(device).eval()
    split = draw_split(images, classes, seed)
    running = {name: _start(name, split, model) for name in MEASURED}
    seconds = dict.fromkeys(("forward", "metrics"), 0.0)
    model.backbone(_pixels(0, min(batch_size, images), device, seed))  # warm up
    with PeakMemory(device) as peak:
        for begin in range(0, images, batch_size):
            note(f"image {begin} of {images}")
            index = torch.arange(begin, min(begin + batch_size, images))
            pixels = _pixels(begin, len(index), device, seed)
            for _ in range(2):
                seconds["forward"] += timed(device, model.backbone, pixels)[1]
            seen = _observe(model, split, pixels, index, device)
            for metric in running.values():
                seconds["metrics"] += timed(device, metric.update, seen)[1]
        scores = {name: timed(device, metric.compute) for name, metric in running.items()}
    seconds["metrics"] += sum(took for _, took in scores.values())
    note("the literal loop")
    scoring = _scoring(model, split, min(sample, images), device, seed)
    return {
        "over_forward": seconds["metrics"] / seconds["forward"],
        "over_loop": scoring["loop_seconds"] / scoring["seconds"],
        "seconds": seconds,
        "scoring": scoring,
        "scores": {name: score.value for name, (score, _) in scores.items()},
        "peak_bytes": peak.growth,
        "within_limit": memory_limit is None or peak.growth <= memory_limit,
        "memory_limit": memory_limit,
        "sizes": {"prototypes": prototypes, "images": images, "classes": classes, "batch_size": batch_size},
        "backbone": backbone,
        "metrics": list(MEASURED),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({os.cpu_count()} cores)",
        "threads": torch.get_num_threads(),
        "load": load,
    }


def _start(name: str, split: DrawnSplit, model: DrawnModel) -> Metric:
    kind: type[Metric] = registry.load("metrics", name)
    return kind(kind.Config(), split, model.prototypes)  # type: ignore[arg-type]


def _pixels(begin: int, count: int, device: torch.device, seed: int) -> Tensor:
    # Seeded image by image: the measurement must not depend on the batch size.
    drawn = torch.empty(count, 3, SIDE, SIDE)
    for offset, image in enumerate(drawn):
        image.normal_(generator=torch.Generator().manual_seed(derive(seed, f"image {begin + offset}")))
    return drawn.to(device)


def _observe(
    model: PartPrototypeModel, split: DrawnSplit, pixels: Tensor, index: Tensor, device: torch.device
) -> Observation:
    parts = (split.labels[index], index, split.keypoints[index], split.visible[index], torch.zeros(len(index), 4))
    return Observation(model, pixels, *(part.to(device) for part in parts))


def _scoring(model: DrawnModel, split: DrawnSplit, count: int, device: torch.device, seed: int) -> dict[str, Any]:
    """Time consistency and stability of precomputed maps, clean and noisy, by the literal loop and by our metrics."""
    index = torch.arange(count) * len(split) // count
    pixels = _pixels(0, count, device, seed)
    seen = _observe(model, split, pixels, index, device)
    noisy = model.explain(pixels + 0.2 * torch.randn_like(pixels), seen.labels)

    def ours() -> list[Score]:
        again = _observe(model, split, pixels, index, device)
        again.once("own", lambda: seen.own)
        running = [_start(name, split, model) for name in SCORED]
        settings = running[1].config
        again.once(("noisy", (settings.sigma, settings.clip, settings.seed, 0)), lambda: noisy)
        for metric in running:
            metric.update(again)
        return [metric.compute() for metric in running]

    ours()  # warm-up
    runs = [timed(device, ours) for _ in range(3)]
    points, visible = split.keypoints[index], split.visible[index]
    both = [explanation.maps.cpu() for explanation in (seen.own, noisy)]
    literals, took = timed(torch.device("cpu"), lambda: [literal(maps, points, visible) for maps in both])
    table = runs[0][0][0].items["image"]
    peaks = torch.stack([torch.from_numpy(table[name]) for name in ("row", "column")], 1)
    # In single precision the loop may take a neighbouring pixel of nearly the same height; in double it may not.
    exact, _ = literal(both[0].double(), points, visible)
    return {
        "images": count,
        "seconds": min(seconds for _, seconds in runs),
        "loop_seconds": took,
        "identical": torch.equal(peaks, exact.flatten(0, 1)),
        "rounded_apart": int((peaks != literals[0][0].flatten(0, 1)).any(1).sum()),
    }


def as_text(result: dict[str, Any]) -> str:
    """Format the result of :func:`measure`."""
    sizes, seconds, scoring = result["sizes"], result["seconds"], result["scoring"]
    busy = result["load"] > (os.cpu_count() or 1) + 0.5
    per_image = {name: 1e3 * scoring[name] / scoring["images"] for name in ("seconds", "loop_seconds")}
    lines = [
        "{prototypes} prototypes of {classes} classes, {images} images in batches of {batch_size}".format(**sizes),
        f"{result['backbone']} on {result['device']}, {result['threads']} threads",
        *([f"load {result['load']:.1f} on {os.cpu_count()} cores: the machine is busy, times vary"] if busy else []),
        "",
        f"two bare forward passes  {seconds['forward']:10.2f} s",
        f"{', '.join(result['metrics'])}  {seconds['metrics']:.2f} s, forward passes included",
        f"over forward  {result['over_forward']:.2f}",
        "",
        f"scoring alone, {scoring['images']} images, clean and noisy: {per_image['seconds']:.3f} ms per image, "
        f"one map and one part at a time {per_image['loop_seconds']:.3f} ms",
        f"over loop     {result['over_loop']:.1f}, peaks {'identical' if scoring['identical'] else 'NOT identical'}",
        "",
        f"peak memory {result['peak_bytes'] / 2**20:.0f} MiB beyond the model{_beside_the_limit(result)}",
    ]
    return "\n".join(lines)


def _beside_the_limit(result: dict[str, Any]) -> str:
    if result["memory_limit"] is None:
        return ""
    kept = "within" if result["within_limit"] else "ABOVE"
    return f" ({kept} the limit of {result['memory_limit'] / 2**20:.0f})"
