"""Durable changes of directories."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Returns when the entries of a directory are durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
