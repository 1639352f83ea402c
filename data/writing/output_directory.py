"""The directory of a converted dataset while it is written: one conversion at a time, and never a mixture of two sets.

Shards are written into a private directory inside it. Their final names contain a digest, so that those of two sets do
not collide, and the rename of the manifest is the moment at which the new set replaces the old one. A conversion that
is killed at any moment leaves a valid set, or none if there was none, and files that the next conversion deletes.
"""

import contextlib
import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from commandline import interrupts
from data.errors import DataError
from data.manifest import MANIFEST, Manifest, is_intact, read_manifest, write_manifest

LOCK = ".lock"
_PRIVATE = ".conversion-"
_SHARD_NAME = re.compile(r"(train|val)-\d{5}-of-\d{5}(-[0-9a-f]{8})?\.beton")


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Creates and locks the directory. The lock ends with the process, and with those that it has forked.

    Raises:
        DataError: another conversion holds the lock.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(out)
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        lock.close()


def _take_lock(out: Path) -> TextIO:
    path = out / LOCK
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # held as long as the directory is locked
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise DataError(
                f"{out}: another conversion is writing to this directory{f' ({holder})' if holder else ''}. "
                "Wait until it has ended, or use another --out"
            ) from error
        if _is_at(file, path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            return file
        file.close()  # its holder has just deleted it


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def private_directory(out: Path) -> Iterator[Path]:
    """A directory for new shards inside the locked directory; deletes what killed conversions have left there."""
    for old in out.glob(f"{_PRIVATE}*"):
        shutil.rmtree(old)
    with contextlib.suppress(DataError):  # of a manifest that cannot be read, nobody knows which shards it lists
        _delete_shards(out, read_manifest(out) if (out / MANIFEST).exists() else None)
    private = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=out))
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)  # otherwise the next conversion deletes it


def install(private: Path, out: Path, manifest: Manifest) -> None:
    """Makes the shards in `private` the dataset in `out`, and then deletes those of the previous dataset."""
    write_manifest(private, manifest)
    with interrupts.ignored():
        for split in manifest.splits.values():
            for shard in split:
                if not is_intact(out, shard):  # a run may be reading the same shard
                    (private / shard.name).rename(out / shard.name)
        _sync(out)
        (private / MANIFEST).rename(out / MANIFEST)
        _sync(out)
        _delete_shards(out, manifest)


def _delete_shards(out: Path, manifest: Manifest | None) -> None:
    """Deletes the shards that the manifest does not list."""
    listed = {shard.name for split in manifest.splits.values() for shard in split} if manifest else set()
    for path in out.iterdir():
        if _SHARD_NAME.fullmatch(path.name) and path.name not in listed:
            path.unlink()


def _sync(directory: Path) -> None:
    """Returns when the entries of a directory are durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
