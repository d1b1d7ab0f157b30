import json
import os
from pathlib import Path

import pytest

import bench.core.content_digest as module
from bench.contract import RequestError
from bench.core.content_digest import content_digest

LONG_AGO = 10**18


def write(root, **texts):
    """Files ``name.txt``, last changed long ago."""
    files = []
    for name, text in texts.items():
        file = root / "sub" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
        files.append(file)
    return files


@pytest.fixture
def settled(monkeypatch):
    """All files count as changed long ago: the time of an inode's change cannot be set."""
    monkeypatch.setattr(module, "_TICK", -(10**10))


def test_depends_on_names_and_contents_only(tmp_path):
    a = write(tmp_path / "a", one="1", two="2")
    b = write(tmp_path / "b", two="2", one="1")
    os.utime(b[0], ns=(0, 0))
    first = content_digest(tmp_path / "a", a, None)
    assert len(first) == 16
    assert int(first, 16)
    assert content_digest(tmp_path / "b", b, None) == first
    assert content_digest(tmp_path / "a", a[::-1] + a[:1], None) == first
    others = [
        content_digest(tmp_path / "c", write(tmp_path / "c", one="1", two="3"), None),
        content_digest(tmp_path / "d", write(tmp_path / "d", one="1", too="2"), None),
        content_digest(tmp_path / "e", write(tmp_path / "e", one="2", two="1"), None),
        content_digest(tmp_path / "a", a[:1], None),
        content_digest(tmp_path / "a/sub", a, None),
    ]
    assert len({first, *others}) == 6


def test_files_beside_the_root(tmp_path):
    first = content_digest(
        tmp_path / "x/tree", write(tmp_path / "x/tree", one="1") + write(tmp_path / "x/masks", m="m"), None
    )
    second = content_digest(
        tmp_path / "y/tree", write(tmp_path / "y/tree", one="1") + write(tmp_path / "y/masks", m="m"), None
    )
    assert first == second


def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch, settled):
    files, cache = write(tmp_path, one="1", two="2"), tmp_path / "cache/tree.json"
    first = content_digest(tmp_path, files, cache)
    assert [path.name for path in cache.parent.iterdir()] == ["tree.json"]
    write(tmp_path, one="7")
    read = []
    monkeypatch.setattr(module, "sha256_of", lambda path: read.append(path.name) or "0" * 64)
    assert content_digest(tmp_path, files, cache) != first
    assert read == ["one.txt"]
    content_digest(tmp_path, files, cache)
    assert read == ["one.txt"]


@pytest.mark.parametrize("replaced", [False, True], ids=["written", "replaced"])
def test_equal_size_and_time_hide_no_change(tmp_path, settled, replaced):
    files, cache = write(tmp_path, one="1", two="2"), tmp_path / "cache.json"
    first, before = content_digest(tmp_path, files, cache), files[0].stat()
    if replaced:  # as cp -p and rsync -t leave it
        (tmp_path / "new").write_text("7")
        (tmp_path / "new").replace(files[0])
    else:
        files[0].write_text("7")
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content_digest(tmp_path, files, cache) == content_digest(tmp_path, files, None) != first


def test_cache_of_an_earlier_version_is_replaced(tmp_path, settled):
    files, cache = write(tmp_path, one="1"), tmp_path / "cache.json"
    cache.write_text(json.dumps({"sub/one.txt": [1, LONG_AGO, "0" * 64]}))
    assert content_digest(tmp_path, files, cache) == content_digest(tmp_path, files, None)
    assert len(json.loads(cache.read_text())["sub/one.txt"]) == 5


def test_a_file_changed_in_time_or_size_is_read_again(tmp_path, settled):
    files, cache = write(tmp_path, one="1", two="2"), tmp_path / "cache.json"
    first = content_digest(tmp_path, files, cache)
    write(tmp_path, one="7")
    os.utime(files[0], ns=(LONG_AGO, LONG_AGO + 1))
    second = content_digest(tmp_path, files, cache)
    assert second == content_digest(tmp_path, files, None) != first
    write(tmp_path, one="77")
    third = content_digest(tmp_path, files, cache)
    assert third == content_digest(tmp_path, files, None)
    assert third not in (first, second)


def test_a_file_changed_just_now_is_not_remembered(tmp_path):
    files, cache = write(tmp_path, one="1", two="2"), tmp_path / "cache.json"
    content_digest(tmp_path, files, cache)
    assert json.loads(cache.read_text()) == {}


def test_removed_files_leave_the_cache(tmp_path, settled):
    files, cache = write(tmp_path, one="1", two="2"), tmp_path / "cache.json"
    content_digest(tmp_path, files, cache)
    content_digest(tmp_path, files[:1], cache)
    assert list(json.loads(cache.read_text())) == ["sub/one.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sub/one.txt": 3}', '{"sub/one.txt": ["a", 1, ""]}', "null"])
def test_a_damaged_cache_is_replaced(tmp_path, text, settled):
    files, cache = write(tmp_path, one="1"), tmp_path / "cache.json"
    cache.write_text(text)
    assert content_digest(tmp_path, files, cache) == content_digest(tmp_path, files, None)
    assert json.loads(cache.read_text())["sub/one.txt"][0] == 1


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path):
    files = write(tmp_path, one="1")
    (tmp_path / "file").write_text("")
    assert content_digest(tmp_path, files, tmp_path / "file/cache.json") == content_digest(tmp_path, files, None)


def test_what_cannot_be_read_is_named(tmp_path):
    files = write(tmp_path, one="1")
    with pytest.raises(RequestError, match=r"absent\.txt: cannot be read"):
        content_digest(tmp_path, [*files, Path(tmp_path / "absent.txt")], None)
    with pytest.raises(RequestError, match="sub: cannot be read"):
        content_digest(tmp_path, [*files, tmp_path / "sub"], None)
