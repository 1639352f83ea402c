"""events.jsonl: when the attempts of a run started and how each one ended."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regnet.runs.atomic_write import AtomicWriter
from regnet.runs.json_format import format_json

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Event:
    """The start or the end of an attempt.

    Attributes:
        kind: started, finished, preempted or failed.
        attempt: number of the attempt, from 1.
        epoch, step: completed epochs and global steps by then.
        detail: for started, number and type of the processes; otherwise the reason.
        environment: for started, host, git commit, versions and devices, by name; otherwise empty and not written.
    """

    kind: str
    attempt: int
    epoch: int
    step: int
    detail: str
    environment: Mapping[str, str] = field(default_factory=dict)


def log_event(writer: AtomicWriter, event: Event) -> None:
    """Adds a line. The file is replaced, so that it is never torn and only the newest attempt can change it."""
    path = writer.directory / EVENTS
    before = path.read_bytes() if path.exists() else b""
    fields = {name: value for name, value in asdict(event).items() if name != "environment" or value}
    line = format_json({"time": datetime.now(UTC).isoformat(timespec="seconds"), **fields}, indent=None)
    writer.write(path, before + line.encode() + b"\n")


def read_events(directory: Path) -> list[dict[str, Any]]:
    """All events, oldest first: the fields of `Event` and `time`. Raises ValueError if the file is damaged."""
    path = directory / EVENTS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
