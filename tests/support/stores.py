"""A store as runs leave it on disk, without running anything; the format is that of ``bench/runner/cell.py``.

``example_store(root)`` is the one most tests look at; ``StoreMaker`` builds others cell by cell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.integrity import digests_of, fingerprint
from bench.results.store import Store, write_json

STAMP = "20260304-101500-123"
FINISHED = 1_772_619_300.0
"""Seconds since 1970 at which every fake result was written."""

REGION = {"half_size": 36, "size": 224}
METRICS: dict[str, dict[str, Any]] = {
    "accuracy": {"version": "1", "parameters": {}},
    "consistency": {"version": "v2", "parameters": {**REGION, "threshold": 0.8}},
    "stability": {"version": "v2", "parameters": {**REGION, "clip": 0.25, "draws": 1, "seed": 0, "sigma": 0.2}},
}
SCHEDULE = {
    "augment": "flip",
    "batch_size": 32,
    "phases": [
        {"name": "warm", "epochs": 1, "lr": {"add_on": 0.003}, "weight_decay": {}, "optimizer": "adam", "action": None},
        {"name": "joint", "epochs": 2, "lr": {"add_on": 0.003, "backbone": 0.0001}, "weight_decay": {"backbone": 0.001},
         "optimizer": "adam", "action": "project"},
    ],
}  # fmt: skip


def reseal(folder: Path) -> None:
    """Give a finished result, into which a test has written, the digests of what it holds now."""
    write_json(folder / "digests.json", digests_of(folder))


class StoreMaker:
    """Writes cells and invocations in the format of the store.

    Args:
        root: the store's directory; ``BENCH_HOME`` of the tests.
    """

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def cell(
        self,
        method: str,
        scores: Mapping[str, float] | None = None,
        *,
        label: str | None = None,
        role: str = "method",
        backbone: str | None = "tiny",
        seed: int = 0,
        dataset: str = "demo",
        digest: str = "5d41402abc4b2a76",
        protocol: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Mapping[str, Any]] | None = None,
        not_applicable: Mapping[str, str] | None = None,
        failure: tuple[str, str] | None = None,
        black_box_id: str | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        items: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        images: tuple[int, int] = (160, 40),
        recipe: str = "demo",
        changed: Sequence[str] | None = None,
        weights: str = "random",
    ) -> str:
        """Write one cell and return its id: finished with ``scores``, failed with ``failure``, else unfinished.

        ``items`` are per-item tables, ``METRIC.TABLE`` -> column -> numbers.
        """
        refused = {name: {"reason": reason, "unit": "%"} for name, reason in (not_applicable or {}).items()}
        facts = {"unit": "%", "higher_is_better": True}
        measured = {name: {**facts, **about} for name, about in (metrics or METRICS).items() if name not in refused}
        spec = {
            "method": method,
            "method_version": 1,
            "settings": dict(settings or {}),
            "dataset": dataset,
            "data_digest": digest,
            "protocol": dict(protocol or {"crop": "bbox", "size": 224, "coordinates": "truncated"}),
            "on_bad_image": "error",
            "backbone": backbone,
            "weights_digest": weights if backbone else "",
            "black_box": {"version": 1, "schedule": SCHEDULE} if black_box_id else None,
            "seed": seed,
            "precision": "fp32",
            "metrics": measured,
        }
        name = fingerprint(spec)
        folder = self.store.cell(name)
        where = {"data_root": None, "folder": None, "reader": dataset, "weights": None, "plugins": []}
        write_json(
            folder.path / "cell.json",
            {
                "spec": spec,
                "where": where,
                "label": label or method,
                "role": role,
                "recipe": recipe,
                "not_applicable": refused,
                "command": f"python -m bench cell cells/{name}",
                "bench_version": "0.1.0",
                **({"black_box_id": black_box_id} if black_box_id else {}),
                **({} if changed is None else {"changed": list(changed)}),
            },
        )
        if scores is not None:
            self.finish(name, scores, history, images, items)
        elif failure is not None:
            folder.fail(*failure)  # type: ignore[arg-type]
            os.utime(folder.path / "failure.json", (FINISHED, FINISHED))
        return name

    def finish(
        self,
        name: str,
        scores: Mapping[str, float],
        history: Sequence[Mapping[str, Any]] = (),
        images: tuple[int, int] = (160, 40),
        items: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    ) -> None:
        """Give a cell its result, through ``work`` and the store's own last step."""
        folder = self.store.cell(name)
        work = folder.work
        write_json(
            work / "result.json",
            {
                "scores": {key: {"value": value, "n": 24} for key, value in scores.items()},
                "facts": {"worst residual": 0.125},
                "prototypes": 24,
                "parameters": 1234,
                "images": dict(zip(("train", "test"), images, strict=True)),
                "seconds": {"fit": 90.0, "evaluate": 10.0},
                "environment": {
                    "bench": "0.1.0",
                    "git": "abc123",
                    "python": "3.11.9",
                    "platform": "Linux x86_64",
                    "packages": {"torch": "2.13.0"},
                    "device": "cpu",
                    "hardware": "Some CPU, 2 cores",
                    "threads": 2,
                    "deterministic": True,
                    "arguments": [],
                },
            },
        )
        write_json(work / "history.json", list(history))
        (work / "items").mkdir()
        for metric in scores:
            (work / "items" / f"{metric}.image.csv").write_text("index,label\n0,0\n")
            if metric != "accuracy":
                (work / "items" / f"{metric}.prototype.csv").write_text("prototype,class\n0,0\n")
        for table, columns in (items or {}).items():
            rows = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
            (work / "items" / f"{table}.csv").write_text("\n".join(rows) + "\n")
        (work / "log.txt").write_text("10:15:00 test batches: 1 in 0.1 s\n")
        (work / "model.safetensors").write_bytes(b"weights")
        folder.finish()
        os.utime(folder.result / "result.json", (FINISHED, FINISHED))

    def black_box(self, name: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the training curves of a finished black box."""
        write_json(self.store.root / "blackboxes" / name / "result" / "history.json", list(history))

    def invocation(self, cells: Sequence[str], stamp: str = STAMP, suite: str = "default") -> str:
        """Write one call of ``run`` and return its stamp."""
        command = "python -m bench run --methods ours,protopnet --datasets demo"
        content = {"suite": suite, "command": command, "cells": list(cells), "device": "cpu"}
        self.store.record_invocation(stamp, content)
        return stamp


def epoch(number: int, phase: str, loss: float) -> dict[str, Any]:
    """One row of ``history.json``."""
    return {"phase": phase, "epoch": number, "loss": loss, "train_accuracy": 1 - loss, "seconds": 2.0}


def example_cells(maker: StoreMaker) -> dict[str, str]:
    """Cells with all that can happen to one: name in the tests -> id."""
    shared = {"black_box_id": "feed00000001"}
    no_class = {"accuracy": "{} predicts no class"}

    def control(method: str, consistency: float, stability: float) -> str:
        refused = {name: reason.format(method) for name, reason in no_class.items()}
        scores = {"consistency": consistency, "stability": stability}
        return maker.cell(method, scores, role="control", backbone=None, not_applicable=refused)

    def scores(accuracy: float, consistency: float, stability: float) -> dict[str, float]:
        return {"accuracy": accuracy, "consistency": consistency, "stability": stability}

    trained = {"schedule": SCHEDULE}
    curve = [epoch(0, "warm", 0.9), epoch(1, "joint", 0.5), epoch(2, "joint", 0.25)]
    return {
        "ours-0": maker.cell("ours", scores(90.0, 70.0, 80.0), settings={"k": 3}, **shared),
        "protopnet-0": maker.cell("protopnet", scores(85.0, 60.0, 90.0), settings=trained, history=curve),
        "blackbox-0": maker.cell("blackbox", scores(92.0, 50.0, 75.0), role="reference", **shared),
        "constant-0": control("constant", 65.0, 100.0),
        "random-0": control("random", 5.0, 20.0),
        "ours-1": maker.cell("ours", scores(92.0, 76.0, 82.0), settings={"k": 3}, seed=1, **shared),
        "protopnet-1": maker.cell(
            "protopnet", settings=trained, seed=1, failure=("failed", "loss became nan in phase 'joint'")
        ),
        "ours-big": maker.cell(
            "ours", label="ours (k=9)", settings={"k": 9}, failure=("oom", "tried 40 GiB"), **shared
        ),
        "ours-late": maker.cell("ours", label="ours (k=5)", settings={"k": 5}, **shared),
    }


def example_store(root: Path) -> tuple[StoreMaker, dict[str, str]]:
    """One invocation over :func:`example_cells`."""
    maker = StoreMaker(root)
    cells = example_cells(maker)
    maker.black_box("feed00000001", [epoch(0, "all", 0.8), epoch(1, "all", 0.4)])
    maker.invocation(list(cells.values()))
    return maker, cells


def scores(consistency: float, stability: float = 90.0, accuracy: float = 95.0) -> dict[str, float]:
    """What most plots show."""
    return {"accuracy": accuracy, "consistency": consistency, "stability": stability}


def control(maker: StoreMaker, name: str, consistency: float) -> str:
    """A content-free control's cell: its id."""
    found = {"consistency": consistency, "stability": 100.0}
    refused = {"accuracy": f"{name} predicts no class"}
    return maker.cell(name, found, role="control", backbone=None, not_applicable=refused)
