"""events.jsonl: when a run's attempts began and how each ended."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regnet.runs.atomic_write import AtomicWriter

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        what: began, finished, preempted or failed.
        attempt: from 1.
        epoch, step: done by then.
        detail: began: the processes; otherwise why.
    """

    what: str
    attempt: int
    epoch: int
    step: int
    detail: str


def log_event(writer: AtomicWriter, event: Event) -> None:
    """Adds a line. The file is written anew, so that it is whole and that only the newest attempt can."""
    path = writer.directory / EVENTS
    before = path.read_bytes() if path.exists() else b""
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(event)})
    writer.write(path, before + line.encode() + b"\n")


def read_events(directory: Path) -> list[dict[str, Any]]:
    """Those so far, each with `at`, its time. Raises ValueError if the file is damaged."""
    path = directory / EVENTS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
