"""Downloads of data sets: resumed, checked, and unpacked without links or paths that leave the folder."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from bench.contract import BenchError, Progress, RequestError, Settings

# Seconds without a byte before a connection counts as cut.
TIMEOUT = 60.0
ATTEMPTS = 5
# Bytes that are read at a time.
_CHUNK = 2**20


class FetchError(BenchError):
    """Error of a download or an archive that cannot be used."""


class Archive(Settings):
    """Tar file to download.

    Attributes:
        url: its official address.
        md5: of the whole file, in hex.
        into: folder to unpack into, in the folder that holds the data sets.
        members: files and folders at the top of the archive to unpack; if all exist already nothing is downloaded.
    """

    url: str
    md5: str
    into: str = "."
    members: tuple[str, ...]


class Source(Settings):
    """Source of a data set.

    Attributes:
        archives: archives to download, in order.
        by_hand: advice for a data set without an official download.
    """

    archives: tuple[Archive, ...] = ()
    by_hand: str = ""

    @property
    def way(self) -> str:
        """Return in one line how to get the data set; ``{name}`` is a placeholder for its name."""
        return "python -m bench data fetch {name}" if self.archives else self.by_hand.replace("{", "{{")


def fetch(source: Source, base: Path, progress: Progress) -> list[Path]:
    """Download and unpack the missing files of a data set.

    An interrupted download resumes; unpacked files appear under their names when they are whole.

    Returns:
        The folders and files, new or there before.

    Raises:
        RequestError: if nothing can be downloaded.
        FetchError: naming the problem and its cure.
    """
    if not source.archives:
        raise RequestError(source.by_hand or "there is nothing to download for this data set")
    files = []
    for archive in source.archives:
        folder = base / archive.into
        targets = [folder / name for name in archive.members]
        files += targets
        if all(target.exists() for target in targets):
            progress.note(f"{', '.join(archive.members)}: there already")
            continue
        try:
            file = base / ".downloads" / (Path(urlsplit(archive.url).path).name or "archive")
            file.parent.mkdir(parents=True, exist_ok=True)
            download(archive.url, archive.md5, file, progress)
            unpack(file, folder, archive.members, progress)
            file.unlink()
        except OSError as error:
            cure = "make room" if error.errno == errno.ENOSPC else "give write access"
            problem = f"{error.filename or base}: {error.strerror or error}"
            raise FetchError(f"{problem}; {cure} there and call `fetch` again, or pass --data-root") from error
    return files


def download(url: str, md5: str, file: Path, progress: Progress) -> None:
    """Download to ``file``, resuming an earlier attempt; a file that is whole already is kept.

    Raises:
        FetchError: if the server does not answer, the connection is cut repeatedly, or the content is wrong.
        OSError: if the file cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchError(f"{url}: only http and https addresses can be fetched")
    if file.exists() and _md5(file) == md5:
        return
    part = file.with_name(f"{file.name}.part")
    barren = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            for _ in progress.track(_received(url, part, before), f"{file.name} (MiB)"):
                pass
            break
        except HTTPError as error:
            reason = " ".join(str(error.reason).split())
            raise FetchError(f"{url}: the server answers {error.code} {reason}; download it by hand") from error
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            # Only attempts that brought nothing count; one that got further may be followed by any number.
            barren = 0 if part.exists() and part.stat().st_size > before else barren + 1
            if barren == ATTEMPTS:
                reason = getattr(error, "reason", error)
                raise FetchError(f"{url}: the connection fails ({reason}); call `fetch` again to go on") from error
            progress.note(f"{file.name}: connection cut, going on")
        except ValueError as error:  # an address that the server redirects to, or a header, is none
            raise FetchError(f"{url}: the server's answer makes no sense ({error}); download it by hand") from error
    content = _md5(part)
    if content != md5:
        part.unlink()
        raise FetchError(f"{url}: wrong content (md5 {content}, expected {md5}); it was deleted, call `fetch` again")
    part.replace(file)


def _received(url: str, part: Path, start: int) -> Iterator[None]:
    """Append the server's data after the first ``start`` bytes; yields once for each MiB."""
    request = Request(url, headers={"Range": f"bytes={start}-", "User-Agent": "partbench"} if start else {})
    try:
        response = _opener().open(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send; the checksum verifies it
            return
        raise
    with response:
        if start:
            sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = start if response.status == 206 and sent and int(sent[1]) == start else 0
        length = response.headers.get("Content-Length", "")
        expected = int(length) if length.isdecimal() else 0  # another value is ignored: the checksum decides
        received = 0
        with part.open("ab" if start else "wb") as stream:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                received += len(chunk)
                yield
        if received < expected:
            raise ConnectionError(f"{received} of {expected} bytes came")


def _opener() -> OpenerDirector:
    """Build an opener that follows redirects to http and https alone: ``urlopen`` also follows those to ftp."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler,
        HTTPHandler,
        HTTPSHandler,
        HTTPDefaultErrorHandler,
        HTTPRedirectHandler,
        HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def unpack(file: Path, folder: Path, members: tuple[str, ...], progress: Progress) -> None:
    """Unpack ``members`` (names at the top of the archive) into ``folder``; each appears when it is whole.

    Raises:
        FetchError: for a damaged archive, and for one that holds links, devices or paths that leave the folder.
        OSError: if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".unpacking-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed
    temporary = folder / f".unpacking-{uuid.uuid4().hex}"
    try:
        with tarfile.open(file) as archive:
            chosen = [entry for entry in archive.getmembers() if _checked(entry, file).split("/")[0] in members]
            needed, free = sum(entry.size for entry in chosen), shutil.disk_usage(folder).free
            if needed > free:
                raise OSError(errno.ENOSPC, f"{needed >> 20} MiB are needed and {free >> 20} are free", str(folder))
            for entry in progress.track(chosen, f"unpack {file.name}", len(chosen)):
                archive.extract(entry, temporary, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise FetchError(f"{file}: a damaged archive ({error}); delete it and call `fetch` again") from error
    else:
        missing = [name for name in members if not (temporary / name).exists()]
        if missing:
            raise FetchError(f"{file}: has no {missing[0]}; its address leads to something else")
        for name in members:
            if not (folder / name).exists():
                (temporary / name).replace(folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(entry: tarfile.TarInfo, file: Path) -> str:
    """Return the entry's name without a leading ``./``, if it may be unpacked."""
    name = entry.name.removeprefix("./")
    if not (entry.isfile() or entry.isdir()):
        raise FetchError(f"{file}: {entry.name!r} is no plain file or folder; nothing was unpacked")
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        raise FetchError(f"{file}: {entry.name!r} leaves the folder; nothing was unpacked")
    return name


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
