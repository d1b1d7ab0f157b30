"""The first page: leaderboard, mean ranks, changed settings apart, texts of the authors, tables as files."""

import csv
import doctest
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from bench.contract import RequestError
from bench.report import table
from bench.report.html import downloads, filters, write_site
from bench.report.html.about import About, hardware, read_about
from bench.report.html.figures import fit_for_pages
from bench.report.html.front import leaderboard, sections
from bench.report.html.ranks import Ranking, rankings
from bench.report.html.verdicts import verdicts
from bench.report.references import bibtex, year_of
from bench.report.result_tables import results
from bench.report.table import Column
from bench.results.aggregate import Entry
from bench.results.result_set import ResultSet
from bench.results.stats.tests import critical_difference
from bench.results.store import Store
from tests.support.site_pages import broken_links, read_site
from tests.support.stores import METRICS, StoreMaker, example_store

ROOT = Path(__file__).resolve().parents[3]
PAIR = {name: METRICS[name] for name in ("accuracy", "stability")}
# Accuracy and stability of seeds 0 and 1 on two backbones.
VALUES = {
    ("ours", "tiny"): [(90.0, 50.0), (91.0, 52.0)],
    ("protopnet", "tiny"): [(80.0, 60.0), (82.0, 61.0)],
    ("tesnet", "tiny"): [(85.0, 55.0), (84.0, 51.0)],
    ("ours", "resnet18"): [(95.0, 20.0), (96.0, 10.0)],
    ("protopnet", "resnet18"): [(88.0, 30.0), (89.0, 40.0)],
    ("tesnet", "resnet18"): [(90.0, 10.0), (85.0, 30.0)],
    ("protopool", "tiny"): [(70.0, 5.0), (71.0, 5.0)],
}


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    maker = StoreMaker(tmp_path / "home")
    cells = [
        maker.cell(method, dict(zip(PAIR, values, strict=True)), metrics=PAIR, backbone=backbone, seed=seed)
        for (method, backbone), own in VALUES.items()
        for seed, values in enumerate(own)
    ]
    changed = {"label": "ours (k=5)", "settings": {"k": 5}, "changed": ["k"]}
    cells.append(maker.cell("ours", {"accuracy": 99.0, "stability": 99.0}, metrics=PAIR, **changed))
    refused = {"accuracy": "constant predicts no class"}
    cells.append(
        maker.cell("constant", {"stability": 51.0}, metrics=PAIR, role="control", backbone=None, not_applicable=refused)
    )
    maker.invocation(cells)
    return maker


def test_changed_settings_have_a_section_of_their_own(maker: StoreMaker) -> None:
    found = results(ResultSet.of(maker.store))
    (section,) = sections(found, verdicts(maker.store, found))
    assert "ours (k=5)" not in {row.label for row in section.own.table.rows}
    assert {row.label for row in section.changed.table.rows} == {"ours", "ours (k=5)"}
    best = {(row.label, row.backbone) for row in section.own.table.rows if row.values["accuracy"].best}
    assert best == {("ours", "resnet18")}
    assert not section.changed.table.has_best
    assert section.beyond is not None


def test_the_leaderboard_begins_with_the_backbone_of_most_methods(maker: StoreMaker) -> None:
    (result,) = results(ResultSet.of(maker.store))
    board = leaderboard(result)
    assert [name for name, _ in board.sections] == ["tiny", "content-free controls", "resnet18"]
    tiny = [row.label for row, _ in board.sections[0][1]]
    assert tiny == ["ours (k=5)", "ours", "tesnet", "protopnet", "protopool"]
    assert [column.name for column in board.columns] == ["accuracy", "stability"]


