"""Content of one cell's MLflow run: parameters, metrics, tags and files, all from the store."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError
from bench.core.plain_text import for_markdown, markdown_prose, one_line
from bench.core.resource_usage import FILE as USAGE
from bench.core.resource_usage import read_usage
from bench.report.mlflow.fields import cut, digest, flat, named
from bench.results.labels import name_of
from bench.results.records import read_history
from bench.results.result_files import FolderFiles, ResultFiles
from bench.results.stats.intervals import with_intervals
from bench.results.store import Store, write_json

_log = logging.getLogger(__name__)

LAYOUT = 4
"""Raised when a cell is told differently: what was mirrored before is then written anew."""

_SHORT = 6
_LONGEST_PARAM = 500
_LONGEST_REASON = 1000
_LONGEST_NOTE = 7500
_SYSTEM = {
    "memory_bytes": ("process_memory_megabytes", 1e-6),
    "gpu_memory_bytes": ("gpu_0_memory_usage_megabytes", 1e-6),
}
"""Column of the table of usage -> MLflow's name, and what to multiply with."""
_RATES = {
    "cpu_seconds": ("processor_cores_busy", 1.0),
    "gpu_busy_seconds": ("gpu_0_utilization_percentage", 100.0),
    "cpu_joules": ("processor_power_usage_watts", 1.0),
    "gpu_joules": ("gpu_0_power_usage_watts", 1.0),
}
"""Columns that are divided by the seconds of their row."""

Point = tuple[str, float, int, int]
"""A metric's name, value, time in milliseconds, and step."""


