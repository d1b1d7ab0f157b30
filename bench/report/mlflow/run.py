"""MLflow runs of one call of ``run``: a parent run with the table, and a child run for each of its cells."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.contract import Progress
from bench.core.plain_text import markdown_code, printable
from bench.report.mlflow.cell import TrackedCell, files_state
from bench.report.mlflow.chart import chart
from bench.report.mlflow.fields import cut, digest, model_name
from bench.report.renderers.markdown import as_markdown
from bench.report.run_table import comparison
from bench.results.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

    from bench.report.mlflow.mirror import Mirror

_LONGEST_TAG = 7500
_LONGEST_COMMAND = 4000
"""In a note, so that the end of its code is not cut off."""
_SHOWN = "bench.shown"
"""Tag of a run whose cell is not finished: how much of its curves is there."""
_FILES = "bench.files"
"""Tag of a run whose cell has ended: the state of the files that it was made from."""


@dataclass(frozen=True)
class Counts:
    """Counts of a synchronisation, in MLflow runs (parents included); ``waiting`` are cells without a result yet."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    waiting: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.created + other.created,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.waiting + other.waiting,
        )

    def __str__(self) -> str:
        return (
            f"MLflow runs: {self.created} created, {self.updated} updated, {self.unchanged} unchanged; "
            f"cells without a result yet: {self.waiting}"
        )


