"""Throughput of preprocessed images, compared with a plain DataLoader on the image files in the same run."""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bench.contract import Record, Samples
from bench.data.augmentation import draw
from bench.data.decoding import decode
from bench.diagnostics.measurements import conditions, describe, measurement_table, timed
from bench.models.classifier import Classifier
from bench.report.table import Table

# Passes over the preprocessed images in a round: one takes a quarter of a second, too short to measure.
_PASSES = 5


class Files(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Image files read as by torchvision's ImageFolder: decoded, resized, mirrored and normalised one by one."""

    def __init__(self, records: Sequence[Record], samples: Samples) -> None:
        from torchvision import transforms

        self.records = records
        self.transform = transforms.Compose(
            [
                transforms.Resize((samples.size, samples.size)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(samples.mean, samples.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record = self.records[index]
        return self.transform(decode(record.path)), record.label


def measure(
    records: Sequence[Record],
    samples: Samples,
    backbone: Callable[[], nn.Module] | None,
    device: torch.device,
    *,
    augment: str = "flip",
    batch_size: int = 32,
    images: int = 1024,
    workers: int = 2,
    rounds: int = 3,
    steps: int = 3,
    note: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Time both in alternating rounds, and a training step with and without new data.

    Only the cached images are augmented by the policy ``augment``; the DataLoader, of ``workers`` processes, mirrors.
    Without a backbone no step is timed. The median of the rounds counts.

    Returns:
        ``over_loader`` and its ingredients, ready for JSON.
    """
    machine = conditions(device)
    generator = torch.Generator().manual_seed(0)
    order = torch.randint(len(records), (images,), generator=generator)
    loader = DataLoader(
        Files(records, samples),
        batch_size,
        sampler=order.tolist(),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )

    def prepared() -> Iterator[Tensor]:
        drawn = None if augment == "none" else draw(augment, len(samples), generator)
        for batch in samples.batches(batch_size, device, index=order, augment=drawn):
            yield batch.images

    def loaded() -> Iterator[Tensor]:
        for pixels, _ in loader:
            yield pixels.to(device, non_blocking=True)

    def again() -> Iterator[Tensor]:
        for _ in range(_PASSES):
            yield from prepared()

    # Warm-up: the cache is read, and the processes of the DataLoader start.
    _seconds(prepared(), device)
    _seconds(loaded(), device)
    times: dict[str, list[float]] = {"cache": [], "loader": []}
    for number in range(rounds):
        note(f"round {number + 1} of {rounds}")
        times["cache"].append(_seconds(again(), device) / _PASSES)
        times["loader"].append(_seconds(loaded(), device))
    rates = {name: images / statistics.median(seconds) for name, seconds in times.items()}
    result: dict[str, Any] = {
        "over_loader": rates["cache"] / rates["loader"],
        "cache_images_per_second": rates["cache"],
        "loader_images_per_second": rates["loader"],
        "augment": augment,
        "size": samples.size,
        "batch_size": batch_size,
        "images": images,
        "workers": workers,
        "rounds": rounds,
        "cores": os.cpu_count(),
        **machine,
    }
    if backbone is not None:
        note(f"{steps} training steps with the same batch, {steps} with new ones")
        result |= _step(backbone(), samples, prepared, device, steps, batch_size)
    return result


def _step(
    net: nn.Module,
    samples: Samples,
    prepared: Callable[[], Iterator[Tensor]],
    device: torch.device,
    steps: int,
    batch_size: int,
) -> dict[str, float]:
    """Time training steps on one repeated batch and on new batches; the difference is the time of waiting for data."""
    model = Classifier(net, samples.classes).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    labels = torch.zeros(batch_size, dtype=torch.long, device=device)

    def train(batches: Iterable[Tensor]) -> Iterator[None]:
        for pixels in batches:
            loss = nn.functional.cross_entropy(model(pixels), labels[: len(pixels)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield

    batch = next(prepared())
    _seconds(train([batch]), device)
    same = _seconds(train([batch] * steps), device) / steps
    source = chain.from_iterable(prepared() for _ in count())
    new = _seconds(train(next(source) for _ in range(steps)), device) / steps
    return {"step_seconds": same, "step_with_data_seconds": new, "waiting_share": max(0.0, 1 - same / new)}


def _seconds(work: Iterable[object], device: torch.device) -> float:
    """Time the iteration over ``work``, until the device has finished it."""
    return timed(device, deque, work, 0)[1]


def table(result: Mapping[str, Any]) -> Table:
    """Lay out the result of :func:`measure` as a table with notes."""
    above = ["{images} images of {size} pixels, batches of {batch_size}".format(**result), *describe(result)]
    rates = {
        f"prepared images, {result['augment']}": result["cache_images_per_second"],
        f"DataLoader with {result['workers']} processes": result["loader_images_per_second"],
    }
    rows = [{"source": name, "images/s": f"{rate:.0f}"} for name, rate in rates.items()]
    notes = [f"{result['over_loader']:.1f} times as fast"]
    if "step_seconds" in result:
        notes.append(
            "a training step takes {step_seconds:.3f} s, with new data {step_with_data_seconds:.3f} s: "
            "{waiting_share:.1%} of it is waiting".format(**result)
        )
    return measurement_table("speed of the data", above, ("source", "images/s"), rows, notes)