class TrackedCell:
    """Cell of the store in MLflow's terms.

    Args:
        store: results.
        name: id of the cell.
        home: ``BENCH_HOME``, which contains the black boxes.

    Attributes:
        outcome: its ``result.json``; ``None`` if it failed or is not finished.
        began: start in milliseconds since 1970, as far as it is known.
        ended: end in milliseconds, ``None`` for a cell that has neither result nor failure yet.
        curves: rows of epochs by their origin; those so far if the cell is not finished.
        digest: digest of all mirrored content; it changes when the mirror has to.
    """

    def __init__(self, store: Store, name: str, home: Path) -> None:
        self.name, self._store = name, store
        self.folder, found = store.cell(name), store.record(name)
        if found.written is None:
            raise RequestError(store.faults[name])
        self.written: dict[str, Any] = found.written
        self.spec = found.spec
        self.result, self.failure = found.result, found.failure
        black_box = home / "blackboxes" / str(self.written.get("black_box_id"))
        self._archive = store.archived(name)
        self.curves = {
            "train": _history(store.files(name), *_in_progress(self.folder.path)),
            "blackbox": _history(FolderFiles(black_box / "result"), *_in_progress(black_box)),
        }
        self.usage = read_usage(self.folder.result if self.result else self.folder.work)
        self.began, self.ended = self._times()
        self.digest = digest([LAYOUT, self.written, self.result, self.failure, self.curves])

    @property
    def title(self) -> str:
        """Title, for example ``ours·cub·resnet34·s0``."""
        return one_line(f"{self._name}·s{self.spec['seed']}")

    @property
    def row(self) -> str:
        """Name shared with the cells of other seeds, and with no others: MLflow's page averages over it.

        Words alone would be shared by cells of other images, protocols, schedules or weights, so a digest of all that
        changes a result ends it; the measured metrics are no part of it, since seeds may differ in them. For example
        ``ours·cub·resnet34·published·3fa9c1``.
        """
        # Cells that were written before there was a choice of the split were measured on `test`.
        shared = {"split": "test", **self.spec, "seed": None, "metrics": None}
        return f"{self._name}·{self.written['recipe']}·{digest(shared)[:_SHORT]}"

    @property
    def _name(self) -> str:
        parts = (name_of(self.written), self.spec["dataset"], self.spec["backbone"])
        return "·".join(str(part) for part in parts if part)

    @property
    def running(self) -> bool:
        """Whether it was begun, is not finished, and has curves to show so far."""
        return not self.ended and self.folder.work.is_dir() and any(self.curves.values())

    def _times(self) -> tuple[int, int | None]:
        file = self.folder.result / "result.json" if self.result else self.folder.path / "failure.json"
        file = file if self._archive is None else self._archive.file
        if not file.is_file():
            return 0, None
        ended = file.stat().st_mtime
        # The progress of a resumed cell before it was killed is not known: it counts from the resumption.
        seconds = sum(self.result["seconds"].values()) if self.result else 0.0
        return self._began(ended - seconds), round(1000 * ended)

    @property
    def begun(self) -> int:
        """Start of a cell that is not finished, in milliseconds since 1970, as far as it is known."""
        return self._began(time.time() - sum(row.get("seconds", 0.0) for rows in self.curves.values() for row in rows))

    def _began(self, otherwise: float) -> int:
        first = self.usage[0] if self.usage else {}
        return round(1000 * ((first.get("time") or otherwise) - (first.get("seconds") or 0.0)))

    def params(self) -> dict[str, str]:
        """Return the specification, flattened."""
        spec = {name: value for name, value in self.spec.items() if name != "metrics"}
        params = dict(flat("", {"label": self.written["label"], "recipe": self.written["recipe"], **spec}))
        for metric, facts in self.spec["metrics"].items():
            params.update(flat(f"metrics.{metric}", {"version": facts["version"], **facts["parameters"]}))
        return {named(name): cut(value, _LONGEST_PARAM) for name, value in params.items()}

    def scores(self) -> list[Point]:
        """Return the metrics by name, with the unit in the name if it is neither a share nor a percentage.

        Details of a metric besides its value are under ``details/``.
        """
        if self.result is None or self.ended is None:
            return []
        single: dict[str, float] = {}
        for row in with_intervals(self._store, self._store.rows([self.name])):
            if row.value is None:
                continue
            if row.metric in self.spec["metrics"]:
                single[row.metric if row.unit in ("%", "") else f"{row.metric} {row.unit}"] = row.value
            else:
                single[f"details/{row.metric}"] = row.value
            bounds = {f"details/{row.metric}.{side}": getattr(row, side) for side in ("low", "high")}
            single |= {name: bound for name, bound in bounds.items() if bound is not None}
        return self._single(single)

    def facts(self) -> list[Point]:
        """Return facts of the fit, and the machine's resources that the cell took, each under a prefix."""
        if self.result is None:
            return []
        facts = {**self.result["facts"], **{name: self.result[name] for name in ("prototypes", "parameters")}}
        facts |= {f"{split} images": count for split, count in self.result["images"].items()}
        single = {f"fact/{name}": value for name, value in facts.items()}
        single |= {f"seconds/{name}": value for name, value in self.result["seconds"].items()}
        usage = {name: value for name, value in self.result.get("usage", {}).items() if name != "not_measured"}
        peak = self.result.get("memory", {}).get("peak_bytes")
        usage["peak_memory_megabytes"] = peak and peak / 1e6
        single |= {f"usage/{name}": value for name, value in usage.items() if value is not None}
        return self._single(single)

    def _single(self, values: dict[str, float]) -> list[Point]:
        return [(named(name), float(value), self.ended or 0, 0) for name, value in values.items()]

    def curve_points(self, began: int, shown: dict[str, int] | None = None) -> list[Point]:
        """Return losses by epoch, and the machine's load by row of its table.

        Args:
            began: milliseconds since 1970 at which the first epoch began.
            shown: number of rows by origin that are mirrored already.
        """
        shown, points = shown or {}, list[Point]()
        for prefix, history in self.curves.items():
            passed = list(accumulate(row.get("seconds", 0.0) for row in history))
            for row, seconds in list(zip(history, passed, strict=True))[shown.get(prefix, 0) :]:
                when, step = began + round(1000 * seconds), int(row["epoch"])
                values = {name: value for name, value in row.items() if name not in ("phase", "epoch")}
                points += [(named(f"{prefix}/{name}"), float(value), when, step) for name, value in values.items()]
        for step, row in list(enumerate(self.usage))[shown.get("system", 0) :]:
            when = round(1000 * (row["time"] or 0))
            points += [(f"system/{name}", value, when, step) for name, value in _load(row)]
        return points

    def rows(self) -> dict[str, int]:
        """Return the number of rows of the curves, by origin."""
        return {**{prefix: len(history) for prefix, history in self.curves.items()}, "system": len(self.usage)}

    def tags(self) -> dict[str, str]:
        """Return the tags that runs are searched and grouped by."""
        spec = self.spec
        environment = self.result["environment"] if self.result else {}
        git = environment.get("git")
        tags = {
            "bench.version": environment.get("bench") or self.written["bench_version"],
            "bench.git": git,
            "mlflow.source.git.commit": git and git.removesuffix("-dirty"),
            "command": self.written["command"],
            "label": self.written["label"],
            "row": self.row,
            "role": self.written["role"],
            **{name: spec[name] for name in ("method", "dataset", "seed")},
            "backbone": spec["backbone"] or "-",
            "precision": spec["precision"],
            "device": environment.get("device"),
            "hardware": environment.get("hardware"),
            "status": "running" if self.running else self.failure["status"] if self.failure else "ok",
            "bench.reason": self.failure and self.failure["reason"],
            "version.python": environment.get("python"),
        }
        tags |= {f"version.{name}": value for name, value in environment.get("packages", {}).items()}
        tags |= {f"n/a.{metric}": facts["reason"] for metric, facts in self.written["not_applicable"].items()}
        found = {named(name): cut(str(value), _LONGEST_REASON) for name, value in tags.items() if value is not None}
        return {**found, "mlflow.note.content": cut(self._note(), _LONGEST_NOTE)}

    def _note(self) -> str:
        """Return the scores with their units, as the run's description."""
        if self.result is None:
            return markdown_prose(f"{self.failure['status']}: {self.failure['reason']}") if self.failure else ""
        lines = ["| metric | value | unit | measured on | better |", "|---|---:|---|---:|---|"]
        for metric, score in self.result["scores"].items():
            facts = self.spec["metrics"].get(metric, {})
            better = "higher" if facts.get("higher_is_better", True) else "lower"
            words = (metric, f"{score['value']:.4g}", facts.get("unit", ""), str(score["n"]), better)
            lines.append(f"| {' | '.join(map(for_markdown, words))} |")
        refused = {name: facts["reason"] for name, facts in self.written["not_applicable"].items()}
        refused |= self.result.get("not_applicable", {})
        lines += [f"| {for_markdown(name)} | n/a | | | {for_markdown(reason)} |" for name, reason in refused.items()]
        return "\n".join([*lines, "", f"Everything behind these numbers: `python -m bench show {self.name}`"])

    def datasets(self) -> dict[str, dict[str, Any]]:
        """Return the images it was fitted to and measured on, by MLflow's context: name, digest, source, profile."""
        spec = self.spec
        view = {name: spec[name] for name in ("dataset", "data_digest", "protocol", "on_bad_image")}
        counts = self.result["images"] if self.result else {}
        where = self.written["where"]
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

    @property
    def fitted(self) -> bool:
        """Whether there is a fitted model: controls have none."""
        return self.result is not None and self.written["role"] != "control"

    def artifacts(self) -> Iterator[tuple[Path, str | None]]:
        """Return the files to copy, each with its target folder; never weights, never tables with a row per image."""
        if self._archive is None:
            yield from self._artifacts(self.folder.path)
            return
        # MLflow copies files: those of an export are written out for it.
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_json(folder / "cell.json", self.written)
            if self.result is not None:
                self._archive.unpack(self.name, folder / "result")
            else:
                write_json(folder / "failure.json", self.failure)
            yield from self._artifacts(folder)

    def _artifacts(self, folder: Path) -> Iterator[tuple[Path, str | None]]:
        result = folder / "result"
        files = [folder / "cell.json", folder / "failure.json", result / "result.json", result / "history.json"]
        files += [result / USAGE, result / "packages.txt"]
        files.append((result if self.result else self.folder.work) / "log.txt")
        yield from ((file, None) for file in files if file.is_file())
        yield from ((file, "items") for file in sorted((result / "items").glob("*prototype*.csv")))
        yield from ((file, "figures") for file in sorted((result / "figures").glob("*.[ps][nv]g")))


