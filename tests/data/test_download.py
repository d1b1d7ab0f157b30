"""Downloads from a server on this machine that misbehaves as told, and archives that must not be unpacked."""

import errno
import hashlib
import io
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.contract import RequestError
from bench.data import download as module
from bench.data.download import Archive, FetchError, Source, download, fetch, unpack
from tests.support.cub_trees import Quiet


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.cut`` bytes per answer are the most that it sends."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        body = server.files.get(self.path)
        if body is None:
            self.send_error(404, "Not Found")
            return
        start = 0
        if self.headers.get("Range") and server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", server.length or str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : start + server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.files, found.asked, found.ranges, found.cut = {}, [], True, 10**9
        found.redirects, found.length = {}, ""
        found.url = f"http://127.0.0.1:{found.server_port}"
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()


BODY = bytes(range(256)) * 5000
MD5 = hashlib.md5(BODY).hexdigest()


def packed(*entries, kind="gz"):
    """A tar file: names with their content, ``None`` for a folder, or whole entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            name, content = entry
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_whole_file(server, tmp_path):
    server.files["/a.tgz"] = BODY
    download(f"{server.url}/a.tgz", MD5, tmp_path / "a.tgz", Quiet())
    assert (tmp_path / "a.tgz").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]
    download(f"{server.url}/a.tgz", MD5, tmp_path / "a.tgz", Quiet())
    assert server.asked == [None]  # what is whole is not asked for again


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_goes_on(server, tmp_path, ranges):
    server.files["/a"], server.ranges = BODY, ranges
    server.cut = 300_000 if ranges else len(BODY) - 1
    progress = Quiet()
    if ranges:
        download(f"{server.url}/a", MD5, tmp_path / "a", progress)
        assert (tmp_path / "a").read_bytes() == BODY
        assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-", "bytes=1200000-"]
        assert progress.notes == ["a: connection cut, going on"] * 4
    else:  # a server that always begins anew gets no further: it is given up, not repeated for ever
        with pytest.raises(FetchError, match=r"the connection fails .* call `fetch` again to go on"):
            download(f"{server.url}/a", MD5, tmp_path / "a", progress)
        assert len(server.asked) == module.ATTEMPTS + 1


def test_a_killed_download_goes_on_at_the_next_call(server, tmp_path):
    server.files["/a"] = BODY
    (tmp_path / "a.part").write_bytes(BODY[:1000])
    download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    assert server.asked == ["bytes=1000-"]
    assert (tmp_path / "a").read_bytes() == BODY


def test_killed_after_the_last_byte(server, tmp_path):
    server.files["/a"] = BODY
    (tmp_path / "a.part").write_bytes(BODY)
    download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("start", [0, 1000])
def test_wrong_content_is_deleted(server, tmp_path, start):
    server.files["/a"] = BODY[:-1] + b"x"
    if start:
        (tmp_path / "a.part").write_bytes(b"y" * start)
    with pytest.raises(FetchError, match=rf"wrong content \(md5 [0-9a-f]+, expected {MD5}\); it was deleted"):
        download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    assert not list(tmp_path.iterdir())


ELSEWHERE = {
    "file": "file:///etc/hosts",
    "ftp": "ftp://127.0.0.1:9/a",
    "data": "data:,content",
    "no address": "http://[::1",
    "no host": f"http://{'a' * 70}.example/",
    "itself": "/a",
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_redirects_to_other_than_http_are_refused(server, tmp_path, where):
    server.redirects["/a"] = ELSEWHERE[where]
    with pytest.raises(FetchError, match="download it by hand") as caught:
        download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_redirects_to_http_are_followed(server, tmp_path):
    server.redirects["/a"], server.files["/b"] = "/b", BODY
    download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "\u00b2"])
def test_a_length_that_is_no_number_says_nothing(server, tmp_path, length):
    server.files["/a"], server.length = BODY, length
    download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    assert (tmp_path / "a").read_bytes() == BODY


def test_wrong_lengths(server, tmp_path):
    server.files["/a"], server.length = BODY, str(len(BODY) - 9)
    with pytest.raises(FetchError, match="wrong content"):
        download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    server.length, server.ranges = str(len(BODY) + 9), False
    with pytest.raises(FetchError, match="the connection fails"):
        download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())


def test_special_bits_of_an_archive_are_not_set(tmp_path):
    special = tarfile.TarInfo("birds/tool")
    special.mode = 0o7777
    (tmp_path / "a.tar").write_bytes(packed(("birds/a", b"x"), special))
    unpack(tmp_path / "a.tar", tmp_path / "to", ("birds",), Quiet())
    assert (tmp_path / "to/birds/tool").stat().st_mode & 0o7022 == 0


def test_servers_that_do_not_answer(server, tmp_path):
    with pytest.raises(FetchError, match="the server answers 404 Not Found; download it by hand"):
        download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    server.server_close()
    server.shutdown()
    with pytest.raises(FetchError, match=r"the connection fails"):
        download(f"{server.url}/a", MD5, tmp_path / "a", Quiet())
    with pytest.raises(FetchError, match="only http and https"):
        download((tmp_path / "x").as_uri(), MD5, tmp_path / "a", Quiet())


TREE = (("./", None), ("./birds", None), ("./birds/a.txt", b"one"), ("birds/sub/b.txt", b"two"), ("other.txt", b"-"))


def source(server, content, **facts):
    archive = {
        "url": f"{server.url}/x/a.tgz?download=1",
        "md5": hashlib.md5(content).hexdigest(),
        "members": ("birds",),
    }
    server.files["/x/a.tgz?download=1"] = content
    return Source(archives=(Archive(**{**archive, **facts}),))


def test_only_the_members_are_unpacked(server, tmp_path):
    found = fetch(source(server, packed(*TREE), into="set"), tmp_path, Quiet())
    assert found == [tmp_path / "set/birds"]
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"set/birds/a.txt", "set/birds/sub/b.txt"}  # neither the archive nor anything temporary
    progress = Quiet()
    fetch(source(server, packed(*TREE), into="set"), tmp_path, progress)
    assert progress.notes == ["birds: there already"]
    assert len(server.asked) == 1


def test_what_is_there_is_left_alone(server, tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds/mine.txt").write_text("mine")
    fetch(source(server, packed(*TREE), members=("birds", "other.txt")), tmp_path, Quiet())
    assert (tmp_path / "other.txt").read_bytes() == b"-"
    assert [path.name for path in (tmp_path / "birds").iterdir()] == ["mine.txt"]


HOSTILE = {
    "absolute": (("/etc/x", b"x"),),
    "up": (("birds/../../x", b"x"),),
    "backslash": (("birds\\..\\x", b"x"),),
    "symbolic link": (link("birds/x", "/etc/hosts"),),
    "hard link": (link("birds/x", "/etc/hosts", tarfile.LNKTYPE),),
    "link to a folder": (link("birds", ".."), ("birds/x", b"x")),
    "device": (link("birds/x", "", tarfile.CHRTYPE),),
    "pipe": (link("birds/x", "", tarfile.FIFOTYPE),),
    "beside the members": (("birds/a", b"x"), link("other", "/etc")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_whole(server, tmp_path, name):
    base = tmp_path / "base"
    with pytest.raises(FetchError, match="nothing was unpacked"):
        fetch(source(server, packed(("birds/good", b"x"), *HOSTILE[name])), base, Quiet())
    assert {path.name for path in base.iterdir()} == {".downloads"}
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


@pytest.mark.parametrize("kind", ["gz", ""])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_archive(tmp_path, kind, share):
    noise = hashlib.shake_128(b"noise").digest(200_000)
    whole = packed(("birds/a", noise), ("birds/b", noise), kind=kind)
    (tmp_path / "a.tar").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FetchError, match=r"a damaged archive .*delete it and call `fetch` again"):
        unpack(tmp_path / "a.tar", tmp_path / "to", ("birds",), Quiet())
    assert not list((tmp_path / "to").iterdir())


def test_no_archive_and_another_archive(server, tmp_path):
    with pytest.raises(FetchError, match="a damaged archive"):
        fetch(source(server, b"<html>"), tmp_path / "a", Quiet())
    with pytest.raises(FetchError, match="has no birds; its address leads to something else"):
        fetch(source(server, packed(("fish/a", b"x"))), tmp_path / "b", Quiet())


def test_no_room_to_unpack(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 4))
    with pytest.raises(FetchError, match="are needed and 0 are free; make room there and call `fetch` again"):
        fetch(source(server, packed(*TREE)), tmp_path, Quiet())
    assert {path.name for path in tmp_path.iterdir()} == {".downloads"}
    monkeypatch.undo()
    fetch(source(server, packed(*TREE)), tmp_path, Quiet())
    assert len(server.asked) == 1  # the download was kept


def test_no_room_to_download(server, tmp_path, monkeypatch):
    """A full disk, through the device that always is one."""
    if not tmp_path.joinpath("/dev/full").exists():
        pytest.skip("no /dev/full here")
    content = packed(("birds/a", hashlib.shake_128(b"noise").digest(200_000)))
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads/a.tgz.part").symlink_to("/dev/full")
    with pytest.raises(FetchError, match="make room there and call `fetch` again") as caught:
        fetch(source(server, content), tmp_path, Quiet())
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_leftovers_of_a_killed_unpacking_go(server, tmp_path):
    (tmp_path / ".unpacking-old").mkdir()
    (tmp_path / ".unpacking-old/x").write_text("x")
    fetch(source(server, packed(*TREE)), tmp_path, Quiet())
    assert not (tmp_path / ".unpacking-old").exists()


def test_what_cannot_be_downloaded_says_what_to_do(tmp_path):
    with pytest.raises(RequestError, match="put it there"):
        fetch(Source(by_hand="put it there"), tmp_path, Quiet())
    with pytest.raises(RequestError, match="nothing to download"):
        fetch(Source(), tmp_path, Quiet())
