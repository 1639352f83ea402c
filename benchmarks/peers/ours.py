"""This trainer: an unmodified train_ddp.py with a configuration.

It verifies shards, synchronises decisions between ranks and writes checkpoints and metrics; the other trainers write
nothing. Throughput, losses and accuracies are read from metrics.jsonl. Only the time of the first step is added.
"""

import json
import math
import os
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

import train_ddp
from benchmarks.peers.protocol import Epoch, RankReport, Settings, peak_gpu_bytes, run
from benchmarks.timing import synchronise
from commandline.exit_codes import DONE, exit_process
from regnet.training import builder
from regnet.training.batches import Batch
from regnet.training.train_step import TrainStep

NAME = "trained"  # the run's name

first_step = math.nan  # end of the first training step on the monotonic clock


class TimedTrainStep(TrainStep):
    """A training step that reads the clock after its first step."""

    def run(self, batch: Batch, lr: float) -> Tensor:
        global first_step
        loss = super().run(batch, lr)
        if math.isnan(first_step):
            synchronise(self.world.device)
            first_step = time.monotonic()
        return loss


def read_epochs(metrics: Path, batch_size: int) -> list[Epoch]:
    """The epochs of the run, over all ranks; every step has a full batch."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = Counter(row["epoch"] for row in rows if row["kind"] == "step")
    epochs = []
    for row in rows:
        if row["kind"] == "epoch":
            count = steps[row["epoch"]]
            seconds = count * batch_size / row["images_per_second"]
            epochs.append(Epoch(count, count * batch_size, seconds, row["train_loss"], row["val_top1"]))
    return epochs


def main(settings: Settings) -> None:
    train_ddp.NOTICE.install()
    builder.TrainStep = TimedTrainStep  # type: ignore[misc]
    runs = Path(settings.reports)
    flags = ["--config", settings.config, "--runs_dir", str(runs), "--name", NAME]
    exit_code = train_ddp.main([*flags, "--train.epochs", str(settings.epochs)])
    if exit_code == DONE:
        finished = time.monotonic() - settings.launched
        epochs = read_epochs(runs / NAME / "metrics.jsonl", settings.batch_size) if os.environ["RANK"] == "0" else []
        gpu_bytes = peak_gpu_bytes(torch.device(settings.device))
        RankReport(first_step - settings.launched, finished, epochs, gpu_bytes).write(settings)
    exit_process(exit_code)


if __name__ == "__main__":
    run(main)
