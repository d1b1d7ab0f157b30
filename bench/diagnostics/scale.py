"""Memory and speed of methods at the number of classes of CUB and ImageNet, measured on random images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.contract import Method
from bench.core import registry
from bench.core.memory import available, format_bytes
from bench.diagnostics.measurements import conditions
from bench.diagnostics.profiling import Measurement, ProfileSizes, What, choices, forms, in_new_process

_SHARE_OF_FREE = 0.75


def scale(
    methods: tuple[str, ...],
    classes: Sequence[int],
    backbone: str,
    device: torch.device,
    *,
    batch_size: int | None = None,
    size: int = 224,
    steps: int = 3,
    memory_limit: int | None = None,
    plugins: tuple[str, ...] = (),
    pairs: Sequence[str] = (),
    note: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Measure each method, in each of its forms, at each number of classes; every measurement in its own process.

    A measurement that does not fit is repeated with one image at a time, as in the paper (section 4.3). By default a
    batch has 80 images (ProtoPNet's) on a GPU and 4 on a CPU. On a CPU the memory limit, in bytes, is at most three
    quarters of the free memory, so that it ends a measurement before the machine runs out of memory.

    Returns:
        The conditions and ``rows``, ready for JSON.
    """
    subjects = choices(methods, pairs)
    batch_size = batch_size or (80 if device.type == "cuda" else 4)
    limit, why = _limit(device, memory_limit)
    machine = conditions(device)
    rows = []
    for count in classes:
        # One process for each measurement: no peak contains memory of another.
        sizes = ProfileSizes(backbone, count, size, str(device))
        for label, (name, settings) in subjects.items():
            for form, overrides in forms(name).items():
                row: dict[str, Any] = {"method": label, "form": form, "classes": count}
                for what in _what(name):
                    note(f"{label}{f' ({form})' if form else ''}, {count} classes: {what}")
                    row[what] = _measured(
                        Measurement(what, name, {**settings, **overrides}, sizes, batch_size, steps, limit, plugins)
                    )
                rows.append(row)
    return {
        "backbone": backbone,
        "size": size,
        "batch_size": batch_size,
        "precision": "fp32",
        "memory_limit_bytes": limit,
        "memory_limit_why": why,
        **machine,
        "rows": rows,
    }


def _limit(device: torch.device, wanted: int | None) -> tuple[int | None, str]:
    if device.type == "cuda":
        return wanted, "as asked for" if wanted else "the whole GPU"
    safe = int(_SHARE_OF_FREE * available(device))
    if wanted is None or wanted > safe:
        asked = f"; {format_bytes(wanted)} were asked for" if wanted else ""
        return safe, f"three quarters of the free memory of this machine{asked}"
    return wanted, "as asked for"


def _what(name: str) -> list[What]:
    method: type[Method] = registry.load("methods", name)
    decomposes = method.needs_black_box and registry.entry("methods", name).role == "method"
    return ["training", "inference", *(["decomposition"] if decomposes else [])]  # type: ignore[list-item]


def _measured(measurement: Measurement) -> dict[str, Any]:
    result = in_new_process(measurement)
    if result["status"] != "oom" or measurement.batch_size == 1 or measurement.what == "decomposition":
        return result
    alone = in_new_process(Measurement(**{**measurement.__dict__, "batch_size": 1}))
    return {**alone, "larger_batch": {"batch_size": measurement.batch_size, "reason": result["reason"]}}
