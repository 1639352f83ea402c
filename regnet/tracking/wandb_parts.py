"""The files in which wandb keeps a run, one part per attempt, and what a new part must contain.

A part is a directory `run-TIME-ID` (online) or `offline-run-TIME-ID` with a transaction log, `run-ID.wandb`: a 7-byte
header and a LevelDB log of protocol buffers (wandb.proto). wandb writes it in blocks, so a killed attempt loses its
last rows; and `wandb sync` appends the rows of a part to those that the server has. Together the parts must therefore
have every row once.
"""

import struct
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

_FILE_HEADER = 7
_BLOCK = 32 * 1024
_HEADER = struct.Struct("<IHB")  # checksum, length, type
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def offline_parts(wandb_dir: Path, run_id: str) -> list[Path]:
    """The offline parts of a run that no `wandb sync` has uploaded, oldest first.

    Without those of attempts that were killed before wandb wrote anything: `wandb sync` fails if one is named.
    """
    logs = [log for log in _logs(wandb_dir, run_id) if _is_offline(log) and not _marker(log).exists()]
    return [log.parent for log in logs if any(record.HasField("run") for record in read_records(log))]


def mark_uploaded(wandb_dir: Path, run_id: str) -> None:
    """Marks the offline parts of a run as `wandb sync` does, which skips them from then on."""
    for log in _logs(wandb_dir, run_id):
        if _is_offline(log):
            _marker(log).touch()


def first_missing_step(wandb_dir: Path, run_id: str) -> int:
    """The first W&B step that no part has.

    The rows of an online attempt that was killed do not count: the server may have none of them.
    """
    return max((_following_step(log) for log in _logs(wandb_dir, run_id)), default=0)


def _following_step(log: Path) -> int:
    """The step after the last one that a part brings to the server."""
    following, complete = 0, _is_offline(log)
    for record in read_records(log):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            following = record.history.step.num + 1
        complete = complete or kind == "exit"
    return following if complete else 0


def _logs(wandb_dir: Path, run_id: str) -> list[Path]:
    """The transaction logs of a run; their directories begin with the time of their start."""
    logs = wandb_dir.glob(f"*run-*-{escape(run_id)}*/run-{escape(run_id)}.wandb")
    return sorted(logs, key=lambda log: log.parent.name.removeprefix("offline-"))


def _is_offline(log: Path) -> bool:
    return log.parent.name.startswith("offline-")


def _marker(log: Path) -> Path:
    return log.with_name(log.name + ".synced")


def read_records(log: Path) -> Iterator[Any]:
    """The records of a transaction log, up to where a killed attempt stopped writing."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content, position, fragments = log.read_bytes(), _FILE_HEADER, b""
    while position + _HEADER.size <= len(content):
        remaining = _BLOCK - position % _BLOCK
        _, length, kind = _HEADER.unpack_from(content, position) if remaining >= _HEADER.size else (0, 0, 0)
        if kind == 0:  # the padding of a block
            position += remaining
            continue
        position += _HEADER.size
        fragments = (b"" if kind in (_FULL, _FIRST) else fragments) + content[position : position + length]
        position += length
        if position > len(content):
            return
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(fragments)
            yield record
