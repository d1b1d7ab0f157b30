from pathlib import Path

import pytest

from bench.contract import RequestError
from bench.data.locate import locate


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("BENCH_DATA", raising=False)


def tree(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "images.txt").write_text("")
    return folder


@pytest.mark.parametrize("markers", [["images.txt"], []])
def test_the_folder_that_holds_it_or_itself(tmp_path, markers):
    found = tree(tmp_path / "data/CUB_200_2011")
    assert locate("CUB_200_2011", tmp_path / "data", tmp_path, markers) == found
    assert locate("CUB_200_2011", found, tmp_path, markers) == found


def test_the_tree_itself_under_another_name_needs_the_marker(tmp_path):
    found = tree(tmp_path / "birds")
    assert locate("CUB_200_2011", found, tmp_path, ["images.txt"]) == found
    with pytest.raises(RequestError):
        locate("CUB_200_2011", found, tmp_path)


def test_order_of_places_and_no_fall_through(tmp_path, monkeypatch):
    home, passed, set_ = (tmp_path / name for name in ("home", "passed", "set"))
    trees = [tree(base / "CUB") for base in (passed, set_, home / "data")]
    assert locate("CUB", None, home, ["images.txt"]) == trees[2]
    monkeypatch.setenv("BENCH_DATA", str(set_))
    assert locate("CUB", None, home, ["images.txt"]) == trees[1]
    assert locate("CUB", passed, home, ["images.txt"]) == trees[0]
    (trees[0] / "images.txt").unlink()
    with pytest.raises(RequestError, match="--data-root"):
        locate("CUB", passed, home, ["images.txt"])


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = tree(tmp_path / "data/CUB")
    assert locate("CUB", Path("~/data"), tmp_path / "elsewhere", ["images.txt"]) == found
    monkeypatch.setenv("BENCH_DATA", "~/data")
    assert locate("CUB", None, tmp_path / "elsewhere", ["images.txt"]) == found


@pytest.mark.parametrize("source", ["passed", "set", "default"])
def test_the_error_tells_where_and_what_to_pass(tmp_path, monkeypatch, source):
    base = tmp_path / "data"
    base.mkdir()
    if source == "set":
        monkeypatch.setenv("BENCH_DATA", str(base))
    passed = base if source == "passed" else None
    with pytest.raises(RequestError) as caught:
        locate("CUB_200_2011", passed, tmp_path, ["images.txt"])
    name = {"passed": "--data-root", "set": "$BENCH_DATA", "default": "the default"}[source]
    assert f"CUB_200_2011 not found: {base} ({name}) has no CUB_200_2011/images.txt; " in str(caught.value)
    assert "pass --data-root DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
    base.rmdir()
    with pytest.raises(RequestError, match="is not a folder; pass --data-root"):
        locate("CUB_200_2011", passed, tmp_path, ["images.txt"])