def test_mean_ranks_are_over_the_blocks_that_most_methods_share(maker: StoreMaker) -> None:
    """Three methods in four blocks say more than four in two."""
    accuracy, stability = rankings(results(ResultSet.of(maker.store)))
    for ranking, place in ((accuracy, 0), (stability, 1)):
        methods = ("ours", "protopnet", "tesnet")
        own: dict[str, list[int]] = {name: [] for name in methods}
        for backbone, seed in itertools.product(("tiny", "resnet18"), (0, 1)):
            values = {name: VALUES[name, backbone][seed][place] for name in methods}
            for name in methods:
                own[name].append(1 + sum(other > values[name] for other in values.values()))
        assert dict(zip(ranking.methods, ranking.ranks, strict=True)) == pytest.approx(
            {name: sum(ranks) / 4 for name, ranks in own.items()}
        )
        assert (ranking.blocks, ranking.left) == (4, ("protopool",))
        assert list(ranking.ranks) == sorted(ranking.ranks)
    assert accuracy.methods[0] == "ours"


def test_critical_differences_are_those_of_demsars_table() -> None:
    # Table 5 (a) of Demšar, JMLR 7 (2006): q at 0.05 for 2 to 10 methods, to three decimals.
    printed = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
    for methods, quantile in enumerate(printed, 2):
        expected = quantile * np.sqrt(methods * (methods + 1) / (6 * 14))
        assert critical_difference(methods, 14) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("gap", [0.1, 0.6, 1.1, 5.0])
def test_bars_join_what_is_not_further_apart_than_the_difference(gap: float) -> None:
    ranks = (1.0, 1.5, 2.5, 2.9, 4.0)
    ranking = Ranking("accuracy", tuple("abcde"), ranks, 9, gap, None, ())
    joined = {pair for i, j in ranking.alike for pair in itertools.combinations(range(i, j + 1), 2)}
    assert joined == {(i, j) for i, j in itertools.combinations(range(5), 2) if ranks[j] - ranks[i] <= gap}
    # No bar is inside another one.
    assert not any(a != b and b[0] <= a[0] and a[1] <= b[1] for a in ranking.alike for b in ranking.alike)
    assert ranking.x(1) < ranking.x(3) < ranking.x(5)


def test_residuals_below_the_tolerance_are_zero_with_a_bound() -> None:
    assert doctest.testmod(filters).failed == doctest.testmod(table).failed == 0
    axiom = Column("linearity", tolerance=1e-4)
    assert filters.value(Entry("ok", 6.5e-16, 1e-17), axiom) == "0 (< 1e−12)"
    assert filters.value(Entry("ok", 0.0), axiom) == "0"
    assert filters.value(Entry("ok", 0.25), axiom) == "0.25"
    # A share of images, whose tolerance is about the images.
    assert filters.value(Entry("ok", 0.05), Column("sensitivity", "%", tolerance=0.1)) == "0.1"


def test_every_table_is_there_as_csv_latex_and_bibtex(maker: StoreMaker, tmp_path: Path) -> None:
    write_site(maker.store, tmp_path / "site")
    assert broken_links(tmp_path / "site") == []
    pages = read_site(tmp_path / "site")
    for name, page in pages.items():
        if not name.startswith("cells/"):
            linked = [link for link in page.links if "downloads/" in link]
            assert len(linked) >= 3 * len([one for one in page.all("table") if "results" in one.get("class", "")]), name
    folder = tmp_path / "site" / "downloads"
    rows = list(csv.DictReader((folder / "demo.csv").read_text().splitlines()))
    assert {float(row["value"]) for row in rows if row["row"] == "ours" and row["column"] == "accuracy"} == {90.5, 95.5}
    assert "ours (k=5)" not in {row["row"] for row in rows}
    assert r"\begin{tabular}" in (folder / "demo.tex").read_text()
    cited = (folder / "demo.bib").read_text()
    assert [line.split("{")[1].rstrip(",") for line in cited.splitlines() if line.startswith("@")] == [
        "partbench", "ours", "protopnet", "tesnet", "protopool",
    ]  # fmt: skip


