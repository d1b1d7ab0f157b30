"""Tables in all formats: goldens to be looked at, and what must hold for whatever a table contains."""

import csv
import doctest
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import bench.core.plain_text
import bench.results.labels
from bench.contract import RequestError
from bench.core.plain_text import for_latex
from bench.report import paper_table, write
from bench.report.paper_tables.published import TABLES
from bench.report.renderers import as_csv, as_html, as_latex
from bench.report.renderers.latex import PREAMBLE
from bench.results.store import Store
from tests.support.paper_cells import on_cub, paper_store, scores
from tests.support.regenerate import GOLDEN, GOLDEN_TABLES, golden_table
from tests.support.stores import StoreMaker

HOSTILE = "ours (a=<script>alert(1)</script> & 50 % of $x_{1}^2$ # ~ | \\end{tabular} \u2713)"
VOID = {"meta", "br", "img", "link", "hr", "input"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return paper_store(tmp_path_factory.mktemp("paper")).store


@pytest.fixture
def hostile(tmp_path: Path) -> Store:
    """A row whose name and whose reason want to be markup."""
    maker = StoreMaker(tmp_path)
    cells = [
        on_cub(maker, "ours", scores(1.0, 2.0, 3.0), label=HOSTILE),
        on_cub(maker, "protopnet", failure=("failed", HOSTILE)),
    ]
    maker.invocation(cells, suite="odd")
    return maker.store


def written(store: Store, number: int, fmt: str, width: int = 100, suite: str | None = None) -> str:
    out = io.StringIO()
    tables = paper_table(store, number, suite=suite)
    write(tables, fmt, Console(file=out, width=width), title=f"Table {number}")
    return out.getvalue()


@pytest.mark.parametrize("file", GOLDEN_TABLES)
def test_paper_table_is_its_golden(store: Store, file: str) -> None:
    assert golden_table(store, file) == (GOLDEN / file).read_text()


def test_text_is_folded_by_backbone_within_the_console(store: Store) -> None:
    text = written(store, 2, "text", width=80)
    tables = [line for line in text.splitlines() if not line.startswith("- ")]
    assert max(map(len, tables)) <= 80
    assert text.count("ours − best prior") == 5
    wide = written(store, 2, "text", width=400)
    assert wide.count("ours − best prior") == 1
    for name in ("resnet34", "densenet161"):
        assert name in text
        assert name in wide


@pytest.mark.parametrize("number", TABLES)
def test_markdown_rows_have_as_many_places_as_there_are_columns(store: Store, hostile: Store, number: int) -> None:
    for text in (written(store, number, "md"), written(hostile, number, "md", suite="odd")):
        for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(counts) == 1


@pytest.mark.parametrize("number", TABLES)
def test_latex_is_well_formed(store: Store, hostile: Store, number: int) -> None:
    for text in (written(store, number, "latex"), written(hostile, number, "latex", suite="odd")):
        assert text.startswith("% needs \\usepackage{booktabs} \\usepackage{amssymb}\n")
        body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        bare = re.sub(r"\\[{}$&#%_\\]", "", body)
        depth = 0
        for letter in bare:
            depth += (letter == "{") - (letter == "}")
            assert depth >= 0
        assert depth == 0
        assert bare.count("$") % 2 == 0
        assert body.isascii()
        opened: list[str] = []
        for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", body):
            if kind == "begin":
                opened.append(name)
            else:
                assert opened.pop() == name
        assert opened == []
        for columns, rows in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
            for row in re.findall(r"^(.*) \\\\$", rows, re.MULTILINE):
                spans = sum(int(one) - 1 for one in re.findall(r"\\multicolumn\{(\d+)\}", row))
                assert len(re.findall(r"(?<!\\)&", row)) + 1 + spans == len(columns)
        outside = re.sub(r"\$[^$]*\$|\\cmidrule\(lr\)\{[\d-]+\}", "", bare)
        assert not re.search(r"[_^#~]", outside)


@pytest.mark.slow
@pytest.mark.parametrize("number", TABLES)
def test_latex_compiles(store: Store, hostile: Store, number: int, tmp_path: Path) -> None:
    """With a real LaTeX, where there is one."""
    program = next((name for name in ("tectonic", "pdflatex") if shutil.which(name)), None)
    if program is None:
        pytest.skip("neither tectonic nor pdflatex is installed")
    body = written(store, number, "latex") + written(hostile, number, "latex", suite="odd")
    packages = "\n".join(f"\\usepackage{{{name}}}" for name in PREAMBLE)
    (tmp_path / "table.tex").write_text(
        f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    options = [] if program == "tectonic" else ["-halt-on-error", "-interaction=nonstopmode"]
    done = subprocess.run([program, *options, "table.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


class Page(HTMLParser):
    """What the tests look at: whether tags are balanced, the ids, the links, the cells of each row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.rows: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if given.get("href"):
            self.links.append(str(given["href"]))
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(given.get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("number", TABLES)
def test_html_is_well_formed_and_self_contained(store: Store, hostile: Store, number: int) -> None:
    for text in (written(store, number, "html"), written(hostile, number, "html", suite="odd")):
        page = Page(text)
        assert page.open == []
        assert len(page.ids) == len(set(page.ids))
        assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
        assert not {"script", "img", "link", "iframe"} & set(page.tags)
        assert "http" not in text
        assert "<caption>" in text
        assert 'scope="row"' in text
    if number != 3:
        assert len(set(page.rows)) == 1


def test_markup_in_names_and_reasons_stays_text(hostile: Store) -> None:
    html = written(hostile, 2, "html", suite="odd")
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 2
    latex = written(hostile, 2, "latex", suite="odd")
    assert latex.count("\\end{tabular}") == latex.count("\\begin{tabular}") == latex.count("part ")
    assert "\\textbackslash{}end\\{tabular\\}" in latex
    assert "[/bold]" not in written(hostile, 2, "text", suite="odd")


def test_csv_has_full_precision_and_says_what_is_missing(store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(paper_table(store, 2)))))
    found = {(row["row"], row["group"], row["column"]): row for row in rows}
    ours = found["ours", "resnet34", "consistency"]
    assert float(ours["spread"]) == 2**0.5
    assert (ours["value"], ours["published"], ours["seeds"], ours["best"]) == ("63.0", "62.3", "0 1", "True")
    assert found["tesnet", "resnet34", "accuracy"]["status"] == "oom"
    assert found["tesnet", "resnet34", "accuracy"]["notes"] == "out of memory: tried to allocate 15.3 GiB"
    assert found["evalprotopnet", "vgg19", "stability"]["published"] == "56.9"
    assert found["evalprotopnet", "vgg19", "stability"]["status"] == ""
    (table_3,) = [row for row in csv.DictReader(io.StringIO(as_csv(paper_table(store, 3))))
                  if row["column"] == "protopool" and row["row"].startswith("accuracy")]  # fmt: skip
    assert (table_3["published"], table_3["published_status"]) == ("", "oom")


def test_unknown_formats_are_refused(store: Store) -> None:
    with pytest.raises(RequestError, match="--format 'pdf': write text, md, latex, html, csv, json"):
        write(paper_table(store, 2), "pdf")


def test_latex_escapes_are_ascii_and_pages_carry_their_title(store: Store) -> None:
    assert for_latex("a\u2713\u2212\u00b1\u2026é") == "a$\\checkmark$$-$$\\pm$\\ldots{}é"
    assert "<title>Table 2</title>" in as_html(paper_table(store, 2), "Table 2")
    assert for_latex("--run") == "-{}-run"


def test_latex_is_folded_where_a_page_is_too_narrow(store: Store) -> None:
    wide, narrow = as_latex(paper_table(store, 2)), as_latex(paper_table(store, 5))
    assert wide.count("\\begin{table*}") == 5
    assert [f"tab:paper-2{part}" in wide for part in "abcdef"] == [*[True] * 5, False]
    assert narrow.count("\\begin{table}") == 1
    assert "\\label{tab:paper-5}" in narrow


def test_examples() -> None:
    assert doctest.testmod(bench.core.plain_text) == (0, 5)
    assert doctest.testmod(bench.results.labels).failed == 0
