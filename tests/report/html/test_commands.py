"""The commands in a report for what it left out: they work as printed, and print just that."""

import doctest
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import bench.report.html.commands
from bench.cli.main import main
from bench.report.html.verdicts import verdicts
from bench.report.results import results
from bench.results.select import candidates
from tests.support.site_pages import read_site
from tests.support.stores import StoreMaker

METRICS = {name: {"version": "1", "parameters": {}} for name in ("accuracy", "stability")}
METHODS = ("ours", "protopnet", "tesnet", "deformable")
STAMPS = [f"2026030{day}-000000-000" for day in range(1, 10)]


def cell(maker: StoreMaker, method: str, number: int, **more: object) -> str:
    """A cell with accuracy on 40 images and the stability of a prototype in each of 20 classes."""
    generator = np.random.default_rng(number)
    hits, rates = generator.integers(0, 2, 40), generator.random(20)
    items = {
        "accuracy.image": {"index": range(40), "correct": hits.tolist()},
        "stability.prototype": {"prototype": range(20), "class": range(20), "stable": rates.tolist()},
    }
    if method == "ours":
        more = {"settings": {"k": 3}, **more}
    scores = {"accuracy": 100 * float(hits.mean()), "stability": 100 * float(rates.mean())}
    if more.get("role") == "control":
        items.pop("accuracy.image")
        scores.pop("accuracy")
        more = {**more, "backbone": None, "not_applicable": {"accuracy": "it predicts no class"}}
    return maker.cell(method, scores, metrics=METRICS, items=items, **more)  # type: ignore[arg-type]


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreMaker:
    """A home beside the working directory's other things, as a user would name it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "elsewhere"))
    return StoreMaker(Path("my home"))


def left_out(maker: StoreMaker, most: int) -> list[tuple[str, str, str, str]]:
    """Data set, methods and metric of each comparison that a report leaves out."""
    found = verdicts(maker.store, results(maker.store, candidates(maker.store)), most)
    return sorted(
        (one.first.spec["dataset"], *sorted((one.first.label, one.second.label)), one.metric)
        for place in found for own in place.left.values() for one in own
    )  # fmt: skip


def printed(*arguments: str, most: int) -> list[list[str]]:
    """The words of the commands on the front page of a report."""
    told = ["report", "--format", "html", "--out", "my home", "-o", "site", "--tests", str(most), *arguments]
    done = CliRunner().invoke(main, told)
    assert done.exit_code == 0, done.output
    text = read_site(Path("site"))["index.html"].text
    blocks = re.findall(r"(?s)each call alone:</p>\s*<pre tabindex=\"0\"><code>(.*?)</code>", text)
    lines = [line for block in blocks for line in block.replace("&#39;", "'").splitlines()]
    assert all(line.startswith("python -m bench compare ") for line in lines)
    return [shlex.split(line)[3:] for line in lines]


def compared(commands: list[list[str]]) -> list[tuple[str, str, str, str]]:
    """What the commands print, as :func:`left_out` has it, whatever ids labels have behind them."""
    found = set()
    for words in commands:
        done = CliRunner().invoke(main, [*words, "--format", "json"])
        assert done.exit_code == 0, done.output
        for one in json.loads(done.stdout)["comparisons"]:
            assert one["p"] is not None, one
            labels = sorted(name.split("#")[0] for name in one["methods"])
            found.add((one["dataset"], *labels, one["metric"]))
    return sorted(found)


def test_commands_print_what_was_left_out_and_nothing_else(maker: StoreMaker) -> None:
    cells = [cell(maker, name, number) for number, name in enumerate(METHODS)]
    cells += [cell(maker, "blackbox", 5, role="reference"), cell(maker, "constant", 6, role="control")]
    maker.invocation(cells, STAMPS[0])
    for most in (0, 3, 6, 10, 13, 19):
        left, commands = left_out(maker, most), printed(most=most)
        assert left
        assert compared(commands) == left
        assert all(words[-2:] == ["--out", "my home"] for words in commands)
        assert all(words[-4:-2] == ["--run", STAMPS[0]] for words in commands)
    # Every two of three methods, in one call.
    assert printed(most=17) == [
        ["compare", "protopnet", "tesnet", "deformable", "--metrics", "stability", "--run", STAMPS[0],
         "--out", "my home"],
    ]  # fmt: skip


def test_labels_that_stand_for_more_get_the_id_of_a_cell(maker: StoreMaker) -> None:
    cells = [cell(maker, name, number, dataset=data, digest=data * 4)
             for data in ("demo", "cars") for number, name in enumerate(METHODS)]  # fmt: skip
    other = cell(maker, "ours", 9, dataset="cars", digest="cars" * 4, settings={"k": 9}, changed=["k"])
    maker.invocation([*cells, other], STAMPS[0])
    commands = printed(most=14)
    assert compared(commands) == left_out(maker, 14)
    assert all("#" in word for words in commands for word in words[1 : words.index("--metrics")])


def test_of_several_runs_the_one_with_most_seeds(maker: StoreMaker) -> None:
    first = [cell(maker, name, number, seed=number // 2) for number, name in enumerate(("ours", "tesnet") * 2)]
    first += [cell(maker, "ours", 7, label="ours (k=5)", settings={"k": 5}, changed=["k"])]
    maker.invocation(first, STAMPS[0], "birds")
    maker.invocation(first[:2], STAMPS[1], "few")
    maker.invocation(first[:1], STAMPS[2], "one")
    commands = printed(most=0)
    assert [words[-3] for words in commands] == [STAMPS[0]]
    assert compared(commands) == left_out(maker, 0)


def test_where_no_run_has_both_all_cells_are_looked_at(maker: StoreMaker) -> None:
    maker.invocation([cell(maker, "ours", 1)], STAMPS[0])
    maker.invocation([cell(maker, "tesnet", 2)], STAMPS[1])
    assert printed(most=0) == [["compare", "ours", "tesnet", "--metrics", "accuracy,stability", "--out", "my home"]]
    assert compared(printed(most=0)) == left_out(maker, 0)
    # Another run has both names, for something else.
    others = [cell(maker, name, 3, settings={"k": 9}, changed=["k"]) for name in ("ours", "tesnet")]
    maker.invocation(others, STAMPS[2])
    commands = printed(most=0)
    assert compared(commands) == left_out(maker, 0)
    assert all("--run" in words or "#" in words[1] for words in commands)


def test_report_of_one_run_stays_with_it_and_names_plugins(maker: StoreMaker) -> None:
    cells = [cell(maker, name, number) for number, name in enumerate(METHODS[:2])]
    maker.invocation(cells, STAMPS[0], "birds")
    maker.invocation(cells, STAMPS[1], "more")
    Path("mine.py").write_text("")
    (words,) = printed("--suite", "birds", "--plugin", "mine.py", most=0)
    assert words[-6:] == ["--run", STAMPS[0], "--out", "my home", "--plugin", "mine.py"]
    assert compared([words]) == left_out(maker, 0)


def test_examples() -> None:
    assert doctest.testmod(bench.report.html.commands).failed == 0
