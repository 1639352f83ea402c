"""The files in which wandb keeps a run, one part per attempt, and what a new part must contain.

A part is a directory `run-TIME-ID` (online) or `offline-run-TIME-ID` with a transaction log, `run-ID.wandb`: a 7-byte
header and a LevelDB log of protocol buffers (wandb.proto). wandb writes it in blocks, so a killed attempt loses its
last rows; and `wandb sync` appends the rows of a part to those that the server has. Together the parts must therefore
have every row once. A part whose rows the server has is marked by an empty file, `run-ID.wandb.synced`.
"""

import struct
import time
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
    """Marks all parts of a run as `wandb sync` does, which skips them from then on."""
    for log in _logs(wandb_dir, run_id):
        _marker(log).touch()


def is_completed(log: Path, timeout: float) -> bool:
    """Whether wandb writes all of a transaction log within `timeout` seconds: it answers before it has done so."""
    deadline = time.monotonic() + timeout
    while not any(record.HasField("exit") for record in read_records(log)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def first_missing_step(wandb_dir: Path, run_id: str, project: str, entity: str) -> int:
    """The first W&B step that no part brings to a project.

    The rows of an online part without a mark do not count: the server may have none of them.
    """
    logs = [log for log in _logs(wandb_dir, run_id) if _is_offline(log) or _marker(log).exists()]
    return max((_following_step(log, project, entity) for log in logs), default=0)


def _following_step(log: Path, project: str, entity: str) -> int:
    """The step after the last one that a part brings to a project."""
    following = 0
    for record in read_records(log):
        if record.HasField("run") and (record.run.project, record.run.entity) != (project, entity):
            return 0
        if record.HasField("history"):
            following = record.history.step.num + 1
    return following


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
