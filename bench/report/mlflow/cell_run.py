"""Content of one cell's MLflow run: parameters, metrics, tags and files, all from the store."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.content_digest import state_of
from bench.core.errors import RequestError
from bench.core.plain_text import for_markdown, markdown_prose, one_line
from bench.core.resource_usage import FILE as USAGE
from bench.core.resource_usage import read_usage
from bench.report.mlflow.fields import LAYOUT, SCORES, cut, digest, flat, named, rounded
from bench.results.cell_record import CellRecord
from bench.results.records import read_history
from bench.results.result_files import FolderFiles, ResultFiles
from bench.results.rows import rows_of
from bench.results.stats.intervals import with_intervals
from bench.results.store import Store, write_json

_log = logging.getLogger(__name__)

_LONGEST_PARAM = 500
_LONGEST_REASON = 1000
_LONGEST_NOTE = 7500
_STORED = ("cell.json", "failure.json", "result/result.json", "result/digests.json")
# Column of the table of usage -> MLflow's name, and the factor of its unit.
_SYSTEM = {
    "memory_bytes": ("process_memory_megabytes", 1e-6),
    "gpu_memory_bytes": ("gpu_0_memory_usage_megabytes", 1e-6),
}
# Columns that are divided by the seconds of their row.
_RATES = {
    "cpu_seconds": ("processor_cores_busy", 1.0),
    "gpu_busy_seconds": ("gpu_0_utilization_percentage", 100.0),
    "cpu_joules": ("processor_power_usage_watts", 1.0),
    "gpu_joules": ("gpu_0_power_usage_watts", 1.0),
}

Point = tuple[str, float, int, int]
"""A metric's name, value, time in milliseconds since 1970, and step."""


