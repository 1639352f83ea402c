"""A summary of the files that a dataset was converted from, by which a later call notices that they have changed."""

import hashlib
import os
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.sources.source import Source


def summarise_files(source: Source, root: Path) -> dict[str, Any] | None:
    """Number of the image files below `root`, and digests of their names, of their sizes, and of all with their times.

    Returns:
        None if the images have no files of their own.

    Raises:
        DataError: a file cannot be found.
    """
    paths = {source.path(split, index) for split in ("train", "val") for index in range(len(source.split(split)))}
    files = sorted(path for path in paths if path is not None)
    if not files:
        return None
    names, sizes, states = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for path in files:
        name = bytes(path.relative_to(root) if path.is_relative_to(root) else path) + b"\0"
        size, modified = _size_and_time(path)
        names.update(name)
        sizes.update(f"{size}\n".encode())
        states.update(name + f"{size} {modified}\n".encode())
    digests = {"names": names, "sizes": sizes, "states": states}
    return {"count": len(files), **{key: digest.hexdigest()[:16] for key, digest in digests.items()}}


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and nanoseconds; zeros for a link to nothing, which counts as an image that cannot be stored."""
    try:
        status = path.stat()
    except OSError as error:
        if os.path.islink(path):
            return 0, 0
        raise DataError(f"{path}: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def difference(before: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    """How the files differ from those of the conversion; empty if they do not, or if there are none."""
    if before is None:
        return "" if now is None else f"{now['count']:,} image files, none then"
    if now is None or now["count"] != before["count"]:
        count = 0 if now is None else now["count"]
        more = count - before["count"]
        return f"{count:,} image files, {abs(more):,} {'more' if more > 0 else 'fewer'} than then"
    if now["names"] != before["names"]:
        return f"{now['count']:,} image files as then, but with other names"
    if now["sizes"] != before.get("sizes", now["sizes"]):
        return f"the same {now['count']:,} image files, but with other sizes"
    if now["states"] != before["states"]:
        return f"the same {now['count']:,} image files, but with other modification times (contents were not compared)"
    return ""
