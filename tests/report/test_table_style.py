"""Tables as an author wants them, and every table in every format."""

import csv
import io
import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.cli import options
from bench.cli.main import main
from bench.contract import RequestError
from bench.report import comparison, with_beyond_chance, write
from bench.report.contest_tables import contest_tables
from bench.report.measurement_tables import scale_table, tune_table
from bench.report.renderers import FORMATS, as_csv, as_json, as_latex, as_markdown
from bench.report.table import Column, Row, Table, Value, mark_best
from bench.report.table_style import styled
from bench.results.aggregate import Entry
from bench.results.stats.compare import compare
from tests.support.paper_cells import paper_store
from tests.support.stores import example_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return example_store(tmp_path_factory.mktemp("store"))[0].store


def plain(values: dict[str, float]) -> Table:
    """A table of one metric in percent."""
    rows = tuple(Row(name, {"m": Entry("ok", value, notes=(2,) * (name == "b"))}) for name, value in values.items())
    return Table("t", (Column("m", "%"), Column("n")), rows, notes=("unused", "of b"), competes=True).marked()


def test_facts_are_about_the_columns_that_are_left(store) -> None:
    (table,) = styled(comparison(store), columns=["consistency"])
    (definitions,) = (fact for fact in table.facts if fact.startswith("metrics: "))
    assert definitions.startswith("metrics: consistency v")
    assert "accuracy" not in definitions
    assert all(text.startswith("consistency:") for text in table.chance)
    assert len(comparison(store)[0].chance) > len(table.chance) > 0


def best(table: Table) -> set[str]:
    return {row.label for row in table.rows if row.entry(table.columns[0]).best}


def test_more_digits_tell_the_best_apart():
    table = plain({"a": 62.34, "b": 62.26})
    assert best(table) == {"a", "b"}
    (precise,) = styled([table], digits=2)
    assert best(precise) == {"a"}
    assert "**62.34**" in as_markdown([precise])


def test_the_best_is_among_the_rows_that_are_left():
    (left,) = styled([plain({"a": 3.0, "b": 2.0, "c": 1.0})], rows=["c", "b"])
    assert [row.label for row in left.rows] == ["c", "b"]
    assert best(left) == {"b"}


def test_rows_are_chosen_by_their_backbone_too():
    rows = [("a", "x"), ("a", "y"), ("b", "y"), ("control", "")]
    table = Table("t", (Column("m", "%"),), tuple(Row(name, {}, backbone=backbone) for name, backbone in rows))
    for names, left in {("y",): rows[1:], ("b", "a", "y"): [rows[2], rows[1]], ("a",): rows[:2]}.items():
        (chosen,) = styled([table], rows=names)
        assert [(row.label, row.backbone) for row in chosen.rows] == left


def test_names_are_renamed_in_print_and_kept_for_programs():
    (named,) = styled([plain({"a": 3.0, "b": 2.0})], rename={"a": "A (ours)", "m": "Score", "%": "percent"})
    assert "| A (ours) |" in as_markdown([named])
    assert "Score (percent)" in as_markdown([named])
    assert next(csv.DictReader(io.StringIO(as_csv([named]))))["row"] == "a"


def test_footnotes_that_are_left_count_from_one():
    text = as_markdown([plain({"a": 3.0, "b": 2.0})])
    assert "2.0 ¹" in text
    assert "- ¹ of b" in text
    assert "unused" not in text
    assert "of b" not in as_markdown(styled([plain({"a": 3.0, "b": 2.0})], rows=["a"]))


def test_caption_and_label_are_in_latex():
    text = as_latex(styled([plain({"a": 1.0})], caption="Scores & more", label="tab:mine"))
    assert "\\caption{Scores \\& more}" in text
    assert "\\label{tab:mine}" in text


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ({"columns": ["mm"]}, "--columns mm: not in these tables"),
        ({"rows": ["d"]}, "--rows d: not in these tables"),
        ({"rename": {"x": "y"}}, "--rename x: not in these tables"),
    ],
)
def test_names_that_no_table_has_are_refused(style, said):
    with pytest.raises(RequestError, match=said):
        styled([plain({"a": 1.0})], **style)


