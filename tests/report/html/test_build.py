"""The report in pages: what it says of a fixed store, and what must hold whatever a store contains."""

import doctest
import itertools
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench.report.html.output_dir
import bench.report.html.sparklines
import bench.report.html.words
from bench.cli.main import main
from bench.contract import RequestError
from bench.report.html import write_site
from bench.report.html.output_dir import ReportFolder, file_name
from bench.report.html.sparklines import panels
from bench.report.html.warnings import cautions
from bench.report.result_tables import results
from bench.results.result_set import ResultSet
from bench.results.store import Store
from tests.support.paper_cells import paper_store
from tests.support.site_pages import Page, broken_links, read_site
from tests.support.stores import METRICS, SCHEDULE, StoreMaker, epoch, example_store, reseal

HOSTILE = "x'\"><script>alert(1)</script>&amp;{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The pages of a store with all that can happen to a cell, and its cells."""
    root = tmp_path_factory.mktemp("example")
    maker, cells = example_store(root / "home")
    write_site(maker.store, root / "site")
    return root / "site", cells


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a store with cells of several data sets and tables of the paper."""
    root = tmp_path_factory.mktemp("paper")
    write_site(paper_store(root / "home").store, root / "site")
    return root / "site"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a store whose every text wants to be markup, and whose names want to be paths."""
    root = tmp_path_factory.mktemp("hostile")
    maker = StoreMaker(root / "home")
    curve = [epoch(0, HOSTILE, 0.9), {**epoch(1, HOSTILE + "b", 0.5), HOSTILE: 3.0}]
    named = {"label": HOSTILE, "dataset": HOSTILE, "backbone": HOSTILE}
    scores = {"accuracy": 50.0, "consistency": 40.0, "stability": 30.0}
    cells = [
        maker.cell("../../escape", scores, history=curve, **named),
        maker.cell("ours", scores, seed=9, black_box_id="../../../secret", **named),
        maker.cell(HOSTILE, failure=("failed", HOSTILE), recipe=HOSTILE, **named),
        maker.cell("/etc/passwd", settings={HOSTILE: HOSTILE}, dataset=HOSTILE),
        maker.cell("Ours", scores),
        maker.cell("ours", scores),
    ]
    maker.invocation(cells, suite=HOSTILE)
    secret = root / "secret" / "result"
    secret.mkdir(parents=True)
    (secret / "history.json").write_text(json.dumps([{"epoch": 0, "betrayed": 1.0}]))
    write_site(maker.store, root / "site")
    return root / "site"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    write_site(Store(root / "home"), root / "site")
    return root / "site"


