"""Shards on each machine's own disk: copied once, by one process, while the others there wait."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from data.errors import DataError
from data.manifest import MANIFEST, Verify, is_whole, read_manifest, verify


def prepare(source: Path, under: Path | None, how: Verify) -> None:
    """What one process of each machine does before any reads: checks the shards, or copies them to `under`.

    Raises:
        DataError: they are not what their manifest says, or the disk has not enough room.
    """
    if under is None:
        verify(source, read_manifest(source), how)
    else:
        stage(source, under)


def prepared(source: Path, under: Path | None) -> Path:
    """Where the shards are that `prepare` has made ready."""
    return source if under is None else staged(source, under)


def stage(source: Path, under: Path) -> Path:
    """A verified copy of a converted data set on a local disk; the one that is there, if it is whole.

    Args:
        under: a directory on the local disk, which any number of jobs may share.

    Returns:
        where the copy is: a directory under `under` that is named by the manifest's digest.

    Raises:
        DataError: the source is not whole, or the disk has not enough room.
        OSError: the disk.
    """
    manifest = read_manifest(source)
    target = staged(source, under)
    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another job of this machine may be at it
        if (target / MANIFEST).exists():
            with contextlib.suppress(DataError):  # something has damaged it since: it is copied again
                verify(target, read_manifest(target), Verify.once)
                return target
        # What an interrupted copy has left need not be copied again.
        shards = [shard for split in manifest.splits.values() for shard in split if not is_whole(target, shard)]
        needed, free = sum(shard.size for shard in shards), shutil.disk_usage(target).free
        if needed > free:
            raise DataError(f"{under}: {free / 1e9:.1f} GB are free, and {source} needs {needed / 1e9:.1f} GB")
        for shard in shards:
            _copy(source / shard.name, target / shard.name)
        verify(target, manifest, Verify.always)
        _copy(source / MANIFEST, target / MANIFEST)
    return target


def staged(source: Path, under: Path) -> Path:
    """Where a data set's copy is: the same place for the same bytes, and for these alone."""
    try:
        digest = hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{source / MANIFEST}: {error.strerror}") from error
    return under / f"shards-{digest[:16]}"


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