def files_state(store: Store, name: str, home: Path) -> str:
    """Return a digest of the times at which :class:`TrackedCell`'s files were last written, without reading them."""
    folder, box = store.cell(name).path, (store.written(name) or {}).get("black_box_id")
    files = [folder / file for file in ("cell.json", "failure.json", "result/result.json")]
    files += [archive.file for archive in (store.archived(name),) if archive is not None]
    for place in (folder, *([home / "blackboxes" / str(box)] if box else [])):
        files += [place / part / "history.json" for part in ("result", "work", "resume")]
    return digest([LAYOUT, [_written(file) for file in files]])


def _written(file: Path) -> list[int]:
    try:
        found = file.stat()
    except OSError:
        return []
    # Also when its name or its times were last changed: a copy may have the times of the original.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _in_progress(folder: Path) -> list[ResultFiles]:
    return [FolderFiles(folder / part) for part in ("work", "resume")]


def _history(*places: ResultFiles) -> list[dict[str, Any]]:
    """Read the curves from the first place that has them."""
    for files in places:
        if files.names("history.json"):
            try:
                return read_history(files)
            except RequestError as error:
                _log.warning("warning: %s: no curves of it", error)
                return []
    return []


def _load(row: dict[str, float | None]) -> Iterator[tuple[str, float]]:
    seconds = row["seconds"]
    for column, (name, factor) in _SYSTEM.items():
        if (value := row[column]) is not None:
            yield name, value * factor
    for column, (name, factor) in _RATES.items():
        if (value := row[column]) is not None and seconds:
            yield name, value * factor / seconds
