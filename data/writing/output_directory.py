"""The directory of a converted dataset while it is written: one conversion at a time, and never a mixture of two sets.

Shards are written into a private directory inside it. Their final names contain a digest, so that those of two sets do
not collide, and the rename of the manifest is the moment at which the new set replaces the old one. A conversion that
is killed at any moment leaves a valid set, or none if there was none, and files that the next conversion deletes.
"""

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from commandline import interrupts
from commandline.durability import sync_directory
from commandline.errors import InputError
from commandline.file_lock import try_lock
from data.errors import DataError
from data.manifest import MANIFEST, ForeignManifest, Manifest, is_intact, read_manifest, shard_names, write_manifest

LOCK = ".conversion.lock"
_PRIVATE = ".conversion-"
_SHARD_NAME = re.compile(r"(train|val)-\d{5,}-of-\d{5,}-[0-9a-f]{8}\.beton")


class DirectoryBusy(DataError):
    """Another conversion is writing to the directory."""


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Creates and locks the directory. The lock ends with the process, and with those that it has forked.

    A directory that was created is deleted again if nothing was written into it.

    Raises:
        DirectoryBusy: another conversion holds the lock.
        DataError: there cannot be a directory of this name.
        InputError: the file system has no locks.
    """
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:  # a file, or a link to nothing
        raise DataError(f"--out {out}: {error.filename} is not a directory") from error
    try:
        with _locked(out):
            yield
    finally:
        if created:
            with contextlib.suppress(OSError):  # not empty
                out.rmdir()


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
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
            free = try_lock(file)
        except InputError:
            path.unlink()
            raise
        if not free:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise DirectoryBusy(
                f"{out}: another conversion is writing to this directory{f' ({holder})' if holder else ''}. "
                "Wait until it has ended, or use another --out"
            )
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
    """A directory for new shards inside the locked directory; deletes those that killed conversions have left there."""
    for old in out.glob(f"{_PRIVATE}*"):
        shutil.rmtree(old)
    private = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=out))
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)  # otherwise the next conversion deletes it


def install(private: Path, out: Path, manifest: Manifest) -> None:
    """Makes the shards in `private` the dataset in `out`, and then deletes those of the previous dataset.

    Signals are ignored from the first rename on, until the command ends.
    """
    write_manifest(private, manifest)
    previous = _previous_manifest(out)
    shards = [shard for split in manifest.splits.values() for shard in split]
    new = [shard.name for shard in shards if not is_intact(out, shard)]  # a run may be reading the same shard
    interrupts.ignore()
    moved = []
    try:
        for name in new:
            moved.append((private / name).rename(out / name))
        sync_directory(out)
        (private / MANIFEST).rename(out / MANIFEST)
    except OSError:
        for path in moved:
            path.unlink()
        raise
    sync_directory(out)
    for path in _unlisted(out, manifest, previous):
        path.unlink()


def check_replaceable(out: Path) -> None:
    """Raises ForeignManifest if manifest.json is a file of something else, which must not be replaced."""
    _previous_manifest(out)


def _previous_manifest(out: Path) -> Manifest | None:
    """The manifest to be replaced; None if there is none, or if it is damaged or of another version."""
    try:
        return read_manifest(out)
    except ForeignManifest:
        raise
    except DataError:
        return None


def delete_leftovers(out: Path) -> int:
    """Deletes what killed conversions have left in a converted dataset; returns the number of shards and directories.

    Nothing is deleted while another conversion is writing there, or in a directory that this process may not change.
    """
    if not _leftovers(out) or not os.access(out, os.W_OK):
        return 0
    try:
        with exclusive(out):
            leftovers = _leftovers(out)
            for path in leftovers:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    except DirectoryBusy:
        return 0
    return len(leftovers)


def _leftovers(out: Path) -> list[Path]:
    return [*out.glob(f"{_PRIVATE}*"), *_unlisted(out, read_manifest(out), previous=None)]


def _unlisted(out: Path, manifest: Manifest, previous: Manifest | None) -> list[Path]:
    """The shards in `out` that are not in the manifest: those of the previous one, and those of killed conversions.

    Only the latter are recognised by their names: a file without a digest in its name may be someone else's.
    """
    listed, before = shard_names(manifest), shard_names(previous) if previous else set()
    return [
        path
        for path in out.iterdir()
        if path.name not in listed
        and (path.name in before or _SHARD_NAME.fullmatch(path.name))
        and (path.is_symlink() or path.is_file())
    ]
