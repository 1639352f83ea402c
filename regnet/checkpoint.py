"""Checkpoints: checked before they are believed.

A file is what torch.save writes (torch.load reads it too) and a trailer: magic, format version, SHA-256 of all
that precedes it.
"""

import hashlib
import io
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regnet.errors import UsageError
from regnet.files import Workshop, make_directory

MAGIC = b"RGNTCKPT"
VERSION = 3
_MARK = struct.Struct("<8sI")  # magic and version
_DIGEST = 32  # bytes
_NAME = re.compile(r"step-(\d{9})\.pt")


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
    return unpack(path, content)


def is_marked(content: bytes) -> bool:
    """Whether a file's content ends as that of checkpoints does, whole or not."""
    return content[:-_DIGEST][-_MARK.size :].startswith(MAGIC)


def unpack(path: Path, content: bytes) -> dict[str, Any]:
    """What `pack` packed into the content of this file. Raises what `load` does."""
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
        directory: where they are.
        keep_last: K.
    """

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory = directory
        self.keep_last = keep_last

    def path(self, step: int) -> Path:
        return self.directory / f"step-{step:09d}.pt"

    @property
    def best(self) -> Path:
        return self.directory / "best.pt"

    def paths(self) -> list[Path]:
        """All numbered checkpoints, oldest first; the best is not among them."""
        found = self.directory.glob("step-*.pt")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def save(self, workshop: Workshop, step: int, state: dict[str, Any], is_best: bool) -> None:
        """Writes the checkpoint of global step `step`, marks it as the best if it is, removes what is too old."""
        make_directory(self.directory)
        path, packed = self.path(step), pack(state)
        workshop.write(path, packed)
        if is_best:
            workshop.write(self.best, packed)
        upto = [other for other in self.paths() if other <= path]
        for old in upto[: -self.keep_last]:
            old.unlink()

    def newest(self, passed_over: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint; `passed_over` is told of each damaged one on the way, which is set aside.

        Raises:
            CheckpointError: there are checkpoints, but none that is whole: nobody asked to begin again.
        """
        numbered = (self._whole(path, passed_over) for path in reversed(self.paths()))
        best = self._whole(self.best, passed_over) if self.best.exists() else None
        found = [checkpoint for checkpoint in (next(filter(None, numbered), None), best) if checkpoint is not None]
        if not found and any(self.directory.glob("*.damaged")):
            raise CheckpointError(
                f"{self.directory}: none of the checkpoints is whole; begin again with another --name"
            )
        return max(found, key=lambda checkpoint: checkpoint[1]["progress"]["global_step"], default=None)

    def best_is_of(self, step: int) -> bool:
        """Whether the best checkpoint is whole, and of this global step."""
        try:
            return self.best.exists() and load(self.best)["progress"]["global_step"] == step
        except CheckpointError:
            return False

    @staticmethod
    def _whole(path: Path, passed_over: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        try:
            return path, load(path)
        except DamagedCheckpoint as error:
            passed_over(str(error))
            path.rename(path.with_suffix(".damaged"))
            return None
