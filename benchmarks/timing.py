"""What the benchmarks share: clocks that wait for the device, rounds that alternate, where it was measured."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

Work = Callable[[int], None]  # does so many units


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


def seconds_for(work: Work, units: int, device: torch.device) -> float:
    """How long so many units take, from an idle device to an idle device."""
    synchronise(device)
    began = time.perf_counter()
    work(units)
    synchronise(device)
    return time.perf_counter() - began


def warm_up(work: Work, units: int, device: torch.device, seconds: float) -> int:
    """Runs `units` twice, the first time for compilers and caches; the multiple of `units` that fills `seconds`."""
    seconds_for(work, units, device)
    return units * max(1, int(seconds / seconds_for(work, units, device)))


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The results of each side, measured in turns; every other round in reverse, against a machine that drifts."""
    results: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 == 0 else reversed(sides):
            results[name].append(sides[name]())
    return results


def ratio(results: Mapping[str, Sequence[float]], over: str, under: str) -> Spread:
    """One side's results over another's, round by round."""
    return Spread.of([a / b for a, b in zip(results[over], results[under], strict=True)])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(device: torch.device) -> dict[str, Any]:
    """Date, device and versions, for a reader who was not there."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
