"""What a run tells of its epochs."""

import json
from pathlib import Path
from typing import Any


class EpochRows:
    """The lines of a run's epochs, as they come; the last line of metrics.jsonl may still be being written."""

    def __init__(self, run: Path) -> None:
        self.log, self.offset = run / "metrics.jsonl", 0

    def new(self) -> list[dict[str, Any]]:
        """Those that were not there before."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as file:
            file.seek(self.offset)
            lines = [line for line in file if line.endswith(b"\n")]
        self.offset += sum(map(len, lines))
        return [json.loads(line) for line in lines if b'"kind": "epoch"' in line]
