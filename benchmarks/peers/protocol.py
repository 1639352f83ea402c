"""The interface between the comparison and the trainers.

A trainer is a module that torchrun starts with one argument, a file with `Settings`. Each rank writes a `RankReport`;
times are those of rank zero.
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
from commandline.exit_codes import DONE, exit_process


@dataclass(frozen=True)
class Settings:
    """Settings of one launch of one trainer.

    Attributes:
        network: "ours": all trainers build the model from `design`. Otherwise the name of a timm model with the same
            layers: this trainer and the resident step build it from `design`, the others use timm's implementation.
        design: RegNet design parameters, the fields of regnet.config.schema.ModelConfig.
        measures: size and cost of the model, which must be equal in all trainers: see benchmarks.peers.network.
        shards: directory of the shards.
        images: directory with the same images as arrays: see benchmarks.peers.samples.
        config: configuration file of this trainer.
        reports: directory for the reports of the ranks.
        resolution: side of the input images in pixels.
        batch_size: images per step, over all processes.
        epochs: number of epochs.
        steps: steps per epoch, each of `batch_size` images.
        precision: "fp32", "bf16" or "fp16".
        channels_last: whether the model and the images use the channels-last memory format.
        lr, momentum, weight_decay: settings of SGD with Nesterov momentum; constant, and applied to every parameter.
        device: "cpu" or "cuda".
        workers: worker processes of each DataLoader.
        launched: `time.monotonic()` at the launch; all processes of a machine share this clock.
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
        """Arguments of torch.optim.SGD; fused, as in this trainer."""
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
        steps: number of steps.
        images: number of training images.
        seconds: training time, from the request for the first batch until the device is idle after the last step.
        loss: mean loss over the images.
        accuracy: validation accuracy after the epoch; None if the trainer does not evaluate.
    """

    steps: int
    images: int
    seconds: float
    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class RankReport:
    """The measurements of one rank.

    Attributes:
        first_step: seconds from the launch until the device had finished the first step.
        finished: seconds from the launch until the end of all epochs.
        epochs: the epochs with this rank's numbers of images.
        gpu_bytes: peak memory that torch allocated on the rank's GPU; 0 without a GPU.
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
        content = json.loads(path.read_text(encoding="utf-8"))
        return RankReport(**{**content, "epochs": [Epoch(**epoch) for epoch in content["epochs"]]})


class EpochTimer:
    """Times a rank's training loop. It synchronises with the device after the first step and at the end of epochs."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.epochs: list[Epoch] = []
        self.first_step = math.nan

    def start_epoch(self) -> None:
        """To be called before the first batch of an epoch is requested."""
        self._loss = torch.zeros((), device=self.device)
        self._steps = self._images = 0
        self._start = time.perf_counter()

    def step(self, loss: Tensor, images: int) -> None:
        """To be called after each step, with its mean loss (on the device) and its number of images on this rank."""
        self._loss += loss.detach() * images
        self._steps += 1
        self._images += images
        if math.isnan(self.first_step):
            synchronise(self.device)
            self.first_step = self._since_launch()

    def end_training(self) -> None:
        """To be called after the last step of an epoch."""
        synchronise(self.device)
        seconds = time.perf_counter() - self._start
        self.epochs.append(Epoch(self._steps, self._images, seconds, self._loss.item() / self._images))

    def end_evaluation(self, accuracy: float) -> None:
        """To be called after the evaluation that follows, with the validation accuracy, 0 to 1."""
        self.epochs[-1].accuracy = accuracy

    def write_report(self) -> None:
        """To be called after all epochs."""
        RankReport(self.first_step, self._since_launch(), self.epochs, peak_gpu_bytes(self.device)).write(self.settings)

    def _since_launch(self) -> float:
        return time.monotonic() - self.settings.launched


def peak_gpu_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def run(train: Callable[[Settings], None]) -> None:
    """The command line of a trainer: its only argument is the file with its settings."""
    train(Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    exit_process(DONE)