def test_columns_keep_the_tables_that_have_them(store):
    tables = with_beyond_chance(comparison(store))
    kept = styled(tables, ["accuracy"])
    assert [table.title for table in kept] == ["demo"]
    assert len(styled(tables, ["stability"])) == 2


def test_values_that_all_hold_have_no_best():
    column = Column("axiom", higher_is_better=False, tolerance=0.1)
    entries = [Entry("ok", 0.01), Entry("ok", 0.02), None]
    assert not any(entry.best for entry in mark_best(entries, column) if entry)


def scale_record():
    part = {"status": "ok", "parameters": 2e6, "peak_bytes": 2**30, "activation_bytes": 2**29, "images_per_second": 9.5}
    failed = {"status": "oom", "reason": "tried 9 GiB", "overrun": {"tried_bytes": 9 * 2**30}}
    rows = [{"method": "ours", "form": form, "classes": 200, "training": training, "inference": part}
            for form, training in (("", part), ("literal", failed))]  # fmt: skip
    return {
        "backbone": "resnet34", "size": 224, "batch_size": 80, "precision": "fp32", "memory_limit_bytes": None,
        "memory_limit_why": "the whole GPU", "device": "cuda", "hardware": "a GPU", "threads": 2, "load": 0.0,
        "rows": rows,
    }  # fmt: skip


def every_kind(store, tmp_path):
    trials = [{"cell": "a", "fold": -1, "choice": {"k": 1}, "values": {"accuracy": 50.0}}]
    return {
        "run": with_beyond_chance(comparison(store)),
        "compare": contest_tables(compare(paper_store(tmp_path).store, ("ours", "protopnet"))),
        "scale": [scale_table(scale_record())],
        "tune": [tune_table(trials)],
    }


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_table_has_every_format(store, tmp_path, fmt):
    for kind, tables in every_kind(store, tmp_path).items():
        out = io.StringIO()
        write(tables, fmt, Console(file=out, width=80))
        assert tables[0].columns[0].name.split("_")[0] in out.getvalue(), kind


def test_command_line_offers_the_formats_of_the_renderers():
    assert options.FORMATS == FORMATS


def test_scale_says_what_does_not_fit():
    table = scale_table(scale_record())
    assert "2.0" in as_markdown([table])
    assert "OOM ¹" in as_markdown([table])
    assert any("(tried to allocate 9.0 GiB), 1.0 GiB here" in fact for fact in table.facts)
    values = {
        (row["row"], row["group"], row["column"]): row["value"] for row in json.loads(as_json([table]))[0]["values"]
    }
    assert values["ours", "training", "peak"] == 1.0
    assert values["ours (literal)", "training", "peak"] is None


def test_interval_is_beside_its_value_only_where_there_is_room():
    row = Row("a", {"m": Value(Entry("ok", 50.0, low=-40.0, high=60.0))})
    table = Table("t", (Column("m", "%"),), (row,))
    assert "50.0 [-40.0, 60.0]" in as_markdown([table])
    assert "95 \\% interval & [$-$40.0, 60.0]" in as_latex([table])


def test_report_takes_the_options_of_an_author(store, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(store.root))
    command = (
        "report --format latex --columns consistency --rows ours,protopnet --rename ours=Ours --digits 3 --label tab:x"
    )
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 0, result.output
    assert "Ours & tiny & \\textbf{73.000} $\\pm$ 4.243" in result.stdout
    assert "\\label{tab:x}" in result.stdout
    refused = CliRunner().invoke(main, ["report", "--format", "html", "--digits", "2"])
    assert refused.exit_code == 2
    assert "--digits is for printed tables" in refused.stderr