class CellRun:
    """Finished or failed cell of the store in MLflow's terms.

    Args:
        store: results.
        record: of the cell, with a result or a failure.
        home: ``BENCH_HOME``, which contains the black boxes.

    Attributes:
        began: start in milliseconds since 1970.
        ended: end in milliseconds since 1970.
    """

    def __init__(self, store: Store, record: CellRecord, home: Path) -> None:
        assert record.written is not None
        self.record, self.written, self.spec, self._store = record, record.written, record.spec, store
        self.folder = store.cell(record.name)
        self._archive = store.archived(record.name)
        self.usage = read_usage(self.folder.result if record.result else self.folder.work)
        self._black_box = FolderFiles(home / "blackboxes" / str(self.written.get("black_box_id")) / "result")
        self.began, self.ended = self._times()

    @property
    def title(self) -> str:
        """Title with the method first, for example ``ours·cub·resnet34·s0``."""
        return one_line(f"{self._name}·s{self.spec['seed']}")

    @property
    def row(self) -> str:
        """Name shared with the cells of other seeds, and with no others, to average over.

        Words alone would be shared by cells of other images, protocols, schedules or weights, so a digest of all that
        changes a result ends it; the measured metrics are no part of it, since seeds may differ in them. For example
        ``ours·cub·resnet34·published·3fa9c1``.
        """
        # Cells that were written before there was a choice of the split were measured on `test`.
        shared = {"split": "test", **self.spec, "seed": None, "metrics": None}
        return f"{self._name}·{self.written['recipe']}·{digest(shared)[:6]}"

    @property
    def _name(self) -> str:
        parts = (self.record.label, self.spec["dataset"], self.spec["backbone"])
        return "·".join(str(part) for part in parts if part)

    def _times(self) -> tuple[int, int]:
        result, first = self.record.result, self.usage[0] if self.usage else {}
        file = end_files(self._store, self.record.name)[0 if result else -1]
        ended = file.stat().st_mtime
        # A resumed cell has no record of the time before it was killed: it counts from the resumption.
        otherwise = ended - (sum(result["seconds"].values()) if result else 0.0)
        # A row of usage is written at the end of its seconds.
        return round(1000 * ((first.get("time") or otherwise) - (first.get("seconds") or 0.0))), round(1000 * ended)

    def params(self) -> dict[str, str]:
        """Return the specification, flattened; each metric's definition is one line, as in the tables."""
        spec = {name: value for name, value in self.spec.items() if name != "metrics"}
        params = dict(flat("", {"label": self.written["label"], "recipe": self.written["recipe"], **spec}))
        params |= {f"metrics.{metric}": text for metric, text in self.record.definitions.items()}
        return {named(name): cut(value, _LONGEST_PARAM) for name, value in params.items()}

    def metrics(self) -> list[Point]:
        """Return scores, then facts and costs, each under a prefix, then curves: pages list them in this order.

        A score is under ``Scores/``, and has the unit if that is neither a share nor a percentage. Details of a metric
        besides its value (the ends of its 95 % interval too) are under ``details/``.
        """
        single = {**self._scores(), **self._facts()} if self.record.result else {}
        points = [(named(name), rounded(value), self.ended, 0) for name, value in single.items()]
        trainings = {"train": self._store.files(self.record.name), "blackbox": self._black_box}
        curves = [point for prefix, files in trainings.items() for point in self._curves(prefix, files)]
        return [*points, *curves] + [
            (f"system/{name}", rounded(value), round(1000 * (row["time"] or 0)), step)
            for step, row in enumerate(self.usage)
            for name, value in _load(row)
        ]

    def _scores(self) -> dict[str, float]:
        scores: dict[str, float] = {}
        for row in with_intervals(self._store, rows_of(self.record, "")):
            if row.value is None:
                continue
            unit = "" if row.unit in ("%", "") else f" {row.unit}"
            name = f"{SCORES}/{row.metric}{unit}" if row.metric in self.spec["metrics"] else f"details/{row.metric}"
            bounds = {f"details/{row.metric}.low": row.low, f"details/{row.metric}.high": row.high}
            scores |= {name: row.value, **{side: bound for side, bound in bounds.items() if bound is not None}}
        return scores

    def _facts(self) -> dict[str, float]:
        result = self.record.result
        assert result is not None
        facts = {**result["facts"], **{name: result[name] for name in ("prototypes", "parameters")}}
        facts |= {f"{split} images": count for split, count in result["images"].items()}
        usage = {name: value for name, value in result.get("usage", {}).items() if name != "not_measured"}
        peak = result.get("memory", {}).get("peak_bytes")
        usage["peak_memory_megabytes"] = peak and peak / 1e6
        groups = {"fact": facts, "seconds": result["seconds"], "usage": usage}
        return {f"{kind}/{key}": value for kind, of in groups.items() for key, value in of.items() if value is not None}

    def _curves(self, prefix: str, files: ResultFiles) -> Iterator[Point]:
        """Yield the columns of a training's ``history.json`` by epoch."""
        if not files.names("history.json"):
            return
        try:
            history = read_history(files)
        except RequestError as error:
            _log.warning("warning: %s: no curves of it", error)
            return
        passed = 0.0
        for row in history:
            passed += row.get("seconds", 0.0)
            for name in (name for name in row if name not in ("phase", "epoch")):
                yield named(f"{prefix}/{name}"), rounded(row[name]), self.began + round(1000 * passed), row["epoch"]

    def tags(self) -> dict[str, str]:
        """Return the tags by which runs are searched and grouped, and the description."""
        spec, failure = self.spec, self.record.failure
        environment = self.record.result["environment"] if self.record.result else {}
        tags = {
            "bench.cell": self.record.name,
            "bench.version": environment.get("bench") or self.written["bench_version"],
            "bench.git": environment.get("git"),
            "bench.reason": failure and failure["reason"],
            "row": self.row,
            "status": failure["status"] if failure else "ok",
            **{name: self.written[name] for name in ("command", "label", "role")},
            **{name: spec[name] for name in ("method", "dataset", "seed", "precision")},
            "backbone": spec["backbone"] or "-",
            "weights": str(self.folder.result / "model.safetensors") if self._fitted else None,
            **{name: environment.get(name) for name in ("device", "hardware")},
            "version.python": environment.get("python"),
            **{f"version.{name}": value for name, value in environment.get("packages", {}).items()},
            **{f"n/a.{metric}": facts["reason"] for metric, facts in self.written["not_applicable"].items()},
        }
        texts = {named(name): cut(str(value), _LONGEST_REASON) for name, value in tags.items() if value is not None}
        return {**texts, "mlflow.note.content": cut(self._note(), _LONGEST_NOTE)}

    @property
    def _fitted(self) -> bool:
        """Whether there is a fitted model: controls have none."""
        return self.record.result is not None and self.written["role"] != "control"

    def _note(self) -> str:
        """Return the scores with their units, or the reason of the failure, as the run's description."""
        result, failure = self.record.result, self.record.failure
        if result is None:
            return markdown_prose(f"{failure['status']}: {failure['reason']}") if failure else ""
        lines = ["| metric | value | unit | measured on | better |", "|---|---:|---|---:|---|"]
        for metric, score in result["scores"].items():
            facts = self.spec["metrics"].get(metric, {})
            better = "higher" if facts.get("higher_is_better", True) else "lower"
            words = (metric, f"{score['value']:.4g}", facts.get("unit", ""), str(score["n"]), better)
            lines.append(f"| {' | '.join(map(for_markdown, words))} |")
        refused = {name: facts["reason"] for name, facts in self.written["not_applicable"].items()}
        refused |= result.get("not_applicable", {})
        lines += [f"| {for_markdown(name)} | n/a | | | {for_markdown(reason)} |" for name, reason in refused.items()]
        return "\n".join([*lines, "", f"Everything behind these numbers: `python -m bench show {self.record.name}`"])

    def datasets(self) -> dict[str, dict[str, Any]]:
        """Return the images it was fitted to and measured on, by MLflow's context: name, digest, source, profile."""
        spec, where = self.spec, self.written["where"]
        view = {name: spec[name] for name in ("dataset", "data_digest", "protocol", "on_bad_image")}
        counts = self.record.result["images"] if self.record.result else {}
        return {
            context: {
                "name": one_line(f"{spec['dataset']} {split}"),
                "digest": digest([view, split]),
                "source_type": "partbench",
                "source": json.dumps({**view, "folder": where["folder"], "data_root": where["data_root"]}),
                "profile": json.dumps({"images": counts[split]} if split in counts else {}),
            }
            for context, split in (("training", "train"), ("evaluation", spec.get("split", "test")))
        }

    def artifacts(self) -> Iterator[tuple[Path, str | None]]:
        """Yield the files to copy, each with its target folder; never weights, never tables with a row per image."""
        if self._archive is None:
            yield from self._artifacts(self.folder.path)
            return
        # MLflow copies files: those of an export are written out for it.
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_json(folder / "cell.json", self.written)
            if self.record.result is not None:
                self._archive.unpack(self.record.name, folder / "result")
            else:
                write_json(folder / "failure.json", self.record.failure)
            yield from self._artifacts(folder)

    def _artifacts(self, folder: Path) -> Iterator[tuple[Path, str | None]]:
        result = folder / "result"
        files = [folder / "cell.json", folder / "failure.json"]
        files += [result / name for name in ("result.json", "history.json", USAGE, "packages.txt")]
        files.append((result if self.record.result else self.folder.work) / "log.txt")
        yield from ((file, None) for file in files if file.is_file())
        yield from ((file, "items") for file in sorted((result / "items").glob("*prototype*.csv")))
        yield from ((file, "figures") for file in sorted((result / "figures").glob("*.[ps][nv]g")))


