"""What every rank is asked to measure, and what it tells about it."""

import json
from dataclasses import dataclass
from pathlib import Path

Key = tuple[str, int]  # "step" or "compute" and images of this rank; "gradients" or "message" and bytes


@dataclass(frozen=True)
class Order:
    """One launch.

    Attributes:
        flags: the trainer's.
        images: of a rank's batch, each size that is to be measured.
        messages: bytes, each size of an all-reduce that is to be measured.
        seconds: for each of them, about.
        reports: directory into which each rank writes what it saw.
    """

    flags: list[str]
    images: list[int]
    messages: list[int]
    seconds: float
    reports: str


@dataclass(frozen=True)
class Seen:
    """What a rank saw: bytes of all gradients, and the mean seconds of all that it measured."""

    gradient_bytes: int
    seconds: dict[Key, float]

    def write(self, path: Path) -> None:
        rows = [[*key, seconds] for key, seconds in self.seconds.items()]
        path.write_text(json.dumps({"gradient_bytes": self.gradient_bytes, "seconds": rows}), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "Seen":
        told = json.loads(path.read_text(encoding="utf-8"))
        return Seen(told["gradient_bytes"], {(kind, size): seconds for kind, size, seconds in told["seconds"]})
