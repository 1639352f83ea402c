"""CheckpointManager: checked before they are believed.

A file is what torch.save writes (torch.load reads it too) and a trailer: magic, format version, SHA-256 of all
that precedes it.
"""

import hashlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from regnet.errors import UsageError

MAGIC = b"RGNTCKPT"
VERSION = 3
_MARK = struct.Struct("<8sI")  # magic and version
_DIGEST = 32  # bytes


class CheckpointError(UsageError):
    """A checkpoint that cannot be used; the message names file and reason."""


class CorruptCheckpoint(CheckpointError):
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
        CorruptCheckpoint: it is not a whole checkpoint.
        CheckpointError: it cannot be read, is of another format, or holds more than plain data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    return unpack(path, content)


def has_trailer(content: bytes) -> bool:
    """Whether a file's content ends as that of checkpoints does, whole or not."""
    return content[:-_DIGEST][-_MARK.size :].startswith(MAGIC)


def unpack(path: Path, content: bytes) -> dict[str, Any]:
    """What `pack` packed into the content of this file. Raises what `load` does."""
    marked, digest = content[:-_DIGEST], content[-_DIGEST:]
    payload, mark = marked[: -_MARK.size], marked[-_MARK.size :]
    magic, version = _MARK.unpack(mark.rjust(_MARK.size, b"\0"))
    if magic != MAGIC:
        raise CorruptCheckpoint(f"{path}: cut short, or not a checkpoint of this program ({len(content)} bytes)")
    if hashlib.sha256(marked).digest() != digest:
        raise CorruptCheckpoint(f"{path}: altered since it was written (its SHA-256 differs)")
    if version != VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version}, this program reads {VERSION}")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: {str(error)[:200]}") from error
