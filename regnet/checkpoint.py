"""Checkpoints: written whole or not at all, checked before they are believed.

A file is what torch.save writes (torch.load reads it too) and a trailer: magic, format version, SHA-256 of
what precedes it.
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
_TRAILER = struct.Struct("<8sI32s")
_NAME = re.compile(r"step-(\d{9})\.pt")
BEST = "best.pt"


class CheckpointError(UsageError):
    """A checkpoint that is damaged, foreign, or of another format; the message names file and reason."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that, whenever the power goes, `path` is whole or as it was before."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    trailer = _TRAILER.pack(MAGIC, VERSION, hashlib.sha256(payload).digest())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.write(trailer)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; runs no code from the file.

    Raises:
        CheckpointError: it is not a whole checkpoint of this format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    payload = content[: -_TRAILER.size]
    magic, version, digest = _TRAILER.unpack(content[-_TRAILER.size :].rjust(_TRAILER.size, b"\0"))
    if magic != MAGIC:
        raise CheckpointError(f"{path}: cut short, or not a checkpoint of this program ({len(content)} bytes)")
    if version != VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version}, this program reads {VERSION}")
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{path}: altered since it was written (its SHA-256 differs)")
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

    def paths(self) -> list[Path]:
        """All numbered checkpoints, oldest first; the best is not among them."""
        found = self.directory.glob("step-*.pt")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def save(self, step: int, state: dict[str, Any], is_best: bool) -> None:
        """Writes the checkpoint of global step `step`, marks it as the best if it is, removes what is too old."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step-{step:09d}.pt"
        save(path, state)
        if is_best:
            self.save_best(state)
        upto = [other for other in self.paths() if other <= path]
        for old in upto[: -self.keep_last]:
            old.unlink()

    def save_best(self, state: dict[str, Any]) -> None:
        save(self.directory / BEST, state)

    def newest(self, passed_over: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint; `passed_over` is told of each damaged one on the way, which is set aside."""
        for path in reversed(self.paths()):
            try:
                return path, load(path)
            except CheckpointError as error:
                passed_over(str(error))
                path.rename(path.with_suffix(".damaged"))
        return None


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
