"""Reads the epoch rows of a run's metrics.jsonl."""

import json
from pathlib import Path
from typing import Any


class EpochRows:
    """Follows the epoch rows of a run while it trains. An incomplete last line is read later."""

    def __init__(self, run: Path) -> None:
        self.log, self.offset = run / "metrics.jsonl", 0

    def new(self) -> list[dict[str, Any]]:
        """The rows added since the last call."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as file:
            file.seek(self.offset)
            lines = [line for line in file if line.endswith(b"\n")]
        self.offset += sum(map(len, lines))
        return [json.loads(line) for line in lines if b'"kind": "epoch"' in line]
