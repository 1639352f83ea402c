"""Timing for the benchmarks: device-synchronised clocks, alternating rounds, description of the environment."""

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

Variant = Callable[[], Generator[int]]  # starts work that yields the number of items of each piece; may be endless


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest value of several rounds."""

    median: float
    lowest: float
    highest: float
    rounds: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(median(values), min(values), max(values), tuple(values))


def rate(pieces: Generator[int], seconds: float, device: torch.device) -> float:
    """Items per second of work that yields the number of items of each piece.

    Starts with an idle device, requests pieces until `seconds` have passed, and waits until the device is idle again.
    """
    with closing(pieces):  # closed after the clock is read, because early termination is not part of the work
        synchronise(device)
        start = time.perf_counter()
        items = 0
        for piece in pieces:
            items += piece
            if time.perf_counter() - start >= seconds:
                break
        synchronise(device)
        return items / (time.perf_counter() - start)


def alternate(
    variants: Mapping[str, Variant], rounds: int, seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Rates of each variant, measured alternately after a short warm-up of each.

    Every other round runs in reverse order, to cancel slow drifts of the machine's speed.
    """
    for variant in variants.values():
        rate(variant(), seconds / 5, device)
    rates: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            rates[name].append(rate(variants[name](), seconds, device))
    return rates


def ratio(rates: Mapping[str, Sequence[float]], over: str, under: str) -> Spread:
    """The ratio of two variants' rates, computed round by round."""
    return Spread.of([a / b for a, b in zip(rates[over], rates[under], strict=True)])


def spreads(rates: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    return {name: Spread.of(values) for name, values in rates.items()}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(device: torch.device) -> dict[str, Any]:
    """Date, device and versions of a measurement."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": cores(),
        "load": os.getloadavg()[0],  # load average of the minute before, by other programs
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
