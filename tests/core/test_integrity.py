"""What was altered on disk since it was written is not taken for what was computed."""

import pytest
import torch
from safetensors.torch import save_file

from bench.core.files import write_json
from bench.core.integrity import Changed, read_verified, verify_file, verify_folder
from bench.core.work_dir import FIT, WorkDir
from bench.runner.fit_cache import copy_fit, read_fit
from tests.support.samples import Silent


@pytest.fixture
def fit(tmp_path):
    """A finished folder with a fit in it."""
    folder = WorkDir(tmp_path / "cell")
    folder.work.mkdir(parents=True)
    save_file({"weight": torch.ones(3)}, folder.work / "model.safetensors")
    write_json(folder.work / "history.json", [])
    write_json(folder.work / FIT, {"facts": {}, "seconds": {"fit": 1.0}})
    (folder.work / "items").mkdir()
    (folder.work / "items" / "accuracy.image.csv").write_text("index,correct\n0,1\n")
    (folder.work / "log.txt").write_text("begun\n")
    folder.finish()
    return folder.result


FILES = ["model.safetensors", "history.json", FIT, "items/accuracy.image.csv"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_checked_by_its_bytes(fit, name):
    content = (fit / name).read_bytes()
    assert read_verified(fit, name) == content
    verify_folder(fit)
    (fit / name).write_bytes(content[:-1] + b"x")  # of the same size
    for ask in (lambda: read_verified(fit, name), lambda: verify_file(fit, name), lambda: verify_folder(fit)):
        with pytest.raises(Changed, match=f"{name} was changed after it was written"):
            ask()


def test_a_file_that_was_not_there_is_not_taken(fit):
    (fit / "items" / "stability.image.csv").write_text("index\n0\n")
    with pytest.raises(Changed):
        read_verified(fit, "items/stability.image.csv")
    (fit / FILES[0]).unlink()
    with pytest.raises(Changed, match=f"{FILES[0]} cannot be read"):
        verify_folder(fit)


def test_a_log_goes_on_after_the_end(fit):
    with (fit / "log.txt").open("a") as log:
        log.write("ended\n")
    verify_folder(fit)


def test_folders_of_earlier_versions_are_not_checked(fit):
    (fit / "digests.json").unlink()
    (fit / "history.json").write_text("[1]")
    verify_folder(fit)
    assert read_verified(fit, "history.json") == b"[1]"


@pytest.mark.parametrize("name", FILES[:3])
def test_an_altered_fit_is_neither_read_nor_copied(fit, tmp_path, name):
    progress = Silent()
    assert read_fit(fit, progress) is not None
    if name.endswith("safetensors"):
        save_file({"weight": torch.zeros(3)}, fit / name)  # whole, and another one
    else:
        write_json(fit / name, [] if name != "history.json" else [{"epoch": 0}])
    assert read_fit(fit, progress) is None
    assert not copy_fit(fit, tmp_path / "other" / "work", progress, {})
    assert f"{name} was changed after it was written" in progress.notes[0]
    assert not (tmp_path / "other").exists()


def test_a_copied_fit_is_sealed_where_it_goes(fit, tmp_path):
    work = tmp_path / "other" / "work"
    assert copy_fit(fit, work, Silent(), {"of": "cell"})
    verify_folder(work)
    write_json(work / FIT, {"facts": {}, "seconds": {"fit": 2.0}})
    assert read_fit(work, Silent()) is None
