"""Content digests: a short hash of a data set or a source folder that is independent of its location."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.core.errors import RequestError
from bench.core.files import ordered_map, replacing
from bench.core.integrity import sha256_of

# A file that changed this recently may change again within the same tick of the file system's clock, unseen by size
# and time; its hash is used but not remembered (git calls such entries "racily clean"). FAT has the coarsest tick.
_TICK = 2 * 10**9

State = tuple[int, int, int, int]
"""Size in bytes, time of the last change of the content and of the inode in nanoseconds, number of the inode.

Anyone can set the first time, and ``cp -p`` or ``rsync -t`` do; the other two follow when content or file are replaced.
"""
# The state, and the sha256 in hex.
Entry = tuple[int, int, int, int, str]


def content_digest(root: Path, files: Sequence[Path], cache: Path | None) -> str:
    """Return a hash of the names (relative to ``root``) and contents of ``files``; their order does not matter.

    Args:
        root: folder that the names are relative to, so that a moved tree keeps its digest.
        files: annotation files, images, masks.
        cache: JSON file with the hash of each file; one whose :data:`State` is unchanged is then not read again.

    Returns:
        The first 16 hex digits of a sha256.

    Raises:
        RequestError: naming a file that cannot be read.
    """
    paths = {_relative(file, root): file for file in files}
    known = _load(cache)
    try:
        states = {name: state_of(path) for name, path in paths.items()}
        stale = [name for name, state in states.items() if known.get(name, ())[:4] != state]
        fresh = dict(zip(stale, ordered_map(sha256_of, [paths[name] for name in stale]), strict=True))
    except OSError as error:
        raise RequestError(
            f"{error.filename or root}: cannot be read ({error.strerror or error}); mend its permissions or restore it"
        ) from error
    hashes = {name: fresh[name] if name in fresh else known[name][4] for name in sorted(paths)}
    if cache is not None and (stale or known.keys() != paths.keys()):
        settled = time.time_ns() - _TICK
        _save(
            cache,
            {name: (*states[name], value) for name, value in hashes.items() if max(states[name][1:3]) < settled},
        )
    # File names that are no UTF-8 are hashed by their bytes.
    listing = "".join(f"{name}\0{value}\n" for name, value in hashes.items())
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _relative(file: Path, root: Path) -> str:
    try:
        return file.relative_to(root).as_posix()
    except ValueError:  # a folder beside the tree, as CUB's segmentations: relative_to cannot walk up before 3.12
        return Path(os.path.relpath(file, root)).as_posix()


def state_of(path: Path | os.DirEntry[str]) -> State:
    """Return a file's size, times and inode: equal values mean that it was not touched.

    A modification time that was set back, or a copy in its place, shows in the time of the inode or in its number.

    Raises:
        OSError: if there is no such file.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _load(cache: Path | None) -> dict[str, Entry]:
    """Return the entries of the cache; none if it is absent, damaged or of another format."""
    if cache is None:
        return {}
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
        return {
            name: (int(size), int(changed), int(inode_changed), int(inode), str(value))
            for name, (size, changed, inode_changed, inode, value) in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(cache: Path, entries: Mapping[str, Entry]) -> None:
    # A cache that cannot be written costs time at the next call, nothing else. Several processes may hash one data set.
    with contextlib.suppress(OSError), replacing(cache, rivals=True) as unfinished:
        unfinished.write_text(json.dumps(entries), encoding="utf-8")