def test_each_reference_is_complete() -> None:
    assert bibtex(["support-st", "no such"]).count("@") == 2
    names = ["ours", "protopnet", "tesnet", "protopool", "deformable", "evalprotopnet", "st-protopnet", "protoconcepts",
             "prototree", "protopshare", "pixpnet", "epic", "dff", "craft", "ibd", "gradcam", "hirescam",
             "pipnet", "cub", "cars", "dogs", "imagenet"]  # fmt: skip
    for name in names:
        text = bibtex([name])
        assert text.count("@") == 2, name
        assert text.count("{") == text.count("}")
        for field in ("title", "author", "year"):
            assert f"  {field} = {{" in text.split(f"{{{name},")[1]
    assert (year_of("support-st"), year_of("dff"), year_of("blackbox")) == (2023, 2018, None)


def test_authors_say_what_the_numbers_do_not(tmp_path: Path) -> None:
    file = tmp_path / "about.md"
    file.write_text(
        "---\nauthors: [A. One, B. Two]\nlicence: CC BY 4.0\n---\n# Why\n<b>x</b> ![p](x.png) [j](javascript:y)\n"
    )
    about = read_about(file, "Birds")
    assert (about.title, about.authors, about.licence) == ("Birds", "A. One, B. Two", "CC BY 4.0")
    assert "<h3>Why</h3>" in about.html
    assert "<b>" not in about.html
    assert "<img" not in about.html
    assert "href" not in about.html
    assert about.dated("20260304-101500-123").date == "2026-03-04"
    assert About(date="May").dated("20260304-101500-123").date == "May"
    maker, _ = example_store(tmp_path / "home")
    write_site(maker.store, tmp_path / "site", about=about)
    said = read_site(tmp_path / "site")["index.html"].said
    for text in ("Birds", "A. One, B. Two", "CC BY 4.0", "2026-", "Some CPU, 2 cores"):
        assert text in said
    assert hardware(ResultSet.of(maker.store)) == ["Some CPU, 2 cores"]
    file.write_text("---\nauthor: A. One\n---\n")
    with pytest.raises(RequestError, match="no field 'author'; did you mean 'authors'"):
        read_about(file)
    with pytest.raises(RequestError, match="cannot be read"):
        read_about(tmp_path / "missing.md")


def test_no_page_or_file_has_a_path_of_the_machine(tmp_path: Path) -> None:
    assert doctest.testmod(downloads).failed == 0
    maker, _ = example_store(tmp_path / "home")
    reason = "no such file: /scratch/someone/weights.pth"
    maker.invocation([maker.cell("tesnet", failure=("failed", reason))], "20260306-000000-000")
    write_site(maker.store, tmp_path / "site")
    texts = {file: file.read_text() for file in (tmp_path / "site").rglob("*.*") if file.suffix != ".svg"}
    assert any("no such file: weights.pth" in text for text in texts.values())
    for file, text in texts.items():
        assert str(tmp_path) not in text, file
        assert "/scratch" not in text, file


def test_a_drawing_has_colours_for_a_dark_page(tmp_path: Path) -> None:
    file = tmp_path / "one.svg"
    file.write_text('<svg><defs>\n</defs><path style="fill: #ffffff"/><path style="stroke: #1a1a1a"/></svg>')
    fit_for_pages(file)
    text = file.read_text()
    assert "@media (prefers-color-scheme: dark)" in text
    assert '[style*="fill: #ffffff"] { fill: #14171b !important }' in text
    assert text.count('style="fill: #ffffff"') == 1


@pytest.mark.slow
def test_the_published_results_are_a_small_whole_report(tmp_path: Path) -> None:
    write_site(Store(ROOT / "reports" / "results"), tmp_path / "site")
    files = [file for file in (tmp_path / "site").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 8_000_000
    assert broken_links(tmp_path / "site") == []
    for file in files:
        assert str(ROOT) not in file.read_text(encoding="utf-8"), file
    said = read_site(tmp_path / "site")["index.html"].said
    assert re.search(r"On cub, .* the best content-free control", said)
