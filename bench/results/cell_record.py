"""One stored cell, as all tables, plots, pages and comparisons read it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

from bench.config.spec import fit_id
from bench.results.labels import definition, protocol, shared_protocol, text_of

ScoreStatus = Literal["ok", "n/a", "failed", "oom", "missing"]
"""Of one metric of a cell; ``missing``: the cell is not finished, or the metric was not asked for."""

CellStatus = Literal["done", "failed", "oom", "missing"]


def in_words(status: str) -> str:
    """Return the status of a cell or score as readers see it."""
    return {"oom": "out of memory", "missing": "not finished"}.get(status, status)


@dataclass(frozen=True)
class CellRecord:
    """Cell as stored; every part is either whole or missing. Tables, plots, pages and comparisons read cells as this.

    Attributes:
        name: its id.
        written: the content of its ``cell.json``; ``None`` if that is damaged, with the reason in ``failure``.
        result: the content of its ``result.json``; ``None`` if it is not finished, or does not count.
        failure: ``status``, ``reason`` and ``details`` of the last attempt, if it failed, or of the damage.
        stamp: of the newest run that asked for it; empty if none is known, or if it was read alone.
        command: of that run.
        suites: of all runs that asked for it.
        referenced: whether one of those runs has the black box too, see :func:`bench.results.result_set.precedence`.
    """

    name: str
    written: dict[str, Any] | None
    result: dict[str, Any] | None
    failure: dict[str, Any] | None
    stamp: str = ""
    command: str = ""
    suites: frozenset[str] = frozenset()
    referenced: bool = False

    @functools.cached_property
    def spec(self) -> dict[str, Any]:
        """Everything that changes its result; empty if ``cell.json`` is damaged."""
        return self.written["spec"] if self.written is not None else {}

    @property
    def seed(self) -> int:
        """Seed of its fit."""
        return int(self.spec["seed"])

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.spec["dataset"])

    @property
    def backbone(self) -> str:
        """Name of the backbone; empty if the method uses none."""
        return self.spec["backbone"] or ""

    @property
    def role(self) -> str:
        """Method, reference or control."""
        return str(self.written["role"])

    @property
    def changed(self) -> set[str]:
        """Names of the settings that are not those of the recipe; in older stores those in the label."""
        known = self.written.get("changed")
        return _varied(self.written["label"]) if known is None else set(known)

    @property
    def plain(self) -> bool:
        """Whether it is the method with the settings of its recipe, or a given network of that method."""
        return not self.changed or bool(self.written["where"].get("given"))

    @property
    def label(self) -> str:
        """Name of its row: the label of the newest request, or the method if nothing is changed."""
        return str(self.written["label"] if self.changed else self.spec["method"])

    @functools.cached_property
    def view(self) -> dict[str, str]:
        """Data, and the way they are seen, in words: cells that differ in it are never compared or share a table.

        Cells written before the split could be chosen were measured on ``test``.
        """
        return {
            "dataset": self.dataset,
            "data": f"data {self.spec['data_digest']}",
            "protocol": f"protocol {protocol(shared_protocol(self.spec['protocol']))}",
            "split": f"measured on {self.spec.get('split', 'test')}",
            "bad images": f"bad images: {self.spec['on_bad_image']}",
        }

    @functools.cached_property
    def identity(self) -> str:
        """Specification without seed and metrics, as text: cells of one row share it."""
        return text_of({name: value for name, value in self.spec.items() if name not in ("seed", "metrics")})

    @property
    def fit_id(self) -> str:
        """Return the id of the fit, from the specification itself, also of a cell of an earlier version."""
        return fit_id(self.spec)

    @functools.cached_property
    def definitions(self) -> dict[str, str]:
        """Return version and parameters of each metric, as text."""
        return {metric: definition(metric, facts) for metric, facts in self.spec["metrics"].items()}

    @property
    def one_by_one(self) -> bool:
        """Return whether it was fitted in batches of one image, unlike its settings."""
        return self.result is not None and "batch_size_after_out_of_memory" in self.result["facts"]

    @property
    def status(self) -> CellStatus:
        """Outcome of the cell; one without result or failure is ``missing``, not failed."""
        if self.result is not None:
            return "done"
        return "missing" if self.failure is None else self.failure["status"]

    @property
    def state(self) -> str:
        """Outcome in words, with the reason of a failure."""
        return in_words(self.status) + (f": {self.failure['reason']}" if self.failure is not None else "")

    def asked(self, metric: str) -> bool:
        """Return whether the cell was to measure a metric, or says why it cannot."""
        return metric in self.spec["metrics"] or metric in self.written["not_applicable"]

    def score(self, metric: str) -> tuple[ScoreStatus, float | None, str]:
        """Return the status of a metric, its value, and the reason if there is no value."""
        refused = self.written["not_applicable"].get(metric)
        if refused is not None:
            # "random predicts no class" and "center predicts no class" are one footnote, not two.
            return "n/a", None, str(refused["reason"]).removeprefix(f"{self.spec['method']} ")
        if metric not in self.spec["metrics"]:
            return "missing", None, "not measured in this cell"
        if self.result is None:
            return self.status, None, str(self.failure["reason"]) if self.failure is not None else ""
        if metric in self.result.get("not_applicable", {}):
            return "n/a", None, str(self.result["not_applicable"][metric])
        return "ok", float(self.result["scores"][metric]["value"]), ""


def _varied(label: str) -> set[str]:
    """Return the names of the settings that are changed according to a label.

    >>> sorted(_varied("ours (k=3, refinement=none)"))
    ['k', 'refinement']
    """
    inner = label.partition(" (")[2].removesuffix(")")
    return {part.partition("=")[0] for part in inner.split(", ") if part}
