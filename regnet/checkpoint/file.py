"""Checkpoint files, which are verified before they are used.

A file is what torch.save writes (and torch.load reads), followed by a trailer: magic, format version, and the SHA-256
of everything before it.
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
VERSION = 4
_MARK = struct.Struct("<8sI")  # magic and version
_DIGEST = 32  # bytes


class CheckpointError(UsageError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


class CorruptCheckpoint(CheckpointError):
    """A checkpoint that was truncated or altered, or another kind of file; an older checkpoint may be valid."""


class CheckpointFormatError(CheckpointError):
    """A checkpoint written by another version of this program."""


def pack(state: dict[str, Any]) -> bytes:
    """The content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(_MARK.pack(MAGIC, VERSION))
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    return buffer.getvalue()


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; never executes code from the file.

    Raises:
        CorruptCheckpoint: the file is not a valid checkpoint.
        CheckpointFormatError: another version of this program wrote it.
        CheckpointError: the file cannot be read, or contains more than plain data.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    return unpack(path, content)


def has_trailer(content: bytes) -> bool:
    """Whether a file's content ends like a checkpoint's, valid or not."""
    return content[:-_DIGEST][-_MARK.size :].startswith(MAGIC)


def unpack(path: Path, content: bytes) -> dict[str, Any]:
    """The contents of the checkpoint `path`, whose bytes `pack` made. Raises the same errors as `load`."""
    marked, digest = content[:-_DIGEST], content[-_DIGEST:]
    payload, mark = marked[: -_MARK.size], marked[-_MARK.size :]
    magic, version = _MARK.unpack(mark.rjust(_MARK.size, b"\0"))
    if magic != MAGIC:
        raise CorruptCheckpoint(f"{path}: truncated, or not a checkpoint of this program ({len(content)} bytes)")
    if hashlib.sha256(marked).digest() != digest:
        raise CorruptCheckpoint(f"{path}: altered since it was written (its SHA-256 differs)")
    if version != VERSION:
        age = "an older" if version < VERSION else "a newer"
        raise CheckpointFormatError(
            f"{path}: written by {age} version of this program "
            f"(checkpoint format {version}; this version reads {VERSION})"
        )
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: {str(error)[:200]}") from error
