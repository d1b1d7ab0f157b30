"""Stored results as Python objects: tables, data frames, comparisons and single cells; only models load torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.score import Score

if TYPE_CHECKING:
    import pandas as pd

    from bench.contract import PartPrototypeModel, Samples
    from bench.report.table import Table
    from bench.results.cell_record import CellRecord
    from bench.results.result_set import ResultSet
    from bench.results.stats.contest import Contest
    from bench.results.store import Row, Store
    from bench.runner.cell import CellRunner
    from bench.runner.launchers.callbacks import Summary


def load_results(home: str | Path | None = None, suite: str | None = None, run: str | None = None) -> Results:
    """Return stored results: all of a folder, the newest run of a suite, or one run.

    >>> import bench
    >>> bench.load_results(".bench", suite="demo").to_pandas()  # doctest: +SKIP

    Args:
        home: folder of the results; default ``BENCH_HOME``, else ``.bench``.
        suite: name of a suite.
        run: stamp of a run, as tables print it.

    Raises:
        RequestError: if there is no such folder, suite or run.
    """
    from bench.core.paths import home as find_home
    from bench.results.store import Store

    root = Path(home) if home is not None else find_home()
    if not root.is_dir():
        raise RequestError(f"{root}: no such folder; bench.run(...) writes results, load_results(FOLDER) reads them")
    store = Store(root)
    # An export or a folder of --out has no data of its own: the files to load a model with are then in BENCH_HOME.
    shared = root if (root / "data").is_dir() else find_home()
    if suite is None and run is None:
        return Results(store, home=shared)
    stamp = store.chosen_run(run, suite)
    return Results(store, stamp, cells=store.invocations()[stamp]["cells"], home=shared)


class Results:
    """Cells of a store with their scores; shows itself as tables in a notebook.

    Args:
        store: of the cells.
        stamp: of the run they belong to; ``None``: of several.
        cells: their ids; default: all of the store.
        summary: which of them were done, found done, or failed.
        home: ``BENCH_HOME``, with data and black boxes; default: the folder of the store.
    """

    def __init__(
        self,
        store: Store,
        stamp: str | None = None,
        cells: Sequence[str] | None = None,
        summary: Summary | None = None,
        home: Path | None = None,
    ) -> None:
        self.store, self.stamp, self.summary, self.home = store, stamp, summary, home or store.root
        self._cells = None if cells is None else list(cells)

    def __repr__(self) -> str:
        run = f" of run {self.stamp}" if self.stamp else ""
        return f"<Results: {len(self.cells)} cells{run} in {self.store.root}>"

    def _repr_html_(self) -> str:
        """Return the tables, with everything escaped that comes from outside."""
        return self.table()._repr_html_() if self.cells else f"<p>{_escaped(repr(self))}</p>"

    @property
    def cells(self) -> list[str]:
        """Ids of the cells."""
        return self.store.cells() if self._cells is None else self._cells

    @property
    def failed(self) -> dict[str, str]:
        """Ids of cells that failed, with the reason."""
        if self.summary is not None:
            return dict(self.summary.failed)
        records = [self.store.record(name) for name in self.cells]
        return {one.name: str(one.failure["reason"]) for one in records if one.failure is not None}

    def rows(self, intervals: bool = False) -> list[Row]:
        """Return one row per cell and metric, as ``results --json`` prints them."""
        from bench.results.stats.intervals import with_intervals

        rows = self.store.rows(self._cells)
        return with_intervals(self.store, rows) if intervals else rows

    def to_pandas(self, intervals: bool = False) -> pd.DataFrame:
        """Return one row per cell and metric, with the columns of ``results --json``.

        Args:
            intervals: whether ``low`` and ``high`` are filled with 95 % bootstrap intervals.
        """
        from bench.results.rows import as_frame

        return as_frame(self.rows(intervals))

    def select(self, **fields: Any) -> ResultSet:
        """Return the readable cells with these values of a property or field of their specification.

        >>> bench.load_results().select(method="ours", seed=0).to_pandas()  # doctest: +SKIP

        Raises:
            RequestError: for a field that cells do not have.
        """
        from bench.results.result_set import ResultSet

        names, every = set(self.cells), ResultSet.of(self.store)
        return replace(every, cells=tuple(cell for cell in every if cell.name in names)).select(**fields)

    def table(self, metrics: str | Sequence[str] = (), intervals: bool = False) -> Tables:
        """Return the comparison tables of the run, by default of the newest.

        Args:
            metrics: names and groups of the columns; default: all that were measured.
            intervals: whether values have 95 % bootstrap intervals.

        Raises:
            RequestError: if there is nothing to show.
        """
        from bench.report.run_table import comparison

        return Tables(comparison(self.store, self.stamp, None, intervals, separated(metrics)))

    def compare(self, *methods: str, metrics: str | Sequence[str] = (), first_only: bool = False) -> Differences:
        """Return the differences between two or more methods, each with interval and test.

        Args:
            methods: as tables name them.
            metrics: names, groups or ``METRIC.NUMBER``; default: the values of all metrics.
            first_only: compare the first method with each of the others only.

        Raises:
            RequestError: if there are no results of a method or metric.
        """
        from bench.report.contest_tables import contest_tables
        from bench.results.stats.compare import compare

        contest = compare(self.store, methods, separated(metrics), self.stamp, None, first_only)
        return Differences(contest_tables(contest), contest)

    def cell(self, prefix: str) -> CellResult:
        """Return one cell by its id or a unique beginning of it.

        Raises:
            RequestError: if no cell or several begin so.
        """
        name = self.store.find(prefix)
        if name not in self.cells:
            raise RequestError(f"cell {name} is in {self.store.root}, but not part of run {self.stamp}")
        return CellResult(self.store, name, self.home)


@dataclass(frozen=True, repr=False)
class Tables:
    """Tables that show themselves in a notebook: one for each data set and definition of metrics."""

    tables: list[Table]

    def styled(self, **style: Any) -> Tables:
        """Return the tables as an author wants them, with the arguments of :func:`bench.report.table_style.styled`.

        >>> table = bench.load_results().table()  # doctest: +SKIP
        >>> table.styled(columns=["consistency"], rename={"ours": "Ours"}, digits=2).to_latex()  # doctest: +SKIP
        """
        from bench.report.table_style import styled

        return replace(self, tables=styled(self.tables, **style))

    def to_markdown(self) -> str:
        """Return GitHub Markdown."""
        from bench.report.renderers import as_markdown

        return as_markdown(self.tables)

    def to_latex(self) -> str:
        r"""Return ``table`` environments; they need ``\usepackage{booktabs,amssymb}``."""
        from bench.report.renderers import as_latex

        return as_latex(self.tables)

    def to_html(self) -> str:
        """Return HTML for a page of one's own: no script, everything escaped."""
        from bench.report.renderers.html import fragments

        return "\n".join(fragments(self.tables))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per table, row and metric: mean and standard deviation over seeds, interval, status."""
        import pandas as pd

        return pd.DataFrame(
            {
                "table": table.title, "method": row.label, "role": row.role, "backbone": row.backbone,
                "metric": column.name, "value": entry.value, "spread": entry.spread, "low": entry.low,
                "high": entry.high, "seeds": len(entry.seeds), "best": entry.best, "status": entry.status,
            }
            for table in self.tables for row in table.rows for column in table.columns
            if (entry := row.entry(column)) is not None
        )  # fmt: skip

    def __repr__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        return self.to_html()


@dataclass(frozen=True, repr=False)
class Differences(Tables):
    """Comparison of methods with intervals and tests, corrected for all tests of the call (Holm)."""

    contest: Contest

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per pair of methods, data set, backbone and metric, with the columns of ``compare`` as CSV."""
        import pandas as pd

        from bench.report.contest_tables import comparison_rows

        return pd.DataFrame(comparison_rows(self.contest))


