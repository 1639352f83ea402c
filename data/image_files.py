"""Finds the image files of a folder, for the conversion and for predictions alike."""

import os
from collections import Counter
from pathlib import Path

from data.errors import DataError
from data.image_reading import ENDINGS

HIDDEN = "hidden"
REPEATED = "folders found again through links"
SYSTEM = "system folders"
# Of operating systems, network drives and archives: thumbnails, deleted files, resource forks. In lower case.
_SYSTEM_FOLDERS = {
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__macosx",
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
}
_MOST_KINDS = 5  # of ignored files, in a message


def image_files_in(folder: Path, ignored: Counter[str]) -> list[str]:
    """The image files in a folder and its subfolders; those of a folder come before those of its subfolders.

    Links are followed, but no folder is read twice, nor any that contains `folder`.

    Args:
        ignored: counts what was ignored, see `list_folder`.

    Raises:
        DataError: a folder cannot be read.
    """
    images: list[str] = []
    seen = {_identity(parent) for parent in folder.resolve().parents}
    pending = [folder]
    while pending:
        current = pending.pop()
        identity = _identity(current)
        if identity in seen:
            ignored[REPEATED] += 1
            continue
        seen.add(identity)
        files, subfolders = list_folder(current, ignored)
        images += files
        pending += reversed(subfolders)
    return images


def list_folder(folder: Path, ignored: Counter[str]) -> tuple[list[str], list[Path]]:
    """The image files and the subfolders that are in a folder itself, by name; links to folders come last.

    Args:
        ignored: counts other files by their endings, hidden files and folders as "hidden", and `_SYSTEM_FOLDERS`.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    files, folders = list[str](), list[os.DirEntry[str]]()
    for entry in found:
        ending = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            ignored[HIDDEN] += 1
        elif _is_folder(entry):
            if entry.name.lower() in _SYSTEM_FOLDERS:
                ignored[SYSTEM] += 1
            else:
                folders.append(entry)
        elif ending in ENDINGS:
            files.append(entry.path)
        else:
            ignored[ending or "without ending"] += 1
    return files, [Path(entry.path) for entry in sorted(folders, key=lambda entry: entry.is_symlink())]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    return status.st_dev, status.st_ino


def describe_ignored(ignored: Counter[str]) -> list[str]:
    """A line such as "5 files ignored (.txt: 3, hidden: 2)"; none if there is nothing to say."""
    if not ignored:
        return []
    most = sorted(ignored.items(), key=lambda kind: (-kind[1], kind[0]))[:_MOST_KINDS]
    others = ignored.total() - sum(count for _, count in most)
    kinds = [f"{kind}: {count}" for kind, count in most] + [f"others: {others}"] * (others > 0)
    return [f"{ignored.total()} file{'s' if ignored.total() > 1 else ''} ignored ({', '.join(kinds)})"]
