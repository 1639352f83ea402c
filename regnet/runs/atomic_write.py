"""Atomic file writes, which survive a power loss. In a run directory only the newest attempt can make them."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from commandline.durability import sync_directory


class DirectoryTakenOver(OSError):
    """This attempt must not write to the run directory any more: a newer one has taken it over, or it was moved."""


class AtomicWriter:
    """Writes files into a private directory of the attempt and renames them into place when they are complete.

    Opening a writer removes the private directories of all earlier attempts. An attempt that is still alive, on a node
    that lost its network, then has nowhere to create a file, and cannot rename a file that it has already started.

    Args:
        directory: the run directory; on the same file system as every file to be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / f".attempt-{uuid.uuid4().hex}"
        self.path.mkdir()
        for other in directory.glob(".attempt-*"):
            if other != self.path:
                gone = other.rename(directory / f".gone-{uuid.uuid4().hex}")  # atomic, whatever is open in it
                shutil.rmtree(gone, ignore_errors=True)
        sync_directory(directory)

    def write(self, path: Path, content: bytes) -> None:
        """Replaces the file `path`, in the run directory or in a directory of it, which is created.

        Raises:
            DirectoryTakenOver: this attempt is no longer the newest, or the run directory was moved or deleted.
            OSError: the disk failed; `path` is unchanged.
        """
        temporary = self.path / f"{path.name}-{uuid.uuid4().hex}"  # two threads may write the same file
        try:
            try:
                with name_file(path):
                    _write_durably(temporary, content)
                if path.parent != self.directory:  # which was moved if it is missing
                    _make_subdirectory(path.parent)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
        except FileNotFoundError as error:
            if self.path.exists():
                raise
            if not self.directory.exists():
                raise DirectoryTakenOver(f"{self.directory} was moved or deleted while the run was training") from error
            raise DirectoryTakenOver(f"{path}: a newer attempt has taken over this run") from error
        sync_directory(path.parent)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a command's output file: the file that is there is replaced when the new one is complete.

    A link stays a link; a device or a pipe, such as /dev/stdout, is written to, and so is a file that is mounted by
    itself, such as a volume of a container, which cannot be replaced.

    Raises:
        OSError: the disk failed; the file is unchanged unless it was written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # not longer because the file's name is
    try:
        with name_file(path):
            _write_durably(temporary, content)
        if path.exists():
            temporary.chmod(path.stat().st_mode)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            path.write_bytes(content)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Names the file in the errors of a failing disk: those that occur once a file is open do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def make_directory(directory: Path) -> None:
    """Creates a directory and its parents durably."""
    if not directory.is_dir():
        make_directory(directory.parent)
        _make_subdirectory(directory)


def _make_subdirectory(directory: Path) -> None:
    """Creates a directory durably.

    Raises:
        FileNotFoundError: its parent is missing.
    """
    if not directory.is_dir():
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)