@pytest.mark.parametrize("name", ["example", "paper", "hostile", "empty"])
def test_pages_are_whole_linked_and_self_contained(name: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(name)
    site = found[0] if name == "example" else found
    assert broken_links(site) == []
    for page in read_site(site).values():
        assert len(page.ids) == len(set(page.ids))
        for link in page.links:
            assert not re.match(r"[a-z]+:|//|/", link) or link == "data:,"
        assert len(page.all("script")) == 1
        assert not any(given for _, given in page.tags if any(key.startswith("on") or key == "style" for key in given))


@pytest.mark.parametrize("name", ["example", "paper", "empty"])
def test_screen_readers_are_told_what_things_are(name: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(name)
    for page in read_site(found[0] if name == "example" else found).values():
        assert page.all("html")[0]["lang"] == "en"
        assert (
            len(page.all("h1"))
            == len(page.all("main"))
            == len(page.all("title")) - len([1 for given in page.all("title") if "id" in given])
        )
        assert page.tags.index(("a", {"class": "skip", "href": "#main"})) < page.tags.index(("nav", page.all("nav")[0]))
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert len(page.all("caption")) == len(page.all("table"))
        assert all("scope" in given for given in page.all("th"))
        assert all(given.get("alt") for given in page.all("img"))
        for given in page.all("svg"):
            assert given.get("aria-hidden") == "true" or given["aria-labelledby"] in page.ids
        for given in page.all("section"):
            assert given.get("aria-labelledby", given.get("id")) in page.ids


def test_summary_names_results_and_objections(example: tuple[Path, dict[str, str]]) -> None:
    said = read_site(example[0])["index.html"].said
    for text in (
        "2 methods on demo",
        "6 of 9 cells finished",
        "No method was tested against a content-free control",
        "Before you compare",
        "demo, consistency: constant ≥ protopnet",
        "demo, stability: constant ≥ ours, protopnet",
        "1 of 9 cells failed: protopnet",
        "1 of 9 cells out of memory: ours (k=9)",
        "with 40 test images an accuracy near 50 % is known to ± 15.5 points at best",
        "91.0 ± 1.4",
        "out of memory: tried 40 GiB",
    ):
        assert " ".join(text.split()) in said, text
    order = ("Leaderboard: demo", "Verdicts", "Before you compare", "Results: demo", "Changed settings", "Figures")
    places = [said.index(text) for text in order]
    assert places == sorted(places)


def test_a_table_has_its_numbers_for_sorting(example: tuple[Path, dict[str, str]]) -> None:
    page = read_site(example[0])["index.html"]
    values = [given["data-value"] for given in page.all("td") if "data-value" in given]
    assert {"91", "73", "81", "100"} <= set(values)
    assert [given["data-sort"] for given in page.all("th") if "data-sort" in given][:2] == ["text", "number"]


def test_every_cell_and_every_method_has_a_page(example: tuple[Path, dict[str, str]]) -> None:
    site, cells = example
    pages = read_site(site)
    assert {f"cells/{name}.html" for name in cells.values()} <= set(pages)
    assert {f"methods/{name}.html" for name in ("ours", "protopnet", "blackbox", "constant", "random")} <= set(pages)
    trained = pages[f"cells/{cells['protopnet-0']}.html"]
    for text in (
        f"python -m bench cell cells/{cells['protopnet-0']}",
        "protopnet.schedule.phases.1 action=project, epochs=",
        "fit seconds 90",
        "torch=2.13.0",
        "loss over 3 epochs: 0.9 at the beginning, 0.25 at the end, between 0.25 and 0.9",
    ):
        assert text.replace(" ", "") in trained.said.replace(" ", ""), text
    assert "python -m bench run --methods ours,protopnet --datasets demo" in pages["cells.html"].said
    lines = (site / "downloads" / "cells.csv").read_text().splitlines()
    assert lines[0] == "cell,method,data set,backbone,seed,state,newest run"
    assert {line.split(",")[0] for line in lines[1:]} == set(cells.values())
    assert "Training of its black box" in pages[f"cells/{cells['ours-0']}.html"].said
    failed = pages[f"cells/{cells['protopnet-1']}.html"].said
    assert "loss became nan in phase 'joint'" in failed
    assert "Scores" not in failed
    assert "not finished" in pages[f"cells/{cells['ours-late']}.html"].said


def test_an_empty_store_says_how_to_begin(empty: Path) -> None:
    pages = read_site(empty)
    assert set(pages) == {"index.html", "comparisons.html", "tables.html", "cells.html"}
    assert "python -m bench run --methods ours,protopnet --datasets demo" in pages["index.html"].said
    assert "Before you compare" not in pages["index.html"].said


def test_tables_of_the_paper_are_there_where_cells_are(paper: Path) -> None:
    said = read_site(paper)["tables.html"].said
    for number in (1, 2, 3, 4, 5):
        assert f"Table {number}:" in said.split("Without a measured number")[0]
    assert "Table 6:" in said.split("Without a measured number")[1]
    index = read_site(paper)["index.html"].said
    assert "Not the images of Tan et al. 2024: 276 training and 142 test images here" in index
    assert "cub: Not the images" not in index
    # The data set with most measured values is the first.
    assert index.index("Results: cub") < index.index("Results: imagenet")


def test_markup_in_names_stays_text_inside_the_folder(hostile: Path) -> None:
    root = hostile.parent
    assert {path.name for path in root.iterdir()} == {"home", "site", "secret"}
    for page in read_site(hostile).values():
        assert "<script>" not in page.text
        assert "alert(1)" not in json.dumps([given for tag, given in page.tags if tag == "script"])
        assert "49" not in page.said or "{{ 7 * 7 }}" in page.said
        assert "betrayed" not in page.text
    assert "<script>alert(1)</script>" in read_site(hostile)["index.html"].said
    # Two methods that a file system may not tell apart have two pages.
    names = [file.name.lower() for file in (hostile / "methods").iterdir()]
    assert len(names) == len(set(names)) == 5


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    maker, _ = example_store(tmp_path / "home")
    for name in ("one", "two"):
        write_site(maker.store, tmp_path / name)
    files = [{file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
             for folder in (tmp_path / "one", tmp_path / "two")]  # fmt: skip
    assert files[0] == files[1]


def test_a_second_report_writes_only_what_has_changed(tmp_path: Path) -> None:
    maker, cells = example_store(tmp_path / "home")
    site = tmp_path / "site"

    def written() -> set[str]:
        """Write the report; the files of it that are new, or were written again."""
        before = {file: file.stat().st_mtime_ns for file in site.rglob("*")}
        write_site(Store(tmp_path / "home"), site)
        files = [file for file in site.rglob("*") if file.is_file()]
        return {file.relative_to(site).as_posix() for file in files if file.stat().st_mtime_ns != before.get(file)}

    page = f"cells/{cells['ours-0']}.html"
    assert page in written()
    assert written() == set()
    # Another accuracy, where no table has intervals or tests to draw.
    folder = maker.store.cell(cells["ours-0"]).result
    result = json.loads((folder / "result.json").read_text())
    result["scores"]["accuracy"]["value"] = 12.5
    (folder / "result.json").write_text(json.dumps(result))
    reseal(folder)
    again = {name for name in written() if name.endswith(".html")}
    assert {page, "index.html", "methods/ours.html"} <= again
    assert {name for name in again if name.startswith("cells/")} == {page}
    assert "12.5" in (site / page).read_text()
    # What is on disk counts, not what was written there once.
    (site / page).write_text("mine")
    assert {name for name in written() if name.endswith(".html")} == {page}
    assert written() == set()
    # Curves are files of their own.
    curve = folder / "history.json"
    curve.write_text(json.dumps([epoch(0, "all", 0.5), epoch(1, "all", 0.25)]))
    reseal(folder)
    assert page in written()
    fresh = tmp_path / "fresh"
    write_site(Store(tmp_path / "home"), fresh)
    contents = [{file.relative_to(top): file.read_bytes() for file in top.rglob("*.html")} for top in (site, fresh)]
    assert contents[0] == contents[1]


def test_later_report_replaces_only_an_earlier_one(tmp_path: Path) -> None:
    maker, cells = example_store(tmp_path / "home")
    site = tmp_path / "site"
    write_site(maker.store, site)
    (site / "notes.txt").write_text("mine")
    old = site / "cells" / f"{cells['ours-late']}.html"
    assert old.is_file()
    maker.store.cell(cells["ours-late"]).path.joinpath("cell.json").unlink()
    write_site(maker.store, site)
    assert not old.exists()
    assert (site / "notes.txt").read_text() == "mine"
    assert broken_links(site) == []


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    maker, _ = example_store(tmp_path / "home")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("mine")
    with pytest.raises(RequestError, match="is not empty and holds no report: choose another folder with --out-dir"):
        write_site(maker.store, mine)
    assert (mine / "index.html").read_text() == "mine"
    with pytest.raises(RequestError, match="choose another folder"):
        write_site(maker.store, mine / "index.html")


def test_a_list_of_files_cannot_reach_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "precious.txt"
    outside.write_text("keep")
    site = tmp_path / "site"
    site.mkdir()
    (site / "partbench-report.json").write_text(json.dumps({"files": ["../precious.txt", str(outside)]}))
    folder = ReportFolder(site)
    folder.write("index.html", "x")
    folder.finish()
    assert outside.read_text() == "keep"
    (site / "partbench-report.json").write_text("[")
    with pytest.raises(RequestError, match="cannot be read"):
        ReportFolder(site)


def test_one_run_alone(tmp_path: Path) -> None:
    maker, _ = example_store(tmp_path / "home")
    maker.invocation([maker.cell("tesnet", {"accuracy": 70.0}, metrics={"accuracy": METRICS["accuracy"]})],
                     "20260305-000000-000", "other")  # fmt: skip
    write_site(maker.store, tmp_path / "all")
    write_site(maker.store, tmp_path / "one", suite="other")
    assert {"methods/ours.html", "methods/tesnet.html"} <= set(read_site(tmp_path / "all"))
    assert [name for name in read_site(tmp_path / "one") if name.startswith("methods/")] == ["methods/tesnet.html"]
    with pytest.raises(RequestError, match="suite 'third' has not been run yet"):
        write_site(maker.store, tmp_path / "none", suite="third")
    assert not (tmp_path / "none").exists()


class Drawn:
    """A picture that needs no matplotlib."""

    title, caption, alt, guide = "a <title>", "a caption", 'an "alt"', "how to read it"
    name = "picture"

    def save(self, folder: Path, formats: tuple[str, ...]) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.{formats[0]}").write_bytes(b"picture")
        return [folder / f"{self.name}.{one}" for one in formats]

    def darkened(self) -> "Drawn":
        other = Drawn()
        other.name = "picture-dark"
        return other


def test_galleries_stand_on_the_pages_of_their_methods(tmp_path: Path) -> None:
    maker, cells = example_store(tmp_path / "home")
    asked: list[str] = []

    def draw(cell: str):
        asked.append(cell)
        yield Drawn()
        if cell == cells["protopnet-0"]:
            raise RequestError("the images are gone")

    write_site(maker.store, tmp_path / "site", draw=draw)
    assert set(asked) <= set(cells.values())
    assert len(asked) == 3  # ours, protopnet, blackbox; controls have no prototypes to look at
    pages = read_site(tmp_path / "site")
    (image,) = pages["methods/protopnet.html"].all("img")
    assert image["alt"] == 'an "alt"'
    (dark,) = pages["methods/protopnet.html"].all("source")
    assert dark["media"] == "(prefers-color-scheme: dark)"
    assert dark["srcset"].endswith("/picture-dark.webp")
    assert "Not drawn: cell" in pages["methods/protopnet.html"].said
    assert "the images are gone" in pages["methods/protopnet.html"].said
    assert "No prototypes are drawn here" not in pages["methods/ours.html"].said
    assert broken_links(tmp_path / "site") == []


def test_galleries_are_of_cells_that_say_most(tmp_path: Path) -> None:
    """A later cell with the same fit and fewer metrics has no verdicts on prototypes to draw."""
    maker, cells = example_store(tmp_path / "home")
    few = {"accuracy": METRICS["accuracy"]}
    later = maker.cell("protopnet", {"accuracy": 85.0}, metrics=few, settings={"schedule": SCHEDULE})
    maker.invocation([later], "20260305-000000-000", "later")
    asked: list[str] = []

    def draw(cell: str):
        asked.append(cell)
        yield Drawn()

    write_site(maker.store, tmp_path / "site", draw=draw)
    assert cells["protopnet-0"] in asked
    assert later not in asked


def test_the_command_writes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker, _ = example_store(tmp_path / "home")
    monkeypatch.setenv("BENCH_HOME", str(maker.store.root))

    def call(*arguments: str):
        return CliRunner().invoke(main, ["report", *arguments])

    done = call("--format", "html")
    assert done.exit_code == 0, done.output
    assert (maker.store.root / "report" / "index.html").is_file()
    assert "report/index.html" in done.stdout.replace("\n", "")
    done = call("--format", "html", "-o", str(tmp_path / "site"), "--tests", "0", "--intervals")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "site" / "index.html").is_file()
    for wrong in (
        ["-o", "x"],
        ["--format", "html", "--table", "2", "--galleries"],
        ["--format", "html", "--device", "cpu"],
    ):
        done = call(*wrong)
        assert done.exit_code == 2, done.output
        assert "error:" in done.stderr
    assert call("--format", "html", "--table", "2").stdout.startswith("<!DOCTYPE html>")


def test_curves_have_a_panel_for_each_quantity() -> None:
    history = [epoch(0, "warm", 0.9), epoch(1, "joint", 0.5), {**epoch(2, "joint", 0.25), "late": -3.0, "done": True}]
    found = {panel.title: panel for panel in panels(history)}
    assert list(found) == ["loss", "train accuracy", "late"]
    places = [tuple(map(float, pair.split(","))) for pair in found["loss"].points[0].split()]
    # On the page down is up: the values 0.9, 0.5 and 0.25 above 0.
    heights = [(places[0][1] - y) / (0.9 - value) for (_, y), value in zip(places[1:], (0.5, 0.25), strict=True)]
    assert heights[0] == pytest.approx(heights[1], rel=0.01)
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0])
    assert [phase.name for phase in found["loss"].phases] == ["warm", "joint"]
    assert (found["late"].points, len(found["late"].dots)) == ((), 1)
    assert found["late"].alt == "late over 3 epochs: -3"
    assert panels([]) == []


def test_cautions_are_quiet_about_good_conditions(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path)
    cells = [
        maker.cell("ours", {"accuracy": 80.0 + seed}, seed=seed, dataset="cub", images=(5994, 5794), recipe="published",
                   metrics={"accuracy": METRICS["accuracy"]})
        for seed in range(3)
    ]  # fmt: skip
    maker.invocation(cells)
    every = ResultSet.of(maker.store)
    assert cautions(results(every), every.cells) == []


def test_names_of_files() -> None:
    for module in (bench.report.html.output_dir, bench.report.html.sparklines, bench.report.html.words):
        assert doctest.testmod(module).failed == 0
    names = ["ours", "Ours", "ours (k=5)", "ours  (k=5)", "..", "", "a" * 200, "a" * 201, "con/aux"]
    assert len({file_name(name) for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z0-9_-]{1,80}", file_name(name))


def test_pages_parse_as_what_they_are() -> None:
    assert Page("<p>a<br>b</p>").said == "a b"
    with pytest.raises(AssertionError):
        Page("<p><b>x</p></b>")
