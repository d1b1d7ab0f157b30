"""What MLflow is told about one cell: parameters, metrics, tags and files, all from the store."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.report.intervals import with_intervals
from bench.store import Store

LAYOUT = 2
"""Raised when a cell is told differently: what was mirrored before is then written anew."""

_LONGEST_PARAM = 500
_LONGEST_REASON = 1000

Point = tuple[str, float, int, int]
"""A metric's name, value, time in milliseconds, and step."""


class TrackedCell:
    """One cell of the store in MLflow's terms.

    Args:
        store: where it lies.
        name: its id.
        home: ``BENCH_HOME``, where the black boxes lie.

    Attributes:
        outcome: its ``result.json``; ``None`` where it failed or is not finished.
        began: start in milliseconds since 1970, as far as it is known.
        ended: end in milliseconds, ``None`` for a cell that has neither result nor failure yet.
        digest: of everything that is told; it changes when the mirror has to.
    """

    def __init__(self, store: Store, name: str, home: Path) -> None:
        self.name, self._store = name, store
        self.folder = store.cell(name)
        self.written = store.specification(name)
        self.spec: dict[str, Any] = self.written["spec"]
        self.outcome = store.outcome(name)
        self.failure = self.folder.failure
        self.curves = {
            "train": _history(self.folder.result),
            "blackbox": _history(home / "blackboxes" / str(self.written.get("black_box_id")) / "result"),
        }
        self.began, self.ended = self._times()
        self.digest = digest([LAYOUT, self.written, self.outcome, self.failure, self.curves])

    @property
    def title(self) -> str:
        """For example ``ours·cub·resnet34·s0``."""
        spec = self.spec
        parts = (self.written["label"], spec["dataset"], spec["backbone"], f"s{spec['seed']}")
        return "·".join(str(part) for part in parts if part)

    def _times(self) -> tuple[int, int | None]:
        file = self.folder.result / "result.json" if self.outcome else self.folder.path / "failure.json"
        if not file.is_file():
            return 0, None
        ended = file.stat().st_mtime
        # What a resumed cell did before it was killed is not known: it counts from where it went on.
        seconds = sum(self.outcome["seconds"].values()) if self.outcome else 0.0
        return round(1000 * (ended - seconds)), round(1000 * ended)

    def params(self) -> dict[str, str]:
        """The specification, flattened."""
        spec = {name: value for name, value in self.spec.items() if name != "metrics"}
        flat = dict(_flatten("", {"label": self.written["label"], "recipe": self.written["recipe"], **spec}))
        for metric, facts in self.spec["metrics"].items():
            flat.update(_flatten(f"metrics.{metric}", {"version": facts["version"], **facts["parameters"]}))
        return {_name(name): _cut(value, _LONGEST_PARAM) for name, value in flat.items()}

    def metrics(self) -> list[Point]:
        """Scores by their names; facts, seconds and curves under a prefix."""
        if self.outcome is None or self.ended is None:
            return []
        single: dict[str, float] = {}
        for row in with_intervals(self._store, self._store.rows([self.name])):
            numbers = {row.metric: row.value, f"{row.metric}/low": row.low, f"{row.metric}/high": row.high}
            single |= {name: number for name, number in numbers.items() if number is not None}
        facts = {**self.outcome["facts"], **{name: self.outcome[name] for name in ("prototypes", "parameters")}}
        facts |= {f"{split} images": count for split, count in self.outcome["images"].items()}
        single |= {f"fact/{name}": value for name, value in facts.items()}
        single |= {f"seconds/{name}": value for name, value in self.outcome["seconds"].items()}
        points = [(_name(name), float(value), self.ended, 0) for name, value in single.items()]
        for prefix, history in self.curves.items():
            points += self._curve(prefix, history)
        return points

    def _curve(self, prefix: str, history: list[dict[str, Any]]) -> Iterator[Point]:
        passed = 0.0
        for row in history:
            passed += row.get("seconds", 0.0)
            for name, value in row.items():
                if name not in ("phase", "epoch"):
                    when = self.began + round(1000 * passed)
                    yield _name(f"{prefix}/{name}"), float(value), when, int(row["epoch"])

    def tags(self) -> dict[str, str]:
        """What runs are searched and grouped by."""
        spec = self.spec
        environment = self.outcome["environment"] if self.outcome else {}
        git = environment.get("git")
        tags = {
            "bench.version": environment.get("bench") or self.written["bench_version"],
            "bench.git": git,
            "mlflow.source.git.commit": git and git.removesuffix("-dirty"),
            "command": self.written["command"],
            "role": self.written["role"],
            **{name: spec[name] for name in ("method", "dataset", "seed")},
            "backbone": spec["backbone"] or "-",
            "device": environment.get("device"),
            "hardware": environment.get("hardware"),
            "status": self.failure["status"] if self.failure else "ok",
            "bench.reason": self.failure and self.failure["reason"],
        }
        tags |= {f"n/a.{metric}": facts["reason"] for metric, facts in self.written["not_applicable"].items()}
        return {_name(name): _cut(str(value), _LONGEST_REASON) for name, value in tags.items() if value is not None}

    def artifacts(self) -> Iterator[tuple[Path, str | None]]:
        """Files to copy, each with the folder it goes to; never weights, never tables with a row per image."""
        folder, result = self.folder.path, self.folder.result
        files = [folder / "cell.json", folder / "failure.json", result / "result.json", result / "history.json"]
        files.append((result if self.outcome else self.folder.work) / "log.txt")
        yield from ((file, None) for file in files if file.is_file())
        yield from ((file, "items") for file in sorted((result / "items").glob("*prototype*.csv")))


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits of the canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _history(result: Path) -> list[dict[str, Any]]:
    file = result / "history.json"
    return json.loads(file.read_text()) if file.is_file() else []


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted names; the phases of a schedule become one readable line each, in their order."""
    start = f"{prefix}." if prefix else ""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flatten(f"{start}{name}", inner)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        for number, item in enumerate(value, 1):
            rest = {name: inner for name, inner in item.items() if name != "name"}
            yield f"{start}{number} {item['name']}", _line(rest)
    else:
        yield prefix, _plain(value)


def _line(content: Mapping[str, Any]) -> str:
    """For example ``epochs 5, lr (add_on 0.003)``; what is empty says nothing."""
    # How long comes first; the rest in the order of the file.
    ordered = {name: content[name] for name in ("epochs", *content) if name in content}
    said = [
        f"{name} ({_line(value)})" if isinstance(value, Mapping) else f"{name} {_plain(value)}"
        for name, value in ordered.items()
        if value not in (None, {})
    ]
    return ", ".join(said)


def _plain(value: Any) -> str:
    if value in (None, ""):
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _name(text: str) -> str:
    """MLflow's names have letters, digits and ``_ - . : / `` and blanks only."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", text)[:250]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
