"""Immutable, content-addressed files: `root/ab/abcdef...`, named by the SHA-256 of what they hold.

Durable in this order: write under a temporary name, fsync, rename, fsync the folder; only then may a row refer to it. A
crash in between leaves a file nobody refers to, which `collect` removes at the next open. Files are replaced, never
trusted, when the same content comes again, so a damaged one heals.

One file per batch, not one per group: measured with tools/bench_store.py, the fsyncs of a 256 KiB file cost less than a
millisecond on an SSD, far from the bottleneck, and single files can be checked, copied and deleted with ordinary tools.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from scoot.wire.errors import PermanentInfraError, ScootError, TransientError

_TEMPORARY: Final = "tmp-"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PASSES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
"""Conditions that an operator or time mends without touching the files."""

_GROUP: Final = 64
"""Files open at once."""


def digest(data: bytes) -> str:
    """SHA-256 of `data`, 64 lower-case hex digits."""
    return sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is written as a SHA-256; nothing else may become a file name."""
    return _DIGEST.fullmatch(text) is not None


def storage_error(exc: OSError, path: Path) -> ScootError:
    """The store's error for an operating system's error about `path`."""
    text = f"{path}: {exc.strerror or exc}"
    if exc.errno in _PASSES:
        return TransientError(f"{text}; nothing was written: free some space, it will be tried again", retry_after_s=5)
    return PermanentInfraError(f"{text}; check the disk and the file's permissions")


def fsync_dir(path: Path) -> None:
    """Make the entries of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class ContentFiles:
    """Content-addressed files under `root`, which is created when first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, sha: str) -> Path:
        """Where the content with digest `sha` is or would be."""
        return self._root / sha[:2] / sha

    def put(self, items: Mapping[str, bytes]) -> None:
        """Keep contents durably, all or none visible to the caller. Keys are the digests, which the caller has checked.

        Raises:
            TransientError: no space; nothing is left behind.
            PermanentInfraError: the disk refuses.
        """
        entries = list(items.items())
        for start in range(0, len(entries), _GROUP):
            self._put_group(entries[start : start + _GROUP])

    def _put_group(self, items: Sequence[tuple[str, bytes]]) -> None:
        written: list[tuple[Path, Path]] = []
        try:
            # All written before the first fsync: one commit of the file system's journal then carries most of them.
            descriptors: list[int] = []
            try:
                for sha, data in items:
                    final = self.path(sha)
                    self._make_shard(final.parent)
                    temporary = final.with_name(_TEMPORARY + sha)
                    descriptors.append(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
                    written.append((temporary, final))
                    _write_all(descriptors[-1], data)
                for fd in descriptors:
                    os.fsync(fd)
            finally:
                for fd in descriptors:
                    os.close(fd)
            for temporary, final in written:
                temporary.rename(final)
            for folder in {final.parent for _, final in written}:
                fsync_dir(folder)
        except OSError as exc:
            for temporary, _ in written:
                _discard(temporary)
            raise storage_error(exc, self._root) from exc

    def get(self, sha: str) -> bytes:
        """The content with digest `sha`, checked.

        Raises:
            KeyError: not stored.
            PermanentInfraError: what is stored does not have this digest, or cannot be read.
        """
        if not is_digest(sha):
            raise KeyError(sha)
        path = self.path(sha)
        try:
            data = path.read_bytes()
        except FileNotFoundError as exc:
            raise KeyError(sha) from exc
        except OSError as exc:
            raise storage_error(exc, path) from exc
        found = digest(data)
        if found != sha:
            raise PermanentInfraError(
                f"{path}: damaged: its content ({len(data)} bytes) has SHA-256 {found}; restore it from a backup"
            )
        return data

    def shards(self) -> Iterator[str]:
        """First two digits under which something is stored, sorted."""
        if not self._root.is_dir():
            return
        for entry in sorted(self._root.iterdir()):
            if re.fullmatch(r"[0-9a-f]{2}", entry.name) and entry.is_dir():
                yield entry.name

    def names(self, shard: str) -> Iterator[str]:
        """Digests stored under a shard, sorted; temporary files are left out."""
        for entry in sorted((self._root / shard).iterdir()):
            if is_digest(entry.name):
                yield entry.name

    def collect(self, kept_in: Callable[[str], set[str]]) -> int:
        """Remove temporary files and every file that `kept_in(shard)` does not name; returns how many.

        Call it before anything is put: it takes what it finds for leftovers of a crash.
        """
        removed = 0
        try:
            for shard in self.shards():
                kept = kept_in(shard)
                for entry in (self._root / shard).iterdir():
                    if entry.name.startswith(_TEMPORARY) or (is_digest(entry.name) and entry.name not in kept):
                        entry.unlink()
                        removed += 1
        except OSError as exc:
            raise storage_error(exc, self._root) from exc
        return removed

    def _make_shard(self, shard: Path) -> None:
        if shard.is_dir():
            return
        for folder in (self._root, shard):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                fsync_dir(folder.parent)


def _write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; a single write may be cut short when space runs out."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _discard(path: Path) -> None:
    """Remove a temporary file; what cannot be removed now is collected at the next open."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
