"""Time of metrics, compared with the forward passes that they need and with a literal published evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import Metric, PartPrototypeModel, RequestError, Score
from bench.core import registry
from bench.core.memory import PeakMemory
from bench.diagnostics.measurements import conditions, describe, measurement_table, timed
from bench.diagnostics.synthetic import RandomPrototypes, TensorSamples, noise
from bench.models.backbones import build
from bench.report.table import Table
from bench.runner.evaluator import observe

MEASURED = ("consistency", "stability", "sensitivity", "completeness", "linearity", "symmetry")
SCORED = ("consistency", "stability")
PARTS, SIDE, HALF = 15, 224, 36


def draw_samples(images: int, classes: int, seed: int) -> TensorSamples:
    """Draw random images of all classes with random key-points, four of five visible."""
    samples = noise(classes, images, SIDE, seed)
    generator = torch.Generator().manual_seed(seed)
    samples.keypoints = torch.randint(0, SIDE, (images, PARTS, 2), generator=generator).double()
    samples.visible = torch.rand(images, PARTS, generator=generator) < 0.8
    samples.parts = [f"part {number}" for number in range(PARTS)]
    return samples


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

    The backbone has random weights, and ``prototypes`` are those of all classes together. The literal loop scores
    ``sample`` images on the CPU. The limit is in bytes beyond the model.

    Returns:
        ``over_forward`` (metrics and their forward passes over two bare ones), ``over_loop`` (the literal loop's time
        over that of the same scoring here, without the network) and their ingredients, ready for JSON.
    """
    if min(prototypes, images, classes, batch_size, sample) < 1 or prototypes % classes:
        raise RequestError("speed metrics: every size is at least 1, and --prototypes is a multiple of --classes")
    device = torch.device(device)
    machine = conditions(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(backbone, SIDE)
    model = RandomPrototypes(classes, net, prototypes // classes, shared=0, seed=seed).to(device).eval()
    samples = draw_samples(images, classes, seed)
    running = {name: _start(name, samples, model) for name in MEASURED}
    seconds = dict.fromkeys(("forward", "metrics"), 0.0)
    model.backbone(next(samples.batches(batch_size, device)).images)  # warm up
    with PeakMemory(device) as peak:
        for batch in samples.batches(batch_size, device):
            note(f"image {int(batch.index[0])} of {images}")
            for _ in range(2):
                seconds["forward"] += timed(device, model.backbone, batch.images)[1]
            seen = observe(model, samples, batch)
            for metric in running.values():
                seconds["metrics"] += timed(device, metric.update, seen)[1]
        scores = {name: timed(device, metric.compute) for name, metric in running.items()}
    seconds["metrics"] += sum(took for _, took in scores.values())
    note("the literal loop")
    scoring = _scoring(model, samples, min(sample, images), device)
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
        **machine,
    }


def _start(name: str, samples: TensorSamples, model: PartPrototypeModel) -> Metric:
    kind: type[Metric] = registry.load("metrics", name)
    return kind(kind.Config(), samples, model.prototypes)


def _scoring(model: PartPrototypeModel, samples: TensorSamples, count: int, device: torch.device) -> dict[str, Any]:
    """Time consistency and stability of precomputed maps, clean and noisy, by the literal loop and by our metrics."""
    batch = next(samples.batches(count, device, index=torch.arange(count) * len(samples) // count))
    seen = observe(model, samples, batch)
    noisy = model.explain(batch.images + 0.2 * torch.randn_like(batch.images), seen.labels)

    def ours() -> list[Score]:
        again = observe(model, samples, batch)
        again.once("own", lambda: seen.own)
        running = [_start(name, samples, model) for name in SCORED]
        settings = running[1].config
        again.once(("noisy", (settings.sigma, settings.clip, settings.seed, 0)), lambda: noisy)
        for metric in running:
            metric.update(again)
        return [metric.compute() for metric in running]

    ours()  # warm-up
    runs = [timed(device, ours) for _ in range(3)]
    points, visible = samples.keypoints[batch.index], samples.visible[batch.index]
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


def table(result: Mapping[str, Any]) -> Table:
    """Lay out the result of :func:`measure` as a table with notes."""
    seconds, scoring = result["seconds"], result["scoring"]
    above = [
        "{prototypes} prototypes of {classes} classes, {images} images in batches of {batch_size}".format(
            **result["sizes"]
        ),
        f"{result['backbone']}, {', '.join(result['metrics'])}",
        *describe(result),
    ]
    times = {
        "two bare forward passes": (seconds["forward"], result["sizes"]["images"], 1.0),
        "metrics, forward passes included": (seconds["metrics"], result["sizes"]["images"], result["over_forward"]),
        "scoring alone, clean and noisy": (scoring["seconds"], scoring["images"], 1.0),
        "the same, one map and one part at a time": (scoring["loop_seconds"], scoring["images"], result["over_loop"]),
    }
    headers = ("step", "s", "ms per image", "ratio")
    rows = [
        dict(zip(headers, (name, f"{total:.2f}", f"{1e3 * total / count:.3f}", f"{ratio:.2f}"), strict=True))
        for name, (total, count, ratio) in times.items()
    ]
    memory = f"peak memory {result['peak_bytes'] / 2**20:.0f} MiB beyond the model"
    if result["memory_limit"] is not None:
        kept = "within" if result["within_limit"] else "ABOVE"
        memory += f" ({kept} the limit of {result['memory_limit'] / 2**20:.0f})"
    notes = [
        f"over forward {result['over_forward']:.2f}, over loop {result['over_loop']:.1f}, peaks "
        f"{'identical' if scoring['identical'] else 'NOT identical'}",
        memory,
    ]
    return measurement_table("speed of the metrics", above, headers, rows, notes)
