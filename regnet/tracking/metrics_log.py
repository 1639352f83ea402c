"""metrics.jsonl: one JSON line per step and per epoch."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regnet.runs.atomic_write import AtomicWriter, name_file
from regnet.runs.json_format import format_json
from regnet.runs.status import Status
from regnet.tracking.base import EpochReport, StepReport, Tracker


class MetricsLog(Tracker):
    """metrics.jsonl: one line per step and per epoch, in the order of the steps, flushed at once.

    Args:
        epochs, steps: completed by the run; lines of later ones are removed, since they are about to be repeated.
    """

    def __init__(self, writer: AtomicWriter, path: Path, epochs: int, steps: int) -> None:
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            writer.write(path, b"".join(line for line in lines if _is_completed(line, epochs, steps)))
        self.path = path
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()

    def log_steps(self, reports: list[StepReport]) -> None:
        self._write([{"kind": "step", **asdict(report)} for report in reports])

    def log_epoch(self, report: EpochReport) -> None:
        self._write([{"kind": "epoch", **report.row()}])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with name_file(self.path):
            self.file.write("".join(format_json(row, indent=None) + "\n" for row in rows))
            self.file.flush()

    def sync(self) -> None:
        with name_file(self.path):
            os.fsync(self.file.fileno())

    def close(self, status: Status) -> None:
        with name_file(self.path):  # a row that the disk had no space for is written again
            self.file.close()


def _is_completed(line: bytes, epochs: int, steps: int) -> bool:
    """Whether a line is valid and belongs to a completed step or epoch. All steps of an epoch may be completed, but not
    its evaluation.
    """
    try:
        row = json.loads(line)
        completed = row["epoch"] <= epochs if row["kind"] == "epoch" else row["step"] <= steps
    except (ValueError, TypeError, KeyError):  # the torn last line of a killed run, or a line that the disk damaged
        return False
    return completed and line.endswith(b"\n")