class MirroredInvocation:
    """Mirror of one call of ``run``.

    Args:
        mirror: target; the caller holds its lock.
        store: results.
        stamp: time stamp of the call.
        content: the store's record of the call.
        owned: those of its cells that have their run here and not under an earlier call.
    """

    def __init__(
        self, mirror: Mirror, store: Store, stamp: str, content: Mapping[str, Any], owned: Sequence[str]
    ) -> None:
        self.mirror, self.client, self.store = mirror, mirror.client, store
        self.stamp, self.content, self.owned = stamp, content, owned
        there = set(store.cells())
        # Damaged cells get no run, and keep one that they had: the store warns of them.
        self.names = [name for name in content["cells"] if name in there and store.written(name) is not None]
        self._read: dict[str, TrackedCell] = {}

    def sync(self, progress: Progress | None) -> Counts:
        """Write the runs that are missing or stale."""
        self.experiment = self.mirror.experiment(self.content["suite"], progress)
        parents, children = self._there()
        parent = parents[0] if parents else None
        self.mirror.delete(parents[1:])
        if parent is None:
            began = min((cell.began for cell in self._cells() if cell.ended), default=None)
            tags = {"bench.invocation": self.stamp, "bench.suite": self.content["suite"]}
            run = self.client.create_run(self.experiment, began, tags, self.stamp).info.run_id
        else:
            run = parent.info.run_id
        counts = Counts()
        there = set(self.names)
        owned = [name for name in self.owned if name in there]
        for name in owned if progress is None else progress.track(owned, "cells mirrored", len(owned)):
            counts += self._child(name, run, children.pop(name, []))
        for name, others in children.items():
            if name not in self.store.faults:
                self.mirror.delete(others)
        return counts + self._parent(run, parent)

    def _cell(self, name: str) -> TrackedCell:
        """Return the content of a cell, read when first asked for: most cells are already mirrored."""
        if name not in self._read:
            self._read[name] = TrackedCell(self.store, name, self.mirror.home)
        return self._read[name]

    def _cells(self) -> list[TrackedCell]:
        return [self._cell(name) for name in self.names]

    def _state(self, name: str) -> str:
        """Return the part of the parent run's state for a cell: the digest if it has ended, else the name."""
        if name not in self.mirror.current:
            cell = self._cell(name)
            return cell.digest if cell.ended else name
        return self.mirror.current[name]

    def _there(self) -> tuple[list[Run], dict[str, list[Run]]]:
        """Return the mirrored runs of this invocation: parent runs, and child runs by cell."""
        parents: list[Run] = []
        children: dict[str, list[Run]] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], f"tags.`bench.invocation` = '{self.stamp}'", max_results=1000, page_token=token
            )
            for run in page:
                cell = run.data.tags.get("bench.cell")
                if cell is None:
                    parents.append(run)
                else:
                    children.setdefault(cell, []).append(run)
            token = page.token
            if not token:
                return parents, children

    def _child(self, name: str, parent: str, there: list[Run]) -> Counts:
        ours = [run for run in there if run.data.tags["mlflow.parentRunId"] == parent]
        files = files_state(self.store, name, self.mirror.home)  # before they are read: later changes are seen
        for run in ours:
            tags = run.data.tags
            if tags.get(_FILES) == files and _whole(run, tags.get("bench.complete", "")):
                self.mirror.delete([other for other in there if other is not run])
                self.mirror.current[name] = tags["bench.complete"]
                return Counts(unchanged=1)
        cell = self._cell(name)
        if not cell.ended:
            self.mirror.delete([run for run in there if run not in ours])
            self._running(cell, parent, ours)
            return Counts(waiting=1)
        self.mirror.current[name] = cell.digest
        current = [run for run in ours if _whole(run, cell.digest)]
        self.mirror.delete([run for run in there if run not in current[:1]])
        if current:
            self.client.set_tag(current[0].info.run_id, _FILES, files)
            return Counts(unchanged=1)
        return self._written_anew(cell, parent, files, Counts(updated=1) if there else Counts(created=1))

    def _written_anew(self, cell: TrackedCell, parent: str, files: str, counts: Counts) -> Counts:
        # Always written in full, never mended: parameters cannot be overwritten, half-written curves would double.
        run = self._begin(cell, parent, cell.began)
        model = self._model(cell, run)
        measured = self._inputs(cell, run)
        # The scores first: pages list metrics in the order in which they came.
        self.mirror.write(run, {}, cell.scores(), {}, {**measured, **({"model_id": model} if model else {})})
        self.mirror.write(run, cell.params(), cell.facts() + cell.curve_points(cell.began), cell.tags())
        for file, folder in cell.artifacts():
            self.client.log_artifact(run, str(file), folder)
        self.client.set_terminated(run, "FINISHED" if cell.result else "FAILED", cell.ended)
        self.client.set_tag(run, _FILES, files)
        self.client.set_tag(run, "bench.complete", cell.digest)
        return counts

    def _running(self, cell: TrackedCell, parent: str, there: list[Run]) -> None:
        """Show the progress of a cell; the run is replaced when the cell has ended."""
        rows = cell.rows()
        begun = [run for run in there if _SHOWN in run.data.tags]
        shown = json.loads(begun[0].data.tags[_SHOWN]) if begun else {}
        if not cell.running or any(rows[name] < shown.get(name, 0) for name in rows):
            begun, shown = [], {}  # it was started again from the beginning
        self.mirror.delete([run for run in there if run not in begun[:1]])
        if not cell.running or rows == shown:
            return
        if begun:
            run, began = begun[0].info.run_id, begun[0].info.start_time
        else:
            began = cell.begun
            run = self._begin(cell, parent, began)
            self._inputs(cell, run)
            self.mirror.write(run, cell.params(), [], cell.tags())
        # Existing points are not doubled, but if this is killed before the tag is written, they are written again.
        self.mirror.write(run, {}, cell.curve_points(began, shown), {_SHOWN: json.dumps(rows)})

    def _begin(self, cell: TrackedCell, parent: str, began: int) -> str:
        tags = {"bench.cell": cell.name, "bench.invocation": self.stamp, "mlflow.parentRunId": parent}
        tags["bench.suite"] = self.content["suite"]
        return str(self.client.create_run(self.experiment, began, tags, cell.title).info.run_id)

    def _inputs(self, cell: TrackedCell, run: str) -> dict[str, str]:
        """Log the data sets, and return the one which the scores are of."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        found = cell.datasets()
        inputs = [
            DatasetInput(Dataset(**facts), [InputTag("mlflow.data.context", context)])
            for context, facts in found.items()
        ]
        self.client.log_inputs(run, inputs)
        return {"dataset_name": found["evaluation"]["name"], "dataset_digest": found["evaluation"]["digest"]}

    def _model(self, cell: TrackedCell, run: str) -> str | None:
        """Log the fitted model without its weights; a tag names their location."""
        if not cell.fitted:
            return None
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        tags = {name: value for name, value in cell.tags().items() if name in ("method", "dataset", "backbone", "seed")}
        tags |= {"bench.cell": cell.name, "weights": str(cell.folder.result / "model.safetensors")}
        name = model_name(cell.title)
        model = self.client.create_logged_model(self.experiment, name, run, tags, cell.params(), "part-prototype")
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
        return str(model.model_id)

    def _parent(self, run: str, there: Run | None) -> Counts:
        state = digest([self.content, [self._state(name) for name in self.names]])
        if there is not None and there.data.tags.get("bench.complete") == state:
            return Counts(unchanged=1)
        cells = self._cells()
        ended = [cell.ended for cell in cells if cell.ended]
        failed = sum(cell.result is None for cell in cells if cell.ended)
        tables = comparison(self.store, self.stamp) if cells else []
        done = f"{len(ended) - failed} of {len(self.content['cells'])} cells done, {failed} failed"
        command = str(self.content.get("command", ""))
        note = f"{markdown_code(cut(command, _LONGEST_COMMAND))}\n\n{done}\n\n{as_markdown(tables) if cells else ''}"
        tags = {
            "bench.cells": done,
            "command": _cut(command, _LONGEST_TAG),
            "device": str(self.content.get("device", "")),
            "mlflow.note.content": _cut(note, _LONGEST_TAG),
        }
        self.mirror.write(run, {}, [], tags)
        self.client.log_text(run, self._plan(), "plan.yaml")
        self.client.log_text(run, note, "report.md")
        # Its cache of fonts goes into the same home as everything else.
        os.environ.setdefault("MPLCONFIGDIR", str(self.mirror.home / ".matplotlib"))
        for name, figure in chart(tables):
            self.client.log_figure(run, figure, f"figures/{name}.png")
        if len(ended) < len(self.content["cells"]):
            self.client.update_run(run, "RUNNING")
        else:
            self.client.set_terminated(run, "FAILED" if failed else "FINISHED", max(ended, default=None))
        self.client.set_tag(run, "bench.complete", state)
        return Counts(updated=1) if there is not None else Counts(created=1)

    def _plan(self) -> str:
        import yaml

        cells = {cell.name: {"label": cell.written["label"], **cell.spec} for cell in self._cells()}
        plan = {"invocation": self.stamp, **self.content, "cells": cells}
        # The C writer is ten times as fast; it is not in every build of PyYAML, and takes no undecodable file names.
        dumper: Any = type("Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {})
        dumper.add_representer(str, lambda writer, text: writer.represent_str(printable(text)))
        return str(yaml.dump(plan, Dumper=dumper, sort_keys=False))


def _whole(run: Run, state: str) -> bool:
    return run.info.status != "RUNNING" and run.data.tags.get("bench.complete") == state


def _cut(text: str, limit: int) -> str:
    """Return the printable text, or its beginning up to the last whole line that fits."""
    text = printable(text)
    if len(text) <= limit:
        return text
    return f"{text[:limit].rpartition(chr(10))[0] or text[:limit]}\n…"
