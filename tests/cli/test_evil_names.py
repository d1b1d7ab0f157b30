"""A store whose labels, data sets, reasons and commands are made to act: every command shows them, and nothing acts."""

import csv
import io
import re
import xml.dom.minidom
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

from bench.cli.main import main
from bench.core.plain_text import printable
from bench.report.mlflow import Mirror
from bench.results.store import Store, write_json
from tests.support.evil_names import NAMES, acting
from tests.support.stores import StoreMaker

SCORES = {"accuracy": 50.0, "consistency": 10.0, "stability": 20.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    maker = StoreMaker(tmp_path_factory.mktemp("evil [x]"))
    cells = []
    for k, name in enumerate(NAMES):
        how = {"settings": {"k": k, "name": name}, "changed": ["k"], "label": name}
        cells.append(maker.cell("ours", {**SCORES, "accuracy": 50.0 + k}, **how))
        cells.append(maker.cell("protopnet", SCORES, dataset=name, backbone=name, settings={"name": name}))
        cells.append(maker.cell(name, failure=("failed", f"{name} is why")))
        cells.append(maker.cell(f"a{name}", {"accuracy": 1.0}, not_applicable={"consistency": name, "stability": name}))
    stamp = maker.invocation(cells)
    content = maker.store.invocations()[stamp]
    write_json(maker.store.root / "invocations" / f"{stamp}.json", {**content, "command": " ".join(NAMES)})
    for name in cells[2::4]:
        log = maker.store.cell(name).work / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_bytes("\n".join(NAMES).encode(errors="surrogateescape"))
    return maker.store


def said(store: Store, *words: str, code: int = 0) -> str:
    done = CliRunner(env={"BENCH_HOME": str(store.root)}).invoke(main, words)
    assert done.exit_code == code, (done.output, done.exception)
    assert not acting(done.output)
    return done.output


@pytest.mark.parametrize("words", ["report", "report --format md", "status", "results", "results --csv", "ls methods"])
def test_commands_print_no_name_that_acts(store: Store, words: str) -> None:
    assert said(store, *words.split())


@pytest.mark.parametrize("fmt", ["text", "md", "latex", "html", "csv"])
@pytest.mark.parametrize("table", "23")
def test_tables_print_no_name_that_acts(store: Store, table: str, fmt: str) -> None:
    assert said(store, "report", "--table", table, "--format", fmt)


@pytest.mark.parametrize("fmt", ["text", "md", "json", "csv"])
def test_compare_takes_names_as_they_are(store: Store, fmt: str) -> None:
    assert said(store, "compare", *NAMES, "--format", fmt, code=1)  # without tables of items nothing can be tested


def test_show_prints_settings_and_log(store: Store) -> None:
    for name in store.cells()[:12]:
        assert said(store, "show", name)
    failed = next(name for name in store.cells() if store.cell(name).failure)
    assert "\\x1b[2J" in said(store, "show", failed)


def test_csv_of_results_has_names_without_formulas(store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO(said(store, "results", "--csv"), newline="")))
    labels = {row["label"] for row in rows}
    assert {f"'{name}" if name.startswith("=") else printable(name) for name in NAMES} <= labels
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "@", "+", "\t", "\r"))]


class Page(HTMLParser):
    """What a page would do: addresses that it leads to, scripts, handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.faults: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        given = dict(attributes)
        self.addresses += [given[name] or "" for name in ("href", "src") if name in given]
        self.faults += [name for name in given if name.startswith("on")]
        if tag == "script" and not (given.get("src") or "").endswith("assets/report.js"):
            self.faults.append("script")


def test_pages_lead_nowhere_else_and_run_no_script(store: Store, tmp_path: Path) -> None:
    said(store, "report", "--format", "html", "--out-dir", str(tmp_path / "site"))
    for file in (tmp_path / "site").rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        page = Page()
        page.feed(text)
        assert not acting(text)
        assert not page.faults, file
        own = [one for one in page.addresses if one != "data:," and not one.startswith("#")]
        assert not [one for one in own if ":" in one or not (file.parent / one.split("#")[0]).is_file()], file


def test_figures_draw_names_as_they_are(store: Store, tmp_path: Path) -> None:
    assert said(store, "figure", "cost", "interpretability", "--to", str(tmp_path), "--format", "svg")
    files = list(tmp_path.glob("*.svg"))
    assert files
    for file in files:
        xml.dom.minidom.parse(str(file))
        assert not acting(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_mlflow_takes_every_name(store: Store) -> None:
    pytest.importorskip("mlflow")
    assert "MLflow runs: 41 created" in said(store, "sync")
    mirror = Mirror(store.root)
    notes = [file.read_text(encoding="utf-8") for file in store.root.glob("mlartifacts/**/report.md")]
    experiment = mirror.client.get_experiment_by_name("partbench/default")
    for run in mirror.client.search_runs([experiment.experiment_id]):
        assert not acting("".join([run.info.run_name, *run.data.tags.values(), *run.data.params.values()]))
        notes.append(run.data.tags["mlflow.note.content"])
    assert len(notes) == 42
    for note in notes:
        assert not acting(note)
        made = MarkdownIt("commonmark", {"html": True}).enable("table").render(note)
        assert not re.search(r"<(script|a|img|b)\b", made), made
