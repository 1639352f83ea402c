"""What the benchmarks share: clocks that wait for the device, rounds that alternate, where it was measured."""

import os
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

Side = Callable[[], Generator[int]]  # work that yields how many items each of its pieces was; it need not end


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the lowest and highest of them."""

    median: float
    lowest: float
    highest: float
    rounds: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(median(values), min(values), max(values), tuple(values))


def rate(pieces: Generator[int], seconds: float, device: torch.device) -> float:
    """Items a second of work that yields how many items each of its pieces was.

    Begins with an idle device, asks for pieces until the time is over, and ends with an idle device.
    """
    with closing(pieces):  # after the clock was read: leaving early is no part of the work
        synchronise(device)
        began = time.perf_counter()
        items = 0
        for piece in pieces:
            items += piece
            if time.perf_counter() - began >= seconds:
                break
        synchronise(device)
        return items / (time.perf_counter() - began)


def alternate(sides: Mapping[str, Side], rounds: int, seconds: float, device: torch.device) -> dict[str, list[float]]:
    """The rates of each side, measured in turns, after a short turn of each that does not count.

    Every other round goes in reverse, against a machine that drifts.
    """
    for side in sides.values():
        rate(side(), seconds / 5, device)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            rates[name].append(rate(sides[name](), seconds, device))
    return rates


def ratio(rates: Mapping[str, Sequence[float]], over: str, under: str) -> Spread:
    """One side's rates over another's, round by round."""
    return Spread.of([a / b for a, b in zip(rates[over], rates[under], strict=True)])


def spreads(rates: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    return {name: Spread.of(values) for name, values in rates.items()}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(device: torch.device) -> dict[str, Any]:
    """Date, device and versions, for a reader who was not there."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": cores(),
        "load": os.getloadavg()[0],  # what else kept the machine busy in the minute before
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
