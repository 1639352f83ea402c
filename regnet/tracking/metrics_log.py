"""metrics.jsonl: one JSON line per step and per epoch."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regnet.runs.atomic_write import AtomicWriter
from regnet.tracking.base import EpochReport, StepReport, Tracker


class MetricsLog(Tracker):
    """metrics.jsonl: a line for every step and epoch, flushed, in the order of steps.

    Args:
        epochs, steps: done by the run so far; lines of later ones are dropped, for they are about to come again.
    """

    def __init__(self, writer: AtomicWriter, path: Path, epochs: int, steps: int) -> None:
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            writer.write(path, b"".join(line for line in lines if _is_of(line, epochs, steps)))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()

    def steps(self, reports: list[StepReport]) -> None:
        self._write([{"kind": "step", **asdict(report)} for report in reports])

    def epoch(self, report: EpochReport) -> None:
        self._write([{"kind": "epoch", **report.row()}])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.file.write("".join(json.dumps(_plain_json(row), allow_nan=False) + "\n" for row in rows))
        self.file.flush()

    def sync(self) -> None:
        """Returns when all lines so far would survive a power cut."""
        os.fsync(self.file.fileno())

    def close(self, failed: bool) -> None:
        self.file.close()


def _plain_json(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN or infinity: null."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def _is_of(line: bytes, epochs: int, steps: int) -> bool:
    """Whether a line is whole and of what is done. All steps of an epoch may be, and its evaluation not."""
    try:
        row = json.loads(line)
        done = row["epoch"] <= epochs if row["kind"] == "epoch" else row["step"] <= steps
    except (ValueError, TypeError, KeyError):  # the torn last line of a killed run, or one that the disk has damaged
        return False
    return done and line.endswith(b"\n")