def end_files(store: Store, name: str) -> tuple[Path, ...]:
    """Return the files of which one is written when a cell ends: with a result, or with a failure."""
    folder, archive = store.cell(name), store.archived(name)
    # An export keeps no times of files: its cells end with it.
    return (archive.file,) if archive else (folder.result / "result.json", folder.path / "failure.json")


def cell_state(store: Store, name: str) -> str:
    """Return a digest of all that a cell's run is made from, without parsing it; empty if it has not ended.

    The digests that were stored with the result stand for its tables and pictures.
    """
    archive = store.archived(name)
    if archive is not None:
        return digest([LAYOUT, state_of(archive.file), name])
    contents = [_content(store.cell(name).path / file) for file in _STORED]
    if not any(contents[1:]):
        return ""
    return digest([LAYOUT, *(hashlib.sha256(content).hexdigest() for content in contents)])


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # absent: that it cannot be read is reported where it is parsed


def _load(row: dict[str, float | None]) -> Iterator[tuple[str, float]]:
    seconds = row["seconds"]
    for column, (name, factor) in _SYSTEM.items():
        if (value := row[column]) is not None:
            yield name, value * factor
    for column, (name, factor) in _RATES.items():
        if (value := row[column]) is not None and seconds:
            yield name, value * factor / seconds