@dataclass(frozen=True)
class CellResult:
    """One cell: settings, scores, failure, and its fitted model."""

    store: Store
    id: str
    home: Path

    @cached_property
    def record(self) -> CellRecord:
        """Stored record."""
        return self.store.record(self.id)

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that changes the result."""
        return dict(self.store.specification(self.id)["spec"])

    @property
    def folder(self) -> Path:
        """Folder of the cell."""
        return self.store.cell(self.id).path

    @property
    def scores(self) -> dict[str, Score]:
        """Scores by metric, without their tables; empty for an unfinished cell."""
        stored = (self.record.result or {}).get("scores", {})
        return {
            name: Score(score["value"], score["n"], also=dict(score.get("also", {}))) for name, score in stored.items()
        }

    @property
    def not_applicable(self) -> dict[str, str]:
        """Reasons of metrics that mean nothing for this cell."""
        written, result = self.record.written or {}, self.record.result or {}
        refused = {name: str(facts["reason"]) for name, facts in written.get("not_applicable", {}).items()}
        return {**refused, **result.get("not_applicable", {})}

    @property
    def failure(self) -> dict[str, Any] | None:
        """Status, reason and details of a failed cell."""
        return None if self.record.failure is None else dict(self.record.failure)

    def load_model(self, device: str = "auto") -> PartPrototypeModel:
        """Return the fitted model in eval mode.

        >>> model = bench.load_results().cell("3fa9c1").load_model()  # doctest: +SKIP
        >>> model.explain(images, labels).maps  # doctest: +SKIP

        Raises:
            CellError: if its weights are damaged or those of another network.
            RequestError: if the cell is not finished.
        """
        if not self.store.cell(self.id).done:
            raise RequestError(f"cell {self.id} is not finished: there is no model to load")
        cell = self._opened(device)
        return cell.load(cell.inputs.data()["train"])

    def load_samples(self, split: str = "test") -> Samples:
        """Return the images and annotations of a split, prepared as for this cell.

        Args:
            split: ``train`` or ``test``.

        Raises:
            RequestError: if the data set is no longer there or has changed.
        """
        return self._opened("cpu").inputs.data()[split]

    def _opened(self, device: str) -> CellRunner:
        from bench.core import environment
        from bench.core.console import Console
        from bench.runner.cell import CellRunner
        from bench.runner.progress import ConsoleProgress

        progress = ConsoleProgress(Console(quiet=True), quiet=True)
        return CellRunner(self.store, self.id, self.home, environment.pick_device(device), progress)


def separated(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names that were passed as a sequence, or as one text with commas."""
    return tuple(part.strip() for part in names.split(",")) if isinstance(names, str) else tuple(names)


def _escaped(text: str) -> str:
    from html import escape

    from bench.core.plain_text import visible

    return escape(visible(text))
