import shlex
from pathlib import Path

import pytest

from bench.config.schema import parse_overrides
from bench.contract import RequestError
from bench.data.locate import advice, locate, nearby


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


def test_a_tree_one_level_down_is_named_with_what_to_write(tmp_path):
    tree(tmp_path / "cub50")
    (tmp_path / "other").mkdir()
    for hidden in (".cub", "demo-2"):  # the demo birds have this layout too, and are not meant
        tree(tmp_path / hidden)
    with pytest.raises(RequestError) as caught:
        locate("CUB_200_2011", tmp_path, tmp_path, ["images.txt"], "cub")
    assert str(caught.value) == (
        f"CUB_200_2011 not found: {tmp_path} (--data-root) has no CUB_200_2011/images.txt; "
        "cub50 in that folder has this layout: add --set cub.folder=cub50"
    )
    tree(tmp_path / "cub3")
    with pytest.raises(RequestError, match=r"cub3 and cub50 in that folder have this layout: add --set cub\.folder"):
        locate("CUB_200_2011", tmp_path, tmp_path, ["images.txt"], "cub")


def test_what_every_folder_has_names_none(tmp_path):
    (tmp_path / "pictures").mkdir()
    assert nearby(tmp_path, ["."]) == []
    assert nearby(tmp_path, []) == []
    assert nearby(tmp_path / "nowhere", ["images.txt"]) == []


@pytest.mark.parametrize("name", ["cub50", "2011", "a,b", "my birds", "it's: so", "yes", "[x]"])
def test_what_to_write_is_read_as_the_folder(name):
    (pair,) = shlex.split(advice("cub", [name]).rpartition("--set ")[2])
    assert parse_overrides((pair,)) == ({"cub.folder": name}, {})


def test_many_trees_are_counted():
    assert advice("cub", ["a", "b", "c", "d", "e"]) == (
        "a, b, c and 2 more in that folder have this layout: add --set cub.folder=a or --set cub.folder=b "
        "or --set cub.folder=c"
    )
