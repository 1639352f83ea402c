"""Files that are whole or absent, whenever the power goes, and that only the newest attempt of a run can write."""

import os
import shutil
import uuid
from pathlib import Path


class DirectoryTakenOver(OSError):
    """A newer attempt of the run has taken its directory over."""


class AtomicWriter:
    """A folder where one attempt makes its files, beside the place where they are moved when they are whole.

    Opening it removes those of all earlier attempts. One that still lives, on a machine that was cut off, then has
    no place left to make a file in, and nothing that it was making can be moved any more.

    Args:
        directory: the run's; on the same file system as whatever is to be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / f".attempt-{uuid.uuid4().hex}"
        self.path.mkdir()
        for other in directory.glob(".attempt-*"):
            if other != self.path:
                gone = other.rename(directory / f".gone-{uuid.uuid4().hex}")  # at once, whatever is open in it
                shutil.rmtree(gone, ignore_errors=True)
        sync_directory(directory)

    def write(self, path: Path, content: bytes) -> None:
        """Replaces the file `path`.

        Raises:
            DirectoryTakenOver: this attempt is no longer the newest.
            OSError: the disk; `path` is as it was before.
        """
        temporary = self.path / path.name
        try:
            try:
                with open(temporary, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
        except FileNotFoundError as error:
            if self.path.exists():
                raise
            raise DirectoryTakenOver(f"{path}: a newer attempt has taken this run over") from error
        sync_directory(path.parent)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def sync_directory(directory: Path) -> None:
    """Returns when the names in a directory would survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path) -> None:
    """Makes a directory, and those above it, so that they survive a power cut."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)
