"""What every peer is asked to do, and what each of its ranks tells about it.

A peer is a module that torchrun starts with one argument, a file that holds `Settings`. Each rank writes what it
saw into a file of its own; only rank zero's clock counts.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import synchronise


@dataclass(frozen=True)
class Settings:
    """One launch of one peer.

    Attributes:
        network: "ours", which all build from `design`, or the name of a network of timm that has the same layers:
            then this trainer and the resident step build it from `design`, and the others ask timm for it.
        design: RegNet design parameters, as regnet.config.ModelConfig takes them.
        measures: of this trainer's network, which every peer's must have too: see benchmarks.peers.network.
        shards: what data.convert wrote.
        images: directory with the same images as arrays: see benchmarks.peers.samples.
        config: of this trainer, as a file.
        reports: directory into which each rank writes what it saw.
        resolution: side of the images that the network sees, pixels.
        batch_size: images of a step, over all processes.
        steps: in an epoch; each is of `batch_size` images.
        precision: "fp32", "bf16" or "fp16".
        lr, momentum, weight_decay: of SGD with Nesterov momentum, constant; every parameter decays.
        device: "cpu" or "cuda".
        workers: processes of each DataLoader.
        launched: `time.monotonic()` when torchrun was started; it is the same clock for all processes of a machine.
    """

    network: str
    design: dict[str, Any]
    measures: dict[str, int]
    shards: str
    images: str
    config: str
    reports: str
    resolution: int
    batch_size: int
    epochs: int
    steps: int
    precision: str
    channels_last: bool
    lr: float
    momentum: float
    weight_decay: float
    device: str
    workers: int
    launched: float

    @property
    def autocast(self) -> torch.dtype | None:
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def sgd(self) -> dict[str, Any]:
        """For torch.optim.SGD; fused, as this trainer's is."""
        return {
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "nesterov": True,
            "fused": True,
        }

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


@dataclass
class Epoch:
    """One epoch of a rank.

    Attributes:
        steps: taken.
        images: trained on.
        seconds: of training alone, from asking for the first batch until the device is idle after the last step.
        loss: mean of the images.
        accuracy: on the test images, after it; None if the peer does not evaluate.
    """

    steps: int
    images: int
    seconds: float
    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class RankReport:
    """What one rank saw.

    Attributes:
        first_step: seconds from the launch until its first step was done on the device.
        finished: seconds from the launch until all epochs were done.
        epochs: those that this rank counted.
        gpu_bytes: the most that torch had allocated on its GPU; 0 without one.
    """

    first_step: float
    finished: float
    epochs: list[Epoch]
    gpu_bytes: int

    def write(self, settings: Settings) -> None:
        path = Path(settings.reports) / f"{os.environ.get('RANK', '0')}.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "RankReport":
        told = json.loads(path.read_text(encoding="utf-8"))
        return RankReport(**{**told, "epochs": [Epoch(**epoch) for epoch in told["epochs"]]})


class Watch:
    """Keeps time for a rank's training loop. Between the ends of an epoch it waits for the device once in a run."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.epochs: list[Epoch] = []
        self.first_step = math.nan

    def begin(self) -> None:
        """Before an epoch's first batch is asked for."""
        self._loss = torch.zeros((), device=self.device)
        self._steps = self._images = 0
        self._began = time.perf_counter()

    def step(self, loss: Tensor, images: int) -> None:
        """After each step: its mean loss, on the device, of so many images of this rank."""
        self._loss += loss.detach() * images
        self._steps += 1
        self._images += images
        if math.isnan(self.first_step):
            synchronise(self.device)
            self.first_step = self._since_launch()

    def trained(self) -> None:
        """After an epoch's last step."""
        synchronise(self.device)
        seconds = time.perf_counter() - self._began
        self.epochs.append(Epoch(self._steps, self._images, seconds, self._loss.item() / self._images))

    def evaluated(self, accuracy: float) -> None:
        """After the evaluation that follows: the share of all test images that were right, 0 to 1."""
        self.epochs[-1].accuracy = accuracy

    def finished(self) -> None:
        """After all epochs."""
        RankReport(self.first_step, self._since_launch(), self.epochs, peak_gpu_bytes(self.device)).write(self.settings)

    def _since_launch(self) -> float:
        return time.monotonic() - self.settings.launched


def peak_gpu_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def run(peer: Callable[[Settings], None]) -> None:
    """A peer's command line: the file with its settings."""
    peer(Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
