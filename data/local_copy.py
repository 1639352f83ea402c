"""Shards on each node's local disk: one process copies them once, while the others on the node wait."""

import hashlib
import os
import shutil
from pathlib import Path

from commandline.file_lock import try_lock, wait_for_lock
from data.errors import DataError
from data.manifest import MANIFEST, Verify, is_intact, read_manifest, verify


def prepare_shards(source: Path, cache_dir: Path | None, how: Verify) -> None:
    """Verifies the shards, or copies them to `cache_dir`. One process per node calls it before any process reads.

    Raises:
        DataError: the shards do not match their manifest, or the disk has too little space.
    """
    if cache_dir is None:
        verify(source, read_manifest(source), how)
    else:
        copy_shards(source, cache_dir)


def shard_directory(source: Path, cache_dir: Path | None) -> Path:
    """The directory to read after `prepare_shards`."""
    return source if cache_dir is None else copy_directory(source, cache_dir)


def copy_shards(source: Path, cache_dir: Path) -> Path:
    """Copies a converted dataset to a local disk and verifies the copy; an intact copy is reused.

    Args:
        cache_dir: directory on the local disk; any number of jobs may share it.

    Returns:
        the directory of the copy, under `cache_dir`, named by the manifest's digest.

    Raises:
        DataError: the source does not match its manifest or is replaced meanwhile, or the disk has too little space.
        InputError: the file system has no locks.
        OSError: the disk failed.
    """
    manifest = read_manifest(source)
    target = copy_directory(source, cache_dir)
    if _is_complete(target):  # it may belong to another user, or be on a disk that is mounted read-only
        return target
    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".lock", "a") as lock:
        if not try_lock(lock):
            print(f"{target}: waiting for another process on this node that is copying the shards", flush=True)
            wait_for_lock(lock)
        if _is_complete(target):
            return target
        # Shards that an interrupted copy has completed are kept.
        shards = [shard for split in manifest.splits.values() for shard in split if not is_intact(target, shard)]
        needed, free = sum(shard.size for shard in shards), shutil.disk_usage(target).free
        if needed > free:
            raise DataError(
                f"{cache_dir}: {_size(free)} are free, but {source} needs {_size(needed)}: free some "
                "space, choose another data.local_cache_dir, or leave it empty to read the shards in place"
            )
        for shard in shards:
            try:
                _copy(source / shard.name, target / shard.name)
            except FileNotFoundError as error:
                raise DataError(
                    f"{source / shard.name} is missing: the dataset is damaged, or was replaced while it was copied to "
                    f"{cache_dir}; start the run again, or convert again with python -m data.convert --overwrite"
                ) from error
        verify(target, manifest, Verify.always)
        _copy(source / MANIFEST, target / MANIFEST)
        if copy_directory(target, cache_dir) != target:
            (target / MANIFEST).unlink()
            raise DataError(f"{source} was replaced while it was copied to {cache_dir}; start the run again")
    return target


def _is_complete(copy: Path) -> bool:
    """Whether there is a copy, which has not been damaged since."""
    try:
        verify(copy, read_manifest(copy), Verify.once)
    except DataError:
        return False
    return True


def _size(number: int) -> str:
    """Bytes for people: 3.1 MB."""
    for unit, power in (("GB", 3), ("MB", 2), ("kB", 1)):
        if number >= 1000**power:
            return f"{number / 1000**power:,.1f} {unit}"
    return f"{number} bytes"


def copy_directory(source: Path, cache_dir: Path) -> Path:
    """The directory of a dataset's copy: its name is a digest of the manifest."""
    digest = hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()
    return cache_dir / f"shards-{digest[:16]}"


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
