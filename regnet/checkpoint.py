"""Checkpoints: written whole or not at all, checked before they are believed.

A file is what torch.save writes (torch.load reads it too) and a trailer: magic, format version, SHA-256 of all
that precedes it.
"""

import hashlib
import io
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regnet.errors import UsageError

MAGIC = b"RGNTCKPT"
VERSION = 1
_MARK = struct.Struct("<8sI")  # magic and version
_DIGEST = 32  # bytes
_NAME = re.compile(r"step-(\d{9})\.pt")
BEST = "best.pt"


class CheckpointError(UsageError):
    """A checkpoint that cannot be used; the message names file and reason."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that was cut short or altered, or is something else; an older one may do instead."""


def pack(state: dict[str, Any]) -> bytes:
    """The content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(_MARK.pack(MAGIC, VERSION))
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    return buffer.getvalue()


def save(path: Path, packed: bytes) -> None:
    """Writes a checkpoint so that, whenever the power goes, `path` is whole or as it was before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; runs no code from the file.

    Raises:
        DamagedCheckpoint: it is not a whole checkpoint.
        CheckpointError: it cannot be read, is of another format, or holds more than plain data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    marked, digest = content[:-_DIGEST], content[-_DIGEST:]
    payload, mark = marked[: -_MARK.size], marked[-_MARK.size :]
    magic, version = _MARK.unpack(mark.rjust(_MARK.size, b"\0"))
    if magic != MAGIC:
        raise DamagedCheckpoint(f"{path}: cut short, or not a checkpoint of this program ({len(content)} bytes)")
    if hashlib.sha256(marked).digest() != digest:
        raise DamagedCheckpoint(f"{path}: altered since it was written (its SHA-256 differs)")
    if version != VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version}, this program reads {VERSION}")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: {str(error)[:200]}") from error


class Checkpoints:
    """The checkpoints of one run: the last K by step, and the best.

    Args:
        directory: made if it is not there.
        keep_last: K.
    """

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory = directory
        self.keep_last = keep_last

    def path(self, step: int) -> Path:
        return self.directory / f"step-{step:09d}.pt"

    def paths(self) -> list[Path]:
        """All numbered checkpoints, oldest first; the best is not among them."""
        found = self.directory.glob("step-*.pt")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def save(self, step: int, state: dict[str, Any], is_best: bool) -> None:
        """Writes the checkpoint of global step `step`, marks it as the best if it is, removes what is too old."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path, packed = self.path(step), pack(state)
        save(path, packed)
        if is_best:
            save(self.directory / BEST, packed)
        upto = [other for other in self.paths() if other <= path]
        for old in upto[: -self.keep_last]:
            old.unlink()

    def save_best(self, state: dict[str, Any]) -> None:
        save(self.directory / BEST, pack(state))

    def newest(self, passed_over: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint; `passed_over` is told of each damaged one on the way, which is set aside."""
        for path in reversed(self.paths()):
            try:
                return path, load(path)
            except DamagedCheckpoint as error:
                passed_over(str(error))
                path.rename(path.with_suffix(".damaged"))
        return None


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
