"""Cells that ran on other machines: on a shared home under another path, or in a home of their own, gathered."""

import json
import shutil
from threading import Thread
from time import sleep

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from bench.cli.main import main
from bench.results.merge import gather
from bench.results.store import Store, WorkDir, write_json
from tests.support.documented import RESULTS, ROOT
from tests.support.samples import Silent
from tests.support.small_birds import QUICK, few_birds, stored


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("gather"))


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def run(home, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BENCH_HOME", str(home))
            return CliRunner().invoke(main, list(arguments))

    return run


def request(data, seeds):
    return [
        "run",
        "--methods",
        "ours",
        "--no-controls",
        "--no-tracking",
        *QUICK,
        "--seeds",
        seeds,
        "--data-root",
        str(data),
    ]


def test_two_machines_each_with_a_home_of_its_own(call, data, tmp_path):
    here, there, together = tmp_path / "here", tmp_path / "there", tmp_path / "together"
    assert call(together, *request(data, "0,1")).exit_code == 0
    assert call(here, *request(data, "0")).exit_code == 0
    assert call(there, *request(data, "1")).exit_code == 0
    shutil.copytree(there, tmp_path / "copy")
    (name,) = Store(there).cells()
    (here / "cells" / name).mkdir()
    (here / "cells" / name / "cell.json").write_text("")  # what a power cut may leave
    result = call(here, "gather", str(tmp_path / "copy"))
    assert result.exit_code == 0, result.output
    assert "1 cells and 1 black boxes taken over, 0 cells here already, 0 not finished there" in result.output
    assert Store(here).specification(name) == Store(there).specification(name)
    again = call(here, "gather", str(tmp_path / "copy"))
    assert "0 cells and 0 black boxes taken over, 1 cells here already" in again.output
    whole = call(here, *request(data, "0,1"))
    assert "2 of 2 cells done (2 before), 0 failed" in whole.output
    assert stored(here) == stored(together)
    published_results_count_as_done(call, here, request(data, "0,1"), tmp_path)


def published_results_count_as_done(call, here, arguments, tmp_path):
    """What was exported has no fits: it is taken over all the same, and commands that need one say so."""
    published, fresh = tmp_path / "published", tmp_path / "fresh"
    assert "2 cells, 0 not finished" in call(here, "export", str(published)).output
    result = call(fresh, "gather", str(published))
    assert "2 cells and 0 black boxes taken over" in result.output, result.output
    again = call(fresh, *arguments)
    assert "2 of 2 cells done (2 before), 0 failed" in again.output
    assert call(fresh, "results").output == call(here, "results").output
    drawn = call(fresh, "figure", "gallery")
    assert drawn.exit_code == 2
    assert "is here without its fit" in drawn.stderr


def test_what_is_incomplete_or_of_another_id_is_not_taken(call, data, tmp_path):
    there = tmp_path / "there"
    assert call(there, *request(data, "0,1,2")).exit_code == 0
    short, strange, open_ = sorted((there / "cells").iterdir())
    weights = short / "result" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    written = json.loads((strange / "cell.json").read_text())
    written["spec"]["seed"] = 7
    (strange / "cell.json").write_text(json.dumps(written))
    (open_ / "result").rename(open_ / "work")
    result = call(tmp_path / "here", "gather", str(there))
    assert (
        "0 cells and 3 black boxes taken over, 0 cells here already, 1 not finished there, 2 damaged" in result.output
    )
    assert "copy it again" in result.output
    assert not list((tmp_path / "here").glob("cells/*/result"))


@pytest.fixture
def black_boxes(tmp_path):
    """A home with two finished black boxes, as they lie on disk, and no cells."""
    (tmp_path / "there" / "cells").mkdir(parents=True)
    for name in ("one", "two"):
        folder = WorkDir(tmp_path / "there" / "blackboxes" / name)
        folder.work.mkdir(parents=True)
        save_file({"weight": torch.ones(1000)}, folder.work / "model.safetensors")
        write_json(folder.work / "history.json", [])
        folder.finish()
    return tmp_path / "there"


@pytest.mark.parametrize("file", ["model.safetensors", "history.json"])
def test_a_black_box_that_was_copied_in_part_is_not_taken(black_boxes, tmp_path, file):
    damaged = black_boxes / "blackboxes" / "one" / "result" / file
    damaged.write_bytes(damaged.read_bytes()[:-2])
    progress, here = Silent(), tmp_path / "here"
    counts = gather(black_boxes, Store(here), here, progress)
    assert (counts.black_boxes, counts.damaged) == (1, 1)
    assert f"{damaged} was changed after it was written; copy it again" in progress.notes[0]
    assert "copy it again" in progress.notes[0]
    assert not (here / "blackboxes" / "one").exists()
    assert (here / "blackboxes" / "two" / "result" / file).is_file()


def test_gather_waits_for_another_process_and_says_so(black_boxes, tmp_path):
    here = tmp_path / "here"
    progress, own = Silent(), WorkDir(here / "blackboxes" / "one")
    with own.claim():
        waiting = Thread(target=gather, args=(black_boxes, Store(here), here, progress))
        waiting.start()
        while not progress.notes and waiting.is_alive():
            sleep(0.01)
        assert progress.notes == [f"another process works on {own.path}: waiting for it"]
        assert not own.done
    waiting.join()
    assert own.done


def test_gathering_from_nowhere_is_a_mistake(call, tmp_path):
    result = call(tmp_path / "here", "gather", str(tmp_path))
    assert result.exit_code == 2
    assert "is no home of results" in result.output


def test_a_shared_home_under_another_path_and_data_elsewhere(call, data, tmp_path):
    home, mounted = tmp_path / "home", tmp_path / "mounted"
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    assert call(home, *request(copy, "0")).exit_code == 0
    before = stored(home)
    (folder,) = (home / "cells").iterdir()
    shutil.rmtree(folder / "result")
    # The other machine: the home is mounted elsewhere, and the data lies elsewhere.
    home.rename(mounted)
    copy.rename(tmp_path / "elsewhere")
    shutil.rmtree(mounted / "prepared")
    lost = call(mounted, "cell", str(mounted / "cells" / folder.name))
    assert lost.exit_code in (1, 2)
    assert "data" in lost.output
    found = call(mounted, "cell", str(mounted / "cells" / folder.name), "--data-root", str(tmp_path / "elsewhere"))
    assert found.exit_code == 0, found.output
    assert stored(mounted) == before
    wrong = call(mounted, "cell", str(mounted / "cells" / folder.name), "--weights", "resnet34=x.pth")
    assert wrong.exit_code == 2
    assert "this cell has the backbone tiny" in wrong.output


@pytest.mark.parametrize("file", ["result/items/accuracy.image.csv", "result/history.json", "result/result.json"])
def test_an_altered_cell_is_not_taken(tmp_path, file):
    published = tmp_path / "published" / "study_cars"
    shutil.copytree(ROOT / RESULTS / published.name, published)
    gather(published.parent, Store(tmp_path / "there"), tmp_path / "there", Silent())
    there = next(path for path in (tmp_path / "there" / "cells").iterdir() if (path / file).is_file())
    for other in set(there.parent.iterdir()) - {there}:
        shutil.rmtree(other)
    for home, altered in (("one", False), ("two", True)):
        if altered:
            (there / file).write_bytes((there / file).read_bytes() + b"\n")
        progress = Silent()
        counts = gather(tmp_path / "there", Store(tmp_path / home), tmp_path / home, progress)
        assert (counts.taken, counts.damaged) == (1 - altered, altered)
        assert all(f"{there / file} was changed after it was written; copy it again" in note for note in progress.notes)
        assert len(progress.notes) == altered
