"""The interface between the benchmark and the ranks that it launches."""

import json
from dataclasses import dataclass
from pathlib import Path

Key = tuple[str, int]  # ("step" or "compute", images per rank) or ("gradients" or "message", bytes)


@dataclass(frozen=True)
class Request:
    """The measurements of one launch.

    Attributes:
        flags: options of the trainer.
        images: batch sizes per rank to measure.
        messages: all-reduce sizes to measure, in bytes.
        seconds: approximate duration of each measurement.
        reports: directory for the results of the ranks.
    """

    flags: list[str]
    images: list[int]
    messages: list[int]
    seconds: float
    reports: str


@dataclass(frozen=True)
class RankResult:
    """Results of one rank: bytes of all gradients, and the mean seconds of each measurement."""

    gradient_bytes: int
    seconds: dict[Key, float]

    def write(self, path: Path) -> None:
        rows = [[*key, seconds] for key, seconds in self.seconds.items()]
        path.write_text(json.dumps({"gradient_bytes": self.gradient_bytes, "seconds": rows}), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "RankResult":
        content = json.loads(path.read_text(encoding="utf-8"))
        return RankResult(
            content["gradient_bytes"], {(kind, size): seconds for kind, size, seconds in content["seconds"]}
        )
