"""Memory and speed of methods at the number of classes of CUB and ImageNet, measured on random images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bench.contract import Method
from bench.core import registry
from bench.core.memory import available, format_bytes
from bench.diagnostics.measurements import Measurements, conditions, describe
from bench.diagnostics.profiling import Measurement, ProfileSizes, What, chosen, forms, in_new_process

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
    note: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Measure each method, in each of its forms, at each number of classes; every measurement in its own process.

    A measurement that does not fit is repeated with one image at a time, as in the paper (section 4.3).

    Args:
        methods: names, or ``all``.
        classes: numbers of classes.
        backbone: name of the backbone of all methods.
        device: device of the measurements.
        batch_size: images per batch; default 80 (ProtoPNet's) on a GPU, 4 on a CPU.
        size: side of the images in pixels.
        steps: timed repetitions.
        memory_limit: bytes; default on a CPU: three quarters of the free memory. A larger limit is lowered to that, so
            that the limit ends a measurement before the machine runs out of memory.
        plugins: files that register methods.
        note: called with messages about the progress.

    Returns:
        The conditions and ``rows``, ready for JSON.
    """
    names = chosen(methods)
    batch_size = batch_size or (80 if device.type == "cuda" else 4)
    limit, why = _limit(device, memory_limit)
    machine = conditions(device)
    rows = []
    for count in classes:
        # One process for each measurement: no peak contains memory of another.
        sizes = ProfileSizes(backbone, count, size, str(device))
        for name in names:
            for form, overrides in forms(name).items():
                row: dict[str, Any] = {"method": name, "form": form, "classes": count}
                for what in _what(name):
                    note(f"{name}{f' ({form})' if form else ''}, {count} classes: {what}")
                    row[what] = _measured(
                        Measurement(what, name, dict(overrides), sizes, batch_size, steps, limit, plugins)
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


def table(result: Mapping[str, Any]) -> Measurements:
    """Lay out the result of :func:`scale` as a table with notes."""
    limit = result["memory_limit_bytes"]
    above = [
        "{backbone}, random images of {size} pixels, {batch_size} at a time, {precision}".format(**result),
        *describe(result),
        f"memory limit: {format_bytes(limit) + ', ' if limit else ''}{result['memory_limit_why']}",
    ]
    if result["device"] == "cpu":
        above.append(
            "on a CPU 4 images at a time unless --batch is given (the papers: 80); peaks are of resident memory"
        )
    rows, notes = [], []
    for row in result["rows"]:
        training, inference = row["training"], row["inference"]
        title = f"{row['method']} ({row['form']})" if row["form"] else row["method"]
        counts = [part["parameters"] for part in (inference, training) if "parameters" in part]
        rows.append(
            {
                "method": title,
                "classes": str(row["classes"]),
                "params": f"{counts[0] / 1e6:.1f} M" if counts else "-",
                "activations": _bytes(training, "activation_bytes"),
                "training": _bytes(training),
                "inference": _bytes(inference),
                "train img/s": _rate(training),
                "infer img/s": _rate(inference),
            }
        )
        notes += _notes(f"{title}, {row['classes']} classes", row)
    headers = ("method", "classes", "params", "activations", "training", "inference", "train img/s", "infer img/s")
    return Measurements(above, headers, rows, [*notes, *_published(result["rows"])])


def _notes(title: str, row: Mapping[str, Any]) -> list[str]:
    notes = []
    for what in ("training", "inference", "decomposition"):
        part = row.get(what)
        if part is None:
            continue
        if part["status"] != "ok":
            state = "out of memory" if part["status"] == "oom" else "failed"
            notes.append(f"{title}, {what}: {state}: {part['reason']}")
        elif "larger_batch" in part:
            notes.append(f"{title}, {what}: measured with one image at a time; {part['larger_batch']['reason']}")
        elif what == "decomposition":
            notes.append(
                f"{title}, decomposition: peak {format_bytes(part['peak_bytes'])}, {part['seconds_per_class']:.2f} s "
                f"per class ({part['classes']} classes, {part['images']} images, features at no cost); "
                "trains the black box"
            )
    return notes


def _published(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each form of published code that does not fit into memory although ours does."""
    ours = {(row["method"], row["classes"]): row["training"] for row in rows if not row["form"]}
    notes = []
    for row in rows:
        here = ours[row["method"], row["classes"]]
        if row["form"] and row["training"]["status"] == "oom" and here["status"] == "ok":
            overrun = row["training"]["overrun"]
            tried = (
                f" (tried to allocate {format_bytes(overrun['tried_bytes'])})"
                if overrun and overrun["tried_bytes"]
                else ""
            )
            notes.append(
                f"{row['method']} at {row['classes']} classes: out of memory in the published code's form{tried}, "
                f"{format_bytes(here['peak_bytes'])} here"
            )
    return notes


def _bytes(part: Mapping[str, Any], name: str = "peak_bytes") -> str:
    if part["status"] != "ok":
        return "OOM" if part["status"] == "oom" else "failed"
    return format_bytes(part[name]) + ("*" if "larger_batch" in part else "")


def _rate(part: Mapping[str, Any]) -> str:
    return f"{part['images_per_second']:.1f}" if part["status"] == "ok" else "-"
